"""``token-worker tokens``: count, show, disable, remove, verify and reencrypt the tokens of a client; their layout."""

import time
from collections import Counter
from typing import Any

import click
import msgspec
from rich import box
from rich.table import Table

from token_worker.acra.value_types import TYPES
from token_worker.admin.tokens import Token, TokenFilter, Unreadable
from token_worker.cli.groups import NearestGroup
from token_worker.cli.terminal import confirm, table_console
from token_worker.cli.tokens_change import disable, enable, reencrypt, remove
from token_worker.cli.tokens_choice import (
    DRY_RUN,
    YES,
    Asked,
    choosing,
    chosen,
    entry_of,
    open_admin,
    read_given,
    report,
    taking_all,
)
from token_worker.cli.tokens_layout import layout
from token_worker.contract.messages import Format, TypeName
from token_worker.contract.values import encode_value
from token_worker.errors import CheckFailed, CorruptData
from token_worker.telemetry.command_audit import CommandAudit

REVEALED_MAX = 100
"""Default for the most tokens to show in the clear."""

REPAIR_AGE_SECONDS = 3600.0
"""Age from which ``verify --repair`` deletes entries. The second entry of a younger pair may still be written."""

_TEXTS = (TYPES["str"], TYPES["email"])
_NO_FINDINGS = ("not_text", "repaired")
"""Counts of ``verify`` that are not findings."""


@click.group(cls=NearestGroup)
def tokens() -> None:
    """Look at the tokens of a client or zone, and change them."""


for command in (disable, enable, remove, reencrypt, layout):
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
            inconsistent[token.kind.name] += token.h_entry is None
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

    The token of an inconsistent value is not stored, so it is shown only if you gave it. A value that is not text is
    shown as value_base64.

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
                "consistent": token.h_entry is not None,
                "created": token.t_entry.created,
                "accessed": token.accessed,
                "text": token.is_text if token.kind in _TEXTS else None,
                "entry": entry_of(token),
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


@tokens.command(epilog="Example: token-worker tokens verify shop-frontend --repair --dry-run")
@taking_all
@click.option(
    "--repair", is_flag=True, help="Delete value entries whose token entry is missing. Token entries are never deleted."
)
@click.option(
    "--min-age-seconds",
    type=click.FloatRange(0),
    help=f"With --repair: only entries that were not used for so many seconds.  [default: {REPAIR_AGE_SECONDS:g}]",
)
@DRY_RUN
def verify(asked: Asked, *, repair: bool, min_age_seconds: float | None, dry_run: bool) -> None:
    """Find tokens of a client that lack an entry, tokens with only one entry disabled, and entries that cannot be read.

    A str or email that is not UTF-8, as AcraServer stores other encodings, is counted, but is not a finding.

    Exit status 1: something was found and not repaired.
    """
    if not repair and (dry_run or min_age_seconds is not None):
        raise click.UsageError("--dry-run and --min-age-seconds are only for --repair: add it, or leave them out")
    min_age_seconds = REPAIR_AGE_SECONDS if min_age_seconds is None else min_age_seconds
    counts: Counter[str] = Counter()
    audit = CommandAudit("tokens verify", asked.settings.audit_file)
    changes_nothing = dry_run or not repair
    with open_admin(asked) as admin:
        for token in admin.tokens(TokenFilter()):
            counts["unreadable"] += isinstance(token, Unreadable)
            counts["not_text"] += isinstance(token, Token) and not token.is_text
        with audit.change(asked.facts | {"repair": repair}, dry_run=changes_nothing) as outcome:
            outcome["repaired"] = 0
            for pair in admin.broken_pairs():
                if isinstance(pair, Unreadable):
                    counts["unreadable"] += 1
                    continue
                is_old = time.time() - max(pair.entry.accessed, pair.entry.created) >= min_age_seconds
                if repair and pair.what == "value_alone" and is_old and (dry_run or admin.delete_lone_value(pair)):
                    counts["repaired"] += 1
                else:
                    counts[pair.what] += 1
                outcome["repaired"] = counts["repaired"]
    words = {
        "value_alone": "value entries whose token entry is gone",
        "disabled_alone": "tokens with one entry disabled and the other not",
        "mismatch": "value entries that name the token of another value",
        "unreadable": "entries that cannot be read",
        "not_text": "values that are not UTF-8 text, but not damaged",
        "repaired": "value entries would be deleted" if dry_run else "value entries were deleted",
    }
    if asked.as_json:
        click.echo(msgspec.json.encode({name: counts[name] for name in words}))
    else:
        for name, text in words.items():
            if counts[name] or name not in _NO_FINDINGS:
                click.echo(f"{counts[name]} {text}")
    found = sum(counts[name] for name in words if name not in _NO_FINDINGS)
    if found:
        raise CheckFailed(f"{found} findings")
