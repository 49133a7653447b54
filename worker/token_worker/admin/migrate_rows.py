"""Changes of entries that ``tokens migrate`` makes, as rows of ``twins.lua``, and the counts of a pass."""

from collections import Counter
from typing import NamedTuple

from token_worker.admin.migrate_reading import Finding, FindingKind

FINDINGS_KEPT = 100
"""Findings of a kind whose names are kept. All are counted."""

LEAVE = b"="
"""In place of a new entry: the entry is only compared."""


class Step(NamedTuple):
    """A change of one entry: ``old`` is the entry as it was read, ``new`` the new one; each empty for none."""

    name: bytes
    old: bytes
    new: bytes


Row = list[Step]


class Tally:
    """Counts of one pass.

    Attributes:
        counts: by what was done or found.
        names: the first names of findings, by kind.
        has_foreign: the dense layout has, or gets, foreign entries.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.names: dict[FindingKind, list[bytes]] = {}
        self.has_foreign = False
        self._known: set[int] = set()

    def find(self, finding: Finding) -> None:
        """Note an entry that cannot be moved. Those that are met from both sides count once."""
        if finding.kind in ("unreadable", "conflict"):
            known = hash(finding.name)
            if known in self._known:
                return
            self._known.add(known)
        self.counts[finding.kind] += 1
        names = self.names.setdefault(finding.kind, [])
        if len(names) < FINDINGS_KEPT:
            names.append(finding.name)
