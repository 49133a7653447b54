"""``token-worker keys index``: make the index keys that the dense token storage needs."""

import os
from contextlib import nullcontext
from pathlib import Path

import click
import msgspec

from token_worker.admin.access import AdminAccess
from token_worker.admin.index_keys import PROBLEMS, IndexKey, IndexKeyState, make_index_keys, owners_with_keys
from token_worker.cli.keys_change import owner_of
from token_worker.cli.terminal import number
from token_worker.cli.tokens_choice import agreed_layout, tokens_link
from token_worker.errors import CheckFailed
from token_worker.settings import load
from token_worker.telemetry.command_audit import CommandAudit

_WORDS: dict[IndexKeyState, str] = {
    "made": "index key made",
    "present": "has an index key",
    **PROBLEMS,
}


@click.command(epilog="Example: token-worker keys index --all --dry-run")
@click.argument("owner_id", metavar="[CLIENT_ID]", required=False)
@click.option("--zone", is_flag=True, help="CLIENT_ID is the id of a zone (Acra 0.94 and earlier).")
@click.option("--all", "all_owners", is_flag=True, help="Every client and zone that has a key.")
@click.option("--dry-run", is_flag=True, help="Print what would be done. Change nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")
@click.pass_obj
def index(
    config: Path | None, owner_id: str | None, *, zone: bool, all_owners: bool, dry_run: bool, as_json: bool
) -> None:
    """Make the index key of a client, or of all clients and zones, where there is none.

    The dense layout of the token storage needs an index key for each client: its entries are named by that. `keys
    generate` makes it for new clients. Run `keys index --all` before you move tokens into the dense layout.

    An index key is never replaced. If this command was killed, run it again.

    Exit status 1: the client has no key; or the master key does not open its key, or an index key that exists; or an
    index key is being destroyed, or is gone, and tokens were named by it. Exit status 2: by their layout records, key
    storage and token storage do not belong together.
    """
    if all_owners == (owner_id is not None) or (zone and all_owners):
        raise click.UsageError("give a CLIENT_ID, with --zone for a zone, or --all")
    settings = load(os.environ, config)
    chosen = None if owner_id is None else owner_of(owner_id, zone=zone)
    audit = CommandAudit("keys index", settings.audit_file)
    facts = {"all": True} if chosen is None else {f"{chosen.kind}_id": chosen.id}
    made = problems = total = 0
    with AdminAccess(settings) as access:
        master_keys, store = access.connect_admin()
        tokens = tokens_link(settings)
        agreed_layout(store, tokens, settings.layout)
        owners = owners_with_keys(store) if chosen is None else [chosen]
        confirmed = nullcontext() if dry_run else access.confirmed()
        with audit.change(facts, dry_run=dry_run) as outcome, confirmed:
            for key in make_index_keys(store, master_keys, owners, tokens, dry_run=dry_run):
                made += key.state == "made"
                problems += key.state in PROBLEMS
                total += 1
                outcome["made"] = made
                _print(key, as_json=as_json, is_quiet=all_owners and key.state == "present", dry_run=dry_run)
    if not as_json and all_owners:
        click.echo(f"index keys: {made} {'would be ' if dry_run else ''}made, {total - made - problems} exist")
    if problems:
        whose = number(problems, "client or zone has", "clients or zones have")
        raise CheckFailed(f"{whose} an index key that cannot be used, or none; see above")


def _print(key: IndexKey, *, as_json: bool, is_quiet: bool, dry_run: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(key).decode())
    elif not is_quiet:
        would = "would be: " if dry_run and key.state == "made" else ""
        click.echo(f"{key.client_id or key.zone_id}: {would}{_WORDS[key.state]}")
