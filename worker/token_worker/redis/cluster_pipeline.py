"""Many commands to a Redis Cluster at once, each on one key: sent to all nodes, then received from all. For one thread.

A command fails by itself. If its node is away, the commands on other nodes are answered all the same, and wait no
longer than one time-out. After a lost connection nobody knows whether a command was done, so it is ``Unavailable``, and
not sent again. A command that was redirected (MOVED, ASK) was not done. It is sent to the node that the redirect names.
"""

import math
import time
from binascii import crc_hqx
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Any, NamedTuple

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from token_worker.errors import ServerError, Unavailable
from token_worker.redis.address import Node, RedisSettings
from token_worker.redis.cluster import NODE_SECONDS, REDIRECTS_MAX, ClusterLink, RedirectError
from token_worker.redis.pipelined_node import PLAIN, Closing, PipelinedNode
from token_worker.redis.wire import pack

_ASKING = pack(("ASKING",))

Targets = Mapping[Node, Sequence[int]]
"""The numbers of the commands for each node."""


def slot_of(key: bytes) -> int:
    """The slot of a key. Names with braces have a hash tag, also if their bytes mean nothing."""
    return key_slot(key) if b"{" in key else crc_hqx(key, 0) % REDIS_CLUSTER_HASH_SLOTS


class _Sent(NamedTuple):
    """Commands that were sent to a node.

    Attributes:
        link: the node.
        numbers: the commands.
        places: position of each command's reply among all replies. Each ASKING has one, too.
        total: number of replies. Those to the closing commands come last.
        error: the reason for which nothing was sent.
    """

    link: PipelinedNode
    numbers: Sequence[int]
    places: Sequence[int]
    total: int
    error: Unavailable | ServerError | None


_Redirected = list[tuple[int, Node, RedirectError]]
"""Commands that were redirected, each with the node that said so."""


