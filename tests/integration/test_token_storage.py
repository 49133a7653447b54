"""The token storage on real servers: the writes and the costs of its scripts."""

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis
from msgspec.structs import replace

from harness.servers import Valkey, oldest_binary, redis_binary, valkey_binary
from token_worker.acra.owner import Owner
from token_worker.acra.value_types import STR, TokenType
from token_worker.errors import Unavailable
from token_worker.keys.keyring import DataKeyCache, Keyring
from token_worker.redis.address import RedisSettings
from token_worker.redis.link import RedisLink
from token_worker.storage.acra.layout import AcraLayout
from token_worker.storage.dense.layout import DenseLayout
from token_worker.storage.engine import Engine
from token_worker.storage.steps import Adopt, Claim, Lookup, Outcome, Row, Store, Touch
from token_worker.storage.token_item import TokenItem
from token_worker.storage.tokens import KEYS_PER_COMMAND, TokenStorage

ROW = Row(b"tokens/h1", b"tokens/t1", b"h value", b"t value")
OTHER = Row(b"tokens/h2", b"tokens/t2", b"h value 2", b"t value 2")
INCONSISTENT = Row(b"", b"tokens/t1", b"", b"t value")
WRITTEN = Outcome("written")


@pytest.fixture
def client(server: Valkey) -> Iterator[redis.Redis]:
    with server.client() as client:
        yield client


def storage_on(server: Valkey) -> TokenStorage:
    return TokenStorage(RedisLink("tokens", RedisSettings(url=server.url)))


@pytest.fixture
def link(server: Valkey) -> Iterator[RedisLink]:
    link = RedisLink("tokens", RedisSettings(url=server.url))
    yield link
    link.close()


@pytest.fixture
def storage(link: RedisLink) -> TokenStorage:
    return TokenStorage(link)


def content(client: redis.Redis) -> dict[bytes, bytes | None]:
    """All that a server holds; None where it is no string."""
    keys = list(client.scan_iter(count=1000))
    values: list[Any] = client.mget(keys) if keys else []
    return dict(zip(keys, values, strict=True))


# Store


def test_row_is_stored_as_two_entries(storage: TokenStorage, client: redis.Redis) -> None:
    """A row is written as its two entries, without a time to live."""
    assert storage.execute(Store([ROW, OTHER])) == [WRITTEN, WRITTEN]

    assert content(client) == {
        b"tokens/h1": b"h value",
        b"tokens/t1": b"t value",
        b"tokens/h2": b"h value 2",
        b"tokens/t2": b"t value 2",
    }
    assert client.ttl("tokens/h1") == client.ttl("tokens/t1") == -1
    assert storage.execute(Lookup([b"tokens/t2", b"tokens/none", b"tokens/h1"])) == [b"t value 2", None, b"h value"]


def test_look_up_of_nothing_asks_nothing(storage: TokenStorage) -> None:
    """A look-up of no keys sends no command, because the server refuses one without keys."""
    assert storage.execute(Lookup([])) == []


def test_inconsistent_token_is_stored_once_in_one_entry(storage: TokenStorage, client: redis.Redis) -> None:
    """An inconsistent token has only a t. entry, and is written once."""
    assert storage.execute(Store([INCONSISTENT])) == [WRITTEN]
    assert storage.execute(Store([replace(INCONSISTENT, t_value=b"other")])) == [Outcome("token", b"t value")]

    assert content(client) == {b"tokens/t1": b"t value"}


@pytest.mark.parametrize(
    ("key", "outcome"),
    [("tokens/h1", Outcome("value", b"of Acra")), ("tokens/t1", Outcome("token", b"of Acra"))],
)
def test_store_where_one_exists(storage: TokenStorage, client: redis.Redis, key: str, outcome: Outcome) -> None:
    """If one of the two entries exists, neither is written, and it is returned; other rows are written."""
    client.set(key, b"of Acra")

    assert storage.execute(Store([ROW, OTHER])) == [outcome, WRITTEN]

    assert content(client) == {key.encode(): b"of Acra", b"tokens/h2": b"h value 2", b"tokens/t2": b"t value 2"}


def test_store_where_both_exist(storage: TokenStorage, client: redis.Redis) -> None:
    """The value's entry decides where both exist: its token is the answer."""
    storage.execute(Store([ROW]))

    assert storage.execute(Store([replace(ROW, h_value=b"x", t_value=b"y")])) == [Outcome("value", b"h value")]
    assert content(client) == {b"tokens/h1": b"h value", b"tokens/t1": b"t value"}


