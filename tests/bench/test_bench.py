"""``scripts/bench`` measures, compares and stops everything; the tests assert no speed."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from bench import calls, cpu, load, preload
from bench.calls import Calls
from bench.figures import Row, Run, compare, row, text
from bench.load import Loop, Order
from bench.program import program
from bench.sizes import QUICK
from bench.subject import Subject, payloads, subject
from harness.servers import Valkey
from harness.stack import Stack

LITTLE = {
    "requests": 100,
    "acra": 100,
    "stored": 1000,
    "clients": 30,
    "large": 1,
    "seconds": 0.2,
    "idle": 1.1,
    "rows": 500,
    "loop": 0.05,
    "listed": 300,
}
INFORM = {
    "closed loop, refilled in one write: CPU of the worker: 512, null worker",
    "closed loop, refilled in one write: mean batch of the worker: 64, known value, Acra's entry",
    "closed loop, refilled one by one: p50: 1, new value",
    "closed loop, refilled one by one: CPU of the load program: 64, null worker",
    "open loop: p99: 60 % of its rate, detokenize",
    "client, known values, two workers: calls: 64 threads that block, batch_ms=1, null worker",
    "client, known values, two workers: a list of 300 values: CPU",
    "worker CPU, single requests: null worker",
    "worker CPU, requests of 100 items: null worker",
    "throughput of one worker: null worker",
    "worker CPU, single requests: known value, Acra's entry",
    "worker CPU, requests of 100 items: detokenize, Acra's entry",
    "Redis CPU, single requests: null worker",
    "Redis memory: a token, both entries, few",
    "layouts, memory of Redis: acra",
    "layouts, CPU of the storage's server, single requests: detokenize, dense",
    "resident peak of the worker: after one request",
    "start to first reply: null worker with the same imports",
    "token-worker file, 500 rows of two columns: new value, CPU of the command",
}
GOALS = {
    "closed loop, refilled in one write: CPU of the worker: 64, known value": "≤ 1.5 x null",
    "closed loop, refilled in one write: CPU of the worker: 8, new value": "≤ 2 x null",
    "closed loop, refilled in one write: CPU of the worker: 1, detokenize": "≤ 1.3 x null",
    "closed loop, refilled in one write: throughput: 64, new value": "≥ 0.45 x null",
    "closed loop, refilled in one write: p99: 64, known value": "≤ 2 x null",
    "closed loop, refilled one by one: CPU of the worker: 64, new value": "≤ 2.5 x null",
    "closed loop, refilled one by one: throughput: 64, known value": "≥ 0.7 x null",
    "closed loop, refilled one by one: p99: 64, new value": "≤ 3 x null",
    "client, known values, two workers: calls: submit, 512 in flight": "≥ 20000 calls/s",
    "client, known values, two workers: calls: 64 threads that block": "≥ 8000 calls/s",
    "client, known values, two workers: CPU: submit, 64 in flight": "≤ 40 µs a call",
    "client, known values, two workers: CPU: async, 512 in flight": "≤ 60 µs a call",
    "client, known values, two workers: p99: async, 64 in flight": "≤ 4 x p50",
    "client, known values, two workers: p99: submit, 64 in flight, futures kept": "≤ 4 x p50",
    "client, known values, two workers: a list of 300 values: values": "≥ 100000 values/s",
    "worker CPU, single requests: new value": "≤ 8.1 x null",
    "worker CPU, single requests: known value": "≤ 3.9 x null",
    "worker CPU, single requests: detokenize": "≤ 4.6 x null",
    "worker CPU, requests of 100 items: new value": "≤ 6 x null",
    "worker CPU, requests of 100 items: known value": "≤ 6 x null",
    "worker CPU, requests of 100 items: detokenize": "≤ 6 x null",
    "throughput of one worker: new value": "≥ 0.25 x null",
    "throughput of one worker: known value": "≥ 0.5 x null",
    "throughput of one worker: detokenize": "≥ 0.5 x null",
    "Redis CPU, single requests: new value, both": "≤ 3 x null",
    "formats, worker CPU, single requests: pan of 16, new value": "≤ 1.25 x str",
    "formats, worker CPU, 100 items: pan of 16, new value": "≤ 1.25 x str",
    "Redis memory: a token, both entries": "≤ 1.1 x few",
    "layouts, memory of Valkey: dense": "≤ 190 bytes a token",
    "layouts, memory of Redis: dense": "≤ 210 bytes a token",
    "layouts, CPU of the worker, single requests: new value, dense": "≤ 1.15 x acra",
    "layouts, CPU of the worker, requests of 100 items: new value, dense": "≤ 0.8 x acra",
    "layouts, CPU of the worker, requests of 100 items: known value, dense": "≤ 1.3 x acra",
    "layouts, CPU of the worker, requests of 100 items: detokenize, dense": "≤ 1 x acra",
    "layouts, CPU of the storage's server, requests of 100 items: new value, dense": "≤ 0.6 x acra",
    "two workers: new value": "≥ 1.8 x one",
    "steady single requests: p50, new value": "≤ 1.5 x null",
    "steady single requests: p99, known value": "≤ 1.5 x null",
    "steady single requests: CPU, new value": "≤ 15 % of a core",
    "idle: CPU, worker": "≤ 0.5 % of a core",
    "worker and storage CPU, few and many tokens stored: known value, many": "≤ 1.1 x few",
    "CPU of known values, many clients in turn: many clients, worker": "≤ 2 x one",
    "resident peak of the worker: requests of 1 MiB and 1,000 items": "≤ 80 MiB",
    "start to first reply: worker": "≤ 2 x null",
    "token-worker file, 500 rows of two columns: new value": "≥ 0.25 x null",
    "token-worker file, 500 rows of two columns: detokenize": "≥ 0.4 x null",
    "token-worker file, 500 rows of two columns: resident peak of the command": "≤ 100 MiB",
}


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "bench", "--quick", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def system(stack: Stack, streams_server: Valkey, storage_server: Valkey) -> Iterator[Subject]:
    stack.generate_key("bench-client")
    made = Subject(streams_server, storage_server, stack, random.Random())
    yield made
    made.close()


def test_bench_gives_every_figure(tmp_path: Path) -> None:
    """A small run gives each figure with its goal, or why there is none; saved, the next one is compared with it."""
    done = run(*(f"--{name}={value}" for name, value in LITTLE.items()), "--json")
    assert done.returncode == 0, done.stderr
    figures = msgspec.json.decode(done.stdout, type=Run)
    rows = {made.title: made for made in figures.rows}
    assert len(rows) == len(figures.rows)
    assert rows.keys() >= INFORM
    assert {title: rows[title].goal for title in GOALS} == GOALS
    for made in figures.rows:
        measured = made.median is not None and made.median > 0
        assert measured or made.note.startswith("not measurable here"), made.title
        assert (made.met is not None) == (measured and bool(made.goal)), made.title
    assert rows["worker CPU, single requests: null worker"].ratio == 1
    assert figures.conditions.items() >= LITTLE.items()

    saved = tmp_path / "saved.json"
    saved.write_text(done.stdout)
    again = run("--only", "start", "--against", str(saved))
    assert again.returncode == 0, again.stderr
    [_, line] = [line for line in again.stdout.splitlines() if line.startswith("│ worker ")]
    assert f" {text(rows['start to first reply: worker'].median)} " in line
    assert "≤ 2 x null" in line
    assert "new / old" in again.stdout
    assert "not the same in both runs: requests (100, now 400)" in again.stdout


def test_groups_can_have_the_dense_layout() -> None:
    """With ``--layout dense`` the tokens have that layout, those stored beforehand, too; there are none of Acra's."""
    options = (f"--{name}={value}" for name, value in LITTLE.items())
    done = run(*options, "--only", "cpu,clients", "--layout", "dense", "--json")
    assert done.returncode == 0, done.stderr
    figures = msgspec.json.decode(done.stdout, type=Run)
    rows = {made.title: made for made in figures.rows}
    assert figures.conditions["layout"] == "dense"
    assert not [title for title in rows if "Acra" in title]
    assert rows["worker CPU, single requests: known value"].median
    assert rows["CPU of known values, many clients in turn: many clients, worker"].median


