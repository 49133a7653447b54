"""README and docs are in step with the code: links lead somewhere, messages are valid, tables are those of the code."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import click
import jsonschema
import msgspec
import pytest

from harness.doc_pages import README, ROOT, Page, page, page_names
from token_worker.cli import app
from token_worker.contract.schemas import documents
from token_worker.settings import load
from token_worker.settings.options import describe

PAGES = page_names()
ALL_PAGES = sorted({*PAGES, *(path.name for path in ROOT.glob("*.md"))})
INDEX = "docs/README.md"
ARCHITECTURE = "docs/architecture.md"
PACKAGE = ROOT / "worker" / "token_worker"
LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
README_LINES = 200
PROSE_CHARACTERS = 120


def every_row() -> list[list[str]]:
    return [row for name in PAGES for row in page(name).rows]


def blocks(language: str) -> list[Any]:
    """The blocks of a language on all pages, named by page and number."""
    return [
        pytest.param(block.text, id=f"{name}-{number}")
        for name in PAGES
        for number, block in enumerate(page(name).blocks(language))
    ]


def check_message(message: dict[str, Any]) -> None:
    """See that a message is valid by the published schema of its kind."""
    kind = "reply" if "status" in message else "request"
    schema = msgspec.json.decode(documents()[f"{kind}.schema.json"])
    jsonschema.validate(message, schema, jsonschema.Draft202012Validator)


def test_readme_is_short() -> None:
    """README can be read in one go; all else is below docs."""
    assert len(page(README).text.splitlines()) <= README_LINES


@pytest.mark.parametrize("name", ALL_PAGES)
def test_lines_can_be_read(name: str) -> None:
    """Lines of prose have at most 120 characters; tables, code and targets of links may be longer."""
    too_long = [(number, line) for number, line in page(name).prose if len(line) > PROSE_CHARACTERS]
    assert not too_long


@pytest.mark.parametrize("name", ALL_PAGES)
def test_links_lead_somewhere(name: str) -> None:
    """A link within the repository leads to a file that exists, and its fragment to a heading of that page."""
    for link in page(name).links:
        if "://" in link:
            continue
        target, _, fragment = link.partition("#")
        path = (page(name).path.parent / target).resolve() if target else page(name).path
        assert path.exists(), link
        assert path.is_relative_to(ROOT), link
        if fragment:
            assert fragment in Page(str(path.relative_to(ROOT))).anchors, link


@pytest.mark.parametrize("name", [README, INDEX])
def test_every_page_is_linked(name: str) -> None:
    """A reader finds each page of docs from the README and from the index."""
    of = page(name)
    linked = {(of.path.parent / link.partition("#")[0]).resolve() for link in of.links if "://" not in link}
    pages = {ROOT / page for page in PAGES if page not in (README, INDEX) and page.count("/") == 1}
    assert pages
    assert not pages - linked


@pytest.mark.parametrize("example", blocks("json"))
def test_messages_are_valid(example: str) -> None:
    """Every JSON message on a page is valid by its published schema."""
    check_message(msgspec.json.decode(example))


def test_messages_on_the_shell_are_valid() -> None:
    """Requests and replies that are shown with redis-cli are valid ones; on the README they belong together."""
    pairs = []
    for name in PAGES:
        commands = [command for block in page(name).blocks("console") for command in block.commands]
        added = [shlex.split(command.line)[-1] for command in commands if " XADD " in command.line]
        requests = [msgspec.json.decode(payload) for payload in added]
        printed = [text for command in commands for text in re.findall(r'"(\{\\".*\})"', command.printed)]
        replies = [msgspec.json.decode(msgspec.json.decode(f'"{text}"')) for text in printed]
        for message in (*requests, *replies):
            check_message(message)
        if name == README:
            pairs = [*zip(requests, replies, strict=True)]
    assert pairs
    for request, reply in pairs:
        assert request["id"] == reply["id"]
        assert len(request["value"]) == len(reply["value"])


@pytest.mark.parametrize("example", blocks("toml"))
def test_settings_files_load(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every TOML example is taken as it stands; the files that it names exist."""
    monkeypatch.chdir(tmp_path)
    for name in re.findall(r'^\w+_file = "(.+?)"', example, re.MULTILINE):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("secret")
    file = tmp_path / "worker.toml"
    file.write_text(example)
    assert load({}, file).routes