def test_store_of_empty_entries(storage: TokenStorage, client: redis.Redis) -> None:
    """An entry that holds nothing exists all the same."""
    client.set("tokens/h1", b"")
    client.set("tokens/t2", b"")

    assert storage.execute(Store([ROW, OTHER])) == [Outcome("value", b""), Outcome("token", b"")]
    assert content(client) == {b"tokens/h1": b"", b"tokens/t2": b""}


@pytest.mark.parametrize("second", [replace(OTHER, t_key=ROW.t_key), replace(ROW, t_key=b"tokens/t2"), ROW])
def test_store_of_rows_that_meet(storage: TokenStorage, client: redis.Redis, second: Row) -> None:
    """Of two rows of one call that want the same entry the first is written, and the second finds it."""
    expected = Outcome("token", ROW.t_value) if second.h_key != ROW.h_key else Outcome("value", ROW.h_value)

    first, outcome = storage.execute(Store([ROW, second]))

    assert first == WRITTEN
    assert outcome in (expected, Outcome("token", ROW.t_value))
    assert content(client) == {b"tokens/h1": b"h value", b"tokens/t1": b"t value"}


@pytest.mark.parametrize("key", ["tokens/h1", "tokens/t1"])
def test_store_at_a_key_of_another_type(storage: TokenStorage, client: redis.Redis, key: str) -> None:
    """A row with a key that is no string is broken: nothing of it is written; other rows are written."""
    client.rpush(key, "an element")

    assert storage.execute(Store([ROW, OTHER])) == [Outcome("broken"), WRITTEN]

    assert content(client) == {key.encode(): None, b"tokens/h2": b"h value 2", b"tokens/t2": b"t value 2"}


# Adopt


def test_adopting_writes_the_entry_of_the_value(storage: TokenStorage, client: redis.Redis) -> None:
    """The value's entry is written if the token's entry has not changed since it was read. The token's entry stays."""
    client.set("tokens/t1", b"t value", ex=1000)

    assert storage.execute(Adopt([ROW])) == [WRITTEN]

    assert content(client) == {b"tokens/h1": b"h value", b"tokens/t1": b"t value"}
    assert client.ttl("tokens/t1") > 0


@pytest.mark.parametrize("now", [None, b"disabled meanwhile", b""])
def test_adopt_what_has_changed(storage: TokenStorage, client: redis.Redis, now: bytes | None) -> None:
    """Nothing is written if the token's entry has changed since it was read, or was deleted."""
    if now is not None:
        client.set("tokens/t1", now)
    before = content(client)

    assert storage.execute(Adopt([ROW])) == [Outcome("changed")]

    assert content(client) == before


def test_adopting_too_late_returns_the_token_that_is_there(storage: TokenStorage, client: redis.Redis) -> None:
    """If the value has got a token meanwhile, that token is returned and stays."""
    client.set("tokens/t1", b"t value")
    client.set("tokens/h1", b"the winner's")

    assert storage.execute(Adopt([ROW])) == [Outcome("value", b"the winner's")]
    assert content(client) == {b"tokens/h1": b"the winner's", b"tokens/t1": b"t value"}


def test_adopt_at_a_key_of_another_type(storage: TokenStorage, client: redis.Redis) -> None:
    """A row is broken if the value's entry is not a string, and has changed if the token's entry is not a string."""
    client.set("tokens/t1", b"t value")
    client.rpush("tokens/h1", "an element")
    client.rpush("tokens/t2", "an element")
    before = content(client)

    assert storage.execute(Adopt([ROW, OTHER])) == [Outcome("broken"), Outcome("changed")]
    assert content(client) == before


# Touch


def test_touching_replaces_an_entry_and_keeps_its_time_to_live(storage: TokenStorage, client: redis.Redis) -> None:
    """An entry is replaced if it has not changed since it was read. A time to live stays; no entry gets one."""
    client.set("tokens/a", b"old", ex=1000)
    client.set("tokens/b", b"old")

    storage.execute(Touch([(b"tokens/a", b"old", b"new"), (b"tokens/b", b"old", b"new")]))

    assert content(client) == {b"tokens/a": b"new", b"tokens/b": b"new"}
    assert 900 < client.ttl("tokens/a") <= 1000
    assert client.ttl("tokens/b") == -1


