"""Hostile input passes all checks of ``scripts/fuzz``, and each check finds a handler with a planted bug."""

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import structlog
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import run
from fuzz.dense import Dense
from fuzz.entries import REASONS, Entries
from fuzz.mutations import Fields
from fuzz.stored import DAMAGED, Case, Stored
from fuzz.world import MARK
from token_worker.errors import Code, CorruptData, Refused
from token_worker.keys.keyring import Keyring
from token_worker.service import request_values
from token_worker.service.handler import Handler
from token_worker.service.replies import DeadLettered, Postponed, Result
from token_worker.storage import engine
from token_worker.storage.acra.sealing import Sealing
from token_worker.storage.dense import entry
from token_worker.storage.dense.entry import ALONE, FOREIGN
from token_worker.storage.dense.layout import DenseLayout
from token_worker.storage.layout import Notes
from token_worker.storage.steps import Lookup
from token_worker.streams.entry import Answer, Entry
from token_worker.streams.reply_facts import NO_FACTS
from token_worker.testing.memory import MemoryTokens

SAMPLE = 15_000
"""Cases of each target: a few seconds."""

OF_REQUESTS = {
    *(REASONS | {"ok"}),
    *("invalid_request", "unknown_type", "value_out_of_range", "value_too_large", "invalid_email", "unknown_client"),
    *("unknown_zone", "forbidden", "token_not_found", "key_unreadable", "expired", "format_not_allowed"),
}
"""All outcomes that hostile requests have to reach."""

OF_STORED = {*DAMAGED, "right", "swapped"}
OF_DENSE = {"entry_unreadable", "key_unreadable", "right"}


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fuzz", *arguments], capture_output=True, text=True, timeout=200, check=False
    )


def outcomes(output: str) -> set[str]:
    return set(re.findall(r"^ +[\d,]+ (\w+)$", output, re.MULTILINE))


# A sample of the cases


@pytest.mark.parametrize(
    ("target", "expected"), [("requests", OF_REQUESTS), ("stored", OF_STORED), ("dense", OF_DENSE)]
)
def test_sample_of_a_fixed_seed(target: str, expected: set[str]) -> None:
    """Hostile input has right results only, and reaches every outcome."""
    done = fuzz("--target", target, "--cases", str(SAMPLE), "--seed", "1")
    assert (done.returncode, outcomes(done.stdout)) == (0, expected), done.stdout


@pytest.mark.parametrize(
    ("target", "expected"), [("requests", OF_REQUESTS), ("stored", OF_STORED), ("dense", OF_DENSE)]
)
def test_sample_of_a_random_seed(target: str, expected: set[str], say: Callable[[str], None]) -> None:
    """Hostile input of another seed in every run has right results only; the run prints the seed."""
    done = fuzz("--target", target, "--cases", str(SAMPLE))
    say(done.stdout.partition("\n")[0])
    assert done.returncode == 0, done.stdout
    assert outcomes(done.stdout) <= expected, done.stdout


def test_sample_led_by_coverage() -> None:
    """If atheris is installed, it leads the same checks to new code, and ends when its time is over."""
    pytest.importorskip("atheris")
    done = fuzz("--coverage", "--seconds", "3", "--seed", "1")
    assert done.returncode == 0, done.stdout
    assert re.search(r"new_units_added: +[1-9]", done.stderr)


@pytest.fixture(scope="module")
def entries() -> Entries:
    return Entries("hypothesis")


@pytest.fixture(scope="module")
def stored() -> Stored:
    return Stored("hypothesis")


@given(
    cases=st.lists(
        st.dictionaries(st.sampled_from([b"payload", b"traceparent", b"other"]), st.binary(max_size=200), max_size=3),
        min_size=1,
        max_size=5,
    ),
    rng=st.randoms(use_true_random=False),
)
@settings(max_examples=100, deadline=None)
def test_any_fields_of_an_entry_have_one_result(entries: Entries, cases: list[Fields], rng: Any) -> None:
    """An entry with any fields has one result, and its neighbours are answered."""
    entries.begin(rng)
    entries.check(cases)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
MEMBERS = [
    "id",
    "op",
    "client_id",
    "zone_id",
    "type",
    "value",
    "items",
    "consistent",
    "reply_to",
    "expires_at",
    "replay",
]


@given(
    cases=st.lists(st.dictionaries(st.sampled_from(MEMBERS), JSON, max_size=6), min_size=1, max_size=5),
    rng=st.randoms(use_true_random=False),
)
@settings(max_examples=50, deadline=None)
def test_any_members_of_a_request_have_one_result(entries: Entries, cases: list[dict[str, Any]], rng: Any) -> None:
    """A request with any members, in either format, has one result, and its neighbours are answered."""
    entries.begin(rng)
    good = {"id": "any", "op": "tokenize", "client_id": "shop-frontend", "type": "str"}
    for case in cases:
        message = {**good, **case}
        written = [msgspec.json.encode(message)]
        written += [msgspec.msgpack.encode(message)] if _fits_msgpack(message) else []
        entries.check([{b"payload": payload} for payload in written])


