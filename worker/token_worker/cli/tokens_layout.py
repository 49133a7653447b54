"""``token-worker tokens layout``: show the layout of the token storage, or choose it for an empty one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
from rich import box
from rich.table import Table

from token_worker.admin.access import AdminAccess
from token_worker.admin.key_store import AdminStore
from token_worker.admin.layout import (
    Records,
    check_empty,
    check_no_workers,
    plan_change,
    read_records,
    write_records,
)
from token_worker.cli.terminal import ScanProgress, table_console
from token_worker.cli.tokens_choice import DRY_RUN
from token_worker.errors import CheckFailed, CorruptData
from token_worker.keys.layout_record import TOKENS_RECORD, LayoutName, LayoutRecord, layout_path
from token_worker.redis.connect import AnyLink, make_link
from token_worker.settings import load
from token_worker.settings.options import Settings
from token_worker.telemetry.command_audit import CommandAudit

_MEANINGS: dict[LayoutName, str] = {
    "acra": "tokens are stored as Acra stores them; AcraServer and AcraTranslator can use them, too",
    "dense": "tokens are stored in token-worker's own layout; AcraServer and AcraTranslator cannot use them",
}


@click.command(epilog="Example: token-worker tokens layout dense --dry-run")
@click.argument("name", metavar="[acra|dense]", required=False, type=click.Choice(["acra", "dense"]))
@DRY_RUN
@click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
@click.pass_obj
def layout(config: Path | None, *, name: LayoutName | None, dry_run: bool, as_json: bool) -> None:
    """Show the layout of the token storage, or record the one that it is to have.

    Without an argument the command prints the records of key storage and token storage, and what they mean.

    With `acra` or `dense` it records this layout. There must be no tokens, no record of another token storage, and no
    worker that is running. If the command was interrupted, run it again.

    Exit status 1: the records do not agree, or the layout cannot be recorded.
    """
    if name is None and dry_run:
        raise click.UsageError("--dry-run needs a layout: add acra or dense, or leave it out")
    settings = load(os.environ, config)
    with _storages(settings) as (store, link):
        try:
            found = read_records(store, link)
        except CorruptData as error:
            raise CheckFailed(str(error)) from None
        if name is None:
            _show(settings, found, as_json=as_json)
        else:
            _record(settings, store, link, found, name, dry_run=dry_run, as_json=as_json)


@contextmanager
def _storages(settings: Settings) -> Iterator[tuple[AdminStore, AnyLink]]:
    with AdminAccess(settings) as access:
        store = access.connect_names()
        link = make_link("tokens", settings.tokens, raise_server_errors=True)
        try:
            yield store, link
        finally:
            link.close()


def _show(settings: Settings, found: Records, *, as_json: bool) -> None:
    problem = found.problem(settings.layout)
    if as_json:
        shown = {
            "layout": found.layout if problem is None else None,
            "key_storage": found.in_keys,
            "token_storage": found.in_tokens,
            "problem": None if problem is None else str(problem),
        }
        click.echo(msgspec.json.encode(shown))
    else:
        table = Table("where", "record", "layout", "since", "id of the token storage", box=box.SIMPLE)
        records = {
            ("key storage", layout_path(settings.keys_folder)): found.in_keys,
            ("token storage", TOKENS_RECORD): found.in_tokens,
        }
        for where, record in records.items():
            cells = ("none", "", "") if record is None else (_name(record), record.since, record.storage)
            table.add_row(*where, *cells)
        table_console().print(table)
        if problem is None:
            without = "" if found.in_keys else "without a record, "
            click.echo(f"{found.layout}: {without}{_MEANINGS[found.layout]}")
    if problem is not None:
        raise CheckFailed(str(problem))


def _name(record: LayoutRecord) -> str:
    remarks = [name for name in ("foreign", "unfinished") if getattr(record, name)]
    return f"{record.layout} ({', '.join(remarks)})" if remarks else record.layout


def _record(
    settings: Settings,
    store: AdminStore,
    link: AnyLink,
    found: Records,
    name: LayoutName,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    if settings.layout not in (None, name):
        raise CheckFailed(f"TOKEN_WORKER_LAYOUT is {settings.layout}: no worker would start; set it to {name} first")
    change = plan_change(found, name)
    if change is not None:
        streams = make_link("streams", settings.streams, raise_server_errors=True)
        try:
            check_no_workers(settings.routes, settings.group, streams)
        finally:
            streams.close()
        check_empty(link, name, ScanProgress("token storage"))
        audit = CommandAudit("tokens layout", settings.audit_file)
        with audit.change({"layout": name}, dry_run=dry_run):
            if not dry_run:
                write_records(store, link, found, change.record)
    writes = [] if change is None else change.writes
    if as_json:
        click.echo(msgspec.json.encode({"dry_run": dry_run, "layout": name, "recorded_in": writes}))
    elif not writes:
        click.echo(f"{name}: this is the layout already")
    else:
        click.echo(f"{name}: {'would be recorded' if dry_run else 'recorded'} in {' and '.join(writes)}")
