"""Rotation on real servers while an Acra knows only the old key: the keys that workers seal with."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from harness import quick
from harness.key_places import InRedis, InVault, Place, keys_command
from harness.servers import OpenBao
from harness.stack import PROGRAM, Stack
from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import decode_entry
from token_worker.errors import CorruptData
from token_worker.keys.keyring import DataKeyCache, Keyring
from token_worker.keys.store import unwrap

OWNER = Owner("client", "shop-frontend")
NAME = OWNER.key_name
SETTLING = {"TOKEN_WORKER_KEY_SETTLING_SECONDS": "3600"}
AT_ONCE = {"TOKEN_WORKER_KEY_SETTLING_SECONDS": "0"}


@pytest.fixture(params=["redis", "vault"])
def place(request: pytest.FixtureRequest, stack: Stack, openbao_server: OpenBao) -> Place:
    """The key storage, with the key of the stack's client; the stack uses it."""
    found: Place = InRedis(stack)
    if request.param == "vault":
        text = stack.storage.getdel(f".acrakeys/{NAME}")
        found = InVault(openbao_server)
        found.put(f"{found.folder}/{NAME}", text)
    stack.settings |= found.settings
    return found


def key_of(stack: Stack, place: Place) -> bytes:
    text = place.get(f"{place.folder}/{NAME}")
    assert text is not None
    return unwrap(text, stack.master_key, OWNER)


def opened_by(stack: Stack, key: bytes) -> Callable[[bytes], bool]:
    """The entries that an Acra with only this key can read."""
    ring = Keyring(OWNER, key, DataKeyCache())

    def opens(entry: bytes) -> bool:
        try:
            return bool(ring.open(decode_entry(stack.storage.get(entry)).block))
        except CorruptData:
            return False

    return opens


def ask(stack: Stack, values: list[str], op: str = "tokenize") -> list[str]:
    requests: list[dict[str, Any]] = [
        {"id": value, "op": op, "client_id": OWNER.id, "type": "str", "value": value} for value in values
    ]
    replies = stack.ask(requests, op)
    return [replies[value]["value"] for value in values]


def serve(stack: Stack, settings: dict[str, str]) -> None:
    """One worker, in place of the one before."""
    for worker in stack.workers:
        worker.kill()
    stack.workers.clear()
    stack.settings |= settings
    stack.start_worker()


def test_workers_seal_with_the_old_key_until_it_has_settled(place: Place, stack: Stack) -> None:
    """Workers that start after a rotation seal with the key before it, and open entries of both keys."""
    values = [f"value {number}" for number in range(150)]
    serve(stack, SETTLING)
    tokens = ask(stack, values[:50])
    old = key_of(stack, place)
    done = keys_command(stack, place, "rotate", OWNER.id, "--yes", **SETTLING)
    assert done.returncode == 0, done.stderr
    assert "workers seal with the new key from 2" in done.stdout
    assert "restart before that every AcraServer and AcraTranslator" in done.stdout

    serve(stack, SETTLING)
    tokens += ask(stack, values[50:100])

    entries = stack.storage.keys("tokens/*")
    assert len(entries) == 200
    assert all(map(opened_by(stack, old), entries))

    serve(stack, AT_ONCE)
    tokens += ask(stack, values[100:])
    later = set(stack.storage.keys("tokens/*")) - set(entries)
    assert len(later) == 100
    assert all(map(opened_by(stack, key_of(stack, place)), later))
    assert not any(map(opened_by(stack, old), later))

    serve(stack, SETTLING)
    assert ask(stack, values) == tokens
    assert ask(stack, tokens, "detokenize") == values


