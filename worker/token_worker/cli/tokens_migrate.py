"""``token-worker tokens migrate``: move tokens from one layout of the token storage into the other."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from token_worker.admin import migrate_stages
from token_worker.admin.access import AdminAccess
from token_worker.admin.index_keys import owners_with_keys
from token_worker.admin.layout import check_no_workers, read_records
from token_worker.admin.migrate_findings import BLOCKING, UNREADABLE, Unmovable, blocking
from token_worker.admin.migrate_reading import FindingKind
from token_worker.admin.migrate_rows import Tally
from token_worker.admin.migrate_stages import Stage, open_stage
from token_worker.cli.terminal import ScanProgress, confirm, number
from token_worker.cli.tokens_choice import DRY_RUN, YES
from token_worker.errors import CheckFailed, CorruptData
from token_worker.keys.cache import KeyCache
from token_worker.keys.layout_record import LayoutName
from token_worker.keys.master import MasterKeys
from token_worker.redis.connect import make_link, make_primary_link
from token_worker.settings import load
from token_worker.settings.options import Settings
from token_worker.storage.durability import CONFIRM_MS, Durability, DurabilityBarrier, NoBarrier
from token_worker.telemetry.command_audit import CommandAudit

TOKENS_PER_SECOND = 5000.0
"""Default for the most tokens to move in a second, beside workers: a few per cent of the capacity of a server."""

SHOWN_NAMES = 5
"""Entries of a kind that are named. All are counted."""

_LAYOUTS = click.Choice(["acra", "dense"])
_WORDS: dict[str, str] = {
    "tokens": "tokens seen",
    "inconsistent": "of these, drawn inconsistently",
    "copied": "copied",
    "changed": "of these, there was a copy that had to be changed",
    "same": "copied before",
    "twins_deleted": "copies deleted, because their token is gone",
    "busy": "changed at that moment; the next run copies them",
    "dropped": "tokens deleted",
    "tombstones_dropped": "entries of removed tokens deleted",
    "changed_since": "were disabled, enabled or removed since they were moved; --changed deletes them, too",
    "different": "have no equal copy in the layout that is in use",
    "left_unreadable": "entries of the new layout that cannot be read; they stay",
    "left_no_key": "entries of the new layout of clients or zones without a key; they stay",
    "only_in_acra": "tokens in Acra's layout that the dense one does not know; they stay",
    "removed": "removed tokens: the dense layout alone remembers that they are revoked",
    "orphan": "entries of tokens that nobody was given",
    **{str(kind): words for kind, words in BLOCKING.items()},
}
"""Words for the counts, in the order in which they are printed."""

_LEFT = (*BLOCKING, "changed_since", "different", "busy")
"""Counts of entries that a drop leaves."""


class Wanted(NamedTuple):
    """The options."""

    layout: LayoutName
    is_drop: bool
    finish: bool
    resume: bool
    changed: bool
    leave: frozenset[FindingKind]
    dry_run: bool
    as_json: bool

    @property
    def stage(self) -> str:
        return "drop" if self.is_drop else "finish" if self.finish else "copy"


@click.command(epilog="\b\nExample: token-worker tokens migrate --to dense --rate 2000")
@click.option("--to", type=_LAYOUTS, help="Copy all tokens into this layout.")
@click.option("--finish", is_flag=True, help="With --to: bring all up to date, compare, and record the new layout.")
@click.option("--drop", type=_LAYOUTS, help="Delete the entries of this layout, after the other one is in use.")
@click.option("--resume", is_flag=True, help="Go on where a copy was stopped.")
@click.option("--changed", is_flag=True, help="With --drop: also tokens that were disabled, enabled or removed since.")
@click.option("--leave-unreadable", is_flag=True, help="With --finish: entries that cannot be read stay behind.")
@click.option(
    "--rate",
    type=click.FloatRange(min=1),
    help=f"Most tokens to read in a second.  [default: {TOKENS_PER_SECOND:g}; with --finish no limit]",
)
@DRY_RUN
@YES
@click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
@click.pass_obj
def migrate(
    config: Path | None,
    *,
    to: LayoutName | None,
    finish: bool,
    drop: LayoutName | None,
    resume: bool,
    changed: bool,
    leave_unreadable: bool,
    rate: float | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Move all tokens from one layout of the token storage into the other. docs/migrate.md is the whole procedure.

    With --to, the command copies tokens while workers go on in the old layout. Run it as often as you like. Then stop
    the workers and every service of Acra. With --to and --finish, the command copies what is new or changed, compares
    every token with its copy in both directions, and records the new layout. Start the workers. Later, --drop deletes
    the old entries, each only after its copy was opened and found equal.

    The command may be stopped or killed at any time. Run it again then.

    Exit status 1: the layout was not changed, or entries were left; the reason is told.
    """
    wanted = _check(to, finish, drop, resume, changed, leave_unreadable, dry_run=dry_run, as_json=as_json)
    settings = load(os.environ, config)
    _check_settings(settings, wanted)
    if not dry_run:
        _ask(wanted, yes=yes)
    speed = rate or (float("inf") if finish else TOKENS_PER_SECOND)
    audit = CommandAudit("tokens migrate", settings.audit_file)
    facts = {"drop" if wanted.is_drop else "to": wanted.layout, "finish": finish, "leave": sorted(wanted.leave)}
    with _open(settings, wanted, speed) as stage, audit.change(facts, dry_run=dry_run) as outcome:
        try:
            _run(settings, stage, wanted, outcome)
        except CorruptData as error:
            raise CheckFailed(str(error)) from None


