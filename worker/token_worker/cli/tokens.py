"""``token-worker tokens``: count, show, disable, remove, verify and reencrypt the tokens of a client."""

import functools
import getpass
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
from rich import box
from rich.console import Console
from rich.progress import Progress, TextColumn
from rich.table import Table

from token_worker.acra.owner import Owner
from token_worker.acra.value_types import TYPES
from token_worker.admin.tokens import Token, TokenAdmin, TokenFilter, TokenState, Unreadable
from token_worker.cli.keys_change import owner_of
from token_worker.cli.terminal import ScanProgress, confirm, parse_text, read_text, table_console
from token_worker.contract.messages import Format, TypeName
from token_worker.contract.values import decode_value, encode_value
from token_worker.errors import CheckFailed, CorruptData, Refused
from token_worker.keys.access import KeyAccess
from token_worker.keys.cache import KeyCache
from token_worker.redis.connect import make_primary_link
from token_worker.settings import load
from token_worker.settings.options import Settings
from token_worker.telemetry.audit import Audit

ENTRIES_PER_SECOND = 5000.0
"""Default for the most entries to read in a second: a few per cent of the capacity of a server."""

DAY_SECONDS = 86_400

REPAIR_AGE_SECONDS = 3600.0
"""Age from which ``verify --repair`` deletes entries. The second entry of a younger pair may still be written."""

_TEXTS = (TYPES["str"], TYPES["email"])
_NO_FINDINGS = ("not_text", "repaired")
"""Counts of ``verify`` that are not findings."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Options of all commands; those that choose tokens have a default, for commands that take all tokens."""

    config: Path | None
    owner_id: str
    zone: bool
    rate: float
    as_json: bool
    type_name: str | None = None
    older_than: float | None = None
    state: TokenState | None = None
    by_value: bool = False
    by_token: bool = False

    @property
    def owner(self) -> Owner:
        return owner_of(self.owner_id, zone=self.zone)

    @property
    def filter(self) -> TokenFilter:
        since = None if self.older_than is None else time.time() - self.older_than * DAY_SECONDS
        return TokenFilter(None if self.type_name is None else TYPES[self.type_name], self.state, since)

    @property
    def names_one(self) -> bool:
        return self.by_value or self.by_token


_OWNER = (
    click.argument("owner_id", metavar="CLIENT_ID"),
    click.option("--zone", is_flag=True, help="CLIENT_ID is the id of a zone (Acra 0.94 and earlier)."),
)
_FILTERS = (
    click.option(
        "--type", "type_name", type=click.Choice([name.value for name in TypeName]), help="Only tokens of this type."
    ),
    click.option(
        "--older-than",
        type=click.FloatRange(0),
        metavar="DAYS",
        help="Only tokens that were last used more than so many days ago.",
    ),
    click.option("--state", type=click.Choice(["enabled", "disabled"]), help="Only tokens in this state."),
    click.option(
        "--value", "by_value", is_flag=True, help="Only the token of the value on standard input. Needs --type."
    ),
    click.option("--token", "by_token", is_flag=True, help="Only the token on standard input. Needs --type."),
)
_OUTPUT = (
    click.option(
        "--rate", type=click.FloatRange(min=1), default=ENTRIES_PER_SECOND, help="Most entries to read in a second."
    ),
    click.option("--json", "as_json", is_flag=True, help="JSON, for programs."),
)
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Print what would be done. Change nothing.")
_YES = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")


