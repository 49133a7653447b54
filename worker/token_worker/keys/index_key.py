"""The index key of a client or zone: 32 random bytes that name its entries in the dense token storage. Pure.

Each owner has one at most. It stays when the owner's symmetric key rotates. Without it no entry of the owner is found.

It is stored beside the folder of Acra's keys, where Acra does not look: ``<folder>.index/<key name>``, in Redis as a
string, in Vault as a KV secret with the field ``key``. The text is base64(Secure Cell(master key, index key, context)).
::

    context = "token-worker index key v1 " || LP(kind) || LP(id)        LP(x) = BE32(length of x) || x

The context of a symmetric key is the id alone, in which no zero byte occurs. So neither key opens as the other one, nor
as that of another owner.
"""

from typing import NamedTuple

from token_worker.acra.key_name import KeyKind, KeyName, parse_name
from token_worker.acra.owner import Owner
from token_worker.keys.sealed_text import open_text, seal_text

INDEX_KEY = KeyKind("index_key", "symmetric")
"""The kind of an index key, as listings name it."""

NAME_PREFIX = ".index/"
"""The beginning of an index key's name in listings, logs, and the folder of keys that are being destroyed."""

_CONTEXT = b"token-worker index key v1 "


class KeyTexts(NamedTuple):
    """The stored texts of an owner's symmetric key and of its index key; None for a key that does not exist."""

    key: bytes | None
    index_key: bytes | None = None


def index_folder(folder: str) -> str:
    """The folder of the index keys beside a folder of keys."""
    return f"{folder}.index"


def index_path(folder: str, owner: Owner) -> str:
    """The place of an owner's index key: a Redis key, or the path of a KV secret in its mount."""
    return f"{index_folder(folder)}/{owner.key_name}"


def index_name(owner: Owner) -> KeyName:
    """The name of an owner's index key, as commands list it: its path without the folder of the keys."""
    name = NAME_PREFIX + owner.key_name
    return KeyName(name, name, None, INDEX_KEY, owner, index_context(owner))


def parse_index_name(name: str) -> KeyName:
    """Parse a name with its prefix. If it is not that of an index key, ``kind`` is None."""
    of_key = parse_name(name.removeprefix(NAME_PREFIX))
    if of_key.owner is None or of_key.stamp is not None or not of_key.seals_tokens:
        return KeyName(name, name, None, None, None)
    return index_name(of_key.owner)


def index_context(owner: Owner) -> bytes:
    """The associated context of the seal."""
    return b"".join((_CONTEXT, *(len(part).to_bytes(4, "big") + part for part in (owner.kind.encode(), owner.context))))


def seal_index_key(key: bytes, master_key: bytes, owner: Owner) -> bytes:
    """Seal an index key with the master key. Returns the text to store."""
    return seal_text(key, master_key, index_context(owner))


def open_index_key(sealed: bytes, master_key: bytes, owner: Owner) -> bytes:
    """Open the stored text of an index key.

    Raises:
        CorruptData: the text is not base64, this master key does not open it, or the key has not 32 bytes.
    """
    return open_text(sealed, master_key, index_context(owner))
