"""The key storage for the ``keys`` commands, in Redis or in Vault. Every change is a compare-and-set.

Paths are Redis keys, or paths of KV secrets in the mount of the master key (field ``key``). ``<folder>/<name>`` are
Acra's own keys. Three more folders are out of Acra's sight: ``<folder>.index/<name>`` holds the index keys,
``<folder>.retired/<name>`` holds keys that are being destroyed, and ``<folder>.scans/<name>`` their records (JSON).

Redis: each change is one script. Vault: check-and-set of KV version 2; on version 1 every change is refused. Vault
cannot change two secrets at once. So a key is written to its new place before it is deleted from the old one. A change
that was interrupted is completed by the same command. After two rotations at once, the history may have a key twice.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from token_worker.keys.store import KEYS_PER_COMMAND, MOVED_FIELD, VAULT_FIELD
from token_worker.redis.link import RedisLink
from token_worker.redis.scan import escape_pattern, scan
from token_worker.redis.script import Script

if TYPE_CHECKING:
    from token_worker.keys.vault_kv import VaultKv

_RECORD_FIELD = "record"
"""Field beside ``MOVED_FIELD``: the record that is deleted with the key; empty for none."""

_REPLACE = Script(__package__, "replace.lua")
_ROTATE = Script(__package__, "rotate.lua")
_MOVE = Script(__package__, "move.lua")
_REMOVE = Script(__package__, "remove.lua")


class StoredText(NamedTuple):
    """A stored text, and the version of its KV secret; 0 in Redis, which compares the text."""

    text: bytes
    version: int = 0


class AdminStore(Protocol):
    """The key storage, as the commands use it.

    All methods raise ``Unavailable``, and ``ServerError`` or ``MasterKeyError`` if a right is missing.
    """

    folder: str

    def names_in(self, folders: Sequence[str]) -> dict[str, list[str]]:
        """All names below ``folder`` and folders beside it, each once, sorted. Redis needs one scan for all.

        A name that is added meanwhile may be missed.
        """
        ...

    def read(self, paths: Sequence[str]) -> list[StoredText | None]:
        """Read the texts at these paths, each or None."""
        ...

    def create(self, path: str, text: bytes) -> bool:
        """Store a text. Returns False, and changes nothing, if the path holds one already."""
        ...

    def replace(self, path: str, old: StoredText, text: bytes) -> bool:
        """Replace a text. Returns False, and changes nothing, if it is not ``old`` any more."""
        ...

    def rotate(self, path: str, old: StoredText, history: str, history_text: bytes, text: bytes) -> bool:
        """Replace a key, and keep the old one under ``history``. Returns False if it is not ``old`` any more."""
        ...

    def move(self, path: str, old: StoredText, to: str, text: bytes, record: str, record_text: bytes) -> bool:
        """Move a key, and write its record, or delete it if ``record_text`` is empty.

        Returns False if the key is not ``old`` any more, or ``to`` holds another text than ``text``.
        """
        ...

    def remove(self, path: str, old: StoredText, record: str) -> bool:
        """Delete a key for good, and its record. Returns False if the key is not ``old`` any more."""
        ...

    def tidy(self, paths: Sequence[str]) -> None:
        """Clean up after an interrupted ``move`` or ``remove`` at these paths. Never deletes a key."""
        ...


def retired_folder(folder: str) -> str:
    """The folder of keys that are being destroyed."""
    return f"{folder}.retired"


def record_path(folder: str, name: str) -> str:
    """The path of the record of a key that is being destroyed."""
    return f"{folder}.scans/{name}"


class RedisAdminStore:
    """Acra's key storage in Redis, version 1."""

    def __init__(self, link: RedisLink, folder: str) -> None:
        self.folder = folder
        self._link = link

    def names_in(self, folders: Sequence[str]) -> dict[str, list[str]]:
        found: dict[str, set[str]] = {folder: set() for folder in folders}
        for page in scan(self._link, f"{escape_pattern(self.folder)}*/*"):
            for raw in page:
                folder, _, name = raw.decode(errors="replace").removeprefix(self.folder).partition("/")
                if self.folder + folder in found:
                    found[self.folder + folder].add(name)
        return {folder: sorted(names) for folder, names in found.items()}

    def read(self, paths: Sequence[str]) -> list[StoredText | None]:
        texts: list[bytes | None] = []
        for start in range(0, len(paths), KEYS_PER_COMMAND):
            texts += self._link.call("MGET", *paths[start : start + KEYS_PER_COMMAND])
        return [None if text is None else StoredText(text) for text in texts]

    def create(self, path: str, text: bytes) -> bool:
        return self._link.call("SET", path, text, "NX") is not None

    def replace(self, path: str, old: StoredText, text: bytes) -> bool:
        return bool(self._link.run(_REPLACE, [path], [old.text, text]))

    def rotate(self, path: str, old: StoredText, history: str, history_text: bytes, text: bytes) -> bool:
        return bool(self._link.run(_ROTATE, [path, history], [old.text, history_text, text]))

    def move(self, path: str, old: StoredText, to: str, text: bytes, record: str, record_text: bytes) -> bool:
        return bool(self._link.run(_MOVE, [path, to, record], [old.text, text, record_text]))

    def remove(self, path: str, old: StoredText, record: str) -> bool:
        return bool(self._link.run(_REMOVE, [path, record], [old.text]))

    def tidy(self, paths: Sequence[str]) -> None:
        """Do nothing: a script leaves nothing half done."""


