"""The key storage in Redis and in Vault, seen from outside, and ``token-worker keys`` on either: for tests."""

import hashlib
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from types import MethodType
from typing import Any, Protocol
from weakref import WeakMethod

import requests

from harness import quick
from harness.servers import OpenBao
from harness.stack import Stack
from token_worker.admin.key_store import AdminStore, RedisAdminStore, VaultAdminStore
from token_worker.keys.vault_kv import VaultKv
from token_worker.redis.address import RedisSettings
from token_worker.redis.link import RedisLink
from token_worker.settings.vault import VaultSettings


def fingerprint(key: bytes) -> str:
    """A digest by which tests compare keys, so that a failure prints no key."""
    return hashlib.sha256(key).hexdigest()[:16]


class Killed(BaseException):
    """Stands for SIGKILL in a test that runs in one process: nothing catches it."""


class Fuse:
    """Ends the process just before, or just after, a call to a server. Each call counts twice, from 1."""

    def __init__(self, at: int = 0, end: Callable[[], None] | None = None) -> None:
        self._left = at
        self._end = end

    def burn(self) -> None:
        self._left -= 1
        if self._left == 0:
            if self._end is not None:
                self._end()
            raise Killed

    def wire(self, owner: Any, *names: str) -> None:
        """Put the fuse into methods of an object or class."""
        for name in names:
            setattr(owner, name, self._wired(getattr(owner, name)))

    def _wired(self, method: Callable[..., Any]) -> Callable[..., Any]:
        # An object that held a method of its own would be left to the garbage collector, with its connection.
        find = WeakMethod(method) if isinstance(method, MethodType) else lambda: method

        def call(*args: Any, **kwargs: Any) -> Any:
            self.burn()
            found = find()
            assert found is not None
            answer = found(*args, **kwargs)
            self.burn()
            return answer

        return call


VAULT_CALLS = ("read_version", "write_version", "delete_secret", "list_secrets")


class Place(Protocol):
    """A place for keys; with ``settings`` commands and workers use it."""

    folder: str
    settings: dict[str, str]

    def put(self, path: str, text: bytes | str) -> None:
        """Store a key at a path, such as ``<folder>/<name>``."""
        ...

    def get(self, path: str) -> bytes | None: ...

    def names(self, folder: str) -> list[str]:
        """Names below a folder, sorted."""
        ...

    def store(self, fuse: Fuse | None = None) -> AdminStore:
        """A connection of its own, with a fuse in it."""
        ...


class InRedis:
    """Keys on the stack's key storage."""

    def __init__(self, stack: Stack) -> None:
        self.folder = ".acrakeys"
        self.settings: dict[str, str] = {}
        self._redis = stack.storage
        self._url = stack.settings["TOKEN_WORKER_KEYS_URL"]

    def put(self, path: str, text: bytes | str) -> None:
        self._redis.set(path, text)

    def get(self, path: str) -> bytes | None:
        found = self._redis.get(path)
        return None if found is None else bytes(found)

    def names(self, folder: str) -> list[str]:
        return sorted(name.decode().removeprefix(f"{folder}/") for name in self._redis.scan_iter(f"{folder}/*"))

    def store(self, fuse: Fuse | None = None) -> AdminStore:
        link = RedisLink("keys", RedisSettings(url=self._url), raise_server_errors=True)
        if fuse is not None:
            fuse.wire(link, "call")
        return RedisAdminStore(link, self.folder)


class InVault:
    """Keys in a folder of its own of an OpenBao, read and written as root."""

    def __init__(self, server: OpenBao) -> None:
        self.folder = f"keys-{secrets.token_hex(6)}"
        self.settings = {
            "VAULT_ADDR": server.url,
            "VAULT_TOKEN": server.root_token,
            "TOKEN_WORKER_KEYS_SOURCE": "vault",
            "TOKEN_WORKER_MASTER_KEY_SOURCE": "env",
            "TOKEN_WORKER_KEYS_FOLDER": self.folder,
        }
        self._vault = VaultKv(VaultSettings(address=server.url, token=server.root_token))
        self._server = server

    def put(self, path: str, text: bytes | str) -> None:
        value = text if isinstance(text, str) else text.decode()
        self.api("POST", f"secret/data/{path}", {"data": {"key": value}})

    def get(self, path: str) -> bytes | None:
        found = self._vault.read_secret("secret", path)
        return None if found is None else str(found["key"]).encode()

    def names(self, folder: str) -> list[str]:
        return self.store().names_in([folder])[folder]

    def store(self, fuse: Fuse | None = None) -> AdminStore:
        vault = VaultKv(VaultSettings(address=self._server.url, token=self._server.root_token))
        if fuse is not None:
            fuse.wire(vault, *VAULT_CALLS)
        return VaultAdminStore(vault, "secret", self.folder)

    def api(self, method: str, path: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call Vault's HTTP API as root; returns the answer."""
        answer = requests.request(
            method,
            f"{self._server.url}/v1/{path}",
            json=data,
            headers={"X-Vault-Token": self._server.root_token},
            timeout=10,
        )
        answer.raise_for_status()
        return dict(answer.json()) if answer.content else {}


Done = subprocess.CompletedProcess[str]


def keys_command(stack: Stack, place: Place, *arguments: str, **more: str) -> Done:
    """``token-worker keys`` with the stack's settings; standard input is no terminal."""
    return quick.run(
        [sys.executable, "-m", "token_worker", "keys", *arguments],
        env=stack.environment(**place.settings, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


KILLED_AT_CALL = """
import os, signal, sys
from harness.key_places import VAULT_CALLS, Fuse
from token_worker.cli import main
from token_worker.keys.vault_kv import VaultKv
from token_worker.redis.link import RedisLink
fuse = Fuse(int(sys.argv.pop(1)), lambda: os.kill(os.getpid(), signal.SIGKILL))
fuse.wire(RedisLink, "call")
fuse.wire(VaultKv, *VAULT_CALLS)
main()
"""


def killed_command(stack: Stack, place: Place, at: int, *arguments: str, **more: str) -> int:
    """``token-worker keys``, killed before or after its call number ``(at + 1) // 2``; its exit status."""
    return quick.run(
        [sys.executable, "-c", KILLED_AT_CALL, str(at), "keys", *arguments],
        env=stack.environment(**place.settings, **more, PYTHONPATH=os.pathsep.join(sys.path)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    ).returncode
