"""Operators disable, enable and remove tokens of the dense layout, one entry after the other, while workers write.

Each entry is on a node of its own, as in a cluster: every command is on one entry, and others act between any two. On
one server the same steps are one script, so that fewer interleavings can happen there.
"""

import random
from collections.abc import Callable, Iterator

import pytest

from harness.engine_memory import (
    INDEX_KEY,
    KEY,
    SHOP,
    ClusterRun,
    DenseMemory,
    Nodes,
    candidate,
    detokenize,
    run,
    tokenize,
)
from token_worker.acra.value_types import STR
from token_worker.admin.entry_store import EntryChange
from token_worker.admin.stored_tokens import Finding, Token
from token_worker.admin.stored_tokens_dense import BLOCKED, DenseTokens
from token_worker.admin.tokens import TokenAdmin, TokenFilter
from token_worker.errors import Code, Refused
from token_worker.keys.cache import KeyCache
from token_worker.keys.index_key import seal_index_key
from token_worker.keys.keyring import Keyring
from token_worker.keys.store import wrap
from token_worker.storage.dense.entry import DISABLED, REMOVED
from token_worker.storage.steps import WRITTEN, Outcome, Row
from token_worker.storage.token_item import ItemResult
from token_worker.testing.memory import MASTER_KEY, MemoryKeys

VALUE = b"a value"
SCHEDULES = 250


class Broken(AssertionError):  # noqa: N818 - reads as what it says
    """A promise is broken."""


class World:
    """One client with one value, its entries, and workers and operators on them."""

    def __init__(self) -> None:
        self.memory = DenseMemory()
        self.nodes = Nodes(self.memory.entries)
        keys = MemoryKeys()
        keys.sealed = {SHOP.key_name: wrap(KEY, MASTER_KEY, SHOP)}
        keys.index = {SHOP.key_name: seal_index_key(INDEX_KEY, MASTER_KEY, SHOP)}
        self.cache = KeyCache(keys, MASTER_KEY, with_index=True)
        ring = self.cache.rings([SHOP])[SHOP]
        assert isinstance(ring, Keyring)
        self.ring = ring
        self.admin = TokenAdmin(self.nodes, self.cache, SHOP, layout="dense", rate=1e9)
        self.v_name = self.memory.value_key(VALUE)
        self.worker = ClusterRun

    def t_name(self, counter: int) -> bytes:
        return self.memory.token_key(candidate(VALUE, counter))

    def put_value(self, flags: int, counter: int) -> None:
        """Write the value entry: it names this candidate, or is its tombstone."""
        token = b"" if flags & REMOVED else candidate(VALUE, counter)
        self.memory.put_h(self.ring, STR, VALUE, token, next_counter=counter + 1, flags=flags)

    def put_token(self, flags: int, counter: int) -> None:
        content = b"" if flags & REMOVED else VALUE
        self.memory.put_t(self.ring, STR, candidate(VALUE, counter), content, flags=flags)

    # -- workers

    def tokenizing(self) -> Iterator[ItemResult | None]:
        """Tokenize the value as a worker does, with a pause ahead of each command; the last item is the result."""
        item = tokenize(self.ring, VALUE)
        worker = self.worker(self.memory, [item])
        yield None
        while worker.advance():
            yield None
        assert item.result is not None
        yield item.result

    def tokenize(self) -> ItemResult:
        """Tokenize the value without a pause."""
        *_, result = self.tokenizing()
        assert result is not None
        return result

    def detokenize(self, token: bytes) -> ItemResult:
        """Detokenize, by nothing but look-ups."""
        self.memory.steps.clear()
        [result] = run(self.memory, [detokenize(self.ring, token)])
        assert set(self.memory.step_names) == {"Lookup"}
        return result

    # -- what must hold

    def check(self) -> None:
        """Check that an enabled value entry names a token that exists, is enabled, and holds the value."""
        raw = self.nodes.entries.get(self.v_name)
        if raw is None:
            return
        layout = self.memory.layout
        token, notes = layout.open_value(self.ring, self.v_name, STR.number, raw, None)
        if notes is None:
            name = self.memory.token_key(token)
            held = self.nodes.entries.get(name)
            if held is None or layout.open_token(self.ring, name, STR.number, held, None) != (VALUE, None):
                raise Broken("an enabled value entry names a token that does not serve")


Operation = Callable[[World, Token], bool]


def found(world: World, counter: int = 0, *, by_token: bool = False) -> Token | None:
    """The token of a candidate, as a command finds it: by a scan, or because it was given."""
    if by_token:
        token = world.admin.of_token(candidate(VALUE, counter), STR)
    else:
        page = [(name, raw) for name in [world.t_name(counter)] if (raw := world.nodes.read([name])[0]) is not None]
        token = next(iter(world.admin.stored.open_tokens(page)), None)
    assert token is None or isinstance(token, Token)
    return token


def remove(world: World, token: Token) -> bool:
    return world.admin.remove(token, TokenFilter())


def disable(world: World, token: Token) -> bool:
    return world.admin.set_disabled(token, disabled=True)


