"""Rows of the tables of servers, keys and checks. Pure."""

from collections.abc import Iterator
from typing import NamedTuple

from token_worker.errors import in_words
from token_worker.monitor import words
from token_worker.monitor.checks import LEFT_OUT
from token_worker.monitor.look import Look
from token_worker.monitor.problems import SIGNS, Level, Trouble, anchor_of, is_shown_elsewhere
from token_worker.monitor.servers import ServerFacts
from token_worker.monitor.source import Seen
from token_worker.monitor.words import NONE, number_of


class ServerRow(NamedTuple):
    """A row of the table of servers."""

    level: Level
    sign: str
    uses: str
    state: str
    version: str
    memory: str
    part: int | None
    persistence: str
    role: str


class KeyRow(NamedTuple):
    """A row of the table of keys."""

    owner: str
    replaced: str
    earlier: int


class CheckRow(NamedTuple):
    """A finding of ``doctor``."""

    name: str
    message: str
    remedy: str
    anchor: str


def server_rows(look: Look, troubles: list[Trouble]) -> list[ServerRow]:
    """All servers, with the level of their troubles."""
    return [row for uses, seen in look.servers.items() for row in _servers(uses, seen, look.at, troubles)]


def _servers(uses: str, seen: Seen[list[ServerFacts]], now: float, troubles: list[Trouble]) -> Iterator[ServerRow]:
    state, level = "answers", Level.GOOD
    if seen.trouble is not None:
        reason, since = seen.trouble
        level, state = Level.BAD, f"away since {words.clock(since)} UTC: {in_words(reason)}"
    elif seen.value is None:
        state = "is being asked"
    for server in seen.value or ():
        name = f"{uses} at {server.node}" if server.node else uses
        mine = max((trouble.kind.level for trouble in troubles if trouble.subject == name), default=Level.GOOD)
        part = round(100 * server.used_bytes / server.limit_bytes) if server.limit_bytes else None
        limit = f"{words.size(server.limit_bytes)}, {part} %" if server.limit_bytes else "no limit"
        worst = max(level, mine)
        yield ServerRow(
            level=worst,
            sign=SIGNS[worst],
            uses=name,
            state=state,
            version=server.version,
            memory=f"{words.size(server.used_bytes)} of {limit}; {server.policy}",
            part=None if part is None else min(part, 100),
            persistence=_persistence(server, now),
            role=_role(server),
        )
    if not seen.value:
        yield ServerRow(level, SIGNS[level], uses, state, NONE, NONE, None, NONE, NONE)


def _persistence(server: ServerFacts, now: float) -> str:
    file = "no append-only file"
    if server.has_aof:
        file = "append-only file" if server.is_aof_written else "append-only file CANNOT BE WRITTEN"
    if not server.saved_at:
        return file
    snapshot = f"snapshot {words.duration(now - server.saved_at)} ago, {words.count(server.changes)} changes since"
    return f"{file}; {snapshot}" if server.is_snapshot_saved else f"{file}; the last snapshot FAILED"


def _role(server: ServerFacts) -> str:
    if server.role == "slave":
        return "replica"
    return f"primary, {number_of(server.replicas, 'replica')}" if server.role == "master" else server.role


def key_rows(look: Look) -> tuple[list[KeyRow], str]:
    """The oldest keys, and a sentence about all of them."""
    if look.keys is None:
        return [], "Keys are in Vault, which the monitor does not use. token-worker keys list has them."
    ages = look.keys.value
    if ages is None:
        if look.keys.trouble is not None:
            return [], f"Names of keys cannot be read: {look.keys.trouble.reason}."
        return [], "The names are being read. This takes a while if the storage has many tokens."
    rows = [
        KeyRow(
            f"{owner.kind} {owner.id}",
            "never, its age is unknown"
            if owner.replaced_at is None
            else f"{words.moment(owner.replaced_at)} ({words.duration(look.at - owner.replaced_at)} ago)",
            owner.earlier,
        )
        for owner in ages.oldest
    ]
    parts = [f"{number_of(ages.clients, 'client')} and {number_of(ages.zones, 'zone')} have a key in use"]
    parts.append(f"{words.count(ages.never_replaced)} of these keys were never replaced")
    if not ages.is_whole:
        parts.append("there are more keys than are looked at")
    more = ages.clients + ages.zones - len(rows)
    if more > 0:
        parts.append(f"{words.count(more)} are not in the table")
    return rows, f"{'; '.join(parts)}."


def check_rows(look: Look) -> list[CheckRow]:
    """The findings of ``doctor`` that stand nowhere else on the page."""
    return [
        CheckRow(check.check, check.message, check.remedy, anchor_of(check.check))
        for check in look.checks.value or ()
        if check.status == "finding" and not is_shown_elsewhere(check)
    ]


def checks_note(look: Look) -> str:
    """The number of checks that found nothing, and the time."""
    checks = look.checks.value
    if look.checks.trouble is not None:
        return f"The checks failed: {look.checks.trouble.reason}."
    if checks is None:
        return "The checks are being done."
    fine = sum(check.status == "ok" for check in checks)
    return f"{number_of(fine, 'check')} found nothing, at {words.moment(look.checks.at)} UTC."


def left_out(look: Look) -> list[tuple[str, str]]:
    """The checks that the monitor cannot do, and why."""
    unknown = [(check.check, check.message) for check in look.checks.value or () if check.status == "unknown"]
    return [*unknown, *LEFT_OUT.items()]
