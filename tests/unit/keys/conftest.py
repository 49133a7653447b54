"""A key storage in memory, with the key of one client, and a clock that the test moves."""

import pytest

from harness.fake_keys import Clock, FakeStore
from token_worker.acra.owner import Owner
from token_worker.keys.store import new_key


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> FakeStore:
    """A storage with a key of the client ``shop-frontend``."""
    made = FakeStore(clock)
    made.put(Owner("client", "shop-frontend"), new_key())
    return made
