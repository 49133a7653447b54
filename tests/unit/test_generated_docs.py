"""Pages that are generated from the code are those that the code generates."""

import pytest
from make_docs import FOLDER, PAGES


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_up_to_date(name: str) -> None:
    """A change of a setting, command or help text is on the page of the docs; else: python scripts/make_docs.py."""
    assert (FOLDER / name).read_text() == PAGES[name]()
