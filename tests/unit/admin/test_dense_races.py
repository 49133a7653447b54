"""Operators disable, enable and remove tokens of the dense layout, one entry after the other, while workers write.

Each entry is on a node of its own, as in a cluster: every command is on one entry, and others act between any two. On
one server the same steps are one script, so that fewer interleavings can happen there.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from token_worker.acra.owner import Owner
from token_worker.acra.value_types import STR
from token_worker.admin.entry_store import EntryChange
from token_worker.admin.stored_tokens import Finding, Token
from token_worker.admin.stored_tokens_dense import BLOCKED, DenseTokens
from token_worker.admin.tokens import TokenAdmin, TokenFilter
from token_worker.errors import Code, Refused
from token_worker.keys.cache import KeyCache, KeySearch
from token_worker.keys.index_key import seal_index_key
from token_worker.keys.keyring import Keyring
from token_worker.keys.store import wrap
from token_worker.storage.dense.entry import DISABLED, REMOVED, SealKey
from token_worker.storage.dense.layout import DenseLayout, token_plaintext, value_plaintext
from token_worker.storage.engine import Engine, FindKeys
from token_worker.storage.steps import Adopt, Lookup, Outcome, Row, Store
from token_worker.storage.token_item import TokenItem
from token_worker.testing.memory import MASTER_KEY, MemoryKeys
from token_worker.tokens.derivation import PLAIN

SHOP = Owner("client", "shop-frontend")
KEY, INDEX_KEY = bytes(range(32)), bytes(range(32, 64))
VALUE = b"a value"
NOW = 1_800_000_000
SCHEDULES = 250


class Broken(AssertionError):  # noqa: N818 - reads as what it says
    """A promise is broken."""


class Nodes:
    """Entries, each on a node of its own. ``before`` is called ahead of each command."""

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes] = {}
        self.before: Callable[[], None] = lambda: None
        self.compares = True

    def names(self, pattern: bytes, count: int) -> Iterator[list[bytes]]:
        yield [name for name in self.entries if name[:1] == pattern[:1]]

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self._get(key) for key in keys]

    def change(self, steps: Sequence[EntryChange]) -> int:
        for done, (key, old, new) in enumerate(steps):
            if (self._get(key) or b"") != old and self.compares:
                return done
            if new:
                self.entries[key] = new
            else:
                self.entries.pop(key, None)
        return len(steps)

    def _get(self, key: bytes) -> bytes | None:
        self.before()
        return self.entries.get(key)


class World:
    """One client with one value, its entries, and workers and operators on them."""

    def __init__(self) -> None:
        self.nodes = Nodes()
        keys = MemoryKeys()
        keys.sealed = {SHOP.key_name: wrap(KEY, MASTER_KEY, SHOP)}
        keys.index = {SHOP.key_name: seal_index_key(INDEX_KEY, MASTER_KEY, SHOP)}
        self.cache = KeyCache(keys, MASTER_KEY, with_index=True)
        self.layout = DenseLayout()
        ring = self.cache.rings([SHOP])[SHOP]
        assert isinstance(ring, Keyring)
        self.ring = ring
        self.owner = self.layout.prepare(ring)
        self.admin = TokenAdmin(self.nodes, self.cache, SHOP, layout="dense", rate=1e9)
        self.v_name = self.owner.of_value(VALUE, STR.number)
        self.compares = True
        """False plants a bug: workers replace value entries without a look."""

    def candidate(self, counter: int) -> bytes:
        return self.owner.deriver.token(PLAIN["str"], VALUE, counter)

    def t_name(self, counter: int) -> bytes:
        return self.owner.of_token(self.candidate(counter), STR.number)

    def put_value(self, flags: int, counter: int) -> None:
        """Write the value entry: it names this candidate, or is its tombstone."""
        token = b"" if flags & REMOVED else self.candidate(counter)
        self._put(self.v_name, value_plaintext(STR.number, counter + 1, token), flags)

    def put_token(self, flags: int, counter: int) -> None:
        content = b"" if flags & REMOVED else VALUE
        self._put(self.t_name(counter), token_plaintext(STR.number, content), flags)

    def _put(self, name: bytes, plaintext: bytes, flags: int) -> None:
        seal_key = SealKey(KEY, SHOP)
        self.nodes.entries[name] = seal_key.seal(name, seal_key.head(flags, NOW // 86400), plaintext)

    # -- workers

    def tokenizing(self) -> Iterator[bytes | Refused | None]:
        """Tokenize the value as a worker does, with a pause ahead of each command; the last item is the result."""
        item = TokenItem(self.ring, STR, VALUE, tokenize=True)
        steps, answer = Engine(self.layout).run([item], NOW), None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration:
                break
            answer = yield from self._execute(step)
        assert item.result is not None
        yield item.result  # type: ignore[misc]

    def _execute(self, step: Any) -> Any:
        entries = self.nodes.entries
        found: list[Any] = []
        match step:
            case Lookup(keys):
                for key in keys:
                    yield
                    found.append(entries.get(key))
            case Store(rows) | Adopt(rows):
                for row in rows:
                    yield
                    found.append((yield from self._write(row, is_new=isinstance(step, Store))))
            case FindKeys(rings):
                found = [KeySearch.EXHAUSTED] * len(rings)
        return found

    def _write(self, row: Row, *, is_new: bool) -> Any:
        entries = self.nodes.entries
        held = entries.setdefault(row.t_key, row.t_value) if is_new else entries.get(row.t_key)
        if held != row.t_value:
            return Outcome("token", held or b"") if is_new else Outcome("changed")
        yield
        held = entries.get(row.h_key, b"")
        if held not in (row.h_old, row.h_value) and self.compares:
            return Outcome("value", held)
        entries[row.h_key] = row.h_value
        return Outcome("written")

    def tokenize(self) -> bytes | Refused:
        """Tokenize the value without a pause."""
        *_, result = self.tokenizing()
        assert result is not None
        return result

    def detokenize(self, token: bytes) -> bytes | Refused:
        item = TokenItem(self.ring, STR, token, tokenize=False)
        steps, answer = Engine(self.layout).run([item], NOW), None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration:
                break
            assert isinstance(step, Lookup)
            answer = [self.nodes.entries.get(key) for key in step.keys]
        assert isinstance(item.result, bytes | Refused)
        return item.result

    # -- what must hold

    def check(self) -> None:
        """Check that an enabled value entry names a token that exists, is enabled, and holds the value."""
        raw = self.nodes.entries.get(self.v_name)
        if raw is None:
            return
        token, notes = self.layout.open_value(self.ring, self.v_name, STR.number, raw, None)
        if notes is None:
            name = self.owner.of_token(token, STR.number)
            held = self.nodes.entries.get(name)
            if held is None or self.layout.open_token(self.ring, name, STR.number, held, None) != (VALUE, None):
                raise Broken("an enabled value entry names a token that does not serve")


Operation = Callable[[World], bool]


def found(world: World, counter: int = 0, *, by_token: bool = False) -> Token | None:
    """The token of a candidate, as a command finds it: by a scan, or because it was given."""
    if by_token:
        token = world.admin.of_token(world.candidate(counter), STR)
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


def play(world: World, operation: Callable[[World, Token], bool], chance: random.Random) -> bool:
    """Run a command on the first candidate while up to three workers tokenize the value, and now and then kill it.

    Returns True if the command has succeeded. A killed one is run again, without workers, and ``verify --repair``.
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
    for worker in workers:
        for _ in worker:
            world.check()
    if done is None:
        again = found(world, by_token=True)
        if again is None:
            again = world.admin.of_value(VALUE, STR)  # type: ignore[assignment]
        done = again is None or operation(world, again)
        for finding in list(world.admin.check_values()):
            assert isinstance(finding, Finding)
            world.admin.repair(finding)
    world.check()
    return done


