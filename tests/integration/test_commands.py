"""The commands, as processes: what they print, and their exit status."""

import json
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner

import token_worker
from harness.servers import OpenBao, Valkey, free_port
from harness.stack import Stack
from token_worker.acra.owner import Owner
from token_worker.cli import app
from token_worker.keys.store import unwrap

CLIENT = "shop-frontend"
ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "worker" / "token_worker"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("str", "Grace Hopper"),
        ("email", "grace@navy.example"),
        ("int32", "-7"),
        ("int64", "9223372036854775807"),
        ("bytes", "AAH/"),
    ],
)
def test_request_goes_there_and_back(stack: Stack, kind: str, value: str) -> None:
    """``request`` prints the reply with the token, and turns it back; its reply stream is gone afterwards."""
    stack.start_worker()
    done = stack.run("request", "tokenize", "--type", kind, "--client", CLIENT, value=value + "\n")
    assert done.returncode == 0, done.stderr
    token = msgspec.json.decode(done.stdout)["value"]
    back = stack.run("request", "detokenize", "--type", kind, "--client", CLIENT, value=str(token))
    assert str(msgspec.json.decode(back.stdout)["value"]) == value
    assert not stack.streams.keys("*responses:cli-*")


def test_request_asks_for_a_format(stack: Stack) -> None:
    """``--format`` is passed on, and says the type; the reply tells a token that has another form."""
    route = {"requests": "in", "responses": "out", "ops": ["tokenize"], "allowed_formats": ["pan", "card"]}
    routes, formats = json.dumps([route]), json.dumps([{"name": "card", "kind": "pan", "keep_first": 6}])
    stack.start_worker(TOKEN_WORKER_ROUTES=routes, TOKEN_WORKER_FORMATS=formats)

    def ask(*options: str, value: str = "4242424242424242") -> dict[str, Any]:
        arguments = ("request", "tokenize", *options, "--client", CLIENT)
        done = stack.run(*arguments, value=value, TOKEN_WORKER_ROUTES=routes, TOKEN_WORKER_FORMATS=formats)
        reply: dict[str, Any] = msgspec.json.decode(done.stdout)
        assert done.returncode == (0 if "value" in reply else 1), done.stderr
        return reply

    token = ask("--format", "pan")["value"]
    assert re.fullmatch(r"\d{12}4242", token)
    assert ask("--format", "pan", "--type", "str")["value"] == token
    assert re.fullmatch(r"424242\d{6}4242", ask("--format", "card", "--inconsistent")["value"])
    assert ask("--format", "card")["format"] == "other"
    assert ask("--format", "pan", value="Grace Hopper")["error"]["code"] == "value_out_of_range"
    assert ask("--format", "none", "--type", "str")["error"]["code"] == "format_not_allowed"


def test_request_serves_zones_and_inconsistent_tokens(stack: Stack) -> None:
    """``--zone`` and ``--inconsistent`` are passed on."""
    stack.generate_key("DDDDDDDDsomezone", "zone")
    stack.start_worker()
    options = ("request", "tokenize", "--type", "str", "--client", CLIENT)
    replies = [
        stack.run(*options, *more, value="one value")
        for more in ((), ("--zone", "DDDDDDDDsomezone"), ("--inconsistent",), ("--inconsistent",))
    ]
    assert len({msgspec.json.decode(reply.stdout)["value"] for reply in replies}) == 4


def test_request_that_is_refused_is_a_finding(stack: Stack) -> None:
    """An error reply is printed, with exit status 1."""
    stack.start_worker()
    done = stack.run("request", "detokenize", "--type", "str", "--client", CLIENT, value="no such token")
    assert done.returncode == 1
    assert msgspec.json.decode(done.stdout)["error"]["code"] == "token_not_found"


