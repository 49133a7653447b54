"""The README is in step with what runs."""

import re
import shlex
import tomllib
from pathlib import Path

import click
import jsonschema
import msgspec
import pytest

from token_worker.cli import app
from token_worker.contract.schemas import documents
from token_worker.errors import RETRY, Code
from token_worker.settings import describe, load

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_readme_is_short() -> None:
    """The README has at most 400 lines, each of a length that can be read."""
    lines = README.splitlines()
    assert len(lines) <= 400
    assert max(len(line) for line in lines if not line.startswith(("|", "$"))) <= 180


def test_settings_are_all_there() -> None:
    """The table of settings is that of the code, line by line."""
    table = [line for line in README.splitlines() if re.match(r"\| `(TOKEN_WORKER|ACRA|VAULT)_", line)]
    assert [f"| `{name}` | {default} | {meaning} |" for name, default, meaning in describe()] == table


def test_codes_are_all_there_with_their_advice() -> None:
    """The table of codes names every code, and whether to send again, as the code has it."""
    found = {row[0].strip("` "): row[-1] for row in map(cells, README.splitlines()) if row[0].strip("` ") in set(Code)}
    assert {code.value: RETRY[code].value for code in Code} == {
        name: advice.strip(" |") for name, advice in found.items()
    }


@pytest.mark.parametrize("example", blocks("json"), ids=range(len(blocks("json"))))
def test_messages_are_valid(example: str) -> None:
    """Every JSON message in the README is valid by its published schema."""
    message = msgspec.json.decode(example)
    kind = "reply" if "status" in message else "request"
    schema = msgspec.json.decode(documents()[f"{kind}.schema.json"])
    jsonschema.validate(message, schema, jsonschema.Draft202012Validator)


def test_payloads_on_command_lines_are_valid() -> None:
    """The request that is shown with redis-cli is a valid one."""
    [line] = [line for line in README.splitlines() if line.startswith("$ redis-cli XADD")]
    payload = msgspec.json.decode(shlex.split(line)[-1])
    jsonschema.validate(
        payload, msgspec.json.decode(documents()["request.schema.json"]), jsonschema.Draft202012Validator
    )


def test_settings_file_loads(tmp_path: Path) -> None:
    """The TOML example is taken as it stands."""
    [example] = blocks("toml")
    file = tmp_path / "worker.toml"
    file.write_text(example)
    [route] = load({}, file).routes
    assert tomllib.loads(example)["routes"][0]["client_id"] == route.client_id


def test_commands_exist() -> None:
    """Every ``token-worker`` command in the README exists, and every command is in its table."""
    named = {name for name in re.findall(r"token-worker (?:--config \S+ )?([a-z]+)", README) if name != "on"}
    assert named <= set(app.commands)
    for name, command in app.commands.items():
        names = [f"{name} {sub}" for sub in command.commands] if isinstance(command, click.Group) else [name]
        assert all(f"| `token-worker {it}" in README for it in names)


def test_files_that_are_linked_exist() -> None:
    """Links within the repository lead somewhere."""
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert all((ROOT / link).exists() for link in links)
