"""The delivery protocol without a server: its commands, and its reaction to their replies."""

import contextlib
import gc
import math
import random
import socket
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any, cast

import pytest

from token_worker.contract.messages import Op
from token_worker.errors import ReplyTooLarge, ServerError, Unavailable
from token_worker.redis.exchange import BoundedCommand, Exchange, RunScript, Together, drive
from token_worker.redis.link import RedisLink
from token_worker.streams.cluster_delivery import REST_SECONDS, ROUND_MS, ClusterDelivery
from token_worker.streams.commit import COMMIT, DEAD_LETTER
from token_worker.streams.delivery import GROUP, PAUSE_SECONDS, READ_ON_ENTRIES, Delivery
from token_worker.streams.entry import Answer, Batch, Committed, Entry
from token_worker.streams.pending import FOUND_AT_ONCE, MOST_DOUBTS, OWN_AT_ONCE, RETRY_OWN_SECONDS
from token_worker.streams.reads import BATCH_BYTES, FIRST_COUNT, GROWTH, QUIET_COUNT, READ_BYTES
from token_worker.streams.routes import Route
from token_worker.streams.uncounted import UNCOUNT, UNCOUNT_ENTRIES

ROUTE = Route("in", "out", frozenset({Op.TOKENIZE}))
SECOND = Route("in2", "out2", frozenset({Op.DETOKENIZE}))
Server = Callable[[Any], Any]


def delivery(
    *routes: Route,
    batch_size: int = 500,
    max_deliveries: int = 2,
    note_unread: Callable[[Entry], object] = lambda _entry: None,
    clock: Callable[[], float] = lambda: 0.0,
) -> Delivery:
    return Delivery(
        routes or (ROUTE,),
        "group",
        "me",
        batch_size=batch_size,
        claim_idle_ms=30_000,
        max_deliveries=max_deliveries,
        rng=random.Random(1),
        note_unread=note_unread,
        clock=clock,
    )


def run(protocol: Exchange[Any], server: Server) -> tuple[Any, list[Any]]:
    """Perform a protocol against a function; its result, and the commands it yielded."""
    commands: list[Any] = []
    reply: Any = None
    error: Exception | None = None
    while True:
        try:
            command = protocol.send(reply) if error is None else protocol.throw(error)
        except StopIteration as end:
            return end.value, commands
        commands.append(command.command if isinstance(command, BoundedCommand) else command)
        reply = error = None
        try:
            reply = server(command)
        except (Unavailable, ServerError, ReplyTooLarge) as raised:
            error = raised


