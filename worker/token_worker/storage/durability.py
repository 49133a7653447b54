"""Durability of token entries before a reply names them: ``TOKEN_WORKER_DURABILITY``.

- ``server``: they are written. How safe that is depends on the configuration of the server.
- ``fsync``: they are on the disk of the server.
- ``replicas:N``: N replicas have them. A failover loses none if no more than N replicas can be promoted.

WAIT and WAITAOF confirm the writes of their own connection, up to its last write. But a batch may answer from entries
that other clients wrote a moment ago. So it writes a mark after its look-ups, and then waits. Everything that the
server ordered before the mark is as safe as the mark, whoever wrote it. This holds as long as the batch has one
connection. A server that was restarted, or a replica that was promoted, may have lost what the earlier connection had
confirmed; then the whole batch is done again.

When ``fsync`` is sound, by server and version:

- Redis 8.0 or later: WAITAOF is answered after the append-only file was synced, under ``appendfsync everysec`` and
  ``always`` alike (traced on 8.2: ``fdatasync`` returns, then the answer is sent). Under ``everysec`` that takes a
  second or two for each batch. Under ``no`` it is never answered, so that setting is refused if it can be read.
- Redis from 7.2, and Valkey: under ``everysec`` WAITAOF may be answered before the sync (redis/redis#13793, repaired in
  8.0; repairs of older releases are not relied on. Traced on Valkey 9.1: an answer within 100 ms and no ``fdatasync``).
  So ``appendfsync always`` is required. Then the server syncs before it answers any client of the same turn of its
  event loop, readers included (traced on both: ``write`` to the file, ``fdatasync``, ``write`` to the client). If the
  sync fails, the server ends itself. ``no-appendfsync-on-rewrite`` omits syncs, so it must be ``no``. WAITAOF is
  sent here, too: the server refuses it if there is no append-only file.
- Before 7.2 there is no WAITAOF, and no ``fsync``.

Only a user with CONFIG GET can read ``appendfsync``. CONFIG GET shows passwords as well, so workers should not have it.
Then a worker logs at start that the operator has to make sure of the setting. ``token-worker doctor``, run as an
administrator, checks it.

``fsync`` and ``replicas:N`` do not replace each other: a promoted replica may lack entries that ``fsync`` has put on
the disk of one server. While too few confirm, a worker stops reading, as if the storage were away. That includes routes
whose replies bring no token; to keep those going, serve them by workers of their own.

Touches ``token-worker:mark``, which is not one of Acra's names. ``cluster_durability`` does the same in a cluster.
"""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import structlog

from token_worker.errors import ServerError, SettingsError, Unavailable
from token_worker.redis.link import Link, RedisLink
from token_worker.storage.item_group import ItemGroup
from token_worker.storage.token_item import TokenItem

MARK = "token-worker:mark"
"""Key that a batch writes before it waits. Its value is empty."""

CONFIRM_MS = 3000
"""Longest wait for disk or replicas: shorter than the socket time-out, longer than a sync under ``everysec``."""

_TRUSTED = ("redis", 8)
"""The server, and its first version, whose WAITAOF waits for the disk under ``appendfsync everysec``, too."""

_NO_RIGHT = "NOPERM"

_MARK_NUMBER = re.compile(r":\{\d+\}")
"""End of a mark's name in a cluster."""

log = structlog.get_logger("durability")


