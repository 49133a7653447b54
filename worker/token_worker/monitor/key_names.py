"""Ages of keys, from the names in the key storage: Acra's history names the time at which a key was replaced.

Needs ``SCAN`` and nothing else: no key is read. A storage can hold a hundred million token entries beside the keys, so
a scan is done in small parts.
"""

import heapq
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from token_worker.acra.key_name import parse_name
from token_worker.redis.link import RedisLink
from token_worker.redis.scan import escape_pattern, scan

PAGES_PER_LOOK = 20
"""Pages of a scan that one look reads: 20 milliseconds of the server, or so."""

OWNERS_MAX = 100_000
"""Most owners that are remembered. The keys of others are not looked at."""

OLDEST_MAX = 20
"""Most owners that are named."""


class OwnerKeys(msgspec.Struct):
    """The keys of one client or zone that seal tokens."""

    kind: str
    id: str
    in_use: bool = False
    replaced_at: float | None = None
    earlier: int = 0


class KeyAges(NamedTuple):
    """The result of one whole scan.

    Attributes:
        clients, zones: owners with a key in use.
        never_replaced: owners whose key was never replaced. The age of such a key is unknown.
        oldest: owners whose key was replaced the longest time ago, then owners whose key was never replaced.
        is_whole: False if there are more than ``OWNERS_MAX`` owners.
    """

    clients: int
    zones: int
    never_replaced: int
    oldest: list[OwnerKeys]
    is_whole: bool


class KeyNames:
    """Scans the names of the key storage, a part at a time."""

    def __init__(self, link: RedisLink, folder: str) -> None:
        self._link = link
        self._folder = folder
        self._pages: Iterator[list[bytes]] | None = None
        self._owners: dict[tuple[str, str], OwnerKeys] = {}
        self._seen: set[bytes] = set()
        self._is_whole = True
        self._last: KeyAges | None = None

    def look(self) -> KeyAges | None:
        """Read the next part. Returns the result of the last whole scan; None until there is one.

        Raises:
            Unavailable, ServerError: as by ``Link.call``. The next look begins a new scan.
        """
        try:
            for _ in range(PAGES_PER_LOOK):
                if self._pages is None:
                    self._begin()
                page = next(self._pages, None) if self._pages is not None else None
                if page is None:
                    self._finish()
                    break
                for name in page:
                    self._take(name)
        except BaseException:
            self._pages = None
            raise
        return self._last

    def _begin(self) -> None:
        self._owners, self._seen, self._is_whole = {}, set(), True
        self._pages = scan(self._link, f"{escape_pattern(self._folder)}/*")

    def _finish(self) -> None:
        self._pages = None
        owners = [owner for owner in self._owners.values() if owner.in_use]
        never = [owner for owner in owners if owner.replaced_at is None]
        replaced = heapq.nsmallest(
            OLDEST_MAX, (owner for owner in owners if owner.replaced_at is not None), key=lambda it: it.replaced_at or 0
        )
        unknown = heapq.nsmallest(OLDEST_MAX - len(replaced), never, key=lambda it: it.id)
        self._last = KeyAges(
            clients=sum(owner.kind == "client" for owner in owners),
            zones=sum(owner.kind == "zone" for owner in owners),
            never_replaced=len(never),
            oldest=[*replaced, *unknown],
            is_whole=self._is_whole,
        )
        self._owners, self._seen = {}, set()

    def _take(self, raw: bytes) -> None:
        name = parse_name(raw.decode(errors="replace").removeprefix(f"{self._folder}/"))
        if name.owner is None or not name.seals_tokens:
            return
        owner_id = (name.owner.kind, name.owner.id)
        if owner_id not in self._owners:
            if len(self._owners) >= OWNERS_MAX:
                self._is_whole = False
                return
            self._owners[owner_id] = OwnerKeys(*owner_id)
        owner = self._owners[owner_id]
        if name.stamp is None:
            owner.in_use = True
        elif raw not in self._seen:  # a scan can give a name twice
            if len(self._seen) < OWNERS_MAX:
                self._seen.add(raw)
            owner.earlier += 1
            owner.replaced_at = max(owner.replaced_at or 0.0, name.replaced_at or 0.0)
