"""``token-worker tokens disable``, ``enable``, ``remove`` and ``reencrypt``: commands that change tokens."""

from collections.abc import Callable

import click
import msgspec

from token_worker.admin.stored_tokens import Token, Unreadable, entry_label
from token_worker.admin.tokens import TokenAdmin, TokenFilter
from token_worker.cli.terminal import confirm, number
from token_worker.cli.tokens_choice import (
    DRY_RUN,
    YES,
    Asked,
    choosing,
    chosen,
    open_admin,
    read_given,
    report,
    taking_all,
)
from token_worker.errors import CheckFailed
from token_worker.keys.layout_record import LayoutName
from token_worker.telemetry.command_audit import CommandAudit

NOTED_ENTRIES_MAX = 100
"""Changed tokens that are named in the audit log. All are counted."""


@click.command(
    epilog="\b\nExample: echo -n grace@navy.example | token-worker tokens disable shop-frontend --type email --value"
)
@choosing
@DRY_RUN
@YES
def disable(asked: Asked, *, dry_run: bool, yes: bool) -> None:
    """Disable tokens: requests for them, and for their values, are answered `token_disabled`.

    Exit status 1: there is no such token, entries cannot be read, or tokens kept changing.
    """
    _change(
        asked,
        "disable",
        "disabled",
        lambda admin, token: admin.set_disabled(token, disabled=True),
        dry_run=dry_run,
        yes=yes,
    )


@click.command(epilog="Example: token-worker tokens enable shop-frontend --type email --yes")
@choosing
@DRY_RUN
@YES
def enable(asked: Asked, *, dry_run: bool, yes: bool) -> None:
    """Enable tokens that are disabled.

    Exit status 1: the same as for `disable`.
    """
    _change(
        asked,
        "enable",
        "enabled",
        lambda admin, token: admin.set_disabled(token, disabled=False),
        dry_run=dry_run,
        yes=yes,
    )


@click.command(
    epilog="\b\nExample: token-worker tokens remove shop-frontend --state disabled --older-than 365 --dry-run"
)
@choosing
@DRY_RUN
@YES
def remove(asked: Asked, *, dry_run: bool, yes: bool) -> None:
    """Remove tokens for good. Nobody can detokenize them any more.

    In the dense layout, the value gets another token from now on. In Acra's layout it gets the same token again, until
    the client's key is rotated: there, disable a token to revoke it.

    Exit status 1: the same as for `disable`.
    """
    wanted = asked.filter
    _change(asked, "remove", "removed", lambda admin, token: admin.remove(token, wanted), dry_run=dry_run, yes=yes)


@click.command(epilog="Example: token-worker tokens reencrypt shop-frontend --rate 1000")
@taking_all
@DRY_RUN
@YES
def reencrypt(asked: Asked, *, dry_run: bool, yes: bool) -> None:
    """Seal all token entries of a client with its newest key. Tokens do not change.

    Run it a minute after `keys rotate`, or when TOKEN_WORKER_KEY_SETTLING_SECONDS are over: no worker seals with the
    old key any more then. You may stop the command and run it again.

    In Acra's layout, an AcraServer or AcraTranslator that has run with its key cache since before the rotation cannot
    read entries that are sealed with the new key: it returns tokens as if they were the values. Restart it before, or
    run it with --keystore_cache_size=-1.

    Exit status 1: entries cannot be read, and stay as they are; or the new key does not seal yet.
    """

    def ask(layout: LayoutName) -> None:
        if layout == "dense" or dry_run:
            return
        confirm(
            yes,
            "Was every AcraServer and AcraTranslator restarted since the last rotation, or does it run with"
            " --keystore_cache_size=-1, or is there none? Else it returns tokens as if they were the values.",
        )

    audit = CommandAudit("tokens reencrypt", asked.settings.audit_file)
    with (
        open_admin(asked, is_settling=not dry_run, before=ask) as admin,
        audit.change(asked.facts, dry_run=dry_run) as outcome,
    ):
        done = admin.reencrypt(dry_run=dry_run)
        outcome.update(done._asdict())
        if not dry_run:
            admin.confirm()
    if asked.as_json:
        click.echo(msgspec.json.encode({"dry_run": dry_run, **done._asdict()}))
    else:
        would = "would be sealed" if dry_run else "sealed"
        sealed, passes = number(done.sealed, "entry", "entries"), number(done.passes, "pass", "passes")
        click.echo(f"{would} with the newest key: {sealed}, in {passes}; the others already were")
        if done.sealed and not dry_run and admin.stored.layout == "acra":
            click.echo("now restart every AcraServer and AcraTranslator that has a key cache and was not restarted yet")
    report(done.unreadable)


def _change(
    asked: Asked, command: str, done: str, change: Callable[[TokenAdmin, Token], bool], *, dry_run: bool, yes: bool
) -> None:
    if not dry_run and not asked.names_one:
        which = "All tokens" if asked.filter == TokenFilter() else "The chosen tokens"
        confirm(yes, f"{which} of {asked.owner_id} will be {done}. Go on?")
    given = read_given(asked)
    counts = {"changed": 0, "unreadable": 0, "busy": 0}
    audit = CommandAudit(f"tokens {command}", asked.settings.audit_file)
    with open_admin(asked) as admin, audit.change(asked.facts, dry_run=dry_run) as outcome:
        entries = outcome["entries"] = list[str]()
        try:
            for token in chosen(admin, asked, given, to_remove=command == "remove"):
                if isinstance(token, Unreadable):
                    counts["unreadable"] += 1
                elif token.state == done and token.is_whole:
                    continue
                elif dry_run or change(admin, token):
                    counts["changed"] += 1
                    if len(entries) < NOTED_ENTRIES_MAX:
                        entries.append(entry_label(token.t.key))
                else:
                    counts["busy"] += 1
            if not dry_run:
                admin.confirm()
        finally:
            outcome.update(counts)
    changed, unreadable, busy = counts.values()
    if asked.as_json:
        click.echo(msgspec.json.encode({"dry_run": dry_run, done: changed, "unreadable": unreadable, "busy": busy}))
    else:
        click.echo(f"{'would be ' if dry_run else ''}{done}: {number(changed, 'token')}")
    report(unreadable)
    if busy:
        raise CheckFailed(f"other programs kept changing {number(busy, 'token')}; run the command again")