def enable(world: World, token: Token) -> bool:
    return world.admin.set_disabled(token, disabled=False)


def _whole(world: World) -> None:
    world.put_token(0, 0)
    world.put_value(0, 0)


def _disabled(world: World) -> None:
    world.put_token(DISABLED, 0)
    world.put_value(DISABLED, 0)


def _token_entry_only(world: World) -> None:
    world.put_token(0, 0)


def _beside_a_tombstone(world: World) -> None:
    world.put_value(REMOVED, -1)
    world.put_token(0, 0)


def _lost_race(world: World) -> None:
    world.put_token(0, 0)
    world.put_token(0, 1)
    world.put_value(0, 1)


STATES: dict[str, Callable[[World], None]] = {
    "whole": _whole,
    "disabled": _disabled,
    "token entry only": _token_entry_only,
    "token entry beside a tombstone": _beside_a_tombstone,
    "lost race": _lost_race,
}
"""Entries of the first candidate, and of the value, when the operator begins."""

OPERATIONS = {"remove": remove, "disable": disable, "enable": enable}


class Interrupted(BaseException):
    """The command was killed."""


def play(world: World, operation: Operation, chance: random.Random) -> bool:
    """Run a command on the first candidate while up to three workers tokenize the value, and now and then kill it.

    Returns True if the command has succeeded. A killed one is run again, and ``verify --repair``; workers are at their
    end then, or go on afterwards.
    """
    workers = [world.tokenizing() for _ in range(chance.randrange(1, 4))]
    pace = chance.choice((0.3, 0.5, 0.8))
    killed_at = chance.randrange(12) if chance.random() < 0.3 else -1
    seen = 0

    def before() -> None:
        nonlocal seen
        world.check()
        while workers and chance.random() < pace:
            worker = chance.choice(workers)
            if next(worker, Interrupted) is Interrupted:
                workers.remove(worker)
            world.check()
        seen += 1
        if seen == killed_at:
            raise Interrupted

    token = found(world, by_token=chance.random() < 0.5)
    assert token is not None
    world.nodes.before = before
    done = None
    try:
        done = operation(world, token)
    except Interrupted:
        pass
    finally:
        world.nodes.before = lambda: None
    is_paused = done is None and chance.random() < 0.5  # workers pause until all is repaired
    if not is_paused:
        go_on(world, workers)
    if done is None:
        again = found(world, by_token=True)
        if again is None:
            again = world.admin.of_value(VALUE, STR)  # type: ignore[assignment]
        done = again is None or operation(world, again)
        for finding in list(world.admin.check_values()):
            assert isinstance(finding, Finding)
            world.admin.repair(finding)
    go_on(world, workers)
    world.check()
    return done


def go_on(world: World, workers: list[Iterator[ItemResult | None]]) -> None:
    """Let workers go on to their end."""
    for worker in workers:
        for _ in worker:
            world.check()


def explore(state: str, operation: str, plant: Callable[[World], None] = lambda _: None) -> None:
    """Play many schedules. After each, what the command promises has to hold for good."""
    for seed in range(SCHEDULES):
        world = World()
        STATES[state](world)
        plant(world)
        if not play(world, OPERATIONS[operation], random.Random(seed)):
            continue  # others kept changing the token, and the command says so
        token = candidate(VALUE, 0)
        back = world.detokenize(token)
        code = back.code if isinstance(back, Refused) else None
        now = world.tokenize()
        if operation == "remove":
            if code != Code.TOKEN_NOT_FOUND or now == token:
                raise Broken("a removed token serves")
        elif operation == "disable":
            if code != Code.TOKEN_DISABLED or now == token:
                raise Broken("a disabled token serves")
        elif back != VALUE:
            raise Broken("an enabled token does not serve")
        if isinstance(now, bytes):
            if world.detokenize(now) != VALUE:
                raise Broken("a token that was given does not serve")
            if world.tokenize() != now:
                raise Broken("a value has two tokens")
        elif operation != "disable":
            raise Broken("a value gets no token")
        world.check()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_command_holds_while_workers_write(state: str, operation: str) -> None:
    """Whatever workers do between its steps, and wherever it is killed, a command keeps its promise when it is done."""
    explore(state, operation)


def _without_tombstones(monkeypatch: pytest.MonkeyPatch) -> Callable[[World], None]:
    monkeypatch.setattr(DenseTokens, "_removed", lambda *_: b"")
    return lambda _: None


class Blind(ClusterRun):
    """A worker that replaces value entries without a look."""

    def write_value(self, row: Row) -> Outcome:
        self._memory.entries[row.h_key] = row.h_value
        return WRITTEN


def _worker_without_compare(_: pytest.MonkeyPatch) -> Callable[[World], None]:
    return lambda world: setattr(world, "worker", Blind)


def _token_entry_first(monkeypatch: pytest.MonkeyPatch) -> Callable[[World], None]:
    steps = DenseTokens.steps_to_remove

    def turned(self: DenseTokens, token: Token) -> list[EntryChange]:
        return sorted(steps(self, token), key=lambda step: step.key[:1])

    monkeypatch.setattr(DenseTokens, "steps_to_remove", turned)
    return lambda _: None


