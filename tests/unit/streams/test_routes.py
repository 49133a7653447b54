"""Routes: their defaults, the routes that can be served together, and the streams that a request may name."""

import pytest

from token_worker.admin.acl import too_wide
from token_worker.contract.messages import Op
from token_worker.streams.routes import (
    DEFAULT_ROUTES,
    Route,
    check_routes,
    check_slots,
    keys_of,
    may_reply_to,
    route_for,
    streams_of,
)

TOKENIZE = frozenset({Op.TOKENIZE})
DETOKENIZE = frozenset({Op.DETOKENIZE})


def test_defaults_of_a_route() -> None:
    """A route's pattern and dead letters follow from its streams, and a pinned one serves no zone by itself."""
    route = Route("in", "out", TOKENIZE)
    pinned = Route("in", "out", TOKENIZE, client_id="shop1")

    assert (route.reply_to, route.dead_letters, route.zones) == ("out:*", "in:dead", None)
    assert pinned.zones == ()


def test_default_routes() -> None:
    """By default each operation has streams of its own, and they can be served."""
    assert [(route.requests, route.responses, route.ops) for route in DEFAULT_ROUTES] == [
        ("tokenize:requests", "tokenize:responses", TOKENIZE),
        ("detokenize:requests", "detokenize:responses", DETOKENIZE),
    ]
    assert check_routes(DEFAULT_ROUTES) == []


def test_replies_with_values_are_kept_shorter() -> None:
    """Streams made by a reply live ten minutes where values in the clear can be in them, else a day."""
    assert Route("in", "out", TOKENIZE).response_seconds == 86400
    assert Route("in", "out", TOKENIZE | DETOKENIZE).response_seconds == 600


def test_streams_of_routes_have_all_three_roles() -> None:
    """The streams of routes are those of all three roles."""
    assert streams_of([Route("a", "b", TOKENIZE), Route("c", "b", TOKENIZE, dead_letters="d")]) == {
        "a",
        "b",
        "a:dead",
        "c",
        "d",
    }


@pytest.mark.parametrize(
    "routes",
    [
        (Route("a", "out", TOKENIZE), Route("b", "out", DETOKENIZE)),
        (Route("a", "x", TOKENIZE, dead_letters="dead"), Route("b", "y", TOKENIZE, dead_letters="dead")),
        (Route("a", "b", TOKENIZE, "shop1", ("DDDDDDDDzone",)),),
        (Route("a", "b", TOKENIZE, reply_to="b*"),),
        (Route("a", "b", TOKENIZE, reply_to="only:this"),),
        (Route("a", "b", TOKENIZE, reply_to="?"),),
    ],
)
def test_routes_that_can_be_served(routes: tuple[Route, ...]) -> None:
    """Routes may share a stream for replies or dead letters, and patterns may cover streams of routes among others."""
    assert check_routes(routes) == []


@pytest.mark.parametrize(
    ("routes", "where"),
    [
        ((), "routes: "),
        ((Route("a", "b", TOKENIZE), Route("a", "c", DETOKENIZE)), "routes[1].requests: is the same"),
        ((Route("a", "a", TOKENIZE),), "routes[0].responses: is the same stream as routes[0].requests"),
        ((Route("a", "b", TOKENIZE, dead_letters="b"),), "routes[0].dead_letters: is the same stream as routes[0]"),
        ((Route("a", "b", TOKENIZE, dead_letters="a"),), "routes[0].dead_letters: is the same stream as routes[0]"),
        ((Route("a", "b", TOKENIZE), Route("b", "c", TOKENIZE)), "routes[1].requests: is the same stream as r"),
        ((Route("a", "b", TOKENIZE), Route("c", "a:dead", TOKENIZE)), "routes[1].responses: is the same stream as r"),
        ((Route("a", "b", frozenset()),), "routes[0].ops: "),
        ((Route("", "b", TOKENIZE),), "routes[0].requests: "),
        ((Route("a", "b*", TOKENIZE),), "routes[0].responses: "),
        ((Route("a", "b", TOKENIZE, dead_letters="c\n"),), "routes[0].dead_letters: "),
        ((Route(" a", "b", TOKENIZE, dead_letters="d"),), "routes[0].requests: "),
        ((Route("a", "b", TOKENIZE, reply_to="x\x00"),), "routes[0].reply_to: "),
        ((Route("a", "b", TOKENIZE, reply_to="b"),), "routes[0].reply_to: can only be a key of a route"),
        ((Route("a", "b", TOKENIZE), Route("c", "d", TOKENIZE, reply_to="a")), "routes[1].reply_to: can only be"),
        ((Route("a", "b", TOKENIZE, reply_to="a:trimmed"),), "routes[0].reply_to: can only be"),
        ((Route("a", "a:trimmed", TOKENIZE),), "routes[0].responses: is a key that workers keep"),
        ((Route("a", "b", TOKENIZE), Route("a:low-water", "b", TOKENIZE)), "routes[1].requests: is a key that workers"),
        ((Route("a", "b", TOKENIZE, "shop"),), "routes[0].client_id: "),
        ((Route("a", "b", TOKENIZE, "shop:1"),), "routes[0].client_id: "),
        ((Route("a", "b", TOKENIZE, "shop1", ("DDDDDDDDzone", "x/y")),), "routes[0].zones[1]: "),
        ((Route("a", "b", TOKENIZE, None, ("DDDDDDDDzone",)),), "routes[0].zones: has a meaning only with client_id"),
    ],
)
def test_routes_that_cannot_be_served(routes: tuple[Route, ...], where: str) -> None:
    """A mistake in the routes is named by index and member."""
    problems = check_routes(routes)

    assert any(text.startswith(where) for text in problems)


