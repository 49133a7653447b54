"""A master key that is replaced while a worker runs is found by itself, and damaged keys cost next to nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import structlog

from harness.fake_keys import MASTER_KEY, ByHand, Clock, FakeStore
from token_worker.acra.key_name import HISTORY_INFIX
from token_worker.acra.owner import Owner
from token_worker.errors import Code, CorruptData, Refused, Unavailable
from token_worker.keys.cache import AGE_SECONDS, GRACE_SECONDS, KeyCache, KeySearch
from token_worker.keys.keyring import Keyring
from token_worker.keys.live_master_keys import DROP_SECONDS, FIRST_SECONDS, NONE_OPENS, READ_SECONDS, LiveMasterKeys
from token_worker.keys.master import MasterKeys, MasterKeyVersion
from token_worker.keys.store import new_key, wrap

SHOP = Owner("client", "shop-frontend")
OTHER = Owner("client", "other-client")
NEW = bytes(range(100, 132))


class Source:
    """A secret with versions.

    Attributes:
        versions: the master keys by their number; the newest is what is read.
        readings: the times at which it was read.
        is_away: raise ``Unavailable`` from now on.
    """

    def __init__(self, clock: Clock) -> None:
        self.versions = {1: MASTER_KEY}
        self.readings: list[float] = []
        self.is_away = False
        self._clock = clock

    def read(self) -> MasterKeyVersion:
        self.readings.append(self._clock.now)
        if self.is_away:
            raise Unavailable("vault", "sealed")
        number = max(self.versions)
        return MasterKeyVersion(self.versions[number], number)

    def holds(self, version: MasterKeyVersion) -> bool:
        self.readings.append(self._clock.now)
        return self.versions.get(version.number) == version.key


class Setup:
    """A key cache whose master keys come from a ``Source``; time passes when a test says so."""

    def __init__(self, uniform: Callable[[float, float], float] = lambda low, _high: low) -> None:
        self.clock = Clock()
        self.source = Source(self.clock)
        self.store = FakeStore(self.clock)
        self.aside = ByHand()
        self.master_keys = LiveMasterKeys(
            MasterKeys(MASTER_KEY),
            self.source,
            version=1,
            executor=self.aside,
            clock=self.clock,
            uniform=uniform,
        )
        self.cache = KeyCache(self.store, self.master_keys, clock=self.clock)

    def ask(self, owner: Owner = SHOP) -> Any:
        """Ask for the keys of an owner, as a batch does."""
        return self.cache.rings([owner])[owner]

    def seal(self, owner: Owner, key: bytes, master_key: bytes) -> None:
        self.store.sealed[owner.key_name] = wrap(key, master_key, owner)

    def read(self) -> None:
        """Have a batch begin the reading, another thread do it, and a batch take its result."""
        self.cache.rings([])
        self.aside.do()
        self.cache.rings([])


@pytest.fixture
def setup() -> Setup:
    return Setup()


def test_new_master_key_is_added_and_the_old_one_opens_on(setup: Setup) -> None:
    """A key that a new master key seals waits until the secret was read again; keys of both open then."""
    setup.store.put(SHOP, new_key())
    assert isinstance(setup.ask(), Keyring)
    key = new_key()
    setup.seal(OTHER, key, NEW)
    setup.source.versions[2] = NEW

    assert isinstance(setup.ask(OTHER), Unavailable)
    with structlog.testing.capture_logs() as logs:
        setup.read()

    assert setup.ask(OTHER).current == key
    setup.clock.advance(AGE_SECONDS + 1)
    assert isinstance(setup.ask(SHOP), Keyring)
    assert setup.master_keys.count == 2
    assert [line["version"] for line in logs if line["event"].startswith("new master key read")] == [2]


def test_key_at_hand_serves_while_the_master_key_is_read_again(setup: Setup) -> None:
    """A client whose key is cached is served on after its key was sealed again, by the same key."""
    key = new_key()
    setup.store.put(SHOP, key)
    ring = setup.ask()
    setup.seal(SHOP, key, NEW)
    setup.source.versions[2] = NEW
    setup.clock.advance(AGE_SECONDS + 1)

    assert setup.ask() is ring
    setup.read()
    setup.clock.advance(AGE_SECONDS + 1)

    assert setup.ask() is ring
    assert len(setup.source.readings) == 1


def test_key_that_no_version_opens_is_damaged_and_not_read_for_again(setup: Setup) -> None:
    """After one reading, a damaged key is unreadable at once. The same bytes make nobody read the secret again."""
    setup.seal(SHOP, new_key(), NEW)
    assert isinstance(setup.ask(), Unavailable)
    setup.read()
    setup.clock.advance(2)

    for _ in range(50):
        found = setup.ask()
        assert isinstance(found, Refused)
        assert found.code is Code.KEY_UNREADABLE
        setup.clock.advance(AGE_SECONDS)
        setup.read()

    assert len(setup.source.readings) == 1


def test_damaged_key_is_tried_with_the_next_master_key(setup: Setup) -> None:
    """A key that was unreadable opens as soon as another key has brought its master key."""
    setup.seal(SHOP, new_key(), NEW)
    setup.ask()
    setup.read()
    setup.clock.advance(READ_SECONDS)
    assert isinstance(setup.ask(), Refused)

    setup.source.versions[2] = NEW
    setup.seal(OTHER, new_key(), NEW)
    setup.ask(OTHER)
    setup.read()

    assert isinstance(setup.ask(SHOP), Keyring)


@pytest.mark.parametrize(
    "sealed",
    [b"", b"@@ no base64 @@", b"AAEB", wrap(bytes(32), NEW, SHOP)[:-8]],
    ids=["empty", "not base64", "short", "cut"],
)
def test_text_that_no_master_key_can_open_is_unreadable_at_once(setup: Setup, sealed: bytes) -> None:
    """A text that has not the form of a sealed key is not worth a question."""
    setup.store.sealed[SHOP.key_name] = sealed

    assert isinstance(setup.ask(), Refused)
    setup.clock.advance(READ_SECONDS)
    setup.read()
    assert setup.source.readings == []


def test_ten_thousand_damaged_keys_cost_one_reading_a_minute(setup: Setup) -> None:
    """However many keys are damaged, the secret is read once a minute. Other clients are served all the time."""
    setup.store.put(SHOP, new_key())
    ring = setup.ask()
    began, waits, asked = setup.clock.now, 0, 0

    for number in range(10_000):
        owner = Owner("client", f"client-{number}")
        setup.seal(owner, bytes(32), NEW)
        found = setup.cache.rings([SHOP, owner])
        assert found[SHOP] is ring
        waits += isinstance(found[owner], Unavailable)
        setup.clock.advance(0.05)
        setup.aside.do()
        asked += 1

    minutes = (setup.clock.now - began) / 60
    assert 2 < len(setup.source.readings) <= minutes + 1
    assert waits == asked
    setup.clock.advance(READ_SECONDS)
    setup.read()
    for number in range(0, 10_000, 100):
        assert isinstance(setup.ask(Owner("client", f"client-{number}")), Refused)


def test_readings_are_spread_at_random() -> None:
    """The first reading comes up to 5 seconds after the key, the next ones after up to one half more than a minute."""
    setup = Setup(lambda _low, high: high)
    setup.seal(SHOP, new_key(), NEW)
    setup.ask()
    setup.clock.advance(FIRST_SECONDS - 0.1)
    setup.read()
    assert setup.source.readings == []
    setup.clock.advance(0.2)
    setup.read()
    assert len(setup.source.readings) == 1
    setup.seal(OTHER, new_key(), NEW)
    setup.ask(OTHER)
    setup.clock.advance(1.5 * READ_SECONDS - 1)
    setup.read()
    assert len(setup.source.readings) == 1
    setup.clock.advance(1.1)
    setup.read()
    assert len(setup.source.readings) == 2


def test_loop_does_not_wait_for_the_reading(setup: Setup) -> None:
    """While the secret is read, batches go on: nobody does the reading in the loop."""
    setup.store.put(SHOP, new_key())
    setup.seal(OTHER, new_key(), NEW)
    setup.ask(OTHER)
    for _ in range(10):
        assert isinstance(setup.ask(SHOP), Keyring)
        assert isinstance(setup.ask(OTHER), Unavailable)
        setup.clock.advance(2)
    assert setup.source.readings == []
    assert len(setup.aside.jobs) == 1


def test_vault_that_is_away_is_asked_again_and_keys_at_hand_serve_as_in_an_outage(setup: Setup) -> None:
    """While Vault is away, a cached key serves for 16 minutes; a key that does not open waits, and is not damaged."""
    key = new_key()
    setup.store.put(SHOP, key)
    ring = setup.ask()
    setup.seal(SHOP, key, NEW)
    setup.seal(OTHER, new_key(), NEW)
    setup.source.versions[2] = NEW
    setup.source.is_away = True
    began = setup.clock.now
    with structlog.testing.capture_logs() as logs:
        while setup.clock.now - began < AGE_SECONDS + GRACE_SECONDS:
            assert setup.ask() is ring
            assert isinstance(setup.ask(OTHER), Unavailable)
            setup.clock.advance(31)
            setup.read()
    assert any(line["event"] == "master key not read again" for line in logs)
    setup.clock.advance(2 * AGE_SECONDS + GRACE_SECONDS)
    assert isinstance(setup.ask(), Unavailable)

    setup.source.is_away = False
    setup.clock.advance(READ_SECONDS)
    setup.read()
    assert setup.ask().current == key
    assert isinstance(setup.ask(OTHER), Keyring)


def test_defect_of_the_reading_is_no_defect_of_a_batch(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nothing expects is logged by its type, and the source is asked again."""
    setup.seal(OTHER, new_key(), NEW)
    monkeypatch.setattr(setup.source, "read", lambda: bytes(1)[2])
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            assert isinstance(setup.ask(OTHER), Unavailable)
            setup.clock.advance(2 * READ_SECONDS)
            setup.read()
    assert {"IndexError"} == {line["reason"] for line in logs if line["event"] == "master key not read again"}