def _value_entry_left(monkeypatch: pytest.MonkeyPatch) -> Callable[[World], None]:
    monkeypatch.setattr(DenseTokens, "_guard", lambda *_, **__: ([], []))
    return lambda _: None


@pytest.mark.parametrize(
    ("plant", "state", "operation"),
    [
        (_without_tombstones, "whole", "remove"),
        (_worker_without_compare, "token entry beside a tombstone", "remove"),
        (_worker_without_compare, "token entry only", "disable"),
        (_token_entry_first, "whole", "remove"),
        (_value_entry_left, "token entry only", "remove"),
        (_value_entry_left, "token entry beside a tombstone", "remove"),
        (_value_entry_left, "whole", "disable"),
    ],
)
def test_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], Callable[[World], None]],
    state: str,
    operation: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Removal without a tombstone, a write without a comparison, and another order each break a promise.

    So the schedules are hard enough.
    """
    with pytest.raises(Broken):
        explore(state, operation, plant(monkeypatch))


def contradict(operation: str, *, compares: bool) -> None:
    """Remove a token by one command in the middle of another one; it has to be removed in the end."""
    for pause in range(12):
        world = World()
        STATES["disabled" if operation == "enable" else "whole"](world)
        world.nodes.compares = compares
        token, rival = found(world), found(world)
        assert token is not None
        assert rival is not None
        seen = 0

        def before(world: World = world, rival: Token = rival, pause: int = pause) -> None:
            nonlocal seen
            seen += 1
            if seen == pause + 1:
                world.nodes.before = lambda: None
                assert remove(world, rival)

        world.nodes.before = before
        OPERATIONS[operation](world, token)
        world.nodes.before = lambda: None
        if seen > pause:
            back, now = world.detokenize(candidate(VALUE, 0)), world.tokenize()
            if not isinstance(back, Refused) or back.code != Code.TOKEN_NOT_FOUND or now != candidate(VALUE, 1):
                raise Broken("a removed token serves, or its value gets none")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_removal_holds_against_another_command(operation: str) -> None:
    """A token that one command removes while another one disables, enables or removes it is removed."""
    contradict(operation, compares=True)


@pytest.mark.parametrize("operation", ["disable", "enable"])
def test_change_without_comparison_is_found(operation: str) -> None:
    """If a command replaced entries without comparing them, a removed token would come back."""
    with pytest.raises(Broken):
        contradict(operation, compares=False)


def test_one_after_the_other_and_back_again() -> None:
    """A token that is disabled, enabled, removed and replaced while a slow worker waits gets no second token."""
    for pause in range(6):
        world = World()
        STATES["whole"](world)
        slow = world.tokenizing()
        for _ in range(pause):
            next(slow, None)
        token = found(world)
        assert token is not None
        for operation in (disable, enable, remove):
            token = found(world)
            assert token is not None
            assert operation(world, token)
            world.check()
        now = world.tokenize()
        assert now == candidate(VALUE, 1)
        for _ in slow:
            world.check()
        assert (world.tokenize(), world.detokenize(now)) == (now, VALUE)


def verify(world: World, _: Token) -> bool:
    return all(isinstance(finding, Finding) and world.admin.repair(finding) for finding in world.admin.check_values())


@pytest.mark.parametrize(
    ("begun", "steps_done", "completing"),
    [("remove", 2, verify), ("remove", 1, remove), ("disable", 1, disable), ("disable", 2, enable)],
)
@pytest.mark.parametrize("next_counter", [0, 1])
def test_worker_that_pauses_across_an_interrupted_command(
    begun: str, steps_done: int, completing: Operation, next_counter: int
) -> None:
    """Whatever completes a command, a worker that has read the value's tombstone before it does not write any more.

    The tombstone that is left has a higher counter, so its bytes were never there before.
    """
    world = World()
    world.put_value(REMOVED, next_counter - 1)
    before = world.nodes.entries[world.v_name]
    worker = world.tokenizing()
    while world.t_name(next_counter) not in world.nodes.entries:
        next(worker)
    token = found(world, next_counter)
    assert token is not None
    stored = world.admin.stored
    steps = stored.steps_to_remove(token) if begun == "remove" else stored.steps_to_set(token, disabled=True)
    assert world.nodes.change(steps[:steps_done]) == steps_done

    assert completing(world, found(world, next_counter) or token)

    assert world.nodes.entries[world.v_name] != before
    *_, result = worker
    world.check()
    assert result == candidate(VALUE, next_counter + 1)


def test_interrupted_removal_of_a_token_that_equals_its_value() -> None:
    """A command that was interrupted leaves a counter that no candidate has. It does not get into a tombstone."""
    world = World()
    world.memory.put_t(world.ring, STR, VALUE, VALUE)
    world.memory.put_h(world.ring, STR, VALUE, VALUE, next_counter=BLOCKED, flags=DISABLED)
    token = world.admin.of_token(VALUE, STR)
    assert isinstance(token, Token)

    assert remove(world, token)

    assert world.tokenize() == candidate(VALUE, 0)
    world.check()
