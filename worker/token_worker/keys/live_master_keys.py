"""The master keys of a running process. If a key stops opening, their source is read again, beside the loop.

So the master key can be replaced while workers run. A new one is added, and opens from then on what is sealed with it.
The one before it goes when it is gone from its source (``token-worker keys drop-previous``).

- The source is read at most once a minute, and at random times, so that the workers of a fleet do not ask together.
- A sealed key that did not open makes the source be read once. After that it counts as damaged, until the source has
  another master key. So damaged keys do not cause requests again and again.
- Until the source was read, a sealed key that does not open is ``Unavailable``, not damaged: nobody knows yet.

Everything but the reading itself belongs to the loop's thread.
"""

import binascii
import random
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Protocol

import structlog

from token_worker.acra import secure_cell
from token_worker.acra.owner import Owner
from token_worker.errors import CorruptData, OperatorError, Unavailable
from token_worker.keys.background import Executor, InlineExecutor
from token_worker.keys.index_key import index_name
from token_worker.keys.master import MasterKeys, MasterKeyVersion
from token_worker.keys.sealed_text import open_text

READ_SECONDS = 60.0
"""Shortest time between two readings of the source. Each pause is up to one half longer, at random."""

FIRST_SECONDS = 5.0
"""The source is read at most so long after the first key that does not open; when exactly, is random."""

DROP_SECONDS = 600.0
"""Time after which a process with two master keys looks whether the older one is gone; up to one half more or less."""

NONE_OPENS = "wrong master key: it has opened no client key so far; put the master key back that sealed them"

DAMAGED_MAX = 20_000
"""Sealed keys that are remembered as damaged. The oldest are forgotten first, and may cause one more reading."""

log = structlog.get_logger("keys")


class MasterKeySource(Protocol):
    """The source of the master key, if it can be read again. Both raise ``Unavailable`` or ``OperatorError``."""

    def read(self) -> MasterKeyVersion:
        """Read the newest master key, by one request."""
        ...

    def holds(self, version: MasterKeyVersion) -> bool:
        """Tell, by one request if it has, whether the source still has an older master key."""
        ...


