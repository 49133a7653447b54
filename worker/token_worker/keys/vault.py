"""HashiCorp Vault or OpenBao: log-in, the token's life, and KV secrets (version 1 and 2).

One ``Vault`` is one session: an HTTP connection, a token, and once ``keep_alive`` was called a daemon thread that
keeps the token valid. Caller and thread take turns (one lock, one request at a time, each 5 s at most), so a token is
never replaced under a request. Only ``read_secrets`` asks on connections of its own, without the lock; what is refused
there is asked for once more in turn.

Nothing is tried again here, the caller backs off; the one exception is a request that Vault refuses because the token
has ended: with ``approle`` and ``jwt`` the session logs in anew and asks once more. Every failure is one of two errors:

- ``Unavailable("vault", reason)``: away, sealed, standby, overloaded, or failing inside;
- ``MasterKeyError``: refused, or not reachable before a setting or a right is changed; the text says which.

No text, log line or representation carries what a secret holds, a token, a secret id or a JWT; texts of the libraries
beneath are dropped, since servers quote arguments.
"""

import ssl
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote

import hvac.exceptions
import requests
import structlog
from hvac.adapters import JSONAdapter
from hvac.api.auth_methods import JWT, AppRole, Token
from hvac.api.secrets_engines import KvV1, KvV2

from token_worker.errors import MasterKeyError, Unavailable
from token_worker.keys.vault_lease import Lease
from token_worker.keys.vault_readers import AskAgain, Readers
from token_worker.settings.vault import VaultSettings, read_file

TIMEOUT_SECONDS = 5
"""For connecting, and again for the answer."""

IDLE_CHECK_SECONDS = 60
"""How often to look whether a token that never ends has been replaced by one that does."""

BACK_OFF_SECONDS_MAX = 30
"""Between two tries of the thread to keep the token valid; the first comes after one second."""

_log = structlog.get_logger("vault")


class Version(NamedTuple):
    """One version of a KV secret; on KV 1, which has but one, its number is 0."""

    fields: dict[str, object]
    number: int


