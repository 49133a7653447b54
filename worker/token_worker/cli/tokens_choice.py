"""The choice of the commands on tokens: the client and tokens that they are about, and access to these."""

import datetime as dt
import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
from rich.console import Console
from rich.progress import Progress, TextColumn

from token_worker.acra.owner import Owner
from token_worker.acra.value_types import TYPES, TokenType
from token_worker.admin.access import AdminAccess
from token_worker.admin.cluster_entries import entries_on
from token_worker.admin.entry_store import EntryStore
from token_worker.admin.index_keys import check_not_retired, owners_with_index_keys
from token_worker.admin.key_store import AdminStore
from token_worker.admin.layout import read_records
from token_worker.admin.stored_tokens import Token, TokenState, Unreadable
from token_worker.admin.tokens import TokenAdmin, TokenFilter
from token_worker.cli.keys_change import owner_of
from token_worker.cli.terminal import ScanProgress, number, parse_text, read_text
from token_worker.contract.messages import Format, TypeName
from token_worker.contract.values import decode_value
from token_worker.errors import CheckFailed, Code, CorruptData, Refused, SettingsError
from token_worker.keys.cache import KeyCache
from token_worker.keys.layout_record import LayoutName
from token_worker.keys.master import MasterKeys
from token_worker.redis.cluster_pipeline import ClusterPipeline
from token_worker.redis.connect import make_tokens_link
from token_worker.redis.link import Link, RedisLink
from token_worker.settings import load
from token_worker.settings.options import Settings
from token_worker.storage.durability import Durability

ENTRIES_PER_SECOND = 5000.0
"""Default for the most entries to read in a second: a few per cent of the capacity of a server."""

