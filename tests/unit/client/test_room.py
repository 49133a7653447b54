"""Room for requests in flight, which threads share."""

from collections.abc import Callable

import pytest

from harness.clients import LONG_SECONDS, start
from harness.stack import wait_until
from token_worker.client.synchronous import Room


def test_no_more_room_is_taken_than_there_is() -> None:
    """Room that is taken is gone until it is made again; who does not wait, or not long enough, gets none."""
    room = Room(2)
    assert [room.take() for _ in range(3)] == [True, True, False]
    assert not room.take(0.001)
    assert not room.take(-1.0)
    room.make(1)
    assert room.take()
    assert not room.take()


def test_room_for_several_wakes_several() -> None:
    """Each thread that waits gets room when there is room for all."""
    room = Room(1)
    room.take()
    found: list[bool] = []
    threads = [start(lambda: found.append(room.take(LONG_SECONDS))) for _ in range(3)]
    wait_until(lambda: room.waiting == 3, "the waits")
    room.make(3)
    for thread in threads:
        thread.join(LONG_SECONDS / 2)
    assert found == [True] * 3
    assert room.waiting == 0
    assert not room.take()


def test_room_that_wakes_an_interrupted_thread_goes_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in a thread that was just woken: another thread gets the room."""
    room = Room(1)
    room.take()
    found: list[bool] = []
    thread = start(lambda: found.append(room.take(LONG_SECONDS)))
    wait_until(lambda: room.waiting == 1, "the wait")

    def interrupted(_: Callable[[], int], __: float) -> bool:
        room._free += 1  # woken by this, and interrupted
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(room._made, "wait_for", interrupted)
        with pytest.raises(KeyboardInterrupt):
            room.take(LONG_SECONDS)
    thread.join(LONG_SECONDS / 2)
    assert found == [True]
