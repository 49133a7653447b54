"""While the key storage or Vault is away, clients with cached keys are served for a time, and others wait.

Workers are processes as in production, except for the clock of their key cache: a file says how far it is ahead.
"""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from harness.key_places import InRedis, InVault, Place
from harness.ledger import Kind, count_kinds
from harness.producer import sent_requests
from harness.proxy import Command, Moment, Proxy, Relay, Verdict
from harness.servers import OpenBao, Valkey
from harness.stack import GROUP, Stack, wait_until
from token_worker.acra.owner import Owner
from token_worker.keys.cache import AGE_SECONDS, GRACE_SECONDS
from token_worker.keys.store import new_key, wrap

KNOWN, OTHER = "shop-frontend", "another-client"
BACKLOG = 2000
AHEAD_FILE = "CLOCK_AHEAD_FILE"

AHEAD = f"""
import os, sys, time
from pathlib import Path
from token_worker.cli import main
from token_worker.keys.cache import KeyCache
file = Path(os.environ["{AHEAD_FILE}"])
KeyCache.__init__.__kwdefaults__["clock"] = lambda: time.monotonic() + float(file.read_text())
sys.argv[0] = "token-worker"
main()
"""


HELD_SECONDS = 4.0
"""Delay of a search of the history: less than its connection waits for an answer."""

KEPT = "OWNERS_MAX"

SMALL = f"""
import os, sys
from token_worker.cli import main
from token_worker.keys.cache import KeyCache
KeyCache.__init__.__kwdefaults__["size"] = int(os.environ["{KEPT}"])
sys.argv[0] = "token-worker"
main()
"""


class Setting(NamedTuple):
    """A stack whose workers reach their keys only through a proxy."""

    stack: Stack
    keys: Proxy


@pytest.fixture(params=["redis", "vault"])
def setting(
    request: pytest.FixtureRequest, streams_server: Valkey, storage_server: Valkey, openbao_server: OpenBao
) -> Iterator[Setting]:
    """Keys of two clients, in Redis or in Vault. A second isolated try that counts makes an entry a dead letter."""
    with Stack(streams_server, storage_server, settings={"TOKEN_WORKER_MAX_DELIVERIES": "1"}) as stack:
        stack.settings["TOKEN_WORKER_TOKENS_URL"] = storage_server.url
        place: Place
        proxy: Proxy
        if request.param == "redis":
            place, proxy = InRedis(stack), Proxy(storage_server.port)
            stack.settings["TOKEN_WORKER_KEYS_URL"] = proxy.url
        else:
            place, proxy = InVault(openbao_server), Relay(openbao_server.port)
            stack.settings |= {**place.settings, "VAULT_ADDR": f"http://127.0.0.1:{proxy.port}"}
        for client in (KNOWN, OTHER):
            owner = Owner("client", client)
            place.put(f"{place.folder}/{owner.key_name}", wrap(new_key(), stack.master_key, owner))
        with proxy:
            yield Setting(stack, proxy)
            for worker in stack.workers:
                worker.kill()


def pending(stack: Stack) -> int:
    return int(stack.streams.xpending("tokenize:requests", GROUP)["pending"])


def test_keys_at_hand_serve_past_their_age_and_no_longer(setting: Setting, tmp_path: Path) -> None:
    """With the keys away, a client whose key is at hand is served past its age, until its grace is over; then all wait.

    When the keys are back, every request is answered once, and none was given up.
    """
    stack, keys = setting
    ahead, log = tmp_path / "ahead", tmp_path / "log"

    def put_clock(seconds: float) -> None:
        new = tmp_path / "new"
        new.write_text(str(seconds))
        new.rename(ahead)

    # Given a worker that has one client's key at hand
    put_clock(0)
    stack.start_worker(log=log, program=("-c", AHEAD), **{AHEAD_FILE: str(ahead)})
    assert sent_requests(stack, 10, KNOWN, 0).settle() == []
    # When the keys go away, and that key's age is over
    keys.go_away()
    put_clock(AGE_SECONDS + 1)
    other = sent_requests(stack, 50, OTHER, 0)
    known = sent_requests(stack, BACKLOG, KNOWN, 1000)
    # Then its client is served, the other one's requests wait,
    wait_until(lambda: stack.streams.xlen("tokenize:responses") == 10 + BACKLOG, "the known client's replies")
    assert known.compare() == []
    assert count_kinds(other.compare()) == {Kind.LOST: 50}
    assert "cached keys are used" in log.read_text()
    # the same to the end of its grace;
    put_clock(AGE_SECONDS + GRACE_SECONDS - 60)
    known = sent_requests(stack, BACKLOG, KNOWN, 10_000)
    wait_until(lambda: stack.streams.xlen("tokenize:responses") == 10 + 2 * BACKLOG, "the known client's replies")
    assert known.compare() == []
    # and after that nobody is served, however often they are tried,
    put_clock(AGE_SECONDS + GRACE_SECONDS + 60)
    late = sent_requests(stack, 50, KNOWN, 20_000)
    wait_until(lambda: pending(stack) == 100, "all to be read")
    tries = stack.calls("xclaim")  # one of all entries, then one of each to take that back
    wait_until(lambda: stack.calls("xclaim") > tries + 600, "six tries of each", 60)
    assert stack.streams.xlen("tokenize:responses") == 10 + 2 * BACKLOG
    # until the keys are back.
    keys.come_back()
    assert late.settle() == []
    assert other.compare() == []
    assert stack.streams.xlen("tokenize:requests:dead") == 0


