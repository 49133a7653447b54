"""Index keys: what they are sealed with, how they are read, and what the cache makes of them."""

from collections.abc import Callable
from typing import Any

import pytest
import structlog

from harness.fake_keys import MASTER_KEY, ByHand, Clock, FakeStore
from token_worker.acra.owner import Owner
from token_worker.errors import CorruptData, Unavailable
from token_worker.keys.cache import ABSENCE_SECONDS, AGE_SECONDS, GRACE_SECONDS, KeyCache
from token_worker.keys.index_key import KeyTexts, index_context, index_path, open_index_key, seal_index_key
from token_worker.keys.keyring import Keyring, OwnerCache
from token_worker.keys.live_master_keys import LiveMasterKeys
from token_worker.keys.master import MasterKeys, MasterKeyVersion
from token_worker.keys.store import KEYS_PER_COMMAND, RedisKeyStore, new_key, unwrap, wrap
from token_worker.redis.link import RedisLink

SHOP = Owner("client", "shop-frontend")
OTHER = Owner("client", "other-client")
ZONE = Owner("zone", "shop-frontend")
KEY = bytes(range(100, 132))
ANOTHER_MASTER_KEY = bytes(range(200, 232))


class Setup:
    """A key cache with index keys, and a source of master keys that a test changes."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = FakeStore(self.clock)
        self.store.put(SHOP, new_key())
        self.versions = [MASTER_KEY]
        self.aside = ByHand()
        keys = LiveMasterKeys(
            MasterKeys(MASTER_KEY),
            self,
            version=1,
            executor=self.aside,
            clock=self.clock,
            uniform=lambda low, _high: low,
        )
        self.cache = KeyCache(self.store, keys, clock=self.clock, with_index=True)

    def read(self) -> MasterKeyVersion:
        return MasterKeyVersion(self.versions[-1], len(self.versions))

    def holds(self, version: MasterKeyVersion) -> bool:
        return version.key in self.versions

    def have_source_read(self) -> None:
        """Have the master keys read again, as a thread does between two batches."""
        self.cache.rings([])
        self.aside.do()
        self.cache.rings([])

    def found(self) -> Any:
        return self.cache.rings([SHOP])[SHOP]

    def ring(self) -> Keyring:
        found = self.found()
        assert isinstance(found, Keyring), type(found)
        return found

    def later(self) -> Keyring:
        """The keyring after the key storage was asked again."""
        self.clock.advance(AGE_SECONDS + 1)
        return self.ring()


@pytest.fixture
def setup() -> Setup:
    return Setup()


def test_text_opens_again() -> None:
    """An index key comes back from its stored text, and the text has another form each time."""
    texts = {seal_index_key(KEY, MASTER_KEY, SHOP) for _ in range(2)}

    assert len(texts) == 2
    assert {open_index_key(text, MASTER_KEY, SHOP) for text in texts} == {KEY}


def test_place_and_context() -> None:
    """Index keys stand outside the folder of Acra's keys. The context tells kind and id, each with its length."""
    assert index_path(".acrakeys", SHOP) == ".acrakeys.index/shop-frontend_storage_sym"
    assert index_path(".acrakeys", ZONE) == ".acrakeys.index/shop-frontend_zone_sym"
    assert index_context(ZONE) == b"token-worker index key v1 \0\0\0\x04zone\0\0\0\x0dshop-frontend"


@pytest.mark.parametrize(
    "make",
    [
        lambda: wrap(KEY, MASTER_KEY, SHOP),
        lambda: seal_index_key(KEY, MASTER_KEY, OTHER),
        lambda: seal_index_key(KEY, MASTER_KEY, ZONE),
        lambda: seal_index_key(KEY, ANOTHER_MASTER_KEY, SHOP),
        lambda: seal_index_key(KEY[:31], MASTER_KEY, SHOP),
        lambda: b"?" + seal_index_key(KEY, MASTER_KEY, SHOP),
        lambda: b"",
    ],
    ids=["symmetric key", "another client", "zone", "master key", "length", "text", "empty"],
)
def test_nothing_else_opens_as_an_index_key(make: Callable[[], bytes]) -> None:
    """A symmetric key, or the index key of another owner, put in its place does not open."""
    with pytest.raises(CorruptData):
        open_index_key(make(), MASTER_KEY, SHOP)


