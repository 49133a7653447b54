"""``token-worker keys``: list, verify, describe and generate keys. Never shows the text of a key."""

import os
from pathlib import Path

import click
import msgspec
from rich import box
from rich.table import Table

from token_worker.admin.access import AdminAccess
from token_worker.admin.index_keys import check_not_retired, generate_keys, lack_index_keys, read_layout
from token_worker.admin.keys import BAD_STATUSES, KeyStatus, ListedKey, classify, describe, locate_keys, read_keys
from token_worker.admin.set_aside import read_record
from token_worker.cli.groups import NearestGroup
from token_worker.cli.keys_change import drop_previous, owner_of, rewrap, rotate
from token_worker.cli.keys_destroy import destroy
from token_worker.cli.keys_index import index
from token_worker.cli.terminal import table_console
from token_worker.cli.tokens_choice import agreed_layout, tokens_link
from token_worker.errors import CheckFailed, NoKeyOpens
from token_worker.keys.live_master_keys import LiveMasterKeys
from token_worker.keys.master import MasterKeys
from token_worker.keys.sample import try_sample
from token_worker.keys.store import ListedKeyStore, new_key, wrap
from token_worker.settings import load
from token_worker.telemetry.command_audit import CommandAudit


class Verified(ListedKey, frozen=True, kw_only=True):
    """A key and the master key that seals it."""

    sealed_with: KeyStatus


class Shown(Verified, frozen=True, kw_only=True):
    """Everything that is known about a key. The times (Unix seconds) are the steps of its destruction."""

    history: list[str]
    scanned_at: float | None
    retired_at: float | None


@click.group(cls=NearestGroup)
def keys() -> None:
    """Look at the keys of clients and zones, and change them."""


for command in (rotate, destroy, rewrap, drop_previous, index):
    keys.add_command(command)


@keys.command(epilog="Example: token-worker keys generate shop-frontend")
@click.argument("owner_id", metavar="CLIENT_ID")
@click.option("--zone", is_flag=True, help="CLIENT_ID is the id of a zone (Acra 0.94 and earlier).")
@click.pass_obj
def generate(config: Path | None, owner_id: str, *, zone: bool) -> None:
    """Create the first symmetric key of a client, sealed with the master key.

    If the tokens have the dense layout, the command makes the client's index key first. If it was killed in between,
    run it again: it keeps the index key, and makes the other one.

    The command never replaces a key.

    Exit status 1: the client has a key already, or had one that is being destroyed, or one that is gone although there
    are tokens; or the master key opens none of the keys that were tried; nothing was changed. Exit status 2: by their
    layout records, key storage and token storage do not belong together.
    """
    owner = owner_of(owner_id, zone=zone)
    settings = load(os.environ, config)
    audit = CommandAudit("keys generate", settings.audit_file)
    with AdminAccess(settings) as access:
        master_key, store = access.connect()
        master_keys, admin_store = MasterKeys(master_key, access.previous_master_key), access.admin_store()
        tokens = tokens_link(settings)
        is_dense = agreed_layout(admin_store, tokens, settings.layout) == "dense"
        with audit.change({f"{owner.kind}_id": owner.id}), access.confirmed():
            _check_master_key(access, store, master_keys, settings.keys_folder)
            if is_dense:
                generate_keys(admin_store, master_keys, owner, tokens)
            else:
                check_not_retired(admin_store, owner)
                if not store.create(owner, wrap(new_key(), master_key, owner)):
                    raise CheckFailed(f"{owner.key_name}: there is a key already; nothing was changed")
    click.echo(f"{owner.key_name}: generated{', with its index key' if is_dense else ''}")


def _check_master_key(access: AdminAccess, store: ListedKeyStore, master_keys: MasterKeys, folder: str) -> None:
    """Refuse to make a key with another master key than that of the keys that are there."""
    live, place = LiveMasterKeys(master_keys), access.master_key_place
    try:
        try_sample(store, live, [], folder=folder, where=access.keys_place, master_key=place)
    except NoKeyOpens as error:
        raise CheckFailed(f"{error}; nothing was changed") from None


