"""Steps that the token engine asks of the token storage. They are data; ``storage.tokens`` executes them."""

from typing import Literal, NamedTuple


class Lookup(NamedTuple):
    """Read these entries. Answer: a list of their values, each or None."""

    keys: list[bytes]


class Row(NamedTuple):
    """The two entries of a new token. ``h_key`` and ``h_value`` are empty for an inconsistent token."""

    h_key: bytes
    t_key: bytes
    h_value: bytes
    t_value: bytes


class Store(NamedTuple):
    """Write these rows, each completely or not at all, and only if none of its keys exists.

    Answer: a list of ``Outcome``.
    """

    rows: list[Row]


class Adopt(NamedTuple):
    """Write ``h_value`` of each row if its ``t_key`` still holds ``t_value``. Answer: a list of ``Outcome``."""

    rows: list[Row]


class Outcome(NamedTuple):
    """The result of one row.

    Attributes:
        what: ``written``. ``value``: the ``h.`` entry existed, and ``raw`` is its content; ``token``: the same of the
            ``t.`` entry. ``changed``: the ``t.`` entry has changed since it was read. ``broken``: a key of the row does
            not hold a string.
        raw: see above, else empty.
    """

    what: Literal["written", "value", "token", "changed", "broken"]
    raw: bytes = b""


class Touch(NamedTuple):
    """Replace entries that have not changed. Each row: key, value as it was read, new value. Answer: None."""

    rows: list[tuple[bytes, bytes, bytes]]


Step = Lookup | Store | Adopt | Touch
"""Any of the steps."""
