"""One run: tokens of Acra's are moved into the dense layout and back, with the command killed, under load."""

import hashlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any, Self

import msgspec

from harness import quick
from harness.servers import Valkey
from harness.stack import PROGRAM, Reply, Stack, wait_until
from token_worker.acra.acra_block import DataKey
from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import EntryNames, TokenEntry, encode_entry, encode_token_value
from token_worker.acra.value_types import STR
from token_worker.keys.layout_record import TOKENS_RECORD, LayoutName, decode_record

CLIENT = "shop-frontend"
WORKERS = 2
ITEMS = 1000
"""Tokens of a request that compares."""
AT_ONCE = 20
"""Such requests at once."""
TICK_SECONDS = 0.05
COMMAND_SECONDS = 3600
ANSWER_SECONDS = 120

Progress = Callable[[str], object]


class Moved(msgspec.Struct, kw_only=True):
    """One way.

    Attributes:
        to: the new layout.
        kills: how often the command was killed.
        copy_seconds: time of the copy, with the times that it was begun again.
        copied_a_second: tokens a second, in the run of the copy that ended.
        finish_seconds: the pause that the command printed.
        pause_seconds: from the stop of the workers to the first reply after it.
        drop_seconds: time of the drop.
        different: tokens and values that were answered otherwise than before.
    """

    to: LayoutName
    kills: int = 0
    copy_seconds: float = 0.0
    copied_a_second: float = 0.0
    finish_seconds: float = 0.0
    pause_seconds: float = 0.0
    drop_seconds: float = 0.0
    different: int = 0


class Report(msgspec.Struct, kw_only=True):
    """The outcome.

    Attributes:
        tokens: tokens that were moved.
        moves: both ways.
        requests: requests of the load.
        failed: those that got no reply, an error, or another token.
        used_bytes: memory of the storage: with Acra's entries alone, with both, with the dense ones alone.
    """

    tokens: int
    moves: list[Moved]
    requests: int
    failed: int
    used_bytes: list[int]

    @property
    def is_whole(self) -> bool:
        """True if no request failed, and no token differs."""
        return not self.failed and not any(moved.different for moved in self.moves) and self.requests > 0


def value_of(number: int) -> str:
    """The value of a token that is stored before the run; 16 characters."""
    return f"stored {number:09}"


def token_of(number: int) -> str:
    """Its token."""
    return hashlib.sha256(b"%d" % number).hexdigest()[:16]


def run(tokens: int, *, kills: int = 3, rate: float = 5000, progress: Progress = lambda _: None) -> Report:
    """Move tokens both ways.

    Args:
        tokens: how many.
        kills: how often the command is killed on each way, the last time in the finish.
        rate: of the copies, in tokens a second.
        progress: is told how far the run has come.
    """
    with Valkey() as streams, Valkey() as storage, Stack(streams, storage) as stack:
        key = stack.generate_key(CLIENT)
        progress("stores tokens")
        _store(stack, key, tokens)
        used = [_used(stack)]
        _command(stack, "keys", "index", "--all")
        stack.workers = [stack.start_worker() for _ in range(WORKERS)]
        with _Load(stack, tokens) as load:
            ways: list[tuple[LayoutName, LayoutName]] = [("dense", "acra"), ("acra", "dense")]
            moves = [_move(stack, to, old, tokens, kills, rate, used, progress) for to, old in ways]
        return Report(tokens=tokens, moves=moves, requests=load.sent, failed=load.failed, used_bytes=used)


