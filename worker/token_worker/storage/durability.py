"""What has to be true of token entries before a reply may name them: ``TOKEN_WORKER_DURABILITY``.

- ``server``: they are written. How safe they are then is as the server is set.
- ``fsync``: they are on the server's disk.
- ``replicas:N``: so many replicas have them. A promotion loses none where no more than N replicas may be promoted.

WAIT and WAITAOF vouch for the writes of their own connection, up to its last one. A batch may answer from entries that
others wrote a moment ago, so it writes a mark after its look-ups, then waits: what is ordered before the mark, whoever
wrote it, is as safe as the mark. That holds while the batch has one connection. A server that was started anew, or
another that was promoted, may have lost what the connection before was told; then the whole batch is done again.

What is sound for ``fsync``, by server and version:

- Redis 8.0 or later: WAITAOF is answered after the append-only file was synced, under ``appendfsync everysec`` and
  ``always`` alike (traced on 8.2: ``fdatasync`` returns, then the answer is sent). Under ``everysec`` that takes a
  second or two a batch. Under ``no`` it is never answered, so that is refused where it can be looked at.
- Redis from 7.2, and Valkey: under ``everysec`` WAITAOF may be answered before the sync (redis/redis#13793, repaired in
  8.0; repairs of older releases are not relied on. Traced on Valkey 9.1: an answer within 100 ms and no ``fdatasync``).
  So ``appendfsync always`` is required. The server then syncs before it answers any client of the same turn of its
  loop, those that only read included (traced on both: ``write`` to the file, ``fdatasync``, ``write`` to the client),
  and ends itself where that fails. ``no-appendfsync-on-rewrite`` leaves syncs out, so it has to be ``no``. WAITAOF is
  sent here, too: it is refused where there is no append-only file.
- Before 7.2 there is no WAITAOF, and no ``fsync``.

Whether ``always`` is set can be looked at only by a user with CONFIG GET, which shows passwords as well, so workers
should not have it. Then it is said at start that it rests on the operator; ``token-worker doctor`` run as an
administrator looks at it.

Neither does the other's part: what ``fsync`` has put on one server's disk a promoted replica may not have. While too
few confirm, a worker stops reading as if the storage were away, also routes whose replies bring no token: these go on
in workers of their own.

Touches ``token-worker:mark``, outside of Acra's names.
"""

import re
from typing import Any, NamedTuple, Self

import structlog

from token_worker.errors import ServerError, SettingsError, Unavailable
from token_worker.redis.link import Link, RedisLink

MARK = "token-worker:mark"
"""Key that a batch writes before it waits; it holds nothing."""

CONFIRM_MS = 3000
"""Longest wait for disk or replicas: below the socket's time-out, and longer than a sync every second takes."""

_TRUSTED = ("redis", 8)
"""Server and first version whose WAITAOF waits for the disk under ``appendfsync everysec``, too."""

_NO_RIGHT = "NOPERM"

log = structlog.get_logger("durability")


class Durability(NamedTuple):
    """The setting: ``fsync``, or a number of replicas, or neither."""

    fsync: bool = False
    replicas: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """``server``, ``fsync`` or ``replicas:N``, as the settings have checked it."""
        return cls(fsync=text == "fsync", replicas=int(text.partition(":")[2] or 0))


class Safety:
    """Holds a batch back until its tokens are as safe as they have to be."""

    def __init__(self, link: RedisLink, durability: Durability, most_ms: int) -> None:
        self._link = link
        self._durability = durability
        self._wait_ms = max(1, min(CONFIRM_MS, most_ms))
        self._connection = 0
        self._examined = 0

    def examine(self) -> bool:
        """Look whether the server is set as it has to be; to be done at start. Always True, if it does not raise.

        Raises:
            SettingsError: it is not.
            Unavailable: the storage is away.
        """
        connection = self._link.connect()
        if connection != self._examined:
            _call(self._link, set(), "SET", MARK, "")
            if self._durability.fsync:
                examine_fsync(self._link)
            else:
                _call(self._link, set(), "WAIT", 0, 1)
            self._examined = connection
        return True

    def begin(self) -> None:
        """Before the first look-up of a batch.

        Raises:
            Unavailable: the storage is away, or not set as it has to be any more.
        """
        try:
            self.examine()
        except SettingsError as error:
            raise Unavailable(self._link.name, str(error)) from None
        self._connection = self._link.connections

    def confirm(self) -> None:
        """After the last write of a batch whose reply brings tokens.

        Raises:
            Unavailable: too few have confirmed in time; the batch is to be done again.
        """
        link, (fsync, replicas) = self._link, self._durability
        try:
            link.call("SET", MARK, "")
            if fsync:
                confirmed, _ = link.call("WAITAOF", 1, 0, self._wait_ms)
            else:
                confirmed = link.call("WAIT", replicas, self._wait_ms)
        except Unavailable:
            self._examined = 0  # the append-only file was switched off, or a right taken: look before the next batch
            raise
        if confirmed < (1 if fsync else replicas):
            raise Unavailable(
                link.name, "not on disk yet" if fsync else f"{confirmed} of {replicas} replicas confirmed"
            )
        if link.connections != self._connection:
            raise Unavailable(link.name, "connection was made anew")


def examine_fsync(link: Link) -> bool:
    """Whether ``fsync`` is known to be sound on this server; False where this user may not look.

    Raises:
        SettingsError: it is not.
        Unavailable: the server is away.
    """
    if _call(link, {"ERR", "WAITAOF"}, "WAITAOF", 1, 0, 1) is None:  # an error's code is its first word after ERR
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
    """What the server answers, None where it refuses with one of these codes.

    Raises:
        SettingsError: the user may not, and this is none of the codes.
        Unavailable: the server is away.
    """
    try:
        return link.call(*command)
    except (Unavailable, ServerError) as error:
        code = error.code if isinstance(error, ServerError) else error.reason
        if code in refusals:
            return None
        if code == _NO_RIGHT:
            right = f"+{str(command[0]).lower()}{f' on {MARK}' if MARK in command else ''}"
            text = f"TOKEN_WORKER_DURABILITY: the user of the token storage needs {right}; see token-worker acl"
            raise SettingsError(text) from None
        raise


def _pairs(raw: list[Any]) -> dict[str, str]:
    texts = [item.decode() if isinstance(item, bytes) else str(item) for item in raw]
    return dict(zip(texts[::2], texts[1::2], strict=True))
