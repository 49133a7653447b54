"""The owner of a key: a client, or a zone of Acra 0.94 and earlier."""

import re
from typing import Literal, NamedTuple

_CLIENT_ID = re.compile(r"[A-Za-z0-9_\- ]{5,256}")
_STORAGE_NAME = {"client": "_storage_sym", "zone": "_zone_sym"}
SYMMETRIC_KEYS = tuple(_STORAGE_NAME.values())
"""Endings of the names of symmetric keys. The key storage holds other kinds, too."""


class Owner(NamedTuple):
    """A client or zone. Its id is also the context of the seals of its keys and entries."""

    kind: Literal["client", "zone"]
    id: str

    @property
    def is_valid(self) -> bool:
        """True if Acra accepts the id. The key storage is never asked for another one."""
        return _CLIENT_ID.fullmatch(self.id) is not None

    @property
    def key_name(self) -> str:
        """The name of the symmetric key in the key storage, without the folder."""
        return self.id + _STORAGE_NAME[self.kind]

    @property
    def context(self) -> bytes:
        """The id in bytes: the associated context of every seal for this owner."""
        return self.id.encode()
