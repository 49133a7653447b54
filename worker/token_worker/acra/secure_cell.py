"""Themis Secure Cell in Seal mode with a symmetric key: AES-256-GCM under a key derived for each length.

Layout and key derivation are those of the Themis specification (Secure Cell, symmetric-key Seal mode)::

    LE32 algorithm | LE32 IV length | LE32 tag length | LE32 message length n | IV (12) | tag (16) | ciphertext (n)

    AES key = HMAC-SHA256(key, 00 00 00 01 || "Themis secure cell message key" || 00 || LE32(n) || context)

The context is also GCM's additional data. Pure functions; every byte of a cell is either checked or authenticated.
"""

import hmac
import os
import struct
from collections.abc import Iterator

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
"""How much longer a cell is than its message."""

_KDF_PREFIX = b"\x00\x00\x00\x01Themis secure cell message key\x00"


def cipher(key: bytes, length: int, context: bytes) -> AESGCM:
    """The AES-GCM that seals and opens messages of ``length`` bytes; may be kept for more of that length."""
    return AESGCM(hmac.digest(key, _KDF_PREFIX + length.to_bytes(4, "little") + context, "sha256"))


def _cipher_of_old_themis(key: bytes, length: int, context: bytes) -> AESGCM:
    """As 64-bit Themis 0.9.6 and earlier derived it: the length as LE64."""
    return AESGCM(hmac.digest(key, _KDF_PREFIX + length.to_bytes(8, "little") + context, "sha256"))


def random_ivs(count: int) -> Iterator[bytes]:
    """So many new random IVs, drawn at once."""
    drawn = os.urandom(count * IV_BYTES)
    return (drawn[at : at + IV_BYTES] for at in range(0, len(drawn), IV_BYTES))


def header(length: int) -> bytes:
    """How the cell of a message of ``length`` bytes begins; IV, tag and ciphertext follow."""
    return _HEADER.pack(_ALGORITHM, IV_BYTES, TAG_BYTES, length)


def seal(key: bytes, message: bytes, context: bytes) -> bytes:
    """Seal a message of at least one byte; a new random IV each time."""
    return seal_with(cipher(key, len(message), context), message, context)


def seal_with(gcm: AESGCM, message: bytes, context: bytes) -> bytes:
    """As ``seal``, with the ``cipher`` for messages of this length at hand."""
    if not message:
        raise ValueError("Secure Cell seals messages of at least one byte")
    iv = os.urandom(IV_BYTES)
    sealed = gcm.encrypt(iv, message, context)
    return b"".join((header(len(message)), iv, sealed[-TAG_BYTES:], sealed[:-TAG_BYTES]))


def message_length(cell: bytes) -> int:
    """Length of the message inside, read from the header.

    Raises:
        CorruptData: this is no complete cell.
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
    """Open a cell with the ``cipher`` for its ``message_length``, which must have been read before.

    Raises:
        CorruptData: another key, another context, or changed bytes.
    """
    iv, tag, ciphertext = cell[16:28], cell[28:44], cell[44:]
    try:
        return gcm.decrypt(iv, ciphertext + tag, context)
    except InvalidTag:
        raise CorruptData("cell: does not open") from None


def open_cell(key: bytes, cell: bytes, context: bytes) -> bytes:
    """Open a cell, also one of Themis 0.9.6 and earlier.

    Raises:
        CorruptData: no cell, another key, another context, or changed bytes.
    """
    length = message_length(cell)
    try:
        return open_with(cipher(key, length, context), cell, context)
    except CorruptData:
        return open_with(_cipher_of_old_themis(key, length, context), cell, context)
