"""The hard facts of docs/security.md: what somebody who has one part of the system, and no more, really gets.

Each test is an attacker. If one fails, the page is wrong, in one direction or the other.
"""

import hashlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.servers import Valkey
from harness.stack import Stack, wait_until

CLIENT, OTHER = "shop-frontend", "clinic-records"
CARD = "4000001234567899"
"""A made-up card number that passes the Luhn check; issuers give none that begins so."""

KNOWN = slice(0, 8)
"""The digits that anybody may know: the number of the issuer."""

LONG = bool(os.environ.get("LONG_TESTS"))
GUESSED_DIGITS = 8 if LONG else 4
"""Digits that the attacker tries in a test. The rate for these tells the time for all of them."""


_ids = itertools.count()


def request(op: str, value: str, client: str) -> dict[str, Any]:
    return {"id": f"r{next(_ids)}", "op": op, "client_id": client, "type": "str", "value": value}


def ask(stack: Stack, op: str, value: str, client: str = CLIENT) -> dict[str, Any]:
    """The reply to one request."""
    [reply] = stack.ask([request(op, value, client)], op).values()
    return reply


@pytest.fixture(scope="module")
def served() -> Iterator[Stack]:
    """Servers of this module's own, and a worker with the keys of two clients."""
    with Valkey() as streams, Valkey() as storage, Stack(streams, storage) as stack:
        for client in (CLIENT, OTHER):
            stack.generate_key(client)
        stack.start_worker()
        yield stack


def tokens_of(stack: Stack, values: list[str], client: str = CLIENT) -> list[str]:
    """Tokens of values."""
    return [ask(stack, "tokenize", value, client)["value"] for value in values]


# What a copy of the token storage gives


def luhn(digits: str) -> bool:
    """Tell whether a number passes the check that all card numbers pass."""
    doubled = [int(digit) * (2 - (at + len(digits)) % 2) for at, digit in enumerate(digits, 1)]
    return sum(number - 9 * (number > 9) for number in doubled) % 10 == 0


def guess(dump: set[bytes], client: str, begins: str, ends: str, digits: int) -> tuple[str | None, int]:
    """Find the number of a card in a dump of names, without any key: only SHA-256, as the layout is published."""
    owner = f"client{client}".encode()
    prefix = b"tokens/" + hashlib.sha256(owner).hexdigest().encode() + b"/" + b"h.".hex().encode()
    tail = owner + b"tokenizator hash delimiter" + b"3"
    tried = 0
    for number in range(10**digits):
        candidate = f"{begins}{number:0{digits}}{ends}"
        tried += 1
        name = prefix + hashlib.sha256(b"tokenizator hash delimiter" + candidate.encode() + tail).hexdigest().encode()
        if name in dump:
            return candidate, tried
    return None, tried


def test_known_card_is_found_in_a_copy_of_the_token_storage(served: Stack, say: Callable[[str], None]) -> None:
    """A card of which eight digits are known is found in the names of a copy, without a key, in seconds."""
    assert luhn(CARD)
    [token] = tokens_of(served, [CARD])
    assert token != CARD
    dump = set(served.storage.keys("tokens/*"))
    ends = CARD[8 + GUESSED_DIGITS :]
    began = time.process_time()
    found, tried = guess(dump, CLIENT, CARD[KNOWN], ends, GUESSED_DIGITS)
    rate = tried / (time.process_time() - began)
    assert found == CARD
    say(
        f"{rate:,.0f} guesses a CPU-second: eight unknown digits, of which the check gives one, take {1e7 / rate:.0f} s"
    )


def test_same_search_finds_nothing_of_another_client(served: Stack) -> None:
    """The names are bound to the client's id: whoever does not know or guess that id finds nothing."""
    tokens_of(served, [CARD])
    dump = set(served.storage.keys("tokens/*"))
    assert guess(dump, OTHER, CARD[:12], "", 4)[0] is None


def test_entries_tell_no_value_and_no_token(served: Stack) -> None:
    """A copy of the token storage holds neither value nor token in the clear, nor does a copy of the key storage."""
    values = ["a value of one person", "a value of another one"]
    tokens = tokens_of(served, values)
    copy = b"\n".join(name + served.storage.dump(name) for name in served.storage.keys("*"))
    for text in (*values, *tokens):
        assert text.encode() not in copy
        assert text.encode().hex().encode() not in copy


def values_of(stack: Stack, client: str) -> list[bytes]:
    """Names of the entries that hold the values of a client's tokens."""
    prefix = "tokens/" + hashlib.sha256(f"client{client}".encode()).hexdigest() + "/" + b"t.".hex()
    return list(stack.storage.keys(f"{prefix}*"))


def test_swapped_entries_go_unnoticed(served: Stack) -> None:
    """Whoever may write to the token storage can swap the values of two tokens of one client, and no check notices."""
    client = "client-of-two"
    served.generate_key(client)
    tokens = tokens_of(served, ["value one", "value two"], client)
    one, two = values_of(served, client)
    served.storage.mset({one: served.storage.get(two), two: served.storage.get(one)})
    answers = [ask(served, "detokenize", token, client) for token in tokens]
    assert [answer["value"] for answer in answers] == ["value two", "value one"]


