"""The key cache on a key storage in memory and a clock that the tests move."""

import pytest
import structlog

from harness.fake_keys import AWAY, MASTER_KEY, Clock, FakeStore
from token_worker.acra import acra_block
from token_worker.acra.acra_block import parse
from token_worker.acra.key_name import HISTORY_INFIX
from token_worker.acra.owner import Owner
from token_worker.errors import Code, Refused, Unavailable
from token_worker.keys.absent_owners import ABSENT_OWNERS_MAX
from token_worker.keys.cache import (
    ABSENCE_SECONDS,
    AGE_SECONDS,
    GRACE_SECONDS,
    RECHECK_SECONDS,
    RETRY_SECONDS,
    KeyCache,
    KeySearch,
)
from token_worker.keys.keyring import DATA_KEY_SECONDS, DataKeyCache, Keyring, NoMatchingKey
from token_worker.keys.master import MasterKeys
from token_worker.keys.sealed_text import open_text
from token_worker.keys.store import new_key, wrap

SHOP = Owner("client", "shop-frontend")
BILLING = Owner("client", "billing_service")


@pytest.fixture
def cache(store: FakeStore, clock: Clock) -> KeyCache:
    return KeyCache(store, MASTER_KEY, clock=clock)


def ring_of(cache: KeyCache, owner: Owner = SHOP) -> Keyring:
    found = cache.rings([owner])[owner]
    assert isinstance(found, Keyring), type(found)
    return found


def code_of(cache: KeyCache, owner: Owner) -> Code:
    found = cache.rings([owner])[owner]
    assert isinstance(found, Refused), type(found)
    return found.code


def is_away(cache: KeyCache, owner: Owner) -> bool:
    return isinstance(cache.rings([owner])[owner], Unavailable)


# Age


def test_key_is_looked_up_again_after_a_minute(cache: KeyCache, store: FakeStore, clock: Clock) -> None:
    """A key serves for a minute, then it is looked up again."""
    ring = ring_of(cache)
    clock.advance(AGE_SECONDS - 1)
    assert ring_of(cache) is ring
    assert len(store.looked_up) == 1

    clock.advance(1)

    assert ring_of(cache) is ring
    assert len(store.looked_up) == 2
    assert AGE_SECONDS == 60


def test_one_look_up_for_all(cache: KeyCache, store: FakeStore) -> None:
    """Owners asked for together are looked up together, and those at hand not at all."""
    store.put(BILLING, new_key())
    ring_of(cache)

    assert set(cache.rings([SHOP, BILLING, Owner("zone", "DDDDDDDDzone")])) == {
        SHOP,
        BILLING,
        Owner("zone", "DDDDDDDDzone"),
    }
    assert store.looked_up == [SHOP, BILLING, Owner("zone", "DDDDDDDDzone")]


