"""The unwrapped keys of one client or zone. They seal and open its blocks."""

import time
from collections import OrderedDict
from typing import Literal

from token_worker.acra import acra_block
from token_worker.acra.acra_block import Block, DataKey
from token_worker.acra.owner import Owner
from token_worker.errors import CorruptData, Unavailable

KEY_BYTES = 32
"""Length of a symmetric storage key in Acra, and of an index key."""

IndexState = Literal["present", "absent", "unreadable"]
"""``absent``: the key storage holds no index key of the owner. ``unreadable``: no master key opens it."""

DATA_KEY_BLOCKS_MAX = 1 << 20
"""Most blocks sealed with one data key: far below the 2^32 at which random 96-bit IVs become unsafe."""

DATA_KEY_SECONDS = 3600
"""Age at which a data key is replaced."""


class NoMatchingKey(CorruptData):
    """A block that no key of the ring opens. Another key of the owner may open it."""


class DataKeyCache:
    """A bounded cache of unsealed data keys for all owners. The least recently used are dropped first.

    Entries that a worker wrote share data keys; each entry that Acra wrote has one of its own.
    """

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._data_keys: OrderedDict[tuple[bytes, bytes], DataKey] = OrderedDict()

    def get(self, key: bytes, sealed: bytes, context: bytes) -> DataKey:
        """Unseal a data key that is sealed under ``key``.

        Raises:
            CorruptData: the key does not open it.
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


class OwnerCache:
    """Base of what is computed from the owner and the current key of a keyring; kept with it, and gone with it."""

    __slots__ = ()


class Keyring:
    """The key of an owner that seals, and keys that only open: a newer one, and needed keys of the history."""

    def __init__(
        self,
        owner: Owner,
        current: bytes,
        data_keys: DataKeyCache,
        index: bytes | None = None,
        index_state: IndexState = "absent",
    ) -> None:
        self.owner = owner
        self.context = owner.context
        self.current = current
        self.index = index
        """The index key, if ``index_state`` is ``present``. Another index key comes with another keyring."""
        self.index_state = index_state
        """``absent``, too, if the worker does not look for index keys. ``unreadable``: no master key opens it."""
        self.some_unreadable = False
        """True if the history holds a key that the master key does not open."""
        self.unsettled: Unavailable | None = None
        """Set while it is not known yet whether ``current`` may seal. Opening works all the same."""
        self.owner_cache: OwnerCache | None = None
        """Set by the token engine."""
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
        """All keys of the ring, in the order in which they are tried."""
        return [key for _, key in self._keys]

    def add(self, key: bytes) -> bool:
        """Add a key that opens. Returns False if it is in the ring already."""
        entry = (acra_block.key_id(key, self.context), key)
        if entry in self._keys:
            return False
        self._keys.append(entry)
        self._by_id.setdefault(entry[0].hex().encode(), key)
        return True

    def sealing_key(self, blocks: int) -> DataKey:
        """The data key for the next blocks, sealed under the current key; ``blocks`` is far below its bound."""
        now = time.monotonic()
        if self._sealing is None or self._sealed_blocks >= DATA_KEY_BLOCKS_MAX or now > self._sealing_until:
            self._sealing = DataKey.generate(self.current, self.context)
            self._sealed_blocks = 0
            self._sealing_until = now + DATA_KEY_SECONDS
        self._sealed_blocks += blocks
        return self._sealing

    def seal(self, data: bytes) -> bytes:
        """Seal ``data`` in an AcraBlock under the current key. One data key serves many blocks, for a bounded time."""
        return self.sealing_key(1).seal(data)

    def key_with(self, id_digits: bytes) -> bytes | None:
        """The first key with this id (in hex digits), or None."""
        return self._by_id.get(id_digits)

    def unseal(self, block: Block) -> DataKey:
        """Unseal the data key of a block of this owner.

        Raises:
            NoMatchingKey: none of the keys in the ring opens it.
        """
        for key_id, key in self._keys:
            if key_id == block.key_id:
                try:
                    return self._data_keys.get(key, block.sealed_data_key, self.context)
                except CorruptData:
                    continue  # ids are only two bytes long: two keys may have the same id
        raise NoMatchingKey("block: no key of the ring opens it")

    def open(self, block: bytes) -> bytes:
        """The data in an AcraBlock of this owner.

        Raises:
            NoMatchingKey: none of the keys in the ring opens its data key.
            CorruptData: the bytes are not a block, or its data does not open.
        """
        parts = acra_block.parse(block)
        return self.unseal(parts).open(parts.sealed_data)
