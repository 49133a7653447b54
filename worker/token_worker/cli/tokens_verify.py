"""``token-worker tokens verify``: finds entries that do not fit each other, and repairs what can be repaired."""

import time
from collections import Counter
from collections.abc import Iterator

import click
import msgspec

from token_worker.admin.stored_tokens import Finding, Token, Unreadable
from token_worker.admin.tokens import TokenAdmin, TokenFilter
from token_worker.cli.terminal import number
from token_worker.cli.tokens_choice import DRY_RUN, Asked, open_admin, taking_all
from token_worker.errors import CheckFailed
from token_worker.keys.layout_record import LayoutName
from token_worker.telemetry.command_audit import CommandAudit

REPAIR_AGE_SECONDS = 3600.0
"""Age from which ``--repair`` deletes entries in Acra's layout. The other entry of a younger one may yet be written."""

NAMED_ENTRIES = 100
"""Entries of a kind that are named. All are counted."""

_WORDS = {
    "value_alone": "value entries whose token entry is gone",
    "disabled_alone": "tokens with one entry disabled and the other not",
    "mismatch": "value entries that name the token of another value",
    "removed_alone": "tokens with one entry removed and the other not",
    "unreadable": "entries that cannot be read",
    "not_given": "token entries that a lost race left, which nobody was given",
    "not_text": "values that are not UTF-8 text, but not damaged",
}
"""All counts, and what they count."""

_DENSE_ONLY = ("removed_alone", "not_given")
_NO_FINDINGS = ("not_given", "not_text", "repaired")
"""Counts that are not findings."""


@click.command(epilog="Example: token-worker tokens verify shop-frontend --repair --dry-run")
@taking_all
@click.option(
    "--repair",
    is_flag=True,
    help="Delete value entries whose token entry is missing, and complete removals. Token entries are never deleted.",
)
@click.option(
    "--min-age-seconds",
    type=click.FloatRange(0),
    help="With --repair, in Acra's layout: only entries that were not used for so many seconds."
    f"  [default: {REPAIR_AGE_SECONDS:g}]",
)
@DRY_RUN
def verify(asked: Asked, *, repair: bool, min_age_seconds: float | None, dry_run: bool) -> None:
    """Find tokens of a client that lack an entry, tokens with only one entry disabled, and entries that cannot be read.

    A str or email that is not UTF-8, as AcraServer stores other encodings, is counted, but is not a finding.

    The entry of each finding is named, in hexadecimal digits if it is one of the dense layout.

    Exit status 1: something was found and not repaired.
    """
    if not repair and (dry_run or min_age_seconds is not None):
        raise click.UsageError("--dry-run and --min-age-seconds are only for --repair: add it, or leave them out")

    def check_options(layout: LayoutName) -> None:
        if layout == "dense" and min_age_seconds is not None:
            raise click.UsageError(
                "--min-age-seconds: the dense layout does not keep when an entry was last used, and needs no such time"
            )

    least_age = REPAIR_AGE_SECONDS if min_age_seconds is None else min_age_seconds
    audit = CommandAudit("tokens verify", asked.settings.audit_file)
    counts: Counter[str] = Counter()
    names: dict[str, list[str]] = {}
    with (
        open_admin(asked, before=check_options) as admin,
        audit.change(asked.facts | {"repair": repair}, dry_run=dry_run or not repair) as outcome,
    ):
        outcome["repaired"] = 0
        for finding in _findings(admin, counts):
            if isinstance(finding, Unreadable):
                _count("unreadable", finding.key, counts, names)
                continue
            is_old = finding.used_at is None or time.time() - finding.used_at >= least_age
            if repair and finding.repair and is_old and (dry_run or admin.repair(finding)):
                counts["repaired"] += 1
            else:
                _count(finding.what, finding.key, counts, names)
            outcome["repaired"] = counts["repaired"]
        if repair and not dry_run:
            admin.confirm()
        layout = admin.stored.layout
    what = "value entries" if layout == "acra" else "findings"
    done = "deleted" if layout == "acra" else "repaired"
    words = {name: text for name, text in _WORDS.items() if layout == "dense" or name not in _DENSE_ONLY}
    words["repaired"] = f"{what} {'would be' if dry_run else 'were'} {done}"
    if asked.as_json:
        click.echo(msgspec.json.encode({**{name: counts[name] for name in words}, "entries": names}))
    else:
        for name, text in words.items():
            if counts[name] or name not in _NO_FINDINGS:
                click.echo(f"{counts[name]} {text}")
            for entry in names.get(name, ()):
                click.echo(f"  {entry}")
            if len(names.get(name, ())) == NAMED_ENTRIES < counts[name]:
                click.echo(f"  and {counts[name] - NAMED_ENTRIES} more")
    found = sum(counts[name] for name in words if name not in _NO_FINDINGS)
    if found:
        raise CheckFailed(number(found, "finding"))


def _count(what: str, key: bytes, counts: Counter[str], names: dict[str, list[str]]) -> None:
    counts[what] += 1
    if what not in _NO_FINDINGS and counts[what] <= NAMED_ENTRIES:
        names.setdefault(what, []).append(key.decode(errors="replace") if key.startswith(b"tokens/") else key.hex())


def _findings(admin: TokenAdmin, counts: Counter[str]) -> Iterator[Finding | Unreadable]:
    """All findings, and what cannot be read. Values that are no text are counted."""
    for token in admin.tokens(TokenFilter()):
        if isinstance(token, Token):
            counts["not_text"] += not token.is_text
            finding = admin.check_token(token)
            if finding is not None:
                yield finding
        else:
            yield token
    yield from admin.check_values()
