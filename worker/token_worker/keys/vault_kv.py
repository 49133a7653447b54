"""KV secrets in HashiCorp Vault or OpenBao, version 1 and 2.

All requests go through the ``VaultSession``, one at a time. Only ``read_secrets`` reads on connections of its own,
several at the same time. A secret that Vault refuses there is read once more through the session, which may log in
again.

Paths are those of the KV engine: ``mount`` is where the engine is mounted, ``path`` is the path below it. Methods raise
the errors of the session: ``Unavailable`` if Vault is away, sealed or on standby, ``MasterKeyError`` if a right is
missing. No text carries what a secret holds.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote

import hvac.exceptions
from hvac.adapters import JSONAdapter
from hvac.api.secrets_engines import KvV1, KvV2

from token_worker.errors import MasterKeyError
from token_worker.keys.vault_readers import AskAgain, Readers
from token_worker.keys.vault_requests import answer, not_vault
from token_worker.keys.vault_session import VaultSession
from token_worker.settings.vault import VaultSettings


class Version(NamedTuple):
    """One version of a KV secret. KV 1 has only one version, with the number 0."""

    fields: dict[str, object]
    number: int


class VaultKv:
    """The KV secrets of one Vault, read and written in a session of its own.

    Attributes:
        session: log-in and token.
    """

    def __init__(self, settings: VaultSettings) -> None:
        self.session = VaultSession(settings)
        self._readers = Readers(self.session.make_adapter)
        self._versions: dict[str, int] = {}
        """By mount: the version of its KV engine."""

    def close(self) -> None:
        """End the session and its connections."""
        self._readers.close()
        self.session.close()

    # -- paths

    def split(self, path: str) -> tuple[str, str]:
        """Split a path such as ``secret/acra/transport`` into mount and path below it; mounts may have several parts.

        Raises:
            MasterKeyError: there is no such mount, the token has no right below it, or it is not a KV engine.
        """
        path = path.strip("/")
        mount = self._find_mount(path)
        below = path[len(mount) + 1 :]
        if not below:
            raise MasterKeyError(f"{path} is a mount of Vault: name a secret below it, such as {mount}/acra/transport")
        return mount, below

    def _find_mount(self, path: str) -> str:
        """The mount of a path. Vault tells it to everyone who has any right below it. Remembers its KV version."""
        data = self.session.ask(
            partial(self.session.adapter.get, f"/v1/sys/internal/ui/mounts/{quote(path)}"),
            f"Vault does not permit reading {path}: it has no such mount, or the token's policies permit nothing in it",
        )
        if data is None:
            raise not_vault(self.session.settings.address)
        mount = str(data["path"]).strip("/")
        if data["type"] not in {"kv", "generic"}:
            raise MasterKeyError(f"{mount} in Vault is of type {data['type']}, not a KV secrets engine")
        self._versions[mount] = int((data["options"] or {}).get("version", 1))
        return mount

    def _version(self, mount: str) -> int:
        if mount not in self._versions and self._find_mount(mount) != mount:
            raise MasterKeyError(f"{mount} is not a mount of Vault")
        return self._versions[mount]

    def is_versioned(self, mount: str) -> bool:
        """Tell whether a mount is KV 2. Errors as by ``split``."""
        return self._version(mount) > 1

    def _api_path(self, mount: str, prefix: str, path: str) -> str:
        """The path that a policy has to name. KV 2 has contents below ``data/`` and names below ``metadata/``."""
        return f"{mount}/{path}" if self._version(mount) == 1 else f"{mount}/{prefix}/{path}"

    # -- reading

    def read_secret(self, mount: str, path: str) -> dict[str, object] | None:
        """The fields of a secret's newest version. None if there is no secret, or that version was deleted."""
        read = self._reading(self.session.adapter, mount, path)
        data = self.session.ask(read, _denied("reading", "read", mount, path, self._api_path(mount, "data", path)))
        return None if data is None else self._fields(mount, data)

    def read_secrets(self, mount: str, paths: Sequence[str]) -> list[dict[str, object] | None]:
        """The fields of several secrets, read at the same time. Each is as by ``read_secret``."""
        if len(paths) < 2:
            return [self.read_secret(mount, path) for path in paths]
        self._version(mount)
        address, token = self.session.settings.address, self.session.token()

        def read(adapter: JSONAdapter, path: str) -> dict[str, object] | AskAgain | None:
            adapter.token = token
            try:
                return self._fields(mount, answer(address, self._reading(adapter, mount, path), "data"))
            except hvac.exceptions.InvalidPath:
                return None
            except (hvac.exceptions.Forbidden, hvac.exceptions.InvalidRequest):
                return AskAgain()

        secrets = self._readers.read(paths, read)
        return [
            self.read_secret(mount, path) if isinstance(secret, AskAgain) else secret
            for path, secret in zip(paths, secrets, strict=True)
        ]

    def read_version(
        self, mount: str, path: str, number: int | None = None, *, is_for_operators: bool = False
    ) -> Version | None:
        """One version of a secret, by default the newest. None if it does not exist, or was deleted.

        If Vault refuses a secret that ``is_for_operators``, the error names the policy of operators.
        """
        if self._version(mount) == 1:
            fields = self.read_secret(mount, path)
            return None if fields is None else Version(fields, 0)
        kv = KvV2(self.session.adapter)
        read = partial(kv.read_secret_version, path, number, mount, raise_on_deleted_version=True)
        denied = _not_operator if is_for_operators else _denied
        data = self.session.ask(read, denied("reading", "read", mount, path, self._api_path(mount, "data", path)))
        return None if data is None else Version(data["data"], int(data["metadata"]["version"]))

    def list_secrets(self, mount: str, path: str) -> list[str]:
        """Names of the secrets directly below a path, folders with a slash at the end. Empty if there are none."""
        adapter = self.session.adapter
        kv = KvV1(adapter) if self._version(mount) == 1 else KvV2(adapter)
        api_path = self._api_path(mount, "metadata", path)
        denied = _denied("listing", "list", mount, path, api_path)
        data = self.session.ask(partial(kv.list_secrets, path, mount), denied)
        return [] if data is None else list(data["keys"])

    def rights(self, secret: str) -> tuple[str, dict[str, list[str]] | None]:
        """The API path of a secret, and the rights of the token there and at a few places that it does not need.

        The rights are None if the token may not look them up. Errors as by ``split``.
        """
        mount, below = self.split(secret)
        path = self._api_path(mount, "data", below)
        background = self._api_path(mount, "data", f"{below.rpartition('/')[0]}/any-other-secret".lstrip("/"))
        paths = [path, background, "sys/policies/acl/any", "auth/token/create"]
        request = partial(self.session.adapter.post, "/v1/sys/capabilities-self", json={"paths": paths})
        found = self.session.ask_about_token(request)
        if found is None:
            return path, None
        return path, {name: [str(right) for right in found.get(name) or ()] for name in paths}

    def _reading(self, adapter: JSONAdapter, mount: str, path: str) -> Callable[[], Any]:
        if self._version(mount) == 1:
            return partial(KvV1(adapter).read_secret, path, mount)
        return partial(KvV2(adapter).read_secret, path, mount, raise_on_deleted_version=True)  # as if never written

    def _fields(self, mount: str, data: dict[str, Any]) -> dict[str, object]:
        fields: dict[str, object] = data if self._version(mount) == 1 else data["data"]
        return fields

    # -- writing

    def create_secret(self, mount: str, path: str, data: Mapping[str, str]) -> bool:
        """Write a secret that does not exist yet. Returns False, and writes nothing, if it exists.

        On KV 2 Vault itself decides (check-and-set). A deleted secret whose versions are kept counts as existing. KV 1
        has no check-and-set: the secret is read, then written. If two do that at once, the later one wins.

        Raises:
            Unavailable: Vault is away; the secret may have been written.
            MasterKeyError: the token may not read or create it.
        """
        if self.read_secret(mount, path) is not None:
            return False
        api_path = self._api_path(mount, "data", path)
        create = partial(self._create, mount, path, dict(data))
        return self.session.ask(create, _not_operator("creating", "create", mount, path, api_path)) is not None

    def write_version(self, mount: str, path: str, data: Mapping[str, object], number: int) -> bool:
        """Write a secret whose newest version still has this number (0: it does not exist).

        Returns False, and writes nothing, if the newest version has another number.

        Raises:
            Unavailable: Vault is away; the secret may have been written.
            MasterKeyError: the token may not write it, or the mount is KV 1, which has no check-and-set.
        """
        if self._version(mount) == 1:
            raise MasterKeyError(
                f"{mount} in Vault is KV version 1, which has no check-and-set: change it to version 2 first"
                f" (`vault kv enable-versioning {mount}`)"
            )
        api_path = self._api_path(mount, "data", path)
        write = partial(self._create, mount, path, dict(data), number)
        return (
            self.session.ask(write, _not_operator("writing", "create` and `update", mount, path, api_path)) is not None
        )

    def delete_secret(self, mount: str, path: str) -> None:
        """Delete a secret with all its versions. Does nothing if it does not exist.

        Raises:
            Unavailable: Vault is away; the secret may have been deleted.
            MasterKeyError: the token may not delete it.
        """
        denied = _not_operator("deleting", "delete", mount, path, self._api_path(mount, "metadata", path))
        self.session.ask(partial(self._delete, mount, path), denied)

    def delete_versions(self, mount: str, path: str, numbers: Sequence[int]) -> None:
        """Delete versions of a KV 2 secret; ``vault kv undelete`` brings them back. Errors as by ``delete_secret``."""
        denied = _not_operator("deleting versions of", "update", mount, path, self._api_path(mount, "delete", path))
        self.session.ask(partial(self._delete_versions, mount, path, [*numbers]), denied)

    def _delete_versions(self, mount: str, path: str, numbers: list[int]) -> Any:
        KvV2(self.session.adapter).delete_secret_versions(path, numbers, mount)
        return {"data": {}}

    def _create(self, mount: str, path: str, data: Mapping[str, object], number: int = 0) -> Any:
        adapter = self.session.adapter
        if self._version(mount) == 1:  # with POST, hvac need not read first to choose a verb; POST writes either way
            KvV1(adapter).create_or_update_secret(path, data, "POST", mount)
            return {"data": {}}
        try:
            return KvV2(adapter).create_or_update_secret(path, data, number, mount)
        except hvac.exceptions.InvalidRequest as error:
            if "check-and-set" in str(error.text):
                raise hvac.exceptions.InvalidPath from None  # for ``ask``: None, which is not an error
            raise

    def _delete(self, mount: str, path: str) -> Any:
        adapter = self.session.adapter
        if self._version(mount) == 1:
            KvV1(adapter).delete_secret(path, mount)
        else:
            KvV2(adapter).delete_metadata_and_all_versions(path, mount)
        return {"data": {}}


def _denied(doing: str, right: str, mount: str, path: str, api_path: str) -> str:
    return f"Vault does not permit {doing} {mount}/{path}: give the token's policy `{right}` on {api_path}"


def _not_operator(doing: str, right: str, mount: str, path: str, api_path: str) -> str:
    return (
        f"Vault does not permit {doing} {mount}/{path}: run this as an operator, with a Vault token of the policy"
        f" key-admin.hcl (it has `{right}` on {api_path})"
    )
