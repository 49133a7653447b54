"""Faults of the Redis of the streams and of the Redis of keys and tokens, while both keep their data."""

import random
import signal
import threading
from collections.abc import Callable
from typing import Any

from chaos.plan import Fault, Plan
from chaos.scene import Scene
from harness.ledger import order
from harness.servers import Valkey
from token_worker.streams.routes import DEFAULT_ROUTES

SERVER = "servers"
PLACES = ("streams", "keys and tokens")

REST_SECONDS = (0.5, 3.0)
"""Between two faults of servers."""

DOWN_SECONDS = (0.0, 0.3)
HANG_SECONDS = (5.2, 6.0)
"""Longer than a worker waits for an answer."""

FULL_SECONDS = (0.2, 1.0)
NOTICED_SECONDS = 10.0
"""Time in which a full server has to refuse a command."""

USED_UP = "ids used up"
LAST_ID = f"{2**64 - 1}-{2**64 - 1}"
"""The largest id of an entry: a stream that has it takes no further entry."""

RESTARTED = "killed, started again"


def server_faults() -> dict[Fault, float]:
    """All faults of the servers, with their weights."""
    weights = {RESTARTED: 10.0, "hangs": 0.15, "memory full": 1.0, "scripts flushed": 1.0, "clients cut off": 1.0}
    faults = {Fault(SERVER, place, what): weight for place in PLACES for what, weight in weights.items()}
    return {**faults, Fault(SERVER, PLACES[0], USED_UP): 1.0}


class ServerFaults:
    """Brings the faults of servers about, one after the other."""

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
            USED_UP: self._use_ids_up,
        }

    def work(self, over: threading.Event) -> None:
        """Bring about one fault after the other until ``over`` is set; both servers are well afterwards."""
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
        """Leave the server without memory until it has refused a command."""
        with server.client() as client:
            before = _refused(client, "OOM")
            client.config_set("maxmemory", 1)
            try:
                return self._is_refused(client, "OOM", before)
            finally:
                client.config_set("maxmemory", 0)

    def _use_ids_up(self, server: Valkey) -> bool:
        """Use up the ids of a stream of replies or dead letters until it has refused an entry."""
        stream = self._rng.choice([name for route in DEFAULT_ROUTES for name in (route.responses, route.dead_letters)])
        with server.client() as client:
            if not client.exists(stream):
                return False
            last = client.xinfo_stream(stream)["last-generated-id"].decode()
            before = _refused(client, "ERR")
            client.execute_command("XSETID", stream, LAST_ID)
            try:
                return self._is_refused(client, "ERR", before)
            finally:
                newest = [entry.decode() for entry, _ in client.xrevrange(stream, count=1)]
                client.execute_command("XSETID", stream, max([last, *newest], key=order))

    def _is_refused(self, client: Any, code: str, before: int) -> bool:
        """Wait until the server has refused a command, then for a random time."""
        for _ in range(round(NOTICED_SECONDS / 0.1)):
            if self._over.wait(0.1):
                return False
            if _refused(client, code) > before:
                self._over.wait(self._rng.uniform(*FULL_SECONDS))
                return True
        return False

    def _flush_scripts(self, server: Valkey) -> bool:
        with server.client() as client:
            client.script_flush()
        return True

    def _cut_off(self, server: Valkey) -> bool:
        with server.client() as client:
            number = client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        return bool(number)


def _refused(client: Any, code: str) -> int:
    """Count the answers of the server that were this error."""
    return int(client.info("errorstats").get(f"errorstat_{code}", {}).get("count", 0))