def _fits_msgpack(message: object) -> bool:
    try:
        msgspec.msgpack.encode(message)
    except OverflowError:
        return False
    return True


class Damage(NamedTuple):
    """Changes of the bytes of an entry: each puts a byte somewhere. Then the entry is cut, and gets a tail."""

    changes: list[tuple[int, int]]
    cut: int | None
    tail: bytes

    def of(self, entry: bytes) -> bytes:
        raw = bytearray(entry)
        for at, byte in self.changes:
            raw[at % len(raw)] = byte
        return bytes(raw[: self.cut]) + self.tail


any_damage = given(
    number=st.integers(0, 179),
    damage=st.builds(
        Damage,
        changes=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=4),
        cut=st.none() | st.integers(0, 600),
        tail=st.binary(max_size=4),
    ),
    rng=st.randoms(use_true_random=False),
)


@any_damage
@settings(max_examples=200, deadline=None)
def test_any_change_of_an_entry(stored: Stored, number: int, damage: Damage, rng: Any) -> None:
    """After any change of a stored entry, the answer is right or names the damage, and the entry stays as it is."""
    good = stored.world.singles[number]
    stored.begin(rng)
    stored.check([Case(good, good.needed, damage.of(stored.world.entries[good.needed]))])


@pytest.fixture(scope="module")
def dense() -> Dense:
    return Dense("hypothesis")


@any_damage
@settings(max_examples=200, deadline=None)
def test_any_change_of_a_dense_entry(dense: Dense, number: int, damage: Damage, rng: Any) -> None:
    """After any change of a dense entry, the answer is entry_unreadable, and nothing is written."""
    good = dense.world.singles[number % len(dense.world.singles)]
    before = dense.world.entries[good.needed]
    changed = damage.of(before)
    dense.begin(rng)
    if changed != before:
        dense.check([Case(good, good.needed, changed)])


def test_entries_of_all_kinds_are_damaged(dense: Dense) -> None:
    """The target has entries of consistent and inconsistent tokens, and of such that came from Acra's layout."""
    entries = {good.needed: dense.world.entries[good.needed] for good in dense.world.singles}
    assert {(name[:1], raw[0] & 15) for name, raw in entries.items()} == {
        (b"v", 0),
        (b"t", 0),
        (b"t", ALONE),
        (b"t", ALONE | FOREIGN),
    }


# What it would find

Handle = Callable[[Handler, Sequence[Entry]], list[Result]]


def _answers(results: list[Result]) -> list[int]:
    return [number for number, result in enumerate(results) if isinstance(result, Answer)]


def lost(results: list[Result]) -> list[Result]:
    return results[1:]


def twice(results: list[Result]) -> list[Result]:
    return [*results, results[0]]


def postponed(results: list[Result]) -> list[Result]:
    return [Postponed(result.entry, None) if isinstance(result, DeadLettered) else result for result in results]  # type: ignore[arg-type]  # a defect


def reason(results: list[Result]) -> list[Result]:
    return [DeadLettered(result.entry, "new") if isinstance(result, DeadLettered) else result for result in results]


def unheard(results: list[Result]) -> list[Result]:
    """Does not answer wrong requests."""
    return [
        DeadLettered(result.entry, "no_readable_id")
        if isinstance(result, Answer) and b"invalid_request" in result.payload
        else result
        for result in results
    ]


def mixed_up(results: list[Result]) -> list[Result]:
    """Gives each entry the answer to another one."""
    at = _answers(results)
    payloads = [result.payload for result in results if isinstance(result, Answer)]
    for number, payload in zip(at, [*payloads[1:], payloads[0]], strict=True):
        results[number] = Answer(results[number].entry, payload, facts=getattr(results[number], "facts", NO_FACTS))
    return results


def broken(results: list[Result]) -> list[Result]:
    for number in _answers(results):
        results[number] = Answer(results[number].entry, b"{}", facts=getattr(results[number], "facts", NO_FACTS))
    return results


def raised(_results: list[Result]) -> list[Result]:
    raise KeyError(MARK)


def logged(results: list[Result]) -> list[Result]:
    structlog.get_logger().info("handled", payload=results[0].entry.payload)
    return results


@pytest.mark.parametrize("spoil", [lost, twice, postponed, reason, unheard, mixed_up, broken, raised, logged])
def test_defects_of_the_handler_are_found(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[list[Result]], list[Result]]
) -> None:
    """A handler that loses, doubles, delays or mixes up results, raises, or logs payloads does not pass."""
    handle = Handler.handle
    monkeypatch.setattr(
        Handler, "handle", _but_not_at_first(lambda self, entries: spoil(handle(self, entries)), handle)
    )
    report = run.run("requests", "1", cases=2000)
    assert report.failure is not None
    assert MARK not in report.failure.what