def test_names_of_nobody_push_out_no_key(setting: Setting, tmp_path: Path) -> None:
    """More clients are named that do not exist than keys are kept: one that does is still served in an outage."""
    stack, keys = setting
    log = tmp_path / "log"
    count = 300 if "VAULT_ADDR" in stack.settings else 12_000  # in Vault each name is a request
    stack.start_worker(log=log, program=("-c", SMALL), **{KEPT: str(count - 100)})
    assert sent_requests(stack, 10, KNOWN, 0).settle() == []
    names = [{"id": str(number), "op": "tokenize", "client_id": f"nobody-{number}"} for number in range(count)]
    replies = stack.ask([{**name, "type": "str", "value": "some value"} for name in names])
    assert {reply["error"]["code"] for reply in replies.values()} == {"unknown_client"}
    keys.go_away()
    other = sent_requests(stack, 5, OTHER, 0)
    wait_until(lambda: "cached keys are used" in log.read_text(), "the outage to be met")
    known = sent_requests(stack, 100, KNOWN, 1000)
    wait_until(lambda: stack.streams.xlen("tokenize:responses") == 10 + count + 100, "the known client's replies")
    assert known.compare() == []
    assert count_kinds(other.compare()) == {Kind.LOST: 5}
    keys.come_back()
    assert other.settle() == []


def test_loop_does_not_wait_for_the_history(streams_server: Valkey, storage_server: Valkey, tmp_path: Path) -> None:
    """During a scan of the key storage, requests that do not need it are answered."""
    held, begun, scans = threading.Event(), threading.Event(), list[bool]()

    def hold_scans(moment: Moment, command: Command) -> Verdict:
        if command.name == "SCAN" and b".acrakeys/*.old/*" in command.parts and moment is Moment.BEFORE:
            begun.set()
            scans.append(held.wait(HELD_SECONDS))
        return Verdict.PASS

    with Stack(streams_server, storage_server) as stack, Proxy(storage_server.port, hold_scans) as keys:
        for client in (KNOWN, OTHER):
            stack.generate_key(client)
        stack.start_worker()
        old = sent_requests(stack, 5, OTHER, 0)
        assert old.settle() == []
        rotated = stack.run("keys", "rotate", OTHER, "--yes")
        assert rotated.returncode == 0, rotated.stderr
        for worker in stack.workers:
            worker.kill()
        stack.workers.clear()

        # Given a worker that needs an older key
        stack.settings["TOKEN_WORKER_TOKENS_URL"] = storage_server.url
        stack.settings["TOKEN_WORKER_KEYS_URL"] = keys.url
        stack.start_worker(log=tmp_path / "log")
        assert sent_requests(stack, 10, KNOWN, 0).settle() == []
        waiting = sent_requests(stack, 5, OTHER, 0)
        assert begun.wait(60)
        # Then others are served while that lasts,
        known = sent_requests(stack, 100, KNOWN, 1000)
        wait_until(lambda: stack.streams.xlen("tokenize:responses") == 115, "the known client's replies")
        assert known.compare() == []
        assert count_kinds(waiting.compare()) == {Kind.LOST: 5}
        assert not scans
        # and what waited for it when it is over.
        held.set()
        assert waiting.settle() == []
        assert scans[0] is True
        for worker in stack.workers:
            worker.kill()