def test_entry_of_another_client_cannot_be_put_in_place(served: Stack) -> None:
    """An entry of one client that is copied to another client's name is unreadable, and is no silent wrong answer."""
    mine, theirs = "client-of-one", "another-client-of-one"
    for client in (mine, theirs):
        served.generate_key(client)
    [token] = tokens_of(served, ["my value"], mine)
    tokens_of(served, ["their value"], theirs)
    served.storage.copy(*values_of(served, theirs), *values_of(served, mine), replace=True)
    assert ask(served, "detokenize", token, mine)["error"]["code"] == "entry_unreadable"


# What the streams give


def test_values_stand_in_the_append_only_file_after_they_are_trimmed(storage_server: Valkey) -> None:
    """A request that was answered and trimmed is still in the append-only file, until the file is rewritten."""
    routes = [{"requests": "in", "responses": "out", "ops": ["tokenize"], "request_retention_seconds": 0}]
    settings = {"TOKEN_WORKER_ROUTES": msgspec.json.encode(routes).decode()}
    secret = b"a value that was trimmed"
    with Valkey("appendonly yes") as streams:

        def is_on_disk() -> bool:
            """Tell whether a part of the append-only file has the value; a part may go away meanwhile."""
            for path in streams.folder.glob("appendonlydir/*"):
                with suppress(FileNotFoundError):
                    if secret in path.read_bytes():
                        return True
            return False

        with Stack(streams, storage_server, settings=settings) as stack:
            stack.generate_key(CLIENT)
            stack.start_worker()
            stack.send([request("tokenize", secret.decode(), CLIENT)], "in")
            stack.wait_for_replies(1, "out")
            wait_until(lambda: stack.streams.xlen("in") == 0, "the request to be trimmed")
            wait_until(is_on_disk, "the value in the file")
            stack.streams.bgrewriteaof()
            wait_until(lambda: not is_on_disk(), "the file to be written anew")


@pytest.fixture
def restricted(streams_server: Valkey, storage_server: Valkey, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Connections as the users that ``acl`` prints, to streams with a value of each of two clients."""
    with Stack(streams_server, storage_server) as stack:
        for client in (CLIENT, OTHER):
            stack.generate_key(client)
        stack.start_worker()
        for client in (CLIENT, OTHER):
            [token] = tokens_of(stack, [f"value of {client}"], client)
            assert ask(stack, "detokenize", token, client)["status"] == "ok"
        stack.restrict(tmp_path)

        def connect(user: str) -> Any:
            password = (tmp_path / f"streams-{user}").read_text().strip()
            return streams_server.client(username=user, password=password)

        try:
            yield connect
        finally:
            for server in (stack.streams, stack.storage):
                server.acl_deluser(*(name for name in server.acl_users() if name != "default"))


def test_one_reader_of_replies_reads_what_all_clients_detokenize(restricted: Callable[[str], Any]) -> None:
    """On the default routes the user who reads the replies of one client reads the values of all of them."""
    with restricted("reader-detokenize") as reader:
        [[_, entries]] = reader.xread({"detokenize:responses": "0"})
    values = {msgspec.json.decode(fields[b"payload"])["value"] for _, fields in entries}
    assert values == {f"value of {CLIENT}", f"value of {OTHER}"}


def test_monitor_of_streams_may_read_values(restricted: Callable[[str], Any]) -> None:
    """The user of ``lag`` and of the monitor may read entries: Redis has no right to see their ids alone."""
    with restricted("token-monitor") as monitor:
        entries = monitor.xrange("tokenize:requests")
    values = {msgspec.json.decode(fields[b"payload"])["value"] for _, fields in entries}
    assert values == {f"value of {CLIENT}", f"value of {OTHER}"}


def test_writer_of_a_route_for_any_client_is_every_client(served: Stack) -> None:
    """Whoever may write to a request stream that is not pinned gets the tokens of any client, and their values."""
    [token] = tokens_of(served, ["a value"], OTHER)
    assert ask(served, "detokenize", token, OTHER)["value"] == "a value"


# What a worker's process gives


def test_audit_file_is_its_writers_alone(served: Stack, tmp_path: Path) -> None:
    """Nobody but the account of a worker may read or write its audit file, whatever the umask is."""
    file = tmp_path / "audit.log"
    before = os.umask(0)
    try:
        worker = served.start_worker(TOKEN_WORKER_AUDIT_FILE=str(file))
    finally:
        os.umask(before)
    wait_until(file.exists, "the file")
    assert file.stat().st_mode & 0o777 == 0o600
    assert worker.stop() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory by /proc")
def test_keys_are_in_the_memory_of_a_worker(served: Stack) -> None:
    """Whoever may read the memory of a worker has the master key, and the keys of clients that it serves."""
    key = served.generate_key("third-client")
    ask(served, "tokenize", "a value", "third-client")
    worker = served.workers[0]
    assert {*found(worker.pid, {"master": served.master_key, "client": key})} == {"master", "client"}


def found(pid: int, needles: dict[str, bytes]) -> Iterator[str]:
    """Yield the names of the needles that are in the memory of a process."""
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            area, rights, *_ = line.split()
            if not rights.startswith("rw") or "[v" in line:
                continue
            start, end = (int(part, 16) for part in area.split("-"))
            try:
                memory.seek(start)
                held = memory.read(end - start)
            except OSError:  # an area that cannot be read
                continue
            for name, needle in needles.items():
                if needle in held:
                    yield name
