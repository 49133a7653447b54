"""Commands on tokens of the dense layout that have a token entry alone: drawn there, or moved from Acra's layout."""

import pytest

from harness.engine_memory import INDEX_KEY, KEY, OLD_KEY, SHOP, DenseMemory, Nodes, new_ring
from token_worker.acra.value_types import STR
from token_worker.admin.entry_scan import scan_entries
from token_worker.admin.stored_tokens import Token, Unreadable
from token_worker.admin.tokens import TokenAdmin, TokenFilter
from token_worker.keys.cache import KeyCache
from token_worker.keys.index_key import seal_index_key
from token_worker.keys.keyring import Keyring
from token_worker.keys.store import wrap
from token_worker.storage.dense.entry import ALONE, DISABLED, FOREIGN, REMOVED, EntryNames
from token_worker.testing.memory import MASTER_KEY, MemoryKeys

VALUE, TOKEN = b"a value", b"its token"
KINDS = pytest.mark.parametrize("flags", [ALONE, ALONE | FOREIGN], ids=["drawn here", "foreign"])


class World:
    """The entries of a client, and commands on them."""

    def __init__(self) -> None:
        self.memory = DenseMemory()
        keys = MemoryKeys()
        keys.sealed = {
            SHOP.key_name: wrap(KEY, MASTER_KEY, SHOP),
            f"{SHOP.key_name}.old/2026-01-01T00:00:00": wrap(OLD_KEY, MASTER_KEY, SHOP),
        }
        keys.index = {SHOP.key_name: seal_index_key(INDEX_KEY, MASTER_KEY, SHOP)}
        cache = KeyCache(keys, MASTER_KEY, with_index=True)
        ring = cache.rings([SHOP])[SHOP]
        assert isinstance(ring, Keyring)
        self.ring = ring
        self.nodes = Nodes(self.memory.entries)
        self.admin = TokenAdmin(self.nodes, cache, SHOP, layout="dense", rate=1e9)

    def found(self) -> Token:
        """The token, chosen by its text."""
        token = self.admin.of_token(TOKEN, STR)
        assert isinstance(token, Token)
        return token


@pytest.fixture
def world() -> World:
    return World()


@KINDS
def test_token_is_chosen_by_its_text(world: World, flags: int) -> None:
    """A token is found by its text and by a scan, and has no value entry. Only a foreign one does not tell its text."""
    name = world.memory.put_t(world.ring, STR, TOKEN, VALUE, flags=flags)

    assert (world.found().t.key, world.found().value, world.found().token) == (name, VALUE, TOKEN)
    [scanned] = world.admin.tokens(TokenFilter(kind=STR, state="enabled"))
    assert isinstance(scanned, Token)
    assert (scanned.token, scanned.is_alone) == (None if flags & FOREIGN else TOKEN, True)
    assert world.admin.of_token(b"another", STR) is None
    assert world.admin.of_value(VALUE, STR) is None


@KINDS
def test_token_is_disabled_enabled_and_removed(world: World, flags: int) -> None:
    """Each command changes the one entry, under its name; the tombstone holds the data id, and no value."""
    name = world.memory.put_t(world.ring, STR, TOKEN, VALUE, flags=flags)
    before = dict(world.memory.entries)

    assert world.admin.set_disabled(world.found(), disabled=True)
    assert (world.found().state, world.memory.opened(name)[1]) == ("disabled", flags | DISABLED)
    assert world.admin.set_disabled(world.found(), disabled=False)
    assert world.memory.entries == before
    assert world.admin.remove(world.found(), TokenFilter())
    data_id = EntryNames(INDEX_KEY, SHOP).data_id(TOKEN, STR.number)
    assert world.memory.opened(name) == (bytes((STR.number,)) + data_id, flags | REMOVED)
    assert world.admin.of_token(TOKEN, STR) is None
    assert list(world.admin.tokens(TokenFilter())) == []


def test_foreign_token_beside_a_tombstone_of_the_same(world: World) -> None:
    """If Acra draws a token that was removed here, its foreign entry is found, not the tombstone."""
    world.memory.put_t(world.ring, STR, TOKEN, b"", flags=REMOVED)
    name = world.memory.put_t(world.ring, STR, TOKEN, VALUE, flags=ALONE | FOREIGN)
    assert world.found().t.key == name


@KINDS
@pytest.mark.parametrize("state", [0, DISABLED, REMOVED])
def test_entry_is_sealed_with_the_newest_key(world: World, flags: int, state: int) -> None:
    """``reencrypt`` keeps name, content and flags; afterwards ``keys destroy`` finds no entry of the older key."""
    old = new_ring(OLD_KEY)
    name = world.memory.put_t(old, STR, TOKEN, b"" if state & REMOVED else VALUE, flags=flags | state)
    before = world.memory.opened(name)
    assert scan_entries(world.nodes, SHOP, OLD_KEY, INDEX_KEY).opened == 1

    assert world.admin.reencrypt().sealed == 1

    assert world.memory.opened(name, world.ring) == before
    assert scan_entries(world.nodes, SHOP, OLD_KEY, INDEX_KEY).opened == 0


@KINDS
def test_entry_of_another_token_is_unreadable(world: World, flags: int) -> None:
    """``verify`` finds an entry whose name is not the one of the token in it, though it is authentic."""
    name = world.memory.put_t(world.ring, STR, TOKEN, VALUE, flags=flags)
    assert world.admin.check_token(world.found()) is None
    plaintext, _ = world.memory.opened(name)
    other = name[:-1] + bytes([name[-1] ^ 1])
    world.memory.entries[other] = world.memory.sealed(world.ring, other, plaintext, flags)

    found = list(world.admin.tokens(TokenFilter()))

    assert [entry.key for entry in found if isinstance(entry, Unreadable)] == [other]


@KINDS
@pytest.mark.parametrize(("is_removed", "left"), [(True, REMOVED), (False, DISABLED)])
def test_token_changed_by_another_command_meanwhile(world: World, flags: int, is_removed: bool, left: int) -> None:
    """A command undoes nothing that another one did between its reading and its writing."""
    name = world.memory.put_t(world.ring, STR, TOKEN, VALUE, flags=flags)
    read = world.found()

    def act() -> None:
        world.nodes.before = lambda: None
        if is_removed:
            assert world.admin.remove(world.found(), TokenFilter())
        else:
            assert world.admin.set_disabled(world.found(), disabled=True)

    world.nodes.before = act
    assert world.admin.set_disabled(read, disabled=True)
    assert world.memory.opened(name)[1] == flags | left