def _check(
    to: LayoutName | None,
    finish: bool,
    drop: LayoutName | None,
    resume: bool,
    changed: bool,
    leave_unreadable: bool,
    *,
    dry_run: bool,
    as_json: bool,
) -> Wanted:
    layout = to or drop
    if layout is None or (to is not None and drop is not None):
        raise click.UsageError("give --to or --drop, with acra or dense")
    if finish and to is None:
        raise click.UsageError("--finish needs --to")
    if resume and (to is None or finish):
        raise click.UsageError("--resume is for a copy: leave --finish and --drop out. A finish always begins anew")
    if changed and drop is None:
        raise click.UsageError("--changed is only for --drop: add it, or leave --changed out")
    if leave_unreadable and not finish:
        raise click.UsageError("--leave-unreadable is only for --finish: add it, or leave it out")
    leave = UNREADABLE if leave_unreadable else frozenset()
    return Wanted(layout, drop is not None, finish, resume, changed, leave, dry_run, as_json)


def _check_settings(settings: Settings, wanted: Wanted) -> None:
    if settings.tokens.kind == "cluster":
        raise CheckFailed("tokens are moved on one server; TOKEN_WORKER_TOKENS_URL is a Redis Cluster")
    if wanted.finish and settings.layout not in (None, wanted.layout):
        raise CheckFailed(
            f"TOKEN_WORKER_LAYOUT is {settings.layout}: no worker would start afterwards; set it to"
            f" {wanted.layout} first"
        )


def _ask(wanted: Wanted, *, yes: bool) -> None:
    if wanted.finish and wanted.layout == "dense":
        confirm(
            yes, "Is every AcraServer and AcraTranslator stopped? They will not find tokens in the dense layout. Go on?"
        )
    elif wanted.finish:
        confirm(yes, "Tokens that were removed in the dense layout may be given again in Acra's. Go on?")
    elif wanted.is_drop:
        confirm(yes, f"Tokens that were moved will be deleted from layout {wanted.layout}. Go on?")


@contextmanager
def _open(settings: Settings, wanted: Wanted, rate: float) -> Iterator[Stage]:
    """Open the storages, and read the keys of all owners."""
    console = Console(stderr=True)
    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
    with (
        AdminAccess(settings) as access,
        Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar,
    ):
        master_key, store = access.connect(ScanProgress("older keys"))
        access.keep_alive()  # a move may take longer than a token of Vault lives
        admin_store = access.admin_store()
        owners = owners_with_keys(admin_store)
        keys = KeyCache(
            store,
            MasterKeys(master_key, access.previous_master_key),
            size=len(owners) + 1,
            settling_seconds=settings.key_settling_seconds,
            history_seconds=float("inf"),
            with_index=True,
        )
        task, begin = bar.add_task("", total=1.0, speed=""), time.monotonic()

        def show(part: float, tally: Tally) -> None:
            seen = tally.counts["tokens"]
            speed = f"{seen:,} tokens, {seen / max(time.monotonic() - begin, 1e-9):,.0f}/s"
            bar.update(task, completed=part, speed=speed)

        link = make_primary_link("tokens", settings.tokens, raise_server_errors=True)
        needs_all = not wanted.is_drop and wanted.layout == "dense"
        try:
            yield open_stage(admin_store, link, keys, owners, rate=rate, progress=show, needs_all=needs_all)
        finally:
            link.close()


