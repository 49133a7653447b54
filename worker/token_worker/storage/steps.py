"""What the token engine asks of the token storage: data, no server. ``storage.tokens`` performs them."""

from typing import Literal, NamedTuple


class Lookup(NamedTuple):
    """Read these entries. Answer: a list of their values, None where there is none."""

    keys: list[bytes]


class Row(NamedTuple):
    """A new token: its two entries. ``h_key`` and ``h_value`` are empty for an inconsistent one."""

    h_key: bytes
    t_key: bytes
    h_value: bytes
    t_value: bytes


class Store(NamedTuple):
    """Write these rows where there is nothing yet, each wholly or not. Answer: a list of ``Outcome``."""

    rows: list[Row]


class Adopt(NamedTuple):
    """Write ``h_value`` where ``t_key`` still holds ``t_value`` as it was read. Answer: a list of ``Outcome``."""

    rows: list[Row]


class Outcome(NamedTuple):
    """What became of a row.

    Attributes:
        what: ``written``; ``value`` or ``token``: that entry existed, ``raw`` is what it holds; ``changed``: the
            token's entry is not what was read any more; ``broken``: a key of the row holds no string.
        raw: see above, else empty.
    """

    what: Literal["written", "value", "token", "changed", "broken"]
    raw: bytes = b""


class Touch(NamedTuple):
    """Replace entries that have not changed: (key, value as read, new value). Answer: None."""

    rows: list[tuple[bytes, bytes, bytes]]


Step = Lookup | Store | Adopt | Touch
"""Any of them."""
