"""After a rotation the old key seals for a while, since a running Acra does not know the new one."""

import pytest

from harness.fake_keys import AWAY, MASTER_KEY, ByHand, Clock, FakeStore
from token_worker.acra.key_name import stamp_of
from token_worker.acra.owner import Owner
from token_worker.acra.value_types import STR
from token_worker.errors import Unavailable
from token_worker.keys.cache import AGE_SECONDS, KeyCache, KeySearch
from token_worker.keys.keyring import DataKeyCache, Keyring, NoMatchingKey
from token_worker.keys.store import new_key
from token_worker.storage.acra.layout import AcraLayout
from token_worker.storage.engine import Engine, FindKeys
from token_worker.storage.steps import Outcome, Store
from token_worker.storage.token_item import TokenItem
from token_worker.tokens.derivation import PLAIN, Deriver

SHOP = Owner("client", "shop-frontend")
SETTLING = 600
TODAY = 1_800_000_000.0


class Worker:
    """The key cache of one worker on the clocks of a test, which may differ from those of others."""

    def __init__(self, store: FakeStore, clock: Clock, *, ahead: float = 0, lookups: ByHand | None = None) -> None:
        def wall() -> float:
            return TODAY + clock.now - 1000 + ahead

        self.cache = KeyCache(
            store,
            MASTER_KEY,
            clock=clock,
            wall=wall,
            settling_seconds=SETTLING,
            lookups=lookups,
            history=lookups,
        )

    @property
    def ring(self) -> Keyring:
        found = self.cache.rings([SHOP])[SHOP]
        assert isinstance(found, Keyring)
        return found

    @property
    def seals_with(self) -> bytes:
        assert self.ring.unsettled is None
        return self.ring.current


def rotate(store: FakeStore, clock: Clock, *, ahead: float = 0) -> bytes:
    """Rotate as the time is now, by a clock that may be ahead; the new key."""
    key = new_key()
    store.rotate(SHOP, key, stamp_of(int((TODAY + clock.now - 1000 + ahead) * 1e9)))
    return key


def test_new_key_opens_at_once_and_seals_when_its_time_is_over(store: FakeStore, clock: Clock) -> None:
    """A running worker and one that starts later open with the new key, and change over at the same moment."""
    running = Worker(store, clock)
    old = running.seals_with
    key = rotate(store, clock)
    clock.advance(AGE_SECONDS)
    started = Worker(store, clock)
    by_acra = Keyring(SHOP, key, DataKeyCache()).seal(b"sealed with the new key")
    for _ in range(int(SETTLING - AGE_SECONDS) - 1):
        for worker in (running, started):
            assert worker.seals_with == old
            assert worker.ring.open(by_acra) == b"sealed with the new key"
        clock.advance(1)
    clock.advance(2)
    for worker in (running, started, Worker(store, clock)):
        assert worker.seals_with == key


def test_what_workers_seal_is_read_with_the_old_key_alone(store: FakeStore, clock: Clock) -> None:
    """No block of the settling time needs the new key, and no later block the old one: a data key ends with its key."""
    worker = Worker(store, clock)
    alone = Keyring(SHOP, worker.seals_with, DataKeyCache())
    key = rotate(store, clock)
    for _ in range(9):
        clock.advance(SETTLING / 10)
        assert alone.open(worker.ring.seal(b"data")) == b"data"
    clock.advance(SETTLING / 10 + 1)
    block = worker.ring.seal(b"data")
    with pytest.raises(NoMatchingKey):
        alone.open(block)
    assert Keyring(SHOP, key, DataKeyCache()).open(block) == b"data"


def test_rotations_in_a_row_settle_one_after_the_other(store: FakeStore, clock: Clock) -> None:
    """At each moment the key seals that was in use a settling time ago, for old workers and new ones."""
    running = Worker(store, clock)
    keys = [running.seals_with]
    times = [clock.now]
    for _ in range(5):
        clock.advance(150)
        times.append(clock.now)
        keys.append(rotate(store, clock))
        assert running.ring
    for _ in range(20):
        then = clock.now - SETTLING
        was_in_use = [key for key, since in zip(keys, times, strict=True) if since <= then] or keys[:1]
        assert running.seals_with == was_in_use[-1]
        assert Worker(store, clock).seals_with == was_in_use[-1]
        clock.advance(50)
    assert running.seals_with == keys[-1]


def test_clock_of_the_rotation_was_ahead(store: FakeStore, clock: Clock) -> None:
    """A rotation that seems to lie in the future settles no longer than if it had been when a worker saw it."""
    worker = Worker(store, clock)
    old = worker.seals_with
    key = rotate(store, clock, ahead=86_400)
    clock.advance(AGE_SECONDS)
    assert worker.seals_with == old
    clock.advance(SETTLING - 10)
    assert worker.seals_with == old
    clock.advance(11)
    assert worker.seals_with == key


def test_first_key_and_old_rotations_seal_at_once(store: FakeStore, clock: Clock) -> None:
    """A key without a history, and one whose rotation is long ago, seal at once."""
    store.put(SHOP, new_key(), "2020-01-01T00:00:00")
    worker = Worker(store, clock)
    assert worker.seals_with == Worker(store, clock).ring.current
    assert worker.seals_with != worker.ring.keys[-1]


