"""Steps that the token engine asks of the token storage. They are data; ``storage.tokens`` executes them."""

from typing import Final, Literal, NamedTuple

from msgspec import Struct

from token_worker.errors import Unavailable


class Lookup(Struct, frozen=True, gc=False):
    """Read these entries.

    Answer: a list with the value of each, or None. ``Unavailable`` stands for an entry whose node of a cluster is away.
    """

    keys: list[bytes]


class Row(Struct, frozen=True, gc=False):
    """The two entries of a new token.

    Attributes:
        h_key, h_value: the value entry; both are empty for an inconsistent token.
        t_key, t_value: the token entry.
        h_old: the tombstone that ``h_value`` replaces; empty if there is nothing to replace.
    """

    h_key: bytes
    t_key: bytes
    h_value: bytes
    t_value: bytes
    h_old: bytes = b""


class Store(NamedTuple):
    """Write these rows, each where there is nothing yet, or where its value entry is still ``h_old``.

    On one server both entries of a row are written or neither. In a cluster the token entry is written first.
    Answer: a list of ``Outcome``.
    """

    rows: list[Row]


class Adopt(NamedTuple):
    """Write the value entry of each row if its token entry still is ``t_value``.

    The value entry must be absent, or ``h_old``. Answer: a list of ``Outcome``.
    """

    rows: list[Row]


class Outcome(NamedTuple):
    """The result of one row.

    Attributes:
        what: ``written``. ``value``: the value entry existed, and ``raw`` is its content; ``token``: the same of the
            token entry. ``changed``: the token entry has changed since it was read. ``broken``: a key of the row does
            not hold a string. ``away``: a node of the cluster is away.
        raw: see above, else empty.
        error: the reason if a node is away.
    """

    what: Literal["written", "value", "token", "changed", "broken", "away"]
    raw: bytes = b""
    error: Unavailable | None = None


WRITTEN: Final = Outcome("written")
"""The outcome of nearly every row."""


class Claim(NamedTuple):
    """Write each of these strings where there is nothing. Answer: what is stored under each key now.

    ``Unavailable`` stands for a key whose node of a cluster is away.
    """

    rows: list[tuple[bytes, bytes]]


class Touch(NamedTuple):
    """Replace entries that have not changed. Each row: key, value as it was read, new value. Answer: None."""

    rows: list[tuple[bytes, bytes, bytes]]


Step = Lookup | Store | Adopt | Claim | Touch
"""Any of the steps."""
