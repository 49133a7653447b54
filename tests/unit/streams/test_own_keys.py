"""Keys beside the streams: each is in the slot of its stream, and users of ``acl`` have rights on it."""

import pytest

from token_worker.admin.acl import Server, users
from token_worker.contract.messages import Op
from token_worker.redis.address import RedisSettings
from token_worker.storage.durability import Durability
from token_worker.streams.own_keys import own_keys
from token_worker.streams.routes import Route, check_slots, slot_of

OPS = frozenset({Op.TOKENIZE})
SERVER = RedisSettings(url="redis://127.0.0.1:1")


@pytest.mark.parametrize("route", [Route("{t}:in", "{t}:out", OPS), Route("in-{t}", "o{t}", OPS, dead_letters="{t}")])
def test_keys_beside_a_stream_are_in_its_slot(route: Route) -> None:
    """If the streams of a route are in one slot of a cluster, all keys beside them are there, too."""
    assert [*check_slots((route,))] == []
    assert {slot_of(name) for name in route.own_keys.names} == {slot_of(route.requests)}


def test_every_key_beside_a_stream_is_in_the_rights() -> None:
    """No key that workers or operators keep is forgotten in the rights that ``acl`` prints."""
    route = Route("in", "out", OPS)
    servers: dict[Server, RedisSettings] = {"streams": SERVER, "keys": SERVER, "tokens": SERVER}
    found = users((route,), ".acrakeys", Durability.parse("server"), servers, reply_groups=False)
    written = {
        pattern.removeprefix("~")
        for user in found
        if user.server == "streams"
        for selector in user.selectors
        for pattern in selector.keys
        if pattern.startswith("~")
    }
    assert set(route.own_keys.names) <= written


def test_names_are_those_of_the_first_release() -> None:
    """A name that changes would make workers of two versions forget what the other one keeps."""
    assert own_keys("in", "out", "dead").names == (
        *("in:low-water", "in:trimmed", "in:workers"),
        *("in:arrivals", "in:arrivals:responses", "in:arrivals:dead-letters"),
        *("in:replay", "dead:replay"),
    )