def test_old_key_that_is_not_in_the_history_seals_on(store: FakeStore, clock: Clock) -> None:
    """If the replaced key is not in the history, a worker that has it still seals with it for a while."""
    worker = Worker(store, clock)
    old = worker.seals_with
    key = new_key()
    store.put(SHOP, key)
    clock.advance(AGE_SECONDS)
    assert worker.seals_with == old
    clock.advance(SETTLING + 1)
    assert worker.seals_with == key


def test_sealed_with_another_master_key_is_no_rotation(store: FakeStore, clock: Clock) -> None:
    """A key that is only sealed with another master key has no settling time."""
    worker = Worker(store, clock)
    ring = worker.ring
    store.put(SHOP, ring.current)
    clock.advance(AGE_SECONDS)
    assert worker.ring is ring


def test_nothing_is_sealed_until_the_history_is_known(store: FakeStore, clock: Clock) -> None:
    """A worker that meets a client for the first time opens at once, and seals when it knows of recent rotations."""
    store.scan_answers = [AWAY, AWAY]
    worker = Worker(store, clock)
    assert worker.ring.unsettled is AWAY
    assert worker.ring.open(Keyring(SHOP, worker.ring.current, DataKeyCache()).seal(b"data")) == b"data"
    assert worker.ring.unsettled is None


def test_rotation_that_the_last_look_cannot_have_seen(store: FakeStore, clock: Clock) -> None:
    """A look at the history that began before the key was read is not enough: another one is made."""
    worker = Worker(store, clock)
    other = Owner("client", "other-client")
    store.put(other, new_key())
    assert worker.ring.unsettled is None
    scans = store.scans
    worker.cache.rings([other])
    assert store.scans == scans + 1


def test_look_at_the_history_beside_the_loop(store: FakeStore, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look that settling needs is made beside the loop; while it lasts, the worker opens and does not seal."""
    monkeypatch.setattr("token_worker.keys.cache.WAIT_SECONDS", 0)
    monkeypatch.setattr("token_worker.keys.cache.HISTORY_WAIT_SECONDS", 0)
    aside = ByHand()
    rotate(store, clock)
    old = [key for name, key in store.sealed.items() if ".old/" in name]
    worker = Worker(store, clock, lookups=aside)
    worker.cache.rings([SHOP])
    aside.do()
    for _ in range(2):
        assert isinstance(worker.ring.unsettled, Unavailable)
        aside.do()
    assert worker.ring.unsettled is None
    assert len(old) == 1
    assert worker.seals_with != worker.ring.keys[1]


def test_more_keys_while_a_key_settles(store: FakeStore, clock: Clock) -> None:
    """A block of a new key is opened by a worker that has not seen the rotation, and does not end the settling."""
    worker = Worker(store, clock)
    old, ring = worker.seals_with, worker.ring
    key = rotate(store, clock)
    clock.advance(1)
    assert worker.cache.find_keys(ring) is KeySearch.ADDED
    assert ring.open(Keyring(SHOP, key, DataKeyCache()).seal(b"data")) == b"data"
    assert worker.seals_with == old


def test_seconds_until_the_newest_key_seals_are_known(store: FakeStore, clock: Clock) -> None:
    """The cache tells how long the newest key does not seal yet, so that entries are not encrypted with it before."""
    worker = Worker(store, clock)
    assert worker.ring
    assert worker.cache.settling_seconds_left(SHOP) == 0
    rotate(store, clock)
    clock.advance(100)
    assert worker.ring
    assert worker.cache.settling_seconds_left(SHOP) == pytest.approx(SETTLING - 100, abs=1)
    clock.advance(SETTLING)
    assert worker.ring
    assert worker.cache.settling_seconds_left(SHOP) == 0


def made(ring: Keyring, value: bytes) -> tuple[TokenItem, Store | None]:
    """Run a new value through the engine, which finds nothing stored. Returns the rows that it wants to write."""
    item = TokenItem(ring, STR, value, tokenize=True)
    steps = Engine(AcraLayout()).run([item], 1_800_000_000)
    written = None
    answer: object = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration:
            return item, written
        assert not isinstance(step, FindKeys)
        if isinstance(step, Store):
            written = step
            answer = [Outcome("written") for _ in step.rows]
        else:
            answer = [None]


def test_tokens_are_derived_from_the_key_that_seals(store: FakeStore, clock: Clock) -> None:
    """All workers derive by the key that seals: one that knows the new key and one that does not get the same token."""
    not_yet = Worker(store, clock)
    before = not_yet.ring
    rotate(store, clock)
    started = Worker(store, clock)
    tokens = {made(ring, b"some value")[0].result for ring in (before, started.ring)}
    assert tokens == {Deriver(before.current, SHOP).token(PLAIN["str"], b"some value", 0)}


def test_new_values_wait_for_a_key_that_may_not_seal_yet(store: FakeStore, clock: Clock) -> None:
    """While it is not known which key seals, nothing is written, and the request is tried again later."""
    store.scan_answers = [AWAY]
    item, written = made(Worker(store, clock).ring, b"some value")
    assert item.result is AWAY
    assert written is None
