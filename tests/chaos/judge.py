"""Decides which troubles of an act are excused by the data that was lost, and which are not.

A ``Permit`` is made at the moment of the loss, from the state of the servers. It excuses each request or token once: a
loss explains a second reply, but not a third one.
"""

from collections.abc import Callable, Container, Mapping

import msgspec

from harness.ledger import Item, Kind, Ledger, Place, Trouble, order
from token_worker.acra.owner import Owner
from token_worker.acra.value_types import TYPES
from token_worker.storage.token_item import Names

NAMES_SHOWN = 20

Permit = Callable[[Trouble], bool]
"""Returns True if the data that was lost explains a trouble."""


class Count(msgspec.Struct):
    """Number of troubles of one kind.

    Attributes:
        promised: troubles while every server kept its data.
        permitted: troubles that the lost data explains.
        unexplained: troubles that the lost data does not explain.
    """

    promised: int = 0
    permitted: int = 0
    unexplained: int = 0


class Outcome(msgspec.Struct):
    """The result of one act.

    Attributes:
        tokens_detokenized: number of right answers to requests to detokenize.
        late: replies that took longer than a minute.
        refused: requests that a full server did not take.
        entries: the first troubles that are not permitted, by stream and id.
    """

    act: str
    requests: int
    replies: int
    tokens_detokenized: int
    late: int
    slowest_seconds: float
    refused: int
    counts: dict[str, Count]
    entries: list[str]


def judge(act: str, ledger: Ledger, permit: Permit | None, refused: int = 0) -> Outcome:
    """Judge a closed ledger; without a permit every trouble breaks a promise."""
    counts = {str(kind): Count() for kind in Kind}
    entries = []
    used = set()
    for trouble in ledger.troubles:
        count = counts[trouble.kind]
        subject = (trouble.kind, trouble.item or trouble.entry)
        if permit is None:
            count.promised += 1
        elif trouble.kind is Kind.UNKNOWN_TOKEN and subject in used:
            continue  # a token that was asked for several times
        elif permit(trouble) and subject not in used:
            used.add(subject)
            count.permitted += 1
            continue
        else:
            count.unexplained += 1
        entries.append(f"{act}: {trouble.kind}: {trouble.what}")
    return Outcome(
        act=act,
        requests=ledger.requests,
        replies=ledger.replies,
        tokens_detokenized=ledger.detokenized,
        late=ledger.late,
        slowest_seconds=round(ledger.slowest_seconds, 2),
        refused=refused,
        counts=counts,
        entries=entries[:NAMES_SHOWN],
    )


def nothing(_trouble: Trouble) -> bool:
    """Permit no trouble: the lost data explains none."""
    return False


def streams_gone(last: Mapping[str, str]) -> Permit:
    """Permit lost requests up to the entries ``last``, which were the last ones of streams that were lost."""

    def permit(trouble: Trouble) -> bool:
        return trouble.kind is Kind.LOST and _is_up_to(trouble.entry, last)

    return permit


def groups_gone(last: Mapping[str, str], marks: Mapping[str, str]) -> Permit:
    """Permit second replies to requests above the low-water ``marks``, up to ``last``, since groups were lost."""

    def permit(trouble: Trouble) -> bool:
        is_again = trouble.kind is Kind.DUPLICATE and _is_up_to(trouble.entry, last)
        return is_again and not _is_up_to(trouble.entry, marks)

    return permit


def streams_behind(held: Container[Place | None]) -> Permit:
    """Permit the troubles of streams that went back to the entries ``held``.

    Requests that are not held may be lost. Requests whose reply is not held may be answered again.
    """

    def permit(trouble: Trouble) -> bool:
        if trouble.kind is Kind.LOST:
            return trouble.entry not in held
        return trouble.kind is Kind.DUPLICATE and trouble.first not in held

    return permit


def tokens_behind(held: Container[bytes], names_of: Callable[[Owner], Names]) -> Permit:
    """Permit the troubles of a token storage that went back to the keys ``held``; ``names_of`` names entries.

    Tokens without an entry may be unknown. Values without an entry may get another token.
    """

    def permit(trouble: Trouble) -> bool:
        if trouble.item is None:
            return False
        of_value, of_token = _names(trouble.item, names_of)
        if trouble.kind is Kind.UNKNOWN_TOKEN:
            return of_token not in held
        return trouble.kind is Kind.UNEQUAL and of_value not in held

    return permit


def _is_up_to(entry: Place | None, ids: Mapping[str, str]) -> bool:
    return entry is not None and order(entry.id) <= order(ids[entry.stream])


def _names(item: Item, names_of: Callable[[Owner], Names]) -> tuple[bytes, bytes]:
    """Names of two entries: of the item as a value, and of the item as a token."""
    names, kind = names_of(Owner("client", item.client_id)), TYPES[item.kind]
    data = kind.encode(item.content)
    return names.of_value(data, kind.number), names.of_token(data, kind.number)
