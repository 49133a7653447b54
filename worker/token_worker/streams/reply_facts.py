"""Facts about replies, for metrics, audit log and spans. The handler writes them."""

import msgspec


class ReplyFacts(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The facts about a reply that are counted, audited and traced.

    Alike replies of one route may share one. Replies of two routes never do.

    Attributes:
        op: ``tokenize`` or ``detokenize``; ``unknown`` if the request names neither.
        status: ``ok``, ``partial`` or ``error``.
        client_id, zone_id: set only if a client or zone of this name exists.
        outcomes: type and outcome of each item. The outcome is ``ok`` or a code of the contract. A request that was
            refused as a whole has one item of type ``unknown``.
    """

    op: str
    status: str
    client_id: str | None
    zone_id: str | None
    outcomes: tuple[tuple[str, str], ...]


NO_FACTS = ReplyFacts("unknown", "error", None, None, ())
"""Facts of an answer that is not reported."""
