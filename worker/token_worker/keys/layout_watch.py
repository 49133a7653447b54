"""The layout of the stored tokens: read from its records when a worker starts, and watched while it runs.

A worker starts only if the records of key storage and token storage agree with each other and with
``TOKEN_WORKER_LAYOUT``. Later another server may answer at the address of the token storage, or its data may be gone.
So the record is read again on every new connection, before anything else is sent. A FLUSHALL closes no connection, so
a record is also read again each second while the storage is in use. If it does not fit any more, the token storage
counts as unavailable: nothing is read or written there, and the next connection is checked again.

A worker never writes a record.
"""

import math
from collections.abc import Callable

import structlog

from token_worker.errors import CorruptData, SettingsError, Unavailable, VaultRefused
from token_worker.keys.layout_record import (
    TOKENS_RECORD,
    LayoutName,
    LayoutRecord,
    find_problem,
    layout_of,
    read_tokens_record,
)
from token_worker.keys.store import ListedKeyStore
from token_worker.redis.cluster_pipeline import ClusterPipeline
from token_worker.redis.link import RedisLink

LOOK_SECONDS = 1.0
"""Age of the last look at the record of the token storage at which the worker looks again: one GET, by one command."""

_CODE = "LAYOUT"
"""The reason of the errors, for programs."""

_NO_RIGHT = "NOPERM"

_OR_SET = "or set TOKEN_WORKER_LAYOUT=acra if its tokens are in Acra's layout"

log = structlog.get_logger("start")


class LayoutWatch:
    """Chooses the layout, and looks again on new connections to the token storage, and while it is in use.

    Args:
        asked: ``TOKEN_WORKER_LAYOUT``; None if it is not set.
        link: connection to the token storage.

    Attributes:
        link: see above.
        has_foreign: the records say that there may be foreign entries; see ``storage.dense.entry``.
    """

    def __init__(self, asked: LayoutName | None, link: RedisLink | ClusterPipeline) -> None:
        self._asked = asked
        self.link = link
        self._in_keys: LayoutRecord | None = None
        self.has_foreign = False

    def choose(self, store: ListedKeyStore) -> LayoutName:
        """Read both records, and return the layout. From now on, the token storage is watched.

        Raises:
            SettingsError: the records or the setting do not fit. The text says what to do.
            Unavailable, VaultRefused: a storage is away, or the worker may not read its record.
        """
        try:
            self._in_keys = self._permitted(store.layout_record)
            in_tokens = self._permitted(lambda: read_tokens_record(self.link))
        except CorruptData as error:
            raise SettingsError(str(error)) from None
        problem = find_problem(self._in_keys, in_tokens, self._asked)
        if problem is not None:
            raise SettingsError(str(problem))
        self.link.watch(self._check, math.inf if in_tokens is None else LOOK_SECONDS)
        layout = layout_of(self._in_keys)
        self.has_foreign = self._in_keys is not None and self._in_keys.foreign
        log.info("layout of tokens", layout=layout, storage=None if in_tokens is None else in_tokens.storage)
        return layout

    def _check(self) -> None:
        """Compare the record of the token storage with the one of the key storage as it was at the start.

        Raises:
            Unavailable: they do not fit, or the token storage is away.
        """
        try:
            in_tokens = self._permitted(lambda: read_tokens_record(self.link))
        except (CorruptData, SettingsError) as error:
            raise Unavailable(self.link.name, _CODE, self.link.address, str(error)) from None
        problem = find_problem(self._in_keys, in_tokens, self._asked)
        if problem is not None:
            why = f"{problem}; restart the worker if the layout was changed"
            raise Unavailable(self.link.name, _CODE, self.link.address, why)

    def _permitted(self, read: Callable[[], LayoutRecord | None]) -> LayoutRecord | None:
        """Read a record. If the worker may not read it, only ``TOKEN_WORKER_LAYOUT=acra`` stands for it.

        Users and policies of older versions have no right to read records. No record may be overlooked for that.
        """
        try:
            return read()
        except VaultRefused as error:
            if self._asked != "acra":
                raise VaultRefused(f"{error}; {_OR_SET}") from None
        except Unavailable as error:
            if error.reason != _NO_RIGHT:
                raise
            if self._asked != "acra":
                record = TOKENS_RECORD if error.server == self.link.name else "the layout record"
                why = f"the user may not read {record} (NOPERM): give it the rights that `token-worker acl` prints"
                raise Unavailable(error.server, _CODE, error.address, f"{why}, {_OR_SET}") from None
        return None
