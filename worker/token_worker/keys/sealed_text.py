"""The stored text of a key of 32 bytes: base64(Secure Cell(master key, key, context)). Pure."""

import base64
import binascii

from token_worker.acra import secure_cell
from token_worker.errors import CorruptData
from token_worker.keys.keyring import KEY_BYTES


def open_text(sealed: bytes, master_key: bytes, context: bytes) -> bytes:
    """Open the stored text of a key.

    Raises:
        CorruptData: the text is not base64, this master key does not open it, or the key has not 32 bytes.
    """
    try:
        cell = binascii.a2b_base64(sealed.strip(), strict_mode=True)
    except (ValueError, binascii.Error):
        raise CorruptData("key: not base64") from None
    key = secure_cell.open_cell(master_key, cell, context)
    if len(key) != KEY_BYTES:
        raise CorruptData("key: wrong length")
    return key


def seal_text(key: bytes, master_key: bytes, context: bytes) -> bytes:
    """Seal a key with the master key. Returns the text to store."""
    return base64.b64encode(secure_cell.seal(master_key, key, context))
