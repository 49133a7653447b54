"""The ways in which the engine begins a batch, a storage in either layout, and the keys of one client."""

from collections.abc import Iterator
from unittest import mock

import pytest

from harness.engine_memory import MEMORIES, EngineMemory, new_ring
from token_worker.keys.keyring import Keyring
from token_worker.storage.engine import GUESS_AFTER


@pytest.fixture(scope="module", params=[GUESS_AFTER, 0], ids=["looks up", "guesses"])
def guess_after(request: pytest.FixtureRequest) -> Iterator[int]:
    """Each test runs with an engine that looks up first, and with one that takes all values to be new ones."""
    with mock.patch("token_worker.storage.engine.GUESS_AFTER", request.param):
        yield request.param


@pytest.fixture
def ring() -> Keyring:
    return new_ring()


@pytest.fixture(params=list(MEMORIES))
def memory(request: pytest.FixtureRequest) -> EngineMemory:
    """Each test runs in both layouts."""
    return MEMORIES[request.param]()
