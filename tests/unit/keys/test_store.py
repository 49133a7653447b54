"""The key storage in Redis finds the history of all owners by one scan, and begins anew after an outage."""

import time
from typing import Any

import pytest

from harness.fake_keys import AWAY
from token_worker.acra.owner import Owner
from token_worker.errors import Unavailable
from token_worker.keys.store import RedisKeyStore
from token_worker.redis.link import RedisLink
from token_worker.redis.scan import scan

SHOP = Owner("client", "shop-frontend")
BILLING = Owner("client", "billing_service")


class FakeLink:
    """Answers SCAN page by page, and may fail in between."""

    def __init__(self, pages: dict[bytes, tuple[bytes, list[bytes]] | Unavailable]) -> None:
        self.pages = pages
        self.commands: list[tuple[Any, ...]] = []
        self.name = "keys"
        self.connections = 1

    def connect(self) -> int:
        return self.connections

    def call(self, *command: Any) -> Any:
        self.commands.append(command)
        answer = self.pages[command[1]]
        if isinstance(answer, Unavailable):
            raise answer
        return answer


class _Link(FakeLink, RedisLink):
    """The same, for the type checker."""

    address = "127.0.0.1:1"


def test_scan_starts_anew_after_an_outage() -> None:
    """A scan that was cut off is not gone on with: another server may answer next time."""
    first, second = (b".acrakeys/shop-frontend_storage_sym.old/2026-0%d-01T00:00:00" % month for month in (1, 2))
    link = _Link({b"0": (b"7", [first]), b"7": AWAY})
    store = RedisKeyStore(link, ".acrakeys")
    with pytest.raises(Unavailable):
        store.refresh_history()
    link.pages[b"0"] = (b"8", [second])
    link.pages[b"8"] = (b"0", [second, b".acrakeys/billing_service_storage_sym.old/2026-01-01T00:00:00"])

    store.refresh_history()

    assert [command[1] for command in link.commands] == [b"0", b"7", b"0", b"8"]
    assert store.history_names(SHOP, 0) == (["shop-frontend_storage_sym.old/2026-02-01T00:00:00"], True)


def test_scan_keeps_the_names_of_all_pages() -> None:
    """A scan of many pages knows the names of each, for every owner, newest first and each once."""
    months = [b".acrakeys/shop-frontend_storage_sym.old/2026-0%d-01T00:00:00" % month for month in range(1, 7)]
    other = b".acrakeys/billing_service_storage_sym.old/2026-01-01T00:00:00"
    pages: dict[bytes, tuple[bytes, list[bytes]] | Unavailable] = {
        b"0": (b"7", [months[1], other]),
        b"7": (b"8", []),
        b"8": (b"9", [months[5], months[0], months[1]]),
        b"9": (b"0", [months[3]]),
    }
    counts: list[int] = []
    stores = [
        RedisKeyStore(_Link(pages), ".acrakeys"),
        RedisKeyStore(_Link(pages), ".acrakeys", progress=counts.append),
    ]
    for store in stores:
        store.refresh_history()

        names, _ = store.history_names(SHOP, 0)
        assert names == [months[number].decode().removeprefix(".acrakeys/") for number in (5, 3, 1, 0)]
        assert store.history_names(BILLING, 0)[0] == [other.decode().removeprefix(".acrakeys/")]
    assert counts == sorted(set(counts))
    assert len(counts) == 4


@pytest.mark.parametrize("cursor", [b"7", b"0"])
def test_scan_does_not_go_on_over_another_connection(cursor: bytes) -> None:
    """A scan is valid only on one connection: on another server, its cursor has no meaning."""

    class Renewed(_Link):
        def call(self, *command: Any) -> Any:
            answer = super().call(*command)
            self.connections += command[1] == cursor
            return answer

    link = Renewed({b"0": (b"7", [b"one"]), b"7": (b"0", [b"two"])})
    with pytest.raises(Unavailable, match="connection was replaced"):
        list(scan(link, "*"))


def test_connection_lost_while_the_last_page_is_worked_on_is_told() -> None:
    """Changes of the last page may have gone to a server that lost them."""
    link = _Link({b"0": (b"0", [b"one"])})
    pages = scan(link, "*")
    assert next(pages) == [b"one"]
    link.connections += 1
    with pytest.raises(Unavailable, match="connection was replaced"):
        next(pages)


def test_scans_are_a_second_apart() -> None:
    """After a scan the next one is a second away at least."""
    store = RedisKeyStore(_Link({b"0": (b"0", [])}), ".acrakeys")
    store.refresh_history()

    with pytest.raises(Unavailable):
        store.refresh_history()


def test_scan_of_a_command_does_not_rest() -> None:
    """A command that needs another scan has the time for it."""
    store = RedisKeyStore(_Link({b"0": (b"0", [])}), ".acrakeys", progress=lambda _: None)
    for _ in range(2):
        begin = time.monotonic()
        store.refresh_history()
        assert store.history_names(SHOP, begin) == ([], True)


def test_history_has_a_connection_of_its_own() -> None:
    """A thread does not use the connection of another thread."""

    class Empty(_Link):
        def call(self, *command: Any) -> Any:
            self.commands.append(command)
            return (b"0", []) if command[0] == "SCAN" else [None] * (len(command) - 1)

    link, history = Empty({}), Empty({})
    store = RedisKeyStore(link, ".acrakeys", history=history)
    store.refresh_history()
    assert store.read(["one", "two"]) == [None, None]
    assert store.current([SHOP]) == [None]
    assert [command[0] for command in history.commands] == ["SCAN", "MGET"]
    assert [command[0] for command in link.commands] == ["MGET"]


def test_folder_is_no_pattern() -> None:
    """A folder's name is taken literally by the scan."""
    link = _Link({b"0": (b"0", [])})
    RedisKeyStore(link, "keys[1]*").refresh_history()

    assert link.commands[0][3] == "keys\\[1\\]\\*/*.old/*"
