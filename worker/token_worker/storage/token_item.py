"""One item of a batch for the engine: a value to tokenize or a token to detokenize, and the candidates for its token.

Names of entries and derivation keys are computed once for a keyring, and kept in it. Pure.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import msgspec

from token_worker.acra.value_types import EMAIL, TokenType
from token_worker.errors import Refused, Unavailable
from token_worker.keys.keyring import Keyring, OwnerCache
from token_worker.tokens.derivation import PLAIN, Deriver, Form, Origin, tries
from token_worker.tokens.formats import AnyFormat

ItemResult = bytes | Refused | Unavailable
"""The encoded token or value, the error, or ``Unavailable`` if the result cannot be known now."""


class TokenItem(msgspec.Struct, eq=False):
    """One value to tokenize, or one token to detokenize.

    Attributes:
        ring: keys of the zone if the request names one, else of the client.
        data: the encoded value or token, at least one byte.
        origin: set for an inconsistent token only.
        format: how a new token is drawn; None: by its type alone. The value must fit the format.
        form: belongs to the caller, who needs it for the result.
        result: None until the engine is done.
        is_other: belongs to the caller: the token exists, and is not of the format.
        key: belongs to the engine, like the attributes below: the key of the entry to look up.
        candidates: further candidates for the token.
        token: the candidate to try now; empty if it has to be found first. The result is this very object if it is new.
        counter: the counter that gave this candidate.
        existing: the token entry of that candidate, if it was read and holds this value.
        first_counter: the counter of the first candidate, above 0 if the value had a token that was removed.
        tombstone: the value entry of that token, which is replaced; else empty.
    """

    ring: Keyring
    kind: TokenType
    data: bytes
    tokenize: bool
    origin: Origin | None = None
    format: AnyFormat | None = None
    form: Any = None
    result: ItemResult | None = None
    is_other: bool = False

    key: bytes = b""
    candidates: Iterator["Candidate"] | None = None
    token: bytes = b""
    counter: int = 0
    existing: bytes = b""
    first_counter: int = 0
    tombstone: bytes = b""


Candidate = tuple[bytes, int]
"""A candidate for a token, and its counter. The counter is -1 if the value itself may become the token."""


class Names(Protocol):
    """Names of the entries of one owner."""

    def of_value(self, value: bytes, number: int, /) -> bytes:
        """Return the name of the value entry of an encoded value; ``number`` is that of its type."""

    def of_token(self, token: bytes, number: int, /) -> bytes:
        """Return the name of the token entry of an encoded token."""

    def of_values(self, values: list[bytes], number: int, /) -> list[bytes]:
        """Return the names of the value entries of encoded values of one type."""

    def of_tokens(self, tokens: list[bytes], number: int, /) -> list[bytes]:
        """Return the names of the token entries of encoded tokens of one type."""


class NamesAndDeriver(OwnerCache):
    """Names of entries and derivation of tokens, computed once for a keyring and kept in it.

    They do not refer to the keyring, so that both are freed at once.
    """

    __slots__ = ("_deriver", "_key", "_owner", "names")

    def __init__(self, ring: Keyring, names: Names) -> None:
        self.names = names
        self._key, self._owner = ring.current, ring.owner
        self._deriver: Deriver | None = None

    @property
    def deriver(self) -> Deriver:
        if self._deriver is None:
            self._deriver = Deriver(self._key, self._owner)
        return self._deriver


def prepared(ring: Keyring) -> NamesAndDeriver:
    """Return what a layout has computed for a keyring; see ``Layout.prepare``."""
    cache = ring.owner_cache
    if not isinstance(cache, NamesAndDeriver):
        raise TypeError("the layout has not prepared this keyring")
    return cache


def draw_first(items: Iterable[TokenItem]) -> None:
    """Draw the first candidate of each item. If a value can get no token now, set the result that says why."""
    ring: Keyring | None = None
    for item in items:
        if item.ring is not ring:
            ring = item.ring
            derive = prepared(ring).deriver.token
        item.candidates, item.existing, item.token = None, b"", b""
        if ring.unsettled is not None:
            item.result = ring.unsettled
            continue
        form: Form | None = item.format
        data = item.data
        if form is None:
            kind = item.kind
            if kind is EMAIL:  # values of the other types can always get one
                try:
                    kind.check_new(data)
                except Refused as refused:
                    item.result = refused.with_traceback(None)  # its frames hold the values of the whole batch
                    continue
            form = PLAIN[kind.name]
        item.counter = counter = item.first_counter
        item.token = token = derive(form, data, counter, item.origin)
        if token == data:
            item.candidates = _derived(item)
            item.token, item.counter = next(item.candidates, (b"", 0))


def candidates_left(item: TokenItem) -> Iterator[Candidate]:
    """The candidates that the item has not tried yet."""
    if item.candidates is None:
        item.candidates = _derived(item)
        next(item.candidates)  # the first one was derived alone, because most items need no other
    return item.candidates


def form_of(item: TokenItem) -> Form:
    """Return how new tokens of an item are drawn."""
    return item.format or PLAIN[item.kind.name]


def _derived(item: TokenItem) -> Iterator[Candidate]:
    """Derive the candidates in the order of their counters, each once.

    If the value is a candidate, it comes last. With a format it does not come at all.
    """
    derive, form = prepared(item.ring).deriver.token, form_of(item)
    space = form.space(item.data)
    derived: set[bytes] = set()
    for counter in range(item.first_counter, item.first_counter + tries(space)):
        if len(derived) == space:
            break  # there are no other tokens
        token = derive(form, item.data, counter, item.origin)
        if token not in derived:
            derived.add(token)
            if token != item.data:
                yield token, counter
    if item.data in derived and item.format is None:
        yield item.data, -1


def token_key(item: TokenItem, token: bytes) -> bytes:
    """Return the name of the token entry that a token has."""
    return prepared(item.ring).names.of_token(token, item.kind.number)
