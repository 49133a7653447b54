"""Whoever reaches Vault by its own command line reaches it with the same environment here; what fails there fails here.

Each set of variables is tried by ``bao`` and by the settings of a worker, on one server with several listeners.
"""

import base64
import datetime as dt
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import trustme

from harness.server_process import ServerProcess
from harness.servers import DEPLOY_FILES, OpenBao, bao_binary
from harness.stack import wait_until
from token_worker.errors import MasterKeyError
from token_worker.keys.master import from_vault
from token_worker.keys.vault_kv import VaultKv
from token_worker.settings import load

MASTER_KEY = base64.b64encode(os.urandom(32)).decode()


class ListeningOpenBao(OpenBao):
    """OpenBao that also listens with TLS: with several certificates, each on a port of its own.

    Attributes:
        authority: signed all of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.authority = trustme.CA()
        self.authority_file = self.folder / "authority.pem"
        self.authority.cert_pem.write_to_path(self.authority_file)
        yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
        self._certificates = {
            "good": self.authority.issue_cert("127.0.0.1"),
            "other-name": self.authority.issue_cert("vault.test"),
            "expired": self.authority.issue_cert("127.0.0.1", not_after=yesterday),
            "asks-client": self.authority.issue_cert("127.0.0.1"),
        }
        for name, certificate in self._certificates.items():
            certificate.private_key_and_cert_chain_pem.write_to_path(self.folder / f"{name}.pem")

    def choose_ports(self) -> None:
        super().choose_ports()
        self.tls_ports = {name: self.a_port() for name in ("good", "other-name", "expired", "asks-client")}

    def command(self) -> list[str]:
        listeners = []
        for name, port in self.tls_ports.items():
            file = str(self.folder / f"{name}.pem")
            tcp: dict[str, object] = {"address": f"127.0.0.1:{port}", "tls_cert_file": file, "tls_key_file": file}
            if name == "asks-client":
                tcp |= {"tls_client_ca_file": str(self.authority_file), "tls_require_and_verify_client_cert": True}
            listeners.append({"tcp": tcp})
        config = self.folder / "listeners.json"
        config.write_text(json.dumps({"listener": listeners}))
        return [*super().command(), f"-config={config}"]

    def tls(self, name: str = "good") -> str:
        """The address with this certificate."""
        return f"https://127.0.0.1:{self.tls_ports[name]}"


class Agent(ServerProcess):
    """An agent on a socket. It logs in by AppRole, and adds its token to requests without one."""

    def __init__(self, server: OpenBao, approle: Mapping[str, str]) -> None:
        super().__init__("agent")
        self._server = server
        self._approle = approle
        self.socket = self.folder / "agent.socket"

    def command(self) -> list[str]:
        role_id = self.folder / "role-id"
        role_id.write_text(self._approle["TOKEN_WORKER_VAULT_ROLE_ID"])
        method = {
            "role_id_file_path": str(role_id),
            "secret_id_file_path": self._approle["TOKEN_WORKER_VAULT_SECRET_ID_FILE"],
            "remove_secret_id_file_after_reading": False,
        }
        config = {
            "vault": {"address": self._server.url},
            "auto_auth": {"method": [{"type": "approle", "config": method}]},
            "api_proxy": {"use_auto_auth_token": True},
            "cache": {},
            "listener": [
                {"unix": {"address": str(self.socket), "tls_disable": True, "require_request_header": True}},
                {"tcp": {"address": f"127.0.0.1:{self.port}", "tls_disable": True}},
            ],
        }
        file = self.folder / "agent.json"
        file.write_text(json.dumps(config))
        return [bao_binary(), "agent", f"-config={file}"]

    def answers(self) -> bool:
        return self.socket.exists()


@pytest.fixture(scope="module")
def server() -> Iterator[ListeningOpenBao]:
    with ListeningOpenBao() as server:
        yield server


@pytest.fixture(scope="module")
def approle(server: ListeningOpenBao) -> dict[str, str]:
    """Settings of a worker, after its policy, its role and the master key have been written."""
    return server.admit_workers(DEPLOY_FILES / "vault" / "master-key-only.hcl", MASTER_KEY)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, approle: dict[str, str]) -> None:
    """An environment without settings and without a token in the home."""
    for name in [name for name in os.environ if name.startswith(("VAULT_", "BAO_", "SSL_CERT", "TOKEN_WORKER_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def command_line(path: str = "secret/acra/transport") -> str | None:
    """The master key as ``bao`` reads it in this environment. None if it cannot."""
    command = [bao_binary(), "kv", "get", "-field=acra_master_key", path]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    return done.stdout.decode().strip() if done.returncode == 0 else None


def worker() -> str:
    """The master key as a worker reads it in this environment."""
    settings = load(os.environ).vault
    assert settings is not None
    vault = VaultKv(settings)
    try:
        return base64.b64encode(from_vault(vault)).decode()
    finally:
        vault.close()


WORKS = {
    "a file with the authority": {"VAULT_ADDR": "{good}", "VAULT_CACERT": "{authority}"},
    "the authority itself": {"VAULT_ADDR": "{good}", "VAULT_CACERT_BYTES": "{pem}"},
    "a folder with files of any name": {"VAULT_ADDR": "{good}", "VAULT_CAPATH": "{folder}"},
    "the file goes first": {"VAULT_ADDR": "{good}", "VAULT_CACERT": "{authority}", "VAULT_CAPATH": "{empty}"},
    "the authorities of the machine": {"VAULT_ADDR": "{good}", "SSL_CERT_FILE": "{authority}"},
    "an agent goes first": {
        "VAULT_ADDR": "http://127.0.0.1:1",
        "VAULT_AGENT_ADDR": "{good}",
        "VAULT_CACERT": "{authority}",
    },
    "another name": {
        "VAULT_ADDR": "{other-name}",
        "VAULT_CACERT": "{authority}",
        "VAULT_TLS_SERVER_NAME": "vault.test",
    },
    "no check at all": {"VAULT_ADDR": "{expired}", "VAULT_SKIP_VERIFY": "1"},
    "a client certificate": {
        "VAULT_ADDR": "{asks-client}",
        "VAULT_CACERT": "{authority}",
        "VAULT_CLIENT_CERT": "{client}",
        "VAULT_CLIENT_KEY": "{client}",
    },
    "names of OpenBao": {
        "BAO_ADDR": "{other-name}",
        "BAO_TOKEN": "{token}",
        "BAO_CACERT": "{authority}",
        "BAO_TLS_SERVER_NAME": "vault.test",
        "VAULT_ADDR": "http://127.0.0.1:1",
        "VAULT_TOKEN": "another",
        "VAULT_TLS_SERVER_NAME": "another",
    },
}

FAILS = {
    "an authority that nobody knows": (
        {"VAULT_ADDR": "{good}"},
        "an authority that is not known here; set VAULT_CACERT",
    ),
    "a certificate for another name": (
        {"VAULT_ADDR": "{other-name}", "VAULT_CACERT": "{authority}"},
        "for another name; set VAULT_ADDR to a name of the certificate, or VAULT_TLS_SERVER_NAME",
    ),
    "a name that it does not have": (
        {"VAULT_ADDR": "{good}", "VAULT_CACERT": "{authority}", "VAULT_TLS_SERVER_NAME": "vault.test"},
        "for another name",
    ),
    "an expired certificate": ({"VAULT_ADDR": "{expired}", "VAULT_CACERT": "{authority}"}, "has expired"),
    "no client certificate": (
        {"VAULT_ADDR": "{asks-client}", "VAULT_CACERT": "{authority}"},
        "set VAULT_CLIENT_CERT and VAULT_CLIENT_KEY",
    ),
    "no TLS": ({"VAULT_ADDR": "{plain-with-tls}"}, "does not speak TLS; set VAULT_ADDR to http://"),
    "a file that is not there": ({"VAULT_ADDR": "{good}", "VAULT_CACERT": "/no/file"}, "VAULT_CACERT: /no/file cannot"),
    "a folder without certificates": ({"VAULT_ADDR": "{good}", "VAULT_CAPATH": "{empty}"}, "VAULT_CAPATH: there is no"),
    "a damaged certificate": (
        {
            "VAULT_ADDR": "{good}",
            "VAULT_CACERT_BYTES": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        },
        "VAULT_CACERT_BYTES: a certificate is damaged",
    ),
    "no token": ({"VAULT_ADDR": "{plain}", "VAULT_TOKEN": ""}, "no token for Vault: set VAULT_TOKEN"),
}


def set_variables(
    monkeypatch: pytest.MonkeyPatch, server: ListeningOpenBao, folder: Path, variables: dict[str, str]
) -> None:
    """Set variables, whose placeholders become places of this test."""
    (folder / "authorities" / "more").mkdir(parents=True)
    (folder / "authorities" / "more" / "one of ours").write_bytes(b"na\xefve\n" + server.authority.cert_pem.bytes())
    (folder / "empty").mkdir()
    client = folder / "client.pem"
    server.authority.issue_cert("worker.test").private_key_and_cert_chain_pem.write_to_path(client)
    places = {
        **{name: server.tls(name) for name in server.tls_ports},
        "plain": server.url,
        "plain-with-tls": server.url.replace("http", "https"),
        "authority": str(server.authority_file),
        "pem": server.authority.cert_pem.bytes().decode(),
        "folder": str(folder / "authorities"),
        "empty": str(folder / "empty"),
        "client": str(client),
        "token": server.root_token,
    }
    for name, value in {"VAULT_TOKEN": "{token}", **variables}.items():
        monkeypatch.setenv(name, value.format(**places))


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("case", WORKS)
def test_what_works_on_the_command_line_works(
    server: ListeningOpenBao, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: str
) -> None:
    """A worker takes the variables of Vault's and OpenBao's command lines, and finds the master key as they do."""
    set_variables(monkeypatch, server, tmp_path, WORKS[case])
    assert (command_line(), worker()) == (MASTER_KEY, MASTER_KEY)


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("case", FAILS)
def test_what_fails_on_the_command_line_fails_with_the_reason(
    server: ListeningOpenBao, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: str
) -> None:
    """A worker is refused where the command line is, and its error says what to set."""
    variables, text = FAILS[case]
    set_variables(monkeypatch, server, tmp_path, variables)
    assert command_line() is None
    with pytest.raises(MasterKeyError) as refused:
        worker()
    assert text in str(refused.value)


@pytest.mark.usefixtures("environment")
def test_agent_on_a_socket_needs_no_token(
    server: ListeningOpenBao, approle: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An agent on a ``unix://`` address adds the token of its auto-auth, so a worker needs none."""
    with Agent(server, approle) as agent:
        monkeypatch.setenv("VAULT_ADDR", f"unix://{agent.socket}")
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # is not for sockets
        wait_until(lambda: command_line() == MASTER_KEY, "the log-in of the agent")
        assert worker() == MASTER_KEY


