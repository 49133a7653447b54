"""The two layouts, as ``tokens migrate`` reads them, without a server."""

from hypothesis import given
from hypothesis import strategies as st

from token_worker.acra.token_entry import TokenEntry, encode_entry
from token_worker.admin.migrate_scan import part_done
from token_worker.admin.migrate_sides import _day_and_state
from token_worker.storage.dense.entry import day_of

TIMES = st.one_of(st.just(0), st.integers(0, 2**40), st.integers(2**28, 2**35 - 1))


@given(st.integers(1, 40_000), TIMES, TIMES, st.booleans())
def test_day_and_state_are_those_of_the_entry(length: int, created: int, accessed: int, disabled: bool) -> None:
    """The short way to the day and the state gives what the whole decoding gives, for any length and time."""
    raw = encode_entry(TokenEntry(b"b" * length, created, accessed, disabled))
    assert _day_and_state(raw) == (day_of(created), disabled)


def test_part_that_is_done_grows_with_the_cursor() -> None:
    """SCAN counts from the highest bit on: 0 is the begin, and the order of cursors of a table is that of the parts."""
    cursors = [0, 4, 2, 6, 1, 5, 3, 7]  # of a table of eight
    assert [part_done(cursor) for cursor in cursors] == [number / 8 for number in range(8)]
