"""A sample of keys tells a wrong master key from a wrong folder, and both from a set-up without keys."""

import pytest

from harness.fake_keys import AWAY, MASTER_KEY, Clock, FakeStore
from token_worker.acra.key_name import parse_name
from token_worker.acra.owner import Owner
from token_worker.errors import NoKeyOpens, Unavailable
from token_worker.keys.live_master_keys import LiveMasterKeys
from token_worker.keys.master import MasterKeys
from token_worker.keys.sample import SAMPLE_KEYS, try_sample
from token_worker.keys.store import new_key, wrap
from token_worker.streams.worker_notes import WorkerNote

SHOP = Owner("client", "shop-frontend")
WRONG = bytes(range(50, 82))


class Listed(FakeStore):
    """A key storage whose names are listed in order.

    Attributes:
        has_more: True if the storage has so many other names that one page does not show all.
    """

    has_more = False

    def some_names(self) -> tuple[list[str], bool]:
        if self.is_away:
            raise AWAY
        return list(self.sealed), not self.has_more

    def layout_record(self) -> None:
        return None

    def seal(self, name: str, master_key: bytes = MASTER_KEY) -> None:
        """Store a key under a name, with the context that the name has."""
        owner = parse_name(name).owner or Owner("client", name)
        self.sealed[name] = wrap(new_key(), master_key, owner)


@pytest.fixture
def store() -> Listed:
    return Listed(Clock())


def attempt(store: Listed, *pinned: Owner) -> str:
    """Try a sample; what was found."""
    return try_sample(
        store,
        LiveMasterKeys(MasterKeys(MASTER_KEY)),
        pinned,
        folder=".acrakeys",
        where="redis://keys:6379",
        master_key="ACRA_MASTER_KEY",
    )


def test_key_of_a_pinned_client_is_enough(store: Listed) -> None:
    """If a pinned client's key opens, nothing else is looked at."""
    store.put(SHOP, new_key())
    store.seal("client-1_storage_sym", WRONG)
    assert attempt(store, Owner("client", "without-a-key"), SHOP) == "opens"
    assert store.read_names == []


@pytest.mark.parametrize(
    "name",
    ["client-1_storage_sym", "client-1_hmac", "zone-12345_zone_sym", "client-1_storage_sym.old/2026-01-01T00:00:00"],
)
def test_one_key_of_any_kind_that_opens_is_enough(store: Listed, name: str) -> None:
    """Among keys that do not open, one that does is enough, in use or replaced."""
    store.seal("damaged_storage_sym", WRONG)
    store.seal(name)
    assert attempt(store) == "opens"


def test_twenty_keys_are_tried_those_that_seal_tokens_first(store: Listed) -> None:
    """No more than 20 keys are read, whatever is there; keys in use that seal tokens come first."""
    for number in range(100):
        store.seal(f"client-{number}_hmac", WRONG)
    store.seal("last-one_storage_sym")
    assert attempt(store) == "opens"
    assert len(store.read_names) == SAMPLE_KEYS
    assert store.read_names[0] == "last-one_storage_sym"


@pytest.mark.parametrize(("keys", "how"), [(1, "does not open the only key"), (3, "opens none of the 3 keys")])
def test_wrong_master_key_is_said(store: Listed, keys: int, how: str) -> None:
    """If no key opens, the sentence names the master key, the folder and the server."""
    for number in range(keys):
        store.seal(f"client-{number}_storage_sym", WRONG)
    store.sealed["client-0_storage.pub"] = b"VUVDMg=="
    with pytest.raises(NoKeyOpens) as caught:
        attempt(store)
    assert str(caught.value).startswith(f"wrong master key: ACRA_MASTER_KEY {how}")
    assert ".acrakeys of redis://keys:6379" in str(caught.value)


def test_note_of_a_worker_holds_the_longest_sentence(store: Listed) -> None:
    """Whoever watches the workers reads to the end what to do about a wrong master key."""
    for number in range(SAMPLE_KEYS):
        store.seal(f"client-{number}_storage_sym", WRONG)
    with pytest.raises(NoKeyOpens) as caught:
        try_sample(
            store,
            LiveMasterKeys(MasterKeys(MASTER_KEY)),
            [],
            folder="payments/acrakeys",
            where="rediss://token-worker@redis-keys.production.internal.example.com:6379/0",
            master_key="the secret kv/payments/acra-master-key in Vault at https://vault.production.example.com:8200",
        )
    note = WorkerNote("0.1.0", "host", 0, ready=False, at=0, why=str(caught.value))
    assert note.why is not None
    assert note.why.endswith("; put the master key back that sealed them")


def test_key_of_a_pinned_client_that_does_not_open_is_a_wrong_master_key(store: Listed) -> None:
    """A pinned client's key counts also if the listing shows none."""
    store.seal(SHOP.key_name, WRONG)
    store.some_names = lambda: ([], True)  # type: ignore[method-assign]
    with pytest.raises(NoKeyOpens, match=r"^wrong master key: "):
        attempt(store, SHOP)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["session:1", "session:2"], "holds no key of Acra's, but other things: check TOKEN_WORKER_KEYS_FOLDER"),
        ([".acrakeys/client-1_storage_sym"], "holds no key of Acra's, but other things"),
        ([".acrakeys/"], "holds no key of Acra's, but other things"),
        (["version", "client/shop/storage-sym.keyring"], "keystore version 2"),
    ],
)
def test_wrong_folder_is_said(store: Listed, names: list[str], why: str) -> None:
    """If the folder has other things in it than keys, another sentence names the setting."""
    store.sealed |= dict.fromkeys(names, b"something")
    with pytest.raises(NoKeyOpens, match=r"^wrong folder: \.acrakeys of redis://keys:6379 holds ") as caught:
        attempt(store, SHOP)
    assert why in str(caught.value)


@pytest.mark.parametrize("names", [[], ["client-1_storage.pub"], ["client-1_storage_sym.old/"]])
def test_no_key_at_all_is_no_error(store: Listed, names: list[str]) -> None:
    """A set-up without keys is fine so far."""
    store.sealed |= dict.fromkeys(names, b"something")
    assert attempt(store, SHOP) == "none"


def test_keys_that_were_not_seen_are_told_from_none(store: Listed) -> None:
    """A look that finds no key among many tokens does not say that there is none."""
    store.has_more = True
    assert attempt(store, SHOP) == "unseen"


def test_key_storage_that_is_away_is_unavailable(store: Listed) -> None:
    """Nothing is known about keys while their storage is away."""
    store.is_away = True
    for pinned in ([], [SHOP]):
        with pytest.raises(Unavailable) as caught:
            attempt(store, *pinned)
        assert not isinstance(caught.value, NoKeyOpens)
