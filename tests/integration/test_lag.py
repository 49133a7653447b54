"""Lag equals the entries counted by reading, if the server's own figure is right, unknown or wrong."""

import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from harness import quick
from harness.servers import Valkey, free_port, oldest_binary, redis_binary, valkey_binary
from harness.stack import GROUP, Stack, wait_until
from token_worker.admin import lag
from token_worker.admin.lag import GroupLag, measure
from token_worker.contract.messages import Op
from token_worker.redis.address import RedisSettings
from token_worker.redis.exchange import drive
from token_worker.redis.link import RedisLink
from token_worker.streams.routes import Route
from token_worker.streams.stream_ids import LAST_ID
from token_worker.streams.worker_notes import WorkerNote

ROUTE = Route("in", "out", frozenset({Op.TOKENIZE}))


@pytest.fixture(
    scope="module", params=[valkey_binary, redis_binary, oldest_binary], ids=["valkey", "redis82", "redis70"]
)
def process(request: pytest.FixtureRequest) -> Iterator[Valkey]:
    """Each of the servers."""
    with Valkey(binary=request.param()) as server:
        yield server


class MeasuredServer:
    """A server with the true lag of its stream ``in``."""

    def __init__(self, server: Valkey) -> None:
        self.server = server
        self.client: Any = server.client()
        self.client.flushall()
        self.link = RedisLink("streams", RedisSettings(url=server.url), raise_server_errors=True)

    def lag(self) -> GroupLag:
        [row] = [
            row for row in drive(measure([ROUTE], GROUP), self.link).rows if row.stream == "in" and row.group == GROUP
        ]
        return row

    def truth(self) -> int:
        """Entries after the last delivered one, by reading them all."""
        for group in self.client.xinfo_groups("in"):
            if group["name"] == GROUP.encode():
                return len(self.client.xrange("in", min=f"({group['last-delivered-id'].decode()}"))
        return int(self.client.xlen("in"))

    def add(self, count: int) -> list[bytes]:
        return [self.client.xadd("in", {"payload": "x"}) for _ in range(count)]

    def read(self, count: int) -> list[bytes]:
        found = self.client.xreadgroup(GROUP, "me", {"in": ">"}, count=count)
        return [entry_id for _, entries in found for entry_id, _ in entries]


@pytest.fixture
def measured(process: Valkey) -> MeasuredServer:
    """A server without any stream."""
    return MeasuredServer(process)


def test_nothing_was_sent_yet(measured: MeasuredServer) -> None:
    """A stream that does not exist is no lag, and known not to be there rather than an error."""
    row = measured.lag()
    assert (row.undelivered, row.exact, row.pending, row.lag_known) == (0, True, 0, False)
    assert row.oldest_undelivered_age_seconds is None


def test_group_that_does_not_exist_has_everything_before_it(measured: MeasuredServer) -> None:
    """Without the group every entry is undelivered."""
    measured.add(5)
    row = measured.lag()
    assert (row.undelivered, row.exact, row.lag_known) == (5, True, False)
    assert row.oldest_undelivered_age_seconds is not None


def test_figures_are_right_while_all_is_well(measured: MeasuredServer) -> None:
    """Undelivered, pending, deliveries and consumers while all is well."""
    measured.client.xgroup_create("in", GROUP, id="0", mkstream=True)
    measured.add(10)
    ids = measured.read(4)
    measured.client.xack("in", GROUP, ids[0])
    measured.client.xclaim("in", GROUP, "me", 0, [ids[2]])
    measured.client.xadd("in:dead", {"payload": "x"})
    row = measured.lag()
    assert (row.undelivered, row.exact, row.pending, row.lag_known) == (6, True, 3, True)
    assert (row.max_deliveries, row.consumers, row.dead_consumers, row.dead_letters) == (2, 1, 0, 1)
    assert row.oldest_pending_age_seconds is not None
    measured.read(10)
    assert measured.lag().undelivered == 0


