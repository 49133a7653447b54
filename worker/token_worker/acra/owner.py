"""Who a key belongs to: a client, or a zone of Acra 0.94 and earlier."""

import re
from typing import Literal, NamedTuple

_CLIENT_ID = re.compile(r"[A-Za-z0-9_\- ]{5,256}")
_STORAGE_NAME = {"client": "_storage_sym", "zone": "_zone_sym"}
SYMMETRIC_KEYS = tuple(_STORAGE_NAME.values())
"""Endings of the names of symmetric keys; the key storage holds other kinds, too."""


class Owner(NamedTuple):
    """A client or zone; ``id`` is also the context that its keys and entries are sealed with."""

    kind: Literal["client", "zone"]
    id: str

    @property
    def is_valid(self) -> bool:
        """Whether Acra would accept the id; no other is ever looked for in the key storage."""
        return _CLIENT_ID.fullmatch(self.id) is not None

    @property
    def key_name(self) -> str:
        """Name of the symmetric key in the key storage, without the folder."""
        return self.id + _STORAGE_NAME[self.kind]

    @property
    def context(self) -> bytes:
        """The id in bytes: associated context of every seal made for this owner."""
        return self.id.encode()
