"""``token-worker tokens``: count, show, disable, remove, verify and reencrypt the tokens of a client; their layout."""

from collections import Counter
from typing import Any

import click
import msgspec
from rich import box
from rich.table import Table

from token_worker.acra.value_types import TYPES
from token_worker.admin.stored_tokens import Token, Unreadable, entry_label
from token_worker.cli.groups import NearestGroup
from token_worker.cli.terminal import confirm, table_console
from token_worker.cli.tokens_change import disable, enable, reencrypt, remove
from token_worker.cli.tokens_choice import (
    YES,
    Asked,
    choosing,
    chosen,
    open_admin,
    read_given,
    report,
)
from token_worker.cli.tokens_layout import layout
from token_worker.cli.tokens_migrate import migrate
from token_worker.cli.tokens_verify import verify
from token_worker.contract.messages import Format, TypeName
from token_worker.contract.values import encode_value
from token_worker.errors import CheckFailed, CorruptData
from token_worker.telemetry.command_audit import CommandAudit

REVEALED_MAX = 100
"""Default for the most tokens to show in the clear."""

_TEXTS = (TYPES["str"], TYPES["email"])


@click.group(cls=NearestGroup)
def tokens() -> None:
    """Look at the tokens of a client or zone, and change them."""


for command in (disable, enable, remove, reencrypt, verify, layout, migrate):
    tokens.add_command(command)


@tokens.command(epilog="Example: token-worker tokens status shop-frontend --type email")
@choosing
def status(asked: Asked) -> None:
    """Count tokens by type and state.

    The command uses SCAN: a token may be counted twice while the storage grows or shrinks.

    Exit status 1: entries cannot be read.
    """
    counts: Counter[tuple[str, str]] = Counter()
    inconsistent: Counter[str] = Counter()
    unreadable = 0
    given = read_given(asked)
    with open_admin(asked) as admin:
        for token in chosen(admin, asked, given):
            if isinstance(token, Unreadable):
                unreadable += 1
                continue
            counts[token.kind.name, token.state] += 1
            inconsistent[token.kind.name] += token.h is None
    rows = [
        {
            "type": name,
            "enabled": counts[name, "enabled"],
            "disabled": counts[name, "disabled"],
            "without_value_entry": inconsistent[name],
        }
        for name in TYPES
        if counts[name, "enabled"] or counts[name, "disabled"]
    ]
    if asked.as_json:
        click.echo(msgspec.json.encode({"types": rows, "unreadable": unreadable}))
    else:
        table = Table("type", "enabled", "disabled", "inconsistent or half", box=box.SIMPLE)
        for row in rows:
            table.add_row(*(str(cell) for cell in row.values()))
        table_console().print(table)
    report(unreadable)


@tokens.command(
    epilog="\b\nExample: echo -n grace@navy.example | token-worker tokens show shop-frontend --type email --value"
)
@choosing
@click.option(
    "--reveal",
    is_flag=True,
    help="Show values and tokens, too. This writes a line for each to the audit log, which must be a file.",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    help=f"With --reveal: most tokens to show.  [default: {REVEALED_MAX}]",
)
@YES
def show(asked: Asked, *, reveal: bool, limit: int | None, yes: bool) -> None:
    """Show tokens, one JSON object a line: type, state, times, and whether a str or email is UTF-8 text. No values.

    Acra's layout does not store the token of an inconsistent value, nor does the dense layout after a move. Then it is
    shown only if you gave it. A value that is not text is shown as value_base64.

    Exit status 1: there is no such token, there are more than --limit, or entries cannot be read.
    """
    if limit is not None and not reveal:
        raise click.UsageError("--limit is only for --reveal: add it, or leave --limit out")
    audit = CommandAudit("tokens show", asked.settings.audit_file) if reveal else None
    if audit is not None:
        audit.require_file()
    if reveal and not asked.by_value:  # a user who gives the value knows the value
        confirm(yes, "Show values in the clear? Each is noted in the audit log.")
    most = limit or REVEALED_MAX
    given = read_given(asked)
    found = unreadable = 0
    with open_admin(asked) as admin:
        for token in chosen(admin, asked, given):
            if isinstance(token, Unreadable):
                unreadable += 1
                continue
            if audit is not None and found == most:
                raise CheckFailed(f"{most} tokens were shown, and there are more; choose fewer, or raise --limit")
            found += 1
            row: dict[str, Any] = {
                "type": token.kind.name,
                "state": token.state,
                "consistent": token.h is not None,
                "created": token.t.created,
                "accessed": token.accessed,
                "text": token.is_text if token.kind in _TEXTS else None,
                "entry": entry_label(token.t.key),
            }
            if audit is not None:
                audit.reveal("token", **{f"{asked.owner.kind}_id": asked.owner.id}, entry=row["entry"])
                row |= _shown("value", token, token.value)
                row |= _shown("token", token, token.token)
            click.echo(msgspec.json.encode(row))
    report(unreadable)
    if not found:
        raise CheckFailed("there is no such token")


def _shown(name: str, token: Token, data: bytes | None) -> dict[str, int | str | bytes | None]:
    """Return a value or token in the form of its type. Bytes that are not text get base64 and another member name."""
    if data is None:
        return {name: None}
    try:
        return {name: encode_value(token.kind.name, token.kind.decode(data), Format.JSON)}
    except CorruptData:
        return {f"{name}_base64": encode_value(TypeName.BYTES, data, Format.JSON)}
