"""Seals and opens token entries, each with as little work as possible.

Entries with the same data key and the same length of data have the same bytes up to the IV: container, block and cell
begin alike, and the sealed data key is among these bytes. This *head* is made, or checked, once. After that, a new
entry is head, IV, tag, ciphertext and times; and an entry with a known head is opened by its AES key alone.

Acra gives each entry a data key of its own. Such entries, and those of different clients, still share the *frame*: the
head without the key id and without the random bytes of the sealed data key. Any other entry is read part by part, and
also an entry that does not open in the short way. The result, or the error, is the same.

Pure. The number of heads is bounded: the oldest are dropped first.
"""

import os
from binascii import hexlify, unhexlify
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from cryptography.exceptions import InvalidTag

from token_worker.acra import acra_block, secure_cell
from token_worker.acra.acra_block import DATA_KEY_BYTES, DataKey
from token_worker.acra.secure_cell import IV_BYTES
from token_worker.acra.token_entry import (
    Times,
    block_start,
    decode_entry,
    decode_times,
    encode_entry,
    used_since,
    value_of_type,
)
from token_worker.errors import CorruptData
from token_worker.keys.keyring import Keyring
from token_worker.storage.item_group import ItemGroup
from token_worker.storage.layout import Notes, Opened

HEADS_MAX = 4096
"""Heads that are cached for sealing, and again for opening. Each has an AES key of about 3 KB."""

_START_BYTES = len(block_start(1 << 13))  # blocks of 128 bytes to 16 KiB: all except those of long values
_SEALED_KEY_BYTES = secure_cell.OVERHEAD_BYTES + DATA_KEY_BYTES
_KEY_ID = 2 * (_START_BYTES + acra_block.KEY_ID_AT)
_KEY_ID_END = _KEY_ID + 2 * acra_block.KEY_ID_BYTES
_SEALED_KEY = 2 * (_START_BYTES + acra_block.HEADER_BYTES + secure_cell.HEADER_BYTES)
_SEALED_KEY_END = 2 * (_START_BYTES + acra_block.HEADER_BYTES + _SEALED_KEY_BYTES)
_HEAD = _SEALED_KEY_END + 2 * secure_cell.HEADER_BYTES
"""Positions in hex digits: begin and end of the key id, begin and end of the random bytes of the sealed data key, and
the end of the head, where the IV of the data begins.
"""
_TAG = IV_BYTES
_DATA = _TAG + secure_cell.TAG_BYTES
"""Position of the tag and of the ciphertext in a cell, counted from the end of its header."""

Mark = tuple[int, int, int]
"""Time of a batch in Unix seconds, the time of last use before which an entry is stale, the same for ``used_since``."""

_Crypt = Callable[[bytes, bytes, bytes], bytes]
_Known = tuple[Keyring | None, int, _Crypt]
"""For one known head: its keyring, the end of the data counted from the head's end, and the decrypt function."""

K = TypeVar("K")
V = TypeVar("V")