class Durability(NamedTuple):
    """The parsed setting: ``fsync``, or a number of replicas, or neither."""

    fsync: bool = False
    replicas: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``server``, ``fsync`` or ``replicas:N``; the settings have checked the text."""
        return cls(fsync=text == "fsync", replicas=int(text.partition(":")[2] or 0))


class DurabilityBarrier:
    """Holds a batch back until its tokens are as safe as the settings ask for.

    Call ``open`` before the first look-up of a batch, and ``wait`` after its last write.

    Args:
        link: connection to the token storage.
        durability: the setting.
        most_ms: longest wait for the confirmation of one batch.

    Attributes:
        holds_back: False if no batch ever waits.
    """

    holds_back = True

    def __init__(self, link: RedisLink, durability: Durability, most_ms: int) -> None:
        self._link = link
        self._durability = durability
        self._wait_ms = max(1, min(CONFIRM_MS, most_ms))
        self._connection = 0
        self._checked_connection = 0

    def check_server(self) -> None:
        """Check that the server can confirm writes as the setting needs it.

        Raises:
            SettingsError: the server cannot, or the user may not ask for it.
            Unavailable: the storage is unavailable.
        """
        connection = self._link.connect()
        if connection != self._checked_connection:
            check_rights(self._link, self._durability, MARK)
            self._checked_connection = connection

    def open(self) -> None:
        """Begin a batch.

        Raises:
            Unavailable: the storage is unavailable, or its server can no longer confirm writes.
        """
        try:
            self.check_server()
        except SettingsError as error:
            raise Unavailable(self._link.name, str(error), self._link.address) from None
        self._connection = self._link.connections

    def wait(self, items: Iterable[TokenItem] = (), groups: Iterable[ItemGroup] = ()) -> None:  # noqa: ARG002 - see `items`
        """Wait until everything that the batch has read or written is confirmed.

        Args:
            items: the items of the batch. In a cluster, those whose node does not confirm get ``Unavailable``. One
                server confirms all or nothing.
            groups: the groups of the batch, as above.

        Raises:
            Unavailable: it was not confirmed in time. Handle the whole batch again.
        """
        link, (fsync, replicas) = self._link, self._durability
        try:
            link.call("SET", MARK, "")
            if fsync:
                confirmed, _ = link.call("WAITAOF", 1, 0, self._wait_ms)
            else:
                confirmed = link.call("WAIT", replicas, self._wait_ms)
        except Unavailable:
            self._checked_connection = 0  # the append-only file was switched off, or a right taken: check again
            raise
        if confirmed < (1 if fsync else replicas):
            why = "not on disk yet" if fsync else f"{confirmed} of {replicas} replicas confirmed"
            raise Unavailable(link.name, why, link.address)
        if link.connections != self._connection:
            raise Unavailable(link.name, "connection was replaced", link.address)


class NoBarrier(DurabilityBarrier):
    """The barrier of ``server``: entries are safe enough once they are written, so no batch waits."""

    holds_back = False

    def __init__(self) -> None:
        """Need no connection."""

    def check_server(self) -> None:
        """Accept any server."""

    def open(self) -> None:
        """Begin a batch."""

    def wait(self, items: Iterable[TokenItem] = (), groups: Iterable[ItemGroup] = ()) -> None:
        """Return at once."""


def check_rights(link: Link, durability: Durability, mark: str) -> None:
    """Check that this server can confirm writes as the setting needs it, and that the user may ask for it.

    Raises:
        SettingsError: the server cannot, or the user may not.
        Unavailable: the server is away.
    """
    _call(link, set(), "SET", mark, "")
    if durability.fsync:
        examine_fsync(link)
    else:
        _call(link, set(), "WAIT", 0, 1)


def examine_fsync(link: Link) -> bool:
    """Check that ``fsync`` is sound on this server. Returns False if this user may not check it.

    Raises:
        SettingsError: ``fsync`` is not sound on this server, as it is configured.
        Unavailable: the server is away.
    """
    if _call(link, {"ERR", "WAITAOF"}, "WAITAOF", 1, 0, 1) is None:  # the code of an error is its first word after ERR
        raise SettingsError("TOKEN_WORKER_DURABILITY=fsync: needs WAITAOF (Redis or Valkey 7.2) and appendonly yes")
    hello = _pairs(link.call("HELLO"))
    version = int((re.match(r"\d+", hello["version"]) or ["0"])[0])
    is_trusted = hello["server"] == _TRUSTED[0] and version >= _TRUSTED[1]
    found = _call(link, {_NO_RIGHT}, "CONFIG", "GET", "appendfsync", "no-appendfsync-on-rewrite")
    if not found:
        if not is_trusted:
            log.warning("fsync requires appendfsync always, which this user may not check", server=link.name)
        return is_trusted
    policy = _pairs(found)
    if policy.get("appendfsync") not in ({"always", "everysec"} if is_trusted else {"always"}):
        why = "" if is_trusted else "; this server's WAITAOF does not wait for the disk"
        raise SettingsError(f"TOKEN_WORKER_DURABILITY=fsync: needs appendfsync always{why}")
    if policy.get("no-appendfsync-on-rewrite") == "yes":
        raise SettingsError("TOKEN_WORKER_DURABILITY=fsync: needs no-appendfsync-on-rewrite no")
    return True


def _call(link: Link, refusals: set[str], *command: str | int) -> Any:
    """Send a command and return the answer. Returns None if the server refuses it with one of these codes.

    Raises:
        SettingsError: a right is missing, and its code is not among ``refusals``.
        Unavailable: the server is away.
    """
    try:
        return link.call(*command)
    except (Unavailable, ServerError) as error:
        code = error.code if isinstance(error, ServerError) else error.reason
        if code in refusals:
            return None
        if code == _NO_RIGHT:
            place = f" on {_MARK_NUMBER.sub(':*', str(command[1]))}" if command[0] == "SET" else ""
            right = f"+{str(command[0]).lower()}{place}"
            user = f"the user of the Redis for {link.name}"
            raise SettingsError(f"TOKEN_WORKER_DURABILITY: {user} needs {right}; see token-worker acl") from None
        raise


def _pairs(raw: list[Any]) -> dict[str, str]:
    texts = [item.decode() if isinstance(item, bytes) else str(item) for item in raw]
    return dict(zip(texts[::2], texts[1::2], strict=True))