class Scripted:
    """A server that answers commands by their name; an exception is raised, what is not named answers with nothing."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.commands: list[Any] = []
        self.bounds: list[tuple[str, bool]] = []
        """The name of each plain command, and whether its reply was bounded."""

    def __call__(self, command: Any) -> Any:
        if isinstance(command, Together):
            return [self(part) for part in command.commands]
        is_bounded = isinstance(command, BoundedCommand)
        command = command.command if is_bounded else command
        self.commands.append(command)
        if not isinstance(command, RunScript):
            self.bounds.append((command[0], is_bounded))
        name = command.script.name.removesuffix(".lua") if isinstance(command, RunScript) else command[0]
        answer = self.answers.get(name, None if name == "GET" else [])
        if callable(answer):
            answer = answer(command)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def named(self, name: str) -> list[Any]:
        return [command for command in self.commands if not isinstance(command, RunScript) and command[0] == name]


class PutOff(Scripted):
    """A server with own entries of these ids that were delivered once, or not counted any more after it was told so."""

    def __init__(self, *ids: bytes) -> None:
        counts = dict.fromkeys(ids, 1)

        def uncount(command: RunScript) -> int:
            counts.update({entry: deliveries - 1 for entry, deliveries in batched(command.args[2:])})
            return len(counts)

        super().__init__(
            XPENDING=lambda command: [
                [entry_id, b"me", 70, count] for entry_id, count in counts.items() if command[-1] == "me"
            ],
            XCLAIM=claimed,
            uncount=uncount,
        )


def batched(pairs: Sequence[Any]) -> list[tuple[Any, Any]]:
    """A flat sequence of pairs as pairs."""
    return list(zip(pairs[::2], pairs[1::2], strict=True))


def entries(count: int, size: int = 10, start: int = 1) -> list[list[Any]]:
    return [[b"%d-0" % (start + n), [b"payload", b"x" * size]] for n in range(count)]


def test_entries_have_all_their_fields() -> None:
    """An entry has its payload, and apart from it the other fields, if any. All of them make COUNT small."""
    large = b"x" * (BATCH_BYTES // 4)
    fields = [
        [b"payload", b"{}"],
        [b"trace", large],
        [b"trace", large, b"payload", b"{}"],
        [b"payload", b"", b"payload", large],
    ]
    found = [[b"%d-0" % number, raw] for number, raw in enumerate(fields, 1)]
    subject = delivery()
    batch, _ = run(subject.fetch(0.0, 1000), Scripted(XREADGROUP=lambda _: [[b"in", found]]))
    assert [(entry.payload, entry.others) for entry in batch.entries] == [
        (b"{}", None),
        (None, {b"trace": large}),
        (b"{}", {b"trace": large}),
        (large, None),
    ]
    server = Scripted()
    run(subject.fetch(1.0, 1000), server)
    [read] = server.named("XREADGROUP")
    assert read[read.index("COUNT") + 1] == 5


def test_first_fetch_makes_the_groups() -> None:
    """A missing group is made by one script for each route, which knows the acknowledged entries."""
    server = Scripted(group=1)
    run(delivery(ROUTE, SECOND).fetch(0.0, 1000), server)
    assert [command for command in server.commands if isinstance(command, RunScript)] == [
        RunScript(GROUP, (name, f"{name}:low-water", f"{name}:arrivals"), ("group",)) for name in ("in", "in2")
    ]


def test_group_is_made_by_a_worker_that_may_not_know_what_is_acknowledged() -> None:
    """If the keys beside the stream are refused, the group is made without them, and keeps the mark of others."""
    server = Scripted(group=lambda command: ServerError("streams", "NOPERM") if len(command.keys) > 1 else 1)
    subject = delivery()
    run(subject.fetch(0.0, 1000), server)
    assert server.commands[1] == RunScript(GROUP, ("in",), ("group",))
    assert subject.paused == []


def test_finding_older_entries_counts_nothing() -> None:
    """Pending entries are found by XPENDING; an entry is claimed and counted only for its isolated try."""
    server = Scripted()
    run(delivery().fetch(0.0, 1000), server)
    names = [command[0] for command in server.commands]
    assert names == [GROUP, "XPENDING", "XPENDING", "XREADGROUP"]
    own, others = server.named("XPENDING")
    assert own == ("XPENDING", "in", "group", "-", "+", OWN_AT_ONCE, "me")
    assert others == ("XPENDING", "in", "group", "IDLE", 30_000, "-", "+", FOUND_AT_ONCE)


def test_new_entries_come_as_one_batch() -> None:
    """New entries of all routes are one batch; they are delivered for the first time."""
    replies = iter([[[b"in", entries(2)], [b"in2", entries(1)]], []])  # the first may have more, and is asked again
    batch, _ = run(delivery(ROUTE, SECOND).fetch(0.0, 1000), Scripted(XREADGROUP=lambda command: next(replies)))
    assert not batch.isolated
    assert [(entry.route.requests, entry.id, entry.deliveries) for entry in batch.entries] == [
        ("in", b"1-0", 1),
        ("in", b"2-0", 1),
        ("in2", b"1-0", 1),
    ]


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [
        (1, [4, 16, 64, 64, 64, 64]),
        (20, [4, 16, 64, 80, 80, 80]),
        (500, [4, 16, 64, 256, 500, 500]),
    ],
)
def test_count_starts_small_and_grows_with_what_waits(waiting: int, expected: list[int]) -> None:
    """COUNT grows step by step to more than what comes at once, and to the batch size if that much waits."""
    subject = delivery(batch_size=500)
    counts = []

    def read(command: Any) -> Any:
        counts.append(command[command.index("COUNT") + 1])
        return [[b"in", entries(min(counts[-1], waiting))]]

    for turn in range(6):
        run(subject.fetch(float(turn), 1000), Scripted(XREADGROUP=read))
    assert counts == expected


def test_count_shrinks_slowly_when_few_come() -> None:
    """A few entries between many do not make COUNT small; after many reads of few it is as at the start."""
    subject = delivery()
    for turn in range(6):
        run(subject.fetch(float(turn), 0), Scripted(XREADGROUP=stream(10, [])))
    counts: list[int] = []

    def read(command: Any) -> Any:
        counts.append(command[command.index("COUNT") + 1])
        return [[b"in", entries(1)]]

    for turn in range(6, 100):
        run(subject.fetch(float(turn), 0), Scripted(XREADGROUP=read))
    assert counts[0] == 500
    assert all(400 < count < 500 for count in counts[1:4])
    assert counts[-1] == QUIET_COUNT


def stream(size: int, counts: list[int]) -> Callable[[Any], Any]:
    """An answer to XREADGROUP: of an endless stream of equal entries. It gives up what is too much, and notes COUNT."""

    def answer(command: Any) -> Any:
        counts.append(command[command.index("COUNT") + 1])
        return (
            ReplyTooLarge()
            if counts[-1] > 1 and counts[-1] * size > READ_BYTES
            else [[b"in", entries(counts[-1], size)]]
        )

    return answer


@pytest.mark.parametrize("size", [BATCH_BYTES // 100, BATCH_BYTES // 4, BATCH_BYTES, READ_BYTES])
def test_read_is_given_up_only_when_entries_suddenly_get_larger(size: int) -> None:
    """COUNT goes by bytes: after small entries one read of large ones is given up at most, and later ones aim right."""
    subject = delivery()
    for turn in range(6):
        run(subject.fetch(float(turn), 0), Scripted(XREADGROUP=stream(10, [])))
    counts: list[int] = []
    for turn in range(6, 12):
        run(subject.fetch(float(turn), 0), Scripted(XREADGROUP=stream(size, counts)))
    assert counts[0] == 500
    assert all(count == 1 or count * size <= BATCH_BYTES for count in counts[1:])


def test_large_entries_make_count_small() -> None:
    """A batch aims at a number of bytes: after large entries fewer are asked for."""
    subject = delivery()
    size = BATCH_BYTES // 4
    run(subject.fetch(0.0, 1000), Scripted(XREADGROUP=lambda command: [[b"in", entries(4, size)]]))
    server = Scripted()
    run(subject.fetch(1.0, 1000), server)
    [read] = server.named("XREADGROUP")
    assert read[read.index("COUNT") + 1] <= 4


def test_read_that_brings_too_much_is_claimed_entry_by_entry() -> None:
    """A read that is given up loses nothing: its entries are pending here, one is claimed first; COUNT is 1 again."""
    subject = delivery()
    run(subject.fetch(0.0, 1000), Scripted(XREADGROUP=lambda command: [[b"in", entries(8)]]))
    batch, _ = run(subject.fetch(1.0, 1000), Scripted(XREADGROUP=ReplyTooLarge()))
    assert batch == Batch([], isolated=False)
    assert subject.has_older(1.0)
    batch, commands = run(subject.fetch(1.0, 1000), PutOff(b"9-0"))
    assert RunScript(UNCOUNT, ("in",), ("group", "me", b"9-0", 1)) in commands
    assert [(entry.id, entry.deliveries) for entry in batch.entries] == [(b"9-0", 1)]
    subject = delivery()
    run(subject.fetch(0.0, 1000), Scripted(XREADGROUP=lambda command: [[b"in", entries(8)]]))
    run(subject.fetch(1.0, 1000), Scripted(XREADGROUP=ReplyTooLarge()))
    server = Scripted()
    run(subject.fetch(2.0, 1000), server)
    [read] = server.named("XREADGROUP")
    assert read[read.index("COUNT") + 1] == 1


def test_entries_in_hand_outlive_a_read_that_brings_too_much() -> None:
    """Entries of an earlier read of the batch are handled; the others are looked for afterwards."""
    replies = iter([[[b"in", entries(FIRST_COUNT // 2)]], ReplyTooLarge()])
    batch, _ = run(delivery(ROUTE, SECOND).fetch(0.0, 1000), Scripted(XREADGROUP=lambda command: next(replies)))
    assert len(batch.entries) == FIRST_COUNT // 2


def test_read_of_one_entry_has_no_bound() -> None:
    """Only a read that can bring several entries is given up: one entry by itself is answered, however large it is."""
    bounded = []
    for routes, batch_size in (([ROUTE], 2), ([ROUTE], 1), ([ROUTE, SECOND], 1)):
        server = Scripted()
        run(delivery(*routes, batch_size=batch_size).fetch(0.0, 1000), server)
        bounded += [is_bounded for name, is_bounded in server.bounds if name == "XREADGROUP"]
    assert bounded == [True, False, True]


@pytest.mark.parametrize(
    ("replies", "more"),
    [
        ([[[b"in", entries(2)], [b"in2", entries(1)]], [[b"in", entries(1)]]], True),  # 2 of each are asked for, then 1
        ([[[b"in", entries(2)], [b"in2", entries(1)]], None], False),
        ([[[b"in", entries(1)], [b"in2", entries(1)]]], False),
        ([None], False),
        ([[[b"in", entries(2)]], ReplyTooLarge()], False),
    ],
)
def test_batch_tells_whether_there_may_be_more(replies: list[Any], more: bool) -> None:
    """There may be if a stream gave as many as it was asked for last; not where a read was given up."""
    served = iter(replies)
    subject = delivery(ROUTE, SECOND, batch_size=FIRST_COUNT)
    batch, _ = run(subject.fetch(0.0, 1000), Scripted(XREADGROUP=lambda _: next(served)))
    assert batch.more is more
    assert next(served, "all of them were wanted") == "all of them were wanted"


@pytest.mark.parametrize(("size", "more"), [(10, False), (BATCH_BYTES // 8, True)])
def test_more_is_read_ahead_only_beside_a_full_batch(size: int, more: bool) -> None:
    """As many as were asked for are no full batch, unless there are as many entries or bytes as a batch has."""
    batch, _ = run(delivery().fetch(0.0, 0), Scripted(XREADGROUP=stream(size, [])))
    assert (len(batch.entries), batch.more) == (FIRST_COUNT, more)


def test_batch_is_bounded_over_all_routes() -> None:
    """COUNT is per stream: with many routes the batch stays bounded, and one busy route may fill it."""
    routes = [Route(f"in{n}", f"out{n}", frozenset({Op.TOKENIZE})) for n in range(8)]
    subject = delivery(*routes)
    for turn in range(8):  # grow to the full batch size
        run(subject.fetch(float(turn), 0), Scripted(XREADGROUP=lambda c: [[b"in3", entries(c[c.index("COUNT") + 1])]]))
    batch, _ = run(subject.fetch(9.0, 0), Scripted(XREADGROUP=lambda c: [[b"in3", entries(c[c.index("COUNT") + 1])]]))
    assert 400 < len(batch.entries) <= 500


def queues(**waiting: int) -> Callable[[Any], Any]:
    """An answer to XREADGROUP: of streams with so many entries left."""

    def answer(command: Any) -> Any:
        command = command.command if isinstance(command, BoundedCommand) else command
        found = []
        for name in command[command.index("STREAMS") + 1 :]:
            if count := min(waiting.get(name, 0), command[command.index("COUNT") + 1]):
                waiting[name] -= count
                found.append([name.encode(), entries(count)])
        return found or None

    return answer


@pytest.mark.parametrize("batch_size", [1, 4, 500])
def test_no_route_starves_behind_a_busy_one(batch_size: int) -> None:
    """An entry on another route comes with the next batch, however much there is to read on a busy one."""
    subject = delivery(ROUTE, SECOND, batch_size=batch_size)
    server = Scripted(XREADGROUP=queues(**{ROUTE.requests: 100_000, SECOND.requests: 20}))
    found: list[Entry] = []
    for turn in range(20):
        found += run(subject.fetch(float(turn), 0), server)[0].entries
    assert [entry.route for entry in found].count(SECOND) == 20
    assert len(found) > 20


def test_read_may_go_with_a_commit_where_few_entries_come_at_a_time() -> None:
    """The next read may be sent with the commit of a small batch of new entries; not if anything has to come first."""
    subject, most = delivery(batch_size=500), READ_ON_ENTRIES
    assert not subject.reads_at_once(0.0, 1)  # the groups are to be made
    for count in (1, 0, most):
        run(subject.fetch(0.0, 1000), Scripted(XREADGROUP=[[b"in", entries(count)]] if count else []))
        assert subject.reads_at_once(0.0, most)
        assert not subject.reads_at_once(0.0, most + 1)  # answers to entries that were put off
    subject.suspect([Entry(ROUTE, b"1-0", None)], 0.0)
    assert not subject.reads_at_once(0.0, 1)
    subject = delivery(batch_size=500)
    run(subject.fetch(0.0, 1000), Scripted(XREADGROUP=[[b"in", entries(most + 1)]]))
    assert not subject.reads_at_once(0.0, 1)


def reads_with_commit(subject: Delivery, *replies: Any) -> tuple[Batch, list[tuple[Any, ...]], list[Any]]:
    """Fetch as with a commit. Each reply is that to one read; an exception is the answer to it.

    Returns:
        The batch, the reads that are sent with the commit, and the commands after those.
    """
    answers = iter(replies)
    fetch = subject.fetch(1.0, 1000, with_commit=True)
    batch, commands = run(fetch, Scripted(XREADGROUP=lambda command: next(answers, None)))
    assert isinstance(commands[0], Together)
    counts = [read[read.index("COUNT") + 1] for read in commands[0].commands]
    assert commands[0].max_bytes == (READ_BYTES if sum(counts) > 1 else math.inf)
    return batch, [*commands[0].commands], commands[1:]


def after_batch(count: int, *routes: Route) -> Delivery:
    """Return a delivery that has read a batch of so many entries."""
    subject = delivery(*routes, batch_size=500)
    run(subject.fetch(0.0, 1000), Scripted(XREADGROUP=[[b"in", entries(count)]]))
    return subject


def test_read_that_is_sent_with_a_commit_takes_what_comes_together() -> None:
    """Its first part waits for one entry, and its second part takes the others, of all routes, without waiting."""
    first, second = [[b"in", entries(1)]], [[b"in", entries(2, start=2)], [b"in2", entries(1)]]
    batch, reads, others = reads_with_commit(after_batch(4, ROUTE, SECOND), first, second)
    assert [read[read.index("COUNT") + 1] for read in reads] == [1, FIRST_COUNT * GROWTH // 2 - 1]
    assert [("BLOCK" in read, read[-4:]) for read in reads] == [
        (True, ("in2", "in", ">", ">")),
        (False, ("in2", "in", ">", ">")),
    ]
    assert [(entry.route, entry.id) for entry in batch.entries] == [
        *((ROUTE, b"%d-0" % number) for number in (1, 2, 3)),
        (SECOND, b"1-0"),
    ]
    assert others == []


def test_read_that_is_sent_with_a_commit_waits_in_one_part_for_requests_that_come_alone() -> None:
    """After a batch of one entry, or where only one may be asked for, there is no second part."""
    _, reads, _ = reads_with_commit(after_batch(1), [[b"in", entries(1)]])
    assert [read[read.index("COUNT") + 1] for read in reads] == [FIRST_COUNT * GROWTH]
    subject = after_batch(2)
    _, reads, _ = reads_with_commit(subject, ReplyTooLarge())
    run(subject.fetch(1.0, 0), Scripted())  # looks for what that may have brought
    _, [read], _ = reads_with_commit(subject, [[b"in", entries(1)]])
    assert read[read.index("COUNT") + 1] == 1


@pytest.mark.parametrize(("first", "second"), [(1, 0), (1, 1), (1, 2), (0, 0)])
def test_read_that_is_sent_with_a_commit_and_brings_little_is_followed_by_one_more(first: int, second: int) -> None:
    """If less than half of the batch before has come, all routes are read once more without waiting."""
    replies = [[[b"in", entries(count)]] if count else None for count in (first, second)]
    batch, _, others = reads_with_commit(after_batch(6), *replies, [[b"in", entries(3, start=9)]])
    is_little = 0 < first + second < 3
    assert len(batch.entries) == first + second + 3 * is_little
    assert ["BLOCK" in read for read in others] == [False] * is_little


@pytest.mark.parametrize("failure", [ReplyTooLarge(), Unavailable("streams", "TimeoutError")])
@pytest.mark.parametrize("place", [0, 1])
def test_either_part_of_a_read_may_fail(failure: Exception, place: int) -> None:
    """Whatever part fails, the worker looks for own entries next: nobody knows what was delivered."""
    subject = after_batch(4)
    replies = [[[b"in", entries(1)]], [[b"in", entries(1, start=2)]]]
    with suppress(Unavailable):
        batch, *_ = reads_with_commit(subject, *replies[:place], failure)
        assert batch.entries == []
    _, commands = run(subject.fetch(1.0, 1000), Scripted())
    assert commands[0][0] == "XPENDING"
    assert commands[0][-1] == "me"


def test_route_that_cannot_be_read_does_not_hide_what_the_other_part_brought() -> None:
    """If a part is refused, the routes are read apart, and the worker looks for what the other part brought."""
    subject = after_batch(2, ROUTE, SECOND)
    server = Scripted(XREADGROUP=lambda c: ServerError("streams", "WRONGTYPE") if "in" in c else [[b"in2", entries(1)]])
    batch, (_, *reads) = run(subject.fetch(1.0, 1000, with_commit=True), server)
    assert [read[-2] for read in reads[:2]] == ["in2", "in"]
    assert (subject.paused, [entry.route for entry in batch.entries]) == ([ROUTE], [SECOND, SECOND])
    _, commands = run(subject.fetch(1.0, 1000), Scripted())
    assert commands[0][:2] == ("XPENDING", "in2")


@pytest.mark.parametrize(
    ("block_ms", "sizes", "reads"),
    [
        (1000, [64, 1, 63], 2),  # the first of many wakes the worker
        (1000, [64, 1, 0], 2),
        (1000, [64, 32], 1),
        (1000, [1, 1], 1),
        (0, [64, 1], 1),  # what is read ahead does not keep a commit back
        (1000, [64, 0], 1),
    ],
)
def test_read_that_was_woken_by_the_first_of_many_is_followed_by_another(
    block_ms: int, sizes: list[int], reads: int
) -> None:
    """After a batch of many, a read that waited and brought few is repeated once, at once: they are one batch."""
    subject = delivery(ROUTE, SECOND)
    for turn in range(5):  # COUNT grows
        run(subject.fetch(float(turn), 0), Scripted(XREADGROUP=[[b"in", entries(sizes[0])]]))
    left = iter(sizes[1:])
    server = Scripted(XREADGROUP=lambda _: [[b"in2", entries(count)]] if (count := next(left)) else None)
    batch, _ = run(subject.fetch(6.0, block_ms), server)
    assert len(batch.entries) == sum(sizes[1:])
    commands = server.named("XREADGROUP")
    assert ["BLOCK" in command for command in commands] == [block_ms > 0, False][:reads]
    assert all(command[-4:] == ("in2", "in", ">", ">") for command in commands)
    assert next(left, "all of them were wanted") == "all of them were wanted"


def test_lost_group_is_made_again_and_counted() -> None:
    """NOGROUP while reading is told as unavailable, so that the caller backs off; the next fetch makes the group."""
    subject = delivery()
    run(subject.fetch(0.0, 1000), Scripted())
    with pytest.raises(Unavailable):
        run(subject.fetch(1.0, 1000), Scripted(XREADGROUP=ServerError("streams", "NOGROUP")))
    server = Scripted()
    run(subject.fetch(2.0, 1000), server)
    assert server.commands[0].script is GROUP
    assert subject.groups_made_again == 1


def test_after_a_lost_read_own_pending_entries_come_first() -> None:
    """When nobody knows what a read delivered, the next fetch takes this consumer's pending entries, as one batch."""
    subject = delivery()
    run(subject.fetch(0.0, 1000), Scripted())
    with pytest.raises(Unavailable):
        run(subject.fetch(1.0, 1000), Scripted(XREADGROUP=Unavailable("streams", "ConnectionError")))
    server = PutOff(b"5-0", b"6-0")
    batch, _ = run(subject.fetch(2.0, 1000), server)
    assert not batch.isolated
    assert [(entry.id, entry.deliveries) for entry in batch.entries] == [(b"5-0", 1), (b"6-0", 1)]
    assert server.named("XCLAIM") == [("XCLAIM", "in", "group", "me", 70, b"5-0", b"6-0")]
    assert server.named("XREADGROUP") == []


