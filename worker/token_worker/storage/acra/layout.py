"""Acra's layout: entries that AcraServer and AcraTranslator read and write, too; see ``acra.token_entry``. Pure."""

from collections.abc import Callable, Generator, Iterable, Sequence
from functools import lru_cache
from typing import Any

from token_worker.acra.token_entry import (
    EntryNames,
    Times,
    accessed_number,
    encode_times,
    encode_token_value,
    value_of_type,
)
from token_worker.errors import Refused, Unavailable
from token_worker.keys.keyring import Keyring
from token_worker.storage.acra.sealing import Mark, Sealing
from token_worker.storage.item_group import ItemGroup
from token_worker.storage.layout import Opened, SecondName
from token_worker.storage.steps import Row, Step
from token_worker.storage.token_item import NamesAndDeriver, TokenItem

STALE_SECONDS = 24 * 3600
"""A read moves an entry's time of last use if that is older than this, as Acra does."""


class AcraLayout:
    """Acra's layout of the token storage; see ``storage.layout.Layout``.

    Attributes:
        open_many, open_value: see ``Layout``. They are the very functions of ``Sealing``: one is called for each value.
    """

    has_index_keys = False
    unused_name = b"tokens/none"

    def __init__(self) -> None:
        self.second_name: SecondName | None = None
        self._sealing = Sealing()
        self.open_many: Callable[[ItemGroup, Sequence[Any], Any], list[bytes]] = self._sealing.open_many
        self.open_value: Callable[[Keyring, bytes, int, bytes, Any], Opened] = self._sealing.open

    def prepare(self, ring: Keyring) -> NamesAndDeriver:
        cache = ring.owner_cache
        if type(cache) is not NamesAndDeriver:
            cache = ring.owner_cache = NamesAndDeriver(ring, EntryNames(ring.owner))
        return cache

    def check(
        self, _rings: list[Keyring], _connections: Callable[[], int]
    ) -> Generator[Step, Any, dict[Keyring, Refused | Unavailable]]:
        """Return no reason: Acra's names need no key."""
        yield from ()
        return {}

    def mark(self, now: int) -> Mark:
        return _mark(now)

    def open_token(self, ring: Keyring, name: bytes, number: int, raw: bytes, mark: Any) -> Opened:
        inside, notes = self.open_value(ring, name, number, raw, mark)
        return value_of_type(inside, number), notes

    def rows(self, items: list[TokenItem], now: int) -> list[Row]:
        """Seal the two entries of each item: first all of one owner, so that they share what is looked up for it."""
        contents: dict[Keyring, list[bytes]] = {}
        for item in items:
            of_owner = contents.setdefault(item.ring, [])
            if item.origin is None:
                of_owner.append(item.token)
            if not item.existing:
                of_owner.append(encode_token_value(item.data, item.kind.number))
        times, seal = _new_times(now), self._sealing.seal
        sealed = {ring: iter(seal(ring.sealing_key(len(given)), given, times)) for ring, given in contents.items()}
        rows: list[Row] = []
        ring: Keyring | None = None
        for item in items:
            if item.ring is not ring:
                ring = item.ring
                entries, of_token = sealed[ring], self.prepare(ring).names.of_token
            h_value = next(entries) if item.origin is None else b""
            t_value = item.existing or next(entries)
            rows.append(Row(item.key, of_token(item.token, item.kind.number), h_value, t_value))
        return rows

    def new_rows(self, group: ItemGroup, tokens: list[bytes], now: int) -> Iterable[Row]:
        ring, number = group.ring, group.kind.number
        names = self.prepare(ring).names.of_tokens(tokens, number)
        contents = tokens + [encode_token_value(value, number) for value in group.data]
        entries = self._sealing.seal(ring.sealing_key(len(contents)), contents, _new_times(now))
        return map(Row, group.names, names, entries, entries[len(tokens) :])


@lru_cache(maxsize=1)  # many batches share a second
def _mark(now: int) -> Mark:
    since = now - STALE_SECONDS
    return now, since, accessed_number(since)


@lru_cache(maxsize=1)  # as above
def _new_times(now: int) -> bytes:
    return encode_times(Times(now, now))
