"""AcraBlock: data sealed under a data key (DEK), which is sealed under a client's or zone's key.

Layout (Acra 0.96)::

    22 22 22 22 | LE64 length of all after the tag | 00 | key id (2) | 00 | LE16 k | sealed data key (k) | sealed data

``key id`` is the first two bytes of SHA-256(key || context); both seals are Secure Cells with the same context.
The format does not bind a data key to one block, so one may serve many: sealing it is most of a block's cost.
Pure; every byte of a block is checked or authenticated.
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
"""Of a block, before its sealed data key."""
KEY_ID_AT, KEY_ID_BYTES = 13, 2
_LENGTH_BYTES = 8  # count in the length themselves
_SECURE_CELL = 0
DATA_KEY_BYTES = 32

CIPHERS_MAX = 1024
"""Ciphers kept, of about 3 KB, one for each key and length of data: mostly those that open data keys."""

_cipher = lru_cache(CIPHERS_MAX)(secure_cell.cipher)


def data_key_cipher(key: bytes, context: bytes) -> AESGCM:
    """What seals and opens data keys under ``key``."""
    return _cipher(key, DATA_KEY_BYTES, context)


def key_id(key: bytes, context: bytes) -> bytes:
    """The two bytes by which a block names the key that its data key is sealed under."""
    return hashlib.sha256(key + context).digest()[:2]


class DataKey:
    """A data key, unsealed.

    Attributes:
        context: the id of the client or zone, in bytes.
        head: the sealed key as it stands in a block, from the key id's type to the sealed data.
    """

    __slots__ = ("_key", "context", "head")

    def __init__(self, key: bytes, context: bytes, head: bytes = b"") -> None:
        self._key = key
        self.context = context
        self.head = head

    @classmethod
    def generate(cls, key: bytes, context: bytes) -> "DataKey":
        """A new random data key, sealed under ``key``."""
        data_key = os.urandom(DATA_KEY_BYTES)
        sealed = secure_cell.seal(key, data_key, context)
        head = struct.pack("<B2sBH", _SECURE_CELL, key_id(key, context), _SECURE_CELL, len(sealed)) + sealed
        return cls(data_key, context, head)

    def cipher(self, length: int) -> AESGCM:
        """What seals and opens data of so many bytes."""
        return secure_cell.cipher(self._key, length, self.context)

    def block_head(self, cell_bytes: int) -> bytes:
        """How a block begins whose sealed data take so many bytes; they follow."""
        length = _LENGTH_BYTES + len(self.head) + cell_bytes
        return b"".join((_TAG, length.to_bytes(_LENGTH_BYTES, "little"), self.head))

    def seal(self, data: bytes) -> bytes:
        """A whole AcraBlock with ``data`` (at least one byte) inside."""
        cell = secure_cell.seal_with(_cipher(self._key, len(data), self.context), data, self.context)
        return self.block_head(len(cell)) + cell

    def open(self, cell: bytes) -> bytes:
        """The data in ``Block.sealed_data``.

        Raises:
            CorruptData: it does not open with this data key.
        """
        try:
            gcm = _cipher(self._key, secure_cell.message_length(cell), self.context)
            return secure_cell.open_with(gcm, cell, self.context)
        except CorruptData:
            return secure_cell.open_cell(self._key, cell, self.context)  # perhaps written by an old Themis


class Block(NamedTuple):
    """The parts of an AcraBlock."""

    key_id: bytes
    sealed_data_key: bytes
    sealed_data: bytes


def parse(block: bytes) -> Block:
    """Take an AcraBlock apart.

    Raises:
        CorruptData: it is none, or not a whole one.
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
        CorruptData: it does not open with this key.
    """
    try:
        gcm = _cipher(key, secure_cell.message_length(sealed_data_key), context)
        data_key = secure_cell.open_with(gcm, sealed_data_key, context)
    except CorruptData:
        data_key = secure_cell.open_cell(key, sealed_data_key, context)  # perhaps written by an old Themis
    return DataKey(data_key, context)