def test_put_off_entries_are_forgotten_once_they_are_answered() -> None:
    """After a quiet read, put-off entries come before new ones again, and again after the short rest."""
    subject = delivery()
    new = Scripted(XREADGROUP=lambda _: [[b"in", entries(1, start=9)]])
    batch, _ = run(subject.fetch(0.0, 0), new)

    def put_off_and_take(at: float) -> list[bytes]:
        server = PutOff(b"9-0")
        run(subject.put_off(batch.entries, at), server)
        taken, _ = run(subject.fetch(at + RETRY_OWN_SECONDS + 0.1, 0), server)
        return [entry.id for entry in taken.entries]

    assert put_off_and_take(1.0) == [b"9-0"]
    quiet, commands = run(subject.fetch(4.0, 0), Scripted())
    assert (quiet.entries, [command[0] for command in commands]) == ([], ["XREADGROUP"])
    assert put_off_and_take(20.0) == [b"9-0"]


def test_entry_that_comes_anew_and_is_put_off_is_not_suspected_any_more() -> None:
    """An entry of a batch that failed, given out by a new group and put off, is like any other if its claim is lost."""
    subject = delivery()
    new = Scripted(XREADGROUP=lambda _: [[b"in", entries(1, start=5)]])
    batch, _ = run(subject.fetch(0.0, 0), new)
    subject.suspect(batch.entries, 0.0)
    run(subject.fetch(0.0, 0), Scripted())  # the group is gone by now, with what was pending
    batch, _ = run(subject.fetch(1.0, 0), new)
    run(subject.put_off(batch.entries, 1.0), Scripted())
    lost = Unavailable("streams", "TimeoutError")
    with pytest.raises(Unavailable):
        run(subject.fetch(4.0, 0), Scripted(XPENDING=pending((b"5-0", 0)), XCLAIM=lost))
    batch, commands = run(subject.fetch(5.0, 0), PutOff(b"5-0"))
    assert RunScript(UNCOUNT, ("in",), ("group", "me", b"5-0", 1)) in commands
    assert ([entry.id for entry in batch.entries], batch.isolated) == ([b"5-0"], False)


