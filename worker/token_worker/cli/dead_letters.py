"""``token-worker dead-letters``: list, show, replay and drop requests that could not be answered."""

import os
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from rich import box
from rich.table import Table

from token_worker.admin import dead_letters as letters_module
from token_worker.admin.dead_letters import DeadLetter, DeadLetters
from token_worker.admin.pages import PAGE_ENTRIES
from token_worker.admin.replay import Selection
from token_worker.cli.groups import NearestGroup
from token_worker.cli.replay import Runner, noted
from token_worker.cli.terminal import check_reach, confirm, table_console
from token_worker.errors import CheckFailed, LoginRefused, Unavailable
from token_worker.redis.connect import make_link
from token_worker.redis.exchange import drive
from token_worker.redis.link import Link
from token_worker.settings import load
from token_worker.settings.options import Settings
from token_worker.streams.stream_ids import check_id
from token_worker.telemetry.command_audit import CommandAudit


@click.group("dead-letters", cls=NearestGroup)
def dead_letters() -> None:
    """Look at requests that could not be answered, send them again, or delete them."""


_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")
_REASON = click.option("--reason", help="Only dead letters with this reason.")
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Print what would be done. Change nothing.")


@dead_letters.command("list", epilog="Example: token-worker dead-letters list --reason deliveries_exhausted")
@_REASON
@_JSON
@click.pass_obj
def list_(config: Path | None, *, reason: str | None, as_json: bool) -> None:
    """List the dead letters of all routes: reason, age and deliveries, no values. Needs no key.

    Exit status 3: some streams cannot be reached. They are named. In a cluster, the other streams are still shown.
    """
    settings = load(os.environ, config)
    unknown: dict[str, str] = {}
    found = _all(settings, _link(settings), reason, unknown)
    if as_json:
        for letter in found:
            click.echo(msgspec.json.encode(letter))
        check_reach(unknown)
        return
    table = Table("dead letter", "from", "entry", "reason", "tries", "age", "request", "op", box=box.SIMPLE)
    for letter in found:
        table.add_row(
            letter.id,
            letter.stream,
            letter.entry,
            letter.reason,
            str(letter.deliveries),
            _age(letter),
            letter.request_id or "",
            letter.op or "",
        )
    table_console().print(table)
    check_reach(unknown)


@dead_letters.command(epilog="Example: token-worker dead-letters show 1785485730250-0")
@click.argument("letter", metavar="ID")
@click.option(
    "--reveal",
    is_flag=True,
    help="Show the payload, with its values. This writes a line to the audit log, which must be a file.",
)
@click.option("--yes", is_flag=True, help="With --reveal: do not ask for confirmation.")
@_JSON
@click.pass_obj
def show(config: Path | None, letter: str, *, reveal: bool, yes: bool, as_json: bool) -> None:
    """Show one dead letter. Its payload holds values and is shown only with --reveal.

    Exit status 1: there is no such dead letter.
    """
    settings = load(os.environ, config)
    audit = CommandAudit("dead-letters show", settings.audit_file)
    if reveal:
        audit.require_file()
    link = _link(settings)
    letter_id = _letter_id(letter)
    found = [pair for letters in _streams(settings) for pair in drive(letters.find(letter_id), link)]
    if not found:
        raise CheckFailed(f"{letter}: there is no such dead letter")
    if reveal:
        confirm(yes, "Show values in the clear? This is noted in the audit log.")
        for dead, _ in found:
            audit.reveal("dead letter", stream=dead.dead_stream, entry=dead.id, request_id=dead.request_id)
    for dead, payload in found:
        shown = msgspec.structs.asdict(dead)
        if reveal:
            shown["payload"] = payload.decode("utf-8", errors="backslashreplace")
        if as_json:
            click.echo(msgspec.json.encode(shown))
            continue
        for name, value in shown.items():
            click.echo(f"{name.replace('_', ' '):<15}{'' if value is None else value}")


