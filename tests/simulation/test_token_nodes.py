"""Workers write tokens to the nodes of a cluster while others do the same, are killed anywhere, and nodes fail over.

Engine, storage, barrier and pipeline are those of production; see ``token_nodes``. Every schedule has a seed.
"""

import random
from collections.abc import Callable, Generator, Sequence
from itertools import count
from typing import Any

import pytest

from simulation.token_nodes import SLOTS, Actor, ClusterInMemory, Schedule, Servers
from token_worker.acra.owner import Owner
from token_worker.acra.value_types import STR
from token_worker.admin.cluster_entries import ClusterEntries
from token_worker.admin.entry_store import EntryChange
from token_worker.admin.stored_tokens import Token
from token_worker.admin.stored_tokens_dense import DenseTokens
from token_worker.admin.tokens import TokenAdmin, TokenFilter
from token_worker.errors import Refused, Unavailable
from token_worker.keys.cache import KeyCache, KeySearch
from token_worker.keys.index_key import seal_index_key
from token_worker.keys.keyring import Keyring
from token_worker.keys.store import wrap
from token_worker.redis.cluster_pipeline import slot_of
from token_worker.redis.wire import pack
from token_worker.storage import cluster_tokens
from token_worker.storage.cluster_durability import ClusterBarrier
from token_worker.storage.cluster_tokens import ClusterTokenStorage
from token_worker.storage.dense.entry import ALONE, FOREIGN
from token_worker.storage.dense.layout import DenseLayout, foreign_plaintext
from token_worker.storage.durability import Durability
from token_worker.storage.engine import Engine, FindKeys
from token_worker.storage.item_group import ItemGroup
from token_worker.storage.steps import WRITTEN, Outcome, Row
from token_worker.storage.token_item import ItemResult, TokenItem
from token_worker.testing.memory import MASTER_KEY, MemoryKeys
from token_worker.tokens.derivation import PLAIN

SHOP = Owner("client", "shop-frontend")
NOW = 1_800_000_000
Operate = Callable[[TokenAdmin, Token], bool]
SCHEDULES = 100
TRIES = 4
"""Tries of a batch that a node did not do."""


@pytest.fixture(autouse=True)
def no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes fail over often here."""
    monkeypatch.setattr(ClusterTokenStorage, "_log_away", lambda *_: None)


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates are looked up in small groups: each look-up is a command with a pause here."""
    monkeypatch.setattr("token_worker.storage.engine._PROBE_CANDIDATES", 4)


class Broken(AssertionError):  # noqa: N818 - reads as what it says
    """A promise is broken."""


def _cache() -> KeyCache:
    keys = MemoryKeys()
    keys.sealed = {SHOP.key_name: wrap(bytes(range(32)), MASTER_KEY, SHOP)}
    keys.index = {SHOP.key_name: seal_index_key(bytes(range(32, 64)), MASTER_KEY, SHOP)}
    return KeyCache(keys, MASTER_KEY, with_index=True)


CACHE = _cache()
RING = CACHE.rings([SHOP])[SHOP]
LAYOUT = DenseLayout()
WITH_FOREIGN = DenseLayout(has_foreign=True)
NAMES = LAYOUT.prepare(RING) if isinstance(RING, Keyring) else None


def ring() -> Keyring:
    assert isinstance(RING, Keyring)
    return RING


def candidate(value: bytes, counter: int = 0) -> bytes:
    return LAYOUT.prepare(ring()).deriver.token(PLAIN["str"], value, counter)


def _values() -> list[bytes]:
    """Two values whose first candidates are the same, and one more. The two entries of the first have two nodes."""
    seen: dict[bytes, bytes] = {}
    for number in count():
        value = b"%x" % number
        if len(value) == 2:
            first = seen.setdefault(candidate(value), value)
            if first != value and len({SLOTS[slot_of(name)] for name in names_of(first)}) == 2:
                return [first, value, b"another value"]
    raise AssertionError


def names_of(value: bytes) -> tuple[bytes, bytes]:
    """The names of the value entry of a value, and of the token entry of its first candidate."""
    names = LAYOUT.prepare(ring()).names
    return names.of_value(value, STR.number), names.of_token(candidate(value), STR.number)


VALUES = _values()