class LiveMasterKeys:
    """The master keys: all that are known open keys; the newest comes first.

    Args:
        keys: those that the process began with.
        source: where they came from; None if it cannot be read again.
        version: number of the newest in its source.
        previous_version: number of the one before it; None if that did not come from the source.
        executor: does the readings.
        clock: monotonic seconds.
        uniform: a random number between two others.
    """

    def __init__(
        self,
        keys: MasterKeys,
        source: MasterKeySource | None = None,
        *,
        version: int = 0,
        previous_version: int | None = None,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._keys = [keys.current] if keys.previous is None else [keys.current, keys.previous]
        self._source = source
        self._version = version
        self._older: MasterKeyVersion | None = None
        if keys.previous is not None and previous_version is not None:
            self._older = MasterKeyVersion(keys.previous, previous_version)
        self._executor = executor or InlineExecutor()
        self._clock = clock
        self._uniform = uniform
        self._missed: dict[int, None] = {}
        self._damaged: dict[int, None] = {}
        self._asked: dict[int, None] = {}
        self._reading: Future[MasterKeyVersion] | None = None
        self._looking: Future[bool] | None = None
        self._next_at = float("-inf")
        self._due_at: float | None = None
        self._drop_at = clock() + self._drop_pause()
        self._has_opened = self._has_failed = False

    def __repr__(self) -> str:
        return f"LiveMasterKeys({len(self._keys)})"

    @property
    def count(self) -> int:
        """The number of master keys that are known."""
        return len(self._keys)

    @property
    def trouble(self) -> str | None:
        """Return that no key has opened yet and one did not; None otherwise. A look at start may have seen no key."""
        return NONE_OPENS if self._has_failed and not self._has_opened else None

    def opens(self, sealed: bytes, context: bytes) -> bool:
        """True if a known master key opens the stored text of a key of any kind."""
        try:
            cell = binascii.a2b_base64(sealed.strip(), strict_mode=True)
        except (ValueError, binascii.Error):
            return False
        for key in self._keys:
            try:
                secure_cell.open_cell(key, cell, context)
            except CorruptData:
                continue
            self._has_opened = True
            return True
        return False

    def unwrap(self, sealed: bytes, owner: Owner) -> bytes:
        """Open the stored text of a symmetric key.

        Raises:
            CorruptData: no master key opens it, and the source has no other.
            Unavailable: no known master key opens it; the source is about to be read again.
        """
        return self._open(sealed, owner.context, owner.key_name)

    def unwrap_index(self, sealed: bytes, owner: Owner) -> bytes:
        """Open the stored text of an index key; errors as by ``unwrap``."""
        return self._open(sealed, index_name(owner).context, index_name(owner).name)

    def _open(self, sealed: bytes, context: bytes, name: str) -> bytes:
        for key in self._keys[:-1]:
            try:
                return self._open_with(key, sealed, context)
            except CorruptData:
                log.info("key is sealed with the previous master key, or damaged", key=name)
        try:
            return self._open_with(self._keys[-1], sealed, context)
        except CorruptData:
            is_cell = _is_cell(sealed)
            if self._source is None or hash(sealed) in self._damaged or not is_cell:
                self._has_failed |= is_cell
                raise
        self._missed[hash(sealed)] = None
        if len(self._missed) > DAMAGED_MAX:
            del self._missed[next(iter(self._missed))]
        self.ask_again()
        raise Unavailable("master key", "is being read again, because a key does not open")

    def _open_with(self, key: bytes, sealed: bytes, context: bytes) -> bytes:
        opened = open_text(sealed, key, context)
        self._has_opened = True
        return opened

    def ask_again(self) -> None:
        """Have the source read again as soon as that is allowed."""
        if self._source is not None and self._due_at is None:
            now = self._clock()
            self._due_at = max(self._next_at, now + self._uniform(0, FIRST_SECONDS))

    def poll(self) -> bool:
        """Begin a reading that is due, and take the result of the one before. True if there is a new master key."""
        if self._source is None:
            return False
        is_new = self._take() if self._reading is not None and self._reading.done() else False
        if self._looking is not None and self._looking.done():
            self._drop()
        now = self._clock()
        if self._reading is not None or self._looking is not None:
            return is_new
        if self._due_at is not None and now >= self._due_at:
            self._due_at, self._next_at = None, now + self._uniform(1.0, 1.5) * READ_SECONDS
            self._asked, self._missed = self._missed, {}
            self._reading = self._executor.submit(self._source.read)
        elif self._older is not None and now >= max(self._drop_at, self._next_at):
            self._drop_at, self._next_at = now + self._drop_pause(), now + self._uniform(1.0, 1.5) * READ_SECONDS
            self._looking = self._executor.submit(partial(self._source.holds, self._older))
        return is_new

    def close(self) -> None:
        """End the thread."""
        self._executor.close()

    def _take(self) -> bool:
        reading, self._reading = self._reading, None
        asked, self._asked = self._asked, {}
        if reading is None:
            return False
        try:
            found = reading.result()
        except Exception as error:  # noqa: BLE001 - a defect of the reading must not fail the batch in hand
            _log_failure(error)
            self._missed = asked | self._missed
            self.ask_again()
            return False
        if found.key in self._keys:
            self._version = found.number if found.key == self._keys[0] else self._version
            self._damaged |= asked
            while len(self._damaged) > DAMAGED_MAX:
                del self._damaged[next(iter(self._damaged))]
            return False
        self._older = MasterKeyVersion(self._keys[0], self._version)
        self._keys, self._version = [found.key, self._keys[0]], found.number
        self._damaged.clear()
        self._drop_at = self._clock() + self._drop_pause()
        log.warning("new master key read: keys sealed with the previous one are read, too", version=found.number)
        return True

    def _drop(self) -> None:
        looking, self._looking = self._looking, None
        older = self._older
        if looking is None or older is None:
            return
        try:
            is_there = looking.result()
        except Exception as error:  # noqa: BLE001 - as above
            _log_failure(error)
            return
        if not is_there:
            self._older = None
            self._keys = [key for key in self._keys if key != older.key]
            log.info("previous master key dropped: it is gone from its secret", version=older.number)

    def _drop_pause(self) -> float:
        return self._uniform(0.5, 1.5) * DROP_SECONDS


def _log_failure(error: Exception) -> None:
    """Log why the source could not be read. The text of an error that nothing expects may hold anything."""
    is_expected = isinstance(error, Unavailable | OperatorError)
    log.warning("master key not read again", reason=str(error) if is_expected else type(error).__name__)


def _is_cell(sealed: bytes) -> bool:
    """True if the text has the form of a sealed key: another master key may open it."""
    try:
        secure_cell.message_length(binascii.a2b_base64(sealed.strip(), strict_mode=True))
    except (ValueError, binascii.Error, CorruptData):
        return False
    return True