def test_worker_that_waits_for_its_first_request_is_alive(measured: MeasuredServer) -> None:
    """A worker that is ready counts on every server. Redis before 7.2 keeps no consumer of reads that bring nothing."""
    measured.client.xgroup_create("in", GROUP, id="0", mkstream=True)
    measured.client.xreadgroup(GROUP, "worker-1", {"in": ">"}, block=1)
    for name, is_ready in (("worker-1", True), ("worker-2", False)):
        note = WorkerNote("1.0", "host", 0, ready=is_ready, at=round(time.time()))
        measured.client.hset(ROUTE.own_keys.workers, name, msgspec.json.encode(note))
    row = measured.lag()
    assert (row.consumers, row.dead_consumers) == (1, 0)


def test_deleted_entries_make_the_servers_lag_unknown(measured: MeasuredServer) -> None:
    """After XDEL of an undelivered entry the server does not know: it is counted, never shown as 0."""
    measured.client.xgroup_create("in", GROUP, id="0", mkstream=True)
    ids = measured.add(10)
    measured.read(3)
    measured.client.xdel("in", ids[6])
    row = measured.lag()
    assert not row.lag_known
    assert (row.undelivered, row.exact) == (6, True)


def test_group_made_at_an_id(measured: MeasuredServer) -> None:
    """A group made in the middle of a stream: the server does not know, we count."""
    ids = measured.add(10)
    measured.client.xgroup_create("in", GROUP, id=ids[3].decode())
    row = measured.lag()
    assert (row.undelivered, row.exact) == (6, True)
    assert not row.lag_known


def test_newer_entries_deleted_before_older_ones(measured: MeasuredServer) -> None:
    """Entries that are acknowledged and deleted out of order do not hide undelivered entries."""
    measured.client.xgroup_create("in", GROUP, id="0", mkstream=True)
    measured.add(10)
    ids = measured.read(6)
    measured.client.xack("in", GROUP, ids[5])
    measured.client.xdel("in", ids[5])
    measured.client.xack("in", GROUP, ids[0])
    measured.client.xdel("in", ids[0])
    row = measured.lag()
    assert (row.undelivered, row.exact) == (4, True)


def test_undelivered_entries_trimmed_away(measured: MeasuredServer) -> None:
    """After XTRIM of undelivered entries only existing entries count, even if the server's lag is wrong."""
    measured.client.xgroup_create("in", GROUP, id="0", mkstream=True)
    measured.add(10)
    measured.read(2)
    measured.client.xtrim("in", maxlen=3, approximate=False)
    row = measured.lag()
    assert (row.undelivered, row.exact) == (3, True)


