"""AES-CMAC of messages, one or many at once; see NIST SP 800-38B and RFC 4493. The bytes are those of the library.

The library takes two microseconds for a short message, nearly all of it to begin. Here a short message takes half of
that alone, and a tenth among others: each step is one call of AES for all; see ``storage.dense.blocks``.

Pure.
"""

from itertools import repeat

from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.cmac import CMAC

from token_worker.storage.dense.blocks import (
    BLOCK,
    COLUMN_MAX,
    LENGTH_MAX,
    aes,
    blocks_of,
    cutter,
    doubled,
    padding_after,
)

_PADDING = [padding_after(rest or BLOCK) for rest in range(BLOCK)]
"""By the number of bytes in the last block, 0 if it is whole: what fills it."""


class Cmac:
    """AES-CMAC with one key.

    Args:
        key: of 32 bytes.
    """

    __slots__ = ("_aes", "_key", "_last_keys")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._aes = aes(key)
        k1 = doubled(self._aes(bytes(BLOCK)))
        self._last_keys = [k1, *repeat(doubled(k1), BLOCK - 1)]  # by the number of bytes in the last block

    def of(self, message: bytes) -> bytes:
        """Return the CMAC of a message of at least one byte: 16 bytes."""
        length = len(message)
        if length > LENGTH_MAX:
            library = CMAC(algorithms.AES(self._key))
            library.update(message)
            return library.finalize()
        rest = length % BLOCK
        message += _PADDING[rest]
        mac = bytes(BLOCK)
        for at in range(0, length - BLOCK, BLOCK):
            mac = self._aes((int.from_bytes(mac) ^ int.from_bytes(message[at : at + BLOCK])).to_bytes(BLOCK))
        last = int.from_bytes(mac) ^ int.from_bytes(message[-BLOCK:]) ^ int.from_bytes(self._last_keys[rest])
        return self._aes(last.to_bytes(BLOCK))

    def of_all(self, messages: list[bytes], length: int) -> list[bytes]:
        """Return the first ``length`` bytes of the CMAC of each message."""
        count = len(messages)
        lengths = set(map(len, messages))
        if count < 2 or min(lengths) > LENGTH_MAX:
            return [self.of(message)[:length] for message in messages]
        before_last = {blocks_of(its_length)[0] for its_length in lengths}
        if len(before_last) > 1:
            return self._of_groups(messages, length)
        if count > COLUMN_MAX:
            parts = (messages[start : start + COLUMN_MAX] for start in range(0, count, COLUMN_MAX))
            return [mac for part in parts for mac in self.of_all(part, length)]
        if len(lengths) == 1:
            rest = lengths.pop() % BLOCK
            padded = _PADDING[rest].join(messages) + _PADDING[rest]
            keys = self._last_keys[rest] * count
        else:
            padded = b"".join([message + _PADDING[len(message) % BLOCK] for message in messages])
            keys = b"".join([self._last_keys[len(message) % BLOCK] for message in messages])
        step = before_last.pop() + 1
        pieces = cutter("16s", count * step)(padded)
        mac = bytes(len(keys))
        for place in range(step):
            state = int.from_bytes(mac) ^ int.from_bytes(b"".join(pieces[place::step]))
            if place == step - 1:
                state ^= int.from_bytes(keys)
            mac = self._aes(state.to_bytes(len(keys)))
        return list(cutter(f"{length}s{BLOCK - length}x", count)(mac))

    def _of_groups(self, messages: list[bytes], length: int) -> list[bytes]:
        """Do the same for messages with different numbers of blocks."""
        groups: dict[int, list[int]] = {}
        for place, message in enumerate(messages):
            groups.setdefault(blocks_of(len(message))[0], []).append(place)
        macs = [b""] * len(messages)
        for places in groups.values():
            of_group = self.of_all([messages[place] for place in places], length)
            for place, mac in zip(places, of_group, strict=True):
                macs[place] = mac
        return macs
