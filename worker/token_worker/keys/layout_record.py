"""The record of the layout in which tokens are stored: ``acra`` or ``dense``.

The same record stands in two places. In the key storage it is the text at ``<folder>.layout``, outside Acra's folder: a
string in Redis, or a KV secret with field ``key``. In the token storage it is the string ``token-worker:layout``. It is
JSON: ``{"layout":"dense","storage":"<32 hexadecimal digits>","since":"2026-11-30T07:51:01Z"}``. ``storage`` is a random
id, so that the two storages are known to belong together. Without a record in the key storage the layout is ``acra``.

Workers only read the records. ``token-worker tokens layout`` and ``tokens migrate`` write them: first in the token
storage, then in the key storage. If a command was interrupted in between, the records differ, and no worker starts.
If tokens that were drawn inconsistently were moved into the dense layout, both records have ``"foreign":true``: such
tokens have entries under other names, which workers have to look up.

While the finish of a move runs, the record of the token storage has ``"unfinished":true``, too. No worker starts with
it, whatever the key storage says. So it tells a finish that was interrupted from a key storage that is older.
"""

import datetime as dt
import re
import secrets
from typing import Any, Literal, NamedTuple, get_args

import msgspec

from token_worker.errors import CorruptData, ServerError, SettingsError
from token_worker.redis.link import Link

LayoutName = Literal["acra", "dense"]

TOKENS_RECORD = "token-worker:layout"
"""Key of the record in the token storage."""

MOVE_PLACE = "token-worker:migration"
"""Key in the token storage that tells how far a move to the other layout came."""

DEFAULT: LayoutName = "acra"
"""The layout of a key storage without a record."""