def _move(
    stack: Stack,
    to: LayoutName,
    old: LayoutName,
    tokens: int,
    kills: int,
    rate: float,
    used: list[int],
    progress: Progress,
) -> Moved:
    moved = Moved(to=to)
    begin, at_first = time.monotonic(), stack.storage.dbsize()
    options = ["--to", to, "--rate", f"{rate}"]
    for number in range(1, kills):
        progress(f"--to {to}, killed after part {number} of {kills}")
        size = at_first + 2 * tokens * number // kills
        moved.kills += _killed(stack, lambda size=size: stack.storage.dbsize() >= size, *options)  # type: ignore[misc]
        options += ["--resume"] if number == 1 else []
    progress(f"--to {to}")
    shown = _migrate(stack, *options)
    moved.copy_seconds = round(time.monotonic() - begin, 1)
    moved.copied_a_second = round(shown["tokens"] / shown["seconds"])
    used.append(_used(stack))
    progress(f"--to {to} --finish")
    begin = time.monotonic()
    for worker in stack.workers:
        worker.stop()
    if kills:
        moved.kills += _killed(stack, lambda: _is_recorded(stack, to), "--to", to, "--finish", "--yes")
    moved.finish_seconds = _migrate(stack, "--to", to, "--finish", "--yes")["pause_seconds"]
    stack.workers = [stack.start_worker() for _ in range(WORKERS)]
    stack.ask([_request(f"first after {to}", "tokenize", 0, 1)])
    moved.pause_seconds = round(time.monotonic() - begin, 1)
    progress(f"compares {tokens} tokens")
    moved.different += _compare(stack, tokens, to)
    progress(f"--drop {old}")
    begin = time.monotonic()
    _migrate(stack, "--drop", old, "--yes", "--rate", "1e9")
    moved.drop_seconds = round(time.monotonic() - begin, 1)
    used.append(_used(stack))
    progress(f"compares {tokens} tokens")
    moved.different += _compare(stack, tokens, f"{to} alone")
    return moved


def is_lone(number: int) -> bool:
    """Tell whether the token was drawn inconsistently, so that it has a token entry alone."""
    return number % 10 == 9


def _store(stack: Stack, key: bytes, tokens: int) -> None:
    """Store tokens as Acra does, but with one data key."""
    owner = Owner("client", CLIENT)
    names, seal, now = EntryNames(owner), DataKey.generate(key, owner.context).seal, int(time.time())
    entries: dict[bytes, bytes] = {}
    for number in range(tokens):
        value, token = value_of(number).encode(), token_of(number).encode()
        if not is_lone(number):
            entries[names.of_value(value, STR.number)] = encode_entry(TokenEntry(seal(token), now, now))
        inside = encode_token_value(value, STR.number)
        entries[names.of_token(token, STR.number)] = encode_entry(TokenEntry(seal(inside), now, now))
        if len(entries) >= 2000 or number == tokens - 1:
            stack.storage.mset(entries)
            entries = {}


def _used(stack: Stack) -> int:
    return int(stack.storage.info("memory")["used_memory"])