def test_nothing_is_sealed_anew_before_workers_do_so(place: Place, stack: Stack) -> None:
    """``tokens reencrypt`` waits for the settling time; a dry run does not need to."""
    serve(stack, SETTLING)
    ask(stack, ["value"])
    assert keys_command(stack, place, "rotate", OWNER.id, "--yes").returncode == 0
    before = {entry: stack.storage.get(entry) for entry in stack.storage.keys("tokens/*")}
    done = stack.run("tokens", "reencrypt", OWNER.id, "--yes", **SETTLING)
    assert done.returncode == 1
    assert "seal with the old key for 3" in done.stderr
    assert "would be sealed" in stack.run("tokens", "reencrypt", OWNER.id, "--dry-run", **SETTLING).stdout
    assert {entry: stack.storage.get(entry) for entry in stack.storage.keys("tokens/*")} == before
    done = stack.run("tokens", "reencrypt", OWNER.id, "--yes", **AT_ONCE)
    assert done.returncode == 0, done.stderr
    assert "restart every AcraServer and AcraTranslator" in done.stdout
    assert all(map(opened_by(stack, key_of(stack, place)), before))


@pytest.mark.parametrize("arguments", [("keys", "rotate", OWNER.id), ("tokens", "reencrypt", OWNER.id)])
def test_what_breaks_an_acra_that_runs_on_is_asked_for(stack: Stack, arguments: tuple[str, ...]) -> None:
    """Without --yes and without a terminal, nothing is changed. The question names the servers to restart."""
    before = {key: stack.storage.get(key) for key in stack.storage.keys("*")}
    done = stack.run(*arguments)
    assert done.returncode == 2
    assert "AcraServer and AcraTranslator" in " ".join(done.stderr.split())
    assert "--keystore_cache_size=-1" in done.stderr
    assert "--yes" in done.stderr
    assert {key: stack.storage.get(key) for key in stack.storage.keys("*")} == before


def test_question_is_answered_on_a_terminal(stack: Stack) -> None:
    """On a terminal `n` changes nothing, and `y` rotates."""
    before = stack.storage.get(f".acrakeys/{NAME}")
    for answer, status in (("n", 1), ("y", 0)):
        ours, theirs = os.openpty()
        with quick.Popen(
            [sys.executable, *PROGRAM, "keys", "rotate", OWNER.id],
            env=stack.environment(),
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            os.write(ours, f"{answer}\n".encode())
            assert process.wait(60) == status
        os.close(ours)
        os.close(theirs)
        assert (stack.storage.get(f".acrakeys/{NAME}") == before) is (answer == "n")


LARGE = 4_000_000 if os.environ.get("LONG_TESTS") else 300_000

SMALL_STEPS = """
import sys
from token_worker.redis import scan
from token_worker.cli import main, terminal
terminal.FIRST_WORD_SECONDS = 0.0  # however quick the server is
scan.scan.__defaults__ = (15,)  # names looked at in one step: a storage so much larger
sys.argv[0] = "token-worker"
main()
"""


def test_commands_finish_their_look_at_a_large_storage(stack: Stack) -> None:
    """After a rotation, commands look through a storage however large, once, and say how far they are."""
    stack.start_worker()
    [token] = ask(stack, ["some value"])
    for worker in stack.workers:
        worker.kill()
    stack.workers.clear()
    assert stack.run("keys", "rotate", OWNER.id, "--yes").returncode == 0
    filler = "for number = ARGV[1] + 0, ARGV[2] + 0 do redis.call('SET', 'other/' .. number, '') end"
    for start in range(0, LARGE, 10_000):
        stack.storage.eval(filler, 0, start, start + 9999)
    start_with = [sys.executable, "-c", SMALL_STEPS] if LARGE <= 300_000 else [sys.executable, *PROGRAM]
    has_warned = False
    for command, value in (
        (("status", OWNER.id, "--json"), ""),
        (("show", OWNER.id, "--type", "str", "--token"), token),
        (("verify", OWNER.id), ""),
        (("reencrypt", OWNER.id, "--dry-run"), ""),
        (("disable", OWNER.id, "--type", "str", "--token"), token),
        (("remove", OWNER.id, "--yes"), ""),
    ):
        done = quick.run(
            [*start_with, "tokens", *command],
            env=stack.environment(),
            input=value,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, (command, done.stderr)
        has_warned |= "names scanned" in done.stderr
        if command[0] == "status":
            assert json.loads(done.stdout)["types"][0]["enabled"] == 1
    assert has_warned
    assert stack.storage.keys("tokens/*") == []