def test_history_waits_for_the_new_master_key_too(setup: Setup) -> None:
    """A block that needs a key of the history, which the new master key seals, is not called unreadable meanwhile."""
    oldest = new_key()
    setup.store.put(SHOP, new_key())
    setup.store.sealed[f"{SHOP.key_name}{HISTORY_INFIX}2026-01-01T00:00:00"] = wrap(oldest, NEW, SHOP)
    ring = setup.ask()
    setup.source.versions[2] = NEW

    assert isinstance(setup.cache.find_keys(ring), Unavailable)
    setup.read()

    assert setup.cache.find_keys(ring) is KeySearch.ADDED
    assert oldest in ring.keys
    assert not ring.some_unreadable


def test_previous_master_key_goes_when_it_is_gone_from_its_secret(setup: Setup) -> None:
    """The old master key opens keys until its version of the secret is deleted; that is noticed without a restart."""
    setup.seal(SHOP, new_key(), NEW)
    setup.source.versions[2] = NEW
    setup.ask()
    setup.read()
    setup.clock.advance(DROP_SECONDS)
    setup.read()
    assert setup.master_keys.count == 2

    del setup.source.versions[1]
    setup.clock.advance(DROP_SECONDS)
    setup.read()

    assert setup.master_keys.count == 1
    assert setup.master_keys.unwrap(wrap(bytes(32), NEW, SHOP), SHOP) == bytes(32)
    with pytest.raises((CorruptData, Unavailable)):
        setup.master_keys.unwrap(wrap(bytes(32), MASTER_KEY, SHOP), SHOP)