class World:
    """The nodes, and what workers have answered."""

    def __init__(self, durability: Durability, layout: DenseLayout = LAYOUT) -> None:
        self.servers = Servers()
        self.durability = durability
        self.layout = layout
        self.answered: list[tuple[bytes, bytes]] = []

    def worker(self, values: Sequence[bytes]) -> Actor:
        """A worker that tokenizes these values in one batch, and tries again what a node did not do."""

        def work(actor: Actor) -> None:
            cluster = ClusterInMemory(self.servers, actor)
            barrier = ClusterBarrier(cluster, self.durability, 1000) if any(self.durability) else None
            storage = ClusterTokenStorage(cluster, self.layout, barrier)
            left = list(values)
            for _ in range(TRIES):
                group = ItemGroup(ring(), STR, True, left)
                try:
                    storage.barrier.open()
                    run([], storage.execute, self.layout, [group])
                    storage.barrier.wait([], [group])
                except Unavailable:
                    continue
                found = list(zip(left, group.results, strict=True))
                self.answered += [(value, result) for value, result in found if isinstance(result, bytes)]
                left = [value for value, result in found if isinstance(result, Unavailable)]

        return Actor(work)

    def operator(self, operate: Operate, value: bytes, done: list[bool]) -> Actor:
        """A command on the first token of a value, which is run again if a node did not do or confirm its part."""

        def work(actor: Actor) -> None:
            for _ in range(TRIES):
                entries = ClusterEntries(ClusterInMemory(self.servers, actor), self.durability)
                try:
                    admin = TokenAdmin(entries, CACHE, SHOP, layout="dense", rate=1e9)
                    found = admin.of_token(candidate(value), STR) or admin.of_value(value, STR)
                    if isinstance(found, Token) and found.t.key in admin.stored.names_of_token(candidate(value), STR):
                        is_done = operate(admin, found)
                        admin.confirm()
                        done.append(is_done)
                except Unavailable:
                    continue
                return

        return Actor(work)

    def ask(self, data: bytes, *, tokenize: bool) -> ItemResult | None:
        """The answer to a value or token, while nobody else is at work; None if a value gets no token."""
        item = TokenItem(ring(), STR, data, tokenize=tokenize)
        if tokenize:
            before = len(self.answered)
            Schedule(lambda: None).run([self.worker([data])], lambda alive: alive[0])
            return self.answered.pop()[1] if len(self.answered) > before else None
        run([item], lambda step: [self.servers.get(key) for key in step.keys], self.layout)
        return item.result

    def check(self) -> None:
        """Check that each enabled value entry names a token that exists, is enabled, and holds the value."""
        names = LAYOUT.prepare(ring()).names
        for name, raw in self.servers.entries.items():
            if name[:1] != b"v":
                continue
            token, notes = LAYOUT.open_value(ring(), name, STR.number, raw, None)
            if notes is not None:
                continue
            t_name = names.of_token(token, STR.number)
            held = self.servers.get(t_name)
            if held is None:
                raise Broken("an enabled value entry names a token that does not exist")
            value, notes = LAYOUT.open_token(ring(), t_name, STR.number, held, None)
            if notes is not None or names.of_value(value, STR.number) != name:
                raise Broken("an enabled value entry names a token that does not serve")

    def check_answers(self) -> None:
        """Check that each value has one token, no two have the same, and each token gives its value back."""
        tokens = dict(self.answered)
        if any(tokens[value] != token for value, token in self.answered):
            raise Broken("a value has two tokens")
        if len(set(tokens.values())) < len(tokens):
            raise Broken("two values have the same token")
        for value, token in tokens.items():
            if self.ask(token, tokenize=False) != value:
                raise Broken("a token that went out cannot be detokenized")
            if self.ask(value, tokenize=True) != token:
                raise Broken("a value gets another token later")


def run(
    items: list[TokenItem], execute: Callable[[Any], Any], layout: DenseLayout, groups: Sequence[ItemGroup] = ()
) -> None:
    """Run the engine."""
    steps, answer = Engine(layout).run(items, NOW, groups), None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration:
            return
        answer = [KeySearch.EXHAUSTED] * len(step.rings) if isinstance(step, FindKeys) else execute(step)


def chooser(chance: random.Random, pace: float) -> Callable[[list[Actor]], Actor]:
    """Go on with the same actor for a while, then with any."""
    last: list[Actor] = []

    def choose(alive: list[Actor]) -> Actor:
        if not last or last[0] not in alive or chance.random() < pace:
            last[:] = [chance.choice(alive)]
        return last[0]

    return choose


def race(chance: random.Random) -> None:
    """Workers write the same values; some are killed anywhere."""
    world = World(Durability())
    workers = [world.worker(chance.sample(VALUES, chance.randrange(1, 4))) for _ in range(3)]
    Schedule(world.check).run(workers, chooser(chance, chance.choice((0.2, 0.6, 1))), killer(workers, chance, 0.4))
    world.check_answers()


