"""``token-worker keys destroy``: destroy a key of the history, or the last keys of a client."""

import os
from pathlib import Path

import click

from token_worker.acra.key_name import KeyName, parse_name
from token_worker.acra.owner import Owner
from token_worker.admin.access import AdminAccess
from token_worker.admin.destroy import Destruction
from token_worker.admin.entry_scan import read_index_key
from token_worker.admin.entry_store import EntryStore
from token_worker.admin.key_store import AdminStore
from token_worker.admin.last_keys import LastKeys, LastKeysStep
from token_worker.cli.keys_change import owner_of
from token_worker.cli.terminal import confirm, confirm_by_typing, number, utc
from token_worker.cli.tokens_choice import agreed_layout, entries_behind, tokens_link
from token_worker.settings import load
from token_worker.settings.options import Settings
from token_worker.telemetry.command_audit import CommandAudit


@click.command(
    epilog="\b\nExample: token-worker keys destroy shop-frontend_storage_sym.old/2026-01-31T08:15:30.25 --dry-run"
)
@click.argument("name")
@click.option("--last", is_flag=True, help="NAME is a client id: destroy all of its keys, with its index key.")
@click.option("--zone", is_flag=True, help="With --last: NAME is the id of a zone (Acra 0.94 and earlier).")
@click.option(
    "--confirm", "typed", metavar="CLIENT_ID", help="With --last: confirm by the id of the client, once more."
)
@click.option(
    "--acra-restarted",
    is_flag=True,
    help="Confirm that AcraServer and AcraTranslator were restarted since the rotation.",
)
@click.option(
    "--unused-elsewhere", is_flag=True, help="Confirm that no database holds data that Acra encrypted with this key."
)
@click.option("--restore", is_flag=True, help="Bring back a key that was moved aside.")
@click.option("--dry-run", is_flag=True, help="Scan, and print what would be done.")
@click.pass_obj
def destroy(
    config: Path | None,
    name: str,
    *,
    last: bool,
    zone: bool,
    typed: str | None,
    acra_restarted: bool,
    unused_elsewhere: bool,
    restore: bool,
    dry_run: bool,
) -> None:
    """Destroy the key NAME of the history, or with --last all keys of a client, one step at a time.

    Run the command again when the next step is due. NAME is one of the names of `keys list --json`. Each step begins
    with a scan that must find no token entry that is sealed with the key. The first step is due about two hours after
    the rotation. The second one, two hours later, moves the key aside. The third one, a week later, deletes it. Until
    then, --restore brings it back. What is sealed with a deleted key is lost for good. The index key of the client
    stays.

    With --last, NAME is a client id. The first step moves all symmetric keys and the index key of the client aside;
    from then on its requests are answered `unknown_client`. The second one, a week later, deletes them. Then nobody can
    detokenize any token of the client, in no copy of the token storage.

    Exit status 1: no step is due yet, entries are sealed with the key, or there is no such key. Exit status 2: by their
    layout records, key storage and token storage do not belong together.
    """
    if restore and (acra_restarted or unused_elsewhere or typed is not None):
        raise click.UsageError(
            "--acra-restarted, --unused-elsewhere and --confirm confirm the destruction: leave them out of --restore"
        )
    if not last and (zone or typed is not None):
        raise click.UsageError("--zone and --confirm are for --last")
    if last and acra_restarted:
        raise click.UsageError("--acra-restarted is for a key of the history: leave it out of --last")
    settings = load(os.environ, config)
    if last:
        owner = owner_of(name, zone=zone)
        _destroy_last(settings, owner, typed, unused_elsewhere=unused_elsewhere, restore=restore, dry_run=dry_run)
        return
    key = _history_name(name)
    audit = CommandAudit("keys destroy", settings.audit_file)
    with AdminAccess(settings) as access:
        master_keys, store = access.connect_admin()
        entries = _entries(settings, store, restore=restore)
        destruction = Destruction(store, master_keys, entries, settling_seconds=settings.key_settling_seconds)
        if not restore and not dry_run and destruction.next_step(key) != "scanned":
            confirm(
                acra_restarted,
                f"Were AcraServer and AcraTranslator restarted since {key.stamp}, or is there none?",
                "--acra-restarted",
            )
            _confirm_unused(given=unused_elsewhere)
        with audit.change({"key": key.name, "restore": restore}, dry_run=dry_run) as outcome:
            done = (destruction.restore if restore else destruction.step)(key, dry_run=dry_run)
            outcome["step"] = done.what
        has_index_key = key.owner is not None and read_index_key(store, master_keys, key.owner) is not None
    words = {
        "scanned": "no token entry is sealed with it",
        "retired": "no token entry is sealed with it; moved aside, --restore brings it back",
        "deleted": "deleted",
        "restored": "is in the history again",
    }
    would = "would be: " if dry_run else ""
    scanned = f" (entries seen: {done.scan.entries}, damaged: {done.scan.damaged})" if done.scan is not None else ""
    click.echo(f"{key.name}: {would}{words[done.what]}{scanned}")
    if dry_run and has_index_key:
        click.echo("the index key of the client stays")
    if done.due_at is not None:
        click.echo(f"next step: {utc(done.due_at)}")