def _with_options(
    names: tuple[str, ...], options: tuple[Callable[..., Any], ...]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add options to a command, and pass them as one ``Asked``."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_asked(config: Path | None, **given: Any) -> None:
            asked = Asked(config=config, **{name: given.pop(name) for name in names})
            if asked.by_value and asked.by_token:
                raise click.UsageError("give --value or --token, not both")
            if asked.names_one and asked.type_name is None:
                raise click.UsageError("--value and --token need --type")
            command(asked, **given)

        for option in reversed(options):
            with_asked = option(with_asked)
        return click.pass_obj(with_asked)

    return decorate


_COMMON_NAMES = ("owner_id", "zone", "rate", "as_json")
_FILTER_NAMES = ("type_name", "older_than", "state", "by_value", "by_token")

_choosing = _with_options(_COMMON_NAMES + _FILTER_NAMES, (*_OWNER, *_FILTERS, *_OUTPUT))
"""For commands on the tokens that the filters choose."""

_taking_all = _with_options(_COMMON_NAMES, (*_OWNER, *_OUTPUT))
"""For commands on all tokens of an owner: a filter is no option there, so that none is ignored."""


@click.group()
def tokens() -> None:
    """Look at the tokens of a client or zone, and change them."""


@tokens.command(epilog="Example: token-worker tokens status shop-frontend --type email")
@_choosing
def status(asked: Asked) -> None:
    """Count tokens by type and state.

    The command uses SCAN: a token may be counted twice while the storage grows or shrinks.

    Exit status 1: entries cannot be read.
    """
    counts: Counter[tuple[str, str]] = Counter()
    inconsistent: Counter[str] = Counter()
    unreadable = 0
    with _admin(asked) as admin:
        for token in _chosen(admin, asked):
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
    _report(unreadable)


@tokens.command(
    epilog="\b\nExample: echo -n grace@navy.example | token-worker tokens show shop-frontend --type email --value"
)
@_choosing
@click.option(
    "--reveal", is_flag=True, help="Show values and tokens, too. This writes a line for each to the audit log."
)
@_YES
def show(asked: Asked, *, reveal: bool, yes: bool) -> None:
    """Show tokens, one JSON object a line: type, state, times, and whether a str or email is UTF-8 text. No values.

    The token of an inconsistent value is not stored, so it is shown only if you gave it. A value that is not text is
    shown as value_base64.

    Exit status 1: there is no such token, or entries cannot be read.
    """
    if reveal and not asked.by_value:  # a user who gives the value knows the value
        confirm(yes, "Show values in the clear? Each is noted in the audit log.")
    settings = load(os.environ, asked.config)
    audit = Audit(f"{getpass.getuser()}@{socket.gethostname()}", settings.audit_file) if reveal else None
    found = unreadable = 0
    with _admin(asked, settings) as admin:
        for token in _chosen(admin, asked):
            if isinstance(token, Unreadable):
                unreadable += 1
                continue
            found += 1
            row: dict[str, Any] = {
                "type": token.kind.name,
                "state": token.state,
                "consistent": token.h_entry is not None,
                "created": token.t_entry.created,
                "accessed": token.accessed,
                "text": token.is_text if token.kind in _TEXTS else None,
                "entry": token.t_key.decode().rpartition("/")[2],
            }
            if audit is not None:
                audit.reveal("token", **{f"{asked.owner.kind}_id": asked.owner.id}, entry=row["entry"])
                row |= _shown("value", token, token.value)
                row |= _shown("token", token, token.token)
            click.echo(msgspec.json.encode(row))
    _report(unreadable)
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


@tokens.command(
    epilog="\b\nExample: echo -n grace@navy.example | token-worker tokens disable shop-frontend --type email --value"
)
@_choosing
@_DRY_RUN
@_YES
def disable(asked: Asked, *, dry_run: bool, yes: bool) -> None:
    """Disable tokens: requests for them, and for their values, are answered `token_disabled`.

    Exit status 1: there is no such token, entries cannot be read, or tokens kept changing.
    """
    _change(asked, "disabled", lambda admin, token: admin.set_disabled(token, disabled=True), dry_run=dry_run, yes=yes)


@tokens.command(epilog="Example: token-worker tokens enable shop-frontend --type email --yes")
@_choosing
@_DRY_RUN
@_YES
def enable(asked: Asked, *, dry_run: bool, yes: bool) -> None:
    """Enable tokens that are disabled.

    Exit status 1: the same as for `disable`.
    """
    _change(asked, "enabled", lambda admin, token: admin.set_disabled(token, disabled=False), dry_run=dry_run, yes=yes)


@tokens.command(
    epilog="\b\nExample: token-worker tokens remove shop-frontend --state disabled --older-than 365 --dry-run"
)
@_choosing
@_DRY_RUN
@_YES
def remove(asked: Asked, *, dry_run: bool, yes: bool) -> None:
    """Delete tokens for good. Nobody can detokenize them any more.

    Until the client's key is rotated, the same value gets the same token again. To revoke a token, disable it.

    Exit status 1: the same as for `disable`.
    """
    chosen = asked.filter
    _change(asked, "removed", lambda admin, token: admin.remove(token, chosen), dry_run=dry_run, yes=yes)


@tokens.command(epilog="Example: token-worker tokens verify shop-frontend --repair --dry-run")
@_taking_all
@click.option(
    "--repair", is_flag=True, help="Delete value entries whose token entry is missing. Token entries are never deleted."
)
@click.option(
    "--min-age-seconds",
    type=click.FloatRange(0),
    help=f"With --repair: only entries that were not used for so many seconds.  [default: {REPAIR_AGE_SECONDS:g}]",
)
@_DRY_RUN
def verify(asked: Asked, *, repair: bool, min_age_seconds: float | None, dry_run: bool) -> None:
    """Find tokens of a client that lack an entry, tokens with only one entry disabled, and entries that cannot be read.

    A str or email that is not UTF-8, as AcraServer stores other encodings, is counted, but is not a finding.

    Exit status 1: something was found and not repaired.
    """
    if not repair and (dry_run or min_age_seconds is not None):
        raise click.UsageError("--dry-run and --min-age-seconds are only for --repair: add it, or leave them out")
    min_age_seconds = REPAIR_AGE_SECONDS if min_age_seconds is None else min_age_seconds
    counts: Counter[str] = Counter()
    with _admin(asked) as admin:
        for token in admin.tokens(TokenFilter()):
            counts["unreadable"] += isinstance(token, Unreadable)
            counts["not_text"] += isinstance(token, Token) and not token.is_text
        for pair in admin.broken_pairs():
            if isinstance(pair, Unreadable):
                counts["unreadable"] += 1
                continue
            is_old = time.time() - max(pair.entry.accessed, pair.entry.created) >= min_age_seconds
            if repair and pair.what == "value_alone" and is_old and (dry_run or admin.delete_lone_value(pair)):
                counts["repaired"] += 1
            else:
                counts[pair.what] += 1
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


@tokens.command(epilog="Example: token-worker tokens reencrypt shop-frontend --rate 1000")
@_taking_all
@_DRY_RUN
@_YES
def reencrypt(asked: Asked, *, dry_run: bool, yes: bool) -> None:
    """Seal all token entries of a client with its newest key. Tokens do not change.

    Run it a minute after `keys rotate`, or when TOKEN_WORKER_KEY_SETTLING_SECONDS are over: no worker seals with the
    old key any more then. You may stop the command and run it again.

    An AcraServer or AcraTranslator that has run with its key cache since before the rotation cannot read entries that
    are sealed with the new key: it returns tokens as if they were the values. Restart it before, or run it with
    --keystore_cache_size=-1.

    Exit status 1: entries cannot be read, and stay as they are; or the new key does not seal yet.
    """
    if not dry_run:
        confirm(
            yes,
            "Was every AcraServer and AcraTranslator restarted since the last rotation, or does it run with"
            " --keystore_cache_size=-1, or is there none? Else it returns tokens as if they were the values.",
        )
    with _admin(asked, is_settling=not dry_run) as admin:
        done = admin.reencrypt(dry_run=dry_run)
    if asked.as_json:
        click.echo(msgspec.json.encode({"dry_run": dry_run, **done._asdict()}))
    else:
        would = "would be sealed" if dry_run else "sealed"
        click.echo(
            f"{would} with the newest key: {done.sealed} entries, in {done.passes} passes; the others already were"
        )
        if done.sealed and not dry_run:
            click.echo("now restart every AcraServer and AcraTranslator that has a key cache and was not restarted yet")
    _report(done.unreadable)


def _change(asked: Asked, done: str, change: Callable[[TokenAdmin, Token], bool], *, dry_run: bool, yes: bool) -> None:
    if not dry_run and not asked.names_one:
        confirm(yes, f"The chosen tokens of {asked.owner_id} will be {done}. Go on?")
    changed = unreadable = busy = 0
    with _admin(asked) as admin:
        for token in _chosen(admin, asked):
            if isinstance(token, Unreadable):
                unreadable += 1
            elif token.state == done:
                continue
            elif dry_run or change(admin, token):
                changed += 1
            else:
                busy += 1
    if asked.as_json:
        click.echo(msgspec.json.encode({"dry_run": dry_run, done: changed, "unreadable": unreadable, "busy": busy}))
    else:
        click.echo(f"{'would be ' if dry_run else ''}{done}: {changed} tokens")
    _report(unreadable)
    if busy:
        raise CheckFailed(f"other programs kept changing {busy} tokens; run the command again")


def _report(unreadable: int) -> None:
    if unreadable:
        raise CheckFailed(f"{unreadable} entries cannot be read; they stay as they are")


def _chosen(admin: TokenAdmin, asked: Asked) -> Iterator[Token | Unreadable]:
    if not asked.names_one:
        yield from admin.tokens(asked.filter)
        return
    type_name = asked.type_name or ""
    try:
        value = decode_value(type_name, parse_text(type_name, read_text()), Format.JSON, "value")
    except Refused as refused:
        raise click.UsageError(refused.message) from None
    kind = TYPES[type_name]
    data = kind.encode(value)
    found = admin.of_value(data, kind) if asked.by_value else admin.of_token(data, kind)
    if found is None:
        raise CheckFailed("there is no such token")
    if isinstance(found, Unreadable) or asked.filter.takes(found):
        yield found


@contextmanager
def _admin(asked: Asked, settings: Settings | None = None, *, is_settling: bool = False) -> Iterator[TokenAdmin]:
    settings = settings or load(os.environ, asked.config)
    owner = asked.owner
    console = Console(stderr=True)
    columns = (TextColumn("{task.completed} entries read"),)
    with (
        KeyAccess(settings) as access,
        Progress(*columns, console=console, disable=not console.is_terminal or asked.names_one, transient=True) as bar,
    ):
        master_key, store = access.connect(ScanProgress("older keys"))
        keys = KeyCache(
            store,
            master_key,
            previous_master_key=access.previous_master_key,
            settling_seconds=settings.key_settling_seconds if is_settling else 0,
            history_seconds=float("inf"),
        )
        task = bar.add_task("")
        link = make_primary_link("tokens", settings.tokens, raise_server_errors=True)
        try:
            yield TokenAdmin(link, keys, owner, rate=asked.rate, progress=lambda seen: bar.update(task, completed=seen))
        except Refused as refused:
            raise CheckFailed(f"{owner.key_name}: {refused.message}") from None
        finally:
            link.close()
