"""A second reader of stored data, from the description of Acra's formats alone; shares no code with the product."""

import base64
import hashlib
import hmac
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def open_secure_cell(key: bytes, cell: bytes, context: bytes) -> bytes:
    """Themis Secure Cell, Seal mode."""
    assert cell[:4] == bytes.fromhex("00010140")
    assert int.from_bytes(cell[4:8], "little") == 12
    assert int.from_bytes(cell[8:12], "little") == 16
    length = int.from_bytes(cell[12:16], "little")
    assert len(cell) == 44 + length
    info = bytes(3) + b"\x01" + b"Themis secure cell message key" + b"\x00" + length.to_bytes(4, "little") + context
    aes_key = hmac.new(key, info, hashlib.sha256).digest()
    return AESGCM(aes_key).decrypt(cell[16:28], cell[44:] + cell[28:44], context)


class AcraBlock(NamedTuple):
    """An AcraBlock, opened."""

    key_id: bytes
    sealed_data_key: bytes
    data: bytes


def open_acra_block(key: bytes, block: bytes, context: bytes) -> AcraBlock:
    """Envelope: data key under the owner's key, data under the data key."""
    assert block[:4] == b'""""'
    assert int.from_bytes(block[4:12], "little") == len(block) - 4
    assert block[12] == 0
    assert block[15] == 0
    assert block[13:15] == hashlib.sha256(key + context).digest()[:2]
    size = int.from_bytes(block[16:18], "little")
    sealed = block[18 : 18 + size]
    data_key = open_secure_cell(key, sealed, context)
    assert len(data_key) == 32
    return AcraBlock(block[13:15], sealed, open_secure_cell(data_key, block[18 + size :], context))


def protobuf(message: bytes) -> dict[int, bytes | int]:
    """Fields of a protobuf message of varints and bytes."""
    fields: dict[int, bytes | int] = {}
    while message:
        tag, message = message[0], message[1:]
        number = shift = 0
        while True:
            byte, message = message[0], message[1:]
            number += (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        if tag & 7 == 2:
            fields[tag >> 3], message = message[:number], message[number:]
        else:
            assert tag & 7 == 0
            fields[tag >> 3] = number
    return fields


class StoredEntry(NamedTuple):
    """A token entry: the content of its block, and its metadata."""

    inside: bytes
    key_id: bytes
    sealed_data_key: bytes
    created: int
    accessed: int
    disabled: bool


def read_entry(raw: bytes, key: bytes, owner_id: str) -> StoredEntry:
    """A Redis value of the token storage."""
    assert raw == raw.lower()
    fields = protobuf(bytes.fromhex(raw.decode()))
    assert set(fields) <= {1, 2, 3, 4}
    assert isinstance(fields[1], bytes)
    block = open_acra_block(key, fields[1], owner_id.encode())
    created, accessed = fields.get(2, 0), fields.get(3, 0)
    assert isinstance(created, int)
    assert isinstance(accessed, int)
    return StoredEntry(block.data, block.key_id, block.sealed_data_key, created, accessed, bool(fields.get(4, 0)))


def entry_name(prefix: str, data: bytes, number: int, kind: str, owner_id: str) -> bytes:
    """Redis key of an entry: ``prefix`` is ``h.`` (data is the value) or ``t.`` (the token)."""
    delimiter = b"tokenizator hash delimiter"
    owner = kind.encode() + owner_id.encode()
    data_id = hashlib.sha256(delimiter + data + owner + delimiter + str(number).encode()).digest()
    return f"tokens/{hashlib.sha256(owner).hexdigest()}/{(prefix.encode() + data_id).hex()}".encode()


def read_key(text: str, master_key: bytes, context: str) -> bytes:
    """A key of the key storage."""
    return open_secure_cell(master_key, base64.b64decode(text, validate=True), context.encode())
