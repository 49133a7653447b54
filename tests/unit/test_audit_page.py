"""The page about the audit log and the commands agree."""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click

from token_worker.cli.app import app

AUDIT = Path(__file__).parents[2] / "docs" / "audit.md"


def test_page_has_every_command_that_leaves_lines_of_a_change() -> None:
    """The page lists exactly the commands that can write ``change begins``."""
    commands = dict(_commands(app, ()))
    assert _on_page() == {name for name, command in commands.items() if _changes(command)}


def _on_page() -> set[str]:
    """The names in the sentence of the page. A group of commands has its name before its first one alone."""
    found = re.search(r"These commands change something: (.*?)\.\s", AUDIT.read_text(), re.DOTALL)
    assert found is not None
    names = set()
    for part in found[1].split(";"):
        first, *others = (name.split(" --")[0] for name in re.findall(r"`([^`]+)`", part))
        names |= {first, *(f"{first.partition(' ')[0]} {other}" for other in others)}
    return names


def _commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    context = click.Context(command)
    if command.invoke_without_command:
        yield " ".join(path), command
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        yield from _commands(below, (*path, name))


def _changes(command: click.Command) -> bool:
    """Tell whether a command reaches a call of ``CommandAudit.change``, by functions of its module or imported ones."""
    callback = inspect.unwrap(command.callback or _nothing)
    waiting, seen = [(callback.__module__, callback.__name__)], set[tuple[str, str]]()
    while waiting:
        place = waiting.pop()
        if place in seen or not place[0].startswith("token_worker.cli"):
            continue
        seen.add(place)
        for function in _functions(place[0]).get(place[1], ()):
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and node.attr == "change":
                    return True
                if isinstance(node, ast.Name):
                    found = getattr(sys.modules[place[0]], node.id, None)
                    waiting.append((getattr(found, "__module__", None) or place[0], node.id))
    return False


@cache
def _functions(module: str) -> dict[str, list[ast.FunctionDef]]:
    """All functions of a module by name, also those inside others."""
    found: dict[str, list[ast.FunctionDef]] = {}
    for node in ast.walk(ast.parse(inspect.getsource(sys.modules[module]))):
        if isinstance(node, ast.FunctionDef):
            found.setdefault(node.name, []).append(node)
    return found


def _nothing() -> None:
    """A command without a function."""