@pytest.mark.usefixtures("environment")
def test_path_of_the_api_is_answered_with_the_right_one(
    server: ListeningOpenBao, approle: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``secret/data/…``, which the command line does not find either, is answered with the path to set.

    A secret that really has such a name is read.
    """
    monkeypatch.setenv("TOKEN_WORKER_VAULT_SECRET", "secret/data/acra/transport")
    for settings in (approle, {"VAULT_ADDR": server.url, "VAULT_TOKEN": server.root_token}):
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(MasterKeyError, match=r"leave data/ out: set it to secret/acra/transport\Z"):
            worker()
        monkeypatch.setenv("TOKEN_WORKER_VAULT_AUTH", "token")
    assert command_line("secret/data/acra/transport") is None
    server.call("POST", "secret/data/data/acra/transport", data={"acra_master_key": MASTER_KEY})
    try:
        assert (command_line("secret/data/acra/transport"), worker()) == (MASTER_KEY, MASTER_KEY)
    finally:
        server.call("DELETE", "secret/metadata/data/acra/transport")


class TestWrappedSecretIds:
    """Secret ids that come wrapped."""

    def wrap(self, server: OpenBao, path: str) -> str:
        """Have the answer to a request wrapped; the wrapping token."""
        command = [bao_binary(), "write", "-wrap-ttl=10m", "-field=wrapping_token", "-f", path]
        environment = {"VAULT_ADDR": server.url, "VAULT_TOKEN": server.root_token, "PATH": os.environ["PATH"]}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.strip()

    @pytest.fixture
    def file(self, environment: None, approle: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        """The file for the wrapping token, named in the environment."""
        for name, value in approle.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("TOKEN_WORKER_VAULT_SECRET_ID_FILE", str(tmp_path / "wrapped"))
        monkeypatch.setenv("TOKEN_WORKER_VAULT_SECRET_ID_WRAPPED", "true")
        return tmp_path / "wrapped"

    def test_secret_id_is_unwrapped_once(self, server: ListeningOpenBao, file: Path) -> None:
        """A session unwraps the secret id once and logs in by it again and again. A new file brings a new one."""
        settings = load(os.environ).vault
        assert settings is not None
        vault = VaultKv(settings)
        for _ in range(2):
            file.write_text(self.wrap(server, "auth/approle/role/token-worker/secret-id"))
            for _ in range(2):
                vault.session.connect()
        vault.close()
        with pytest.raises(MasterKeyError, match="was used before") as refused:
            worker()
        assert file.read_text() not in str(refused.value)

    def test_token_that_wraps_something_else_is_refused(self, server: ListeningOpenBao, file: Path) -> None:
        """A wrapping token of another path is refused, and not used up."""
        file.write_text(self.wrap(server, "sys/tools/random/8"))
        with pytest.raises(MasterKeyError, match="wraps something else than a secret id of auth/approle"):
            worker()
        assert server.call("POST", "sys/wrapping/unwrap", token=file.read_text())

    def test_file_that_holds_no_wrapping_token_is_refused(self, server: ListeningOpenBao, file: Path) -> None:
        """A secret id where a wrapping token should be is refused without showing it."""
        file.write_text("canary-é")
        with pytest.raises(MasterKeyError, match="holds no wrapping token") as refused:
            worker()
        assert "canary" not in str(refused.value)
