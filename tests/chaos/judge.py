"""Tells what an act permits from what it does not: which troubles the data that was lost explains, and what is left.

A ``Permit`` is made of what was found out at the moment of the loss. Each is used once for a request or a token: a loss
explains one second reply, not a third one.
"""

from collections.abc import Callable, Container, Mapping

import msgspec

from harness.ledger import Item, Kind, Ledger, Place, Trouble, order
from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import EntryNames
from token_worker.acra.value_types import TYPES

NAMES_SHOWN = 20

Permit = Callable[[Trouble], bool]
"""Whether the data that was lost explains a trouble."""


class Count(msgspec.Struct):
    """How often something went wrong.

    Attributes:
        promised: where every server kept its data.
        permitted: as the data that was lost explains.
        unexplained: where data was lost, which does not explain it.
    """

    promised: int = 0
    permitted: int = 0
    unexplained: int = 0


class Outcome(msgspec.Struct):
    """The books of one act.

    Attributes:
        tokens_detokenized: every token that went out, and those that were asked for meanwhile.
        late: replies that took longer than a minute.
        refused: requests that a full server did not take.
        entries: the first of those that went wrong and may not have, by stream and id.
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
    """The books of a ledger that is closed; without a permit nothing may have gone wrong."""
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
    """Data was lost, but none that anything could be explained with."""
    return False


def streams_gone(last: Mapping[str, str]) -> Permit:
    """Streams were lost when ``last`` were their last entries: requests up to these may have no reply."""

    def permit(trouble: Trouble) -> bool:
        return trouble.kind is Kind.LOST and _is_up_to(trouble.entry, last)

    return permit


def groups_gone(last: Mapping[str, str], marks: Mapping[str, str]) -> Permit:
    """Groups were lost: requests above the low-water ``marks``, up to the ``last`` ones, may be answered again."""

    def permit(trouble: Trouble) -> bool:
        is_again = trouble.kind is Kind.DUPLICATE and _is_up_to(trouble.entry, last)
        return is_again and not _is_up_to(trouble.entry, marks)

    return permit


def streams_behind(held: Container[Place | None]) -> Permit:
    """Streams went back to entries ``held``: others may be lost, and those whose reply is not held answered again."""

    def permit(trouble: Trouble) -> bool:
        if trouble.kind is Kind.LOST:
            return trouble.entry not in held
        return trouble.kind is Kind.DUPLICATE and trouble.first not in held

    return permit


def tokens_behind(held: Container[bytes]) -> Permit:
    """The token storage went back to the keys ``held``: tokens that are not there may not turn back.

    Nor need values be given the same token again whose entry is not there.
    """

    def permit(trouble: Trouble) -> bool:
        if trouble.item is None:
            return False
        of_value, of_token = _names(trouble.item)
        if trouble.kind is Kind.UNKNOWN_TOKEN:
            return of_token not in held
        return trouble.kind is Kind.UNEQUAL and of_value not in held

    return permit


def _is_up_to(entry: Place | None, ids: Mapping[str, str]) -> bool:
    return entry is not None and order(entry.id) <= order(ids[entry.stream])


def _names(item: Item) -> tuple[bytes, bytes]:
    """The entries of an item, as if it were a value and as if it were a token."""
    names, kind = EntryNames(Owner("client", item.client_id)), TYPES[item.kind]
    data = kind.encode(item.content)
    return names.of_value(data, kind.number), names.of_token(data, kind.number)