def test_key_is_unreadable_at_once_if_the_master_key_cannot_be_read_again() -> None:
    """A master key from the environment stays what it is: nothing waits for another one."""
    master_keys = LiveMasterKeys(MasterKeys(MASTER_KEY))
    with pytest.raises(CorruptData):
        master_keys.unwrap(wrap(bytes(32), NEW, SHOP), SHOP)
    assert not master_keys.poll()


def test_master_key_that_has_opened_no_key_is_a_trouble_until_it_opens_one() -> None:
    """A look at start may see no key. Then the first keys tell; what no master key could open says nothing."""
    master_keys = LiveMasterKeys(MasterKeys(MASTER_KEY))
    assert master_keys.trouble is None
    for sealed, trouble in ((b"no cell", None), (wrap(bytes(32), NEW, SHOP), NONE_OPENS)):
        with pytest.raises(CorruptData):
            master_keys.unwrap(sealed, SHOP)
        assert master_keys.trouble == trouble
    master_keys.unwrap(wrap(bytes(32), MASTER_KEY, SHOP), SHOP)
    assert master_keys.trouble is None


def test_no_master_key_is_shown() -> None:
    """The text of the objects holds no key."""
    assert repr(LiveMasterKeys(MasterKeys(MASTER_KEY, NEW))) == "LiveMasterKeys(2)"
    assert repr(MasterKeyVersion(MASTER_KEY, 3)) == "MasterKeyVersion(number=3)"
