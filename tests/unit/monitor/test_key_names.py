"""Ages of keys from names alone."""

from typing import Any

from token_worker.errors import Unavailable
from token_worker.monitor import key_names
from token_worker.monitor.key_names import KeyNames


class FakeLink:
    """Answers SCAN with pages that a test chose."""

    address = "127.0.0.1:1"

    def __init__(self, *pages: list[str]) -> None:
        self.pages = [[f".acrakeys/{name}".encode() for name in page] for page in pages]
        self.connections = 1
        self.name = "keys"
        self.commands: list[tuple[Any, ...]] = []

    def connect(self) -> int:
        return self.connections

    def call(self, *command: Any) -> Any:
        self.commands.append(command)
        number = int(command[1])
        following = number + 1 if number + 1 < len(self.pages) else 0
        return [str(following).encode(), self.pages[number]]


def scan(*pages: list[str]) -> KeyNames:
    return KeyNames(FakeLink(*pages), ".acrakeys")  # type: ignore[arg-type]  # what it uses of a link


def test_ages_come_from_the_history() -> None:
    """The newest name of the history tells when a key was replaced; a key that has no history is told apart."""
    names = [
        *(
            "shop-frontend_storage_sym",
            "shop-frontend_storage_sym.old/2026-01-31T08:15:30",
            "shop-frontend_storage_sym.old/2026-03-31T08:15:30",
        ),
        *("other-client_storage_sym", "zone-1_zone_sym", "zone-1_zone_sym.old/2025-01-01T00:00:00"),
        *("shop-frontend_hmac", "gone-client_storage_sym.old/2024-01-01T00:00:00"),
    ]
    found = scan(names).look()
    assert found is not None
    assert (found.clients, found.zones, found.never_replaced) == (2, 1, 1)
    assert [(owner.kind, owner.id, owner.earlier) for owner in found.oldest] == [
        ("zone", "zone-1", 1),
        ("client", "shop-frontend", 2),
        ("client", "other-client", 0),
    ]
    assert found.oldest[1].replaced_at == 1774944930.0


def test_name_that_comes_twice_counts_once() -> None:
    """A scan of Redis may give a name twice."""
    old = "shop-frontend_storage_sym.old/2026-01-31T08:15:30"
    found = scan(["shop-frontend_storage_sym", old], [old]).look()
    assert found is not None
    assert found.oldest[0].earlier == 1


def test_large_storage_is_scanned_in_parts() -> None:
    """One look reads a few pages. The result of the last whole scan stands until the next one is whole."""
    pages = [[f"client{number}_storage_sym"] for number in range(2 * key_names.PAGES_PER_LOOK + 1)]
    names = scan(*pages)
    assert [names.look(), names.look()] == [None, None]
    found = names.look()
    assert found is not None
    assert found.clients == len(pages)
    assert names.look() is found


def test_only_names_are_asked_for() -> None:
    """No other command than SCAN is sent, so the user of the monitor needs no right to read keys."""
    names = scan(["shop-frontend_storage_sym"])
    names.look()
    link: Any = names._link
    assert {command[0] for command in link.commands} == {"SCAN"}


def test_owners_in_memory_are_bounded(monkeypatch: Any) -> None:
    """More owners than the bound are not remembered, and the result says so."""
    monkeypatch.setattr(key_names, "OWNERS_MAX", 3)
    found = scan([f"client{number}_storage_sym" for number in range(5)]).look()
    assert found is not None
    assert (found.clients, found.is_whole) == (3, False)


def test_outage_begins_a_new_scan() -> None:
    """After a connection was lost, the cursor means nothing: the scan begins anew, and nothing counts twice."""
    pages = [[f"client{number}_storage_sym"] for number in range(key_names.PAGES_PER_LOOK + 5)]
    names = scan(*pages)
    names.look()
    link: Any = names._link
    link.connections = 2
    try:
        names.look()
    except Unavailable:
        found = [names.look() for _ in range(2)][-1]
        assert found is not None
        assert found.clients == len(pages)
    else:
        raise AssertionError("the new connection was not noticed")
