"""Vault against a real OpenBao: log-in, the token's life, KV 1 and 2, policies, and a clear text for every failure."""

import base64
import json
import os
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
import structlog
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from harness.servers import DEPLOY_FILES, OpenBao, free_port
from harness.stack import wait_until
from token_worker.errors import MasterKeyError, Unavailable
from token_worker.keys import vault_session
from token_worker.keys.master import from_vault
from token_worker.keys.vault_kv import VaultKv
from token_worker.settings.vault import VaultSettings

MASTER_KEY = os.urandom(32)
POLICIES = DEPLOY_FILES / "vault"
FOLDER = ".acrakeys"
KV1_LINES = """# path "secret/acra/transport" {
#   capabilities = ["read"]
# }"""


class Admin:
    """The operator: root on the OpenBao server, with mounts of its own."""

    def __init__(self, server: OpenBao) -> None:
        self.url = server.url
        self.root_token = server.root_token

    def call(self, method: str, path: str, body: dict[str, Any] | None = None, token: str = "") -> requests.Response:
        headers = {"X-Vault-Token": token or self.root_token}
        if method == "PATCH":
            headers["Content-Type"] = "application/merge-patch+json"
        return requests.request(method, f"{self.url}/v1/{path}", headers=headers, json=body, timeout=10)

    def do(self, method: str, path: str, **body: object) -> dict[str, Any]:
        answer = self.call(method, path, body)
        answer.raise_for_status()
        return dict(answer.json()) if answer.content else {}

    def mount(self, version: int, *, name: str | None = None, kind: str = "kv") -> str:
        name = name or f"kv-{os.urandom(4).hex()}"
        self.do("POST", f"sys/mounts/{name}", type=kind, options={"version": str(version)} if kind == "kv" else {})
        if (kind, version) == ("kv", 2):  # the server prepares a new KV 2 mount in the background
            wait_until(lambda: self.call("GET", f"{name}/config").ok, "the mount")
        return name

    def put(self, mount: str, version: int, path: str, **data: object) -> None:
        if version == 1:
            self.do("POST", f"{mount}/{path}", **data)
        else:
            self.do("POST", f"{mount}/data/{path}", data=data)

    def policy(self, text: str) -> str:
        name = f"policy-{os.urandom(4).hex()}"
        self.do("PUT", f"sys/policies/acl/{name}", policy=text)
        return name

    def token(self, *policies: str, ttl: str = "10m", **more: object) -> str:
        answer = self.do("POST", "auth/token/create", policies=list(policies), ttl=ttl, **more)
        return str(answer["auth"]["client_token"])

    def token_lives(self, token: str) -> bool:
        return self.call("POST", "auth/token/lookup", {"token": token}).ok

    def approle(self, mount: str, folder: Path, **role: object) -> dict[str, Any]:
        """Enable AppRole with one role; settings for it, the secret id in a file."""
        self.do("POST", f"sys/auth/{mount}", type="approle")
        self.do("POST", f"auth/{mount}/role/worker", **role)
        file = folder / "secret-id"
        file.write_text(self.secret_id(mount) + "\n")
        role_id = self.do("GET", f"auth/{mount}/role/worker/role-id")["data"]["role_id"]
        return {"auth": "approle", "auth_mount": mount, "role_id": role_id, "secret_id_file": str(file)}

    def secret_id(self, mount: str) -> str:
        return str(self.do("POST", f"auth/{mount}/role/worker/secret-id")["data"]["secret_id"])

    def jwt(self, mount: str, folder: Path, **role: object) -> dict[str, Any]:
        """Enable JWT with a key made here; settings for it, the JWT in a file."""
        key = rsa.generate_private_key(65537, 2048)
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        self.do("POST", f"sys/auth/{mount}", type="jwt")
        self.do("POST", f"auth/{mount}/config", jwt_validation_pubkeys=[public])
        self.do(
            "POST",
            f"auth/{mount}/role/worker",
            role_type="jwt",
            user_claim="sub",
            bound_audiences=["vault"],
            **role,
        )

        def part(content: bytes) -> str:
            return base64.urlsafe_b64encode(content).rstrip(b"=").decode()

        claims = {"sub": "token-worker", "aud": "vault", "exp": int(time.time()) + 600, "nbf": int(time.time()) - 10}
        body = part(json.dumps({"alg": "RS256"}).encode()) + "." + part(json.dumps(claims).encode())
        file = folder / "jwt"
        file.write_text(f"{body}.{part(key.sign(body.encode(), padding.PKCS1v15(), hashes.SHA256()))}\n")
        return {"auth": "jwt", "auth_mount": mount, "role": "worker", "jwt_file": str(file)}


@pytest.fixture
def admin(openbao_server: OpenBao) -> Admin:
    return Admin(openbao_server)


@pytest.fixture
def session(admin: Admin) -> Iterator[Callable[..., VaultKv]]:
    """Makes sessions, by default with the root token. All are closed at the end."""
    sessions: list[VaultKv] = []

    def make(**settings: object) -> VaultKv:
        if "auth" not in settings:
            settings.setdefault("token", admin.root_token)
        sessions.append(VaultKv(msgspec.convert({"address": admin.url, **settings}, VaultSettings)))
        return sessions[-1]

    yield make
    for vault in sessions:
        vault.close()


Session = Callable[..., VaultKv]


def error_text(error: BaseException) -> str:
    """All that a log could show of an error."""
    return "".join(traceback.format_exception(error)) + repr(error)


def test_settings_do_not_show_the_token() -> None:
    """The representation of the settings, plain or for rich, leaves out the token."""
    settings = VaultSettings(address="http://vault", token="canary-token", role_id="canary-role")
    assert "canary" not in repr(settings) + str(settings) + repr(list(settings.__rich_repr__()))
    assert "http://vault" in repr(settings)


