"""The guard of the page and the metrics lets in whom it should, and nobody else."""

import base64
from pathlib import Path

import pytest

from token_worker.errors import SettingsError
from token_worker.monitor.guard import Guard, TokenFile, is_loopback_name

PASSWORD = "correct horse battery staple"


def basic(password: str, user: str = "me") -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with the password."""
    path = tmp_path / "token"
    path.write_text(f"{PASSWORD}\n")
    return path


def guard(token: TokenFile | None, *, is_local: bool = False, metrics_open: bool = False) -> Guard:
    made = Guard(token, metrics_open=metrics_open)
    made.is_local = is_local
    return made


def is_open(
    it: Guard, path: str, authorization: str = "", host: str = "localhost:9300", peer: str = "127.0.0.1"
) -> bool:
    return it.refusal(path, authorization, host, peer) is None


@pytest.mark.parametrize("path", ["/", "/operations", "/style.css", "/metrics", "/no-such-path"])
@pytest.mark.parametrize("is_local", [True, False])
def test_password_opens_everything_and_nothing_else_does(path: str, is_local: bool, file: Path) -> None:
    """With a password file, each path needs the password, also on the loopback."""
    it = guard(TokenFile(file), is_local=is_local)
    assert is_open(it, path, basic(PASSWORD))
    assert is_open(it, path, basic(PASSWORD, user="somebody else"))
    for wrong in (
        "",
        basic("wrong"),
        basic(""),
        basic(PASSWORD + "x"),
        "Basic !!!",
        "Basic",
        f"Digest {PASSWORD}",
        PASSWORD,
    ):
        assert not is_open(it, path, wrong), wrong


def test_bearer_is_for_metrics(file: Path) -> None:
    """Prometheus may send the password as a bearer token; a browser may not."""
    it = guard(TokenFile(file))
    assert is_open(it, "/metrics", f"Bearer {PASSWORD}")
    assert not is_open(it, "/metrics", "Bearer wrong")
    assert not is_open(it, "/", f"Bearer {PASSWORD}")


def test_bearer_may_have_any_characters(tmp_path: Path) -> None:
    """A password outside of ASCII works as a bearer token, too: headers arrive as Latin-1."""
    file = tmp_path / "token"
    file.write_text("schlüssel für den monitor")
    sent = "Bearer schlüssel für den monitor".encode().decode("latin-1")
    assert is_open(guard(TokenFile(file)), "/metrics", sent)


def test_password_is_read_again_when_the_file_changes(file: Path) -> None:
    """A new password counts at the next request, and the old one no more. No file is no way in."""
    token = TokenFile(file)
    file.write_text("another password, as long\n")
    assert not token.matches(PASSWORD.encode())
    assert token.matches(b"another password, as long")
    file.write_text("")
    assert not token.matches(b"")
    assert not token.matches(b"another password, as long")
    file.unlink()
    assert not token.matches(b"another password, as long")
    file.write_text(PASSWORD)
    assert token.matches(PASSWORD.encode())


@pytest.mark.parametrize("content", ["", "\n", "short"])
def test_short_password_is_refused_at_start(content: str, tmp_path: Path) -> None:
    """A password that could be found by trying is wrong usage."""
    path = tmp_path / "token"
    path.write_text(content)
    with pytest.raises(SettingsError, match="16 characters"):
        TokenFile(path)


def test_file_that_cannot_be_read_is_refused_at_start(tmp_path: Path) -> None:
    """A missing file is an error that names the option."""
    with pytest.raises(SettingsError, match="--token-file"):
        TokenFile(tmp_path / "none")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9300", "127.0.0.1:1", "127.9.9.9", "[::1]:9300", "a.localhost", "localhost."]
)
def test_names_of_the_loopback(host: str) -> None:
    """These names lead to this machine wherever they are looked up."""
    assert is_loopback_name(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":9300",
        "evil.example",
        "localhost.evil.example:9300",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "[::2]",
        "evil-localhost",
        "192.168.0.1",
    ],
)
def test_names_of_others(host: str) -> None:
    """A name of somebody else may lead to the loopback, too: DNS rebinding. It opens nothing."""
    assert not is_loopback_name(host)
    assert not is_open(guard(None, is_local=True), "/", host=host)
    assert not is_open(guard(None, is_local=True), "/metrics", host=host)


def test_without_password_only_this_machine_is_answered() -> None:
    """Without a password file, the page needs a server on the loopback and a client on it."""
    assert is_open(guard(None, is_local=True), "/")
    assert is_open(guard(None, is_local=True), "/", peer="::ffff:127.0.0.1")
    assert not is_open(guard(None, is_local=True), "/", peer="10.0.0.1")
    assert not is_open(guard(None, is_local=False), "/")
    assert not is_open(guard(None, is_local=False), "/metrics")


def test_open_metrics_open_nothing_else(file: Path) -> None:
    """``--metrics-open`` serves the metrics anywhere, and no other path."""
    it = guard(TokenFile(file), metrics_open=True)
    assert is_open(it, "/metrics", host="evil.example", peer="10.0.0.1")
    assert not is_open(it, "/", peer="10.0.0.1")
    assert not is_open(it, "/metrics/", peer="10.0.0.1")
    assert not is_open(guard(None, metrics_open=True), "/")