@pytest.mark.parametrize("why", ["failed", "of before"])
def test_own_entries_that_something_speaks_against_are_tried_alone(why: str) -> None:
    """Entries of a batch that failed, or delivered to a process before this one, are no entries of a lost read."""
    subject = delivery()
    server = PutOff(b"5-0", b"6-0")
    if why == "failed":
        run(subject.fetch(0.0, 0), Scripted(XREADGROUP=lambda _: [[b"in", entries(2, start=5)]]))
        subject.suspect([Entry(ROUTE, b"5-0", None), Entry(ROUTE, b"6-0", None)], 1.0)
    for _ in range(2):
        batch, commands = run(subject.fetch(1.0, 0), server)
        assert batch.isolated
        assert [command for command in commands if isinstance(command, RunScript) and command.script is UNCOUNT] == []


def test_claim_that_another_worker_won_is_passed_over() -> None:
    """If a claim returns no entry, another worker has it, or it is gone: the next one is tried."""
    replies = iter([[], [[b"6-0", [b"payload", b"x"]]]])
    server = Scripted(
        XPENDING=lambda command: (
            [[b"5-0", b"dead", 40_000, 1], [b"6-0", b"dead", 40_000, 1]] if "IDLE" in command else []
        ),
        XCLAIM=lambda command: next(replies),
    )
    batch, _ = run(delivery().fetch(0.0, 1000), server)
    assert [entry.id for entry in batch.entries] == [b"6-0"]


@pytest.mark.parametrize("deliveries", [0, 1], ids=["put off", "delivered"])
@pytest.mark.parametrize(("stopped_seconds", "idle_ms"), [(0.0, 40_000), (4.0, 40_000), (100.0, 135_000)])
def test_claim_of_a_worker_that_was_stopped_leaves_what_another_got(
    deliveries: int, stopped_seconds: float, idle_ms: int
) -> None:
    """A claim asks for the idle time that entries have by now, less the longest time that their listing may take."""
    now = 7.0

    def found(command: tuple[Any, ...]) -> list[list[Any]]:
        nonlocal now
        if "IDLE" not in command:
            return []
        now += stopped_seconds  # the process is stopped when the server has answered
        return [[b"5-0", b"dead", 40_000, deliveries]]

    server = Scripted(XPENDING=found, XCLAIM=[[b"5-0", [b"payload", b"x"]]])
    _, commands = run(delivery(clock=lambda: now).fetch(0.0, 0), server)
    assert [command for command in commands if command[0] == "XCLAIM"] == [
        ("XCLAIM", "in", "group", "me", idle_ms, b"5-0")
    ]


def test_isolated_tries_are_counted_and_end() -> None:
    """An entry is exhausted after the allowed isolated tries. After one more it is moved unread, and that is told."""
    outcomes = []
    unread: list[Entry] = []
    for deliveries in (1, 2, 3, 4):
        server = Scripted(
            XPENDING=lambda command, n=deliveries: [[b"5-0", b"dead", 40_000, n]] if "IDLE" in command else [],
            XCLAIM=lambda command: [b"5-0"] if command[-1] == "JUSTID" else [[b"5-0", [b"payload", b"x"]]],
            dead_letter=1,
        )
        batch, commands = run(delivery(max_deliveries=2, note_unread=unread.append).fetch(0.0, 0), server)
        moved = [command for command in commands if isinstance(command, RunScript) and command.script is DEAD_LETTER]
        outcomes.append(([entry.exhausted for entry in batch.entries], len(moved)))
    assert outcomes == [([False], 0), ([False], 0), ([True], 0), ([], 1)]
    assert [(entry.id, entry.deliveries) for entry in unread] == [(b"5-0", 4)]


