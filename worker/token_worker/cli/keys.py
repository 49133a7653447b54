"""``token-worker keys``: the keys of clients and zones."""

import os
from pathlib import Path

import click

from token_worker import settings as settings_module
from token_worker.keys.owner import Owner
from token_worker.keys.store import new_key, wrap
from token_worker.service.start import KeyAccess


@click.group()
def keys() -> None:
    """Keys of clients and zones in the key storage."""


@keys.command(epilog="Example: token-worker keys generate shop-frontend")
@click.argument("owner_id", metavar="CLIENT_ID")
@click.option("--zone", is_flag=True, help="CLIENT_ID is the id of a zone (Acra 0.94 and earlier).")
@click.pass_obj
def generate(config: Path | None, owner_id: str, *, zone: bool) -> None:
    """Make the first symmetric key of a client, sealed with the master key.

    A key that exists is never replaced: then nothing changes, and the exit status is 1.
    """
    owner = Owner("zone" if zone else "client", owner_id)
    if not owner.is_valid:
        raise click.BadParameter("expected 5 to 256 letters, digits, '_', '-' or spaces", param_hint="CLIENT_ID")
    access = KeyAccess(settings_module.load(os.environ, config))
    try:
        master_key, store = access.connect()
        created = store.create(owner, wrap(new_key(), master_key, owner))
    finally:
        access.close()
    if not created:
        click.echo(f"{owner.key_name}: there is a key already; nothing was changed", err=True)
        raise SystemExit(1)
    click.echo(f"{owner.key_name}: generated")