def test_settings_are_all_there() -> None:
    """The table of settings is that of the code, line by line."""
    table = [row for row in every_row() if re.match(r"`(TOKEN_WORKER|ACRA|VAULT)_", row[0])]
    assert [[f"`{name}`", default, meaning] for name, default, meaning in describe()] == table


@pytest.mark.parametrize("name", ALL_PAGES)
def test_settings_exist(name: str) -> None:
    """Every setting that a page names is one of the code."""
    known = {variable for variable, _, _ in describe()}
    plain = {
        name.replace("{STREAMS,KEYS,TOKENS}", server) for name in known for server in ("STREAMS", "KEYS", "TOKENS")
    }
    assert set(re.findall(r"\bTOKEN_WORKER_[A-Z_]*[A-Z]", page(name).text)) - plain <= {"TOKEN_WORKER_"}


def test_commands_exist() -> None:
    """Every ``token-worker`` command on a page exists, and every command is in the table of commands."""
    pattern = r"(?:^|[|;&] |[A-Z]=\S+ )token-worker (?:--config \S+ )?([a-z-]+)"  # elsewhere it names other things
    texts = [text for name in PAGES for text in code_of(page(name))]
    named = {name for text in texts for name in re.findall(pattern, text)}
    commands = {name: app.get_command(click.Context(app), name) for name in app.list_commands(click.Context(app))}
    assert named <= commands.keys()
    first_cells = [row[0] for row in every_row()]
    for name, command in commands.items():
        names = [f"{name} {sub}" for sub in command.commands] if isinstance(command, click.Group) else [name]
        for full_name in names:
            assert any(cell.startswith(f"`token-worker {full_name}") for cell in first_cells), full_name


def code_of(of: Page) -> list[str]:
    """Commands in blocks, and code between words."""
    in_blocks = [command.line for block in of.blocks("console") for command in block.commands]
    return [
        *in_blocks,
        *(code.content for inline in of.inline for code in inline.children or () if code.type == "code_inline"),
    ]


def test_tests_that_pages_name_exist() -> None:
    """A word after ``scripts/test -k`` chooses tests: it is a part of the name of a file with tests."""
    words = {word for name in PAGES for word in re.findall(r"scripts/test -k (\w+)", page(name).text)}
    assert words
    names = [path.stem for path in (ROOT / "tests").rglob("test_*.py")]
    assert not {word for word in words if not any(word in name for name in names)}


def test_files_in_the_architecture_exist() -> None:
    """Every file that the page names exists, in the package or from the root of the repository."""
    named = {code for code in code_of(page(ARCHITECTURE)) if re.fullmatch(r"[\w./]+(/|\.\w+)", code)}
    assert len(named) > 30
    assert not {name for name in named if not (PACKAGE / name).exists() and not (ROOT / name).exists()}


def test_map_has_all_rooms_from_top_to_bottom() -> None:
    """Each room of the package is on the map once, in the order of the layers that ``scripts/test`` checks."""
    [layers] = [contract["layers"] for contract in LINTER["contracts"] if contract["type"] == "layers"]
    floors = {name: floor for floor, layer in enumerate(layers) for name in layer.split(" | ")}
    on_the_map = [room for row in page(ARCHITECTURE).rows if (room := row[0].strip("`/")) in floors]
    rooms = [path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()]
    assert sorted(rooms) == sorted(on_the_map)
    assert on_the_map == sorted(on_the_map, key=floors.__getitem__)
