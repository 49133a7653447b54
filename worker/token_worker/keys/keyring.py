"""The keys of one client or zone, unwrapped: what opens and seals its blocks."""

import time
from collections import OrderedDict
from typing import Any

from token_worker.acra import acra_block
from token_worker.acra.acra_block import Block, DataKey
from token_worker.acra.owner import Owner
from token_worker.errors import CorruptData, Unavailable

KEY_BYTES = 32
"""Length of a symmetric storage key in Acra."""

DATA_KEY_BLOCKS_MAX = 1 << 20
"""Blocks sealed with one data key: far below the 2^32 at which random 96-bit IVs become unsafe."""

DATA_KEY_SECONDS = 3600
"""Age at which a data key is replaced."""


class NoMatchingKey(CorruptData):
    """A block that none of the keys at hand opens; another key of the owner may."""


class DataKeyCache:
    """A bounded cache of unsealed data keys, least recently used out first; one for all owners.

    Entries that this worker wrote share data keys, those of Acra have one each.
    """

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._data_keys: OrderedDict[tuple[bytes, bytes], DataKey] = OrderedDict()

    def get(self, key: bytes, sealed: bytes, context: bytes) -> DataKey:
        """The data key sealed under ``key``.

        Raises:
            CorruptData: it does not open.
        """
        name = (key, sealed)
        data_key = self._data_keys.get(name)
        if data_key is not None and data_key.context == context:
            self._data_keys.move_to_end(name)
            return data_key
        data_key = acra_block.open_data_key(key, sealed, context)
        self._data_keys[name] = data_key
        if len(self._data_keys) > self._size:
            self._data_keys.popitem(last=False)
        return data_key


class Keyring:
    """The key of an owner that seals, and others that open: a newer one, and those of its history that were needed."""

    def __init__(self, owner: Owner, current: bytes, data_keys: DataKeyCache) -> None:
        self.owner = owner
        self.context = owner.context
        self.current = current
        self.some_unreadable = False
        """Whether the history holds a key that the master key does not open."""
        self.unsettled: Unavailable | None = None
        """Set while it is not known whether ``current`` may seal yet; all keys open."""
        self.prepared: Any = None
        """What the token engine computed from owner and current key: kept, and gone, with them."""
        self._data_keys = data_keys
        self._keys: list[tuple[bytes, bytes]] = []
        self._by_id: dict[bytes, bytes] = {}
        self._sealing: DataKey | None = None
        self._sealed_blocks = 0
        self._sealing_until = 0.0
        self.add(current)

    def __repr__(self) -> str:
        return f"Keyring({self.owner.kind} {self.owner.id}, {len(self._keys)} keys)"

    @property
    def keys(self) -> list[bytes]:
        """All keys at hand, in the order they are tried."""
        return [key for _, key in self._keys]

    def add(self, key: bytes) -> bool:
        """Take one more key for reading; False where it is here already."""
        entry = (acra_block.key_id(key, self.context), key)
        if entry in self._keys:
            return False
        self._keys.append(entry)
        self._by_id.setdefault(entry[0].hex().encode(), key)
        return True

    def sealing_key(self, blocks: int) -> DataKey:
        """The data key, sealed under the current key, for the next ``blocks`` blocks, far fewer than its bound."""
        now = time.monotonic()
        if self._sealing is None or self._sealed_blocks >= DATA_KEY_BLOCKS_MAX or now > self._sealing_until:
            self._sealing = DataKey.generate(self.current, self.context)
            self._sealed_blocks = 0
            self._sealing_until = now + DATA_KEY_SECONDS
        self._sealed_blocks += blocks
        return self._sealing

    def seal(self, data: bytes) -> bytes:
        """An AcraBlock of ``data`` under the current key; one data key serves many blocks of a bounded time."""
        return self.sealing_key(1).seal(data)

    def key_with(self, id_digits: bytes) -> bytes | None:
        """The first key with this id, in hex digits; None where none has it."""
        return self._by_id.get(id_digits)

    def unseal(self, block: Block) -> DataKey:
        """The data key of a block of this owner.

        Raises:
            NoMatchingKey: none of the keys at hand opens it.
        """
        for key_id, key in self._keys:
            if key_id == block.key_id:
                try:
                    return self._data_keys.get(key, block.sealed_data_key, self.context)
                except CorruptData:
                    continue  # two keys may have the same id: it is two bytes long
        raise NoMatchingKey("block: no key at hand opens it")

    def open(self, block: bytes) -> bytes:
        """What is inside an AcraBlock of this owner.

        Raises:
            NoMatchingKey: none of the keys at hand opens its data key.
            CorruptData: it is no block, or its data does not open.
        """
        parts = acra_block.parse(block)
        return self.unseal(parts).open(parts.sealed_data)