def _destroy_last(
    settings: Settings, owner: Owner, typed: str | None, *, unused_elsewhere: bool, restore: bool, dry_run: bool
) -> None:
    audit = CommandAudit("keys destroy", settings.audit_file)
    with AdminAccess(settings) as access:
        master_keys, store = access.connect_admin()
        last_keys = LastKeys(store, master_keys, _entries(settings, store, restore=restore), owner)
        if not restore and not dry_run:
            planned = last_keys.step(dry_run=True)
            if planned.what != "deleted" or planned.keys:
                _confirm_unused(given=unused_elsewhere)
            confirm_by_typing(typed, owner.id, _question(planned), "--confirm")
        facts = {f"{owner.kind}_id": owner.id, "last": True, "restore": restore}
        with audit.change(facts, dry_run=dry_run) as outcome:
            done = (last_keys.restore if restore else last_keys.step)(dry_run=dry_run)
            outcome |= {"step": done.what, "keys": done.keys}
    words = {
        "retired": "moved aside, --restore brings it back",
        "deleted": "deleted",
        "restored": "is in its place again",
    }
    would = "would be: " if dry_run else ""
    for name in done.keys:
        click.echo(f"{name}: {would}{words[done.what]}")
    if not done.keys:
        click.echo(f"{owner.id}: had no key; {would}its check value deleted from the token storage")
    elif done.what != "restored":
        what = "are lost for good" if done.what == "deleted" and not dry_run else "will be lost for good"
        count = "cannot be counted, because the index key is gone" if done.entries is None else done.entries
        click.echo(f"entries in the token storage that {what}: {count}")
    if done.what == "retired" and not dry_run:
        click.echo("workers answer unknown_client within a minute, within 16 if the key storage is out of their reach")
    if done.due_at is not None:
        click.echo(f"next step: {utc(done.due_at)}")


def _entries(settings: Settings, store: AdminStore, *, restore: bool) -> EntryStore:
    link = tokens_link(settings)
    if not restore:  # a key is destroyed because entries are not there, so it has to be the right token storage
        agreed_layout(store, link, settings.layout)
    return entries_behind(link, settings)


def _question(planned: LastKeysStep) -> str:
    if not planned.keys:
        return "The client has no key, but the token storage has its check value. Are its keys lost for good?"
    moved = "moves all keys of the client aside" if planned.what == "retired" else "deletes all keys of the client"
    if planned.entries is None:
        return f"This {moved}. Its index key is gone, so its tokens cannot be counted; all will be lost for good."
    return f"This {moved}, with its index key; {number(planned.entries, 'entry', 'entries')} will be lost for good."


def _confirm_unused(*, given: bool) -> None:
    confirm(
        given,
        "Is there no database with data that Acra encrypted with this key (columns, searchable or not)?",
        "--unused-elsewhere",
    )


def _history_name(name: str) -> KeyName:
    key = parse_name(name)
    if key.kind is None or key.stamp is None or not key.seals_tokens:
        raise click.BadParameter(
            "expected a symmetric key of a client or zone from the history, <id>_storage_sym.old/<time>; or a client id"
            " with --last",
            param_hint="NAME",
        )
    return key
