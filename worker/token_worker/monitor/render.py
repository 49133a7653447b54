"""Renders the page and the guide for whoever is on call as HTML. Every text of the page is escaped."""

import re
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from token_worker import __version__
from token_worker.monitor.problems import SIGNS, slug
from token_worker.monitor.view import Page

_TEMPLATES = Environment(
    loader=PackageLoader("token_worker.monitor"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)


def _code(text: str) -> Markup:
    """Escape a text. What stands between backticks becomes code."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 and index < len(parts) - 1 else part
        for index, part in enumerate(parts)
    )


_TEMPLATES.filters["code"] = _code


def render_page(page: Page, refresh_seconds: int | None) -> bytes:
    """Render the page. With None it does not refresh itself."""
    template = _TEMPLATES.get_template("page.html")
    return template.render(page=page, signs=SIGNS, refresh=refresh_seconds).encode()


@cache
def render_operations() -> bytes:
    """Render docs/operations.md, each heading with the anchor that it has in the repository."""
    text = files(__package__).joinpath("operations.md").read_text(encoding="utf-8")
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(text)
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "heading_open" and following is not None:
            token.attrSet("id", slug(re.sub(r"[`*]|\]\([^)]*\)|\[", "", following.content)))
        if token.type == "inline":
            _unlink(token.children or [])
    content = Markup(markdown.renderer.render(tokens, markdown.options, {}))  # noqa: S704 - our own page, without HTML
    return _TEMPLATES.get_template("operations.html").render(content=content, version=__version__).encode()


def _unlink(tokens: list[Token]) -> None:
    """Make plain text of links to other pages, which are not served here."""
    is_inside = False
    for token in tokens:
        if token.type == "link_open":
            is_inside = not str(token.attrGet("href") or "").startswith("#")
        if is_inside and token.type in ("link_open", "link_close"):
            token.tag, token.attrs = "em", {}