def test_unchanged_key_is_unwrapped_once(
    cache: KeyCache, store: FakeStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the sealed text is the same, a key is not unwrapped again; nor is one that cannot be unwrapped."""
    store.sealed[BILLING.key_name] = wrap(new_key(), new_key(), BILLING)
    calls: list[bytes] = []

    def counted(sealed: bytes, master_key: bytes, context: bytes) -> bytes:
        calls.append(context)
        return open_text(sealed, master_key, context)

    monkeypatch.setattr("token_worker.keys.live_master_keys.open_text", counted)
    for _ in range(5):
        cache.rings([SHOP, BILLING])
        clock.advance(AGE_SECONDS + 1)

    assert calls == [SHOP.context, BILLING.context]


def test_rotated_key_seals_from_the_next_look_up_on(cache: KeyCache, store: FakeStore, clock: Clock) -> None:
    """After a rotation, the new key seals from the next look-up on, with a new data key. The old key still opens."""
    old = ring_of(cache)
    block = old.seal(b"before")
    key = new_key()
    store.rotate(SHOP, key)
    assert ring_of(cache) is old

    clock.advance(AGE_SECONDS)
    ring = ring_of(cache)

    assert ring.current == key
    assert ring.open(block) == b"before"
    with pytest.raises(NoMatchingKey):
        old.open(ring.seal(b"after"))


def test_client_is_unknown_after_its_key_was_removed(cache: KeyCache, store: FakeStore, clock: Clock) -> None:
    """A client whose key was removed is unknown from the next look-up on."""
    ring_of(cache)
    store.sealed.clear()

    clock.advance(AGE_SECONDS)

    assert code_of(cache, SHOP) is Code.UNKNOWN_CLIENT


# Absence


def test_absent_key_is_remembered_for_a_second_at_most(cache: KeyCache, store: FakeStore, clock: Clock) -> None:
    """A missing key is remembered for a second at most: a new client can start at once."""
    assert code_of(cache, BILLING) is Code.UNKNOWN_CLIENT
    assert code_of(cache, BILLING) is Code.UNKNOWN_CLIENT
    assert store.looked_up == [BILLING]
    store.put(BILLING, new_key())

    clock.advance(ABSENCE_SECONDS)

    assert ring_of(cache, BILLING)
    assert ABSENCE_SECONDS <= 1


@pytest.mark.parametrize(
    ("owner", "code"),
    [
        (Owner("client", "nobody-knows"), Code.UNKNOWN_CLIENT),
        (Owner("zone", "nobody-knows"), Code.UNKNOWN_ZONE),
        (Owner("zone", SHOP.id), Code.UNKNOWN_ZONE),
    ],
)
def test_owner_without_a_key_is_unknown(cache: KeyCache, owner: Owner, code: Code) -> None:
    """An owner without a key is unknown, also where a client has the id of the zone."""
    assert code_of(cache, owner) is code


@pytest.mark.parametrize(
    "owner_id", ["", "four", "x" * 257, "shop/../billing", "shop*frontend", "shop\nfrontend", "żółć1"]
)
def test_invalid_id_is_never_looked_for(cache: KeyCache, store: FakeStore, owner_id: str) -> None:
    """An id that Acra would not accept is unknown, and never looked for."""
    assert code_of(cache, Owner("client", owner_id)) is Code.UNKNOWN_CLIENT
    assert store.looked_up == []


# Key storage away


def test_keys_at_hand_serve_15_minutes_past_their_age(cache: KeyCache, store: FakeStore, clock: Clock) -> None:
    """While the key storage is away, keys at hand serve 15 minutes past their age, not longer."""
    ring = ring_of(cache)
    store.is_away = True

    clock.advance(AGE_SECONDS + GRACE_SECONDS - 1)
    assert ring_of(cache) is ring

    clock.advance(1)
    assert is_away(cache, SHOP)
    assert GRACE_SECONDS == 15 * 60


def test_away_is_not_unknown(cache: KeyCache, store: FakeStore, clock: Clock) -> None:
    """While the key storage is away, a key that is not at hand is unavailable, not unknown; others go on."""
    ring = ring_of(cache)
    assert code_of(cache, BILLING) is Code.UNKNOWN_CLIENT
    clock.advance(AGE_SECONDS)
    store.is_away = True

    found = cache.rings([SHOP, BILLING, Owner("client", "never-seen")])

    assert found[SHOP] is ring
    assert all(isinstance(found[owner], Unavailable) for owner in found if owner != SHOP)


def test_back_off_and_return(cache: KeyCache, store: FakeStore, clock: Clock) -> None:
    """A key storage that is away is asked less and less often, logged once, and used again when it is back."""
    store.is_away = True
    with structlog.testing.capture_logs() as events:
        for _ in range(600):
            assert is_away(cache, SHOP)
            clock.advance(0.1)
        asked = len(store.looked_up)
        store.is_away = False
        clock.advance(RETRY_SECONDS[1])
        ring_of(cache)

    assert 3 < asked < 12
    assert [(event["event"], event["log_level"]) for event in events] == [
        ("key storage unavailable: cached keys are used", "warning"),
        ("key storage available again", "info"),
    ]


# Bounds


def test_cache_keeps_the_owners_used_last(store: FakeStore, clock: Clock) -> None:
    """The cache keeps the keys of the owners used last, and no more than it is to keep."""
    cache = KeyCache(store, MASTER_KEY, size=3, clock=clock)
    ring = ring_of(cache)
    others = [Owner("client", f"client-{number}") for number in range(100)]
    for owner in others:
        store.put(owner, new_key())
        ring_of(cache, owner)
        assert ring_of(cache) is ring
        assert len(cache._cached) <= 3

    cache.rings(others[:10])

    assert len(cache._cached) <= 3
    looked_up = len(store.looked_up)
    ring_of(cache)
    assert len(store.looked_up) == looked_up + 1


def test_names_of_nobody_push_out_no_key(store: FakeStore, clock: Clock) -> None:
    """Any number of unknown clients leaves the keys of known clients in the cache, also through an outage."""
    cache = KeyCache(store, MASTER_KEY, size=3, clock=clock)
    store.put(BILLING, new_key())
    rings = cache.rings([SHOP, BILLING])
    for start in range(0, 3 * ABSENT_OWNERS_MAX, 1000):
        for found in cache.rings([Owner("client", f"nobody-{start + number}") for number in range(1000)]).values():
            assert isinstance(found, Refused)
        assert len(cache._absent) <= ABSENT_OWNERS_MAX
    store.is_away = True

    clock.advance(AGE_SECONDS + GRACE_SECONDS - 1)

    assert cache.rings([SHOP, BILLING]) == rings


def test_client_whose_key_comes_and_goes(cache: KeyCache, store: FakeStore, clock: Clock) -> None:
    """A client that gets a key is soon known, and a client that loses its key is soon unknown, each within its time."""
    for _ in range(3):
        assert code_of(cache, BILLING) is Code.UNKNOWN_CLIENT
        store.put(BILLING, new_key())
        clock.advance(ABSENCE_SECONDS)
        assert ring_of(cache, BILLING)
        del store.sealed[BILLING.key_name]
        clock.advance(AGE_SECONDS)
    assert code_of(cache, BILLING) is Code.UNKNOWN_CLIENT


def test_number_of_data_keys() -> None:
    """Data keys that were unsealed are kept up to a number, the ones used last."""
    data_keys = DataKeyCache(size=2)
    key = new_key()
    blocks = [Keyring(SHOP, key, DataKeyCache()).seal(b"%d" % number) for number in range(5)]
    ring = Keyring(SHOP, key, data_keys)

    assert [ring.open(block) for block in blocks] == [b"%d" % number for number in range(5)]
    assert len(data_keys._data_keys) == 2
    assert ring.open(blocks[0]) == b"0"


def test_life_of_a_data_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data key seals a bounded number of blocks for a bounded time, then another takes its place."""
    now = 5.0
    monkeypatch.setattr("token_worker.keys.keyring.DATA_KEY_BLOCKS_MAX", 3)
    monkeypatch.setattr("token_worker.keys.keyring.time.monotonic", lambda: now)
    ring = Keyring(SHOP, new_key(), DataKeyCache())

    sealed = [parse(ring.seal(b"some data")).sealed_data_key for _ in range(7)]
    now += DATA_KEY_SECONDS + 1
    sealed.append(parse(ring.seal(b"some data")).sealed_data_key)

    assert [sealed.index(data_key) for data_key in sealed] == [0, 0, 0, 3, 3, 3, 6, 7]


# Keys that cannot be read


@pytest.mark.parametrize(
    "sealed",
    [
        wrap(new_key(), new_key(), SHOP),
        wrap(new_key(), MASTER_KEY, BILLING),
        wrap(new_key()[:16], MASTER_KEY, SHOP),
        b"@@ no base64 @@",
        b"",
    ],
    ids=["another master key", "another client's", "16 bytes", "not base64", "empty"],
)
def test_key_that_cannot_be_unwrapped_is_unreadable(cache: KeyCache, store: FakeStore, sealed: bytes) -> None:
    """A key that cannot be unwrapped is key_unreadable for its owner only. The log has its name and nothing else."""
    store.put(BILLING, new_key())
    store.sealed[SHOP.key_name] = sealed

    with structlog.testing.capture_logs() as events:
        assert code_of(cache, SHOP) is Code.KEY_UNREADABLE
        assert ring_of(cache, BILLING)

    assert events == [
        {
            "event": "key cannot be unwrapped with the master key",
            "key": "shop-frontend_storage_sym",
            "log_level": "error",
        }
    ]


def test_unreadable_key_is_mended(cache: KeyCache, store: FakeStore, clock: Clock) -> None:
    """A key that was mended is used within a second."""
    store.sealed[SHOP.key_name] = b"damaged"
    assert code_of(cache, SHOP) is Code.KEY_UNREADABLE
    store.put(SHOP, new_key())

    clock.advance(ABSENCE_SECONDS)

    assert ring_of(cache)


# More keys: a rotation not yet seen, and the history


def more(cache: KeyCache, ring: Keyring) -> KeySearch | Unavailable:
    return cache.find_keys(ring)


def test_rotation_not_yet_seen(cache: KeyCache, store: FakeStore, clock: Clock) -> None:
    """A block of a newer key makes the key be looked for at once, long before its age, and without the history."""
    ring = ring_of(cache)
    key = new_key()
    store.rotate(SHOP, key)
    clock.advance(RECHECK_SECONDS)

    assert more(cache, ring) is KeySearch.ADDED
    assert ring.open(Keyring(SHOP, key, DataKeyCache()).seal(b"new")) == b"new"
    assert ring_of(cache).current == key
    assert store.scans == 0


def test_rotations_right_after_a_look_up(cache: KeyCache, store: FakeStore) -> None:
    """A key that was looked up a moment ago is looked up again for a block it does not open, after each rotation."""
    oldest = new_key()
    store.put(SHOP, oldest, "2025-01-01T00:00:00")
    ring = ring_of(cache)
    assert more(cache, ring) is KeySearch.ADDED  # from the history: the key in use was looked up for nothing

    for number in range(3):
        key = new_key()
        store.rotate(SHOP, key, f"2026-01-01T00:00:0{number}")
        assert more(cache, ring) is KeySearch.ADDED
        assert ring.open(Keyring(SHOP, key, DataKeyCache()).seal(b"new")) == b"new"
    assert store.scans == 1


def test_key_sealed_with_the_previous_master_key_is_opened(store: FakeStore, clock: Clock) -> None:
    """While the master key is replaced, a key sealed with either is opened, in use or in the history."""
    replaced = bytes(range(32, 64))
    store.put(BILLING, new_key(), "2026-01-01T00:00:00")
    store.sealed[BILLING.key_name] = wrap(new_key(), replaced, BILLING)

    cache = KeyCache(store, MasterKeys(replaced, MASTER_KEY), clock=clock)
    rings = cache.rings([SHOP, BILLING])

    assert all(isinstance(ring, Keyring) for ring in rings.values())
    billing = rings[BILLING]
    assert isinstance(billing, Keyring)
    assert more(cache, billing) is KeySearch.ADDED


def test_key_sealed_anew_is_no_rotation(store: FakeStore, clock: Clock) -> None:
    """A key that was sealed with another master key is the same key: nothing is replaced, nothing is reported."""
    replaced = bytes(range(32, 64))
    cache = KeyCache(store, MasterKeys(replaced, MASTER_KEY), clock=clock)
    ring = ring_of(cache)
    store.sealed[SHOP.key_name] = wrap(ring.current, replaced, SHOP)
    clock.advance(AGE_SECONDS)

    with structlog.testing.capture_logs() as events:
        assert ring_of(cache) is ring
    assert not events


def test_block_of_an_older_key_makes_the_history_be_looked_up(cache: KeyCache, store: FakeStore, clock: Clock) -> None:
    """A block of an older key makes the history be looked up; all its keys are then at hand, newest first."""
    keys = [new_key() for _ in range(3)]
    store.put(SHOP, keys[0])
    store.rotate(SHOP, keys[1], "2026-01-01T00:00:00.5")
    store.rotate(SHOP, keys[2], "2026-02-01T00:00:00")
    store.put(BILLING, new_key(), "2026-03-01T00:00:00")
    ring = ring_of(cache)
    assert ring.keys == keys[2:]

    assert more(cache, ring) is KeySearch.ADDED
    assert ring.keys == keys[::-1]
    assert store.scans == 1
    assert all(name.startswith(SHOP.key_name) for name in store.read_names)


def test_key_that_nobody_has(cache: KeyCache, store: FakeStore, clock: Clock) -> None:
    """A block of an unknown key costs one look-up of key and history, and then no look-up for a while."""
    ring = ring_of(cache)
    clock.advance(RECHECK_SECONDS)
    looked_up = len(store.looked_up)

    assert [more(cache, ring) for _ in range(50)] == [KeySearch.EXHAUSTED] * 50
    assert store.scans == 1
    assert store.listed == 2
    assert len(store.looked_up) == looked_up + 1

    clock.advance(AGE_SECONDS)
    assert more(cache, ring) is KeySearch.EXHAUSTED
    assert store.scans == 2


def test_one_scan_for_all_owners(cache: KeyCache, store: FakeStore) -> None:
    """The history is looked up for all owners at once."""
    owners = [Owner("client", f"client-{number}") for number in range(20)]
    for owner in owners:
        store.put(owner, new_key())
        store.rotate(owner, new_key())
    rings = cache.rings(owners)

    answers = [more(cache, ring) for ring in rings.values() if isinstance(ring, Keyring)]

    assert answers == [KeySearch.ADDED] * 20
    assert store.scans == 1


def test_history_after_a_rotation(cache: KeyCache, store: FakeStore, clock: Clock) -> None:
    """After the key has changed, the known history is not enough: it is searched again."""
    first, second, third = new_key(), new_key(), new_key()
    store.put(SHOP, first)
    ring = ring_of(cache)
    assert more(cache, ring) is KeySearch.EXHAUSTED
    store.rotate(SHOP, second, "2026-01-01T00:00:00")
    store.rotate(SHOP, third, "2026-01-01T00:00:01")
    clock.advance(RECHECK_SECONDS)

    assert more(cache, ring) is KeySearch.ADDED  # the newest, looked up again
    assert more(cache, ring) is KeySearch.ADDED  # the one between, in the history
    assert set(ring.keys) == {first, second, third}


def test_history_is_looked_up_by_another(cache: KeyCache, store: FakeStore, clock: Clock) -> None:
    """A look at the history that is under way, or too soon, leaves it open whether there is a key."""
    ring = ring_of(cache)
    store.scan_answers = [AWAY]

    assert more(cache, ring) is AWAY
    assert more(cache, ring) is KeySearch.EXHAUSTED


def test_history_from_before_the_rotation(cache: KeyCache, store: FakeStore, clock: Clock) -> None:
    """A look at the history that began before the key changed does not decide that there is no other key."""
    ring = ring_of(cache)
    store.scan_began = clock.now - 10

    assert isinstance(more(cache, ring), Unavailable)

    store.scan_began = None
    assert more(cache, ring) is KeySearch.EXHAUSTED


@pytest.mark.parametrize("is_seen_by_recheck", [True, False])
def test_more_keys_while_away(cache: KeyCache, store: FakeStore, clock: Clock, *, is_seen_by_recheck: bool) -> None:
    """While the key storage is away, it is unknown whether there are more keys."""
    ring = ring_of(cache)
    store.rotate(SHOP, new_key())
    store.refresh_history()
    store.is_away = True
    if is_seen_by_recheck:
        clock.advance(RECHECK_SECONDS)

    assert isinstance(more(cache, ring), Unavailable)


def test_unreadable_key_in_the_history(cache: KeyCache, store: FakeStore, clock: Clock) -> None:
    """A key of the history that cannot be unwrapped is named in the log once, and the others are used."""
    oldest = new_key()
    store.put(SHOP, oldest, "2026-01-01T00:00:00")
    store.sealed[SHOP.key_name + HISTORY_INFIX + "2026-02-01T00:00:00"] = wrap(new_key(), new_key(), SHOP)
    ring = ring_of(cache)

    with structlog.testing.capture_logs() as events:
        assert more(cache, ring) is KeySearch.ADDED
        clock.advance(AGE_SECONDS)
        assert more(cache, ring) is KeySearch.EXHAUSTED

    assert ring.some_unreadable
    assert oldest in ring.keys
    assert events == [
        {
            "event": "key of the history cannot be unwrapped with the master key",
            "key": "shop-frontend_storage_sym.old/2026-02-01T00:00:00",
            "log_level": "error",
        }
    ]


def test_nothing_of_a_key_in_a_representation() -> None:
    """A keyring in a traceback or a log shows only its owner and the number of keys."""
    assert repr(Keyring(SHOP, MASTER_KEY, DataKeyCache())) == "Keyring(client shop-frontend, 1 keys)"


def test_two_keys_with_one_id() -> None:
    """If two keys have the same two bytes as id, each opens the blocks that it sealed."""
    by_id: dict[bytes, bytes] = {}
    while (key_id := acra_block.key_id(key := new_key(), SHOP.context)) not in by_id:
        by_id[key_id] = key
    ring = Keyring(SHOP, by_id[key_id], DataKeyCache())
    ring.add(key)

    assert ring.open(Keyring(SHOP, key, DataKeyCache()).seal(b"the other's")) == b"the other's"
    assert ring.open(ring.seal(b"its own")) == b"its own"
