"""Pages are read into blocks and links, and the output of a command is compared with the output on the page."""

from pathlib import Path

import pytest

from harness import doc_pages
from harness.doc_pages import Command, Page
from harness.doc_runner import check_printed

TEXT = """# A page

## What `run` does, and *why*

A line of prose with [a link](https://example.org/that/is/very/long)
and a second one.

| a table | of |
| --- | --- |
| `two` | cells |

## Twice

<!-- not run: it needs the moon -->
```console
$ first \\
    --more
printed
$ second '{
> }' \\
> third
printed, too
```

## Twice

<!-- file: worker.toml -->
```toml
group = "g"
```
"""


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Page:
    """The text above as a page."""
    monkeypatch.setattr(doc_pages, "ROOT", tmp_path)
    (tmp_path / "page.md").write_text(TEXT)
    return Page("page.md")


def test_blocks_have_their_notes_and_commands(read: Page) -> None:
    """A block knows its heading, the comment above it, and its commands with what they print."""
    shell, settings = read.blocks()
    assert shell.notes == {"not run": "it needs the moon"}
    first = Command("first \\\n    --more", "printed\n")
    assert shell.commands == [first, Command("second '{\n}' \\\nthird", "printed, too\n")]
    assert (settings.section, settings.language, settings.notes) == ("Twice", "toml", {"file": "worker.toml"})
    assert read.blocks("toml") == [settings]


def test_anchors_are_those_of_hosts(read: Page) -> None:
    """An anchor is the heading's text in lower case, without marks, spaces as hyphens; a second one is numbered."""
    assert read.anchors == {"a-page", "what-run-does-and-why", "twice", "twice-1"}


def test_prose_is_what_people_read(read: Page) -> None:
    """Lines of prose are neither code nor table, and the target of a link does not count."""
    assert [line for _, line in read.prose if not line.startswith("#")] == [
        "A line of prose with [a link]",
        "and a second one.",
    ]
    assert read.rows == [["`two`", "cells"]]


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("done: 3\n", "done: 3\n"),
        ("a  table\n", "a table  \n\n"),
        ("from … to there\n", "from here\non to there\n"),
        ("id 1795486782194-0\n", "id 1795985550983-12\n"),
        ('{"value": "abc", "n": 1}', '{"value": "xyz", "n": 1}'),
        ('{"value": "123"}', '{"value": "-123456"}'),
        ('{"items": [{"value": 1, "message": "…"}]}', '{"items": [{"message": "any", "value": 2}]}'),
    ],
)
def test_what_varies_may_differ(shown: str, printed: str) -> None:
    """Ids, times, spaces, tokens of the same length, and what the page leaves out may differ."""
    check_printed(Command("x", shown), printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("done: 3\n", "done: 4\n"),
        ("done\n", "done\nand more\n"),
        ('{"value": "abc"}', '{"value": "abcd"}'),
        ('{"value": "abc"}', '{"error": "abc"}'),
        ('{"status": "ok"}', '{"status": "error"}'),
        ('{"status": "ok"}', "no JSON"),
        ('{"items": [1]}', '{"items": [1, 1]}'),
        ('{"items": [{"code": "a", "message": "…"}]}', '{"items": [{"code": "b", "message": "any"}]}'),
    ],
)
def test_all_else_is_compared(shown: str, printed: str) -> None:
    """Another text, another member, or a token of another length is found."""
    with pytest.raises(AssertionError, match="x printed"):
        check_printed(Command("x", shown), printed)