class Sealing:
    """Seals and opens the entries of all clients and zones."""

    def __init__(self, size: int = HEADS_MAX) -> None:
        self._size = size
        self._to_seal: OrderedDict[tuple[DataKey, int], tuple[bytes, _Crypt]] = OrderedDict()
        self._to_open: OrderedDict[bytes, _Known] = OrderedDict()
        self._frames: OrderedDict[bytes, int] = OrderedDict()
        self._last: tuple[bytes, Keyring | None, int, _Crypt] = (b"", *_UNKNOWN)
        """The head of the last entry that was opened: the next one mostly begins alike, and need not be looked up."""

    def seal(self, data_key: DataKey, contents: list[bytes], times: bytes) -> list[bytes]:
        """Make new entries, as they are stored in Redis. Each is encrypted with a new random IV.

        Args:
            data_key: from ``Keyring.sealing_key``, which counts the blocks that it seals.
            contents: the data of each entry, at least one byte.
            times: the result of ``encode_times``.
        """
        entries: list[bytes] = []
        heads: dict[int, tuple[bytes, _Crypt]] = {}
        context, ivs = data_key.context, os.urandom(len(contents) * IV_BYTES)
        for at, data in zip(range(0, len(ivs), IV_BYTES), contents, strict=True):
            length = len(data)
            if length not in heads:
                heads[length] = self._to_seal.get((data_key, length)) or self._new_head(data_key, length)
            head, encrypt = heads[length]
            iv = ivs[at : at + IV_BYTES]
            sealed = encrypt(iv, data, context)
            entries.append(head + hexlify(iv + sealed[length:] + sealed[:length] + times))
        return entries

    def _new_head(self, data_key: DataKey, length: int) -> tuple[bytes, _Crypt]:
        cell_head = secure_cell.header(length)
        block_head = data_key.block_head(secure_cell.OVERHEAD_BYTES + length)
        block_bytes = len(block_head) + secure_cell.OVERHEAD_BYTES + length
        head = hexlify(block_start(block_bytes) + block_head + cell_head)
        return self._keep(self._to_seal, (data_key, length), (head, data_key.cipher(length).encrypt))

    def open(self, ring: Keyring, name: bytes, number: int, raw: bytes, mark: Mark) -> Opened:
        """Open an entry of the ring's owner. Returns its data, and the remarks on it.

        Args:
            ring: keys of the owner.
            name: has no meaning here, like ``number``; see ``Layout.open_value``.
            number: see ``name``.
            raw: the entry, as it is stored in Redis.
            mark: from ``AcraLayout.mark``.

        Raises:
            NoMatchingKey: none of the ring's keys opens its data key.
            CorruptData: the bytes are not an entry, or its data does not open.
        """
        head, known_ring, end, decrypt = self._last
        if known_ring is not ring or not raw.startswith(head):
            head = raw[:_HEAD]
            known_ring, end, decrypt = self._to_open.get(head, _UNKNOWN)
            if known_ring is not ring:
                return self._open_framed(ring, name, number, raw, mark)
            self._last = head, known_ring, end, decrypt
        try:
            rest = unhexlify(raw[_HEAD:])
            inside = decrypt(rest[:_TAG], rest[_DATA:end] + rest[_TAG:_DATA], ring.context)
        except _NOT_OPENED:  # damaged, or an old Themis wrote it
            return self._open_parts(ring, raw, mark)
        times = rest[end:]
        return inside, None if used_since(times, mark[2]) else _notes(decode_times(times), raw, mark)

    def open_many(self, group: ItemGroup, raws: Iterable[Any], mark: Mark) -> list[bytes]:
        """Open entries with known heads, in half of the time of ``open``; see ``Layout.open_many``."""
        head, known_ring, end, decrypt = self._last
        ring, context, tokenize, number = group.ring, group.ring.context, group.tokenize, group.kind.number
        contents: list[bytes] = []
        times: bytes | None = None  # of the last entry: the next one mostly has the same
        for raw in raws:
            content = b""
            if raw.__class__ is bytes:
                if not raw.startswith(head):
                    head = raw[:_HEAD]
                    known_ring, end, decrypt = self._to_open.get(head, _UNKNOWN)
                if known_ring is ring:
                    try:
                        rest = unhexlify(raw[_HEAD:])
                        inside = decrypt(rest[:_TAG], rest[_DATA:end] + rest[_TAG:_DATA], context)
                        if rest[end:] == times or used_since(rest[end:], mark[2]):
                            times = rest[end:]
                            content = inside if tokenize else value_of_type(inside, number)
                    except _NOT_OPENED:
                        pass
            contents.append(content)
        return contents

    def _open_framed(self, ring: Keyring, name: bytes, number: int, raw: bytes, mark: Mark) -> Opened:
        """Open an entry with a new data key, if its frame is known."""
        end = self._frames.get(_frame(raw))
        key = ring.key_with(raw[_KEY_ID:_KEY_ID_END])
        if end is None or key is None:
            return self._open_parts(ring, raw, mark)
        try:
            sealed = unhexlify(raw[_SEALED_KEY:_SEALED_KEY_END])
            unseal = acra_block.data_key_cipher(key, ring.context).decrypt
            data_key = unseal(sealed[:_TAG], sealed[_DATA:] + sealed[_TAG:_DATA], ring.context)
        except _NOT_OPENED:  # damaged, an old Themis wrote it, or two keys have the same id
            return self._open_parts(ring, raw, mark)
        decrypt = secure_cell.cipher(data_key, end - _DATA, ring.context).decrypt
        self._keep(self._to_open, raw[:_HEAD], (ring, end, decrypt))
        return self.open(ring, name, number, raw, mark)

    def _open_parts(self, ring: Keyring, raw: bytes, mark: Mark) -> Opened:
        entry = decode_entry(raw)
        block = acra_block.parse(entry.block)
        inside = ring.unseal(block).open(block.sealed_data)
        start = block_start(len(entry.block))
        has_frame = len(block.sealed_data_key) == _SEALED_KEY_BYTES and len(start) == _START_BYTES
        if has_frame and raw.startswith(hexlify(start)):
            self._keep(self._frames, _frame(raw), _DATA + len(inside))
        return inside, _notes(Times(*entry[1:]), raw, mark)

    def _keep(self, heads: OrderedDict[K, V], key: K, value: V) -> V:
        heads[key] = value
        if len(heads) > self._size:
            heads.popitem(last=False)
        return value


def _notes(times: Times, raw: bytes, mark: Mark) -> Notes | None:
    if times.disabled:
        return _DISABLED
    now, since, _ = mark
    return Notes(touched=encode_entry(decode_entry(raw)._replace(accessed=now))) if times.accessed < since else None


def _frame(raw: bytes) -> bytes:
    return raw[:_KEY_ID] + raw[_KEY_ID_END:_SEALED_KEY] + raw[_SEALED_KEY_END:_HEAD]


_NOT_OPENED = InvalidTag, ValueError, CorruptData
"""Errors of the short way, after which an entry is read part by part."""


def _no_crypt(_iv: bytes, _data: bytes, _context: bytes) -> bytes:
    raise InvalidTag


_DISABLED = Notes(disabled=True)
_UNKNOWN: _Known = (None, 0, _no_crypt)
