"""Ids of stream entries: their order, and the ids next to one."""

import pytest

from token_worker.streams.stream_ids import FIRST_ID, LAST_ID, MOST, after, before, check_id, is_id, order


def test_ids_sort_as_numbers_do() -> None:
    """Both numbers are compared as numbers, the first one first, in text and in bytes."""
    ids = ["0-0", "0-9", "0-10", "9-0", "10-0", f"{MOST}-0", LAST_ID]
    assert sorted(sorted(ids), key=order) == ids
    assert [order(entry_id.encode()) for entry_id in ids] == [order(entry_id) for entry_id in ids]


@pytest.mark.parametrize(
    ("entry_id", "following"), [("0-0", "0-1"), ("5-9", "5-10"), (f"5-{MOST}", "6-0"), (f"{MOST}-0", f"{MOST}-1")]
)
def test_nothing_lies_between_an_id_and_the_next(entry_id: str, following: str) -> None:
    """The second number is counted up, and carries over into the first."""
    assert after(entry_id) == after(entry_id.encode()) == following
    assert before(following) == entry_id


def test_ends_of_the_ids() -> None:
    """After the last id there is none, and before the first there is only itself."""
    assert after(LAST_ID) is None
    assert before(LAST_ID) == f"{MOST}-{MOST - 1}"
    assert before(FIRST_ID) == FIRST_ID


def test_text_that_is_no_id_is_refused() -> None:
    """The first number alone is its first entry; what no server would take is refused."""
    assert check_id("7") == "7-0"
    assert check_id("007-01") == "7-1"
    assert (is_id("7-1"), is_id("7"), is_id("007-1")) == (True, False, False)
    for text in ("", "x", "-1", "1-x", "1--1", f"{MOST + 1}-0", f"0-{MOST + 1}", "¹-0"):
        with pytest.raises(ValueError, match="no stream id"):
            check_id(text)
