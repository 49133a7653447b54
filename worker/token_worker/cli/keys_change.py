"""``token-worker keys rotate``, ``rewrap`` and ``drop-previous``: commands that change existing keys."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from token_worker.acra.owner import Owner
from token_worker.admin import rewrap as rewrapping
from token_worker.admin import rotate as rotation
from token_worker.admin.access import AdminAccess
from token_worker.cli.terminal import confirm, number, utc
from token_worker.errors import CheckFailed
from token_worker.keys.history import replaced_at
from token_worker.settings import load
from token_worker.telemetry.command_audit import CommandAudit

_NEXT_STEPS = """\
The new master key is in Vault; keys are still sealed with the previous one. Next:
  1. token-worker keys rewrap
     (workers that run read the new master key by themselves: do not restart them)
  2. restart AcraServer and AcraTranslator as soon as that has ended
  3. token-worker keys drop-previous
From now on, and until step 1 has ended, an AcraServer or AcraTranslator that is restarted does not start: do not
restart them, and do not wait with step 1."""


_NO_CACHE = "--keystore_cache_size=-1"
_ACRAS = f"every AcraServer and AcraTranslator that does not run with {_NO_CACHE}"


def owner_of(owner_id: str, *, zone: bool) -> Owner:
    """A client or zone named on the command line.

    Raises:
        click.BadParameter: Acra does not accept the id.
    """
    owner = Owner("zone" if zone else "client", owner_id)
    if not owner.is_valid:
        raise click.BadParameter("expected 5 to 256 letters, digits, '_', '-' or spaces", param_hint="CLIENT_ID")
    return owner


@click.command(epilog="Example: token-worker keys rotate shop-frontend")
@click.argument("owner_id", metavar="CLIENT_ID")
@click.option("--zone", is_flag=True, help="CLIENT_ID is the id of a zone (Acra 0.94 and earlier).")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.pass_obj
def rotate(config: Path | None, owner_id: str, *, zone: bool, yes: bool) -> None:
    """Replace the symmetric key of a client. The old key moves to the history.

    Running workers can open entries with the new key at once. They seal with it after
    TOKEN_WORKER_KEY_SETTLING_SECONDS, or within a minute if that is 0. Tokens do not change, and workers can detokenize
    all of them.

    An AcraServer or AcraTranslator with a key cache (the default) does not know the new key until it is restarted. If
    an entry is sealed with the new key, it returns the token as if that were the value. Restart it before workers seal
    with the new key, or run it with --keystore_cache_size=-1.

    If the command is killed before it prints its result, the key may have been rotated. A second rotation does no harm.
    """
    owner = owner_of(owner_id, zone=zone)
    settings = load(os.environ, config)
    settling = settings.key_settling_seconds
    when = f"in {settling} s" if settling else "within a minute"
    confirm(
        yes,
        f"Workers will seal with the new key {when}. By then restart {_ACRAS}: else it returns tokens as if they were"
        " the values. Rotate now?",
    )
    audit = CommandAudit("keys rotate", settings.audit_file)
    with AdminAccess(settings) as access:
        master_keys, store = access.connect_admin()
        with audit.change({f"{owner.kind}_id": owner.id}) as outcome, access.confirmed():
            history = outcome["history"] = rotation.rotate(store, master_keys, owner)
    click.echo(f"{owner.key_name}: rotated; the old key is {history}")
    if settling:
        begin = utc((replaced_at(history) or time.time()) + settling)
        click.echo(f"workers seal with the new key from {begin} on; restart before that {_ACRAS}")
    else:
        click.echo(f"workers seal with the new key within a minute; restart at once {_ACRAS}")


@click.command(epilog="Example: token-worker keys rewrap --new-master-key")
@click.option("--new-master-key", is_flag=True, help="First run: only make a new master key and store it in Vault.")
@click.option(
    "--workers-have-both",
    is_flag=True,
    help="Confirm that all workers were restarted with both master keys; not for a master key in Vault.",
)
@click.option("--dry-run", is_flag=True, help="Only count the keys that are sealed with each master key.")
@click.pass_obj
def rewrap(config: Path | None, *, new_master_key: bool, workers_have_both: bool, dry_run: bool) -> None:
    """Seal every key with a new master key.

    If the master key is in Vault, `rewrap --new-master-key` stores a new one in its secret. The old one is then the
    previous version of the secret. Then run `rewrap`. Workers read the new master key by themselves, when they meet the
    first key that is sealed with it. Last, `keys drop-previous` drops the old one.

    If the master key is in ACRA_MASTER_KEY, set that to the new key, and ACRA_MASTER_KEY_PREVIOUS to the old one.
    Restart the workers, so that they have both, then run `rewrap --workers-have-both`.

    You may stop this command and run it again.

    Acra has one master key at a time. From the moment that the new one is in its place until this command has ended, an
    AcraServer or AcraTranslator that is restarted does not start. Restart it as soon as the command has ended.

    Exit status 1: a key is of an unknown kind, or neither master key opens it. Nothing is changed then.
    """
    if new_master_key and workers_have_both:
        raise click.UsageError("--new-master-key comes first, --workers-have-both in a later run: leave one out")
    settings = load(os.environ, config)
    if new_master_key and settings.master_key_source != "vault":
        raise click.UsageError(
            "--new-master-key is for a master key in Vault; set ACRA_MASTER_KEY to a new one yourself, and"
            " ACRA_MASTER_KEY_PREVIOUS to the one before"
        )
    if workers_have_both and settings.master_key_source == "vault":
        raise click.UsageError("workers read a new master key from Vault by themselves: leave --workers-have-both out")
    audit = CommandAudit("keys rewrap", settings.audit_file)
    with AdminAccess(settings) as access:
        master_keys, store = access.connect_admin()
        counts = rewrapping.survey(store, master_keys)
        click.echo(
            f"keys: {counts['current']} sealed with the master key, {counts['previous']} with the previous one,"
            f" {counts['public']} public"
        )
        if dry_run:
            return
        if new_master_key:
            if not counts["previous"]:
                with audit.change({"new_master_key": True}):
                    access.replace_master_key(master_keys.current)
            click.echo(_NEXT_STEPS)
            return
        if counts["previous"] and settings.master_key_source != "vault":
            confirm(
                workers_have_both,
                'Were all workers restarted with both master keys (log: "two master keys loaded")?',
                "--workers-have-both",
            )
        with _progress("sealing keys") as progress, audit.change() as outcome, access.confirmed():
            done = rewrapping.rewrap(store, master_keys, progress)
            outcome["sealed"] = done.sealed
    sealed, passes = number(done.sealed, "key"), number(done.passes, "pass", "passes")
    click.echo(f"sealed with the master key: {sealed}, in {passes}; the others already were")
    if master_keys.previous is not None:
        drop = "token-worker keys drop-previous"
        if settings.master_key_source != "vault":
            drop = "unset ACRA_MASTER_KEY_PREVIOUS, and restart the workers"
        click.echo(f"restart AcraServer and AcraTranslator now; then drop the old one: {drop}")


@click.command("drop-previous", epilog="Example: token-worker keys drop-previous --yes")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--dry-run", is_flag=True, help="Only count the keys that are sealed with each master key.")
@click.pass_obj
def drop_previous(config: Path | None, *, yes: bool, dry_run: bool) -> None:
    """Drop the master key that `keys rewrap` has replaced: delete its versions of the secret in Vault.

    Workers that run forget it within a quarter of an hour of work. `vault kv undelete` brings the versions back, until
    you run `vault kv destroy`: a backup of the key storage from before the replacement needs the old master key.

    Exit status 1: a key is still sealed with the previous master key, or there is none. Nothing is changed then.
    """
    settings = load(os.environ, config)
    if settings.master_key_source != "vault":
        raise click.UsageError(
            "drop-previous is for a master key in Vault; if `token-worker keys verify` finds no key that is sealed with"
            " the previous master key, unset ACRA_MASTER_KEY_PREVIOUS yourself, and restart the workers"
        )
    audit = CommandAudit("keys drop-previous", settings.audit_file)
    with AdminAccess(settings) as access:
        master_keys, store = access.connect_admin()
        counts = rewrapping.survey(store, master_keys)
        if counts["previous"]:
            raise CheckFailed(
                f"{counts['previous']} keys are sealed with the previous master key: run `token-worker keys rewrap`"
                " first; nothing was changed"
            )
        if master_keys.previous is None:
            raise CheckFailed("there is no previous master key in Vault; nothing was changed")
        click.echo(f"keys: {counts['current']} sealed with the master key, {counts['public']} public")
        if dry_run:
            return
        confirm(yes, "Were AcraServer and AcraTranslator restarted since `keys rewrap`, or is there none?")
        with audit.change() as outcome:
            numbers = access.drop_previous_master_keys(master_keys.current)
            outcome["versions"] = len(numbers)
    click.echo(f"versions deleted: {', '.join(map(str, sorted(numbers)))}; `vault kv undelete` brings them back")


@contextmanager
def _progress(what: str) -> Iterator[rewrapping.ReportProgress]:
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what)
        yield lambda seen, total: bar.update(task, completed=seen, total=total)