def _but_not_at_first(spoilt: Handle, handle: Handle) -> Handle:
    """The world is made by a handler, too: single entries are handled well."""

    def choose(self: Handler, entries: Sequence[Entry]) -> list[Result]:
        return (spoilt if len(entries) > 1 else handle)(self, entries)

    return choose


def test_payload_in_a_message_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that quotes a value does not pass."""
    monkeypatch.setattr(request_values, "unknown_type", lambda path: Refused(Code.UNKNOWN_TYPE, f"{path}: {MARK}"))
    report = run.run("requests", "1", cases=20_000)
    assert report.failure is not None
    assert report.failure.what == "a message tells something of a payload"


def _taken_for_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_UNREADABLE", engine._NOT_FOUND)


def _not_authenticated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers with a value if an entry cannot be opened."""
    opened = Sealing.open

    def anything(self: Sealing, ring: Keyring, name: bytes, number: int, raw: bytes, mark: Any) -> Any:
        try:
            return opened(self, ring, name, number, raw, mark)
        except CorruptData:
            return b"anything", None

    monkeypatch.setattr(Sealing, "open", anything)


def _written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empties every entry that is asked for."""
    execute = MemoryTokens.execute

    def spoilt(self: MemoryTokens, step: Any) -> Any:
        answer = execute(self, step)
        if isinstance(step, Lookup) and len(step.keys) > 1:
            self.entries[step.keys[0]] = b""
        return answer

    monkeypatch.setattr(MemoryTokens, "execute", spoilt)


@pytest.mark.parametrize("break_it", [_taken_for_absent, _not_authenticated, _written_over])
def test_defects_with_damage_are_found(
    monkeypatch: pytest.MonkeyPatch, break_it: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """Damage that is taken for absence, answered with something, or written over does not pass."""
    break_it(monkeypatch)
    report = run.run("stored", "1", cases=5000)
    assert report.failure is not None


def _without(at: slice) -> Callable[[pytest.MonkeyPatch], None]:
    """Leave a part of name and head out of what is authenticated."""

    class Careless:
        def __init__(self, key: bytes) -> None:
            self._siv = AESSIV(key)

        def encrypt(self, data: bytes, parts: list[bytes]) -> bytes:
            return self._siv.encrypt(data, [part[at] for part in parts])

        def decrypt(self, data: bytes, parts: list[bytes]) -> bytes:
            return self._siv.decrypt(data, [part[at] for part in parts])

    return lambda monkeypatch: monkeypatch.setattr(entry, "AESSIV", Careless)


def _answered_with_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer with a value if an entry cannot be opened."""
    opened = DenseLayout.open_value

    def anything(self: DenseLayout, *given: Any) -> Any:
        try:
            return opened(self, *given)
        except CorruptData:
            return b"anything", None

    monkeypatch.setattr(DenseLayout, "open_value", anything)


def _taken_for_a_tombstone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a value whose entry cannot be opened a new token."""
    opened = DenseLayout.open_value

    def nothing(self: DenseLayout, *given: Any) -> Any:
        try:
            return opened(self, *given)
        except CorruptData:
            return b"", Notes(removed=True)

    monkeypatch.setattr(DenseLayout, "open_value", nothing)


def _unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take any check value for the right one."""
    monkeypatch.setattr("token_worker.storage.dense.layout.compare_digest", lambda *_: True)


def _index_key_of_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take an index key that does not open for one that is not there."""
    monkeypatch.setattr(DenseLayout, "_without_index", lambda *_: Refused(Code.UNKNOWN_CLIENT, "no index key"))


@pytest.mark.parametrize(
    "break_it",
    [
        _without(slice(0, 16)),
        _without(slice(16, None)),
        _answered_with_anything,
        _taken_for_a_tombstone,
        _unchecked,
        _index_key_of_anybody,
        _taken_for_absent,
        _written_over,
    ],
    ids=["head", "name", "anything", "tombstone", "check", "index", "absent", "written over"],
)
def test_defects_of_the_dense_layout_are_found(
    monkeypatch: pytest.MonkeyPatch, break_it: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """Name or head that are not authenticated, damage that is answered or taken for absence, do not pass."""
    break_it(monkeypatch)
    report = run.run("dense", "1", cases=5000)
    assert report.failure is not None


def test_failed_case_is_told_and_replayed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A failed case has a number that makes it fail again, alone; its input is written to the given file."""
    monkeypatch.setattr(engine, "_UNREADABLE", engine._NOT_FOUND)
    failed = run.run("stored", "7", cases=100_000).failure
    assert failed is not None
    again = run.run("stored", "7", cases=1, only=failed.case).failure
    assert again == failed
    [file] = run.save(failed, tmp_path, "stored", "7")
    saved = msgspec.msgpack.decode(file.read_bytes())
    assert saved[b"raw"] == failed.cases[0].raw
