"""The key cache when its storage is asked in the background: keys that the loop uses or waits for."""

import threading
from concurrent.futures import Future

import pytest
import structlog

from harness.fake_keys import AWAY, MASTER_KEY, ByHand, Clock, FakeStore
from token_worker.acra.owner import Owner
from token_worker.errors import Code, Refused, Unavailable
from token_worker.keys.background import ThreadExecutor, WaitBudget
from token_worker.keys.cache import (
    ABSENCE_SECONDS,
    AGE_SECONDS,
    GRACE_SECONDS,
    LATE_SECONDS,
    REFRESH_OWNERS_MAX,
    REFRESH_SECONDS,
    RETRY_SECONDS,
    KeyCache,
    KeySearch,
)
from token_worker.keys.keyring import Keyring
from token_worker.keys.store import new_key

SHOP = Owner("client", "shop-frontend")


@pytest.fixture
def aside() -> ByHand:
    return ByHand()


@pytest.fixture
def cache(store: FakeStore, clock: Clock, aside: ByHand, monkeypatch: pytest.MonkeyPatch) -> KeyCache:
    """A cache whose look-ups are done when the test says so. The loop does not wait for them."""
    monkeypatch.setattr("token_worker.keys.cache.WAIT_SECONDS", 0)
    monkeypatch.setattr("token_worker.keys.cache.HISTORY_WAIT_SECONDS", 0)
    return KeyCache(store, MASTER_KEY, clock=clock, lookups=aside, history=aside)


def known(cache: KeyCache, aside: ByHand, *owners: Owner) -> list[Keyring]:
    """Have the keys of owners at hand."""
    cache.rings(owners)
    aside.do()
    found = [cache.rings(owners)[owner] for owner in owners]
    return [ring for ring in found if isinstance(ring, Keyring)]


def clients(store: FakeStore, count: int) -> list[Owner]:
    owners = [Owner("client", f"client-{number}") for number in range(count)]
    for owner in owners:
        store.put(owner, new_key())
    return owners


def test_used_keys_never_stop_the_loop(cache: KeyCache, store: FakeStore, clock: Clock, aside: ByHand) -> None:
    """Keys that are used once a minute are looked up beside the loop before they are too old, and no one waits."""
    owners = clients(store, 300)
    rings = known(cache, aside, *owners)
    assert len(rings) == 300
    misses = cache.misses
    for _ in range(5):
        for _ in range(60):
            clock.advance(1)
            cache.rings([owners[0]])
            aside.do()
        assert [*cache.rings(owners).values()] == rings
    assert cache.misses == misses
    assert 5 * 300 <= len(store.looked_up) <= 12 * 300


def test_key_that_is_not_used_is_not_looked_up(cache: KeyCache, store: FakeStore, clock: Clock, aside: ByHand) -> None:
    """A key that is used no more is looked up once more, not for ever."""
    known(cache, aside, SHOP)
    [other] = clients(store, 1)
    for _ in range(600):
        clock.advance(1)
        cache.rings([other])
        aside.do()
    assert store.looked_up.count(SHOP) == 2


def test_loop_goes_on_with_the_key_at_hand(cache: KeyCache, store: FakeStore, clock: Clock, aside: ByHand) -> None:
    """While a look-up is under way, the cached key serves; the next batch takes the answer."""
    [ring] = known(cache, aside, SHOP)
    clock.advance(REFRESH_SECONDS)
    key = new_key()
    store.rotate(SHOP, key)
    assert cache.rings([SHOP])[SHOP] is ring
    assert len(aside.jobs) == 1
    assert cache.rings([SHOP])[SHOP] is ring
    assert len(aside.jobs) == 1  # asked once

    aside.do()

    found = cache.rings([SHOP])[SHOP]
    assert isinstance(found, Keyring)
    assert found.current == key


def test_many_keys_are_looked_up_in_parts(cache: KeyCache, store: FakeStore, clock: Clock, aside: ByHand) -> None:
    """A key that the loop waits for is looked up after one part of the refreshed keys, not after all of them."""
    owners = clients(store, 3 * REFRESH_OWNERS_MAX)
    known(cache, aside, *owners)
    store.looked_up.clear()
    clock.advance(REFRESH_SECONDS)
    cache.rings(owners)
    cache.rings([SHOP])
    aside.do()
    assert store.looked_up == [*owners[:REFRESH_OWNERS_MAX], SHOP]


def test_key_past_its_age_serves_until_there_is_an_answer(cache: KeyCache, clock: Clock, aside: ByHand) -> None:
    """A key storage that does not answer is like one that is away: keys at hand serve on, to the end of their grace."""
    [ring] = known(cache, aside, SHOP)
    clock.advance(AGE_SECONDS + GRACE_SECONDS - 1)
    assert cache.rings([SHOP])[SHOP] is ring
    clock.advance(1)
    assert isinstance(cache.rings([SHOP])[SHOP], Unavailable)


def test_one_look_up_at_a_time_while_there_is_no_answer(cache: KeyCache, store: FakeStore, aside: ByHand) -> None:
    """While a key storage does not answer, no look-ups pile up."""
    owners = clients(store, 100)
    for owner in owners:
        assert isinstance(cache.rings([owner])[owner], Unavailable)
    assert len(aside.jobs) == 1
    aside.do()
    cache.rings(owners)
    aside.do()
    assert all(isinstance(found, Keyring) for found in cache.rings(owners).values())