class VaultAdminStore:
    """Acra's key storage as KV secrets of one mount, with the same names."""

    def __init__(self, vault: "VaultKv", mount: str, folder: str) -> None:
        self.folder = folder
        self._vault = vault
        self._mount = mount

    def _names(self, folder: str) -> Iterator[str]:
        folders = [""]
        while folders:
            inside = folders.pop()
            for name in self._vault.list_secrets(self._mount, f"{folder}/{inside}".rstrip("/")):
                if name.endswith("/"):
                    folders.append(inside + name)
                else:
                    yield inside + name

    def names_in(self, folders: Sequence[str]) -> dict[str, list[str]]:
        return {folder: sorted(set(self._names(folder))) for folder in folders}

    def read(self, paths: Sequence[str]) -> list[StoredText | None]:
        return [self._read(path) for path in paths]

    def create(self, path: str, text: bytes) -> bool:
        return self._write(path, text, 0)

    def replace(self, path: str, old: StoredText, text: bytes) -> bool:
        return self._write(path, text, old.version)

    def rotate(self, path: str, old: StoredText, history: str, history_text: bytes, text: bytes) -> bool:
        folder, _, stamp = history.rpartition("/")
        stamps = sorted(self._vault.list_secrets(self._mount, folder))
        newest = self._read(f"{folder}/{stamps[-1]}") if stamps else None
        is_kept = newest is not None and newest.text in {old.text, history_text}  # by a rotation that was interrupted
        if not is_kept and not self._write(f"{folder}/{stamp}", history_text, 0):
            return False
        return self._write(path, text, old.version)

    def move(self, path: str, old: StoredText, to: str, text: bytes, record: str, record_text: bytes) -> bool:
        found = self._vault.read_version(self._mount, to)
        held = None if found is None else found.fields.get(VAULT_FIELD)
        if held is None and not self._write(to, text, 0 if found is None else found.number):
            return False
        if held not in (None, text.decode()):
            return False
        # Only now, and only if it is still what was copied: the check-and-set that lets no change get lost.
        if not self._leave(path, old, to, "" if record_text else record):
            return False
        if record_text:
            found = self._vault.read_version(self._mount, record)
            self._write(record, record_text, 0 if found is None else found.number)
        return True

    def remove(self, path: str, old: StoredText, record: str) -> bool:
        return self._leave(path, old, "", "" if record == path else record)

    def _leave(self, path: str, old: StoredText, to: str, record: str) -> bool:
        """Delete a key that is still ``old``, and then a record, unless that is empty."""
        if not self._vault.write_version(self._mount, path, {MOVED_FIELD: to, _RECORD_FIELD: record}, old.version):
            return False
        self.tidy([path])
        return True

    def tidy(self, paths: Sequence[str]) -> None:
        for path in paths:
            found = self._vault.read_version(self._mount, path)
            if found is not None and MOVED_FIELD in found.fields:
                record = found.fields.get(_RECORD_FIELD)
                if record:  # before the path, which is found again if this is interrupted
                    self._vault.delete_secret(self._mount, str(record))
                self._vault.delete_secret(self._mount, path)

    def _read(self, path: str) -> StoredText | None:
        found = self._vault.read_version(self._mount, path, is_for_operators=True)
        if found is None or MOVED_FIELD in found.fields:
            return None
        return StoredText(str(found.fields.get(VAULT_FIELD, "")).encode(), found.number)

    def _write(self, path: str, text: bytes, version: int) -> bool:
        return self._vault.write_version(self._mount, path, {VAULT_FIELD: text.decode()}, version)