class TestSecrets:
    """KV secrets. The version of the engine is found automatically."""

    @pytest.mark.parametrize("version", [1, 2])
    @pytest.mark.parametrize("prefix", ["", "team/a/"], ids=["plain", "nested"])
    def test_reads(self, admin: Admin, session: Session, version: int, prefix: str) -> None:
        """A secret is read from KV 1 and KV 2, also where the mount's name has several parts."""
        mount = admin.mount(version, name=f"{prefix}kv-{os.urandom(4).hex()}")
        admin.put(mount, version, "acra/transport", acra_master_key="x")
        vault = session()
        assert vault.split(f"{mount}/acra/transport") == (mount, "acra/transport")
        assert vault.read_secret(mount, "acra/transport") == {"acra_master_key": "x"}

    @pytest.mark.parametrize("version", [1, 2])
    def test_first_read_finds_the_version_of_the_mount(self, admin: Admin, session: Session, version: int) -> None:
        """The version of a mount is found by the first read if nothing was split before."""
        mount = admin.mount(version)
        admin.put(mount, version, "a", key="x")
        assert session().read_secret(mount, "a") == {"key": "x"}

    @pytest.mark.parametrize("version", [1, 2])
    def test_absent_secret_reads_as_none(self, admin: Admin, session: Session, version: int) -> None:
        """A secret that never was reads as None, a folder that never was lists as empty."""
        mount = admin.mount(version)
        vault = session()
        assert vault.read_secret(mount, "none") is None
        assert vault.list_secrets(mount, "none") == []

    @pytest.mark.parametrize("version", [1, 2])
    def test_secrets_come_in_the_order_asked_for(self, admin: Admin, session: Session, version: int) -> None:
        """Secrets that are read together come in the order they were asked for, None for each that is not there."""
        mount = admin.mount(version)
        for number in range(0, 40, 2):
            admin.put(mount, version, f"folder/{number}", key=str(number))
        vault = session()
        for _ in range(2):
            found = vault.read_secrets(mount, [f"folder/{number}" for number in range(40)])
            assert found == [None if number % 2 else {"key": str(number)} for number in range(40)]
        assert vault.read_secrets(mount, []) == []

    def test_one_of_several_is_refused(self, admin: Admin, session: Session) -> None:
        """If the token may not read one of several secrets, the error names that secret and the needed right."""
        mount = admin.mount(2)
        for name in ("a", "b", "c"):
            admin.put(mount, 2, name, key="x")
        rights = "".join(f'path "{mount}/data/{name}" {{ capabilities = ["read"] }}\n' for name in ("a", "c"))
        vault = session(token=admin.token(admin.policy(rights)))
        assert vault.read_secrets(mount, ["a", "c"]) == [{"key": "x"}, {"key": "x"}]
        with pytest.raises(MasterKeyError, match=f"`read` on {mount}/data/b"):
            vault.read_secrets(mount, ["a", "b", "c"])

    def test_deleted_version_reads_as_none(self, admin: Admin, session: Session) -> None:
        """A KV 2 secret whose newest version was deleted or destroyed reads as None."""
        mount = admin.mount(2)
        vault = session()
        admin.put(mount, 2, "a", key="x")
        admin.do("DELETE", f"{mount}/data/a")
        assert vault.read_secret(mount, "a") is None
        admin.do("POST", f"{mount}/destroy/a", versions=[1])
        assert vault.read_secret(mount, "a") is None

    @pytest.mark.parametrize("version", [1, 2])
    @pytest.mark.parametrize("name", ["a client_storage_sym", "shop.old/2026-01-02T15:04:05.999999999"])
    def test_names_of_acras_keys_are_written_read_and_listed(
        self, admin: Admin, session: Session, version: int, name: str
    ) -> None:
        """Names that Acra gives to keys, with spaces and colons, are written, read and listed."""
        mount = admin.mount(version)
        vault = session()
        assert vault.create_secret(mount, f"{FOLDER}/{name}", {"key": "x"})
        assert vault.read_secret(mount, f"{FOLDER}/{name}") == {"key": "x"}
        folder, _, last = f"{FOLDER}/{name}".rpartition("/")
        assert vault.list_secrets(mount, folder) == [last]

    @pytest.mark.parametrize("version", [1, 2])
    def test_listing_has_names_and_folders_directly_below(self, admin: Admin, session: Session, version: int) -> None:
        """A listing holds the names directly below, folders with a slash."""
        mount = admin.mount(version)
        for path in (f"{FOLDER}/one", f"{FOLDER}/two", f"{FOLDER}/one.old/t"):
            admin.put(mount, version, path, key="x")
        assert sorted(session().list_secrets(mount, FOLDER)) == ["one", "one.old/", "two"]

    @pytest.mark.parametrize("version", [1, 2])
    def test_create_never_replaces(self, admin: Admin, session: Session, version: int) -> None:
        """A secret that exists keeps its content, and the result is False."""
        mount = admin.mount(version)
        vault = session()
        assert vault.create_secret(mount, "a", {"key": "first"}) is True
        assert vault.create_secret(mount, "a", {"key": "second"}) is False
        assert vault.read_secret(mount, "a") == {"key": "first"}

    def test_create_is_decided_by_the_server(
        self, admin: Admin, session: Session, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On KV 2 a secret that appears after the check is not replaced either."""
        mount = admin.mount(2)
        vault = session()
        admin.put(mount, 2, "a", key="first")
        monkeypatch.setattr(vault, "read_secret", lambda mount, path: None)
        assert vault.create_secret(mount, "a", {"key": "second"}) is False
        assert session().read_secret(mount, "a") == {"key": "first"}

    def test_create_over_a_deleted_version(self, admin: Admin, session: Session) -> None:
        """A deleted KV 2 secret, which could be undeleted, is not built over."""
        mount = admin.mount(2)
        admin.put(mount, 2, "a", key="first")
        admin.do("DELETE", f"{mount}/data/a")
        assert session().create_secret(mount, "a", {"key": "second"}) is False

    def test_namespace_has_its_own_mounts_and_secrets(self, admin: Admin, session: Session) -> None:
        """With a namespace, mounts and secrets are those of the namespace."""
        name = f"ns-{os.urandom(4).hex()}"
        admin.do("POST", f"sys/namespaces/{name}")
        admin.do("POST", f"{name}/sys/mounts/kv", type="kv")
        admin.put(f"{name}/kv", 1, "acra/transport", key="x")
        vault = session(namespace=name)
        assert vault.split("kv/acra/transport") == ("kv", "acra/transport")
        assert vault.read_secret("kv", "acra/transport") == {"key": "x"}


class TestMasterKey:
    """The master key out of Vault."""

    @pytest.mark.parametrize("version", [1, 2])
    def test_reads(self, admin: Admin, session: Session, version: int) -> None:
        """The field acra_master_key of the configured secret is the master key."""
        mount = admin.mount(version)
        admin.put(mount, version, "acra/transport", acra_master_key=base64.b64encode(MASTER_KEY).decode())
        assert from_vault(session(secret=f"{mount}/acra/transport")) == MASTER_KEY

    @pytest.mark.parametrize("version", [1, 2])
    @pytest.mark.parametrize(
        ("data", "complaint"),
        [
            pytest.param({"master_key": "canary"}, "no such field", id="no-such-field"),
            pytest.param({"acra_master_key": "canary!"}, "not base64", id="not-base64"),
            pytest.param({"acra_master_key": 12345678}, "not base64", id="a-number"),
            pytest.param({"acra_master_key": "Y2FuYXJ5"}, "6 bytes, needs at least 32", id="too-short"),
        ],
    )
    def test_wrong_master_key_is_refused_and_not_shown(
        self, admin: Admin, session: Session, version: int, data: dict[str, object], complaint: str
    ) -> None:
        """Content that is no master key is refused by place and reason, and never shown."""
        mount = admin.mount(version)
        admin.put(mount, version, "acra/transport", **data)
        with pytest.raises(MasterKeyError) as caught:
            from_vault(session(secret=f"{mount}/acra/transport"))
        assert str(caught.value) == f"Vault secret {mount}/acra/transport, field acra_master_key: {complaint}"
        assert not any(str(value) in error_text(caught.value) for value in data.values())

    @pytest.mark.parametrize("version", [1, 2])
    def test_missing_secret_is_named_with_the_command_that_puts_it(
        self, admin: Admin, session: Session, version: int
    ) -> None:
        """A secret that is not there is named, with the command that puts it there."""
        mount = admin.mount(version)
        with pytest.raises(MasterKeyError) as caught:
            from_vault(session(secret=f"{mount}/acra/transport"))
        assert f"Vault has no secret {mount}/acra/transport" in str(caught.value)
        assert f"vault kv put -mount={mount} acra/transport acra_master_key=-" in str(caught.value)

    def test_missing_mount_is_an_error(self, session: Session) -> None:
        """A mount that is not there is a clear error."""
        with pytest.raises(MasterKeyError, match="no-such-mount/a: it has no such mount"):
            from_vault(session(secret="no-such-mount/a"))

    def test_path_without_a_secret_is_an_error(self, admin: Admin, session: Session) -> None:
        """A path that names a mount and no secret is a clear error."""
        mount = admin.mount(2)
        with pytest.raises(MasterKeyError, match=f"{mount} is a mount of Vault: name a secret below it"):
            from_vault(session(secret=mount))

    def test_not_a_kv_mount(self, admin: Admin, session: Session) -> None:
        """A mount of another secrets engine is a clear error."""
        mount = admin.mount(1, kind="transit")
        with pytest.raises(MasterKeyError, match="of type transit, not a KV secrets engine"):
            from_vault(session(secret=f"{mount}/acra/transport"))

    @pytest.mark.parametrize("version", [1, 2])
    def test_missing_permission_names_the_policy_that_is_needed(
        self, admin: Admin, session: Session, version: int
    ) -> None:
        """If the token may not read a secret, the error names the right that is missing, and its path."""
        mount = admin.mount(version)
        elsewhere = f"{mount}/data/else" if version == 2 else f"{mount}/else"
        policy = admin.policy(f'path "{elsewhere}" {{ capabilities = ["read"] }}')
        with pytest.raises(MasterKeyError) as caught:
            from_vault(session(secret=f"{mount}/acra/transport", token=admin.token(policy)))
        api_path = f"{mount}/data/acra/transport" if version == 2 else f"{mount}/acra/transport"
        assert str(caught.value) == (
            f"Vault does not permit reading {mount}/acra/transport: give the token's policy `read` on {api_path}"
        )

    def test_no_permission_to_list_or_create(self, admin: Admin, session: Session) -> None:
        """Listing and creating without the right name the right and the path as well."""
        mount = admin.mount(2)
        token = admin.token(admin.policy(f'path "{mount}/data/*" {{ capabilities = ["read"] }}'))
        vault = session(token=token)
        with pytest.raises(MasterKeyError, match=f"`list` on {mount}/metadata/a$"):
            vault.list_secrets(mount, "a")
        with pytest.raises(
            MasterKeyError, match=rf"run this as an operator.*key-admin\.hcl \(it has `create` on {mount}/data/a\)$"
        ):
            vault.create_secret(mount, "a", {"key": "x"})


class TestPolicies:
    """The least-privilege policies, on mounts of the test instead of ``secret/``."""

    OTHERS = ("acra/transport2", "acra", "other", f"{FOLDER}/shop1_storage_sym")

    def mount(self, admin: Admin, version: int) -> str:
        mount = admin.mount(version)
        for path in (*self.OTHERS, f"{FOLDER}/shop1_storage_sym.old/2026-01-02T15:04:05"):
            admin.put(mount, version, path, key="x")
        admin.put(mount, version, "acra/transport", acra_master_key=base64.b64encode(MASTER_KEY).decode())
        return mount

    def policy(self, admin: Admin, name: str, mount: str, version: int) -> str:
        text = (POLICIES / name).read_text()
        if version == 1:  # as the comments of the files say
            assert KV1_LINES in text
            text = text.replace(KV1_LINES, KV1_LINES.replace("# ", "").replace("#", ""))
            text = text.replace('path "secret/data/acra/transport"', 'path "secret/unused"')
        return admin.policy(text.replace('path "secret/', f'path "{mount}/'))

    def refused(self, admin: Admin, token: str, requests_: list[tuple[str, str]]) -> None:
        for method, path in requests_:
            body = {"data": {"key": "y"}} if method in {"POST", "PUT", "PATCH"} else None
            answer = admin.call(method, path, body, token=token)
            assert answer.status_code == requests.codes.forbidden, f"{method} {path} is permitted"

    SYSTEM = (
        ("GET", "sys/mounts"),
        ("GET", "sys/auth"),
        ("GET", "sys/policies/acl?list=true"),
        ("PUT", "sys/policies/acl/mine"),
        ("GET", "sys/audit"),
        ("PUT", "sys/seal"),
        ("POST", "auth/token/create"),
        ("GET", "auth/token/accessors?list=true"),
    )

    @pytest.mark.parametrize("version", [1, 2])
    @pytest.mark.parametrize("no_default_policy", [True, False])
    def test_first_policy_permits_the_master_key_only(
        self, admin: Admin, session: Session, version: int, *, no_default_policy: bool
    ) -> None:
        """A token with the first policy reads the master key, keeps itself alive, and nothing else."""
        mount = self.mount(admin, version)
        policy = self.policy(admin, "master-key-only.hcl", mount, version)
        token = admin.token(policy, no_default_policy=no_default_policy)
        vault = session(token=token, secret=f"{mount}/acra/transport")
        vault.session.connect()
        assert from_vault(vault) == MASTER_KEY
        for path in (*self.OTHERS, "none"):
            with pytest.raises(MasterKeyError, match="does not permit reading"):
                vault.read_secret(mount, path)
        for path in ("", "acra", FOLDER):
            with pytest.raises(MasterKeyError, match="does not permit listing"):
                vault.list_secrets(mount, path)
        with pytest.raises(MasterKeyError, match="does not permit"):
            vault.create_secret(mount, "new", {"key": "y"})
        data, metadata = (f"{mount}/data", f"{mount}/metadata") if version == 2 else (mount, mount)
        writes = [(method, f"{data}/acra/transport") for method in ("POST", "PUT", "PATCH", "DELETE")]
        kv2 = [(method, f"{metadata}/acra/transport") for method in ("GET", "POST", "DELETE")] if version == 2 else []
        if version == 2:
            kv2 += [("POST", f"{mount}/{verb}/acra/transport") for verb in ("destroy", "delete", "undelete")]
            kv2 += [("GET", f"{mount}/config")]
        self.refused(admin, token, [*writes, *kv2, *self.SYSTEM])
        assert admin.call("POST", "auth/token/renew-self", token=token).ok
        assert admin.call("POST", "auth/token/revoke-self", token=token).ok

    def test_second_policy_permits_reading_every_key(self, admin: Admin, session: Session) -> None:
        """A token with the second policy reads the master key and every key with its history, and writes nothing."""
        mount = self.mount(admin, 2)
        token = admin.token(self.policy(admin, "all-keys.hcl", mount, 2), no_default_policy=True)
        vault = session(token=token, secret=f"{mount}/acra/transport")
        vault.session.connect()
        assert from_vault(vault) == MASTER_KEY
        name = f"{FOLDER}/shop1_storage_sym"
        assert vault.read_secret(mount, name) == {"key": "x"}
        assert vault.list_secrets(mount, f"{name}.old") == ["2026-01-02T15:04:05"]
        assert vault.read_secret(mount, f"{name}.old/2026-01-02T15:04:05") == {"key": "x"}
        assert vault.list_secrets(mount, FOLDER) == ["shop1_storage_sym", "shop1_storage_sym.old/"]
        assert vault.read_secret(mount, f"{FOLDER}/nobody_storage_sym") is None
        for path in ("acra/transport2", "acra", "other"):
            with pytest.raises(MasterKeyError, match="does not permit reading"):
                vault.read_secret(mount, path)
        with pytest.raises(MasterKeyError, match="does not permit creating"):
            vault.create_secret(mount, f"{FOLDER}/new", {"key": "y"})
        writes = [(method, f"{mount}/data/{name}") for method in ("POST", "PUT", "PATCH", "DELETE")]
        metadata = [(method, f"{mount}/metadata/{name}") for method in ("GET", "POST", "DELETE")]
        folders = [("GET", f"{mount}/metadata/{folder}?list=true") for folder in ("", "acra")]
        versions = [("POST", f"{mount}/{verb}/{name}") for verb in ("destroy", "delete", "undelete")]
        self.refused(admin, token, [*writes, *metadata, *folders, *versions, *self.SYSTEM])


class TestLogIn:
    """Log-in by token, AppRole and JWT."""

    @pytest.fixture
    def mount(self, admin: Admin) -> str:
        mount = admin.mount(2)
        admin.put(mount, 2, "a", key="x")
        return mount

    @pytest.fixture
    def policy(self, admin: Admin, mount: str) -> str:
        return admin.policy(f'path "{mount}/data/a" {{ capabilities = ["read"] }}')

    @pytest.fixture(params=["approle", "jwt"])
    def log_in(self, request: pytest.FixtureRequest, admin: Admin, policy: str, tmp_path: Path) -> dict[str, Any]:
        """Settings for a method with its own mount, its tokens living 10 minutes."""
        enable = admin.approle if request.param == "approle" else admin.jwt
        return enable(f"team/{os.urandom(4).hex()}", tmp_path, token_policies=[policy], token_ttl="10m")

    def test_given_token_is_used_as_it_is(self, admin: Admin, session: Session, mount: str, policy: str) -> None:
        """A given token is used as it is, and the time it has left is known."""
        vault = session(token=admin.token(policy, ttl="1h"))
        vault.session.connect()
        assert vault.read_secret(mount, "a") == {"key": "x"}
        assert vault.session.seconds_left is not None
        assert 3000 < vault.session.seconds_left <= 3600

    def test_token_that_never_ends(self, session: Session) -> None:
        """A root token has no time left to count."""
        vault = session()
        vault.session.connect()
        assert vault.session.seconds_left is None

    def test_approle_and_jwt_log_in(self, session: Session, mount: str, log_in: dict[str, Any]) -> None:
        """AppRole and JWT log in at their mount, and the time of the token they get is known."""
        vault = session(**log_in)
        vault.session.connect()
        assert vault.read_secret(mount, "a") == {"key": "x"}
        assert vault.session.seconds_left is not None
        assert 500 < vault.session.seconds_left <= 600

    def test_method_at_its_own_name(
        self, openbao_server: OpenBao, admin: Admin, session: Session, mount: str, policy: str, tmp_path: Path
    ) -> None:
        """Without a mount in the settings the method is looked for under its own name."""
        settings = admin.approle("approle", tmp_path, token_policies=[policy])
        try:
            vault = session(**{**settings, "auth_mount": None})
            vault.session.connect()
            assert vault.read_secret(mount, "a") == {"key": "x"}
        finally:
            admin.do("DELETE", "sys/auth/approle")

    def test_first_read_logs_in(self, session: Session, mount: str, log_in: dict[str, Any]) -> None:
        """A read before any log-in, as after one that failed, logs in by itself."""
        assert session(**log_in).read_secret(mount, "a") == {"key": "x"}

    def test_logs_in_again_when_the_token_ended(
        self, admin: Admin, session: Session, mount: str, log_in: dict[str, Any]
    ) -> None:
        """A read that is refused because the token has ended logs in once more and is answered."""
        vault = session(**log_in)
        vault.session.connect()
        first = vault.session.adapter.token
        admin.do("POST", "auth/token/revoke", token=first)
        assert vault.read_secret(mount, "a") == {"key": "x"}
        assert vault.session.adapter.token != first

    def test_no_permission_does_not_log_in_again(self, session: Session, mount: str, log_in: dict[str, Any]) -> None:
        """A read that is refused for want of a right keeps the token it has: no storm of log-ins."""
        vault = session(**log_in)
        vault.session.connect()
        first = vault.session.adapter.token
        with pytest.raises(MasterKeyError, match="does not permit reading"):
            vault.read_secret(mount, "b")
        assert vault.session.adapter.token == first

    def test_given_token_that_ended(self, admin: Admin, session: Session, mount: str, policy: str) -> None:
        """A read with a given token that has ended says so: there is nothing to log in with."""
        token = admin.token(policy)
        vault = session(token=token)
        vault.session.connect()
        admin.do("POST", "auth/token/revoke", token=token)
        with pytest.raises(MasterKeyError, match="the token has ended: set VAULT_TOKEN") as caught:
            vault.read_secret(mount, "a")
        assert token not in error_text(caught.value)

    def test_secret_id_is_read_at_each_log_in(
        self, admin: Admin, session: Session, mount: str, policy: str, tmp_path: Path
    ) -> None:
        """The next log-in uses the secret id that was written to the file since."""
        auth = f"approle-{os.urandom(4).hex()}"
        settings = admin.approle(auth, tmp_path, token_policies=[policy])
        vault = session(**settings)
        vault.session.connect()
        file = Path(settings["secret_id_file"])
        admin.do("POST", f"auth/{auth}/role/worker/secret-id/destroy", secret_id=file.read_text().strip())
        file.write_text(admin.secret_id(auth))
        admin.do("POST", "auth/token/revoke", token=vault.session.adapter.token)
        assert vault.read_secret(mount, "a") == {"key": "x"}

    def test_log_in_that_fails_keeps_the_token(
        self, session: Session, mount: str, log_in: dict[str, Any], tmp_path: Path
    ) -> None:
        """A new log-in that is refused leaves the old token in use for as long as it is good."""
        vault = session(**log_in)
        vault.session.connect()
        (file,) = (tmp_path / name for name in ("secret-id", "jwt") if (tmp_path / name).exists())
        file.write_text("wrong")
        with pytest.raises(MasterKeyError, match="refuses the log-in"):
            vault.session.connect()
        assert vault.read_secret(mount, "a") == {"key": "x"}

    def test_role_without_secret_id(
        self, admin: Admin, session: Session, mount: str, policy: str, tmp_path: Path
    ) -> None:
        """A role that asks for no secret id is logged in to without a file."""
        settings = admin.approle(f"approle-{os.urandom(4).hex()}", tmp_path)
        admin.do(
            "POST",
            f"auth/{settings['auth_mount']}/role/open",
            token_policies=[policy],
            bind_secret_id=False,
            token_bound_cidrs=["127.0.0.0/8"],
        )
        role_id = admin.do("GET", f"auth/{settings['auth_mount']}/role/open/role-id")["data"]["role_id"]
        vault = session(auth="approle", auth_mount=settings["auth_mount"], role_id=role_id)
        assert vault.read_secret(mount, "a") == {"key": "x"}

    @pytest.mark.parametrize(
        ("settings", "complaint"),
        [
            ({"auth": "token"}, "set VAULT_TOKEN"),
            ({"auth": "token", "token": ""}, "set VAULT_TOKEN"),
            ({"auth": "token", "token": "canary"}, "set VAULT_TOKEN to a new one"),
            ({"auth": "token", "token": "canary\n"}, "VAULT_TOKEN is not a token"),
            ({"auth": "token", "token": "canarÿ"}, "VAULT_TOKEN is not a token"),
            ({"auth": "approle"}, "set TOKEN_WORKER_VAULT_ROLE_ID"),
            ({"auth": "approle", "role_id": "canary"}, "refuses the log-in at auth/approle"),
            ({"auth": "approle", "role_id": "r", "secret_id_file": "/no/file"}, "SECRET_ID_FILE: /no/file cannot be"),
            ({"auth": "approle", "role_id": "r", "secret_id_file": "/dev/null"}, "SECRET_ID_FILE: /dev/null is empty"),
            ({"auth": "jwt"}, "set TOKEN_WORKER_VAULT_JWT_FILE"),
            ({"auth": "jwt", "role": "r", "jwt_file": "/no/file"}, "JWT_FILE: /no/file cannot be read"),
            ({"auth": "jwt", "role": "r", "jwt_file": "/dev/null"}, "JWT_FILE: /dev/null is empty"),
        ],
    )
    def test_impossible_log_in_names_the_setting(
        self, session: Session, settings: dict[str, Any], complaint: str
    ) -> None:
        """A log-in that cannot work says which setting to change, without the token or id it was given."""
        with pytest.raises(MasterKeyError) as caught:
            session(**settings).session.connect()
        assert complaint in str(caught.value)
        assert "canar" not in error_text(caught.value)

    def test_refused_credentials_name_the_file_and_show_nothing(
        self, session: Session, log_in: dict[str, Any], tmp_path: Path
    ) -> None:
        """If Vault refuses a secret id or JWT, the error names the file and has no part of its content."""
        file = tmp_path / "wrong"
        file.write_text("canary")
        name = "secret_id_file" if log_in["auth"] == "approle" else "jwt_file"
        with pytest.raises(MasterKeyError) as caught:
            session(**{**log_in, name: str(file)}).session.connect()
        assert f"refuses the log-in at auth/{log_in['auth_mount']}" in str(caught.value)
        assert f"TOKEN_WORKER_VAULT_{name.upper()}" in str(caught.value)
        assert "canary" not in error_text(caught.value)

    def test_reads_several_when_the_token_has_ended(
        self, admin: Admin, session: Session, mount: str, log_in: dict[str, Any]
    ) -> None:
        """A token that has ended while several secrets are read is replaced, and each of them comes."""
        vault = session(**log_in)
        assert vault.read_secrets(mount, ["a"] * 20) == [{"key": "x"}] * 20
        first = vault.session.adapter.token
        admin.do("POST", "auth/token/revoke", token=first)
        assert vault.read_secrets(mount, ["a"] * 20) == [{"key": "x"}] * 20
        assert vault.session.adapter.token != first
        assert vault.read_secrets(mount, ["a"] * 20) == [{"key": "x"}] * 20

    def test_nothing_is_read_after_the_end(self, session: Session, mount: str, log_in: dict[str, Any]) -> None:
        """A session that was closed logs in no more, so that it leaves no token behind."""
        vault = session(**log_in)
        vault.session.connect()
        vault.close()
        for paths in (["a"], ["a", "a"]):
            with pytest.raises(Unavailable):
                vault.read_secrets(mount, paths)
        assert vault.session.adapter.token is None

    def test_close_revokes_what_a_log_in_got(self, admin: Admin, session: Session, log_in: dict[str, Any]) -> None:
        """The token of a log-in does not outlive the session."""
        vault = session(**log_in)
        vault.session.connect()
        token = vault.session.adapter.token
        assert admin.token_lives(token)
        vault.close()
        assert not admin.token_lives(token)

    def test_close_keeps_a_given_token(self, admin: Admin, session: Session, policy: str) -> None:
        """A token that was given may serve others, and outlives the session."""
        token = admin.token(policy)
        vault = session(token=token)
        vault.session.connect()
        vault.close()
        assert admin.token_lives(token)

    def test_given_token_is_renewed_past_its_time(
        self, admin: Admin, session: Session, mount: str, policy: str
    ) -> None:
        """A given token is renewed again and again, past the time it was made for."""
        token = admin.token(policy, ttl="2s")
        vault = session(token=token)
        vault.session.connect()
        vault.session.keep_alive()

        def renewed_twice() -> bool:
            data = admin.do("POST", "auth/token/lookup", token=token)["data"]
            return bool(data.get("last_renewal_time", 0) - data["creation_time"] >= 2)

        wait_until(renewed_twice, "two renewals")
        assert vault.read_secret(mount, "a") == {"key": "x"}

    def test_logs_in_again_at_the_maximum_time(
        self, admin: Admin, session: Session, mount: str, policy: str, tmp_path: Path
    ) -> None:
        """A token that has come to its maximum time is replaced without any request asking for it."""
        settings = admin.approle(
            f"approle-{os.urandom(4).hex()}", tmp_path, token_policies=[policy], token_ttl="2s", token_max_ttl="4s"
        )
        vault = session(**settings)
        vault.session.connect()
        first = vault.session.adapter.token
        vault.session.keep_alive()
        wait_until(lambda: vault.session.adapter.token not in {None, first}, "a new token")
        wait_until(lambda: not admin.token_lives(first), "the end of the first token")
        assert vault.read_secret(mount, "a") == {"key": "x"}

    def test_logs_in_again_before_the_token_ends(
        self, admin: Admin, session: Session, policy: str, tmp_path: Path
    ) -> None:
        """A renewal that gives less time than before means that the maximum is near: a new token comes at once."""
        settings = admin.approle(
            f"approle-{os.urandom(4).hex()}", tmp_path, token_policies=[policy], token_ttl="10m", token_max_ttl="1h"
        )
        vault = session(**settings)
        vault.session.connect()
        first = vault.session.adapter.token
        vault.session._renew()
        assert vault.session.adapter.token == first
        admin.do("POST", f"auth/{settings['auth_mount']}/role/worker", token_ttl="5m", token_max_ttl="5m")
        vault.session._renew()
        assert vault.session.adapter.token != first
        assert admin.token_lives(first)

    def test_reads_go_on_while_tokens_change(
        self, admin: Admin, session: Session, mount: str, policy: str, tmp_path: Path
    ) -> None:
        """Reads all the while, across several tokens that cannot be renewed, are all answered."""
        settings = admin.jwt(
            f"jwt-{os.urandom(4).hex()}", tmp_path, token_policies=[policy], token_ttl="2s", token_max_ttl="2s"
        )
        vault = session(**settings)
        vault.session.connect()
        vault.session.keep_alive()
        tokens = set()

        def reads() -> bool:
            assert vault.read_secret(mount, "a") == {"key": "x"}
            tokens.add(vault.session.adapter.token)
            return len(tokens) >= 4

        wait_until(reads, "a read that succeeds")

    def test_end_of_a_given_token_is_told(self, admin: Admin, session: Session, policy: str) -> None:
        """If Vault does not renew a given token any more, an error in the log says what to do, and the thread ends."""
        token = admin.token(policy, ttl="2s", renewable=False)
        vault = session(token=token)
        vault.session.connect()
        with structlog.testing.capture_logs() as logs:
            vault.session.keep_alive()
            wait_until(
                lambda: vault.session._thread is not None and not vault.session._thread.is_alive(),
                "the end of the renewing thread",
            )
        (line,) = logs
        assert line["log_level"] == "error"
        assert "set VAULT_TOKEN to a new one" in line["reason"]
        assert token not in repr(logs)

    def test_keeps_trying_while_vault_is_away(self, policy: str, tmp_path: Path) -> None:
        """The thread outlives a Vault that is away: it says so, and logs in once Vault is back."""
        with OpenBao() as server:
            settings = Admin(server).approle("approle", tmp_path, token_ttl="2s")
            vault = VaultKv(VaultSettings(address=server.url, **settings))
            vault.session.connect()
            with structlog.testing.capture_logs() as logs:
                server.kill()
                vault.session.keep_alive()
                wait_until(lambda: logs, "a log line")
                server.start()  # in memory: it knows nothing of before
                settings.update(Admin(server).approle("approle", tmp_path, token_ttl="2s"))
                role_id = vault.session.settings.role_id
                Admin(server).do("POST", "auth/approle/role/worker/role-id", role_id=role_id)
                wait_until(lambda: any(line["event"] == "logged in to Vault again" for line in logs), "the next log-in")
            vault.close()
        assert logs[0]["log_level"] == "warning"
        assert logs[0]["reason"].endswith((": connection refused", ": connection closed"))


class TestAway:
    """Vault that cannot be used now, or not with these settings."""

    def test_absent_server_is_unavailable(self) -> None:
        """A server that is not there is unavailable, at log-in and at a read, not when a session is made."""
        vault = VaultKv(VaultSettings(address=f"http://127.0.0.1:{free_port()}", token="t"))
        with pytest.raises(Unavailable, match=r"^Vault at http://127\.0\.0\.1:\d+: connection refused$"):
            vault.session.connect()
        with pytest.raises(Unavailable, match=r"^Vault at http://127\.0\.0\.1:\d+: connection refused$"):
            vault.read_secret("secret", "a")

    def test_silent_server_is_unavailable_after_the_time_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server that takes the connection and stays silent is unavailable after the time-out."""
        monkeypatch.setattr(vault_session, "TIMEOUT_SECONDS", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            vault = VaultKv(VaultSettings(address=f"http://127.0.0.1:{silent.getsockname()[1]}", token="t"))
            with pytest.raises(Unavailable, match=r": no answer in time$"):
                vault.session.connect()
            vault.close()

    def test_sealed_vault_is_unavailable_by_that_name(self) -> None:
        """A sealed Vault is unavailable, by that name, for a log-in, a read, and a session that had a token."""
        with OpenBao() as server:
            settings = VaultSettings(address=server.url, token=server.root_token)
            before, after = VaultKv(settings), VaultKv(settings)
            before.session.connect()
            Admin(server).do("PUT", "sys/seal")
            for request in (after.session.connect, lambda: from_vault(before)):
                with pytest.raises(Unavailable, match=r": is sealed$"):
                    request()
            approle = VaultKv(VaultSettings(address=server.url, auth="approle", role_id="r"))
            with pytest.raises(Unavailable, match=r": is sealed$"):
                approle.session.connect()
            for vault in (before, after, approle):
                vault.close()

    @pytest.mark.parametrize(
        ("status", "body", "reason"),
        [
            (500, {"errors": ["local node not active but active cluster node not found"]}, "standby"),
            (500, {"errors": ["canary"]}, "InternalServerError"),
            (502, {"errors": ["canary"]}, "BadGateway"),
            (503, {"errors": ["canary"]}, "VaultDown"),
            (429, {"errors": ["canary"]}, "RateLimitExceeded"),
        ],
    )
    def test_failing_vault_is_unavailable_by_a_safe_word(
        self, status: int, body: dict[str, object], reason: str
    ) -> None:
        """A Vault on standby, overloaded or failing is unavailable, by a word that holds nothing of its answer."""
        with answering(status, json.dumps(body), "application/json") as address:
            vault = VaultKv(VaultSettings(address=address, token="t"))
            with pytest.raises(Unavailable) as caught:
                vault.session.connect()
            vault.close()
        assert caught.value.reason == reason
        assert "canary" not in error_text(caught.value)

    @pytest.mark.parametrize(
        ("status", "body", "kind"),
        [
            (200, "<html>canary</html>", "text/html"),
            (200, '{"canary": 1}', "application/json"),
            (200, '["canary"]', "application/json"),
            (204, "", "text/html"),
            (401, "canary", "text/html"),
        ],
    )
    def test_another_server_at_the_address_is_an_error(self, status: int, body: str, kind: str) -> None:
        """Something else than Vault at the address is an error that a person has to mend."""
        with answering(status, body, kind) as address:
            vault = VaultKv(VaultSettings(address=address, token="t"))
            with pytest.raises(MasterKeyError) as caught:
                vault.session.connect()
            vault.close()
        assert address in str(caught.value)
        assert "canary" not in error_text(caught.value)

    @pytest.mark.parametrize("address", ["127.0.0.1:8200", "vault", "ftp://vault", "http://"])
    def test_wrong_address_names_its_variable(self, address: str) -> None:
        """An address that is no URL is an error that names VAULT_ADDR."""
        with pytest.raises(MasterKeyError, match="VAULT_ADDR"):
            VaultKv(VaultSettings(address=address, token="t")).session.connect()


class answering:  # noqa: N801 - reads as a context: "with answering(...)"
    """An HTTP server that gives one answer to everything."""

    def __init__(self, status: int, body: str, kind: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it overrides
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> str:
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class TlsOpenBao(OpenBao):
    """OpenBao with a certificate that an authority of its own has signed."""

    def command(self) -> list[str]:
        return [*super().command(), "-dev-tls", f"-dev-tls-cert-dir={self.folder}"]

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def authority(self) -> str:
        (file,) = self.folder.glob("*-ca.pem")
        return str(file)

    def answers(self) -> bool:
        try:
            context = ssl.create_default_context(cafile=self.authority)
            with socket.create_connection(("127.0.0.1", self.port), 2) as plain:
                context.wrap_socket(plain, server_hostname="127.0.0.1").close()
            return bool(requests.get(f"{self.url}/v1/sys/health", timeout=2, verify=self.authority).ok)
        except (OSError, ValueError):
            return False


@pytest.fixture(scope="module")
def tls_server() -> Iterator[TlsOpenBao]:
    with TlsOpenBao() as server:
        yield server


class TestTls:
    """TLS with Vault."""

    def connect(self, server: TlsOpenBao, **settings: object) -> None:
        given = {"address": server.url, "token": server.root_token, **settings}
        vault = VaultKv(msgspec.convert(given, VaultSettings))
        try:
            vault.session.connect()
        finally:
            vault.close()

    def test_certificate_of_the_given_authority_is_trusted(self, tls_server: TlsOpenBao) -> None:
        """A server whose authority stands in VAULT_CACERT is believed."""
        self.connect(tls_server, ca_cert=tls_server.authority)

    def test_certificate_of_another_authority_is_refused(self, tls_server: TlsOpenBao) -> None:
        """A server with a certificate that nobody vouches for is refused, and the text names VAULT_CACERT."""
        with pytest.raises(MasterKeyError, match=r"TLS with Vault at .* failed: .*; set VAULT_CACERT"):
            self.connect(tls_server)

    def test_skipped_verification_is_logged(self, tls_server: TlsOpenBao) -> None:
        """With VAULT_SKIP_VERIFY any certificate will do, and the log says so."""
        with structlog.testing.capture_logs() as logs:
            self.connect(tls_server, skip_verify=True)
        assert [line["event"] for line in logs] == ["Vault certificate is not checked"]

    def test_https_to_a_server_without_tls(self, openbao_server: OpenBao) -> None:
        """An https:// address of a server that speaks http is a failure of TLS, not a server that is away."""
        address = f"https://127.0.0.1:{openbao_server.port}"
        with pytest.raises(MasterKeyError, match=r"TLS with Vault at .* failed"):
            VaultKv(VaultSettings(address=address, token="t")).session.connect()

    def test_http_to_a_server_with_tls(self, tls_server: TlsOpenBao) -> None:
        """An http:// address of a server that speaks TLS is an error that says so."""
        with pytest.raises(MasterKeyError, match="speaks TLS: set VAULT_ADDR to https"):
            self.connect(tls_server, address=f"http://127.0.0.1:{tls_server.port}")

    @pytest.mark.parametrize("setting", ["ca_cert", "ca_path", "client_cert"])
    def test_file_that_is_not_there(self, tls_server: TlsOpenBao, setting: str) -> None:
        """A certificate's file that is not there is an error that names its variable."""
        variable = f"VAULT_{setting.replace('ca_', 'ca').upper()}"
        with pytest.raises(MasterKeyError, match=f"{variable}: /no/file cannot be read"):
            self.connect(tls_server, **{setting: "/no/file"})

    @pytest.mark.parametrize("setting", ["ca_cert", "client_cert"])
    def test_file_that_is_no_certificate(self, tls_server: TlsOpenBao, tmp_path: Path, setting: str) -> None:
        """A file that holds no certificate is an error of TLS, not a server that is away."""
        file = tmp_path / "file.pem"
        file.write_text("nothing")
        variable = f"VAULT_{setting.replace('ca_', 'ca').upper()}"
        with pytest.raises(MasterKeyError, match=variable):
            self.connect(tls_server, **{"ca_cert": tls_server.authority, setting: str(file)})

    def test_cut_in_the_handshake(self) -> None:
        """A server that hangs up during the handshake, as one that restarts does, is unavailable."""
        with socket.create_server(("127.0.0.1", 0)) as server:

            def hang_up() -> None:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)

            thread = threading.Thread(target=hang_up)
            thread.start()
            vault = VaultKv(VaultSettings(address=f"https://127.0.0.1:{server.getsockname()[1]}", token="t"))
            with pytest.raises(Unavailable, match=r"^Vault at https://127\.0\.0\.1:\d+: connection closed$"):
                vault.session.connect()
            thread.join()


class _Gate(BaseHTTPRequestHandler):
    """A Vault that answers a request for a secret only when so many others have come as it is to have at once."""

    together = threading.Barrier(4)
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if "/data/" in self.path:
            self.together.wait(60)
            data: dict[str, Any] = {"data": {"name": self.path.rpartition("/")[2]}, "metadata": {"version": 1}}
        else:
            data = {"path": "secret/", "type": "kv", "options": {"version": "2"}}
        body = msgspec.json.encode({"data": data})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it overrides
        pass


def test_several_secrets_are_read_at_the_same_time() -> None:
    """Secrets that are read together are asked for several at a time, and come in the order they were asked for."""
    names = [f"name-{number}" for number in range(20)]
    with ThreadingHTTPServer(("127.0.0.1", 0), _Gate) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        vault = VaultKv(VaultSettings(address=f"http://127.0.0.1:{server.server_port}", token="t"))
        found = vault.read_secrets("secret", names)
        assert found == [{"name": name} for name in names]
        vault.close()
        server.shutdown()
        thread.join()
