"""Findings of ``tokens migrate`` with which a finish is refused, in words and with advice."""

from collections.abc import Set as AbstractSet

from token_worker.admin.migrate_reading import FindingKind
from token_worker.admin.migrate_rows import Tally
from token_worker.errors import CheckFailed

BLOCKING: dict[FindingKind, str] = {
    "value_alone": "value entries whose token entry is gone",
    "disabled_alone": "tokens with one entry disabled or removed and the other not",
    "mismatch": "value entries that name the token of another value",
    "conflict": "tokens that the new layout holds for another value",
    "no_key": "entries of clients or zones without a key",
    "unreadable": "entries that cannot be read",
}
"""Findings with which a finish is refused, in words."""

_VERIFY = "`token-worker tokens verify CLIENT` names them"

ADVICE: dict[FindingKind, str] = {
    "value_alone": _VERIFY,
    "disabled_alone": _VERIFY,
    "mismatch": _VERIFY,
    "no_key": "bring the keys back, or leave the entries behind by --leave-unreadable",
    "unreadable": "bring the keys back, or leave the entries behind by --leave-unreadable",
}
"""Advice for these findings."""

UNREADABLE: frozenset[FindingKind] = frozenset({"no_key", "unreadable"})


def refuse(tally: Tally, leave: AbstractSet[FindingKind]) -> None:
    """Refuse a finish for what was found.

    Raises:
        Unmovable: there are findings that are not to be left behind.
    """
    found = blocking(tally, leave)
    if found:
        raise Unmovable(tally, f"the layout was not changed: {found}")


def blocking(tally: Tally, leave: AbstractSet[FindingKind] = frozenset()) -> str:
    """Findings with which a finish is refused, counted, with advice; empty if there are none."""
    found = []
    for kind, words in BLOCKING.items():
        if tally.counts[kind] and kind not in leave:
            advice = f" ({ADVICE[kind]})" if kind in ADVICE else ""
            found.append(f"{tally.counts[kind]} {words}{advice}")
    return "; ".join(found)


class Unmovable(CheckFailed):
    """There are entries that cannot be moved.

    Attributes:
        tally: counts them.
    """

    def __init__(self, tally: Tally, text: str) -> None:
        super().__init__(text)
        self.tally = tally
