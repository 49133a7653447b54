"""The model that the simulation runs against answers like real servers: same commands, same replies, same keys."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from harness.servers import Valkey, redis_binary, valkey_binary
from simulation.commands import Stream, format_id
from simulation.model import Model
from token_worker.errors import ServerError, Unavailable
from token_worker.redis.address import RedisSettings
from token_worker.redis.link import RedisLink
from token_worker.redis.script import Script
from token_worker.streams.commit import COMMIT, DEAD_LETTER
from token_worker.streams.delivery import GROUP as GROUP_SCRIPT
from token_worker.streams.retention import SWEEP, TRIM, TURN
from token_worker.streams.uncounted import UNCOUNT

UNIT_MS = 10_000_000
"""Idle times are set to multiples of it, which no test takes; limits lie half-way between."""

TTL_SECONDS = 10_000
GROUP = "workers"
READERS = "readers"
REQUESTS = ("in", "in2")
REPLIES = ("out", "dead", "out:a")
NO_STREAM = "text"
MARK = "in:low-water"
NOTES = "in:arrivals"
BASE = 10**13
"""Ids lie ahead of every clock, so that a trim goes by the notes that the test makes."""

streams = st.sampled_from([*REQUESTS, *REQUESTS, *REQUESTS, NO_STREAM])
consumers = st.sampled_from(["one", "two", "three"])
ids = st.builds("{}-{}".format, st.integers(BASE + 1, BASE + 12), st.sampled_from([0, 0, 1]))
units = st.integers(0, 3)
first_ids = ids | ids.map("({}".format)
every_stream = st.sampled_from([*REPLIES, *REQUESTS])
starts = st.sampled_from(["0", "$", f"{BASE + 3}-1"])
kept = st.sampled_from([0, UNIT_MS, BASE])
spacing = st.sampled_from(["", UNIT_MS])
limits = st.sampled_from([0, UNIT_MS // 2, UNIT_MS * 3 // 2])
payloads = st.sampled_from([b"a reply", b"", b"\xff" * 100])
traces = st.sampled_from([("", ""), ("parent", ""), ("parent", "state")])


class ModelAndServer(RuleBasedStateMachine):
    """Does everything on both; ``link`` leads to a server that belongs to this test."""

    def __init__(self, link: RedisLink) -> None:
        super().__init__()
        self.link = link
        link.call("CONFIG", "SET", "maxmemory", "0")
        link.call("FLUSHALL")
        seconds, micros = link.call("TIME")
        self.model = Model()
        self.model.now_ms = int(seconds) * 1000 + int(micros) // 1000
        for key in REQUESTS:
            self.both("XGROUP", "CREATE", key, GROUP, "0", "MKSTREAM")
            for entry in ("1-0", "2-0", "2-1", "3-0"):
                self.both("XADD", key, f"{BASE + int(entry[0])}{entry[1:]}", "payload", "x", "traceparent", "y")
            self.read([key], "one", 3)
        self.both("SET", NO_STREAM, "x")

    def both(self, *command: Any) -> Any:
        """Do a command on both; the reply, which has to be the same."""
        ours, theirs = _outcome(self.model.call, *command), _outcome(self.link.call, *command)
        assert _comparable(command, ours) == _comparable(command, theirs), command
        return ours

    def run(self, script: Script, keys: list[Any], args: list[Any]) -> None:
        ours, theirs = _outcome(self.model.run, script, keys, args), _outcome(self.link.run, script, keys, args)
        if script is TRIM and not isinstance(ours, str):
            ours, theirs = [(*reply[:3], reply[3] > 0) for reply in (ours, theirs)]  # clocks differ
        assert ours == theirs, (script, keys, args)

    def some(self, data: st.DataObject, key: str) -> list[str]:
        """Ids, most of them of entries that are pending."""
        found = self.model.peek(key.encode())
        group = self.model.group(key.encode(), GROUP.encode())
        there = list(
            map(format_id, [*(group.pending if group else ()), *(found.ids if isinstance(found, Stream) else ())])
        )
        chosen = st.sampled_from([entry.decode() for entry in there]) | ids if there else ids
        return data.draw(st.lists(chosen, min_size=1, max_size=4, unique=True))

    # -- producers and operators

    @rule(key=streams, entry=ids, payload=payloads, is_next=st.booleans())
    def add(self, key: str, entry: str, payload: bytes, is_next: bool) -> None:
        found = self.model.peek(key.encode())
        if is_next and isinstance(found, Stream):
            entry = f"{found.last[0] + 1}-0"
        self.both("XADD", key, entry, "payload", payload)

    @rule(key=st.sampled_from(REPLIES), payload=payloads)
    def add_by_clock(self, key: str, payload: bytes) -> None:
        """The ids differ, as the clocks do; see ``_comparable``."""
        self.both("XADD", key, "*", "payload", payload)

    @rule(key=streams, data=st.data())
    def delete(self, key: str, data: st.DataObject) -> None:
        self.both("XDEL", key, *self.some(data, key))

    @rule(key=streams, bound=ids)
    def trim_by_hand(self, key: str, bound: str) -> None:
        self.both("XTRIM", key, "MINID", bound)

    @rule(
        key=streams,
        start=st.sampled_from(["0", "$", f"{BASE + 3}-1"]),
        make=st.booleans(),
        name=st.sampled_from([GROUP, "b"]),
    )
    def make_group(self, key: str, start: str, make: bool, name: str) -> None:
        self.both("XGROUP", "CREATE", key, name, start, *(["MKSTREAM"] if make else []))

    @rule(key=streams)
    def destroy_group(self, key: str) -> None:
        self.both("XGROUP", "DESTROY", key, GROUP)

    @rule(key=streams, consumer=consumers)
    def remove_consumer(self, key: str, consumer: str) -> None:
        self.both("XGROUP", "DELCONSUMER", key, GROUP, consumer)

    @rule(key=st.sampled_from([*REQUESTS, *REPLIES, MARK, NOTES, "turn"]))
    def remove(self, key: str) -> None:
        self.both("DEL", key)

    @rule(key=st.sampled_from(REPLIES))
    def spoil(self, key: str) -> None:
        """A key that should be a stream is something else."""
        self.both("SET", key, "x")

    @rule(key=st.sampled_from(REPLIES), left=st.integers(0, 3))
    def use_ids_up(self, key: str, left: int) -> None:
        """A stream has so many ids left."""
        self.both("XADD", key, f"{2**64 - 1}-{2**64 - 1 - left}", "payload", "the last")

    @rule(key=st.sampled_from([MARK, "in", "lock"]), options=st.sampled_from([(), ("NX",), ("NX", "PX", UNIT_MS)]))
    def set(self, key: str, options: tuple[Any, ...]) -> None:
        if key == "in" and not options:
            return
        self.both("SET", key, f"{BASE + 5}-0", *options)

    @rule()
    def flush(self) -> None:
        self.both("FLUSHALL")

    @rule(is_full=st.booleans())
    def reach_memory_limit(self, is_full: bool) -> None:
        self.link.call("CONFIG", "SET", "maxmemory", "1" if is_full else "0")
        self.model.is_full = is_full

    # -- workers

    @rule(keys=st.lists(streams, min_size=1, max_size=2, unique=True), consumer=consumers, count=st.integers(1, 3))
    def read(self, keys: list[str], consumer: str, count: int) -> None:
        new = [">"] * len(keys)
        self.both("XREADGROUP", "GROUP", GROUP, consumer, "COUNT", count, "BLOCK", 1, "STREAMS", *keys, *new)

    @rule(key=streams, consumer=consumers, least=limits, data=st.data(), just_id=st.booleans())
    def claim(self, key: str, consumer: str, least: int, data: st.DataObject, just_id: bool) -> None:
        self.both("XCLAIM", key, GROUP, consumer, least, *self.some(data, key), *(["JUSTID"] if just_id else []))

    @rule(key=streams, consumer=consumers, data=st.data(), count=st.integers(0, 3))
    def set_count(self, key: str, consumer: str, data: st.DataObject, count: int) -> None:
        self.both("XCLAIM", key, GROUP, consumer, 0, self.some(data, key)[0], "RETRYCOUNT", count, "JUSTID")

    @rule(key=streams, consumer=consumers, data=st.data(), idle=units)
    def set_idle(self, key: str, consumer: str, data: st.DataObject, idle: int) -> None:
        self.both("XCLAIM", key, GROUP, consumer, 0, *self.some(data, key), "IDLE", idle * UNIT_MS, "JUSTID")

    @rule(key=streams, consumer=consumers, least=limits, start=ids)
    def claim_many(self, key: str, consumer: str, least: int, start: str) -> None:
        """Each server describes deleted entries in its own way, and no script reads that."""
        self.both("XAUTOCLAIM", key, GROUP, consumer, least, start)

    @rule(
        key=streams,
        least=limits,
        first=first_ids,
        last=ids,
        count=st.integers(1, 4),
        consumer=st.none() | consumers,
    )
    def pending(self, key: str, least: int, first: str, last: str, count: int, consumer: str | None) -> None:
        idle = ["IDLE", least] if least else []
        self.both("XPENDING", key, GROUP, *idle, first, last, count, *([consumer] if consumer else []))

    @rule(key=streams, data=st.data())
    def acknowledge(self, key: str, data: st.DataObject) -> None:
        self.both("XACK", key, GROUP, *self.some(data, key))

    # -- scripts

    @rule(key=streams, data=st.data())
    def commit(self, key: str, data: st.DataObject) -> None:
        targets = ["out:a", NO_STREAM]
        args: list[Any] = [GROUP, TTL_SECONDS * data.draw(st.integers(1, 2))]
        for entry in self.some(data, key):
            payload = data.draw(payloads)
            if data.draw(st.booleans()):
                args += [entry, payload]
                continue
            number = data.draw(st.integers(2, 4))
            args += [f"+{entry}", payload, number, *data.draw(traces), b"" if number == 2 else b"instead"]
        self.run(COMMIT, [key, "out", *targets], args)

    @rule(key=streams, data=st.data(), payload=payloads, trace=traces)
    def dead_letter(self, key: str, data: st.DataObject, payload: bytes, trace: tuple[str, str]) -> None:
        named = data.draw(st.sampled_from([[], ["out:a"], [NO_STREAM]]))
        args = [GROUP, self.some(data, key)[0], "why", 3, TTL_SECONDS, payload, *trace]
        self.run(DEAD_LETTER, [key, "dead", "out", *named], args)

    @rule(key=streams, consumer=consumers, data=st.data())
    def uncount(self, key: str, consumer: str, data: st.DataObject) -> None:
        counts = st.integers(1, 3)
        tries = [argument for entry in self.some(data, key) for argument in (entry, data.draw(counts))]
        self.run(UNCOUNT, [key], [GROUP, consumer, *tries])

    @rule(key=streams, bound=ids, keep_ms=kept, group=st.sampled_from([GROUP, "b"]), notes=spacing)
    def trim(self, key: str, bound: str, keep_ms: int, group: str, notes: Any) -> None:
        self.both("SET", NOTES, f"1 {bound}")
        self.run(TRIM, [key, NOTES, MARK], [group, keep_ms, "", "", 0, notes, 1000])

    @rule(
        key=st.sampled_from([*REPLIES, *REQUESTS]),
        bound=ids,
        holds=st.booleans(),
        idle_ms=st.sampled_from([0, UNIT_MS]),
    )
    def trim_replies(self, key: str, bound: str, holds: bool, idle_ms: int) -> None:
        self.both("SET", NOTES, f"1 {bound}")
        self.run(TRIM, [key, NOTES], ["", UNIT_MS, "", BASE if holds else 2 * UNIT_MS, idle_ms, UNIT_MS, 1000])

    @rule(key=every_stream)
    def note_arrivals(self, key: str) -> None:
        self.run(TRIM, [key, NOTES], ["", BASE, "", BASE, 0, UNIT_MS, 1000])

    @rule(key=streams, marked=st.sampled_from([[MARK, NOTES], []]))
    def make_our_group(self, key: str, marked: list[str]) -> None:
        self.run(GROUP_SCRIPT, [key, *marked], [GROUP])

    @rule(consumer=consumers)
    def take_turn(self, consumer: str) -> None:
        self.run(TURN, ["turn"], [consumer, UNIT_MS])

    @rule(key=streams, least=st.sampled_from([0, UNIT_MS]), consumer=consumers | st.just(""))
    def sweep(self, key: str, least: int, consumer: str) -> None:
        self.run(SWEEP, [key], [GROUP, least, consumer])

    # -- what is there

    @invariant()
    def is_alike(self) -> None:
        """Streams, groups, pending entries, consumers and other keys are the same."""
        self.both("GET", MARK)
        self.both("GET", NO_STREAM)
        self.both("GET", NOTES)
        for key in (*REQUESTS, *REPLIES):
            self.both("XRANGE", key, "-", "+")
            self.both("TTL", key)
            self.both("XINFO", "STREAM", key)
            self.both("XINFO", "GROUPS", key)
            self.both("XPENDING", key, GROUP)
            self.both("XPENDING", key, GROUP, "-", "+", 100)
            self.both("XINFO", "CONSUMERS", key, GROUP)


def _outcome(do: Any, *arguments: Any) -> Any:
    try:
        return do(*arguments)
    except ServerError as error:
        return f"{type(error)} {error.code}"
    except Unavailable as error:
        return f"{type(error)} {error.reason}"


def _comparable(command: tuple[Any, ...], reply: Any) -> Any:
    """A reply without what has to differ: ids made by the clock, exact times, members that the model leaves out."""
    if isinstance(reply, str):
        return reply
    if command == ("GET", NOTES):
        return [entry if entry.startswith(b"100000000000") else b"of now" for entry in (reply or b"").split()[1::2]]
    match command[0], command[-1] if len(command) == 1 else command[1]:
        case "XADD", _ if command[2] == "*":
            return type(reply)
        case "XRANGE", key if key in REPLIES:
            return [fields for _, fields in reply]
        case "TTL", _:
            return round(reply, -3)
        case "XINFO", "STREAM":
            members = dict(zip(reply[::2], reply[1::2], strict=True))
            return members[b"length"], members[b"last-generated-id"] if command[2] in REQUESTS else None
        case "XINFO", "GROUPS":
            names = (b"name", b"consumers", b"pending", b"last-delivered-id")
            return [_members(group, names[: 4 if command[2] in REQUESTS else 3]) for group in reply]
        case "XINFO", "CONSUMERS":
            found = [_members(consumer, (b"name", b"pending", b"idle")) for consumer in reply]
            return [(name, held, idle_ms < UNIT_MS) for name, held, idle_ms in found]
        case "XPENDING", _ if len(command) > 3:
            return [(entry, owner, round(idle_ms / UNIT_MS), count) for entry, owner, idle_ms, count in reply]
        case "XAUTOCLAIM", _:
            return reply[1]
    return reply


def _members(raw: list[Any], names: tuple[bytes, ...]) -> tuple[Any, ...]:
    members = dict(zip(raw[::2], raw[1::2], strict=True))
    return tuple(members[name] for name in names)


@pytest.fixture
def link(request: pytest.FixtureRequest) -> Iterator[RedisLink]:
    """To a server of this test alone: its memory limit is changed."""
    with Valkey(binary=request.param()) as server:
        link = RedisLink("streams", RedisSettings(url=server.url), raise_server_errors=True)
        yield link
        link.close()


@pytest.mark.parametrize(
    ("link", "examples"), [(valkey_binary, 80), (redis_binary, 30)], indirect=["link"], ids=["valkey", "redis 8.2"]
)
def test_model_answers_like_a_server(link: RedisLink, examples: int) -> None:
    """Any sequence of the commands and scripts that workers send has the same replies and leaves the same keys."""

    class OnThisServer(ModelAndServer):
        def __init__(self) -> None:
            super().__init__(link)

    run_state_machine_as_test(
        OnThisServer,
        settings=settings(
            max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
