"""AcraBlock: data that is sealed under a data key (DEK). The data key is sealed under a client's or zone's key.

Layout (Acra 0.96)::

    22 22 22 22 | LE64 length of all after the tag | 00 | key id (2) | 00 | LE16 k | sealed data key (k) | sealed data

``key id`` is the first two bytes of SHA-256(key || context); both seals are Secure Cells with the same context.
The format does not bind a data key to one block, so one data key may serve many blocks. That is worth it: sealing the
data key is most of the cost of a block. Pure. Every byte of a block is checked or authenticated.
"""

import hashlib
import os
import struct
from functools import lru_cache
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from token_worker.acra import secure_cell
from token_worker.errors import CorruptData

_TAG = b'""""'
_HEADER = struct.Struct("<4sQB2sBH")
HEADER_BYTES = _HEADER.size
"""Bytes of a block before its sealed data key."""
KEY_ID_AT, KEY_ID_BYTES = 13, 2
_LENGTH_BYTES = 8  # the length includes them
_SECURE_CELL = 0
DATA_KEY_BYTES = 32

CIPHERS_MAX = 1024
"""Ciphers that are cached, of about 3 KB each: one for each key and length. Most of them open data keys."""

_cipher = lru_cache(CIPHERS_MAX)(secure_cell.cipher)


def data_key_cipher(key: bytes, context: bytes) -> AESGCM:
    """The cipher that seals and opens data keys under ``key``."""
    return _cipher(key, DATA_KEY_BYTES, context)


def key_id(key: bytes, context: bytes) -> bytes:
    """The id of a key: two bytes, by which a block names the key that seals its data key."""
    return hashlib.sha256(key + context).digest()[:2]


class DataKey:
    """An unsealed data key.

    Attributes:
        context: the id of the client or zone, in bytes.
        head: the part of a block from the type before the key id up to the sealed data. It has the sealed data key.
    """

    __slots__ = ("_key", "context", "head")

    def __init__(self, key: bytes, context: bytes, head: bytes = b"") -> None:
        self._key = key
        self.context = context
        self.head = head

    @classmethod
    def generate(cls, key: bytes, context: bytes) -> "DataKey":
        """Make a random data key, and seal it under ``key``."""
        data_key = os.urandom(DATA_KEY_BYTES)
        sealed = secure_cell.seal(key, data_key, context)
        head = struct.pack("<B2sBH", _SECURE_CELL, key_id(key, context), _SECURE_CELL, len(sealed)) + sealed
        return cls(data_key, context, head)

    def cipher(self, length: int) -> AESGCM:
        """The cipher that seals and opens data of ``length`` bytes."""
        return secure_cell.cipher(self._key, length, self.context)

    def block_head(self, cell_bytes: int) -> bytes:
        """The beginning of a block, up to its sealed data; these take ``cell_bytes`` bytes."""
        length = _LENGTH_BYTES + len(self.head) + cell_bytes
        return b"".join((_TAG, length.to_bytes(_LENGTH_BYTES, "little"), self.head))

    def seal(self, data: bytes) -> bytes:
        """Make a whole AcraBlock of ``data``, which has at least one byte."""
        cell = secure_cell.seal_with(_cipher(self._key, len(data), self.context), data, self.context)
        return self.block_head(len(cell)) + cell

    def open(self, cell: bytes) -> bytes:
        """Open the ``sealed_data`` of a ``Block``.

        Raises:
            CorruptData: this data key does not open it.
        """
        try:
            gcm = _cipher(self._key, secure_cell.message_length(cell), self.context)
            return secure_cell.open_with(gcm, cell, self.context)
        except CorruptData:
            return secure_cell.open_cell(self._key, cell, self.context)  # perhaps an old Themis wrote it


class Block(NamedTuple):
    """The parts of an AcraBlock."""

    key_id: bytes
    sealed_data_key: bytes
    sealed_data: bytes


def parse(block: bytes) -> Block:
    """Split an AcraBlock into its parts.

    Raises:
        CorruptData: the bytes are not a whole AcraBlock.
    """
    if len(block) < _HEADER.size:
        raise CorruptData("block: too short")
    tag, length, key_type, name, data_type, k = _HEADER.unpack_from(block)
    if tag != _TAG or length != len(block) - len(_TAG):
        raise CorruptData("block: wrong tag or length")
    if key_type != _SECURE_CELL or data_type != _SECURE_CELL:
        raise CorruptData("block: unknown encryption type")
    return Block(name, block[18 : 18 + k], block[18 + k :])


def open_data_key(key: bytes, sealed_data_key: bytes, context: bytes) -> DataKey:
    """Unseal a block's data key.

    Raises:
        CorruptData: this key does not open it.
    """
    try:
        gcm = _cipher(key, secure_cell.message_length(sealed_data_key), context)
        data_key = secure_cell.open_with(gcm, sealed_data_key, context)
    except CorruptData:
        data_key = secure_cell.open_cell(key, sealed_data_key, context)  # perhaps an old Themis wrote it
    return DataKey(data_key, context)