def _run(settings: Settings, stage: Stage, wanted: Wanted, outcome: dict[str, object]) -> None:
    seconds: float | None = None
    durability = Durability.parse(settings.durability)
    begin = time.monotonic()
    try:
        if wanted.is_drop:
            tally = migrate_stages.drop(stage, wanted.layout, even_changed=wanted.changed, dry_run=wanted.dry_run)
        elif wanted.finish and _is_done(stage, wanted.layout):
            _print(Tally(), wanted, None, 0, is_done=True)
            return
        elif wanted.finish:
            tally, seconds = migrate_stages.finish(
                stage,
                wanted.layout,
                leave=wanted.leave,
                check_workers=lambda: _check_workers(settings),
                barrier=DurabilityBarrier(stage.link, durability, CONFIRM_MS) if any(durability) else NoBarrier(),
                dry_run=wanted.dry_run,
            )
        else:
            tally = migrate_stages.copy(stage, wanted.layout, dry_run=wanted.dry_run, resume=wanted.resume)
    except Unmovable as error:
        outcome.update(_facts(error.tally))
        _print(error.tally, wanted, None, time.monotonic() - begin)
        raise
    outcome.update(_facts(tally))
    _print(tally, wanted, seconds, time.monotonic() - begin)
    left = sum(tally.counts[name] for name in _LEFT)
    if wanted.is_drop and left:
        raise CheckFailed(f"left in layout {wanted.layout}: {number(left, 'entry', 'entries')}")
    found = blocking(tally)
    if wanted.stage == "copy" and found:
        raise CheckFailed(f"--finish will be refused: {found}")


def _is_done(stage: Stage, layout: LayoutName) -> bool:
    found = read_records(stage.store, stage.link)
    return found.problem() is None and found.layout == layout


def _check_workers(settings: Settings) -> None:
    streams = make_link("streams", settings.streams, raise_server_errors=True)
    try:
        check_no_workers(settings.routes, settings.group, streams)
    finally:
        streams.close()


def _facts(tally: Tally) -> dict[str, int]:
    return {name: tally.counts[name] for name in _WORDS if tally.counts[name]}


def _print(tally: Tally, wanted: Wanted, pause: float | None, seconds: float, *, is_done: bool = False) -> None:
    if wanted.as_json:
        shown: dict[str, Any] = {
            "stage": wanted.stage,
            "layout": wanted.layout,
            "dry_run": wanted.dry_run,
            "seconds": round(seconds, 3),
            "pause_seconds": None if pause is None or wanted.dry_run else round(pause, 3),
            **{name: tally.counts[name] for name in _WORDS},
            "entries": {kind: [_shown(name) for name in names] for kind, names in tally.names.items()},
        }
        click.echo(msgspec.json.encode(shown))
        return
    if is_done:
        click.echo(f"{wanted.layout}: this is the layout already")
        return
    if wanted.dry_run and not _facts(tally):
        then = f"layout {wanted.layout} would be recorded" if wanted.finish else "nothing to do"
        click.echo(
            f"dry run, nothing was changed; there are no tokens to {'drop' if wanted.is_drop else 'move'}: {then}"
        )
        return
    if wanted.dry_run:
        click.echo("dry run, nothing was changed; this would be done:")
    for name, count in _facts(tally).items():
        click.echo(f"{count:>12,} {_WORDS[name]}")
    for kind, names in tally.names.items():
        if kind in BLOCKING:
            more = f" and {tally.counts[kind] - SHOWN_NAMES} more" if tally.counts[kind] > SHOWN_NAMES else ""
            click.echo(f"{BLOCKING[kind]}: {', '.join(map(_shown, names[:SHOWN_NAMES]))}{more}")
    speed = tally.counts["tokens"] / max(seconds, 1e-9)
    click.echo(f"{seconds:,.1f} s, {speed:,.0f} tokens/s")
    if pause is not None and not wanted.dry_run:
        click.echo(f"layout {wanted.layout} is recorded; pause: {pause:,.1f} s. Start the workers now")


def _shown(name: bytes) -> str:
    return name.decode() if name.startswith(b"tokens/") else name.hex()