@pytest.mark.parametrize(
    ("pattern", "name", "allowed"),
    [
        ("out:*", "out:me", True),
        ("out:*", "out:", True),
        ("out:*", "out:a:b", True),
        ("out:*", "xout:me", False),
        ("out:*", "OUT:me", False),
        ("out:?", "out:1", True),
        ("out:?", "out:12", False),
        ("out:?", "out:1\n", False),
        ("out:[ab]", "out:a", False),
        ("out:[ab]", "out:[ab]", True),
        ("out:[!a]*", "out:[!a]b", True),
        ("out.*", "outs", False),
        ("one", "one", True),
        ("one", "one\n", False),
        ("*", "in", False),
        ("*", "out", False),
        ("*", "in:dead", False),
        ("*", "other", False),
        *((pattern, f"in:{kept}", False) for pattern in ("*", "in:*") for kept in ("trimmed", "low-water", "replay")),
        *(("*", key, False) for key in Route("in", "out", TOKENIZE).own_keys.names),
        ("*", "other:trimmed", False),
        ("in:*", "other:trimmed", False),
        ("in:*", "in:trimmed:", True),
        ("*", "free", True),
    ],
)
def test_reply_goes_only_to_streams_that_the_route_allows(pattern: str, name: str, allowed: bool) -> None:
    """A reply goes to streams that match the route's pattern, where only * and ? are special, and to no route's key."""
    route = Route("in", "out", TOKENIZE, reply_to=pattern)
    all_keys = keys_of([route, Route("other", "others", TOKENIZE)])

    assert may_reply_to(route, name, all_keys) is allowed


def test_routes_of_the_defaults_leave_clients_their_own_streams() -> None:
    """No key that workers keep lies where clients may write."""
    assert too_wide(DEFAULT_ROUTES) == []


@pytest.mark.parametrize(
    "route",
    [
        Route("{t}:in", "{t}:out", TOKENIZE),
        Route("in-{t}", "out-{t}-{u}", TOKENIZE, dead_letters="dead{t}"),
        Route("{t}in", "t", TOKENIZE, reply_to="t"),
        Route("{t}in", "{t}out", TOKENIZE, reply_to="{t}one"),
    ],
    ids=lambda route: route.requests,
)
def test_route_in_one_slot(route: Route) -> None:
    """In a cluster all that belongs to a route shares a hash tag, wherever in a name that is."""
    assert [*check_slots((route,))] == []


@pytest.mark.parametrize(
    ("route", "problems"),
    [
        (Route("in", "{in}out", TOKENIZE), ["requests: in a cluster it needs a hash tag, as in {in}"]),
        (Route("a:in", "{a}:out", TOKENIZE), ["requests: in a cluster it needs a hash tag, as in {a}:in"]),
        (Route("{}in", "{in}out", TOKENIZE, dead_letters="{in}d"), ["requests: in a cluster it needs a hash tag"]),
        (Route("{t}in", "{u}out", TOKENIZE), ["responses: in a cluster it needs the same hash tag, as in {t}:r"]),
        (Route("{t}in", "{}{t}", TOKENIZE), ["responses: in a cluster it needs the same hash tag, as in {t}:r"]),
        (
            Route("{t}in", "{t}out", TOKENIZE, dead_letters="dead"),
            ["dead_letters: in a cluster it needs the same hash tag, as in {t}:dead_letters"],
        ),
        *(
            (Route("{t}in", "{t}out", TOKENIZE, reply_to=reply_to), ["reply_to: in a cluster it needs the same hash"])
            for reply_to in ("*", "*{t}", "?{t}*", "{*}{t}", "{u}*", "{t*}", "t*", "one")
        ),
        (Route("a", "b", TOKENIZE), ["requests: in a", "responses: in a"]),
    ],
    ids=lambda route: f"{route.requests} {route.responses} {route.reply_to}" if isinstance(route, Route) else "",
)
def test_route_in_several_slots(route: Route, problems: list[str]) -> None:
    """A name in another slot is refused with the member and a name that would do, one text for each."""
    found = [*check_slots((DEFAULT_ROUTES[0], route))][2:]

    assert len(found) == len(problems)
    assert all(text.startswith(f"routes[1].{problem}") for text, problem in zip(found, problems, strict=True))


def test_route_is_that_of_the_client_before_one_for_all() -> None:
    """A pinned route is taken for its client; without a client only where there is no doubt."""
    ops = frozenset({Op.TOKENIZE})
    one, two = (Route(f"{name}:in", f"{name}:out", ops, client_id=f"{name}-client") for name in ("one", "two"))
    rest = Route("rest:in", "rest:out", ops)
    assert route_for([rest, one, two], Op.TOKENIZE, "two-client") is two
    assert route_for([rest, one, two], Op.TOKENIZE, "third-client") is rest
    assert route_for([one], Op.TOKENIZE, None) is one
    for routes, op, client_id in (
        ([rest], Op.TOKENIZE, None),
        ([one, two], Op.TOKENIZE, None),
        ([one], Op.TOKENIZE, "two-client"),
        ([one, rest], Op.DETOKENIZE, "one-client"),
    ):
        with pytest.raises(ValueError, match=r"name a client|no route"):
            route_for(routes, op, client_id)
