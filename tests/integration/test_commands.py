"""The commands, as processes: what they print, and their exit status."""

import subprocess
import sys
from pathlib import Path

import click
import msgspec
import pytest
from servers import OpenBao, Valkey, free_port
from stack import Stack

from token_worker.cli import app
from token_worker.keys.owner import Owner
from token_worker.keys.store import unwrap

CLIENT = "shop-frontend"


def run(stack: Stack, *arguments: str, value: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """``token-worker`` with the stack's settings and ``value`` on standard input."""
    return subprocess.run(
        [sys.executable, "-m", "token_worker", *arguments],
        env=stack.environment(**more),
        input=value,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


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
    done = run(stack, "request", "tokenize", "--type", kind, "--client", CLIENT, value=value + "\n")
    assert done.returncode == 0, done.stderr
    token = msgspec.json.decode(done.stdout)["value"]
    back = run(stack, "request", "detokenize", "--type", kind, "--client", CLIENT, value=str(token))
    assert str(msgspec.json.decode(back.stdout)["value"]) == value
    assert not stack.streams.keys("*responses:cli-*")


def test_request_serves_zones_and_inconsistent_tokens(stack: Stack) -> None:
    """``--zone`` and ``--inconsistent`` are passed on."""
    stack.generate_key("DDDDDDDDsomezone", "zone")
    stack.start_worker()
    options = ("request", "tokenize", "--type", "str", "--client", CLIENT)
    replies = [
        run(stack, *options, *more, value="one value")
        for more in ((), ("--zone", "DDDDDDDDsomezone"), ("--inconsistent",), ("--inconsistent",))
    ]
    assert len({msgspec.json.decode(reply.stdout)["value"] for reply in replies}) == 4


def test_request_that_is_refused_is_a_finding(stack: Stack) -> None:
    """An error reply is printed, with exit status 1."""
    stack.start_worker()
    done = run(stack, "request", "detokenize", "--type", "str", "--client", CLIENT, value="no such token")
    assert done.returncode == 1
    assert msgspec.json.decode(done.stdout)["error"]["code"] == "token_not_found"


def test_request_without_worker_or_server_is_out_of_reach(stack: Stack) -> None:
    """No reply in time, and no server, are exit status 3 with a line that says so."""
    options = ("request", "tokenize", "--type", "str", "--client", CLIENT)
    silent = run(stack, *options, "--timeout", "0.2", value="x")
    assert silent.returncode == 3
    assert "is a worker running?" in silent.stderr
    away = run(stack, *options, value="x", TOKEN_WORKER_STREAMS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert away.returncode == 3
    assert "ConnectionRefusedError" in away.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("request", "tokenize", "a value", "--type", "str"),
        ("request", "tokenize"),
        ("request", "burn", "--type", "str"),
        ("keys", "generate"),
        ("keys", "generate", "a/b*c"),
        ("nothing",),
    ],
)
def test_wrong_usage(stack: Stack, arguments: tuple[str, ...]) -> None:
    """Wrong arguments, a value among them, are exit status 2 with a hint; nothing is done."""
    done = run(stack, *arguments)
    assert done.returncode == 2
    assert "Error" in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_settings_are_named(stack: Stack) -> None:
    """Settings that are wrong are exit status 2 and named, whatever the command."""
    done = run(stack, "run", TOKEN_WORKER_BATCHSIZE="5", TOKEN_WORKER_DURABILITY="fsync")
    assert done.returncode == 2
    assert "TOKEN_WORKER_BATCH_SIZE" in done.stderr
    assert "TOKEN_WORKER_DURABILITY" in done.stderr
    assert "Traceback" not in done.stderr


def test_worker_without_master_key_ends_and_says_what_to_set(stack: Stack) -> None:
    """Without a master key a worker does not wait for one: exit status 2."""
    done = run(stack, "run", ACRA_MASTER_KEY="")
    assert done.returncode == 2
    assert "ACRA_MASTER_KEY" in done.stderr


def test_keys_are_generated_once(stack: Stack) -> None:
    """``keys generate`` makes a key sealed for its owner, and never replaces one."""
    for arguments, owner in (
        (("new_client",), Owner("client", "new_client")),
        (("DDDDDDDDnewzone", "--zone"), Owner("zone", "DDDDDDDDnewzone")),
    ):
        done = run(stack, "keys", "generate", *arguments)
        assert done.returncode == 0, done.stderr
        sealed = stack.storage.get(f".acrakeys/{owner.key_name}")
        assert len(unwrap(sealed, stack.master_key, owner)) == 32
        again = run(stack, "keys", "generate", *arguments)
        assert again.returncode == 1
        assert "nothing was changed" in again.stderr
        assert stack.storage.get(f".acrakeys/{owner.key_name}") == sealed


def test_keys_are_generated_in_vault(stack: Stack, openbao_server: OpenBao) -> None:
    """With keys in Vault, that is where ``keys generate`` puts them."""
    vault = {"VAULT_ADDR": openbao_server.url, "VAULT_TOKEN": openbao_server.root_token}
    settings = {**vault, "TOKEN_WORKER_KEYS_SOURCE": "vault", "TOKEN_WORKER_MASTER_KEY_SOURCE": "env"}
    settings["TOKEN_WORKER_KEYS_FOLDER"] = "generated-here"
    assert run(stack, "keys", "generate", "vault_client", **settings).returncode == 0
    assert run(stack, "keys", "generate", "vault_client", **settings).returncode == 1
    assert not stack.storage.exists("generated-here/vault_client_storage_sym")


def test_schemas_are_written(stack: Stack, tmp_path: Path) -> None:
    """``schemas`` writes the documents of the contract and names them."""
    done = run(stack, "schemas", str(tmp_path / "new"))
    assert done.returncode == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {Path(line).name for line in done.stdout.split()}


def commands(group: click.Group, names: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        found += commands(command, (*names, name)) if isinstance(command, click.Group) else [(*names, name)]
    return found


@pytest.mark.parametrize("names", commands(app), ids=" ".join)
def test_help_shows_an_example(names: tuple[str, ...]) -> None:
    """The help of every command ends with an example that calls it."""
    command: click.Command = app
    for name in names:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    assert command.epilog is not None
    assert command.epilog.startswith("Example: ")
    assert f"token-worker {' '.join(names)}" in command.epilog


def test_package_brings_its_scripts() -> None:
    """The installed package holds its Lua files and type marker; the command has a version."""
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            "import token_worker.streams.delivery, token_worker.storage.tokens, importlib.resources as r\n"  # noqa: ISC004 - one program
            "print(r.files('token_worker').joinpath('py.typed').is_file())",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert done.stdout == "True\n", done.stderr


def test_streams_and_storage_may_be_told_apart(streams_server: Valkey, storage_server: Valkey) -> None:
    """A worker keeps streams, and keys and tokens, where its settings say."""
    with Stack(streams_server, storage_server) as stack:
        stack.generate_key(CLIENT)
        stack.start_worker()
        stack.ask([{"id": "1", "op": "tokenize", "client_id": CLIENT, "type": "str", "value": "somewhere"}])
        assert not stack.streams.keys("tokens/*")
        assert len(stack.storage.keys("tokens/*")) == 2
        assert not stack.storage.keys("tokenize:*")