def killer(actors: list[Actor], chance: random.Random, risk: float) -> Callable[[], None]:
    """Make the function that kills some of the actors, each after a few commands."""
    deadly = {actor: chance.randrange(1, 12) for actor in actors if chance.random() < risk}

    def kill() -> None:
        for actor, steps in deadly.items():
            if actor.steps >= steps and not actor.is_over:
                actor.kill()

    return kill


def fail_overs(chance: random.Random) -> None:
    """Workers write with replicas:1 while nodes fail over."""
    world = World(Durability(replicas=1))
    workers = [world.worker(chance.sample(VALUES, chance.randrange(1, 4))) for _ in range(2)]
    run_with_fail_overs(world, workers, chance)
    names = LAYOUT.prepare(ring()).names
    for value, token in world.answered:
        for name in (names.of_value(value, STR.number), names.of_token(token, STR.number)):
            if world.servers.get(name) is None:
                raise Broken("an entry is lost that was confirmed")
    world.check_answers()


def run_with_fail_overs(world: World, actors: list[Actor], chance: random.Random) -> None:
    """Let nodes fail over now and then, and all of them at the end. Some actors are killed."""
    risk, kill = chance.choice((0.02, 0.05, 0.1)), killer(actors, chance, 0.2)

    def before() -> None:
        kill()
        if chance.random() < risk:
            chance.choice([*world.servers.of.values()]).fail_over()

    Schedule(world.check).run(actors, chooser(chance, chance.choice((0.2, 0.6, 1))), before)
    for server in world.servers.of.values():
        server.fail_over()
    world.check()


def operators(chance: random.Random) -> None:
    """Workers write while an operator removes the token of one value, and the others are left alone."""
    world = World(Durability())
    actors, token, done = beside_workers(world, remove, chance)
    Schedule(world.check).run(actors, chooser(chance, chance.choice((0.2, 0.6, 1))))
    check_removed(world, token, done)


def operators_fail_overs(chance: random.Random) -> None:
    """An operator changes the token of one value with replicas:1 while workers write and nodes fail over."""
    world = World(Durability(replicas=1))
    operate = chance.choice((remove, disable, enable))
    actors, token, done = beside_workers(world, operate, chance)
    run_with_fail_overs(world, actors, chance)
    if operate is remove:
        check_removed(world, token, done)
    elif done == [True] and isinstance(world.ask(token, tokenize=False), bytes) != (operate is enable):
        raise Broken("a change is lost that the command has confirmed")


def remove(admin: TokenAdmin, token: Token) -> bool:
    return admin.remove(token, TokenFilter())


def disable(admin: TokenAdmin, token: Token) -> bool:
    return admin.set_disabled(token, disabled=True)


def enable(admin: TokenAdmin, token: Token) -> bool:
    return admin.set_disabled(token, disabled=False)


def beside_workers(world: World, operate: Operate, chance: random.Random) -> tuple[list[Actor], bytes, list[bool]]:
    """An operator and two workers, the token of the value that the operator is about, and what the command says."""
    value, other = VALUES[0], VALUES[2]
    token = world.ask(value, tokenize=True)
    assert isinstance(token, bytes)
    if operate is enable:
        Schedule(lambda: None).run([world.operator(disable, value, [])], lambda alive: alive[0])
    if chance.random() < 0.5:  # a worker was killed between its two writes
        server, name = world.servers.at(names_of(value)[0]), names_of(value)[0]
        server.entries.pop(name)
        server.confirmed.pop(name, None)
    done: list[bool] = []
    workers = [world.worker(chance.sample([value, other], chance.randrange(1, 3))) for _ in range(2)]
    return [world.operator(operate, value, done), *workers], token, done


def check_removed(world: World, token: bytes, done: list[bool]) -> None:
    if done != [True]:
        return  # workers were faster, and the command says so
    if not isinstance(world.ask(token, tokenize=False), Refused):
        raise Broken("a removed token serves")
    if world.ask(VALUES[0], tokenize=True) in (token, None):
        raise Broken("a removed token comes back, or its value gets no other")
    world.answered = [(data, found) for data, found in world.answered if found != token]
    world.check_answers()


def foreign(chance: random.Random) -> None:
    """Nodes fail over while workers write values whose candidates were moved, and an operator changes one of these."""
    world = World(Durability(replicas=1), WITH_FOREIGN)
    moved = {candidate(value, counter): chance.choice(HOLDERS) for value in VALUES for counter in range(2)}
    for token, value in moved.items():
        name, raw = foreign_entry(token, value)
        server = world.servers.at(name)
        server.entries[name] = server.confirmed[name] = raw
    operate, changed, done = chance.choice((remove, disable)), chance.choice(VALUES), list[bool]()
    actors = [world.worker(chance.sample(VALUES, chance.randrange(1, 4))) for _ in range(2)]
    run_with_fail_overs(world, [*actors, world.operator(operate, changed, done)], chance)
    if any(token in moved for _, token in world.answered):
        raise Broken("a value gets a token that was moved")
    world.check_answers()
    for token, value in moved.items():
        back = world.ask(token, tokenize=False)
        if token == candidate(changed):
            if done == [True] and not isinstance(back, Refused):
                raise Broken("a change is lost that the command has confirmed")
        elif back != value:
            raise Broken("a token that was moved cannot be detokenized")


