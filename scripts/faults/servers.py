"""What happens to the Redis of the streams and to that of keys and tokens, while both keep their data."""

import random
import signal
import threading
from collections.abc import Callable
from typing import Any

import redis
from servers import Valkey

from faults.plan import Fault, Plan
from faults.scene import Scene

SERVER = "servers"
PLACES = ("streams", "keys and tokens")

REST_SECONDS = (0.5, 3.0)
"""Between two faults of servers."""

DOWN_SECONDS = (0.0, 0.3)
HANG_SECONDS = (5.2, 6.0)
"""Longer than a worker waits for an answer."""

FULL_SECONDS = (0.2, 1.0)
NOTICED_SECONDS = 10.0
"""How long it may take until a full server has refused something."""

RESTARTED = "killed, started again"


def server_faults() -> dict[Fault, float]:
    """What can happen to each server, and how often it should."""
    weights = {RESTARTED: 10.0, "hangs": 0.15, "memory full": 1.0, "scripts flushed": 1.0, "clients cut off": 1.0}
    return {Fault(SERVER, place, what): weight for place in PLACES for what, weight in weights.items()}


class ServerFaults:
    """Brings them about, one after the other."""

    def __init__(self, scene: Scene, plan: Plan, rng: random.Random) -> None:
        self._plan = plan
        self._rng = rng
        self._servers = dict(zip(PLACES, (scene.streams_server, scene.storage_server), strict=True))
        self._over = threading.Event()
        self._doing: dict[str, Callable[[Valkey], bool]] = {
            RESTARTED: self._restart,
            "hangs": self._hang,
            "memory full": self._fill,
            "scripts flushed": self._flush_scripts,
            "clients cut off": self._cut_off,
        }

    def work(self, over: threading.Event) -> None:
        """One fault after the other, until told to stop; both servers are well then."""
        self._over = over
        while not over.wait(self._plan.rest(SERVER, REST_SECONDS)):
            fault = self._plan.take(lambda fault: fault.theme == SERVER)
            if self._doing[fault.moment](self._servers[fault.place]):
                self._plan.happened(fault)
            else:
                self._plan.failed(fault)

    def _restart(self, server: Valkey) -> bool:
        server.kill()
        self._over.wait(self._rng.uniform(*DOWN_SECONDS))
        server.start()
        return True

    def _hang(self, server: Valkey) -> bool:
        server.signal(signal.SIGSTOP)
        try:
            return not self._over.wait(self._rng.uniform(*HANG_SECONDS))
        finally:
            server.signal(signal.SIGCONT)

    def _fill(self, server: Valkey) -> bool:
        """Let it have no memory until it has refused something."""
        with server.client() as client:
            before = _refused(client)
            client.config_set("maxmemory", 1)
            try:
                for _ in range(round(NOTICED_SECONDS / 0.1)):
                    if self._over.wait(0.1):
                        return False
                    if _refused(client) > before:
                        self._over.wait(self._rng.uniform(*FULL_SECONDS))
                        return True
                return False
            finally:
                client.config_set("maxmemory", 0)

    def _flush_scripts(self, server: Valkey) -> bool:
        with server.client() as client:
            client.script_flush()
        return True

    def _cut_off(self, server: Valkey) -> bool:
        with server.client() as client:
            number = client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        return bool(number)


def _refused(client: "redis.Redis") -> int:
    errors: Any = client.info("errorstats")
    return int(errors.get("errorstat_OOM", {}).get("count", 0))
