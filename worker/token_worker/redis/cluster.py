"""Commands to a Redis Cluster, each to the node that has its key; for one thread.

MOVED and ASK say that a command was not done: it is sent to the node they name. Nothing else is sent again. After any
failure the map of slots is fetched anew before the next command, from another node than before. A command without a
key goes to any node that answers. For both, nodes that failed are asked last. Only the commands of ``_KEY_AT`` are
known: those that the streams need.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from token_worker.errors import ServerError, Unavailable
from token_worker.redis.address import Node, RedisSettings
from token_worker.redis.link import Link, RedisLink
from token_worker.redis.script import Script

REDIRECTS = 5
"""How often one command is sent on; one that is sent around for longer is told as an outage."""

NODE_SECONDS = 2.0
"""How long to wait for a node; longer than any BLOCK and any script. Who serves all slots keeps the others waiting."""

REST_SECONDS = 1.0
"""How long a node that did not answer in time is not asked again: commands in a row do not each wait for it."""

_KEY_AT = {
    **dict.fromkeys(("GET", "SET", "DEL", "UNLINK", "EXPIRE"), 1),
    **dict.fromkeys(("XADD", "XDEL", "XLEN", "XRANGE", "XREVRANGE", "XTRIM", "XPENDING", "XCLAIM"), 1),
    **dict.fromkeys(("XGROUP", "XINFO"), 2),
    **dict.fromkeys(("EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO"), 3),
    **dict.fromkeys(("TIME", "INFO"), None),
}
"""Where a command has its key, or the first of its keys; those without a key have None."""


class _RedirectError(ServerError):
    """Another node has the key.

    Attributes:
        node: which; the host is empty where it is that of the node that said so.
        is_moved: for good, else while the slot is on its way, and only for this command.
    """

    def __init__(self, name: str, error: redis.exceptions.AskError) -> None:
        self.is_moved = isinstance(error, redis.exceptions.MovedError)
        super().__init__(name, "MOVED" if self.is_moved else "ASK")
        self.node = Node(error.host.strip("[]"), int(error.port))


class NodeLink(RedisLink):
    """One node of a cluster."""

    def __init__(self, name: str, settings: RedisSettings, node: Node, *, refusals: bool = False) -> None:
        super().__init__(name, settings.at(node), refusals=refusals, seconds=NODE_SECONDS)
        self.node = node
        self._rests_until = -math.inf

    def _connect(self) -> None:
        if time.monotonic() < self._rests_until:
            raise Unavailable(self.name, "TimeoutError")
        super()._connect()

    def _typed(self, error: redis.RedisError) -> Unavailable | ServerError:
        if isinstance(error, redis.TimeoutError):
            self._rests_until = time.monotonic() + REST_SECONDS
        if isinstance(error, redis.exceptions.AskError):
            return _RedirectError(self.name, error)
        return super()._typed(error)


Send = Callable[[NodeLink], Any]


class ClusterLink(Link):
    """Commands to the nodes of a cluster, by a connection to each.

    Args:
        name, refusals: as for ``RedisLink``.
        settings: of kind ``cluster``.
    """

    def __init__(self, name: str, settings: RedisSettings, *, refusals: bool = False) -> None:
        self.name = name
        self._settings = settings
        self._refusals = refusals
        self._links: dict[Node, NodeLink] = {}
        self._known = [*settings.nodes]
        self._failed: set[Node] = set()
        self._slots: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._is_stale = True
        self._begun: tuple[NodeLink | None, Script, Sequence[Any], Sequence[Any]] | None = None

    def connect(self) -> int:
        """Know who has which slot; connections are made as nodes are asked."""
        self._look()
        return sum(link.connections for link in self._links.values())

    def call(self, *command: Any) -> Any:
        return self._send(command, lambda node: node.call(*command))

    def call_bounded(self, most_bytes: int, *command: Any) -> Any:
        return self._send(command, lambda node: node.call_bounded(most_bytes, *command))

    def call_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        try:
            link = self.node_of(_key(commands[0]))
        except (Unavailable, ServerError) as error:
            return [error] * len(commands)
        outcomes = link.call_all(commands)
        if any(isinstance(outcome, Unavailable) for outcome in outcomes):
            self._note_failure(link.node)
        # The node does not have the key, or not any more: nothing was done.
        return [
            self._outcome(command) if isinstance(outcome, _RedirectError) else outcome
            for command, outcome in zip(commands, outcomes, strict=True)
        ]

    def begin(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> None:
        link: NodeLink | None = None
        try:
            link = self.node_of(keys[0])
        except (Unavailable, ServerError):
            pass  # ``end`` asks again, and tells
        else:
            link.begin(script, keys, args)
        self._begun = link, script, keys, args

    def end(self) -> Any:
        if self._begun is None:
            raise RuntimeError("nothing was begun")
        (link, script, keys, args), self._begun = self._begun, None
        if link is not None:
            try:
                return link.end()
            except _RedirectError:
                pass  # it was not done
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
            Unavailable: no node tells.
        """
        self._look()
        return [self._link(node) for node in dict.fromkeys(self._slots) if node is not None]

    def node_of(self, key: str | bytes) -> NodeLink:
        """The node that has a key, as far as is known.

        Raises:
            Unavailable: no node tells, or none has it.
        """
        self._look()
        node = self._slots[key_slot(key if isinstance(key, bytes) else key.encode())]
        if node is None:
            self._is_stale = True
            raise Unavailable(self.name, "CLUSTERDOWN")
        return self._link(node)

    def _send(self, command: tuple[Any, ...], send: Send) -> Any:
        key = _key(command)
        return self._send_to_any(send) if key is None else self._send_to(self.node_of(key), send)

    def _send_to(self, link: NodeLink, send: Send) -> Any:
        is_asking = False
        for _ in range(REDIRECTS):
            try:
                if is_asking:
                    link.call("ASKING")
                return send(link)
            except _RedirectError as redirect:
                self._is_stale |= redirect.is_moved
                is_asking = not redirect.is_moved
                link = self._link(redirect.node._replace(host=redirect.node.host or link.node.host))
            except Unavailable:
                self._note_failure(link.node)
                raise
        raise Unavailable(self.name, "MOVED")

    def _send_to_any(self, send: Send) -> Any:
        error: Unavailable | None = None
        for link in sorted(self.primaries(), key=lambda link: link.node in self._failed):
            try:
                return send(link)
            except Unavailable as raised:
                self._note_failure(link.node)
                error = raised
        raise error or Unavailable(self.name, "CLUSTERDOWN")

    def _note_failure(self, node: Node) -> None:
        self._failed.add(node)
        self._is_stale = True

    def _link(self, node: Node) -> NodeLink:
        if node not in self._links:
            self._links[node] = NodeLink(self.name, self._settings, node, refusals=self._refusals)
        return self._links[node]

    def _look(self) -> None:
        """Have the map of slots fetched, if it may be out of date."""
        if not self._is_stale:
            return
        reason = ""
        for node in sorted(self._known, key=self._failed.__contains__):
            self._known.remove(node)
            self._known.append(node)
            try:
                found = self._link(node).call("CLUSTER", "SLOTS")
            except Unavailable as error:
                self._failed.add(node)
                reason = error.reason
            except ServerError as error:
                reason = error.code
            else:
                self._failed.discard(node)
                self._take(found, node.host)
                return
        raise Unavailable(self.name, f"CLUSTER SLOTS {reason}")

    def _take(self, found: list[Any], asked: str) -> None:
        """Take over a map that a node has told; those of the settings can always be asked for the next one."""
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
            self._links.pop(gone).close()
        self._is_stale = False


def _node(host: bytes | None, port: int, asked: str) -> Node | None:
    """A node as a map has it: without a host it has that of the node that was asked; None where nobody knows it."""
    if host == b"?":
        return None
    return Node(host.decode() if host else asked, port)


def _key(command: tuple[Any, ...]) -> Any:
    """The key that a command goes by, None where it has none."""
    name: str = command[0]
    if name in ("XREAD", "XREADGROUP"):
        at: int | None = command.index("STREAMS", 4 if name == "XREADGROUP" else 1) + 1  # a consumer may be called so
    else:
        at = _KEY_AT[name]
    return None if at is None else command[at]
