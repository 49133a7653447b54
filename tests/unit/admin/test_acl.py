"""Names and rights of Redis users."""

import re
from typing import Any

import pytest

from token_worker.admin.acl import Role, Server, User, short_names, users
from token_worker.contract.messages import Op
from token_worker.redis.address import RedisSettings, parse
from token_worker.storage.durability import Durability
from token_worker.streams.routes import Route


@pytest.mark.parametrize(
    ("stream", "name"),
    [
        ("tokenize:requests", "tokenize"),
        ("{shop}:requests", "shop"),
        ("shop.responses", "shop"),
        ("team/a:requests", "team-a"),
        ("in[1]", "in-1"),
        ("requests", "requests"),
        ("Übung:requests", "bung"),
    ],
)
def test_name_is_that_of_the_stream_without_its_last_word(stream: str, name: str) -> None:
    """A user's name has the stream's name in it, in characters that fit a URL and a key of a Kubernetes Secret."""
    assert short_names([stream]) == {stream: name}


def test_streams_that_would_share_a_name_get_a_hash_each() -> None:
    """No two streams have one name, and the order of the routes does not matter."""
    streams = ["a:b:requests", "a-b", "über", "ü", "ö", "x" * 300, "other"]
    names = short_names(streams)
    assert len(set(names.values())) == len(streams)
    assert names == short_names(reversed(streams))
    assert names["other"] == "other"
    assert names["a-b"] != "a-b"
    assert all(re.fullmatch("[A-Za-z0-9._-]{1,100}", name) for name in names.values())


def user_of(
    server: Server,
    role: Role,
    tokens_url: str = "redis://127.0.0.1:1",
    durability: str = "server",
    **more: Any,
) -> User:
    server_of_all = RedisSettings(url="redis://127.0.0.1:1")
    servers: dict[Server, RedisSettings] = {
        "streams": server_of_all,
        "keys": server_of_all,
        "tokens": parse(tokens_url),
    }
    routes = (Route("in", "out", frozenset({Op.TOKENIZE})),)
    found = users(routes, ".acrakeys", Durability.parse(durability), servers, reply_groups=False, **more)
    [user] = [user for user in found if (user.server, user.role) == (server, role)]
    return user


def patterns(user: User) -> set[str]:
    return {pattern.partition("~")[2] for selector in user.selectors for pattern in selector.keys}


def test_rights_are_for_the_layout_that_is_asked_for() -> None:
    """Workers of one layout have no right on entries of the other; without a layout they have rights on both."""
    names = {layout: patterns(user_of("tokens", "worker", layout=layout)) for layout in ("acra", "dense", None)}
    assert names["acra"] == {"tokens/*", "token-worker:layout"}
    assert names["dense"] == {*(kind + 15 * "?" for kind in "vtc"), "token-worker:layout"}
    assert names[None] == names["acra"] | names["dense"]


def test_marks_of_a_cluster_are_in_the_rights() -> None:
    """In a cluster each node has a mark of its own, which workers write, and operators if they wait for replicas."""
    assert "token-worker:mark:*" in patterns(user_of("tokens", "worker", "redis+cluster://127.0.0.1:1"))
    assert "token-worker:mark:*" not in patterns(user_of("tokens", "worker"))
    operator = user_of("tokens", "operator", "redis+cluster://127.0.0.1:1", "replicas:1")
    assert ("token-worker:mark:*" in patterns(operator), "wait" in operator.commands) == (True, True)


def test_operators_who_wait_for_replicas_may_do_so_for_keys_too() -> None:
    """With replicas:N, a command that stores keys asks how many replicas there are, and waits for them."""
    waiting, other = (user_of("keys", "operator", durability=setting) for setting in ("replicas:1", "fsync"))
    assert {*waiting.commands} - {*other.commands} == {"role", "wait"}
    assert patterns(waiting) - patterns(other) == {"token-worker:mark"}


def test_only_operators_write_index_keys_and_the_record() -> None:
    """Workers read index keys and the record of the layout; monitors read only the record."""
    rights = {role: {name for one in user_of("keys", role).selectors for name in one.keys} for role in ROLES}
    assert rights["worker"] == {"%R~.acrakeys/*", "%R~.acrakeys.index/*", "%R~.acrakeys.layout"}
    assert rights["monitor"] == {"%R~.acrakeys.layout"}
    assert {"~.acrakeys.index/*", "~.acrakeys.layout"} <= rights["operator"]


ROLES: tuple[Role, ...] = ("worker", "monitor", "operator")