HOLDERS = [b"moved 1", b"moved 2"]


def foreign_entry(token: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Name and bytes of the entry of a token that was moved."""
    owner = LAYOUT.prepare(ring())
    data_id = owner.names.data_id(token, STR.number)
    name, head = owner.names.of_data_id(data_id), owner.seal_key.head(ALONE | FOREIGN, 20_000)
    return name, owner.seal_key.seal(name, head, foreign_plaintext(STR.number, data_id, value))


SCENES = {
    "race": race,
    "fail-overs": fail_overs,
    "operator": operators,
    "operator-fail-overs": operators_fail_overs,
    "foreign": foreign,
}


def explore(scene: str, schedules: int) -> None:
    for seed in range(schedules):
        try:
            SCENES[scene](random.Random(seed))
        except Broken as broken:
            raise Broken(f"{broken} (seed {seed})") from None


@pytest.mark.parametrize("scene", SCENES)
def test_promises_hold_whatever_the_order(scene: str) -> None:
    """No enabled value entry is without its token, and each token that went out gives its value back."""
    explore(scene, SCHEDULES)


def _value_entry_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def turned(self: ClusterTokenStorage, rows: Sequence[Row], *, is_new: bool) -> list[Outcome]:
        commands = [cluster_tokens._value_write(row) for row in rows]
        found = self._call([row.h_key for row in rows], commands, writes=True, is_closed=True)
        outcomes = [cluster_tokens._after_value_write(raw) for raw in found]
        kept = [row for row, outcome in zip(rows, outcomes, strict=True) if outcome.what == "written"]
        commands = [pack(("SET", row.t_key, row.t_value, "NX", "GET")) for row in kept]
        self._call([row.t_key for row in kept], commands, writes=True, is_closed=True)
        return outcomes

    monkeypatch.setattr(ClusterTokenStorage, "_write_part", turned)


def _taken_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_tokens, "_after_store", lambda *_: WRITTEN)


def _replaces_without_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_tokens, "_after_adopt", lambda *_: WRITTEN)
    monkeypatch.setattr(cluster_tokens, "_value_write", lambda row: pack(("SET", row.h_key, row.h_value)))
    monkeypatch.setattr(cluster_tokens, "_after_value_write", lambda *_: WRITTEN)


def _token_entry_unconfirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    call = ClusterTokenStorage._call

    def hasty(self: ClusterTokenStorage, keys: Sequence[bytes], *given: Any, **options: Any) -> list[Any]:
        return call(self, keys, *given, **{**options, "is_closed": any(key[:1] == b"v" for key in keys)})

    monkeypatch.setattr(ClusterTokenStorage, "_call", hasty)


def _replies_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClusterBarrier, "wait", lambda *_: None)
    monkeypatch.setattr(ClusterBarrier, "problem", lambda *_: None)


def _removal_without_tombstone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DenseTokens, "_removed", lambda *_: b"")


def _operator_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    change = ClusterEntries.change

    def hasty(self: ClusterEntries, steps: Sequence[EntryChange]) -> int:
        self._closing = None
        return change(self, steps)

    monkeypatch.setattr(ClusterEntries, "change", hasty)


def _foreign_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def passes(_self: Engine, items: list[TokenItem], *_: object) -> Generator[Any, Any, list[TokenItem]]:
        yield from ()
        return items

    monkeypatch.setattr(Engine, "_pass_over", passes)


@pytest.mark.parametrize(
    ("plant", "scene"),
    [
        (_value_entry_first, "race"),
        (_taken_tokens, "race"),
        (_token_entry_unconfirmed, "fail-overs"),
        (_replies_at_once, "fail-overs"),
        (_removal_without_tombstone, "operator"),
        (_replaces_without_compare, "operator"),
        (_operator_does_not_wait, "operator-fail-overs"),
        (_foreign_not_looked_up, "foreign"),
    ],
)
def test_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], scene: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these mistakes breaks a promise in one of the schedules: they are hard enough."""
    plant(monkeypatch)
    with pytest.raises(Broken):
        explore(scene, 8 * SCHEDULES)
