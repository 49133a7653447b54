"""Commands to a Redis Cluster, each sent to the node that has its key; for one thread.

MOVED and ASK say that a command was not done, so it is sent to the node that they name. Nothing else is sent twice.
After any failure the map of slots is fetched again before the next command, from another node than before. A command
without a key goes to any node that answers. For both, nodes that failed are asked last. Only the commands of
``_KEY_AT`` are known: those that the streams need. ``cluster_pipeline`` sends many commands at once.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from token_worker.errors import ServerError, SettingsError, Unavailable
from token_worker.redis.address import Node, RedisSettings
from token_worker.redis.link import Link, RedisLink
from token_worker.redis.script import Script

REDIRECTS_MAX = 5
"""Most redirects of one command. A command that is redirected more often fails as in an outage."""

NODE_SECONDS = 2.0
"""Time-out of a node; longer than any BLOCK and any script. All slots wait meanwhile."""

NODE_REST_SECONDS = 1.0
"""Rest of a node that did not answer in time. It is not asked meanwhile, so that not every command waits for it."""

_KEY_AT = {
    **dict.fromkeys(("GET", "SET", "DEL", "UNLINK", "EXPIRE", "HGETALL"), 1),
    **dict.fromkeys(("XADD", "XDEL", "XLEN", "XRANGE", "XREVRANGE", "XTRIM", "XPENDING", "XCLAIM"), 1),
    **dict.fromkeys(("XGROUP", "XINFO"), 2),
    **dict.fromkeys(("EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO"), 3),
    **dict.fromkeys(("TIME", "INFO", "PING"), None),
}
"""Position of the first key of each command; None for a command without a key."""


class RedirectError(ServerError):
    """Another node has the key.

    Attributes:
        node: the node to ask instead. An empty host means the node that sent the redirect.
        is_moved: whether the slot has moved for good. If not, it is on its way, and only this command goes there.
    """

    def __init__(self, name: str, error: redis.exceptions.AskError) -> None:
        self.is_moved = isinstance(error, redis.exceptions.MovedError)
        super().__init__(name, "MOVED" if self.is_moved else "ASK")
        self.node = Node(error.host.strip("[]"), int(error.port))


class NodeLink(RedisLink):
    """One node of a cluster."""

    def __init__(
        self,
        name: str,
        settings: RedisSettings,
        node: Node,
        *,
        raise_server_errors: bool = False,
        seconds: float | None = None,
    ) -> None:
        seconds = seconds or NODE_SECONDS
        super().__init__(name, settings.at(node), raise_server_errors=raise_server_errors, seconds=seconds)
        self.node = node
        self._rests_until = -math.inf

    def _connect(self) -> None:
        if time.monotonic() < self._rests_until:
            raise Unavailable(self.name, "TimeoutError", str(self.node))
        super()._connect()

    def _typed(self, error: redis.RedisError) -> Unavailable | ServerError:
        if isinstance(error, redis.TimeoutError):
            self._rests_until = time.monotonic() + NODE_REST_SECONDS
        if isinstance(error, redis.exceptions.AskError):
            return RedirectError(self.name, error)
        return super()._typed(error)


Send = Callable[[NodeLink], Any]


class ClusterLink(Link):
    """Commands to the nodes of a cluster, by a connection to each.

    Args:
        name, raise_server_errors: as for ``RedisLink``.
        settings: settings of kind ``cluster``.
    """

    def __init__(self, name: str, settings: RedisSettings, *, raise_server_errors: bool = False) -> None:
        self.name = name
        self._settings = settings
        self._raise_server_errors = raise_server_errors
        self._links: dict[Node, NodeLink] = {}
        self._known = [*settings.nodes]
        self._failed: set[Node] = set()
        self._slots: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._is_stale = True
        self._connections_of_gone = 0
        self._started: tuple[NodeLink | None, Script, Sequence[Any], Sequence[Any]] | None = None

    def connect(self) -> int:
        """Fetch the map of slots. Connections are made as nodes are asked."""
        self._refresh_slots()
        return self.connections

    @property
    def connections(self) -> int:
        return self._connections_of_gone + sum(link.connections for link in list(self._links.values()))

    def call(self, *command: Any) -> Any:
        return self._send(command, lambda node: node.call(*command))

    def call_bounded(self, max_bytes: int, *command: Any) -> Any:
        return self._send(command, lambda node: node.call_bounded(max_bytes, *command))

    def call_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        try:
            link = self.node_of(_key(commands[0]))
        except (Unavailable, ServerError) as error:
            return [error] * len(commands)
        outcomes = link.call_all(commands)
        if any(isinstance(outcome, Unavailable) for outcome in outcomes):
            self._note_failure(link.node)
        # A node that redirects has done nothing.
        return [
            self._outcome(command) if isinstance(outcome, RedirectError) else outcome
            for command, outcome in zip(commands, outcomes, strict=True)
        ]

    def start_script(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> None:
        link: NodeLink | None = None
        try:
            link = self.node_of(keys[0])
        except (Unavailable, ServerError):
            pass  # ``finish_script`` asks again, and raises
        else:
            link.start_script(script, keys, args)
        self._started = link, script, keys, args

    def finish_script(self) -> Any:
        if self._started is None:
            raise RuntimeError("no script was started")
        (link, script, keys, args), self._started = self._started, None
        if link is not None:
            try:
                return link.finish_script()
            except RedirectError:
                pass  # the script was not run
            except Unavailable:
                self._note_failure(link.node)
                raise
        return self.run(script, keys, args)

    def _outcome(self, command: tuple[Any, ...]) -> Any:
        try:
            return self.call(*command)
        except (Unavailable, ServerError) as error:
            return error

    def close(self) -> None:
        for link in self._links.values():
            link.close()

    def primaries(self) -> list[NodeLink]:
        """The nodes that have slots.

        Raises:
            Unavailable: no node gives the map of slots.
        """
        self._refresh_slots()
        return [self._link(node) for node in dict.fromkeys(self._slots) if node is not None]

    def node_of(self, key: str | bytes) -> NodeLink:
        """The node that has a key, by the map of slots.

        Raises:
            Unavailable: no node gives the map, or no node has the slot.
        """
        self._refresh_slots()
        node = self._slots[key_slot(key if isinstance(key, bytes) else key.encode())]
        if node is None:
            self._is_stale = True
            raise Unavailable(self.name, "CLUSTERDOWN", self._settings.server)
        return self._link(node)

    def _send(self, command: tuple[Any, ...], send: Send) -> Any:
        key = _key(command)
        return self._send_to_any(send) if key is None else self._send_to(self.node_of(key), send)

    def _send_to(self, link: NodeLink, send: Send) -> Any:
        is_asking = False
        for _ in range(REDIRECTS_MAX):
            try:
                if is_asking:
                    link.call("ASKING")
                return send(link)
            except RedirectError as redirect:
                self._is_stale |= redirect.is_moved
                is_asking = not redirect.is_moved
                link = self._link(redirect.node._replace(host=redirect.node.host or link.node.host))
            except Unavailable:
                self._note_failure(link.node)
                raise
        raise Unavailable(self.name, "MOVED", self._settings.server)

    def _send_to_any(self, send: Send) -> Any:
        error: Unavailable | None = None
        for link in sorted(self.primaries(), key=lambda link: link.node in self._failed):
            try:
                return send(link)
            except Unavailable as raised:
                self._note_failure(link.node)
                error = raised
        raise error or Unavailable(self.name, "CLUSTERDOWN", self._settings.server)

    def _note_failure(self, node: Node) -> None:
        self._failed.add(node)
        self._is_stale = True

    def _link(self, node: Node) -> NodeLink:
        if node not in self._links:
            is_known = any(link.connections for link in self._links.values())
            made = self._make_link(node)
            made.is_known, self._links[node] = is_known, made
        return self._links[node]

    def _make_link(self, node: Node) -> NodeLink:
        return NodeLink(self.name, self._settings, node, raise_server_errors=self._raise_server_errors)

    def _refresh_slots(self) -> None:
        """Fetch the map of slots if it may be out of date."""
        if not self._is_stale:
            return
        kind, reason = Unavailable, ""
        wrong: list[SettingsError] = []
        for node in sorted(self._known, key=self._failed.__contains__):
            self._known.remove(node)
            self._known.append(node)
            try:
                found = self._link(node).call("CLUSTER", "SLOTS")
            except Unavailable as error:
                self._failed.add(node)
                kind, reason = type(error), error.reason
            except ServerError as error:
                kind, reason = Unavailable, error.code
            except SettingsError as error:
                wrong.append(error)
                kind, reason = Unavailable, "InvalidResponse"
            else:
                self._failed.discard(node)
                self._take_slots(found, node.host)
                return
        if len(wrong) == len(self._known) and not any(link.connections for link in self._links.values()):
            raise wrong[0]
        raise kind(self.name, f"CLUSTER SLOTS {reason}".rstrip(), self._settings.server)

    def _take_slots(self, found: list[Any], asked: str) -> None:
        """Take over the map of slots that a node gave. The nodes of the settings can always be asked for the next."""
        self._slots = [None] * REDIS_CLUSTER_HASH_SLOTS
        nodes: list[Node] = []
        for first, last, *raw in found:
            here = [_node(host, port, asked) for host, port, *_ in raw]  # the first is the primary
            self._slots[first : last + 1] = here[:1] * (last + 1 - first)
            nodes += (node for node in here if node is not None)
        there = dict.fromkeys([*nodes, *self._settings.nodes])
        self._known = [*dict.fromkeys([*(node for node in self._known if node in there), *there])]
        self._failed &= there.keys()
        for gone in self._links.keys() - there.keys():
            link = self._links.pop(gone)
            self._connections_of_gone += link.connections
            link.close()
        self._is_stale = False


def _node(host: bytes | None, port: int, asked: str) -> Node | None:
    """Read a node of the map. Without a host it has the host of the node that was asked; None for an unknown node."""
    if host == b"?":
        return None
    return Node(host.decode() if host else asked, port)


def _key(command: tuple[Any, ...]) -> Any:
    """The first key of a command; None for a command without a key."""
    name: str = command[0]
    if name in ("XREAD", "XREADGROUP"):
        at: int | None = command.index("STREAMS", 4 if name == "XREADGROUP" else 1) + 1  # a consumer may have this name
    else:
        at = _KEY_AT[name]
    return None if at is None else command[at]