def test_request_without_worker_or_server_is_out_of_reach(stack: Stack) -> None:
    """No reply in time, and no server, are exit status 3 with a line that says so."""
    options = ("request", "tokenize", "--type", "str", "--client", CLIENT)
    silent = stack.run(*options, "--timeout", "0.2", value="x")
    assert silent.returncode == 3
    assert "is a worker running?" in silent.stderr
    away = stack.run(*options, value="x", TOKEN_WORKER_STREAMS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert away.returncode == 3
    assert "connection refused" in away.stderr


@pytest.mark.parametrize("value", ["1_000", "007", " 7", "٧", "1.0", "a canary"])  # noqa: RUF001 - a digit to int()
@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_request_takes_no_number_that_would_come_back_as_another(stack: Stack, kind: str, value: str) -> None:
    """A value that is not a plain decimal number is wrong usage; it is not sent and not printed."""
    done = stack.run("request", "tokenize", "--type", kind, "--client", CLIENT, value=value)
    assert done.returncode == 2
    assert "whole number" in done.stderr
    assert value not in done.stderr
    assert not stack.streams.exists("tokenize:requests")


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX"])
def test_request_takes_no_broken_text(stack: Stack, locale: str) -> None:
    """A value that is not UTF-8 is wrong usage in every locale, said without a byte of it."""
    command = [sys.executable, "-m", "token_worker", "request", "tokenize", "--type", "str", "--client", CLIENT]
    environment = stack.environment(LC_ALL=locale)
    done = subprocess.run(command, env=environment, input=b"J\xfcrgen", capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert b"UTF-8" in done.stderr
    assert b"rgen" not in done.stderr
    assert b"xfc" not in done.stderr


def test_request_asks_for_a_reply_where_the_route_allows_one(stack: Stack) -> None:
    """A route with a pattern of its own for replies is served; one that names a single stream is wrong usage."""
    route = {"requests": "in", "responses": "out", "ops": ["tokenize"], "reply_to": "answers:*"}
    routes = json.dumps([route])
    stack.start_worker(TOKEN_WORKER_ROUTES=routes)
    options = ("request", "tokenize", "--type", "str", "--client", CLIENT)
    done = stack.run(*options, value="a value", TOKEN_WORKER_ROUTES=routes)
    assert done.returncode == 0, done.stderr
    routes = json.dumps([{**route, "reply_to": "answers:all"}])
    done = stack.run(*options, value="a value", TOKEN_WORKER_ROUTES=routes)
    assert done.returncode == 2
    assert "reply_to" in done.stderr


def test_request_is_told_that_its_stream_is_not_allowed(stack: Stack) -> None:
    """Workers that allow other streams for replies answer on the stream of all: the reply is printed, and soon."""
    route = {"requests": "in", "responses": "out", "ops": ["tokenize"]}
    stack.start_worker(TOKEN_WORKER_ROUTES=json.dumps([{**route, "reply_to": "answers:*"}]))
    options = ("request", "tokenize", "--type", "str", "--client", CLIENT, "--timeout", "3600")
    done = stack.run(*options, value="a value", TOKEN_WORKER_ROUTES=json.dumps([route]))
    assert done.returncode == 1, done.stderr
    assert msgspec.json.decode(done.stdout)["error"]["code"] == "forbidden"


def test_request_needs_no_right_to_remove_its_reply(stack: Stack) -> None:
    """A producer that may not DEL is told the reply; the stream goes by its time to live."""
    stack.start_worker()
    rights = ("reset", "on", ">producer", "~tokenize:*", "+xadd", "+xread")
    stack.streams.execute_command("ACL", "SETUSER", "producer", *rights)
    try:
        url = stack.settings["TOKEN_WORKER_STREAMS_URL"].replace("redis://", "redis://producer:producer@")
        options = ("request", "tokenize", "--type", "str", "--client", CLIENT)
        done = stack.run(*options, value="a value", TOKEN_WORKER_STREAMS_URL=url)
        assert done.returncode == 0, done.stderr
        [left] = stack.streams.keys("tokenize:responses:cli-*")
        assert stack.streams.ttl(left) > 0
        stack.streams.execute_command("ACL", "SETUSER", "producer", "-xadd")
        done = stack.run(*options, value="a value", TOKEN_WORKER_STREAMS_URL=url)
        assert done.returncode == 2  # a right to be given, not a server to wait for
        assert "NOPERM" in done.stderr
        assert "run this as the Redis user client-" in done.stderr
    finally:
        stack.streams.execute_command("ACL", "DELUSER", "producer")


@pytest.mark.parametrize(
    "arguments",
    [
        ("request", "tokenize", "a value", "--type", "str"),
        ("request", "tokenize"),
        ("request", "tokenize", "--format", "of-no-settings"),
        ("request", "detokenize", "--format", "pan"),
        ("request", "burn", "--type", "str"),
        ("keys", "generate"),
        ("keys", "generate", "a/b*c"),
        ("nothing",),
        ("run", "--config", "worker.toml"),
    ],
)
def test_wrong_usage_is_exit_status_2_and_does_nothing(stack: Stack, arguments: tuple[str, ...]) -> None:
    """Wrong arguments, a value among them, are exit status 2 with a hint; nothing is done."""
    done = stack.run(*arguments)
    assert done.returncode == 2
    assert "Error" in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_settings_are_named(stack: Stack) -> None:
    """Settings that are wrong are exit status 2 and named, whatever the command."""
    done = stack.run("run", TOKEN_WORKER_BATCHSIZE="5", TOKEN_WORKER_DURABILITY="disk")
    assert done.returncode == 2
    assert "TOKEN_WORKER_BATCH_SIZE" in done.stderr
    assert "TOKEN_WORKER_DURABILITY" in done.stderr
    assert "Traceback" not in done.stderr


def test_worker_without_master_key_ends_and_says_what_to_set(stack: Stack) -> None:
    """Without a master key a worker does not wait for one: exit status 2."""
    done = stack.run("run", ACRA_MASTER_KEY="")
    assert done.returncode == 2
    assert "ACRA_MASTER_KEY" in done.stderr


def test_keys_are_generated_once(stack: Stack) -> None:
    """``keys generate`` makes a key sealed for its owner, and never replaces one."""
    for arguments, owner in (
        (("new_client",), Owner("client", "new_client")),
        (("DDDDDDDDnewzone", "--zone"), Owner("zone", "DDDDDDDDnewzone")),
    ):
        done = stack.run("keys", "generate", *arguments)
        assert done.returncode == 0, done.stderr
        sealed = stack.storage.get(f".acrakeys/{owner.key_name}")
        assert len(unwrap(sealed, stack.master_key, owner)) == 32
        again = stack.run("keys", "generate", *arguments)
        assert again.returncode == 1
        assert "nothing was changed" in again.stderr
        assert stack.storage.get(f".acrakeys/{owner.key_name}") == sealed


def test_keys_are_generated_in_vault(stack: Stack, openbao_server: OpenBao) -> None:
    """With keys in Vault, that is where ``keys generate`` puts them."""
    vault = {"VAULT_ADDR": openbao_server.url, "VAULT_TOKEN": openbao_server.root_token}
    settings = {**vault, "TOKEN_WORKER_KEYS_SOURCE": "vault", "TOKEN_WORKER_MASTER_KEY_SOURCE": "env"}
    settings["TOKEN_WORKER_KEYS_FOLDER"] = "generated-here"
    assert stack.run("keys", "generate", "vault_client", **settings).returncode == 0
    assert stack.run("keys", "generate", "vault_client", **settings).returncode == 1
    assert not stack.storage.exists("generated-here/vault_client_storage_sym")


def test_schemas_are_written(stack: Stack, tmp_path: Path) -> None:
    """``schemas`` writes the documents of the contract and names them."""
    done = stack.run("schemas", str(tmp_path / "new"))
    assert done.returncode == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {Path(line).name for line in done.stdout.split()}


def test_schemas_that_cannot_be_written_are_wrong_usage(stack: Stack, tmp_path: Path) -> None:
    """A folder that cannot be made is said in a line, not in a traceback."""
    (tmp_path / "file").touch()
    done = stack.run("schemas", str(tmp_path / "file" / "folder"))
    assert done.returncode == 2
    assert "FOLDER" in done.stderr
    assert "xception" not in done.stderr


def commands(group: click.Group, names: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found += commands(command, (*names, name)) if isinstance(command, click.Group) else [(*names, name)]
    return found


@pytest.mark.parametrize("names", commands(app), ids=" ".join)
def test_help_shows_an_example(names: tuple[str, ...]) -> None:
    """The help of every command ends with an example that calls it, in one line: it can be pasted."""
    done = CliRunner(env={"COLUMNS": "80"}).invoke(app, [*names, "--help"])
    assert done.exit_code == 0
    last = done.output.strip().splitlines()[-1].strip()
    assert last.startswith("Example: ")
    assert f"token-worker {' '.join(names)}" in last


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is published, built from a copy: building leaves files behind."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(PACKAGE, source / "worker" / "token_worker", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--wheel-dir", str(target), str(source)], check=True, timeout=200)
    [built] = target.iterdir()
    return built


def test_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    """Every file of the package in the tree is in the wheel, and no other: modules, scripts, the marker of types."""
    with zipfile.ZipFile(wheel) as archive:
        published = {name for name in archive.namelist() if name.startswith("token_worker/")}
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    tree = {str(path.relative_to(PACKAGE.parent)) for path in files}
    assert len([name for name in tree if name.endswith(".lua")]) >= 2
    assert published == tree
    assert wheel.name.startswith(f"token_worker-{token_worker.__version__}-")


def test_installed_wheel_works_on_its_own(wheel: Path, stack: Stack, tmp_path: Path) -> None:
    """Installed without the project's tree, ``token-worker`` serves a request, asks for one, and writes policies."""
    home = tmp_path / "environment"
    venv.create(home, symlinks=True)
    python, command = home / "bin" / "python", str(home / "bin" / "token-worker")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True, timeout=100)
    [packages] = home.glob("lib/python*/site-packages")
    # Dependencies come from here; a path in a .pth file comes last, and .pth files found there count for nothing.
    (packages / "dependencies.pth").write_text(
        "\n".join(folder for folder in sys.path if folder.endswith("site-packages"))
    )
    found = [str(python), "-c", "import token_worker; print(token_worker.__file__)"]
    where = subprocess.run(found, capture_output=True, text=True, check=True, cwd="/").stdout
    assert Path(where.strip()).is_relative_to(home)
    write = [command, "deploy-files", str(tmp_path)]
    subprocess.run(write, check=True, capture_output=True, timeout=60, cwd="/")
    assert "path" in (tmp_path / "vault" / "master-key-only.hcl").read_text()
    worker = subprocess.Popen([command, "run"], env=stack.environment(), cwd="/", stderr=subprocess.DEVNULL)
    try:
        done = subprocess.run(
            [command, "request", "tokenize", "--type", "email", "--client", CLIENT],
            env=stack.environment(),
            input="grace@navy.example",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd="/",
        )
        assert done.returncode == 0, done.stderr
        assert msgspec.json.decode(done.stdout)["status"] == "ok"
        worker.terminate()
        assert worker.wait(90) == 0
    finally:
        worker.kill()
        worker.wait()


def test_streams_and_storage_may_be_told_apart(streams_server: Valkey, storage_server: Valkey) -> None:
    """A worker keeps streams, and keys and tokens, where its settings say."""
    with Stack(streams_server, storage_server) as stack:
        stack.generate_key(CLIENT)
        stack.start_worker()
        stack.ask([{"id": "1", "op": "tokenize", "client_id": CLIENT, "type": "str", "value": "somewhere"}])
        assert not stack.streams.keys("tokens/*")
        assert len(stack.storage.keys("tokens/*")) == 2
        assert not stack.storage.keys("tokenize:*")
