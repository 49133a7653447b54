"""Every claim of docs/security.md has a test or a command behind it."""

import ast
import re
from functools import cache
from pathlib import Path

import click
import pytest

from harness.doc_pages import ROOT, page
from token_worker.cli.app import app

PAGE = page("docs/security.md")
HEADINGS = ("If one party is compromised", "Hard facts", "PCI DSS 4.0.1")
LEFT_TO_THE_READER = "-"
PCI = (
    *("3.4.1", "3.5.1.1", "3.6.1", "3.6.1.1", "3.6.1.2", "3.6.1.3", "3.6.1.4"),
    *(f"3.7.{number}" for number in range(1, 10)),
    *(f"10.2.1.{number}" for number in range(1, 8)),
    *("10.2.2", "10.3.1", "10.3.2", "10.3.3", "10.3.4"),
)


@cache
def functions_of(file: Path) -> set[str]:
    """Names of the tests in a file."""
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


def rows(heading: str) -> list[list[str]]:
    """The cells of the rows of a section's table, without its heading."""
    section = PAGE.text.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


CLAIMS = [(heading, row[0], row[-1], row) for heading in HEADINGS for row in rows(heading)]


@pytest.mark.parametrize(("heading", "name", "shown", "row"), CLAIMS, ids=[name[:40] for _, name, _, _ in CLAIMS])
def test_claim_has_a_test_or_a_command(heading: str, name: str, shown: str, row: list[str]) -> None:
    """The last cell of each row links to tests that exist, or names commands that exist; else nothing is claimed."""
    if shown == LEFT_TO_THE_READER:
        assert heading == "PCI DSS 4.0.1", name
        assert row[2].startswith("nothing"), name
        return
    tests = re.findall(r"\[`(test_\w+)`\]\(([^)]+)\)", shown)
    commands = re.findall(r"`token-worker (\w+)", shown)
    assert tests or commands, name
    for test, link in tests:
        assert test in functions_of((ROOT / "docs" / link).resolve()), test
    assert set(commands) <= set(app.list_commands(click.Context(app)))


def test_every_party_and_requirement_has_its_row() -> None:
    """No party and no line of PCI DSS is left out."""
    parties = {re.sub(r"\*\*(.+?)\*\*.*", r"\1", row[0]) for row in rows(HEADINGS[0])}
    assert parties >= {
        *("producer", "reader of replies", "worker", "broker", "token storage"),
        *("key storage", "Vault", "operator", "backup"),
    }
    lines = [number for row in rows(HEADINGS[2]) for number in row[0].split(", ")]
    assert lines == [*PCI]