def test_goals_are_judged_by_the_median_of_the_rounds() -> None:
    """A goal is met by the median ratio of the rounds, or the median figure where there is nothing to compare with."""
    assert row("s", "n", "µs", [8, 30, 90], to=[4, 10, 10], most=3).met
    assert not row("s", "n", "µs", [8, 31, 90], to=[4, 10, 10], most=3).met
    assert row("s", "n", "1/s", [5, 6, 1], to=[10, 10, 10], least=0.5).met
    assert not row("s", "n", "MiB", [79, 81, 82], most=80).met
    assert row("s", "n", "%", [14], to=[2], most=15, of_median=True).met
    assert row("s", "n", "µs", [1]).met is None


def test_comparison_has_rows_of_both_runs() -> None:
    """Rows are matched by their titles; one that only a single run has is there, too."""

    def figure(name: str, median: float) -> Row:
        return Row(section="s", name=name, unit="µs", median=median)

    old = Run({}, [figure("both", 2), figure("gone", 3)])
    new = Run({}, [figure("come", 4), figure("both", 1)])
    compared = {f"{one.section}: {one.name}": (one.old, one.new, one.new_to_old) for one in compare(old, new)}
    assert compared == {"s: both": (2, 1, 0.5), "s: gone": (3, None, None), "s: come": (None, 4, None)}


def test_bench_does_not_time_refusals(system: Subject) -> None:
    """Replies that are errors end the run: they are quicker than the work that a row stands for."""
    system.stack.send([{"id": "0", "status": "ok", "value": "a token"}], "tokenize:responses")
    system.stack.send([{"id": "1", "status": "error"}], "tokenize:responses")
    with pytest.raises(click.ClickException, match="1 of 2 requests to tokenize were refused"):
        system.answers("tokenize", 2)


