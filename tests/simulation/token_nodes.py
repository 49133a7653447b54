"""Three nodes of a cluster in memory, and actors that use them at the same time, one command after the other.

The code of workers and operators runs as it is: engine, commands, storage, barrier and pipeline. Only the connections
are replaced. Each actor is a thread, but one runs at a time: a schedule decides before every command which actor goes
on. An actor can be killed there. A node can fail over: then it has only what its replica has confirmed, and all
connections to it are lost.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import hiredis

from token_worker.admin.entry_store import CHANGE
from token_worker.errors import Unavailable
from token_worker.redis.address import Node, parse
from token_worker.redis.cluster_pipeline import ClusterPipeline, slot_of

NODES = [Node(name, 6379) for name in "abc"]
SLOTS = [NODES[slot * len(NODES) // 16384] for slot in range(16384)]


class Killed(BaseException):
    """The process of an actor was killed."""


class Server:
    """One node: what it holds, and what its replica has confirmed."""

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes] = {}
        self.confirmed: dict[bytes, bytes] = {}
        self.failovers = 0

    def fail_over(self) -> None:
        self.entries = dict(self.confirmed)
        self.failovers += 1

    def do(self, command: Sequence[Any]) -> Any:
        match [bytes(part) for part in command]:
            case [b"GET", key]:
                return self.entries.get(key)
            case [b"SET", key, value, b"NX", b"GET"]:
                held = self.entries.get(key)
                self.entries.setdefault(key, value)
                return held
            case [b"SET", key, value]:
                self.entries[key] = value
                return b"OK"
            case [b"EVAL", script, b"1", key, old, new] if script == CHANGE.source:
                if self.entries.get(key, b"") != old:
                    return 0
                self.entries[key] = new
                if not new:
                    del self.entries[key]
                return 1
            case [b"EVAL", _, b"1", key, old, new]:
                held = self.entries.get(key)
                if held is None or held == old:
                    self.entries[key] = new
                    return None
                return held
            case [b"WAIT", least, _]:
                if int(least):
                    self.confirmed = dict(self.entries)
                return int(least)
            case other:
                raise AssertionError(other)


class Servers:
    """All nodes."""

    def __init__(self) -> None:
        self.of = {node: Server() for node in NODES}

    def at(self, key: bytes) -> Server:
        return self.of[SLOTS[slot_of(key)]]

    def get(self, key: bytes) -> bytes | None:
        return self.at(key).entries.get(key)

    @property
    def entries(self) -> dict[bytes, bytes]:
        """All that the nodes hold."""
        return {key: raw for server in self.of.values() for key, raw in server.entries.items()}


class Actor(threading.Thread):
    """A process. It stops before each command until the schedule lets it go on."""

    def __init__(self, work: Callable[["Actor"], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._turn, self._back = threading.Lock(), threading.Lock()  # each is released by the other side
        self._turn.acquire()
        self._back.acquire()
        self._is_killed = False
        self.is_over = False
        self.error: BaseException | None = None
        self.steps = 0

    def run(self) -> None:
        self._turn.acquire()
        try:
            if not self._is_killed:
                self._work(self)
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self.error = error
        finally:
            self.is_over = True
            self._back.release()

    def pause(self) -> None:
        """Called by the actor itself, before each command."""
        self._back.release()
        self._turn.acquire()
        if self._is_killed:
            raise Killed

    def go_on(self) -> None:
        """Let the actor do one command, and what follows it."""
        if self.ident is None:
            self.start()
        self.steps += 1
        self._turn.release()
        self._back.acquire()
        if self.error is not None:
            raise self.error  # of a defect, with the frames of its thread

    def kill(self) -> None:
        """Kill the actor where it is."""
        self._is_killed = True
        while not self.is_over:
            self.go_on()


class NodeInMemory:
    """The connection of an actor to a node; stands for ``PipelinedNode``."""

    name = "tokens"

    def __init__(self, node: Node, server: Server, actor: Actor) -> None:
        self.node = node
        self.address = str(node)
        self.connections = 0
        self._server = server
        self._actor = actor
        self._generation = -1
        self._sent: list[Any] = []

    @property
    def is_connected(self) -> bool:
        return self._generation == self._server.failovers

    def connect(self) -> int:
        if self._generation < 0:
            self._generation = self._server.failovers
            self.connections += 1
        return self.connections

    def close(self) -> None:
        self._generation = -1

    def send_many(self, packed: bytes) -> None:
        self.connect()
        reader = hiredis.Reader()
        reader.feed(packed)
        self._sent = []
        while (command := reader.gets()) is not False:
            self._sent.append(command)

    def receive_many(self, count: int, _deadline: float) -> list[Any]:
        assert count == len(self._sent)
        return [self._do(command) for command in self._sent]

    def call(self, *command: Any) -> Any:
        self.connect()
        reply = self._do([str(part).encode() for part in command])
        if isinstance(reply, Unavailable):
            raise reply
        return reply

    def _do(self, command: Sequence[Any]) -> Any:
        self._actor.pause()
        if not self.is_connected:
            self.close()
            return Unavailable("tokens", "ConnectionError", self.address)
        return self._server.do(command)


class ClusterInMemory(ClusterPipeline):
    """The connections of an actor to all nodes."""

    def __init__(self, servers: Servers, actor: Actor) -> None:
        super().__init__("tokens", parse("redis+cluster://a,b,c"))
        made: dict[Node, Any] = {node: NodeInMemory(node, server, actor) for node, server in servers.of.items()}
        self._links = made
        self._slots = [*SLOTS]
        self._owners = (*NODES,)
        self.map_number = 1

    def link_to(self, node: Node) -> Any:
        return self._links[node]

    def _refresh_slots(self) -> None:
        """The map never changes."""


class Schedule:
    """Runs actors until all are over; ``check`` is called after every command."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check

    def run(
        self,
        actors: list[Actor],
        choose: Callable[[list[Actor]], Actor],
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Let ``choose`` pick the next actor each time. ``before`` is called ahead of each command."""
        while True:
            before()
            alive = [actor for actor in actors if not actor.is_over]
            if not alive:
                return
            choose(alive).go_on()
            self._check()
