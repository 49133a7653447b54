"""The interface between the token engine and a layout of the token storage: names, sealing and opening of entries.

A token has a *value entry*, which holds the token of a value, and a *token entry*, which holds the value of a token.
The layout decides how they are named and what their bytes are. A token entry may stand under a second name. The engine
knows no more than what stands here.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from token_worker.errors import Refused, Unavailable
from token_worker.keys.keyring import Keyring
from token_worker.storage.item_group import ItemGroup
from token_worker.storage.steps import Row, Step
from token_worker.storage.token_item import NamesAndDeriver, TokenItem


class Notes(NamedTuple):
    """Remarks on an entry that was opened. An entry without remarks has None.

    Attributes:
        disabled: its token is disabled.
        removed: its token was removed. The entry holds neither token nor value.
        alone: a token entry that belongs to no value entry, because its token was drawn inconsistently.
        next_counter: of a removed value entry: the counter from which candidates for the next token begin.
        touched: the entry with its time of last use moved to now, if that has to be stored; else empty.
    """

    disabled: bool = False
    removed: bool = False
    alone: bool = False
    next_counter: int = 0
    touched: bytes = b""


Opened = tuple[bytes, Notes | None]
"""The token or value in an entry, and the remarks on it."""


SecondName = Callable[[Keyring, bytes, int], bytes]
"""Returns the second name of a token entry, for the keyring, the encoded token, and the number of its type."""


class Layout(Protocol):
    """One layout. It keeps ciphers from batch to batch, and asks no server."""

    has_index_keys: bool
    """True if names come from index keys. Then ``check`` has to be asked about a keyring before it is used."""
    second_name: SecondName | None
    """Returns the second name that the token entry of an encoded token may have; None if entries have but one name.

    Entries under second names are made while no worker runs. None of them is a consistent token's.
    """
    unused_name: bytes
    """A name that a worker may write, and that no entry ever has."""

    def check(
        self, rings: list[Keyring], connections: Callable[[], int], /
    ) -> Generator[Step, Any, dict[Keyring, Refused | Unavailable]]:
        """Check that the index keys are those with which the names in the storage were made.

        Args:
            rings: keys of the owners that are needed now.
            connections: returns the number of connections to the storage so far. A check holds for one of them.

        Returns:
            The reason of each keyring that cannot be used.
        """
        ...

    def prepare(self, ring: Keyring) -> NamesAndDeriver:
        """Return the names and the derivation of a keyring. They are computed once, and kept in it."""
        ...

    def mark(self, now: int) -> Any:
        """Return what the layout needs to know about the time of a batch; ``now`` is in Unix seconds."""
        ...

    def open_many(self, group: ItemGroup, raws: Sequence[Any], mark: Any, /) -> list[bytes]:
        """Open at once those entries of a group for which that is faster, and which have no remarks.

        Args:
            group: its ``names`` were looked up: value entries to tokenize, else token entries.
            raws: the entry of each as it is stored; what is no bytes is passed over.
            mark: the result of ``mark``.

        Returns:
            The content of each entry; empty for those that have to be opened one by one.
        """
        ...

    def open_value(self, ring: Keyring, name: bytes, number: int, raw: bytes, mark: Any, /) -> Opened:
        """Open a value entry, and return the token in it.

        Args:
            ring: keys of the owner; ``prepare`` was called with it.
            name: name of the entry.
            number: number of the type.
            raw: the entry as it is stored.
            mark: the result of ``mark``.

        Raises:
            NoMatchingKey: none of the ring's keys opens it. Another key of the owner may.
            CorruptData: the bytes are not an entry.
        """
        ...

    def open_token(self, ring: Keyring, name: bytes, number: int, raw: bytes, mark: Any, /) -> Opened:
        """Open a token entry, and return the value in it; empty for a value of another type. See ``open_value``."""
        ...

    def rows(self, items: list[TokenItem], now: int) -> list[Row]:
        """Seal the entries of the items, each for its ``token``.

        A row has no value entry if the item is inconsistent. Its token entry is the item's ``existing`` one, if set.
        """
        ...

    def new_rows(self, group: ItemGroup, tokens: list[bytes], now: int) -> Iterable[Row]:
        """Seal the entries of the values of a group, each for its new token; see ``rows``."""
        ...
