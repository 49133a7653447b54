"""A worker's notes about itself: written now and then, on every server that answers, and without harm to the work."""

from collections.abc import Sequence
from typing import Any, cast

import msgspec
import pytest
from structlog.testing import CapturingLogger

from token_worker import __version__
from token_worker.contract.messages import Op
from token_worker.errors import ServerError, Unavailable
from token_worker.redis.exchange import Exchange, RunScript, drive
from token_worker.redis.link import Link
from token_worker.redis.script import Script
from token_worker.service.note_writer import SWEEP_SECONDS, NoteWriter
from token_worker.service.runtime import Runtime
from token_worker.streams.routes import Route
from token_worker.streams.worker_notes import (
    NOTE,
    NOTE_SECONDS,
    SCRIPT_NOTES,
    SWEEP_NOTES,
    Refusals,
    WorkerNote,
    WorkerNotes,
)
from token_worker.telemetry.health import Health

ROUTES = [Route(f"{{{n}}}in", f"{{{n}}}out", frozenset({Op.TOKENIZE})) for n in range(3)]


class Streams:
    """A link to servers of which some routes refuse, or are away; each command is kept.

    Attributes:
        errors: by request stream, the error that its server raises.
        asked: scripts, each with its keys and arguments.
    """

    def __init__(self) -> None:
        self.errors: dict[str, Exception] = {}
        self.asked: list[RunScript] = []

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        self.asked.append(RunScript(script, keys, args))
        for key in keys:
            for stream, error in self.errors.items():
                if key.startswith(stream):
                    raise error
        return [b""] * len(keys) if script is NOTE else 0

    @property
    def noted(self) -> list[str]:
        """Keys that notes were written to, in order."""
        return [key for script, keys, _ in self.asked if script is NOTE for key in keys]


class Stage:
    """A writer whose time is set by hand."""

    def __init__(self, *, is_apart: bool = False, routes: Sequence[Route] = ROUTES) -> None:
        self.seconds = 100.0
        self.streams = Streams()
        self.health = Health(1.0)
        self.log = CapturingLogger()
        notes = WorkerNotes(routes, "group", "me", is_apart=is_apart)
        runtime = Runtime(monotonic=lambda: self.seconds, log=cast(Any, self.log))
        self.subject = NoteWriter(notes, routes, self.health, lambda: 1_700_000_000 + self.seconds, runtime)

    def drive(self, exchange: Exchange[Refusals]) -> Refusals:
        return drive(exchange, cast(Link, self.streams))

    def write(self) -> WorkerNote:
        """Let the time for a note come, and return the last note that was written."""
        self.seconds += NOTE_SECONDS
        self.subject.write(self.drive)
        return msgspec.json.decode(
            [args for script, _, args in self.streams.asked if script is NOTE][-1][1], type=WorkerNote
        )


def test_note_says_what_the_worker_knows_of_itself() -> None:
    """A note has version, host, start and readiness, with the reason while the worker is not ready."""
    stage = Stage()
    stage.health.not_ready("vault: ConnectTimeout")
    note = stage.write()
    assert (note.version, note.started, note.at) == (__version__, 1_700_000_100, 1_700_000_120)
    assert (note.ready, note.why) == (False, "vault: ConnectTimeout")
    stage.health.ready()
    note = stage.write()
    assert (note.ready, note.why, note.started) == (True, None, 1_700_000_100)


def test_notes_are_written_now_and_then() -> None:
    """The work asks at every turn; one script an interval writes the notes of all routes."""
    stage = Stage()
    for _ in range(100):
        stage.subject.write(stage.drive)
    assert stage.streams.noted == [route.own_keys.workers for route in ROUTES]
    assert [script for script, _, _ in stage.streams.asked].count(NOTE) == 1


def test_note_is_small() -> None:
    """Whatever the name of the host and the reason are, a note takes less than a kibibyte."""
    note = WorkerNote("1.0", "h" * 5000, 1, ready=False, at=2, why="w" * 5000)
    assert len(msgspec.json.encode(note)) < 1024


@pytest.mark.parametrize("error", [ServerError("streams", "NOPERM"), Unavailable("streams", "OOM")], ids=str)
def test_failure_is_told_once(error: Exception) -> None:
    """A refusal stops nothing and is logged once until notes can be written again."""
    stage = Stage()
    stage.write()
    for _ in range(2):
        stage.streams.errors = {"{1}": error}
        for _ in range(5):
            stage.write()
        stage.streams.errors = {}
        stage.write()
    assert [call.method_name for call in stage.log.calls] == ["warning"] * 2
    assert {call.args for call in stage.log.calls} == {("notes of this worker could not be written",)}


def test_refusal_on_one_route_spares_the_others() -> None:
    """A missing right on one key refuses the script for all; the other notes are written one by one."""
    stage = Stage()
    stage.streams.errors = {"{1}": ServerError("streams", "NOPERM")}
    stage.write()
    assert stage.streams.noted[len(ROUTES) :] == [route.own_keys.workers for route in ROUTES]


def test_servers_of_a_cluster_are_asked_apart() -> None:
    """In a cluster each slot has a script of its own, and one that is away holds up no other."""
    stage = Stage(is_apart=True)
    stage.streams.errors = {"{0}": Unavailable("streams", "TimeoutError")}
    stage.write()
    assert [len(keys) for script, keys, _ in stage.streams.asked if script is NOTE] == [1, 1, 1]
    stage.subject.write(stage.drive, resting=ROUTES)
    assert len(stage.streams.noted) == len(ROUTES)


def test_scripts_are_bounded() -> None:
    """Notes of very many routes take several scripts."""
    routes = [Route(f"in{n}", "out", frozenset({Op.TOKENIZE})) for n in range(2 * SCRIPT_NOTES + 1)]
    stage = Stage(routes=routes)
    stage.write()
    assert [len(keys) for script, keys, _ in stage.streams.asked if script is NOTE] == [SCRIPT_NOTES, SCRIPT_NOTES, 1]


def test_notes_are_swept_at_the_start_and_then_seldom() -> None:
    """A worker sweeps once when it starts, and then each route at most once an interval, however often it trims."""
    stage = Stage()
    stage.write()
    for _ in range(10):
        stage.subject.sweep(stage.drive, ROUTES)
    assert [script for script, _, _ in stage.streams.asked].count(SWEEP_NOTES) == len(ROUTES)
    stage.seconds += SWEEP_SECONDS
    stage.subject.sweep(stage.drive, ROUTES[:1])
    assert [script for script, _, _ in stage.streams.asked].count(SWEEP_NOTES) == len(ROUTES) + 1


def test_worker_that_wrote_no_note_removes_none() -> None:
    """A worker that stops before it reached the streams does not wait for them."""
    stage = Stage()
    stage.subject.remove(stage.drive)
    assert stage.streams.asked == []
    stage.write()
    stage.subject.remove(stage.drive)
    assert stage.streams.asked[-1].args[:2] == ("me", b"")
