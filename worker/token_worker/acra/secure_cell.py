"""Themis Secure Cell in Seal mode with a symmetric key: AES-256-GCM under a key that is derived for each length.

Layout and key derivation follow the Themis specification (Secure Cell, symmetric-key Seal mode)::

    LE32 algorithm | LE32 IV length | LE32 tag length | LE32 message length n | IV (12) | tag (16) | ciphertext (n)

    AES key = HMAC-SHA256(key, 00 00 00 01 || "Themis secure cell message key" || 00 || LE32(n) || context)

The context is also the additional data of GCM. Pure. Every byte of a cell is checked or authenticated.
"""

import hmac
import os
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from token_worker.errors import CorruptData

_ALGORITHM = 0x40010100
"""AES-256-GCM, Soter KDF, PKCS#7."""

_HEADER = struct.Struct("<IIII")
HEADER_BYTES = _HEADER.size
IV_BYTES = 12
TAG_BYTES = 16
OVERHEAD_BYTES = HEADER_BYTES + IV_BYTES + TAG_BYTES
"""Bytes of a cell besides its message."""

_KDF_PREFIX = b"\x00\x00\x00\x01Themis secure cell message key\x00"


def cipher(key: bytes, length: int, context: bytes) -> AESGCM:
    """The cipher that seals and opens messages of ``length`` bytes. It may be used again for that length."""
    return AESGCM(hmac.digest(key, _KDF_PREFIX + length.to_bytes(4, "little") + context, "sha256"))


def _cipher_of_old_themis(key: bytes, length: int, context: bytes) -> AESGCM:
    """The cipher as 64-bit Themis 0.9.6 and earlier derived it: with the length as LE64."""
    return AESGCM(hmac.digest(key, _KDF_PREFIX + length.to_bytes(8, "little") + context, "sha256"))


def header(length: int) -> bytes:
    """The beginning of the cell of a message of ``length`` bytes. IV, tag and ciphertext follow."""
    return _HEADER.pack(_ALGORITHM, IV_BYTES, TAG_BYTES, length)


def seal(key: bytes, message: bytes, context: bytes) -> bytes:
    """Seal a message of at least one byte with a new random IV."""
    return seal_with(cipher(key, len(message), context), message, context)


def seal_with(gcm: AESGCM, message: bytes, context: bytes) -> bytes:
    """Seal as ``seal`` does, with the ``cipher`` for messages of this length."""
    if not message:
        raise ValueError("Secure Cell seals messages of at least one byte")
    iv = os.urandom(IV_BYTES)
    sealed = gcm.encrypt(iv, message, context)
    return b"".join((header(len(message)), iv, sealed[-TAG_BYTES:], sealed[:-TAG_BYTES]))


def message_length(cell: bytes) -> int:
    """Read the length of the message from the header.

    Raises:
        CorruptData: the bytes are not a complete cell.
    """
    if len(cell) <= OVERHEAD_BYTES:
        raise CorruptData("cell: too short")
    algorithm, iv_bytes, tag_bytes, length = _HEADER.unpack_from(cell)
    if (algorithm, iv_bytes, tag_bytes) != (_ALGORITHM, IV_BYTES, TAG_BYTES):
        raise CorruptData("cell: unknown header")
    if length != len(cell) - OVERHEAD_BYTES:
        raise CorruptData("cell: wrong length")
    return int(length)


def open_with(gcm: AESGCM, cell: bytes, context: bytes) -> bytes:
    """Open a cell with the ``cipher`` for its ``message_length``, which checks the header.

    Raises:
        CorruptData: the key or the context is another one, or bytes were changed.
    """
    iv, tag, ciphertext = cell[16:28], cell[28:44], cell[44:]
    try:
        return gcm.decrypt(iv, ciphertext + tag, context)
    except InvalidTag:
        raise CorruptData("cell: does not open") from None


def open_cell(key: bytes, cell: bytes, context: bytes) -> bytes:
    """Open a cell, also a cell of Themis 0.9.6 and earlier.

    Raises:
        CorruptData: the bytes are not a cell, the key or the context is another one, or bytes were changed.
    """
    length = message_length(cell)
    try:
        return open_with(cipher(key, length, context), cell, context)
    except CorruptData:
        return open_with(_cipher_of_old_themis(key, length, context), cell, context)
