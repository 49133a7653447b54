"""A worker is back when every server that was away has answered, and says which."""

from typing import Any

import pytest
import structlog

from token_worker.errors import LoginRefused, NoKeyOpens, ServerError, Unavailable, in_words
from token_worker.service.outage import Drain, Outage
from token_worker.service.runtime import Runtime
from token_worker.telemetry.health import Health

REFUSED = "ConnectionRefusedError"
NO_SELECT = "was refused: the number in the address is wrong, or the user lacks the right +select (NOPERM)"


class Setup:
    """Outages of one worker; waits take no time."""

    def __init__(self) -> None:
        self.now = 0.0
        clock = Runtime(monotonic=lambda: self.now, sleep=self._sleep, uniform=lambda _low, high: high)
        runtime = clock._replace(collect_garbage=lambda: None)
        self.health = Health(30)
        self.outage = Outage(Drain(10, runtime), self.health, runtime)

    def why(self) -> str | None:
        """The reason why the worker is not ready."""
        return self.health.why_not_ready

    def _sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def setup() -> Setup:
    return Setup()


def events(logs: list[Any]) -> list[str]:
    return [line["event"] for line in logs]


def test_worker_is_ready_when_the_first_read_succeeded(setup: Setup) -> None:
    """That is logged once, and not before servers have answered."""
    assert setup.why() == "starting"
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            setup.outage.answered("streams")
    assert setup.why() is None
    assert events(logs) == ["worker is ready"]


def test_other_servers_do_not_speak_for_the_one_that_is_away(setup: Setup) -> None:
    """While the token storage is full, streams that answer make the worker neither ready nor back."""
    setup.outage.answered("streams")
    setup.outage.idle.wait(Unavailable("tokens", "OOM", "10.0.0.2:6379"))
    with structlog.testing.capture_logs() as logs:
        setup.outage.answered("streams")
        assert setup.why() == "Redis for tokens at 10.0.0.2:6379: its memory limit is reached (OOM)"
        assert logs == []
        setup.outage.answered("tokens")
    assert setup.why() is None
    assert [(line["event"], line["servers"]) for line in logs] == [("servers available again", ["tokens"])]


def test_all_that_were_away_have_to_answer(setup: Setup) -> None:
    """With two servers away, the first that returns leaves the other one as the reason; the last ends the outage."""
    setup.outage.answered("streams")
    setup.outage.in_hand.wait(Unavailable("tokens", REFUSED, "10.0.0.2:6379"))
    setup.outage.in_hand.wait(Unavailable("streams", REFUSED, "10.0.0.1:6379"))
    with structlog.testing.capture_logs() as logs:
        setup.outage.answered("streams")
        assert setup.why() == "Redis for tokens at 10.0.0.2:6379: connection refused"
        setup.outage.answered("tokens")
    assert [line["servers"] for line in logs] == [["streams", "tokens"]]


def test_waits_grow_until_all_are_back(setup: Setup) -> None:
    """Streams that answer in between do not make the waits for the token storage short again."""
    error, took = Unavailable("tokens", "OOM"), []
    for _ in range(8):
        began = setup.now
        setup.outage.idle.wait(error)
        took.append(setup.now - began)
        setup.outage.answered("streams")
    assert took == sorted(took)
    assert took[-1] == pytest.approx(5)
    setup.outage.answered("tokens")
    began = setup.now
    setup.outage.idle.wait(error)
    assert setup.now - began == pytest.approx(took[0])


def test_away_message_names_what_where_and_why(setup: Setup) -> None:
    """A log line has the sentence, and its parts for programs."""
    with structlog.testing.capture_logs() as logs:
        setup.outage.idle.wait(Unavailable("streams", REFUSED, "10.0.0.1:6379"))
        setup.outage.idle.wait(NoKeyOpens("wrong master key: …"))
    first, second = logs
    assert first["reason"] == "Redis for streams at 10.0.0.1:6379: connection refused"
    assert (first["event"], first["server"], first["code"]) == ("server unavailable", "streams", REFUSED)
    assert (second["event"], second["reason"]) == ("not ready: no key opens", "wrong master key: …")


def test_reason_that_stays_is_logged_once_a_minute(setup: Setup) -> None:
    """A new reason is logged at once, the same one at most once a minute, and each outage from its beginning."""
    with structlog.testing.capture_logs() as logs:
        while setup.now < 130:
            setup.outage.idle.wait(NoKeyOpens("wrong master key: …"))
        assert events(logs) == ["not ready: no key opens"] * 3
        for reason in (REFUSED, REFUSED, "LOADING", REFUSED, REFUSED):
            setup.outage.in_hand.wait(Unavailable("streams", reason))
            setup.outage.idle.wait(Unavailable("tokens", "OOM"))
        assert [line["code"] for line in logs[3:]] == [REFUSED, "OOM", "LOADING", REFUSED]
        setup.outage.returned("streams")
        setup.outage.in_hand.wait(Unavailable("streams", REFUSED))
    assert [line["code"] for line in logs[7:]] == [REFUSED]


def test_keys_that_do_not_open_are_no_server_that_is_away(setup: Setup) -> None:
    """The worker is not ready, and no server is to blame."""
    setup.outage.idle.wait(NoKeyOpens("wrong folder: …"))
    assert setup.why() == "wrong folder: …"
    assert setup.health.server_away is None
    assert setup.outage.returned("keys")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Unavailable("keys", "TimeoutError", "[::1]:6379"), "Redis for keys at [::1]:6379: no answer in time"),
        (Unavailable("tokens", "LAYOUT", "h:1", "has another layout"), "Redis for tokens at h:1: has another layout"),
        (Unavailable("keys", "not looked up yet"), "key storage: not looked up yet"),
        (Unavailable("vault", "sealed", "https://vault:8200"), "Vault at https://vault:8200: is sealed"),
        (Unavailable("audit", "disk full"), "audit log: disk full"),
        (
            LoginRefused("streams", "WRONGPASS", "/run/redis"),
            "Redis for streams at /run/redis: refuses the user or the password (WRONGPASS)",
        ),
        (
            Unavailable("tokens", f"Sentinel {REFUSED}", "main@10.0.0.1:26379"),
            "Redis for tokens at main@10.0.0.1:26379: no Sentinel names the primary: connection refused",
        ),
        (
            Unavailable("streams", "CLUSTER SLOTS TimeoutError"),
            "Redis for streams: no node gives the map of slots: no answer in time",
        ),
        (Unavailable("keys", "SELECT 3 NOPERM", "h:1"), f"Redis for keys at h:1: SELECT of database 3 {NO_SELECT}"),
        (ServerError("tokens", "NOPERM", "h:1"), "Redis for tokens at h:1: the user lacks a right (NOPERM)"),
    ],
)
def test_errors_of_servers_are_words(error: Exception, text: str) -> None:
    """What, address and reason are words; a code of the server stays beside them, for a search."""
    assert str(error) == text


def test_unknown_reason_is_said_as_it_is() -> None:
    """A code that nobody has put into words is better than nothing."""
    assert in_words("SOMETHINGNEW") == "SOMETHINGNEW"
    assert in_words("1 of 2 replicas confirmed") == "1 of 2 replicas confirmed"