@keys.command("list", epilog="Example: token-worker keys list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")
@click.pass_obj
def list_(config: Path | None, *, as_json: bool) -> None:
    """List all keys: keys in use, the history, and keys that are being destroyed. Needs no master key.

    The creation time of a key of the history is the time when it was replaced.
    """
    with AdminAccess(load(os.environ, config)) as access:
        listed = [describe(key) for key in locate_keys(access.connect_names())]
    _print(listed, as_json=as_json)


@keys.command(epilog="Example: token-worker keys verify")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")
@click.pass_obj
def verify(config: Path | None, *, as_json: bool) -> None:
    """Try to open every key with the master key.

    Exit status 1: a key cannot be opened, is of an unknown kind, or is sealed with the previous master key; or a client
    has no index key, and the tokens have the dense layout.
    """
    with AdminAccess(load(os.environ, config)) as access:
        master_keys, store = access.connect_admin()
        found = list(read_keys(store, locate_keys(store)))
        rows = [
            Verified(
                **msgspec.structs.asdict(describe(key)),
                sealed_with=classify(key.name, stored.text, master_keys),
            )
            for key, stored in found
        ]
        _print(rows, as_json=as_json)
        bad = [f"{row.name}: {_WORDS[row.sealed_with]}" for row in rows if row.sealed_with in BAD_STATUSES]
        if read_layout(store) == "dense":
            without = lack_index_keys([key for key, _ in found])
            bad += [f"{owner.key_name}: has no index key; {_NO_INDEX_KEY}" for owner in without]
    if bad:
        raise CheckFailed("\n".join(bad))


@keys.command(epilog="Example: token-worker keys show shop-frontend_storage_sym")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@click.pass_obj
def show(config: Path | None, name: str, *, as_json: bool) -> None:
    """Show what is known about the key NAME, one of the names of `keys list --json`. The key itself is never shown.

    Exit status 1: there is no such key.
    """
    with AdminAccess(load(os.environ, config)) as access:
        master_keys, store = access.connect_admin()
        all_keys = locate_keys(store)
        found = list(read_keys(store, [key for key in all_keys if key.name.name == name]))
        if not found:
            raise CheckFailed(f"{name}: there is no such key")
        key, stored = found[0]
        record = read_record(store, key.name)
        shown = Shown(
            **msgspec.structs.asdict(describe(key)),
            sealed_with=classify(key.name, stored.text, master_keys),
            history=[old.name.name for old in all_keys if old.state == "rotated" and old.name.base == name][::-1],
            scanned_at=record.scanned_at if record is not None else None,
            retired_at=record.retired_at if record is not None else None,
        )
    if as_json:
        click.echo(msgspec.json.encode(shown).decode())
        return
    table = Table(box=box.SIMPLE, show_header=False)
    for member, value in msgspec.structs.asdict(shown).items():
        text = "\n".join(value) if isinstance(value, list) else "" if value is None else str(value)
        table.add_row(member.replace("_", " "), text)
    table_console().print(table)


_NO_INDEX_KEY = "bring it back from a backup if there are tokens, or make the first one with `token-worker keys index`"

_WORDS: dict[KeyStatus, str] = {
    "current": "master key",
    "previous": "previous master key",
    "public": "not sealed (public)",
    "version_2": "keystore version 2, which workers do not read",
    "unknown": "not a key that Acra or token-worker makes",
    "unreadable": "the master key does not open it",
}


def _print(rows: list[ListedKey] | list[Verified], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            click.echo(msgspec.json.encode(row).decode())
        return
    table = Table("key id", "purpose", "client or zone", "state", "creation time", box=box.SIMPLE)
    if any(isinstance(row, Verified) for row in rows):
        table.add_column("sealed with")
    for row in rows:
        cells = [
            row.key_id if row.purpose is not None else row.name,
            row.purpose or "unknown",
            row.client_id or row.zone_id or "",
            row.state,
            row.creation_time or "",
        ]
        table.add_row(*cells, *([_WORDS[row.sealed_with]] if isinstance(row, Verified) else []))
    table_console().print(table)