class Vault:
    """A session with Vault; making one does not talk to the server yet."""

    def __init__(self, settings: VaultSettings) -> None:
        self.settings = settings
        if settings.skip_verify:
            # Said once, here, instead of at each request.
            warnings.filterwarnings("ignore", message="Unverified HTTPS request")
            _log.warning("Vault certificate is not checked")
        self._lock = threading.RLock()
        self._adapter = self._make_adapter()
        self._readers = Readers(self._make_adapter)
        self._lease: Lease | None = None
        self._versions: dict[str, int] = {}
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def _make_adapter(self) -> JSONAdapter:
        settings = self.settings
        return JSONAdapter(  # not hvac.Client: that one reads the environment and ~/.vault-token by itself
            base_uri=settings.address,
            token=settings.token if settings.auth == "token" else None,
            cert=(settings.client_cert, settings.client_key) if settings.client_key else settings.client_cert,
            verify=False if settings.skip_verify else settings.ca_cert or settings.ca_path or True,
            timeout=TIMEOUT_SECONDS,
            namespace=settings.namespace,
        )

    def connect(self) -> None:
        """Log in; with ``token``, see that Vault knows it.

        Raises:
            Unavailable: Vault is away, sealed or on standby, or the session was closed.
            MasterKeyError: Vault refuses the log-in, or a setting for it is missing.
        """
        with self._lock:
            if self._stop.is_set():
                raise Unavailable("vault", "session closed")
            if self.settings.auth == "token":
                self._look_up_token()
            else:
                self._log_in()

    def split(self, path: str) -> tuple[str, str]:
        """Split a path such as ``secret/acra/transport`` into mount and path below it; mounts may have several parts.

        Raises:
            Unavailable: Vault is away, sealed or on standby.
            MasterKeyError: there is no such mount, the token permits nothing below it, or it holds no KV secrets.
        """
        path = path.strip("/")
        mount = self._find_mount(path)
        below = path[len(mount) + 1 :]
        if not below:
            raise MasterKeyError(f"{path} is a mount of Vault: name a secret below it, such as {mount}/acra/transport")
        return mount, below

    def read_secret(self, mount: str, path: str) -> dict[str, object] | None:
        """Fields of the secret, of its newest version; None if there is none or that version was deleted.

        Raises:
            Unavailable: Vault is away, sealed or on standby.
            MasterKeyError: the token may not read it.
        """
        read = self._reading(self._adapter, mount, path)
        data = self._ask(read, _denied("reading", "read", mount, path, self._api_path(mount, "data", path)))
        return None if data is None else self._fields(mount, data)

    def read_secrets(self, mount: str, paths: Sequence[str]) -> list[dict[str, object] | None]:
        """The same of several secrets, at the same time; errors as by ``read_secret``."""
        if len(paths) < 2:
            return [self.read_secret(mount, path) for path in paths]
        with self._lock:
            if self._adapter.token is None:
                self.connect()
            self._version(mount)
            token = self._adapter.token

        def read(adapter: JSONAdapter, path: str) -> dict[str, object] | AskAgain | None:
            adapter.token = token
            try:
                return self._fields(mount, self._answer(self._reading(adapter, mount, path), "data"))
            except hvac.exceptions.InvalidPath:
                return None
            except (hvac.exceptions.Forbidden, hvac.exceptions.InvalidRequest):
                return AskAgain()

        found = self._readers.read(paths, read)
        return [
            self.read_secret(mount, path) if isinstance(it, AskAgain) else it
            for path, it in zip(paths, found, strict=True)
        ]

    def _reading(self, adapter: JSONAdapter, mount: str, path: str) -> Callable[[], Any]:
        if self._version(mount) == 1:
            return partial(KvV1(adapter).read_secret, path, mount)
        return partial(KvV2(adapter).read_secret, path, mount, raise_on_deleted_version=True)  # as if it never was

    def _fields(self, mount: str, data: dict[str, Any]) -> dict[str, object]:
        fields: dict[str, object] = data if self._version(mount) == 1 else data["data"]
        return fields

    def rights(self, secret: str) -> tuple[str, dict[str, list[str]] | None]:
        """The API path of a secret, and what the token may do there and at a few places that are none of its business.

        None where it may not ask. Errors as by ``split``.
        """
        mount, below = self.split(secret)
        path = self._api_path(mount, "data", below)
        beside = self._api_path(mount, "data", f"{below.rpartition('/')[0]}/any-other-secret".lstrip("/"))
        paths = [path, beside, "sys/policies/acl/any", "auth/token/create"]

        def ask() -> Any:
            return self._adapter.post("/v1/sys/capabilities-self", json={"paths": paths})

        with self._lock:
            try:
                found = self._answer(ask, "data")
            except hvac.exceptions.Forbidden:
                return path, None
        return path, {name: [str(right) for right in found.get(name) or ()] for name in paths}

    @property
    def is_renewable(self) -> bool:
        """Whether the token can be renewed."""
        return self._lease is not None and self._lease.renewable

    def list_secrets(self, mount: str, path: str) -> list[str]:
        """Names of the secrets directly below a path, folders with a slash at the end; empty if there are none.

        Raises:
            Unavailable: Vault is away, sealed or on standby.
            MasterKeyError: the token may not list them.
        """
        kv = KvV1(self._adapter) if self._version(mount) == 1 else KvV2(self._adapter)
        api_path = self._api_path(mount, "metadata", path)
        data = self._ask(partial(kv.list_secrets, path, mount), _denied("listing", "list", mount, path, api_path))
        return [] if data is None else list(data["keys"])

    def create_secret(self, mount: str, path: str, data: Mapping[str, str]) -> bool:
        """Write a secret where none is; False, and nothing written, if there is one.

        On KV 2 Vault itself decides (check-and-set), and a deleted secret whose versions are kept counts as one. KV 1
        has no such means: it is looked for, then written, and of two who do that at once the later one wins.

        Raises:
            Unavailable: Vault is away, sealed or on standby; it may have been written.
            MasterKeyError: the token may not read or create it.
        """
        if self.read_secret(mount, path) is not None:
            return False
        api_path = self._api_path(mount, "data", path)
        create = partial(self._create, mount, path, dict(data))
        return self._ask(create, _denied("creating", "create", mount, path, api_path)) is not None

    def read_version(self, mount: str, path: str, number: int | None = None) -> Version | None:
        """A secret and which version it is, the newest one by default; None if it is not there or was deleted.

        Raises:
            Unavailable: Vault is away, sealed or on standby.
            MasterKeyError: the token may not read it.
        """
        if self._version(mount) == 1:
            fields = self.read_secret(mount, path)
            return None if fields is None else Version(fields, 0)
        read = partial(KvV2(self._adapter).read_secret_version, path, number, mount, raise_on_deleted_version=True)
        data = self._ask(read, _denied("reading", "read", mount, path, self._api_path(mount, "data", path)))
        return None if data is None else Version(data["data"], int(data["metadata"]["version"]))

    def write_version(self, mount: str, path: str, data: Mapping[str, object], number: int) -> bool:
        """Write a secret that is still at this version (0: where none is); False, and nothing written, if it is not.

        Raises:
            Unavailable: Vault is away, sealed or on standby; it may have been written.
            MasterKeyError: the token may not write it, or the mount is KV 1, which has no check-and-set.
        """
        if self._version(mount) == 1:
            raise MasterKeyError(
                f"{mount} in Vault is KV version 1, which has no check-and-set: change it to version 2 first"
                f" (`vault kv enable-versioning {mount}`)"
            )
        api_path = self._api_path(mount, "data", path)
        write = partial(self._create, mount, path, dict(data), number)
        return self._ask(write, _denied("writing", "create` and `update", mount, path, api_path)) is not None

    def delete_secret(self, mount: str, path: str) -> None:
        """Delete a secret with all its versions; nothing happens where there is none.

        Raises:
            Unavailable: Vault is away, sealed or on standby; it may have been deleted.
            MasterKeyError: the token may not delete it.
        """
        denied = _denied("deleting", "delete", mount, path, self._api_path(mount, "metadata", path))
        self._ask(partial(self._delete, mount, path), denied)

    @property
    def seconds_left(self) -> float | None:
        """Until the Vault token ends, never below 0; None if it does not end, or before ``connect``."""
        lease = self._lease
        return None if lease is None or lease.ends is None else max(0.0, lease.ends - time.monotonic())

    def keep_alive(self) -> None:
        """Start the thread that renews the token at half its time, and logs in again where renewal does not help.

        It ends with ``close``; and for a token that was given, when Vault will not renew it any further.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep_alive, name="vault", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop the thread and end the session; a token got by log-in is revoked, one that was given lives on."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._readers.close()
        with self._lock:
            if self.settings.auth != "token" and self._adapter.token is not None:
                try:
                    self._send(Token(self._adapter).revoke_self)
                except (Unavailable, MasterKeyError, hvac.exceptions.VaultError) as error:
                    _log.info("Vault token not revoked", reason=type(error).__name__)
                self._adapter.token = None
            self._adapter.close()

    def _delete(self, mount: str, path: str) -> Any:
        if self._version(mount) == 1:
            KvV1(self._adapter).delete_secret(path, mount)
        else:
            KvV2(self._adapter).delete_metadata_and_all_versions(path, mount)
        return {"data": {}}

    def _create(self, mount: str, path: str, data: Mapping[str, object], number: int = 0) -> Any:
        if self._version(mount) == 1:  # POST writes, new or not; without it hvac would read first to choose a verb
            KvV1(self._adapter).create_or_update_secret(path, data, "POST", mount)
            return {"data": {}}
        try:
            return KvV2(self._adapter).create_or_update_secret(path, data, number, mount)
        except hvac.exceptions.InvalidRequest as error:
            if "check-and-set" in str(error.text):
                raise hvac.exceptions.InvalidPath from None  # for _ask: no answer, and nothing wrong
            raise

    def _find_mount(self, path: str) -> str:
        """The mount that a path lies in; remembers its version. Vault answers whoever has any right below it."""
        data = self._ask(
            partial(self._adapter.get, f"/v1/sys/internal/ui/mounts/{quote(path)}"),
            f"Vault does not permit reading {path}: it has no such mount, or the token's policies permit nothing in it",
        )
        if data is None:
            raise self._not_vault()
        mount = str(data["path"]).strip("/")
        if data["type"] not in {"kv", "generic"}:
            raise MasterKeyError(f"{mount} in Vault is of type {data['type']}, not a KV secrets engine")
        self._versions[mount] = int((data["options"] or {}).get("version", 1))
        return mount

    def _version(self, mount: str) -> int:
        if mount not in self._versions and self._find_mount(mount) != mount:
            raise MasterKeyError(f"{mount} is not a mount of Vault")
        return self._versions[mount]

    def _api_path(self, mount: str, prefix: str, path: str) -> str:
        """What a policy has to name: KV 2 keeps contents below ``data/`` and names below ``metadata/``."""
        return f"{mount}/{path}" if self._version(mount) == 1 else f"{mount}/{prefix}/{path}"

    def _ask(self, request: Callable[[], Any], denied: str) -> dict[str, Any] | None:
        """The ``data`` of an answer, or None for "not found"; if the token has ended, log in and ask once more.

        Args:
            request: sends it with whatever token the adapter then has.
            denied: text of the error if Vault does not permit it.
        """
        with self._lock:
            if self._adapter.token is None:
                self.connect()
            try:
                try:
                    return self._answer(request, "data")
                except hvac.exceptions.Forbidden:
                    if self._token_is_valid():
                        raise
                    if self.settings.auth == "token":
                        raise MasterKeyError(
                            f"{denied}; or the token has ended: set VAULT_TOKEN to a new one"
                        ) from None
                    _log.info("Vault token expired, logging in again")
                    self._log_in()
                    return self._answer(request, "data")
            except hvac.exceptions.InvalidPath:
                return None
            except hvac.exceptions.Forbidden:
                raise MasterKeyError(denied) from None
            except hvac.exceptions.InvalidRequest:
                raise MasterKeyError(f"{denied} (Vault calls it an invalid request)") from None

    def _answer(self, request: Callable[[], Any], part: str) -> dict[str, Any]:
        """One part of what Vault answers; hvac gives a dictionary, or a response if that holds no JSON."""
        answer = self._send(request)
        if not isinstance(answer, dict) or not isinstance(answer.get(part), dict):
            raise self._not_vault()
        found: dict[str, Any] = answer[part]
        return found

    def _not_vault(self) -> MasterKeyError:
        return MasterKeyError(f"{self.settings.address} does not answer as Vault does: check VAULT_ADDR")

    def _send(self, request: Callable[[], Any]) -> Any:
        """Send a request; what has nothing to do with the request itself becomes one of our errors."""
        address = self.settings.address
        try:
            return request()
        except requests.exceptions.SSLError as error:
            if _was_cut(error):
                raise Unavailable("vault", "ConnectionError") from None
            raise MasterKeyError(
                f"TLS with Vault at {address} failed: set VAULT_CACERT to the PEM file of the authority that signed its"
                " certificate (VAULT_CLIENT_CERT and VAULT_CLIENT_KEY if it asks for one), or http:// if it has no TLS"
            ) from None
        except (requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema, requests.exceptions.InvalidURL):
            raise MasterKeyError(f"VAULT_ADDR: {address} is not a URL such as https://vault:8200") from None
        except (requests.exceptions.RequestException, ConnectionError, TimeoutError) as error:
            raise Unavailable("vault", type(error).__name__) from None
        except OSError:  # what requests raises for files that are not there
            raise MasterKeyError(
                "a file of VAULT_CACERT, VAULT_CAPATH, VAULT_CLIENT_CERT or VAULT_CLIENT_KEY cannot be read"
            ) from None
        except hvac.exceptions.InvalidRequest as error:
            if "HTTP request to an HTTPS server" in str(error.text):
                raise MasterKeyError(f"Vault at {address} speaks TLS: set VAULT_ADDR to https://…") from None
            raise
        except (hvac.exceptions.Forbidden, hvac.exceptions.InvalidPath):
            raise
        except hvac.exceptions.Unauthorized:  # Vault itself never answers 401, something before it does
            raise MasterKeyError(f"{address} asks for a log-in that is not Vault's") from None
        except hvac.exceptions.VaultError as error:
            text = str(error.text).lower()
            reason = "sealed" if "sealed" in text else "standby" if "not active" in text else type(error).__name__
            raise Unavailable("vault", reason) from None

    def _token_is_valid(self) -> bool:
        try:
            self._send(Token(self._adapter).lookup_self)
        except hvac.exceptions.VaultError:
            return False
        return True

    def _look_up_token(self) -> None:
        token = self.settings.token
        if not token:
            raise MasterKeyError("no token for Vault: set VAULT_TOKEN, or TOKEN_WORKER_VAULT_AUTH to approle or jwt")
        if not (token.isascii() and token.isprintable()):
            raise MasterKeyError("VAULT_TOKEN is not a token: it has characters that do not belong into one")
        try:
            data = self._answer(Token(self._adapter).lookup_self, "data")
        except hvac.exceptions.VaultError:
            raise MasterKeyError(
                f"Vault at {self.settings.address} refuses the token: it has ended or is not one of this server's (set"
                " VAULT_TOKEN to a new one), or its policies lack `read` on auth/token/lookup-self"
            ) from None
        ends = time.monotonic() + int(data["ttl"]) if data.get("expire_time") else None
        self._lease = Lease(ends, 0, bool(data.get("renewable")))

    def _log_in(self) -> None:
        settings = self.settings
        mount = settings.auth_mount or settings.auth
        if settings.auth == "approle":
            if not settings.role_id:
                raise MasterKeyError("no role id for Vault: set TOKEN_WORKER_VAULT_ROLE_ID")
            secret_id = read_file(settings.secret_id_file, "SECRET_ID_FILE") if settings.secret_id_file else None
            login = partial(AppRole(self._adapter).login, settings.role_id, secret_id, mount_point=mount)
            check = "the role id, and that the secret id in TOKEN_WORKER_VAULT_SECRET_ID_FILE is still valid"
        else:
            if not settings.jwt_file:
                raise MasterKeyError("no JWT for Vault: set TOKEN_WORKER_VAULT_JWT_FILE")
            jwt = read_file(settings.jwt_file, "JWT_FILE")
            login = partial(JWT(self._adapter).jwt_login, settings.role, jwt, path=mount)
            check = "TOKEN_WORKER_VAULT_ROLE, and that the JWT in TOKEN_WORKER_VAULT_JWT_FILE is valid for it"
        old, self._adapter.token = self._adapter.token, None
        try:
            auth = self._answer(login, "auth")  # hvac puts the new token into the adapter
        except hvac.exceptions.VaultError:
            raise MasterKeyError(f"Vault refuses the log-in at auth/{mount}: check the mount, {check}") from None
        finally:
            self._adapter.token = self._adapter.token or old  # it may still be good for a while
        self._lease = Lease.of(auth) if auth["lease_duration"] else Lease(None, 0, renewable=False)

    def _keep_alive(self) -> None:
        failures = 0
        while not self._stop.wait(self._pause(failures)):
            try:
                self._prolong()
            except Unavailable as error:
                failures += 1
                _log.warning("Vault token not renewed", reason=error.reason, failures=failures)
            except MasterKeyError as error:
                failures += 1
                _log.error("Vault token not renewed", reason=str(error), failures=failures)
                if self.settings.auth == "token":
                    return
            else:
                failures = 0

    def _pause(self, failures: int) -> float:
        if failures:
            return float(min(2 ** (failures - 1), BACK_OFF_SECONDS_MAX))
        left = self.seconds_left
        return IDLE_CHECK_SECONDS if left is None else max(left / 2, 1.0)

    def _prolong(self) -> None:
        """Renew the token; log in again if Vault refuses, or grants less than before (its maximum time is near)."""
        with self._lock:
            lease = self._lease
            if lease is None or lease.ends is None:
                return
            if lease.renewable:
                try:
                    self._lease = Lease.of(self._answer(Token(self._adapter).renew_self, "auth"))
                except hvac.exceptions.VaultError:  # refused; what a server's state causes has become Unavailable
                    pass
                else:
                    if self._lease.granted >= lease.granted:
                        _log.info("Vault token renewed", seconds_left=self._lease.granted)
                        return
            if self.settings.auth == "token":
                raise MasterKeyError(
                    f"Vault does not renew the token beyond the next {self.seconds_left or 0:.0f} s:"
                    " set VAULT_TOKEN to a new one and start again"
                )
            self._log_in()
            _log.info("logged in to Vault again", seconds_left=self.seconds_left)


def _denied(doing: str, right: str, mount: str, path: str, api_path: str) -> str:
    return f"Vault does not permit {doing} {mount}/{path}: give the token's policy `{right}` on {api_path}"


def _was_cut(error: BaseException) -> bool:
    """Whether the other side hung up in the middle of the handshake, as a server that restarts does."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        cause = cause.__context__
    return cause is not None
