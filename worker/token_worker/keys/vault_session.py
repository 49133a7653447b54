"""A session with HashiCorp Vault or OpenBao: log-in, and the life of the Vault token.

A session is an HTTP connection and a token. After ``keep_alive`` it also has a daemon thread that keeps the token
valid. Caller and thread take turns: there is one lock, and one request at a time, of at most 5 s. So a token is never
replaced under a request.

The session does not try again; the caller backs off. There is one exception: if Vault refuses a request because the
token has ended, a session with ``approle`` or ``jwt`` logs in again and repeats the request once. For the errors, see
``vault_requests``.

No log line carries a token, a secret id or a JWT.
"""

import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import hvac.exceptions
import structlog
from hvac.adapters import JSONAdapter
from hvac.api.auth_methods import JWT, AppRole, Token

from token_worker.backoff import BackOffSeconds
from token_worker.errors import MasterKeyError, Unavailable, VaultRefused
from token_worker.keys.vault_lease import Lease
from token_worker.keys.vault_requests import answer, send
from token_worker.keys.vault_transport import new_session
from token_worker.keys.vault_wrapping import unwrap_secret_id
from token_worker.settings.vault import VaultSettings, read_file

TIMEOUT_SECONDS = 5
"""For connecting, and again for the answer."""

IDLE_CHECK_SECONDS = 60
"""Interval at which the thread checks whether a token that never ends was replaced by one that ends."""

BACK_OFF_SECONDS = BackOffSeconds(1.0, 30.0)
"""Shortest and longest pause of the thread after failures in a row."""

_log = structlog.get_logger("vault")