_NAMES: tuple[LayoutName, ...] = get_args(LayoutName)
_ID = re.compile(r"[0-9a-f]{32}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

_ADDRESSES = (
    "check that key storage and token storage belong together (TOKEN_WORKER_KEYS_URL, TOKEN_WORKER_KEYS_FOLDER,"
    " TOKEN_WORKER_TOKENS_URL)"
)


class LayoutRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A record, as it is stored.

    Attributes:
        layout: the layout of the tokens.
        storage: random id of the token storage: 32 hexadecimal digits.
        since: when the layout was recorded: UTC, to the second.
        foreign: there may be foreign entries; see ``storage.dense.entry``.
        unfinished: a move into the layout is not at its end. Only the record of the token storage may say so.
    """

    layout: LayoutName
    storage: str
    since: str
    foreign: bool = False
    unfinished: bool = False

    @property
    def finished(self) -> "LayoutRecord":
        """The same record, without ``unfinished``."""
        return msgspec.structs.replace(self, unfinished=False)


class LayoutProblem(NamedTuple):
    """A reason why a worker may not use these storages.

    Attributes:
        what: what does not fit.
        remedy: what a person has to do.
    """

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


def layout_path(folder: str) -> str:
    """The path of the record in the key storage; ``folder`` is that of the keys."""
    return f"{folder}.layout"


def new_record(layout: LayoutName, unix_seconds: float, storage: str | None = None) -> LayoutRecord:
    """Make a record, with a new random id unless ``storage`` is given."""
    since = dt.datetime.fromtimestamp(unix_seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return LayoutRecord(layout=layout, storage=storage or secrets.token_hex(16), since=since)


def encode_record(record: LayoutRecord) -> bytes:
    """Encode a record as the text to store."""
    return msgspec.json.encode(record)


def decode_record(text: bytes, place: str) -> LayoutRecord:
    """Decode a stored text. ``place`` names the storage in errors.

    Raises:
        CorruptData: the text is no record.
        SettingsError: a newer version of this program wrote it.
    """
    try:
        found: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(
        isinstance(found.get(name), str) for name in ("layout", "storage", "since")
    ):
        raise CorruptData(f"layout record in the {place}: damaged; put it back from a backup")
    is_known = found["layout"] in _NAMES and all(found.get(name, True) is True for name in ("foreign", "unfinished"))
    if not is_known or found.keys() - set(LayoutRecord.__struct_fields__):
        raise SettingsError(
            f"layout record in the {place}: written by a newer version of token-worker; use that version here, too"
        )
    if not _ID.fullmatch(found["storage"]) or not _TIME.fullmatch(found["since"]):
        raise CorruptData(f"layout record in the {place}: damaged; put it back from a backup")
    return LayoutRecord(**found)


def decode_keys_record(text: bytes | None) -> LayoutRecord | None:
    """Decode the record of the key storage; None if there is none. Errors as by ``decode_record``."""
    record = None if text is None else decode_record(text, "key storage")
    if record is not None and record.unfinished:
        raise CorruptData("layout record in the key storage: copied from an unfinished move; put the former one back")
    return record


def read_tokens_record(link: Link) -> LayoutRecord | None:
    """Read the record of the token storage; None if there is none.

    Raises:
        CorruptData, SettingsError: as by ``decode_record``.
        Unavailable, ServerError: as by the link.
    """
    try:
        text: bytes | None = link.call("GET", TOKENS_RECORD)
    except ServerError as error:
        if error.code != "WRONGTYPE":
            raise
        raise CorruptData("layout record in the token storage: damaged; put it back from a backup") from None
    return None if text is None else decode_record(text, "token storage")


def layout_of(in_keys: LayoutRecord | None) -> LayoutName:
    """The layout, by the record of the key storage."""
    return DEFAULT if in_keys is None else in_keys.layout


def find_problem(
    in_keys: LayoutRecord | None, in_tokens: LayoutRecord | None, asked: LayoutName | None = None
) -> LayoutProblem | None:
    """Compare the two records with each other, and with ``TOKEN_WORKER_LAYOUT``. Returns None if all agree.

    Args:
        in_keys: the record of the key storage; None if there is none.
        in_tokens: the record of the token storage; None if there is none.
        asked: the setting; None if it is not set.
    """
    layout = layout_of(in_keys)
    choose = f"run `token-worker tokens layout {asked}` for an empty token storage"
    move = f"`token-worker tokens migrate --to {asked}` for one with tokens"
    if in_keys is not None and asked not in (None, layout):
        return LayoutProblem(
            f"TOKEN_WORKER_LAYOUT is {asked}, but the key storage records {layout}",
            f"leave TOKEN_WORKER_LAYOUT out, or {choose}, {move}",
        )
    if in_keys is None and in_tokens is None:
        if asked in (None, layout):
            return None
        # the setting may be all that is left of lost records, and without it workers would write in another layout
        return LayoutProblem(
            f"TOKEN_WORKER_LAYOUT is {asked}, but there is no record, which means {layout}",
            f"{choose}, {move} of layout {layout}; if there was a record, put it back (docs/layouts.md)",
        )
    if in_tokens is None:
        return LayoutProblem(
            f"the key storage records layout {layout}, but the token storage has no record: it is another one, or has"
            " lost its data",
            f"{_ADDRESSES}; restore the token storage from a backup if its data was lost;"
            " if only the record was lost, copy the other one (docs/layouts.md)",
        )
    if in_tokens.unfinished and (in_keys is None or in_keys.storage == in_tokens.storage):
        return _unfinished(in_keys, in_tokens)
    if in_keys is None:
        return LayoutProblem(
            f"the token storage records layout {in_tokens.layout}, but the key storage has no record: it is another"
            " one, or was restored from an older backup",
            f"{_ADDRESSES}; run `token-worker tokens layout {in_tokens.layout}` again if it was interrupted;"
            " if there are tokens, restore the key storage, or copy the record (docs/layouts.md)",
        )
    if in_keys.storage != in_tokens.storage:
        return LayoutProblem("the layout records of key storage and token storage have different ids", _ADDRESSES)
    if in_keys.layout != in_tokens.layout:
        return LayoutProblem(
            f"the key storage records layout {in_keys.layout}, the token storage {in_tokens.layout}: one of them was"
            " restored from an older backup",
            "restore the storage that belongs to the other; if the tokens are right and only the record of the key"
            " storage is older, copy the record (docs/layouts.md); if there are no tokens yet, run `token-worker tokens"
            f" layout {in_tokens.layout}` again",
        )
    if in_keys.foreign != in_tokens.foreign:
        return LayoutProblem(
            "only one of the layout records says that tokens were moved which had been drawn inconsistently: the other"
            " one was restored from an older backup",
            "restore the storage that belongs to the other, or copy the record that says it (docs/layouts.md)",
        )
    return None


def _unfinished(in_keys: LayoutRecord | None, in_tokens: LayoutRecord) -> LayoutProblem:
    layout, old = in_tokens.layout, layout_of(in_keys)
    what = f"the key storage records layout {old}, the token storage {layout}: a move is unfinished"
    if layout == old and in_keys != in_tokens.finished:
        return LayoutProblem(what, "the key storage lost its record, or is older than the move: restore the newer one")
    remedy = f"run `token-worker tokens migrate --to {layout} --finish` again"
    if layout != old and in_keys is not None:
        remedy += f"; to stay with layout {old}, run it with `--to {old}`"
    return LayoutProblem(what, remedy)
