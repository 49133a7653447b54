"""Streams of replies: the commands that read, trim and remove a client's own stream."""

import pytest

from token_worker.client.replies import Replies
from token_worker.contract.messages import Op
from token_worker.streams.routes import DEFAULT_ROUTES, Route, own_reply_stream

ROUTE = Route("in", "out", frozenset({Op.TOKENIZE}), response_retention_seconds=60)


def test_own_stream_is_one_that_the_route_allows() -> None:
    """A name of its own for each client, below the route's response stream; none where the route has no room for it."""
    names = [Replies(route, DEFAULT_ROUTES).name for route in (*DEFAULT_ROUTES, DEFAULT_ROUTES[0])]
    assert len({*names}) == 3
    assert names[0].startswith("tokenize:responses:client-")
    odd = Route("in", "out", frozenset({Op.TOKENIZE}), reply_to="replies-?:*:*")
    assert own_reply_stream(odd, [odd], "me") == "replies--:me:"
    for pattern in ("out:fixed", "out:?"):
        with pytest.raises(ValueError, match="needs a \\*"):
            Replies(Route("in", "out", frozenset({Op.TOKENIZE}), reply_to=pattern), [])


def test_own_stream_is_read_from_where_the_last_read_ended() -> None:
    """Entries are not read again, and an answer about another stream changes nothing."""
    replies = Replies(ROUTE, [ROUTE])
    replies.start(0.0)
    name = replies.name.encode()
    assert replies.read_command(9) == ("XREAD", "COUNT", 1000, "BLOCK", 9, "STREAMS", replies.name, "0-0")
    entries = [(b"1-0", [b"payload", b"a"]), (b"2-0", [b"other", b"x"]), (b"3-0", [b"x", b"y", b"payload", b"b"])]
    assert replies.take([[name, entries]], 1.0) == [b"a", b"b"]
    assert replies.last_id == b"3-0"
    assert replies.take([[b"out:client-before", [(b"9-0", [b"payload", b"c"])]]], 1.0) == []
    assert replies.take(None, 1.0) == []
    assert replies.last_id == b"3-0"


def test_own_stream_changes_only_after_a_rest_in_which_it_may_have_expired() -> None:
    """A third of its time to live is safe; after more, another name is taken, and read from its beginning."""
    replies = Replies(ROUTE, [ROUTE])
    replies.start(100.0)
    first = replies.name
    replies.take([[first.encode(), [(b"1-0", [b"payload", b"a"])]]], 110.0)
    replies.start(130.0)
    assert (replies.name, replies.last_id) == (first, b"1-0")
    replies.start(150.1)
    assert replies.name != first
    assert replies.last_id == "0-0"
    assert replies.removal_commands() == [("UNLINK", replies.name)]


def test_own_stream_is_kept_short_and_alive_now_and_then() -> None:
    """Entries that were read are trimmed and the time to live starts again, every ten seconds at most."""
    replies = Replies(ROUTE, [ROUTE])
    assert replies.removal_commands() == []
    replies.start(0.0)
    assert replies.trim_commands(9.0) == []
    replies.take([[replies.name.encode(), [(b"1-0", [b"payload", b"a"])]]], 10.0)
    assert replies.trim_commands(10.0) == [("XTRIM", replies.name, "MINID", b"1-0"), ("EXPIRE", replies.name, 60)]
    assert replies.trim_commands(19.0) == []