def test_outage_beside_the_loop(cache: KeyCache, store: FakeStore, clock: Clock, aside: ByHand) -> None:
    """An outage during a refresh is logged once, makes the worker not ready, and ends with the next answer."""
    [ring] = known(cache, aside, SHOP)
    store.is_away = True
    clock.advance(REFRESH_SECONDS)
    with structlog.testing.capture_logs() as events:
        for _ in range(600):
            assert cache.rings([SHOP])[SHOP] is ring
            clock.advance(0.1)
            aside.do()
        assert str(cache.away) == str(AWAY)
        assert len(store.looked_up) < 15
        store.is_away = False
        clock.advance(RETRY_SECONDS[1])
        known(cache, aside, SHOP)
        assert cache.away is None
    assert [(event["event"], event["log_level"]) for event in events] == [
        ("key storage unavailable: cached keys are used", "warning"),
        ("key storage available again", "info"),
    ]


def test_names_of_nobody_are_looked_for_at_a_bounded_rate(
    store: FakeStore, clock: Clock, aside: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If each name costs a request, names without a key wait for their turn; existing keys cost no turn."""
    monkeypatch.setattr("token_worker.keys.cache.WAIT_SECONDS", 0)
    cache = KeyCache(store, MASTER_KEY, clock=clock, lookups=aside, absent_lookups_per_second=100)
    asked = 0
    for turn in range(50):
        owners = [Owner("client", f"nobody-{turn}-{number}") for number in range(500)]
        cache.rings(owners)
        aside.do()
        refused = [ring for ring in cache.rings(owners).values() if isinstance(ring, Refused)]
        assert all(refusal.code is Code.UNKNOWN_CLIENT for refusal in refused)
        asked = len(store.looked_up)
        clock.advance(0.1)
    assert 100 + 4.5 * 100 - 50 <= asked <= 100 + 5 * 100 + 50

    clock.advance(ABSENCE_SECONDS)
    owners = clients(store, 1000)
    for _ in range(11):
        cache.rings(owners)
        aside.do()
    assert all(isinstance(found, Keyring) for found in cache.rings(owners).values())


@pytest.mark.parametrize("sealed", [None, b"damaged"])
def test_late_answer_is_there_for_who_comes_again(
    cache: KeyCache, store: FakeStore, clock: Clock, aside: ByHand, sealed: bytes | None
) -> None:
    """The next try knows that there is no key, or none that opens, even if each answer comes late."""
    other = Owner("client", "other-client")
    if sealed is not None:
        store.sealed[other.key_name] = sealed
    assert isinstance(cache.rings([other])[other], Unavailable)
    clock.advance(0.9)
    aside.do()
    cache.rings([SHOP])
    clock.advance(1.5)
    assert isinstance(cache.rings([other])[other], Refused)
    clock.advance(LATE_SECONDS)
    assert isinstance(cache.rings([other])[other], Unavailable)


def test_history_beside_the_loop(cache: KeyCache, store: FakeStore, clock: Clock, aside: ByHand) -> None:
    """During a long search of the history it is unknown whether there is a key. The next try uses the result."""
    old = new_key()
    store.put(SHOP, old, "2026-01-01T00:00:00")
    [ring] = known(cache, aside, SHOP)
    clock.advance(1)
    assert isinstance(cache.find_keys(ring), Unavailable)  # the newest key is looked up
    aside.do()
    answers = []
    for _ in range(3):
        answers.append(cache.find_keys(ring))
        aside.do()
    assert isinstance(answers[0], Unavailable)
    assert KeySearch.ADDED in answers
    assert old in ring.keys
    assert store.scans == 1


def test_what_an_old_look_found_does_not_say_that_there_is_no_key(
    cache: KeyCache, store: FakeStore, clock: Clock, aside: ByHand
) -> None:
    """A look at the history that nobody came back for until it was too old does not count: another is made."""
    [ring] = known(cache, aside, SHOP)
    clock.advance(1)
    cache.find_keys(ring)
    aside.do()
    cache.find_keys(ring)
    aside.do()
    old = new_key()
    store.put(SHOP, old, "2026-01-01T00:00:00")
    clock.advance(AGE_SECONDS + 1)
    answers = []
    for _ in range(6):
        clock.advance(1)
        answers.append(cache.find_keys(ring))
        aside.do()
        if answers[-1] is KeySearch.ADDED:
            break
    assert KeySearch.EXHAUSTED not in answers
    assert old in ring.keys


def test_patience_is_for_a_batch() -> None:
    """The loop waits once for a job that does not end, and does not wait again until it has ended."""
    patience = WaitBudget(0.01)
    first: Future[None] = Future()
    second: Future[None] = Future()
    assert not patience.wait(first)
    late = [patience.is_late]
    patience.renew()
    assert not patience.wait(second)
    first.set_result(None)
    late.append(patience.is_late)
    assert late == [True, False]
    second.set_result(None)
    assert patience.wait(second)


def test_one_thread_does_jobs_in_order_and_ends() -> None:
    """One thread does the jobs one after the other, also after a job that failed. ``close`` ends it."""
    aside = ThreadExecutor("for a test")
    names: list[str] = []

    def fail() -> None:
        raise AWAY

    failed = aside.submit(fail)
    jobs = [aside.submit(lambda: names.append(threading.current_thread().name)) for _ in range(3)]
    for job in jobs:
        job.result(60)
    assert failed.exception() is AWAY
    assert names == ["for a test"] * 3
    [thread] = [thread for thread in threading.enumerate() if thread.name == "for a test"]
    aside.close()
    thread.join(60)
    assert not thread.is_alive()
