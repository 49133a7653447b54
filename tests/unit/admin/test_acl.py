"""Names of Redis users."""

import re

import pytest

from token_worker.admin.acl import short_names


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
