"""Owners without a key: how long they are remembered, and how often the key storage is asked for more."""

from token_worker.acra.owner import Owner
from token_worker.keys.absent_owners import AbsentOwners


def owner(number: int) -> Owner:
    return Owner("client", f"client-{number}")


def test_absence_ends() -> None:
    """An owner is absent until the given time, or until it has a key."""
    absent = AbsentOwners(float("inf"))
    absent.add(owner(1), 10.0)
    absent.add(owner(2), 10.0)
    absent.discard(owner(2))
    assert [absent.includes(owner(1), now) for now in (9.9, 10.0)] == [True, False]
    assert not absent.includes(owner(2), 0.0)


def test_questions_are_limited_to_so_many_a_second() -> None:
    """Each owner without a key uses one question up; they come back with time, up to those of one second."""
    absent = AbsentOwners(4)
    assert absent.allowed(100.0) == 4
    for number in range(4):
        absent.add(owner(number), 101.0)
    assert [absent.allowed(now) for now in (100.0, 100.5, 100.75)] == [0, 2, 3]
    assert absent.allowed(200.0) == 4