def test_touching_leaves_changed_entries_alone(storage: TokenStorage, client: redis.Redis) -> None:
    """An entry that was disabled, removed or replaced meanwhile stays so; other entries are updated."""
    client.set("tokens/a", b"disabled")
    client.rpush("tokens/c", "an element")
    client.set("tokens/d", b"old")

    storage.execute(Touch([(b"tokens/" + name, b"old", b"new") for name in (b"a", b"b", b"c", b"d")]))

    assert content(client) == {b"tokens/a": b"disabled", b"tokens/c": None, b"tokens/d": b"new"}


# Tombstones, on the oldest server, too

REPLACING = replace(ROW, h_old=b"a tombstone")


BINARIES = [valkey_binary, redis_binary, oldest_binary]


@pytest.fixture(scope="module", params=BINARIES, ids=["valkey", "redis82", "redis70"])
def any_server(request: pytest.FixtureRequest) -> Iterator[Valkey]:
    with Valkey(binary=request.param()) as server:
        yield server


@pytest.fixture
def tombs(any_server: Valkey) -> Iterator[redis.Redis]:
    """An empty server."""
    with any_server.client() as client:
        client.flushall()
        yield client


@pytest.fixture
def dense(any_server: Valkey) -> Iterator[TokenStorage]:
    link = RedisLink("tokens", RedisSettings(url=any_server.url))
    yield TokenStorage(link, layout=DenseLayout())
    link.close()


@pytest.mark.parametrize("is_new", [True, False], ids=["store", "adopt"])
@pytest.mark.parametrize("held", [None, b"a tombstone"], ids=["nothing", "tombstone"])
def test_tombstone_that_was_read_is_replaced(
    dense: TokenStorage, tombs: redis.Redis, held: bytes | None, *, is_new: bool
) -> None:
    """A value entry is written over the tombstone that was read, or if it is gone; beside it new rows are written."""
    if held is not None:
        tombs.set("tokens/h1", held)
    if not is_new:
        tombs.set("tokens/t1", b"t value")
    others = [OTHER] if is_new else []

    assert dense.execute((Store if is_new else Adopt)([REPLACING, *others])) == [WRITTEN] * (1 + len(others))

    assert content(tombs).items() >= {b"tokens/h1": b"h value", b"tokens/t1": b"t value"}.items()
    assert tombs.dbsize() == 2 + 2 * len(others)


@pytest.mark.parametrize("is_new", [True, False], ids=["store", "adopt"])
@pytest.mark.parametrize("held", [b"another tombstone", b"", b"h value"])
def test_tombstone_that_was_replaced_meanwhile(
    dense: TokenStorage, tombs: redis.Redis, held: bytes, *, is_new: bool
) -> None:
    """Nothing is written over anything but the tombstone that was read. The answer is what stands there."""
    tombs.mset({"tokens/h1": held} | ({} if is_new else {"tokens/t1": b"t value"}))
    before = content(tombs)

    assert dense.execute((Store if is_new else Adopt)([REPLACING])) == [Outcome("value", held)]

    assert content(tombs) == before


@pytest.mark.parametrize("held", [b"t tombstone", b"t value", b""])
def test_tombstone_stays_if_the_token_is_taken(dense: TokenStorage, tombs: redis.Redis, held: bytes) -> None:
    """A row whose token entry exists is not written, also if its value entry is the tombstone that was read."""
    tombs.mset({"tokens/h1": b"a tombstone", "tokens/t1": held})
    before = content(tombs)

    assert dense.execute(Store([REPLACING])) == [Outcome("token", held)]
    assert dense.execute(Adopt([replace(REPLACING, t_value=b"as it was read")])) == [Outcome("changed")]

    assert content(tombs) == before


@pytest.mark.parametrize("second", [REPLACING, replace(REPLACING, t_key=b"tokens/t2"), replace(OTHER, t_key=ROW.t_key)])
def test_rows_that_meet_at_a_tombstone(dense: TokenStorage, tombs: redis.Redis, second: Row) -> None:
    """Of two rows that replace one tombstone, or want one token, the first is written, and the second finds it."""
    tombs.set("tokens/h1", b"a tombstone")

    first, outcome = dense.execute(Store([REPLACING, second]))

    assert first == WRITTEN
    assert outcome in (Outcome("value", b"h value"), Outcome("token", b"t value"))
    assert content(tombs) == {b"tokens/h1": b"h value", b"tokens/t1": b"t value"}