def test_index_key_does_not_open_as_a_symmetric_key() -> None:
    """An index key that is put in the place of the owner's key does not open."""
    with pytest.raises(CorruptData):
        unwrap(seal_index_key(KEY, MASTER_KEY, SHOP), MASTER_KEY, SHOP)


class _Link(RedisLink):
    address = "127.0.0.1:1"

    def __init__(self, texts: dict[str, bytes]) -> None:
        self.texts = texts
        self.commands: list[tuple[Any, ...]] = []

    def call(self, *command: Any) -> Any:
        self.commands.append(command)
        return [self.texts.get(name) for name in command[1:]]


def test_one_command_reads_both() -> None:
    """Key and index key of an owner come by the same command, also if the owners need several."""
    owners = [Owner("client", f"client-{number}") for number in range(KEYS_PER_COMMAND // 2 + 1)]
    link = _Link({f"keys/{owners[0].key_name}": b"key", f"keys.index/{owners[0].key_name}": b"index"})

    found = RedisKeyStore(link, "keys").current_with_index(owners)

    assert found == [KeyTexts(b"key", b"index"), *[KeyTexts(None, None)] * (len(owners) - 1)]
    assert [command[0] for command in link.commands] == ["MGET", "MGET"]
    assert link.commands[1][1:] == (f"keys/{owners[-1].key_name}", f"keys.index/{owners[-1].key_name}")


def test_present(setup: Setup) -> None:
    """The keyring has the index key, and keeps it through a rotation of the key."""
    setup.store.put_index(SHOP, KEY)
    ring = setup.ring()
    setup.store.rotate(SHOP, new_key())

    rotated = setup.later()

    assert rotated is not ring
    assert [(ring.index, ring.index_state) for ring in (ring, rotated)] == [(KEY, "present")] * 2


def test_not_looked_for_unless_asked() -> None:
    """Without the option, index keys are not read, and count as absent."""
    clock = Clock()
    store = FakeStore(clock)
    store.put(SHOP, new_key())
    store.put_index(SHOP, KEY)
    link = _Link({f".acrakeys/{SHOP.key_name}": store.sealed[SHOP.key_name]})
    for keys in (store, RedisKeyStore(link, ".acrakeys")):
        ring = KeyCache(keys, MASTER_KEY, clock=clock).rings([SHOP])[SHOP]
        assert isinstance(ring, Keyring)
        assert (ring.index, ring.index_state) == (None, "absent")
    assert link.commands == [("MGET", f".acrakeys/{SHOP.key_name}")]


def test_made_and_gone(setup: Setup) -> None:
    """An index key that is made or deleted comes and goes with the next look-up, each time with another keyring."""
    rings = [setup.ring()]
    setup.store.put_index(SHOP, KEY)
    rings.append(setup.later())
    setup.store.index.clear()
    rings.append(setup.later())

    assert [(ring.index, ring.index_state) for ring in rings] == [(None, "absent"), (KEY, "present"), (None, "absent")]
    assert len(set(map(id, rings))) == 3


def test_missing_index_key_is_seen_soon(setup: Setup) -> None:
    """An index key that was just made is seen as soon as a key that was just made, and not after the age of a key."""
    assert setup.ring().index is None
    setup.store.put_index(SHOP, KEY)
    setup.clock.advance(ABSENCE_SECONDS)
    assert setup.ring().index == KEY


def test_another_index_key_drops_the_names(setup: Setup) -> None:
    """Names made with an index key go with its keyring; all keys of the ring stay, also those of the history."""
    setup.store.put_index(SHOP, KEY)
    old = setup.ring()
    old.owner_cache = OwnerCache()
    old.add(new_key())
    setup.store.put_index(SHOP, new_key())

    with structlog.testing.capture_logs() as logs:
        ring = setup.later()

    assert ring.owner_cache is None
    assert ring.keys == old.keys
    assert ring.index != old.index
    assert [line["log_level"] for line in logs] == ["warning"]


def test_sealed_again_keeps_the_names(setup: Setup) -> None:
    """An index key that is the same under another master key keeps its keyring and the names."""
    setup.store.put_index(SHOP, KEY)
    ring = setup.ring()
    setup.store.put_index(SHOP, KEY)

    assert setup.later() is ring


def test_unchanged_text_is_opened_once(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the stored text is the same, an index key is not opened again, also not when the key rotates."""
    setup.store.put_index(SHOP, KEY)
    setup.ring()
    monkeypatch.setattr(LiveMasterKeys, "unwrap_index", None)
    setup.later()
    setup.store.rotate(SHOP, new_key())

    assert setup.later().index == KEY


def test_unreadable(setup: Setup) -> None:
    """A damaged index key is unreadable, the key of the owner is not: nobody is told that there is none."""
    setup.store.index[SHOP.key_name] = b"damaged"

    with structlog.testing.capture_logs() as logs:
        rings = [setup.ring(), setup.later()]

    assert [(ring.index, ring.index_state) for ring in rings] == [(None, "unreadable")] * 2
    assert rings[0] is rings[1]
    assert [line["key"] for line in logs if line["log_level"] == "error"] == [".index/shop-frontend_storage_sym"]


def test_readable_again(setup: Setup) -> None:
    """A damaged index key that is put right is used with the next look-up."""
    setup.store.index[SHOP.key_name] = b"damaged"
    setup.ring()
    setup.store.put_index(SHOP, KEY)

    assert setup.later().index == KEY


def test_waits_while_the_master_keys_change(setup: Setup) -> None:
    """An index key that a new master key seals is not unreadable until the master key was read again."""
    setup.store.put_index(SHOP, KEY, ANOTHER_MASTER_KEY)
    setup.versions.append(ANOTHER_MASTER_KEY)
    assert isinstance(setup.found(), Unavailable)

    setup.have_source_read()

    assert setup.ring().index == KEY


def test_index_key_at_hand_serves_while_the_master_keys_change(setup: Setup) -> None:
    """The index key at hand serves on while a new text does not open yet, but not for longer than in an outage."""
    setup.store.put_index(SHOP, KEY)
    ring = setup.ring()
    setup.store.put_index(SHOP, new_key(), ANOTHER_MASTER_KEY)
    assert setup.later() is ring

    setup.clock.advance(AGE_SECONDS + GRACE_SECONDS)

    assert isinstance(setup.found(), Unavailable)


@pytest.mark.parametrize("is_index", [True, False])
def test_doubt_is_over_when_the_known_text_is_back(setup: Setup, *, is_index: bool) -> None:
    """If the stored text is again the one that opens, keys at hand serve through the next doubt as long as ever."""
    setup.store.put_index(SHOP, KEY)
    ring = setup.ring()
    texts = setup.store.index if is_index else setup.store.sealed
    known = texts[SHOP.key_name]
    doubtful = wrap(KEY, ANOTHER_MASTER_KEY, SHOP)

    for text in (doubtful, known):
        texts[SHOP.key_name] = text
        assert setup.later() is ring
    for _ in range(int(GRACE_SECONDS / AGE_SECONDS) + 2):
        assert setup.later() is ring
    texts[SHOP.key_name] = doubtful

    assert setup.later() is ring


def test_master_key_that_comes_later_opens_it(setup: Setup) -> None:
    """An unreadable index key is tried again at once when there is another master key, and only then."""
    setup.store.put_index(SHOP, KEY, ANOTHER_MASTER_KEY)
    assert isinstance(setup.found(), Unavailable)
    setup.have_source_read()
    setup.clock.advance(2)
    assert setup.ring().index_state == "unreadable"
    assert setup.later().index_state == "unreadable"
    assert not setup.aside.jobs

    setup.versions.append(ANOTHER_MASTER_KEY)
    setup.store.put(OTHER, new_key())
    setup.store.sealed[OTHER.key_name] = wrap(new_key(), ANOTHER_MASTER_KEY, OTHER)
    setup.cache.rings([OTHER])
    setup.have_source_read()

    assert setup.ring().index == KEY


def test_unreadable_key_hides_the_index_key(setup: Setup) -> None:
    """An owner whose key cannot be read is refused, whatever the index key is; mended, both come."""
    good = setup.store.sealed[SHOP.key_name]
    setup.store.sealed[SHOP.key_name] = b"damaged"
    assert not isinstance(setup.found(), Keyring)
    setup.store.put_index(SHOP, KEY)
    setup.clock.advance(2)
    assert not isinstance(setup.found(), Keyring)

    setup.store.sealed[SHOP.key_name] = good

    assert setup.later().index == KEY