def explore(state: str, operation: str, plant: Callable[[World], None] = lambda _: None) -> None:
    """Play many schedules. After each, what the command promises has to hold for good."""
    for seed in range(SCHEDULES):
        world = World()
        STATES[state](world)
        plant(world)
        if not play(world, OPERATIONS[operation], random.Random(seed)):
            continue  # others kept changing the token, and the command says so
        token = world.candidate(0)
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


def _worker_without_compare(_: pytest.MonkeyPatch) -> Callable[[World], None]:
    return lambda world: setattr(world, "compares", False)


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
            back, now = world.detokenize(world.candidate(0)), world.tokenize()
            if not isinstance(back, Refused) or back.code != Code.TOKEN_NOT_FOUND or now != world.candidate(1):
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
        assert now == world.candidate(1)
        for _ in slow:
            world.check()
        assert (world.tokenize(), world.detokenize(now)) == (now, VALUE)


def test_interrupted_removal_of_a_token_that_equals_its_value() -> None:
    """A command that was interrupted leaves a counter that no candidate has. It does not get into a tombstone."""
    world = World()
    t_name = world.owner.of_token(VALUE, STR.number)
    world._put(t_name, token_plaintext(STR.number, VALUE), 0)
    world._put(world.v_name, value_plaintext(STR.number, BLOCKED, VALUE), DISABLED)
    token = world.admin.of_token(VALUE, STR)
    assert isinstance(token, Token)

    assert remove(world, token)

    assert world.tokenize() == world.candidate(0)
    world.check()