@dead_letters.command("replay", epilog="Example: token-worker dead-letters replay --reason deliveries_exhausted")
@click.argument("ids", metavar="[ID]…", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All dead letters.")
@_REASON
@_DRY_RUN
@click.option("--keep", is_flag=True, help="Keep the dead letters that are sent.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Most requests to send in a second.")
@click.option("--no-wait", is_flag=True, help="Do not wait for the replies.")
@_JSON
@click.pass_obj
def replay(
    config: Path | None,
    ids: tuple[str, ...],
    *,
    everything: bool,
    reason: str | None,
    dry_run: bool,
    keep: bool,
    rate: float | None,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Send dead letters again to the streams they came from. Each is deleted from the dead letters when it is sent.

    If the command is interrupted, `token-worker replay --resume` continues.

    Exit status 1: replies are missing or differ, a dead letter that was named does not exist, or one cannot be read and
    is kept.
    """
    _check_selection(ids, everything=everything, reason=reason)
    settings = load(os.environ, config)
    runner = Runner(settings, _link(settings), dry_run=dry_run, as_json=as_json, rate=rate, wait=not no_wait)
    wanted = tuple(_letter_id(text) for text in ids)
    streams = dict.fromkeys(route.dead_letters for route in settings.routes)
    facts = {"ids": wanted, "all": everything, "reason": reason, "keep": keep}
    with noted("dead-letters replay", settings, runner, facts, dry_run=dry_run):
        runner.start([Selection(stream=stream, ids=wanted, reason=reason, keep=keep) for stream in streams])


@dead_letters.command(epilog="Example: token-worker dead-letters drop 1785485730250-0 --dry-run")
@click.argument("ids", metavar="[ID]…", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All dead letters.")
@_REASON
@_DRY_RUN
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.pass_obj
def drop(
    config: Path | None, ids: tuple[str, ...], *, everything: bool, reason: str | None, dry_run: bool, yes: bool
) -> None:
    """Delete dead letters for good. Their producers get no further reply.

    Exit status 1: a dead letter that was named does not exist.
    """
    _check_selection(ids, everything=everything, reason=reason)
    wanted = {_letter_id(text) for text in ids}
    settings = load(os.environ, config)
    link = _link(settings)
    chosen = [letter for letter in _all(settings, link, reason) if not wanted or letter.id in wanted]
    missing = wanted - {letter.id for letter in chosen}
    if not dry_run and chosen:
        confirm(yes, f"Delete {len(chosen)} dead letters for good?")
    dropped = 0
    audit = CommandAudit("dead-letters drop", settings.audit_file)
    facts = {"ids": sorted(wanted), "all": everything, "reason": reason}
    with audit.change(facts, dry_run=dry_run) as outcome:
        outcome["dropped"] = 0
        for stream in {letter.dead_stream: None for letter in chosen}:
            names = [letter.id for letter in chosen if letter.dead_stream == stream]
            for start in range(0, len(names), PAGE_ENTRIES):
                part = names[start : start + PAGE_ENTRIES]
                dropped += len(part) if dry_run else drive(letters_module.drop(stream, part), link)
                outcome["dropped"] = dropped
    click.echo(f"{'would be dropped' if dry_run else 'dropped'}: {dropped}")
    if missing:
        raise CheckFailed(f"no such dead letters: {', '.join(sorted(missing))}")


def _age(letter: DeadLetter) -> str:
    if letter.age_seconds is not None:
        return f"{letter.age_seconds:,.0f} s"
    return "ahead of the clock" if letter.ahead_seconds else "unknown"


def _link(settings: Settings) -> Link:
    return make_link("streams", settings.streams, raise_server_errors=True)


def _all(
    settings: Settings, link: Link, reason: str | None, unknown: dict[str, str] | None = None
) -> Iterator[DeadLetter]:
    """Yield the dead letters of all streams.

    ``unknown`` takes the streams that are out of reach, with the reason. If it is None, the error is raised.
    """
    for letters in _streams(settings):
        try:
            while page := drive(letters.next_page(), link):
                yield from (letter for letter, _ in page if reason in (None, letter.reason))
        except Unavailable as error:
            if unknown is None or isinstance(error, LoginRefused):
                raise
            unknown[letters.stream] = str(error)


def _streams(settings: Settings) -> list[DeadLetters]:
    """Return the dead-letter streams of all routes, each once."""
    return [DeadLetters(route) for route in {route.dead_letters: route for route in settings.routes}.values()]


def _check_selection(ids: tuple[str, ...], *, everything: bool, reason: str | None) -> None:
    if sum((bool(ids), everything, reason is not None)) != 1:
        raise click.UsageError("name the dead letters: ids, --reason or --all")


def _letter_id(text: str) -> str:
    try:
        return check_id(text)
    except ValueError:
        raise click.BadParameter(
            "expected the id of a dead letter, as `dead-letters list` shows it", param_hint="ID"
        ) from None