def test_claims(dense: TokenStorage, tombs: redis.Redis) -> None:
    """A check value is written where there is nothing, and answered as it stands; the first one wins."""
    assert dense.execute(Claim([(b"c1", b"ours"), (b"c2", b"ours")])) == [b"ours", b"ours"]
    assert dense.execute(Claim([(b"c3", b"ours"), (b"c1", b"theirs")])) == [b"ours", b"ours"]

    assert content(tombs) == {b"c1": b"ours", b"c2": b"ours", b"c3": b"ours"}


# Scripts and their cost


def test_server_that_forgot_the_scripts_gets_them_again(storage: TokenStorage, client: redis.Redis) -> None:
    """A server that has forgotten the scripts gets them again."""
    storage.execute(Store([ROW]))
    client.script_flush()
    assert storage.execute(Store([OTHER])) == [WRITTEN]
    client.script_flush()
    storage.execute(Touch([(b"tokens/t1", b"t value", b"new")]))
    client.script_flush()
    client.delete("tokens/h1")

    assert storage.execute(Adopt([replace(ROW, t_value=b"new")])) == [WRITTEN]
    assert client.get("tokens/h1") == b"h value"


def calls(client: redis.Redis) -> dict[str, int]:
    """The calls of each command since the statistics were reset."""
    return {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in client.info("commandstats").items()}