def _command(stack: Stack, *arguments: str) -> str:
    command = [sys.executable, *PROGRAM, *arguments]
    done = quick.run(
        command, env=stack.environment(), capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: exit status {done.returncode}: {done.stderr}")
    return str(done.stdout)


def _migrate(stack: Stack, *arguments: str) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.json.decode(_command(stack, "tokens", "migrate", *arguments, "--json"))
    return shown


def _killed(stack: Stack, condition: Callable[[], object], *arguments: str) -> bool:
    """Kill the command when a condition holds. Returns False if it ended before."""
    command = [sys.executable, *PROGRAM, "tokens", "migrate", *arguments]
    with quick.Popen(
        command, env=stack.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: condition() or process.poll() is not None, "a part of the move", COMMAND_SECONDS)
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
    if process.returncode > 0:
        raise RuntimeError(f"{' '.join(arguments)}: exit status {process.returncode}: {errors}")
    return process.returncode < 0


def _is_recorded(stack: Stack, to: LayoutName) -> bool:
    """Tell whether the token storage has the new record: then the second scan has begun, and no worker may start."""
    text = stack.storage.get(TOKENS_RECORD)
    return text is not None and decode_record(text, "token storage").layout == to


def _asked(op: str, start: int, number: int) -> list[int]:
    """The numbers of the tokens that a request is about. A value has no lone token: the one before is asked for."""
    numbers = range(start, start + number)
    return [each - 1 if op == "tokenize" and is_lone(each) else each for each in numbers]


def _request(name: str, op: str, start: int, number: int) -> Reply:
    """A request about tokens that are stored before the run."""
    of = value_of if op == "tokenize" else token_of
    items = [{"type": "str", "value": of(each)} for each in _asked(op, start, number)]
    return {"id": name, "op": op, "client_id": CLIENT, "items": items}


def _different(reply: Reply, op: str, start: int, number: int) -> int:
    """Count the items of a reply that are not what they have to be."""
    if reply["status"] != "ok":
        return number
    of = token_of if op == "tokenize" else value_of
    asked = _asked(op, start, number)
    return sum(item.get("value") != of(each) for item, each in zip(reply["items"], asked, strict=True))


def _compare(stack: Stack, tokens: int, name: str) -> int:
    """Ask workers for every token and every value. Returns how many answers differ."""
    parts = [(start, min(ITEMS, tokens - start)) for start in range(0, tokens, ITEMS)]
    different = 0
    for op in ("tokenize", "detokenize"):
        for begin in range(0, len(parts), AT_ONCE):
            asked = {f"{name} {op} {start}": (start, number) for start, number in parts[begin : begin + AT_ONCE]}
            replies = stack.ask([_request(each, op, *part) for each, part in asked.items()], op)
            different += sum(_different(replies[each], op, *part) for each, part in asked.items())
    return different


class _Load:
    """Sends requests all the time, also while no worker runs: known values, their tokens, and new values.

    Some new tokens are inconsistent. They are detokenized later.

    Attributes:
        sent: requests so far.
        failed: at the end: requests without a reply, with an error, or with another token than they should have.
    """

    def __init__(self, stack: Stack, tokens: int) -> None:
        self._stack = stack
        self._tokens = tokens
        self._expected: dict[str, tuple[str, int]] = {}
        self._given: dict[str, str] = {}
        self._lone: list[tuple[int, str]] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._lasts = dict.fromkeys(("tokenize", "detokenize"), "0-0")
        self._error: Exception | None = None
        self.sent = self.failed = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        with suppress(TimeoutError):
            wait_until(self._take, "the last replies", ANSWER_SECONDS)
        self.failed += len(self._expected)

    def _run(self) -> None:
        try:
            for number in count():
                self._send(number)
                self._take()
                if self._is_over.wait(TICK_SECONDS):
                    return
        except Exception as error:  # noqa: BLE001 - raised at the end
            self._error = error

    def _send(self, number: int) -> None:
        start = number * 7919 % self._tokens
        for op in ("tokenize", "detokenize"):
            name = f"load {op} {number}"
            self._expected[name] = op, start
            self._stack.send([_request(name, op, start, 1)], f"{op}:requests")
        name = f"load new {number}"
        self._expected[name] = "new", number // 2  # each value twice
        value = {"type": "str", "value": f"new {number // 2}"}
        self._stack.send([{"id": name, "op": "tokenize", "client_id": CLIENT, "items": [value]}])
        name = f"load lone {number}"
        self._expected[name] = "lone", number
        lone = {"type": "str", "value": f"lone {number}"}
        self._stack.send([{"id": name, "op": "tokenize", "client_id": CLIENT, "consistent": False, "items": [lone]}])
        self.sent += 4
        if self._lone:
            drawn, token = self._lone[number * 7919 % len(self._lone)]
            name = f"load back {number}"
            self._expected[name] = "back", drawn
            back = {"type": "str", "value": token}
            self._stack.send(
                [{"id": name, "op": "detokenize", "client_id": CLIENT, "items": [back]}], "detokenize:requests"
            )
            self.sent += 1

    def _take(self) -> bool:
        """Take new replies. Returns True if none is missing."""
        for op, last in self._lasts.items():
            for entry, fields in self._stack.streams.xrange(f"{op}:responses", min=f"({last}", count=2000):
                self._lasts[op] = entry.decode()
                reply = msgspec.json.decode(fields[b"payload"])
                asked = self._expected.pop(reply["id"], None)
                if asked is not None:
                    self.failed += not self._is_right(reply, *asked)
        return not self._expected

    def _is_right(self, reply: Reply, op: str, start: int) -> bool:
        if op in ("tokenize", "detokenize"):
            return not _different(reply, op, start, 1)
        if reply["status"] != "ok" or "value" not in reply["items"][0]:
            return False
        token = reply["items"][0]["value"]
        if op == "back":
            return bool(token == f"lone {start}")
        if op == "lone":
            self._lone.append((start, token))
            return True
        return bool(self._given.setdefault(f"new {start}", token) == token)