def test_bench_does_not_time_wrong_answers(system: Subject) -> None:
    """An answer that is not the expected one ends the run."""
    null = system.start_null()
    system.warm_up("null")
    assert system.measure_checked(null.pid, "null", ["a", "b"], ["a", "b"])[1] == ["a", "b"]
    with pytest.raises(click.ClickException, match="are not those that there should be"):
        system.measure_checked(null.pid, "null", ["a", "b"], ["b", "a"])


def test_null_worker_answers_items(system: Subject) -> None:
    """The null worker gives back every value of a request of many, and acknowledges the request."""
    system.start_null()
    system.warm_up("null")
    system.clear("null")
    system.stack.send(payloads("tokenize", ["a", "b", "c"], items=2), "null:requests")
    replies = {reply["id"]: reply for reply in system.stack.wait_for_replies(2, "null:responses")}
    assert replies["0"]["items"] == [{"value": "a"}, {"value": "b"}]
    assert replies["1"]["value"] == "c"
    assert system.stack.streams.xpending("null:requests", "token-workers")["pending"] == 0


def test_acras_entries_have_a_data_key_each(system: Subject) -> None:
    """Entries written as Acra's are read by a worker, and no two share a sealed data key."""
    [(value, token), _] = preload.acras(system, 2)
    names = list(system.stack.storage.scan_iter("tokens/*"))
    blocks = [bytes.fromhex(system.stack.storage.get(name).decode()) for name in names]
    assert len({block[block.index(b'""""') + 12 :][:80] for block in blocks}) == 4
    worker = system.start_worker()
    assert system.measure_checked(worker.pid, "detokenize", [token], [value])[1] == [value]


@pytest.mark.parametrize("limits", [{"in_flight": 3}, {"in_flight": 3, "one_by_one": True}, {"rate": 200.0}])
def test_load_has_an_answer_to_each_request(system: Subject, limits: dict[str, Any]) -> None:
    """A closed loop keeps no more requests in flight than it is told to, and an open loop sends at its rate."""
    null = system.start_null()
    system.warm_up("null")
    system.clear("null")
    order = Order(
        url=system.streams.url,
        route="null",
        head={"op": "tokenize", "client_id": "bench-client", "type": "str"},
        values=["a", "b"],
        first=1,
        pids=[null.pid],
        seconds=0.3,
        warm_up=0.1,
        **limits,
    )
    with program(load.__file__, Loop) as loader:
        loop = loader.run(order)
    answers = system.answers("null", loop.sent)
    assert answers == (["b", "a"] * loop.sent)[: loop.sent]
    assert 0 < loop.p50_ms <= loop.p99_ms
    assert loop.worker_us > 0
    if "rate" in limits:
        assert 40 <= loop.sent <= 160  # 80 by 9 standard deviations
    else:
        assert loop.batch < 4  # the replies to one more script may be counted


def test_load_program_that_ends_is_no_figure(system: Subject) -> None:
    """A load program that meets an error ends the run."""
    system.stack.streams.set("null:requests", "no stream")
    order = Order(
        url=system.streams.url, route="null", head={}, values=["a"], first=0, pids=[], seconds=1, warm_up=0, in_flight=2
    )
    with program(load.__file__, Loop) as loader, pytest.raises(click.ClickException, match="ended without an answer"):
        loader.run(order)


def test_client_load_checks_answers(system: Subject) -> None:
    """Every way to call is measured, and ends the run where an answer is not the expected one."""
    system.start_null("client", route="tokenize")
    values = system.values(10)
    wrong = [*values[:-1], "no token of it"]
    for way in calls.WAYS:
        with program(calls.__file__, Calls) as caller:
            right = client_order(system, way, values, values)
            assert caller.run(right).rate > 0
            with pytest.raises(click.ClickException, match="ended without an answer"):
                caller.run(client_order(system, way, values, wrong))


def client_order(system: Subject, way: str, values: list[str], expected: list[str]) -> calls.Order:
    return calls.Order(system.streams.url, "bench-client", way, 4, None, values, expected, 0.1, 0.0)


def test_two_workers_are_measured_on_given_cores() -> None:
    """If there are enough cores, two workers share a backlog that one worker had before."""
    core = min(os.sched_getaffinity(0))
    one, two = cpu.two_workers(QUICK, lambda _: None, [core] * cpu.CORES)
    assert one.median is not None
    assert two.median is not None
    assert (two.goal, two.ratio_to) == ("≥ 1.8 x one", "one")


def test_bench_leaves_nothing_behind() -> None:
    """A failed measurement stops its servers and workers."""
    started: list[int] = []

    def fail() -> None:
        with subject() as system:
            started.extend((system.streams.pid, system.storage.pid, system.start_null().pid, system.start_worker().pid))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(started) == 4
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--only", "cpu,speed"], "there is no group 'speed'"),
        (["--against", __file__], "holds no figures that --json printed"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], complaint: str) -> None:
    """A group that does not exist, or a file that is no saved run, ends it before anything starts."""
    done = run(*arguments)
    assert done.returncode == 2
    assert complaint in " ".join(done.stderr.replace("│", " ").split())
