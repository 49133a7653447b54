"""docs/operations.md has a heading for every alert, code, log event and finding of doctor."""

import ast
import re
import tomllib
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path

import pytest

from harness.servers import DEPLOY_FILES
from token_worker.errors import Code

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
ALERTS = (DEPLOY_FILES / "alerts.yml").read_text()
CODE = ROOT / "worker" / "token_worker"

LEVELS = frozenset({"debug", "info", "warning", "error", "exception", "critical"})
TROUBLES = frozenset({"finding", "unknown"})
CHECKING = frozenset({"unknown", "_guarded", "_who"})
"""Functions of doctor that make a check of the name that they are given."""


def headings(group: str) -> list[str]:
    """The headings below those groups of the page whose titles begin so."""
    groups = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    return [name for text in groups if text.startswith(group) for name in re.findall(r"^### (.*)$", text, re.MULTILINE)]


def nodes() -> Iterator[ast.AST]:
    """All of the worker's code."""
    for path in CODE.rglob("*.py"):
        yield from ast.walk(ast.parse(path.read_text()))


def name_of(node: ast.expr) -> str:
    """The last name of an expression such as ``log`` or ``structlog.get_logger(…)``."""
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def log_events() -> set[str]:
    """The text of every event that the code logs."""
    events = set()
    for node in nodes():
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        method, logger = node.func.attr, name_of(node.func.value)
        if not logger.lower().endswith(("log", "logger")) or method not in {*LEVELS, "log"}:
            continue
        text = node.args[1 if method == "log" else 0]
        assert isinstance(text, ast.Constant), f"an event that is no plain text: {ast.unparse(node)}"
        events.add(str(text.value))
    return events


def audit_events() -> set[str]:
    """The events of the lines that are written to the audit log."""
    events = set()
    texts = [path.read_text() for path in (CODE / "telemetry").glob("*audit*.py")]
    for node in chain.from_iterable(ast.walk(ast.parse(text)) for text in texts):
        found: ast.expr | None = None
        if isinstance(node, ast.AnnAssign) and name_of(node.target) == "event":
            found = node.value
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            found = next(
                (value for key, value in pairs if isinstance(key, ast.Constant) and key.value == "event"), None
            )
        if isinstance(found, ast.Constant):
            events.add(str(found.value))
    return events


def doctor_checks() -> set[str]:
    """Names of the checks of doctor that can be a finding or unknown, without their server or stream."""
    checks = set()
    for function in (
        node for path in (CODE / "admin").glob("doctor*.py") for node in ast.walk(ast.parse(path.read_text()))
    ):
        if not isinstance(function, ast.FunctionDef) or function.name in CHECKING:
            continue
        names = {
            target.id: node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and may_trouble(call):
                given = call.args[0]
                checks.add(check_name(names[given.id] if isinstance(given, ast.Name) else given))
    return checks


def may_trouble(call: ast.Call) -> bool:
    if name_of(call) in CHECKING:
        return True
    return name_of(call) == "Check" and isinstance(call.args[1], ast.Constant) and call.args[1].value in TROUBLES


def check_name(node: ast.expr) -> str:
    """The fixed part of a check's name."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    texts = [part.value for part in parts if isinstance(part, ast.Constant)]
    assert texts, ast.unparse(node)
    return "".join(map(str, texts)).removeprefix(": ")


def test_every_alert_has_its_heading() -> None:
    """Each alert rule has a heading, each heading has a rule, and each rule links to its heading."""
    alerts = re.findall(r"- alert: (\w+)", ALERTS)
    assert headings("Alerts") == alerts
    page = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Documentation"] + "/operations.md"
    assert re.findall(r'runbook_url: "(.*)"', ALERTS) == [f"{page}#{alert.lower()}" for alert in alerts]


def test_every_code_has_its_heading() -> None:
    """Each code of the contract has a heading, in the order of the contract, and there is no other heading."""
    assert headings("Codes of a reply") == [code.value for code in Code]


def test_every_log_event_has_its_heading() -> None:
    """Each event that the code logs has a heading with the very text, and there is no other heading."""
    assert sorted(headings("Log events")) == sorted(log_events())
    assert sorted(headings("Audit lines")) == sorted(audit_events())


def test_every_finding_has_its_heading() -> None:
    """Each check of doctor that can find something has a heading, and there is no other heading."""
    assert sorted(headings("Findings of doctor")) == sorted(doctor_checks())


@pytest.mark.parametrize(
    "group",
    ["Alerts", "Codes of a reply", "Log events", "Audit lines", "Findings of doctor", "Findings of the monitor"],
)
def test_every_heading_says_what_to_do(group: str) -> None:
    """Below each heading stands what it means, where to look and what to do, in this order."""
    assert headings(group)
    for name in headings(group):
        section = PAGE[PAGE.index(f"### {name}\n") :].partition("\n### ")[0]
        assert re.findall(r"^- \*\*(\w+):\*\* ", section, re.MULTILINE) == ["Means", "Look", "Do"], name


def test_headings_differ() -> None:
    """No two headings of the page are alike: a link leads to one of them."""
    names = sorted(name.lower() for name in re.findall(r"^##+ (.*)$", PAGE, re.MULTILINE))
    assert [name for name, following in pairwise(names) if name == following] == []