DAY_SECONDS = 86_400


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Options of all commands; those that choose tokens have a default, for commands that take all tokens."""

    settings: Settings
    owner_id: str
    zone: bool
    rate: float
    as_json: bool
    type_name: str | None = None
    older_than: float | None = None
    created_before: dt.datetime | None = None
    state: TokenState | None = None
    by_value: bool = False
    by_token: bool = False

    @property
    def owner(self) -> Owner:
        return owner_of(self.owner_id, zone=self.zone)

    @property
    def filter(self) -> TokenFilter:
        since = None if self.older_than is None else time.time() - self.older_than * DAY_SECONDS
        created = None if self.created_before is None else self.created_before.replace(tzinfo=dt.UTC).timestamp()
        return TokenFilter(None if self.type_name is None else TYPES[self.type_name], self.state, since, created)

    @property
    def names_one(self) -> bool:
        return self.by_value or self.by_token

    @property
    def facts(self) -> dict[str, object]:
        """The chosen tokens, for the audit log. The value or token that was given is not told."""
        return {
            f"{self.owner.kind}_id": self.owner_id,
            "type": self.type_name,
            "older_than_days": self.older_than,
            "created_before": None if self.created_before is None else f"{self.created_before:%Y-%m-%d}",
            "state": self.state,
            "one": self.names_one,
        }


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
        help="Only tokens that were last used more than so many days ago. Acra's layout only.",
    ),
    click.option(
        "--created-before",
        type=click.DateTime(["%Y-%m-%d"]),
        metavar="DATE",
        help="Only tokens that were created before this day (UTC, YYYY-MM-DD).",
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
DRY_RUN = click.option("--dry-run", is_flag=True, help="Print what would be done. Change nothing.")
YES = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")


def _with_options(
    names: tuple[str, ...], options: tuple[Callable[..., Any], ...]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add options to a command, and pass them as one ``Asked``."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_asked(config: Path | None, **given: Any) -> None:
            options = {name: given.pop(name) for name in names}
            by_value, by_token = options.get("by_value"), options.get("by_token")
            if by_value and by_token:
                raise click.UsageError("give --value or --token, not both")
            if (by_value or by_token) and options["type_name"] is None:
                raise click.UsageError("--value and --token need --type")
            asked = Asked(settings=load(os.environ, config), **options)
            command(asked, **given)

        for option in reversed(options):
            with_asked = option(with_asked)
        return click.pass_obj(with_asked)

    return decorate


_COMMON_NAMES = ("owner_id", "zone", "rate", "as_json")
_FILTER_NAMES = ("type_name", "older_than", "created_before", "state", "by_value", "by_token")

choosing = _with_options(_COMMON_NAMES + _FILTER_NAMES, (*_OWNER, *_FILTERS, *_OUTPUT))
"""For commands on the tokens that the filters choose."""

taking_all = _with_options(_COMMON_NAMES, (*_OWNER, *_OUTPUT))
"""For commands on all tokens of an owner: a filter is no option there, so that none is ignored."""


def report(unreadable: int) -> None:
    """Raise ``CheckFailed`` if entries could not be read."""
    if unreadable:
        stay = "it stays as it is" if unreadable == 1 else "they stay as they are"
        raise CheckFailed(f"{number(unreadable, 'entry', 'entries')} cannot be read; {stay}")


class Given(NamedTuple):
    """The one value or token that a command is about, encoded."""

    kind: TokenType
    data: bytes


def read_given(asked: Asked) -> Given | None:
    """Read the value or token from standard input, if the command is about one.

    Raises:
        click.UsageError: it is not one of its type.
    """
    if not asked.names_one:
        return None
    type_name = asked.type_name or ""
    try:
        value = decode_value(type_name, parse_text(type_name, read_text()), Format.JSON, "value")
    except Refused as refused:
        raise click.UsageError(refused.message) from None
    kind = TYPES[type_name]
    return Given(kind, kind.encode(value))


def chosen(
    admin: TokenAdmin, asked: Asked, given: Given | None, *, to_remove: bool = False
) -> Iterator[Token | Unreadable]:
    """All tokens that the filters choose, or the one that was given.

    With ``to_remove``, also a token whose removal was interrupted.

    Raises:
        CheckFailed: the one that was given does not exist.
    """
    if given is None:
        yield from admin.tokens(asked.filter)
        return
    found = admin.of_value(given.data, given.kind) if asked.by_value else admin.of_token(given.data, given.kind)
    if found is None or (isinstance(found, Token) and found.is_half_gone and not to_remove):
        raise CheckFailed("there is no such token")
    if isinstance(found, Unreadable) or asked.filter.takes(found):
        yield found


@contextmanager
def open_admin(
    asked: Asked, *, is_settling: bool = False, before: Callable[[LayoutName], object] = lambda _: None
) -> Iterator[TokenAdmin]:
    """Access the tokens of the client, with all of its keys. ``before`` is called when the layout is known."""
    settings = asked.settings
    owner = asked.owner
    console = Console(stderr=True)
    columns = (TextColumn("{task.completed} entries read"),)
    bar = Progress(*columns, console=console, disable=not console.is_terminal or asked.names_one, transient=True)
    with AdminAccess(settings) as access:
        master_key, store = access.connect(ScanProgress("older keys"))
        link = tokens_link(settings)
        try:
            layout = agreed_layout(access.admin_store(), link, settings.layout)
            _refuse_without_effect(asked, layout)
            before(layout)
            keys = KeyCache(
                store,
                MasterKeys(master_key, access.previous_master_key),
                settling_seconds=settings.key_settling_seconds if is_settling else 0,
                history_seconds=float("inf"),
                with_index=layout == "dense",
            )
            with bar:
                task = bar.add_task("")
                yield TokenAdmin(
                    entries_behind(link, settings),
                    keys,
                    owner,
                    layout=layout,
                    list_owners=lambda: owners_with_index_keys(access.admin_store()),
                    rate=asked.rate,
                    progress=lambda seen: bar.update(task, completed=seen),
                )
        except Refused as refused:
            if refused.code in (Code.UNKNOWN_CLIENT, Code.UNKNOWN_ZONE):
                check_not_retired(access.admin_store(), owner)
            raise CheckFailed(f"{owner.key_name}: {refused.message}") from None
        finally:
            link.close()


def tokens_link(settings: Settings) -> RedisLink | ClusterPipeline:
    """Make the link of a command to the token storage."""
    is_fsync = settings.durability == "fsync"
    return make_tokens_link(settings.tokens, waits_for_disk=is_fsync, raise_server_errors=True)


def entries_behind(link: RedisLink | ClusterPipeline, settings: Settings) -> EntryStore:
    """Return the entries of the token storage that the link leads to."""
    return entries_on(link, Durability.parse(settings.durability))


def agreed_layout(store: AdminStore, link: Link, asked: LayoutName | None) -> LayoutName:
    """Read the layout of the tokens from its records.

    A command that relies on what is not in the token storage calls this first. Else it may look into another one.

    Raises:
        SettingsError: the records do not fit each other or the setting, or one cannot be read.
    """
    try:
        records = read_records(store, link)
    except CorruptData as error:
        raise SettingsError(str(error)) from None
    problem = records.problem(asked)
    if problem is not None:
        raise SettingsError(str(problem))
    if records.layout == "acra" and isinstance(link, ClusterPipeline):
        raise SettingsError("TOKEN_WORKER_TOKENS_URL: tokens in Acra's layout are never in a cluster")
    return records.layout


def _refuse_without_effect(asked: Asked, layout: LayoutName) -> None:
    if layout == "dense" and asked.older_than is not None:
        raise click.UsageError(
            "--older-than: the dense layout does not keep when a token was last used; choose by --created-before"
        )