class CountingLink(RedisLink):
    """Notes the number of keys of each command."""

    def __init__(self, server: Valkey) -> None:
        super().__init__("tokens", RedisSettings(url=server.url))
        self.keys: list[int] = []

    def call(self, *command: object) -> object:
        if command[0] == "MGET":
            self.keys.append(len(command) - 1)
        elif command[0] == "MSETNX":
            self.keys.append((len(command) - 1) // 2)
        elif isinstance(number := command[2], int):
            self.keys.append(number)
        return super().call(*command)


def test_no_command_gets_more_than_1000_keys(server: Valkey, client: redis.Redis) -> None:
    """No command and no script gets more than 1,000 keys, whatever the batch; all that was asked is done, in order."""
    link = CountingLink(server)
    storage = TokenStorage(link)
    rows = [Row(b"tokens/h%d" % n, b"tokens/t%d" % n, b"h%d" % n, b"t%d" % n) for n in range(1234)]

    assert storage.execute(Store(rows)) == [WRITTEN] * 1234
    assert storage.execute(Lookup([row.h_key for row in rows])) == [row.h_value for row in rows]
    storage.execute(Touch([(row.t_key, row.t_value, b"new " + row.t_value) for row in rows]))
    again = storage.execute(Adopt([replace(row, t_value=b"new " + row.t_value) for row in rows]))

    assert again == [Outcome("value", row.h_value) for row in rows]
    assert KEYS_PER_COMMAND == 1000
    assert max(link.keys) == 1000
    link.close()


def test_large_entries_are_written_by_several_scripts(server: Valkey, client: redis.Redis) -> None:
    """Large entries are written by several scripts, so that no script takes long."""
    link = CountingLink(server)
    large = b"x" * 400_000
    rows = [Row(b"tokens/h%d" % n, b"tokens/t%d" % n, large, large) for n in range(12)]

    assert TokenStorage(link).execute(Store(rows)) == [WRITTEN] * 12

    assert client.dbsize() == 24
    assert link.keys == [10, 10, 4]
    link.close()


def execute_all(storage: TokenStorage, items: list[TokenItem], now: int = 1_800_000_000) -> None:
    steps = Engine(AcraLayout()).run(items, now)
    answer = None
    while True:
        try:
            answer = storage.execute(steps.send(answer))  # type: ignore[arg-type]  # one key: no step asks for more
        except StopIteration:
            return


def items_of(kind: TokenType, values: list[bytes], *, tokenize: bool) -> list[TokenItem]:
    ring = Keyring(Owner("client", "shop-frontend"), bytes(32), DataKeyCache())
    return [TokenItem(ring, kind, value, tokenize=tokenize) for value in values]


def test_round_trips_of_a_batch(storage: TokenStorage, client: redis.Redis) -> None:
    """A batch of 500 new values costs an MGET and an MSETNX, one of known values or tokens an MGET."""
    new = items_of(STR, [b"value %d" % number for number in range(500)], tokenize=True)
    execute_all(storage, new)  # the first time, the server has to be told the script
    client.flushdb()
    client.config_resetstat()

    execute_all(storage, new)
    stats = calls(client)
    assert (stats["mget"], stats["msetnx"], stats.get("evalsha", 0), stats.get("eval", 0)) == (1, 1, 0, 0)
    assert client.dbsize() == 1000

    client.config_resetstat()
    tokens = [item.result for item in new if isinstance(item.result, bytes)]
    execute_all(storage, items_of(STR, tokens, tokenize=False))
    execute_all(storage, items_of(STR, [b"value %d" % number for number in range(500)], tokenize=True))
    stats = calls(client)
    assert (stats["mget"], stats.get("evalsha", 0)) == (2, 0)


# A server that is full, or away


def fill(client: redis.Redis) -> None:
    """Write until there is no memory left."""
    with suppress(redis.exceptions.OutOfMemoryError):
        for number in range(100_000):
            client.set(f"filler:{number}", os.urandom(4096))
        pytest.fail("the server has no limit")


@pytest.mark.parametrize("binary", [None, redis_binary()], ids=["valkey", "redis82"])
def test_full_server_leaves_nothing_half_written(binary: str | None) -> None:
    """A server that is out of memory makes the storage unavailable and leaves nothing half-written; reading goes on."""
    with Valkey("maxmemory 8mb", "maxmemory-policy noeviction", binary=binary) as server, server.client() as client:
        storage = storage_on(server)
        storage.execute(Store([ROW]))
        fill(client)
        rows = [Row(b"tokens/h%d" % n, b"tokens/t%d" % n, b"x" * 100, b"y" * 100) for n in range(10, 500)]

        with pytest.raises(Unavailable) as raised:
            storage.execute(Store(rows))
        assert (raised.value.server, raised.value.reason) == ("tokens", "OOM")
        with pytest.raises(Unavailable):
            storage.execute(Adopt([replace(OTHER, t_key=ROW.t_key, t_value=ROW.t_value)]))

        assert sorted(client.scan_iter("tokens/*", count=10_000)) == [b"tokens/h1", b"tokens/t1"]
        assert storage.execute(Lookup([b"tokens/t1"])) == [b"t value"]
        storage.execute(Touch([(b"tokens/t1", b"t value", b"new")]))
        assert client.get("tokens/t1") == b"t value"

        client.config_set("maxmemory", 0)
        assert storage.execute(Store(rows)) == [WRITTEN] * len(rows)


def test_full_in_the_middle(server: Valkey, client: redis.Redis) -> None:
    """If a write of many parts is cut off, each value has both entries or none, and the next try continues."""

    class FailingLink(CountingLink):
        def call(self, *command: object) -> object:
            if len(self.keys) == 2:
                raise Unavailable("tokens", "OOM")
            return super().call(*command)

    rows = [Row(b"tokens/h%d" % n, b"tokens/t%d" % n, b"h%d" % n, b"t%d" % n) for n in range(1234)]
    link = FailingLink(server)
    TokenStorage(storage_link := CountingLink(server)).execute(Store([]))
    with pytest.raises(Unavailable):
        TokenStorage(link).execute(Store(rows))
    written = content(client)
    assert 0 < len(written) < 2 * 1234
    assert all((row.h_key in written) == (row.t_key in written) for row in rows)

    outcomes = TokenStorage(storage_link).execute(Store(rows))

    assert {outcome.what for outcome in outcomes} == {"written", "value"}
    assert client.dbsize() == 2 * 1234
    link.close()
    storage_link.close()


def test_storage_goes_on_once_the_server_is_back() -> None:
    """While the server is away every step is unavailable; once it is back the same storage goes on."""
    with Valkey() as server:
        storage = storage_on(server)
        storage.ping()
        server.kill()

        for step in (Lookup([b"tokens/t1"]), Store([ROW]), Adopt([ROW]), Touch([(b"tokens/t1", b"a", b"b")])):
            with pytest.raises(Unavailable) as raised:
                storage.execute(step)
            assert raised.value.server == "tokens"
        with pytest.raises(Unavailable):
            storage.ping()

        server.start()
        assert storage.execute(Store([ROW])) == [WRITTEN]