@pytest.mark.parametrize(("reason", "lost"), [("InvalidResponse", 1), ("ConnectionError", MOST_DOUBTS + 1)])
def test_claim_that_can_never_be_read_counts_as_a_try(reason: str, lost: int) -> None:
    """A claim that this process cannot take in, or whose reply is lost for ever, is not taken back: its tries end."""
    subject = delivery()
    dead = [[b"5-0", b"dead", 40_000, 1]]
    server = Scripted(XPENDING=lambda command: dead if "IDLE" in command else [], XCLAIM=Unavailable("streams", reason))
    taken_back = []
    for number in range(lost + 1):
        with suppress(Unavailable):
            run(subject.fetch(100.0 * number, 0), server)
        taken_back.append(
            any(isinstance(command, RunScript) and command.script is UNCOUNT for command in server.commands)
        )
        server.commands.clear()
    assert taken_back == [False, *[True] * (lost - 1), False]


def test_what_is_put_off_is_taken_back_without_claiming_more() -> None:
    """Tries that failed for an outage are taken back by one script, which looks whether the entries are still ours."""
    mine = [Entry(ROUTE, b"5-0", None, deliveries=3), Entry(ROUTE, b"6-0", None)]
    _, commands = run(delivery().put_off(mine, 0.0), Scripted())
    assert commands == [RunScript(UNCOUNT, ("in",), ("group", "me", b"5-0", 3, b"6-0", 1))]


def test_many_entries_are_put_off_by_bounded_scripts() -> None:
    """With any number of entries that are put off at once, no script takes back more than its limit."""
    mine = [Entry(ROUTE, b"%d-0" % n, None) for n in range(UNCOUNT_ENTRIES + 1)]
    _, commands = run(delivery().put_off(mine, 0.0), Scripted())
    assert [len(command.args) for command in commands] == [2 + 2 * UNCOUNT_ENTRIES, 4]


def pending(*found: tuple[bytes, int], mine: bool = True) -> Callable[[Any], Any]:
    """An answer to XPENDING: ids with their delivery counts, of this worker or of a dead one."""

    def answer(command: Any) -> Any:
        owner = b"me" if mine else b"dead"
        return [[entry, owner, 40_000, count] for entry, count in found] if ("IDLE" in command) != mine else []

    return answer


def endless(count: int, *, mine: bool = True) -> Callable[[Any], Any]:
    """An answer to XPENDING with as many ids as are asked for, always others, of this delivery count."""
    ids = iter(range(1, 1_000_000))

    def answer(command: Any) -> Any:
        found = [(b"%d-0" % next(ids), count) for _ in range(command[7 if "IDLE" in command else 5])]
        return pending(*found, mine=mine)(command)

    return answer


def claimed(command: Any) -> Any:
    """An answer to XCLAIM: all that it names."""
    return [[entry, [b"payload", b"x"]] for entry in command[5:]]


@pytest.mark.parametrize("mine", [True, False])
def test_entries_that_were_put_off_come_as_one_batch(mine: bool) -> None:
    """A delivery count of 0 says that an entry was put off: such are claimed at once, others are isolated after."""
    subject = delivery()
    found = pending((b"5-0", 0), (b"6-0", 1), (b"7-0", 0), mine=mine)
    server = Scripted(XPENDING=found, XCLAIM=claimed)
    batch, _ = run(subject.fetch(0.0, 1000), server)
    assert not batch.isolated
    assert [(entry.id, entry.deliveries) for entry in batch.entries] == [(b"5-0", 1), (b"7-0", 1)]
    assert server.named("XCLAIM") == [("XCLAIM", "in", "group", "me", 40_000, b"5-0", b"7-0")]
    assert ("XCLAIM", True) in server.bounds
    run(subject.fetch(0.0, 1000), server)  # new ones have their turn
    batch, _ = run(subject.fetch(0.0, 1000), server)
    assert batch.isolated
    assert [(entry.id, entry.deliveries) for entry in batch.entries] == [(b"6-0", 2)]


