"""Pages of the documentation as the tests read them: headings, links, lines of prose, and fenced blocks.

A fenced block may have a comment right above it, which readers do not see:

- ``<!-- not run: REASON -->``: the tests do not run the block, for this reason.
- ``<!-- file: NAME -->``: the block is a file. The tests write it before they run what follows.
- ``<!-- exit status N -->``: the last command of the block ends with N, and not with 0.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
README = "README.md"

_COMMENT = re.compile(r"<!-- (not run|file|exit status):? (.+?) -->")
_MARKDOWN = MarkdownIt("commonmark").enable("table")


class Command(NamedTuple):
    """One command line of a ``console`` block, and its output on the page."""

    line: str
    printed: str


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        section: text of the heading above it.
        notes: its comments, by their first words.
    """

    section: str
    language: str
    text: str
    notes: dict[str, str]

    @property
    def commands(self) -> list[Command]:
        """Lines that begin with ``$``, each with its continuation lines and its output.

        A command continues after a backslash at the end of a line, and on lines that begin with ``>``.
        """
        found = []
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command = re.match(r"(?:.*\\\n(?:> )?|.*\n> )*.*\n?", part)
            if command is not None:
                found.append(Command(command[0].replace("\n> ", "\n").rstrip("\n"), part[command.end() :]))
        return found


class Page:
    """A page, by its path from the root of the repository."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = ROOT / name
        self.text = self.path.read_text()
        self.tokens = _MARKDOWN.parse(self.text)

    def blocks(self, language: str | None = None) -> list[Block]:
        """Fenced blocks in order, of one language or of all."""
        return [block for block in self._blocks() if language in (None, block.language)]

    def _blocks(self) -> Iterator[Block]:
        section, notes = "", {}
        for token, following in zip(self.tokens, [*self.tokens[1:], None], strict=True):
            if token.type == "heading_open" and following is not None:
                section = following.content
            elif token.type == "html_block":
                notes = dict(_COMMENT.findall(token.content))
                continue
            elif token.type == "fence":
                yield Block(section, token.info.split(" ")[0], token.content, notes)
            notes = {}

    @property
    def anchors(self) -> set[str]:
        """Names that a link to a heading of this page may end with, as hosts make them."""
        found: dict[str, int] = {}
        names = set()
        for token, following in zip(self.tokens, self.tokens[1:], strict=False):
            if token.type == "heading_open":
                plain = "".join(child.content for child in following.children or ())
                slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
                names.add(f"{slug}-{found[slug]}" if slug in found else slug)
                found[slug] = found.get(slug, 0) + 1
        return names

    @property
    def links(self) -> list[str]:
        """Targets of all links and pictures."""
        return [
            str(child.attrs.get("href", child.attrs.get("src")))
            for token in self.tokens
            for child in token.children or ()
            if child.type in ("link_open", "image")
        ]

    @property
    def prose(self) -> Iterator[tuple[int, str]]:
        """Numbers and texts of lines that are neither code nor table; a link counts by its text alone."""
        lines = self.text.splitlines()
        for number in self._lines_of_prose():
            yield number + 1, re.sub(r"\]\([^)]*\)", "]", lines[number])

    def _lines_of_prose(self) -> Iterator[int]:
        in_table = False
        for token in self.tokens:
            in_table = (in_table or token.type == "table_open") and token.type != "table_close"
            if token.type == "inline" and token.map and not in_table:
                yield from range(*token.map)

    @property
    def rows(self) -> list[list[str]]:
        """Rows of all tables, without their heads; cells in Markdown."""
        found: list[list[str]] = []
        in_body = False
        for token in self.tokens:
            in_body = (in_body or token.type == "tbody_open") and token.type != "tbody_close"
            if in_body and token.type == "tr_open":
                found.append([])
            elif in_body and token.type == "inline":
                found[-1].append(token.content)
        return found

    @property
    def inline(self) -> list[Token]:
        """Texts of paragraphs, headings, items and cells."""
        return [token for token in self.tokens if token.type == "inline"]


@cache
def page(name: str) -> Page:
    """A page by its path from the root."""
    return Page(name)


def page_names() -> list[str]:
    """README and all pages below ``docs``."""
    return [README, *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