class ClusterPipeline(ClusterLink):
    """Commands to the nodes of a cluster, many at once.

    Args:
        name: as for ``RedisLink``.
        settings: settings of kind ``cluster``.
        seconds: time-out of a node.

    Attributes:
        seconds: as above.
        used: nodes that were used since ``begin``, each with the number of its connection at its first use.
        replaced: nodes whose connection has changed since.
        unclosed: nodes without closing commands that succeeded after their last use.
        refusals: the reason of each node that failed at its last commands, and whether it only refuses writes.
        redirected: slots of commands that were redirected since ``begin``.
        map_number: number of the maps of slots so far.
    """

    def __init__(self, name: str, settings: RedisSettings, seconds: float = NODE_SECONDS) -> None:
        super().__init__(name, settings, raise_server_errors=True)
        self.seconds = seconds
        self.used: dict[Node, int] = {}
        self.replaced: set[Node] = set()
        self.unclosed: set[Node] = set()
        self.redirected: set[int] = set()
        self.map_number = 0
        self._check: Callable[[], object] | None = None
        self._check_seconds = self._check_at = math.inf
        self._checked_connections = 0
        self._failed_calls = 0
        self._owners: tuple[Node, ...] = ()
        self.refusals: dict[Node, tuple[Unavailable, bool]] = {}

    @property
    def address(self) -> str:
        """The nodes of the settings."""
        return self._settings.server

    def watch(self, check: Callable[[], object], seconds: float) -> None:
        """Have the cluster checked when a connection to any node was made, and while it is in use.

        Args:
            check: may ask the cluster. It is called before the next commands of ``call_each``. If it raises
                ``Unavailable``, nothing is sent, and it is called again before the next commands. An error of the node
                that it asked counts only before its first success: later, others are not kept waiting for that node.
            seconds: age of the last check at which ``call_each`` makes another.
        """
        self._check, self._check_seconds = check, seconds
        self._check_at = time.monotonic() + seconds

    def begin(self) -> None:
        """Begin to note which nodes are used."""
        self.used.clear()
        self.replaced.clear()
        self.unclosed.clear()
        self.redirected.clear()

    def owner(self, key: bytes) -> Node | None:
        """The node that has a key, by the last map of slots."""
        return self._slots[slot_of(key)]

    def owners(self) -> Sequence[Node]:
        """The nodes that have slots.

        Raises:
            Unavailable: no node gives the map of slots.
        """
        self._refresh_slots()
        return self._owners

    def link_to(self, node: Node) -> PipelinedNode:
        """The connection to a node."""
        link = self._link(node)
        assert isinstance(link, PipelinedNode)  # noqa: S101 - all are made by ``_make_link``
        return link

    @property
    def all_refuse(self) -> Unavailable | None:
        """The reason of one node if every node with slots failed at its last commands; None if one did them.

        A node that refuses writes, because its memory is full, say, stays a failing one until it does a write.
        """
        if not self.refusals or any(node not in self.refusals for node in self._owners):
            return None
        return next((self.refusals[node][0] for node in self._owners), None)

    def call_each(
        self,
        keys: Sequence[bytes],
        commands: Sequence[bytes],
        *,
        writes: bool = False,
        closing: Closing | None = None,
    ) -> list[Any]:
        """Send each command to the node of its key. Return the raw reply or the error of each, in order.

        Args:
            keys: the key of each command.
            commands: the commands, packed.
            writes: whether they write.
            closing: commands that follow those of each node.

        Raises:
            Unavailable: no node gives the map of slots.
        """
        self._refresh_slots()
        outcomes: list[Any] = [None] * len(keys)
        slots = self._slots
        targets: dict[Node | None, list[int]] = {}
        for number, key in enumerate(keys):
            node = slots[crc_hqx(key, 0) % REDIS_CLUSTER_HASH_SLOTS if b"{" not in key else key_slot(key)]
            try:
                targets[node].append(number)
            except KeyError:
                targets[node] = [number]
        for number in targets.pop(None, ()):
            self._is_stale = True
            outcomes[number] = Unavailable(self.name, "CLUSTERDOWN", self._settings.server)
        left: Targets = {node: numbers for node, numbers in targets.items() if node is not None}
        asking: set[int] = set()
        for _ in range(REDIRECTS_MAX):
            self._connect_all(left)
            sent = self._send_all(left, asking, commands, closing)
            redirected = self._receive_all(sent, outcomes, closing, writes=writes)
            if not redirected:
                return outcomes
            self.redirected.update(slot_of(keys[number]) for number, *_ in redirected)
            left, asking = self._follow(redirected)
        for number in [number for numbers in left.values() for number in numbers]:
            outcomes[number] = Unavailable(self.name, "MOVED", self._settings.server)
        return outcomes

    def call(self, *command: Any) -> Any:
        try:
            return super().call(*command)
        except Unavailable:
            self._failed_calls += 1
            raise

    def close_on(self, nodes: Iterable[Node], closing: Closing) -> None:
        """Send only the closing commands to these nodes."""
        sent = self._send_all(dict.fromkeys(nodes, ()), set(), (), closing)
        self._receive_all(sent, [], closing, writes=True)

    def _make_link(self, node: Node) -> PipelinedNode:
        return PipelinedNode(self.name, self._settings, node, self.seconds)

    def _take_slots(self, found: list[Any], asked: str) -> None:
        super()._take_slots(found, asked)
        self.map_number += 1
        self._owners = tuple(node for node in dict.fromkeys(self._slots) if node is not None)
        self.refusals = {node: refusal for node, refusal in self.refusals.items() if node in self._links}

    def _connect_all(self, nodes: Iterable[Node]) -> None:
        """Connect to all nodes, and make the check that is due. A node that is away says so when it is sent to."""
        for node in nodes:
            with suppress(Unavailable, ServerError):
                self._link(node).connect()
        connections, now = self.connections, time.monotonic()
        if self._check is None or (connections == self._checked_connections and now < self._check_at):
            return
        failed_calls, self._check_at = self._failed_calls, now
        try:
            self._check()
        except Unavailable:
            if failed_calls == self._failed_calls or not self._checked_connections:
                raise
        else:
            self._checked_connections = connections
        self._check_at = now + self._check_seconds

    def _send_all(
        self, targets: Targets, asking: Collection[int], commands: Sequence[bytes], closing: Closing | None
    ) -> list[_Sent]:
        """Send to all nodes."""
        all_sent: list[_Sent] = []
        try:
            for node, numbers in targets.items():
                link = self.link_to(node)
                parts = [commands[number] for number in numbers]
                places: Sequence[int] = range(len(numbers))
                if asking:
                    places = [
                        *accumulate((1 + (number in asking) for number in numbers[1:]), initial=numbers[0] in asking)
                    ]
                    pairs = zip(numbers, parts, strict=True)
                    parts = [_ASKING + part if number in asking else part for number, part in pairs]
                total = places[-1] + 1 if places else 0
                if closing is not None:
                    ends = closing.commands(link)
                    parts += map(pack, ends)
                    total += len(ends)
                all_sent.append(_Sent(link, numbers, places, total, link.send_many(b"".join(parts))))
        except BaseException:
            _close(all_sent)
            raise
        return all_sent

    def _receive_all(
        self, all_sent: list[_Sent], outcomes: list[Any], closing: Closing | None, *, writes: bool
    ) -> _Redirected:
        """Receive from all nodes, fill in the outcomes, and return what was redirected."""
        deadline = time.monotonic() + self.seconds
        redirected: _Redirected = []
        try:
            for sent in all_sent:
                link, numbers, places, total, error = sent
                replies = link.receive_many(total, deadline) if error is None else [error] * total
                if self.used.setdefault(link.node, link.connections) != link.connections:
                    self.replaced.add(link.node)
                problem: Unavailable | None = None
                if closing is not None:
                    problem = closing.problem(link, replies[places[-1] + 1 if places else 0 :])
                if closing is not None and problem is None:
                    self.unclosed.discard(link.node)
                else:
                    self.unclosed.add(link.node)
                if len(replies) > len(numbers):
                    replies = [replies[place] for place in places]
                if problem is not None or not PLAIN.issuperset(map(type, replies)):
                    self._take_errors(sent, replies, problem, outcomes, redirected, writes=writes)
                    continue
                for number, reply in zip(numbers, replies, strict=True):
                    outcomes[number] = reply
                self._note_success(link.node, writes=writes)
        except BaseException:
            _close(all_sent)
            raise
        return redirected

    def _take_errors(
        self,
        sent: _Sent,
        replies: Sequence[Any],
        problem: Unavailable | None,
        outcomes: list[Any],
        redirected: _Redirected,
        *,
        writes: bool,
    ) -> None:
        """Fill in the outcomes of a node, some of which are errors; all of them if there is a problem."""
        node = sent.link.node
        failure, is_done = problem, False
        for number, reply in zip(sent.numbers, replies, strict=True):
            if isinstance(reply, RedirectError):
                redirected.append((number, node, reply))
                continue
            outcomes[number] = outcome = reply if problem is None or isinstance(reply, Unavailable) else problem
            if isinstance(outcome, Unavailable):
                failure = outcome
            else:
                is_done = True
        if failure is not None:
            self._note_failure(node)
        if failure is None or is_done:
            self._note_success(node, writes=writes)
        else:
            self.refusals[node] = failure, writes and sent.link.is_connected

    def _note_success(self, node: Node, *, writes: bool) -> None:
        refusal = self.refusals.get(node)
        if refusal is not None and (writes or not refusal[1]):
            del self.refusals[node]

    def _follow(self, redirected: _Redirected) -> tuple[Targets, set[int]]:
        """The commands that were redirected, by the node that each redirect names; and those that have to ask there."""
        targets: dict[Node, list[int]] = {}
        asking: set[int] = set()
        for number, node, redirect in redirected:
            self._is_stale |= redirect.is_moved
            if not redirect.is_moved:
                asking.add(number)
            target = redirect.node._replace(host=redirect.node.host or node.host)
            targets.setdefault(target, []).append(number)
        return targets, asking


def _close(all_sent: Iterable[_Sent]) -> None:
    """Close the connections whose replies may come yet: they must not be taken for those of later commands."""
    for sent in all_sent:
        sent.link.close()
