"""The ways in which the engine begins a batch, a storage in either layout, and the keys of one client."""

from collections.abc import Iterator
from unittest import mock

import pytest

from harness.engine_memory import MEMORIES, EngineMemory, new_ring
from token_worker.keys.keyring import Keyring
from token_worker.storage.dense.siv_columns import COLUMN_MIN
from token_worker.storage.engine import GUESS_AFTER


@pytest.fixture(
    scope="module",
    params=[(GUESS_AFTER, COLUMN_MIN, False), (0, COLUMN_MIN, True), (GUESS_AFTER, 1, False), (GUESS_AFTER, 1, True)],
    ids=["looks up", "guesses", "columns", "groups"],
)
def guess_after(request: pytest.FixtureRequest) -> Iterator[int]:
    """Each test runs with an engine that looks up first, and with one that takes all values to be new ones.

    And with dense entries in columns, however few there are; and with items in groups.
    """
    guess_after, column_min, in_groups = request.param
    with (
        mock.patch("harness.engine_memory.IN_GROUPS", in_groups),
        mock.patch("token_worker.storage.engine.GUESS_AFTER", guess_after),
        mock.patch("token_worker.storage.dense.layout.COLUMN_MIN", column_min),
        mock.patch("token_worker.storage.dense.entry.COLUMN_MIN", column_min),
    ):
        yield guess_after


@pytest.fixture
def ring() -> Keyring:
    return new_ring()


@pytest.fixture(params=list(MEMORIES))
def memory(request: pytest.FixtureRequest) -> EngineMemory:
    """Each test runs in both layouts."""
    return MEMORIES[request.param]()