class VaultSession:
    """A session with Vault. Making one does not talk to the server yet."""

    def __init__(self, settings: VaultSettings) -> None:
        self.settings = settings
        if settings.skip_verify:
            # Logged once, here, instead of at each request.
            warnings.filterwarnings("ignore", message="Unverified HTTPS request")
            _log.warning("Vault certificate is not checked")
        self.adapter = self.make_adapter()
        """Sends requests with the token of the session. To be used only in requests given to ``ask``."""
        self._lock = threading.RLock()
        self._lease: Lease | None = None
        self._unwrapped: tuple[str, str] | None = None
        """A wrapping token, and the secret id that was wrapped by it."""
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def make_adapter(self) -> JSONAdapter:
        """A connection of its own, with the settings of the session."""
        settings = self.settings
        base, session = new_session(settings)
        return JSONAdapter(  # not hvac.Client, which reads the environment and ~/.vault-token by itself
            base_uri=base,
            token=settings.token if settings.auth == "token" else None,
            timeout=TIMEOUT_SECONDS,
            session=session,
            namespace=settings.namespace,
        )

    # -- requests

    def connect(self) -> None:
        """Log in. With the method ``token``, ask Vault whether it knows the token.

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

    def _connect_once(self) -> None:
        if self.adapter.token is None and self._lease is None:
            self.connect()

    def token(self) -> str | None:
        """The Vault token, after a log-in if there is none yet; None if an agent adds one. Errors as by ``connect``."""
        with self._lock:
            self._connect_once()
            token: str | None = self.adapter.token
            return token

    def ask(self, request: Callable[[], Any], denied: str) -> dict[str, Any] | None:
        """Send a request, and return the ``data`` of the answer; None for "not found".

        If the token has ended, log in and send the request once more.

        Args:
            request: sends the request with whatever token ``adapter`` has then.
            denied: text of the error if Vault does not permit the request.
        """
        with self._lock:
            self._connect_once()
            try:
                try:
                    return self._answer(request, "data")
                except hvac.exceptions.Forbidden:
                    if self._token_is_valid():
                        raise
                    if self.settings.auth == "token":
                        raise VaultRefused(f"{denied}; or the token has ended: set VAULT_TOKEN to a new one") from None
                    _log.info("Vault token expired, logging in again")
                    self._log_in()
                    return self._answer(request, "data")
            except hvac.exceptions.InvalidPath:
                return None
            except hvac.exceptions.Forbidden:
                raise VaultRefused(denied) from None
            except hvac.exceptions.InvalidRequest:
                raise VaultRefused(f"{denied} (Vault calls it an invalid request)") from None

    def ask_about_token(self, request: Callable[[], Any]) -> dict[str, Any] | None:
        """Send a request about the token itself, and return the ``data``; None if Vault does not permit it."""
        with self._lock:
            try:
                return self._answer(request, "data")
            except hvac.exceptions.Forbidden:
                return None

    def _answer(self, request: Callable[[], Any], part: str) -> dict[str, Any]:
        return answer(self.settings.address, request, part)

    # -- the token

    @property
    def is_renewable(self) -> bool:
        """True if the token can be renewed."""
        return self._lease is not None and self._lease.renewable

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the Vault token ends, never below 0. None if it does not end, or before ``connect``."""
        lease = self._lease
        return None if lease is None or lease.ends is None else max(0.0, lease.ends - time.monotonic())

    def keep_alive(self) -> None:
        """Start the thread that renews the token at half its time, and logs in again if renewal does not help.

        The thread ends with ``close``. It also ends if Vault does not renew a token that was given by setting.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep_alive, name="vault", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop the thread and end the session. A token from a log-in is revoked; one from a setting stays valid."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            if self.settings.auth != "token" and self.adapter.token is not None:
                try:
                    send(self.settings.address, Token(self.adapter).revoke_self)
                except (Unavailable, MasterKeyError, hvac.exceptions.VaultError) as error:
                    _log.info("Vault token not revoked", reason=type(error).__name__)
                self.adapter.token = None
            self._lease = None
            self.adapter.close()

    def _token_is_valid(self) -> bool:
        try:
            send(self.settings.address, Token(self.adapter).lookup_self)
        except hvac.exceptions.VaultError:
            return False
        return True

    def _look_up_token(self) -> None:
        token = self.settings.token
        if token is not None and not (token.isascii() and token.isprintable()):
            raise MasterKeyError("VAULT_TOKEN is not a token: a token has only printable ASCII characters")
        try:
            data = self._answer(Token(self.adapter).lookup_self, "data")
        except hvac.exceptions.VaultError:
            if token is None:
                raise MasterKeyError(
                    f"no token for Vault: set VAULT_TOKEN, or TOKEN_WORKER_VAULT_AUTH to approle or jwt. If"
                    f" {self.settings.address} is an agent: it has to use the token of its auto-auth, whose policies"
                    " need `read` on auth/token/lookup-self"
                ) from None
            raise VaultRefused(
                f"Vault at {self.settings.address} refuses the token: it has ended or is not one of this server's (set"
                " VAULT_TOKEN to a new one), or its policies lack `read` on auth/token/lookup-self"
            ) from None
        if token is None:  # the agent's token, which the agent renews
            self._lease = Lease(None, 0, renewable=False)
            return
        ends = time.monotonic() + int(data["ttl"]) if data.get("expire_time") else None
        self._lease = Lease(ends, 0, bool(data.get("renewable")))

    def _log_in(self) -> None:
        settings = self.settings
        mount = settings.auth_mount or settings.auth
        if settings.auth == "approle":
            if not settings.role_id:
                raise MasterKeyError("no role id for Vault: set TOKEN_WORKER_VAULT_ROLE_ID")
            secret_id = self._secret_id()
            login = partial(AppRole(self.adapter).login, settings.role_id, secret_id, mount_point=mount)
            check = "the role id, and that the secret id in TOKEN_WORKER_VAULT_SECRET_ID_FILE is still valid"
        else:
            if not settings.jwt_file:
                raise MasterKeyError("no JWT for Vault: set TOKEN_WORKER_VAULT_JWT_FILE")
            jwt = read_file(settings.jwt_file, "JWT_FILE")
            login = partial(JWT(self.adapter).jwt_login, settings.role, jwt, path=mount)
            check = "TOKEN_WORKER_VAULT_ROLE, and that the JWT in TOKEN_WORKER_VAULT_JWT_FILE is valid for it"
        old, self.adapter.token = self.adapter.token, None
        try:
            auth = self._answer(login, "auth")  # hvac puts the new token into the adapter
        except hvac.exceptions.VaultError:
            raise VaultRefused(f"Vault refuses the log-in at auth/{mount}: check the mount, {check}") from None
        finally:
            self.adapter.token = self.adapter.token or old  # the old one may still be valid for a while
        self._lease = Lease.of(auth) if auth["lease_duration"] else Lease(None, 0, renewable=False)

    def _secret_id(self) -> str | None:
        """The secret id. One that is wrapped is unwrapped, once, and kept for later log-ins."""
        settings = self.settings
        if not settings.secret_id_file:
            return None
        content = read_file(settings.secret_id_file, "SECRET_ID_FILE")
        if not settings.secret_id_wrapped:
            return content
        if self._unwrapped is None or self._unwrapped[0] != content:
            mount = (settings.auth_mount or settings.auth).strip("/")
            self._unwrapped = content, unwrap_secret_id(self.make_adapter(), settings, content, mount)
        return self._unwrapped[1]

    def _keep_alive(self) -> None:
        failures = 0
        while not self._stop.wait(self._pause(failures)):
            try:
                self._renew()
            except Unavailable as error:
                failures += 1
                _log.warning("Vault token not renewed", reason=str(error), failures=failures)
            except MasterKeyError as error:
                failures += 1
                _log.error("Vault token not renewed", reason=str(error), failures=failures)
                if self.settings.auth == "token":
                    return
            else:
                failures = 0

    def _pause(self, failures: int) -> float:
        if failures:
            return BACK_OFF_SECONDS.after(failures)
        seconds = self.seconds_left
        return IDLE_CHECK_SECONDS if seconds is None else max(seconds / 2, 1.0)

    def _renew(self) -> None:
        """Renew the token. Log in again if Vault refuses, or grants less than before: its maximum time is near."""
        with self._lock:
            lease = self._lease
            if lease is None or lease.ends is None:
                return
            if lease.renewable:
                try:
                    self._lease = Lease.of(self._answer(Token(self.adapter).renew_self, "auth"))
                except hvac.exceptions.VaultError:  # Vault refuses; if it is away, the error is Unavailable
                    pass
                else:
                    if self._lease.granted_seconds >= lease.granted_seconds:
                        _log.info("Vault token renewed", seconds_left=self._lease.granted_seconds)
                        return
            if self.settings.auth == "token":
                raise MasterKeyError(
                    f"Vault does not renew the token beyond the next {self.seconds_left or 0:.0f} s:"
                    " set VAULT_TOKEN to a new one and start again"
                )
            self._log_in()
            _log.info("logged in to Vault again", seconds_left=self.seconds_left)