def test_past_the_bound_it_is_at_least(measured: MeasuredServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting ends at a bound, and says so."""
    monkeypatch.setattr(lag, "COUNT_ENTRIES_MAX", 200)
    ids = measured.add(1000)
    measured.client.xgroup_create("in", GROUP, id=ids[3].decode())
    row = measured.lag()
    assert (row.undelivered, row.exact) == (200, False)


@pytest.mark.parametrize("seed", range(15))
def test_whatever_happens_it_is_the_truth(measured: MeasuredServer, seed: int) -> None:
    """After any sequence of adding, reading, acknowledging, deleting, trimming and setting the group, lag is exact."""
    rng = random.Random(seed)
    measured.client.xgroup_create("in", GROUP, id="0", mkstream=True)
    alive: list[bytes] = []
    delivered: list[bytes] = []
    for _ in range(60):
        action = rng.choice("aaarrrkdtsg")
        if action == "a":
            alive += measured.add(rng.randrange(1, 8))
        elif action == "r":
            delivered += measured.read(rng.randrange(1, 6))
        elif action == "k" and delivered:
            measured.client.xack("in", GROUP, rng.choice(delivered))
        elif action == "d" and alive:
            measured.client.xdel("in", rng.choice(alive))
        elif action == "t":
            measured.client.xtrim("in", maxlen=rng.randrange(30), approximate=False)
        elif action == "s" and alive:
            measured.client.xgroup_setid("in", GROUP, rng.choice(alive).decode())
        elif action == "g" and alive:
            measured.client.xgroup_destroy("in", GROUP)
            measured.client.xgroup_create("in", GROUP, id=rng.choice([b"0", b"$", *alive[-3:]]).decode())
        row = measured.lag()
        assert row.exact
        assert row.undelivered == measured.truth()


def test_readers_of_replies_are_shown(measured: MeasuredServer) -> None:
    """Groups of response streams have rows of their own."""
    measured.client.xgroup_create("out", "producers", id="0", mkstream=True)
    measured.client.xadd("out", {"payload": "x"})
    rows = {(row.stream, row.group): row for row in drive(measure([ROUTE], GROUP), measured.link).rows}
    assert rows["out", "producers"].undelivered == 1
    assert rows["out", "producers"].dead_letters is None


def test_ids_that_are_no_times_have_no_age(measured: MeasuredServer) -> None:
    """An id that somebody chose is not taken for a time."""
    measured.client.xadd("in", {"payload": "x"}, id="5-1")
    assert measured.lag().oldest_undelivered_age_seconds is None


# Ids that lie ahead of the clock


def ahead_id(measured: MeasuredServer, number: int) -> str:
    """An id that lies a day ahead."""
    return f"{now_ms(measured) + 86_400_000}-{number}"


def now_ms(measured: MeasuredServer) -> int:
    seconds, micros = measured.client.time()
    return int(seconds * 1000 + micros // 1000)


def test_age_of_an_id_ahead_is_not_known_without_workers(measured: MeasuredServer) -> None:
    """If ids are ahead of the clock and no worker has noted arrivals, an age is unknown, and never 0."""
    measured.client.xgroup_create("in", GROUP, id="0", mkstream=True)
    measured.client.xadd("in", {"payload": "x"}, id=ahead_id(measured, 0))
    measured.add(1)
    for _ in range(3):
        row = measured.lag()
        assert row.has_unknown_age
        assert (row.oldest_undelivered_age_seconds, row.oldest_pending_age_seconds) == (None, None)
        assert 86_000 < row.ids_ahead_seconds <= 86_400
        measured.read(1)


def test_age_of_an_id_ahead_is_told_by_what_workers_have_noted(measured: MeasuredServer) -> None:
    """An entry is at most as old as the last note before its id, and at least as old as the first after it."""
    measured.client.xgroup_create("in", GROUP, id="0", mkstream=True)
    first, second, third = (
        measured.client.xadd("in", {"payload": "x"}, id=ahead_id(measured, n)).decode() for n in (1, 2, 3)
    )
    now = now_ms(measured)
    for notes, age in (
        (f"{now - 90_000} 5-0 {now - 50_000} {first} {now - 20_000} {third}", 90),
        (f"{now - 50_000} {first}", 50),
        (f"{now - 90_000} 5-0 {now + 50_000} {first}", 90),  # of before the clock was set back
        (f"{now - 90_000} 5-0 {now - 50_000} {third}1", 90),  # of a stream that was deleted
    ):
        measured.client.set("in:arrivals", notes)
        row = measured.lag()
        assert age <= (row.oldest_undelivered_age_seconds or 0) < age + 10
    measured.client.set("in:arrivals", f"{now - 90_000} 5-0 {now - 50_000} {second}")
    measured.read(2)
    assert 50 <= (measured.lag().oldest_undelivered_age_seconds or 0) < 60
    assert 90 <= (measured.lag().oldest_pending_age_seconds or 0) < 100


def test_ids_ahead_are_told_for_each_stream(measured: MeasuredServer) -> None:
    """The command tells which request, reply and dead-letter streams have ids ahead, even if nobody reads them."""
    for stream in ("out", "in:dead"):
        measured.client.xadd(stream, {"payload": "x"}, id=ahead_id(measured, 0))
    measured.add(1)
    found = drive(measure([ROUTE], GROUP), measured.link).ahead_seconds
    assert found.keys() == {"in", "out", "in:dead"}
    assert found["in"] == 0
    assert 86_000 < found["out"] <= found["in:dead"] <= 86_400


def test_entry_with_the_largest_id_is_counted(measured: MeasuredServer) -> None:
    """It is undelivered, then pending, then done: after it no entry can come, and the stream says so."""
    measured.client.xadd("in", {"payload": "x"}, id="1-1")
    gone = measured.client.xadd("in", {"payload": "x"}, id="1-2")
    measured.client.xgroup_create("in", GROUP, id="0")
    measured.read(1)
    measured.client.xdel("in", gone)  # so the server tells no lag of its own
    measured.client.xadd("in", {"payload": "x"}, id=LAST_ID)
    assert (measured.lag().undelivered, measured.lag().exact, measured.lag().pending) == (1, True, 1)
    measured.read(1)
    assert (measured.lag().undelivered, measured.lag().pending) == (0, 2)
    measured.client.xack("in", GROUP, "1-1", LAST_ID)
    assert (measured.lag().undelivered, measured.lag().pending) == (0, 0)
    assert "used up" in drive(measure([ROUTE], GROUP), measured.link).ids["in"].message


def test_page_of_pending_entries_may_end_with_the_largest_id(measured: MeasuredServer) -> None:
    """The most deliveries are told even if the last of a thousand pending entries has the largest id that exists."""
    for number in range(1, 1000):
        measured.client.xadd("in", {"payload": "x"}, id=f"1-{number}")
    measured.client.xadd("in", {"payload": "x"}, id=LAST_ID)
    measured.client.xgroup_create("in", GROUP, id="0")
    measured.read(1000)
    measured.client.xclaim("in", GROUP, "me", 0, [LAST_ID], retrycount=7)
    assert (measured.lag().pending, measured.lag().max_deliveries) == (1000, 7)


def test_large_entries_are_not_read_to_measure_lag(measured: MeasuredServer) -> None:
    """Undelivered entries are counted, and their age is told, without the transfer of a single entry."""
    ids = [measured.client.xadd("in", {"payload": b"x" * 2_000_000}) for _ in range(6)]
    measured.client.xgroup_create("in", GROUP, id=ids[1].decode())
    measured.client.xdel("in", ids[3])
    before = measured.client.info("stats")["total_net_output_bytes"]
    row = measured.lag()
    assert (row.undelivered, row.exact, row.lag_known) == (3, True, False)
    assert row.oldest_undelivered_age_seconds is not None
    assert measured.client.info("stats")["total_net_output_bytes"] - before < 100_000


def test_age_that_cannot_be_told_is_a_finding(stack: Stack) -> None:
    """With ids ahead of the clock and no worker, ``--max-age-seconds`` fails, and says why and what to do."""
    seconds, _ = stack.streams.time()
    stack.streams.xadd("tokenize:requests", {"payload": "x"}, id=f"{(seconds + 86_400) * 1000}-0")
    stack.send([{"id": "1"}])
    checked = command(stack, "--max-age-seconds", "1")
    assert checked.returncode == 1
    assert "--max-age-seconds 1 cannot be checked: ids are ahead of the server's clock by 86," in checked.stderr
    assert "DEL" in checked.stderr
    assert "ids are ahead" in " ".join(checked.stdout.split())
    shown = command(stack, "--json")
    assert shown.returncode == 0
    [row] = [
        line for line in map(msgspec.json.decode, shown.stdout.splitlines()) if line["stream"] == "tokenize:requests"
    ]
    assert row["ids_ahead_seconds"] > 86_000
    assert row["oldest_undelivered_age_seconds"] is None
    stack.streams.delete("tokenize:requests")
    stack.streams.xadd("tokenize:requests", {"payload": "x"}, id="5-1")
    no_time = command(stack, "--max-age-seconds", "1")
    assert no_time.returncode == 1
    assert "cannot be checked: ids are not times" in no_time.stderr


def command(stack: Stack, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = stack.environment(**more)
    environment.pop("ACRA_MASTER_KEY", None)  # it needs none
    return quick.run(
        [sys.executable, "-m", "token_worker", "lag", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_command_is_a_check(stack: Stack) -> None:
    """``lag`` shows rows for people and programs, needs no key, and tells which limit broke by exit status 1."""
    stack.streams.xgroup_create("tokenize:requests", GROUP, id="0", mkstream=True)
    stack.send([{"id": "1"}] * 7)
    shown = command(stack, "--json")
    rows = [msgspec.json.decode(line) for line in shown.stdout.splitlines()]
    [row] = [row for row in rows if row["stream"] == "tokenize:requests"]
    expected = {"stream", "group", "undelivered", "exact", "pending", "oldest_undelivered_age_seconds", "lag_known"}
    expected |= {"oldest_pending_age_seconds", "max_deliveries", "consumers", "dead_consumers", "dead_letters"}
    expected |= {"ids_ahead_seconds", "added", "read"}
    assert set(row) == expected
    assert row["added"] == 7
    assert row["undelivered"] == 7
    assert "tokenize:requests" in command(stack).stdout
    assert command(stack, "--max-lag", "7", "--max-pending", "0", "--max-age-seconds", "3600").returncode == 0
    broken = command(stack, "--max-lag", "6", "--max-age-seconds", "0")
    assert broken.returncode == 1
    assert "--max-lag 6 is exceeded: 7" in broken.stderr
    assert "--max-age-seconds 0 is exceeded" in broken.stderr
    away = command(stack, TOKEN_WORKER_STREAMS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert away.returncode == 3


def test_exporter_measures_at_every_scrape(stack: Stack) -> None:
    """``lag --serve`` exports gauges of this moment; a port that is taken is wrong usage."""
    stack.send([{"id": "1"}] * 3)
    port = free_port()
    process = quick.Popen(
        [sys.executable, "-m", "token_worker", "lag", "--serve", f"127.0.0.1:{port}"], env=stack.environment()
    )
    try:
        wait_until(lambda: "undelivered" in scrape(port), "the exporter")
        assert (
            'token_worker_stream_undelivered_entries{group="token-workers",stream="tokenize:requests"} 3.0'
            in scrape(port)
        )
        stack.send([{"id": "1"}] * 2)
        text = scrape(port)
        assert 'token_worker_stream_undelivered_entries{group="token-workers",stream="tokenize:requests"} 5.0' in text
        for name in ("pending_entries", "oldest_undelivered_age_seconds", "oldest_pending_age_seconds", "lag_known"):
            assert f"token_worker_stream_{name}" in text
        assert "token_worker_streams_reachable 1.0" in text
        taken = command(stack, "--serve", f"127.0.0.1:{port}")
        assert taken.returncode == 2
        assert "--serve" in taken.stderr
    finally:
        process.terminate()
        process.wait()


def scrape(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def test_watching_refreshes_until_told_to_stop(stack: Stack) -> None:
    """``lag --watch --json`` prints rows again and again."""
    process = subprocess.Popen(
        [sys.executable, "-m", "token_worker", "lag", "--watch", "--json"],
        env={**stack.environment(), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    killer = threading.Timer(30, process.kill)
    killer.start()
    try:
        lines = [process.stdout.readline() for _ in range(4)]  # two routes, twice
        assert all(msgspec.json.decode(line)["group"] == GROUP for line in lines)
    finally:
        killer.cancel()
        process.terminate()
        process.wait()
        process.stdout.close()