def test_batch_of_entries_that_were_put_off_is_bounded_like_a_new_one() -> None:
    """As many are claimed as would be read: few at first, more step by step, few if they are large."""
    subject = delivery(batch_size=100)
    small = Scripted(XPENDING=endless(0, mine=False), XCLAIM=claimed)
    sizes = [len(run(subject.fetch(0.0, 0), small)[0].entries) for _ in range(9)]
    assert [size for size in sizes if size] == [*(FIRST_COUNT * GROWTH**turn for turn in range(3)), 100, 100]
    large = Scripted(XCLAIM=lambda c: [[entry, [b"payload", b"x" * (BATCH_BYTES // 4)]] for entry in c[5:]])
    for server in (large, large, small, small):
        batch, _ = run(subject.fetch(0.0, 0), server)
    assert 1 <= len(batch.entries) <= 4


def test_claim_that_brings_too_much_counts_nothing() -> None:
    """A claim of many that is given up is taken back before the next, which is of one."""
    subject = delivery()
    run(subject.fetch(0.0, 0), Scripted())
    run(subject.put_off([Entry(ROUTE, b"5-0", None), Entry(ROUTE, b"6-0", None)], 0.0), Scripted())
    found = pending((b"5-0", 0), (b"6-0", 0))
    batch, _ = run(subject.fetch(RETRY_OWN_SECONDS, 1000), Scripted(XPENDING=found, XCLAIM=ReplyTooLarge()))
    assert batch == Batch([], isolated=False)
    assert subject.has_older(RETRY_OWN_SECONDS)
    server = PutOff(b"5-0", b"6-0")
    batch, commands = run(subject.fetch(RETRY_OWN_SECONDS, 1000), server)
    assert RunScript(UNCOUNT, ("in",), ("group", "me", b"5-0", 1, b"6-0", 1)) in commands
    assert [(entry.id, entry.deliveries) for entry in batch.entries] == [(b"5-0", 1)]
    assert ("XCLAIM", False) in server.bounds


def test_claim_of_many_whose_reply_was_lost_counts_nothing() -> None:
    """Nobody knows what such a claim has brought: what it did is taken back, and the entries come as a batch again."""
    subject = delivery()
    found = pending((b"5-0", 0), (b"6-0", 0), mine=False)
    with pytest.raises(Unavailable):
        run(subject.fetch(0.0, 1000), Scripted(XPENDING=found, XCLAIM=Unavailable("streams", "TimeoutError")))
    batch, commands = run(subject.fetch(1.0, 1000), PutOff(b"5-0", b"6-0"))
    assert RunScript(UNCOUNT, ("in",), ("group", "me", b"5-0", 1, b"6-0", 1)) in commands
    assert [(entry.id, entry.deliveries) for entry in batch.entries] == [(b"5-0", 1), (b"6-0", 1)]


def test_claim_whose_reply_was_lost_is_settled_before_the_next() -> None:
    """Nobody knows whether such a claim counted, so it is taken back if it did, and then sent again."""
    subject = delivery()
    found = pending((b"5-0", 1))
    with pytest.raises(Unavailable):
        run(subject.fetch(0.0, 1000), Scripted(XPENDING=found, XCLAIM=Unavailable("streams", "TimeoutError")))
    for _ in range(2):  # the outage goes on
        with pytest.raises(Unavailable):
            run(subject.fetch(1.0, 1000), Scripted(uncount=Unavailable("streams", "ConnectionError")))
    batch, commands = run(subject.fetch(2.0, 1000), Scripted(XPENDING=found, XCLAIM=claimed))
    assert commands[0] == RunScript(UNCOUNT, ("in",), ("group", "me", b"5-0", 2))
    assert [(entry.id, entry.deliveries) for entry in batch.entries] == [(b"5-0", 2)]
    _, commands = run(subject.uncount_tries(), Scripted())
    assert commands == []


def test_what_could_not_be_taken_back_is_before_the_next_claim() -> None:
    """If the server of the streams is away when an entry is put off, the try is taken back as soon as it is there."""
    subject = delivery()
    run(subject.fetch(0.0, 0), Scripted())
    with pytest.raises(Unavailable):
        run(
            subject.put_off([Entry(ROUTE, b"5-0", None, deliveries=3)], 0.0),
            Scripted(uncount=Unavailable("streams", "ConnectionError")),
        )
    _, commands = run(subject.fetch(1.0, 0), Scripted())
    assert commands[0] == RunScript(UNCOUNT, ("in",), ("group", "me", b"5-0", 3))
    assert [command[0] for command in commands[1:]] == ["XREADGROUP"]


def test_tries_of_a_lost_group_are_forgotten() -> None:
    """The counts of a lost group are gone with it: nothing is taken back any more."""
    subject = delivery()
    gone = Scripted(uncount=ServerError("streams", "NOGROUP"))
    run(subject.put_off([Entry(ROUTE, b"5-0", None)], 0.0), gone)
    _, commands = run(subject.uncount_tries(), Scripted())
    assert commands == []


def test_full_page_is_followed_by_the_next() -> None:
    """Own entries are looked at page by page to the last one, without a wait in between."""
    subject = delivery(batch_size=OWN_AT_ONCE)

    def page(command: Any) -> Any:
        if "IDLE" in command:
            return []
        start = int(command[3].partition("-")[0].removeprefix("(") or 0)
        return [[b"%d-0" % n, b"me", 1, 0] for n in range(start + 1, min(start + command[5], 2500) + 1)]

    server = Scripted(XPENDING=page, XCLAIM=claimed)
    seen: list[bytes] = []
    while len(seen) < 2500:
        seen += [entry.id for entry in run(subject.fetch(0.0, 1000), server)[0].entries]
    assert seen == [b"%d-0" % n for n in range(1, 2501)]
    assert [command for command in server.named("XREADGROUP") if "BLOCK" in command] == []
    run(subject.fetch(0.0, 1000), server)
    run(subject.fetch(0.0, 1000), server)
    assert "BLOCK" in server.named("XREADGROUP")[-1]


def test_no_read_waits_while_entries_of_dead_workers_are_known() -> None:
    """After the allowed isolated tries in a row a read does not wait, if there may be more on the next page."""
    subject = delivery()
    server = Scripted(XPENDING=endless(1, mine=False), XCLAIM=claimed)
    while len(server.named("XCLAIM")) < 2 * FOUND_AT_ONCE:
        run(subject.fetch(0.0, 1000), server)
    assert len(server.named("XREADGROUP")) > 1
    assert [command for command in server.named("XREADGROUP") if "BLOCK" in command] == []


def test_read_waits_no_longer_than_until_entries_are_tried_again() -> None:
    """Entries that were put off are looked for when their rest is over, not when the read for new ones ends."""
    subject = delivery()
    run(subject.fetch(0.0, 0), Scripted())
    run(subject.put_off([Entry(ROUTE, b"5-0", None)], 0.0), Scripted())
    server = Scripted()
    run(subject.fetch(RETRY_OWN_SECONDS - 0.25, 1000), server)
    [read] = server.named("XREADGROUP")
    assert read[read.index("BLOCK") + 1] == 250
    server = Scripted(XPENDING=pending((b"5-0", 0)), XCLAIM=claimed)
    batch, _ = run(subject.fetch(RETRY_OWN_SECONDS, 1000), server)
    assert [entry.id for entry in batch.entries] == [b"5-0"]


def test_rest_is_longer_the_longer_all_that_was_put_off_takes() -> None:
    """Entries put off again and again keep a worker busy for a third of its time at most, however many there are."""
    subject = delivery()
    server = Scripted(XPENDING=pending(*((b"%d-0" % n, 0) for n in range(1, 9))), XCLAIM=claimed)
    batch, _ = run(subject.fetch(0.0, 0), server)
    run(subject.put_off(batch.entries, 3.0), server)  # it took three seconds
    run(subject.fetch(3.0, 0), Scripted())
    batch, _ = run(subject.fetch(3.0, 0), server)
    run(subject.put_off(batch.entries, 6.0), server)
    run(subject.fetch(6.0, 0), Scripted())
    run(subject.fetch(6.0, 0), Scripted())
    looks = []
    for now in (17.9, 18.1):
        server = Scripted()
        run(subject.fetch(now, 0), server)
        looks.append([command[-1] for command in server.named("XPENDING")])
    assert ["me" in look for look in looks] == [False, True]


def test_only_the_route_that_was_stopped_gets_its_group_again() -> None:
    """When a route's rest is over, its group and its entries are looked at; nothing is asked about other routes."""
    subject = delivery(ROUTE, SECOND)
    run(subject.fetch(0.0, 0), Scripted())
    run(subject.commit(subject.parts([answer(1)]), 0.0), Scripted(commit=ServerError("streams", "UNFIT")))
    server = Scripted()
    run(subject.fetch(PAUSE_SECONDS, 0), server)
    assert [command.keys[0] for command in server.commands if isinstance(command, RunScript)] == ["in"]
    assert server.named("XPENDING") == [("XPENDING", "in", "group", "-", "+", OWN_AT_ONCE, "me")]


def test_route_that_goes_on_is_looked_at_before_it_is_read() -> None:
    """A route whose rest is over is looked at first, also if new entries have their turn after many older ones."""
    subject = delivery(ROUTE, SECOND)
    run(subject.fetch(0.0, 0), Scripted())
    run(subject.commit(subject.parts([answer(1)]), 0.0), Scripted(commit=[3, b"WRONGTYPE"]))
    run(subject.put_off([Entry(SECOND, b"5-0", None)], 0.0), Scripted())
    older = Scripted(XPENDING=lambda command: pending((b"5-0", 0))(command) if "in2" in command else [], XCLAIM=claimed)
    batch, _ = run(subject.fetch(PAUSE_SECONDS - 1, 0), older)
    assert [entry.id for entry in batch.entries] == [b"5-0"]
    server = Scripted()
    run(subject.fetch(PAUSE_SECONDS, 0), server)
    asked = [command[:2] for command in server.commands if not isinstance(command, RunScript)]
    assert asked.index(("XPENDING", "in")) < asked.index(("XREADGROUP", "GROUP"))


def test_renewing_keeps_what_is_still_ours() -> None:
    """A lease is renewed for entries that are still pending here, and only if nobody touched them since."""
    mine = [Entry(ROUTE, b"10-0", None), Entry(ROUTE, b"9-0", None), Entry(ROUTE, b"8-0", None)]
    server = Scripted(
        XPENDING=[[b"8-0", b"me", 500, 1], [b"9-0", b"me", 600, 1]],
        XCLAIM=lambda command: [b"9-0"],
    )
    kept, commands = run(delivery().renew(mine), server)
    assert commands[0][3:5] == (b"8-0", b"10-0")
    assert commands[1] == ("XCLAIM", "in", "group", "me", 500, b"8-0", b"9-0", "JUSTID")
    assert [entry.id for entry in kept] == [b"9-0"]


def answer(number: int, reply_to: str | None = None) -> Answer:
    return Answer(Entry(ROUTE, b"%d-0" % number, None), b"reply", reply_to, b"forbidden" if reply_to else b"")


def test_commit_is_one_script_for_many_replies() -> None:
    """Replies of one route go in one script, which declares every stream it writes."""
    subject = delivery()
    answers = [answer(1), answer(2, "out:a"), answer(3, "out:a"), answer(4, "out:b")]
    done, commands = run(subject.commit(subject.parts(answers), 0.0), Scripted(commit=[1, 1, 2, 0]))
    [script] = commands
    assert script.script is COMMIT
    assert script.keys == ("in", "out", "out:a", "out:b")
    assert Committed(written=2, suppressed=1, forbidden=[answers[2].entry]) == done


def test_large_replies_are_committed_in_parts() -> None:
    """One commit script is bounded in entries and bytes."""
    subject = delivery()
    many = [answer(number) for number in range(1, 1201)]
    _, commands = run(
        subject.commit(subject.parts(many), 0.0), Scripted(commit=lambda run: [1] * ((len(run.args) - 2) // 2))
    )
    assert [(len(command.args) - 2) // 2 for command in commands] == [500, 500, 200]
    large = [Answer(Entry(ROUTE, b"%d-0" % n, None), b"x" * (1 << 20)) for n in range(1, 5)]
    _, commands = run(
        subject.commit(subject.parts(large), 0.0), Scripted(commit=lambda run: [1] * ((len(run.args) - 2) // 2))
    )
    assert len(commands) == 2


def test_refused_target_is_answered_as_forbidden_and_neighbours_are_not_hurt() -> None:
    """A script refused for one target is committed entry by entry; the one at fault is answered on its route."""

    def commit(command: RunScript) -> Any:
        if "out:secret" in command.keys:
            raise ServerError("streams", "NOPERM")
        return [1]

    answers = [answer(1), answer(2, "out:secret"), answer(3)]
    done, commands = run(delivery().commit([answers], 0.0), Scripted(commit=commit))
    assert Committed(written=2, forbidden=[answers[1].entry]) == done
    assert [command.args[3] for command in commands[1:]] == [b"reply", b"reply", b"forbidden", b"reply"]


def test_answers_that_their_stream_refused_are_stuck_and_others_counted() -> None:
    """Of one script those that were answered are told apart from those whose entries stay pending, and the reason."""
    subject = delivery()
    answers = [answer(1), answer(2), answer(3, "out:a"), answer(4, "out:b")]
    done, _ = run(subject.commit(subject.parts(answers), 0.0), Scripted(commit=[1, 3, 1, 3, b"ids used up"]))
    stuck = [answers[1].entry, answers[3].entry]
    assert Committed(written=2, stuck=stuck, refused={"out": "ids used up"}) == done
    assert subject.paused == [ROUTE]


def test_refused_target_of_an_entry_that_is_given_up_costs_it_no_dead_letter() -> None:
    """A script that an ACL refuses for the stream that the request named is run without it."""

    def dead_letter(command: RunScript) -> Any:
        if "out:secret" in command.keys:
            raise ServerError("streams", "NOPERM")
        return 1

    given_up = answer(1, "out:secret")
    done, commands = run(
        delivery().dead_letter(given_up.entry, "why", given_up, 0.0), Scripted(dead_letter=dead_letter)
    )
    assert done == Committed(written=1)
    assert [command.keys for command in commands] == [("in", "in:dead", "out", "out:secret"), ("in", "in:dead", "out")]


@pytest.mark.parametrize(("said", "refused"), [([2, b"WRONGTYPE"], "in:dead"), ([3, b"ids used up"], "out")])
def test_entry_without_a_dead_letter_is_stuck(said: list[Any], refused: str) -> None:
    """The stream at fault is named, and the route rests."""
    subject, entry = delivery(), Entry(ROUTE, b"5-0", None)
    done, _ = run(subject.dead_letter(entry, "why", Answer(entry, b"internal"), 0.0), Scripted(dead_letter=said))
    assert done == Committed(stuck=[entry], refused={refused: said[1].decode()})
    assert subject.paused == [ROUTE]


def test_route_whose_streams_cannot_be_used_rests() -> None:
    """A response stream of another type stops its route alone: its entries stay pending, it is read again later."""
    subject = delivery(ROUTE, SECOND)
    run(subject.fetch(0.0, 0), Scripted())
    done, _ = run(subject.commit(subject.parts([answer(1)]), 0.0), Scripted(commit=[3, b"WRONGTYPE"]))
    assert [entry.id for entry in done.stuck] == [b"1-0"]
    assert done.refused == {"out": "WRONGTYPE"}
    server = Scripted()
    run(subject.fetch(1.0, 0), server)
    [read] = server.named("XREADGROUP")
    assert "in2" in read
    assert "in" not in read
    server = Scripted()
    run(subject.fetch(1.0 + PAUSE_SECONDS, 0), server)
    assert "in" in server.named("XREADGROUP")[0]


def test_unusable_request_stream_does_not_stop_the_others() -> None:
    """When reading all routes fails, each is read apart: the one at fault rests, the others are served."""
    subject = delivery(ROUTE, SECOND)

    def read(command: Any) -> Any:
        if "in" in command:
            raise ServerError("streams", "WRONGTYPE")
        return [[b"in2", entries(1)]]

    batch, _ = run(subject.fetch(0.0, 1000), Scripted(XREADGROUP=read))
    assert [entry.route for entry in batch.entries] == [SECOND]
    assert subject.paused == [ROUTE]


def test_worker_backs_off_when_no_route_can_be_used() -> None:
    """When every route rests there is nothing to wait for on the server: the caller is told to back off."""
    server = Scripted(group=ServerError("streams", "WRONGTYPE"))
    with pytest.raises(Unavailable):
        run(delivery().fetch(0.0, 1000), server)
    assert server.named("XREADGROUP") == []


def test_new_entries_get_their_turn_between_tries_alone() -> None:
    """Many entries of dead workers do not hold up new ones for ever."""
    subject = delivery()
    pending = [[b"%d-0" % n, b"dead", 40_000, 1] for n in range(1, 101)]
    server = Scripted(
        XPENDING=lambda command: pending if "IDLE" in command else [],
        XCLAIM=lambda command: [[command[5], [b"payload", b"x"]]],
        XREADGROUP=lambda command: [[b"in", entries(1, start=1000)]],
    )
    batches: list[Batch] = [run(subject.fetch(0.0, 1000), server)[0] for _ in range(60)]
    assert [batch.isolated for batch in batches].count(False) == 1
    [read] = server.named("XREADGROUP")
    assert "BLOCK" not in read


# -- several slots


def deliveries() -> ClusterDelivery:
    """Two slots, the first with two routes; their groups are made."""
    subject = ClusterDelivery(
        [[ROUTE, Route("in1", "out1", frozenset({Op.TOKENIZE}))], [SECOND]], lambda group: delivery(*group)
    )
    run(subject.fetch(0.0, 0), Scripted())
    return subject


def read_streams(server: Scripted) -> list[tuple[set[str], int]]:
    """Streams of each read, and how long it waits."""
    return [
        ({name for name in command if str(name).startswith("in")}, command[7] if "BLOCK" in command else 0)
        for command in server.named("XREADGROUP")
    ]


def test_slots_are_read_apart_and_waited_for_shortly() -> None:
    """No read covers two slots; where none has anything, one in turn is waited for, until the whole time is over."""
    server = Scripted()
    batch, _ = run(deliveries().fetch(1.0, 3 * ROUND_MS), server)
    one, two = {"in", "in1"}, {"in2"}
    assert batch == Batch([], isolated=False)
    assert [(streams, wait) for streams, wait in read_streams(server) if wait] == [
        (streams, ROUND_MS) for streams in (one, two, one)
    ]
    assert [streams for streams, wait in read_streams(server) if not wait] == [one, two] * 3


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        (["in", "in"], "in"),
        (["in2", "in2"], "in2"),
        (["in", "in2", "in"], "in2"),
        (["in2", "in", "in2"], "in"),
        (["in", "in2", "in", "in"], "in"),
    ],
)
def test_slot_that_followed_the_last_time_is_waited_for(batches: list[str], expected: str) -> None:
    """A producer that waits for each reply sends to one slot, or to several in turn: the next one is waited for."""
    subject = deliveries()
    for turn, name in enumerate(batches):
        batch, _ = run(subject.fetch(float(turn), 1000), Scripted(XREADGROUP=queues(**{name: 1})))
        assert [entry.route.requests for entry in batch.entries] == [name]
    server = Scripted()
    run(subject.fetch(9.0, 3 * ROUND_MS), server)
    waited_for = [streams for streams, wait in read_streams(server) if wait]
    assert expected in waited_for[0]
    assert waited_for[1] != waited_for[2]


def test_no_slot_is_waited_for_while_another_has_entries_to_take() -> None:
    """Entries that were put off in one slot are taken at once, also when it is not that slot's turn."""
    routes = [Route(f"in{n}", f"out{n}", frozenset({Op.TOKENIZE})) for n in range(3)]
    subject = ClusterDelivery([[route] for route in routes], lambda group: delivery(*group, batch_size=1))
    run(subject.fetch(0.0, 0), Scripted())
    entry = Entry(routes[0], b"1-0", None)
    run(subject.put_off([entry], 0.0), Scripted())
    server = Scripted(XPENDING=endless(0), XCLAIM=claimed)
    for _ in range(8):
        batch, _ = run(subject.fetch(RETRY_OWN_SECONDS, 3 * ROUND_MS), server)
        assert [entry.route for entry in batch.entries] == [routes[0]]
    assert [wait for _, wait in read_streams(server) if wait] == []


def test_slots_take_turns() -> None:
    """A deep backlog in one slot does not starve another; each batch is of one slot."""
    subject = deliveries()
    seen = []
    for turn in range(4):
        server = Scripted(XREADGROUP=lambda command: [[b"in2" if "in2" in command else b"in", entries(1)]])
        batch, _ = run(subject.fetch(float(turn), 1000), server)
        seen.append({entry.route.requests for entry in batch.entries})
    assert seen in ([{"in"}, {"in2"}] * 2, [{"in2"}, {"in"}] * 2)


def test_slot_is_asked_before_the_busy_one_that_is_waited_for() -> None:
    """An entry that comes to another slot while the busy one is waited for comes with the next batch."""
    subject = deliveries()
    server = Scripted(XREADGROUP=queues(**{"in": 1000}))
    for turn in range(3):
        batch, _ = run(subject.fetch(float(turn), 1000), server)
        assert {entry.route.requests for entry in batch.entries} == {"in"}
    batch, _ = run(subject.fetch(3.0, 1000), Scripted(XREADGROUP=queues(**{"in": 1000, "in2": 1})))
    assert [entry.route.requests for entry in batch.entries] == ["in2"]


def test_slot_that_is_away_rests_and_the_others_go_on() -> None:
    """While a node is away its routes rest, others are served; then what it may have delivered comes first."""
    subject = deliveries()

    def read(command: Any) -> Any:
        if "in2" in command:
            raise Unavailable("streams", "ConnectionError")
        return [[b"in", entries(1)]]

    for turn in range(3):
        server = Scripted(XREADGROUP=read)
        batch, _ = run(subject.fetch(turn / 10, 1000), server)
        assert {entry.route.requests for entry in batch.entries} == {"in"}
    assert subject.paused == [SECOND]
    assert sum("in2" in streams for streams, _ in read_streams(server)) == 0
    server = Scripted()
    run(subject.fetch(REST_SECONDS.shortest + 1, 0), server)
    assert subject.paused == []
    assert ("XPENDING", "in2", "group", "-", "+", 1000, "me") in server.commands


def test_slots_that_are_all_away_are_an_outage() -> None:
    """When no slot can be read the caller is told, to back off, at once; also while they rest."""
    subject = deliveries()
    server = Scripted(XREADGROUP=Unavailable("streams", "CLUSTERDOWN"))
    for now in (1.0, 1.1):
        with pytest.raises(Unavailable, match="CLUSTERDOWN"):
            run(subject.fetch(now, 1000), server)
    assert len(server.named("XREADGROUP")) == 2
    assert not subject.has_older(1.1)
    assert subject.has_older(1.1 + REST_SECONDS.shortest)


def test_slot_whose_node_hangs_rests_ever_longer() -> None:
    """A rest begins when the time-out is over, and is doubled after each, so that others are kept waiting seldom."""
    subject, server = deliveries(), Scripted()
    now, asked = 0.0, []

    def read(command: Any) -> Any:
        nonlocal now
        if "in2" in command:
            asked.append(now)
            now += 2.0
            raise Unavailable("streams", "TimeoutError")
        now += 0.5
        return [[b"in", entries(1)]]

    server.answers["XREADGROUP"] = read
    while now < 200:
        run(subject.fetch(now, 1000), server)
    rests = [after - before - 2.0 for before, after in pairwise(asked)]
    assert [int(rest) for rest in rests[:6]] == [1, 2, 4, 8, 16, REST_SECONDS.longest]
    assert max(rests) < REST_SECONDS.longest + 2
    # Once it is refused at once, which keeps nobody waiting, the next rest is a short one.
    server.answers["XREADGROUP"] = Unavailable("streams", "CLUSTERDOWN")
    for later in (REST_SECONDS.longest + 2, 0.0):
        now += later
        with pytest.raises(Unavailable):
            run(subject.fetch(now, 0), server)
    assert not subject.has_older(now)
    server.answers["XREADGROUP"] = []
    run(subject.fetch(now + REST_SECONDS.shortest, 0), server)
    assert subject.paused == []


def test_entries_are_answered_in_their_slot() -> None:
    """Commits, dead letters and leases go by the delivery of the entry's slot, whose routes rest for a bad stream."""
    subject = deliveries()
    entry = Entry(SECOND, b"5-0", None)
    refused = Scripted(commit=ServerError("streams", "NOPERM"))
    done, _ = run(subject.commit([[Answer(entry, b"reply")]], 1.0), refused)
    assert (done.stuck, done.refused) == ([entry], {"in2": "NOPERM"})
    assert subject.paused == [SECOND]
    _, commands = run(subject.dead_letter(entry, "why", None, 1.0), Scripted(dead_letter=1))
    assert commands[0].keys[0] == "in2"
    kept, _ = run(subject.renew([entry]), Scripted(XPENDING=[[b"5-0", b"me", 500, 1]], XCLAIM=[b"5-0"]))
    assert kept == [entry]
    _, commands = run(subject.put_off([entry], 1.0), Scripted())
    assert commands[0].keys == ("in2",)
    subject.suspect([entry], 1.0)
    assert subject.has_older(1.0)


def test_slots_are_never_read_with_a_commit() -> None:
    """In a cluster the next entries may be in another slot, so the next read is not sent with a commit."""
    assert not deliveries().reads_at_once(0.0, 1)


def test_lost_groups_of_all_slots_are_counted() -> None:
    """A group that is found gone is made again and counted, in whichever slot it is."""
    subject = deliveries()
    server = Scripted(XREADGROUP=ServerError("streams", "NOGROUP"))
    with pytest.raises(Unavailable):
        run(subject.fetch(1.0, 0), server)
    assert subject.groups_made_again == 2


class _Away:
    """A link to a server that is away; each error holds what was asked, as those of a real one do."""

    name = "streams"

    def call(self, *command: Any) -> Any:
        try:
            socket.create_connection(("127.0.0.1", 0))
        except OSError:
            raise Unavailable(self.name, "ConnectionError") from None

    run = call


@pytest.mark.parametrize("is_handled", [True, False], ids=["by the protocol", "by nobody"])
def test_error_keeps_nothing_once_it_is_handled(*, is_handled: bool) -> None:
    """The arguments of a failed command are freed with its error: an outage does not gather them."""

    class Payload(list[bytes]):
        """A list that can be watched."""

    watched: list[weakref.ref[Payload]] = []

    def protocol() -> Exchange[None]:
        payload = Payload([b"megabytes"])
        watched.append(weakref.ref(payload))
        try:
            yield RunScript(COMMIT, (), payload)
        except Unavailable:
            if not is_handled:
                raise

    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            with contextlib.suppress(Unavailable):
                drive(protocol(), cast(RedisLink, _Away()))
        assert [ref() for ref in watched] == [None] * 3
    finally:
        gc.enable()
