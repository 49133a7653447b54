"""The tables of formats against the sources that they are made from."""

from pathlib import Path

import make_format_tables
import pytest


@pytest.mark.parametrize("path", make_format_tables.TABLES, ids=lambda path: path.stem)
def test_a_table_is_what_the_script_makes(path: Path) -> None:
    """A table that was edited, or that is of other releases than the pinned ones, is found."""
    assert make_format_tables.TABLES[path]() == path.read_text()


def test_a_prefix_is_dead_only_if_no_number_begins_with_what_is_left_after_stripping() -> None:
    """In +49 the 0 is stripped, so 0 alone is not dead; a second 0 is stripped by the next program."""
    assert not make_format_tables.is_assigned(49, "0")
    dead = {prefix for prefix in ("0", "00", "01", "03", "010", "030") if make_format_tables.is_dead(49, prefix)}
    assert dead == {"010"}


def test_a_calling_code_without_a_dead_prefix_is_left_out() -> None:
    """All numbers of 11 digits are in the plan of +888."""
    assert make_format_tables.dead_prefix(888) is None
