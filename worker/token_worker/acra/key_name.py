"""The names in Acra's key storage (keystore version 1). A name tells the kind and owner of a key, and its context.

A name is ``<base>``, or ``<base>.old/<time>`` for a key that was replaced at that time (UTC, in nanoseconds, without
zeros at the end). These are the bases of Acra 0.96, and of zones (Acra 0.94 and earlier):

========================================  =============================================  ===============================
base                                      key                                            sealed with the context
========================================  =============================================  ===============================
``<client>_storage_sym``                  symmetric: AcraBlocks and token entries        ``<client>``
``<client>_storage``, ``….pub``           key pair: AcraStructs                          ``<client>``, not sealed
``<client>_hmac``                         symmetric: searchable encryption               ``<client>``
``<zone>_zone_sym``                       symmetric, of a zone                           ``<zone>``
``<zone>_zone``, ``….pub``                key pair, of a zone                            ``<zone>``, not sealed
``.poison_key/poison_key``, ``….pub``     key pair: poison records                       the base, not sealed
``.poison_key/poison_key_sym``            symmetric: poison records                      the base
``secure_log_key``                        symmetric: audit log                           the base
========================================  =============================================  ===============================

Pure. Nothing here holds a key.
"""

import datetime as dt
import re
from typing import Literal, NamedTuple

from token_worker.acra.owner import Owner

HISTORY_INFIX = ".old/"

KeyState = Literal["current", "rotated", "retired"]
"""``retired``: a rotated key that is being destroyed. It is in another folder, where Acra does not see it."""

_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class KeyKind(NamedTuple):
    """A kind of key.

    Attributes:
        purpose: its name in Acra's own listing.
        form: what kind of bytes the opened key has; a public key is not sealed.
    """

    purpose: str
    form: Literal["symmetric", "private", "public"]


_OF_AN_OWNER: dict[str, tuple[Literal["client", "zone"], KeyKind]] = {
    "_storage_sym": ("client", KeyKind("storage_sym_key", "symmetric")),
    "_storage.pub": ("client", KeyKind("public_storage", "public")),
    "_storage": ("client", KeyKind("private_storage", "private")),
    "_hmac": ("client", KeyKind("search_hmac", "symmetric")),
    "_zone_sym": ("zone", KeyKind("zone_sym_key", "symmetric")),
    "_zone.pub": ("zone", KeyKind("public_zone", "public")),
    "_zone": ("zone", KeyKind("private_zone", "private")),
}
_OF_ACRA_ITSELF = {
    ".poison_key/poison_key": KeyKind("poison_key", "private"),
    ".poison_key/poison_key.pub": KeyKind("poison_key", "public"),
    ".poison_key/poison_key_sym": KeyKind("poison_sym_key", "symmetric"),
    "secure_log_key": KeyKind("audit_log", "symmetric"),
}


class KeyName(NamedTuple):
    """The parts of a name in the key storage.

    Attributes:
        name: the whole name, without the folder.
        base: the name of the key in use, without the part of the history.
        stamp: the time in the part of the history; None for a key in use.
        kind: the kind of key; None if Acra makes no such name.
        owner: the client or zone; None if the key belongs to none.
        own_context: the context of a key that is none of Acra's; None for Acra's own.
    """

    name: str
    base: str
    stamp: str | None
    kind: KeyKind | None
    owner: Owner | None
    own_context: bytes | None = None

    @property
    def key_id(self) -> str:
        """The id in Acra's listing: the base without the folder of the poison keys."""
        return self.base.rpartition("/")[2]

    @property
    def context(self) -> bytes:
        """Associated context of the seal. It has no meaning for public keys and unknown kinds."""
        if self.own_context is not None:
            return self.own_context
        return self.base.encode() if self.owner is None else self.owner.context

    @property
    def is_of_version_2(self) -> bool:
        """True for names of Acra's keystore version 2: its version, its lock, and its key rings."""
        return self.kind is None and (self.name in ("version", ".lock") or self.name.endswith(".keyring"))

    @property
    def seals_tokens(self) -> bool:
        """True for keys of the kind that seals token entries."""
        return self.owner is not None and self.base == self.owner.key_name

    @property
    def replaced_at(self) -> float | None:
        """Unix seconds at which the key was replaced; None for a key in use."""
        return None if self.stamp is None else seconds_of(self.stamp)


def parse_name(name: str) -> KeyName:
    """Parse a name. If Acra makes no such name, ``kind`` is None."""
    base, infix, stamp = name.partition(HISTORY_INFIX)
    kind, owner = _kind_of(base)
    if infix and (not _STAMP.fullmatch(stamp) or seconds_of(stamp) is None):
        kind = None
    return KeyName(name, base, stamp if infix else None, kind, owner if kind else None)


def stamp_of(nanoseconds: int) -> str:
    """Format a time (Unix nanoseconds) as Acra does in the names of the history."""
    seconds, rest = divmod(nanoseconds, 10**9)
    moment = (_EPOCH + dt.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{moment}.{rest:09d}".rstrip("0").removesuffix(".") if rest else moment


def seconds_of(stamp: str) -> float | None:
    """Parse such a time into Unix seconds. None if the text is not such a time."""
    match = _STAMP.fullmatch(stamp)
    if match is None:
        return None
    try:
        moment = dt.datetime.strptime(match[1], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=dt.UTC)
    except ValueError:
        return None
    return moment.timestamp() + int((match[2] or "").ljust(9, "0")) / 1e9


def _kind_of(base: str) -> tuple[KeyKind | None, Owner | None]:
    if base in _OF_ACRA_ITSELF:
        return _OF_ACRA_ITSELF[base], None
    for ending, (kind_of_owner, kind) in _OF_AN_OWNER.items():
        if base.endswith(ending):
            owner = Owner(kind_of_owner, base.removesuffix(ending))
            return (kind, owner) if owner.is_valid else (None, None)
    return None, None
