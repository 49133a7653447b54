"""One item of a batch for the engine: a value to tokenize or a token to detokenize, and the candidates for its token.

Names of entries and derivation keys are computed once for a keyring, and kept in it. Pure.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from token_worker.acra.token_entry import EntryNames
from token_worker.acra.value_types import TokenType
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
        result: None until the engine is done.
        form: belongs to the caller, who needs it for the result.
        is_other: belongs to the caller: the token exists, and is not of the format.
        key: belongs to the engine, like the attributes below: the key of the entry to look up.
        candidates: further candidates for the token.
        token: the candidate to try now; empty if it has to be found first. The result is this very object if it is new.
        existing: the ``t.`` entry of that candidate, if it was read and holds this value.
    """

    ring: Keyring
    kind: TokenType
    data: bytes
    tokenize: bool
    origin: Origin | None = None
    format: AnyFormat | None = None
    result: ItemResult | None = None
    form: Any = None
    is_other: bool = False

    key: bytes = b""
    candidates: Iterator[bytes] | None = None
    token: bytes = b""
    existing: bytes = b""


class NamesAndDeriver(OwnerCache):
    """Names of entries and derivation of tokens, computed once for a keyring and kept in it.

    They do not refer to the keyring, so that both are freed at once.
    """

    __slots__ = ("_deriver", "_key", "_owner", "of_token", "of_value")

    def __init__(self, ring: Keyring) -> None:
        names = EntryNames(ring.owner)
        self.of_value = names.of_value
        self.of_token = names.of_token
        self._key, self._owner = ring.current, ring.owner
        self._deriver: Deriver | None = None

    @property
    def deriver(self) -> Deriver:
        if self._deriver is None:
            self._deriver = Deriver(self._key, self._owner)
        return self._deriver


def names_and_deriver(ring: Keyring) -> NamesAndDeriver:
    """Return what is kept in a keyring."""
    cache = ring.owner_cache
    if not isinstance(cache, NamesAndDeriver):
        cache = ring.owner_cache = NamesAndDeriver(ring)
    return cache


def draw_first(item: TokenItem) -> None:
    """Draw the first candidate of an item. If its value can get no token now, set the result that says why."""
    item.candidates, item.existing, item.token = None, b"", b""
    if item.ring.unsettled is not None:
        item.result = item.ring.unsettled
        return
    if item.format is None:
        try:
            item.kind.check_new(item.data)
        except Refused as refused:
            item.result = refused.with_traceback(None)  # its frames hold the values of the whole batch
            return
    item.token = names_and_deriver(item.ring).deriver.token(form_of(item), item.data, 0, item.origin)
    if item.token == item.data:
        item.candidates = _derived(item)
        item.token = next(item.candidates, b"")


def candidates_left(item: TokenItem) -> Iterator[bytes]:
    """The candidates that the item has not tried yet."""
    if item.candidates is None:
        item.candidates = _derived(item)
        next(item.candidates)  # the first one was derived alone, because most items need no other
    return item.candidates


def form_of(item: TokenItem) -> Form:
    """Return how new tokens of an item are drawn."""
    return item.format or PLAIN[item.kind.name]


def _derived(item: TokenItem) -> Iterator[bytes]:
    """Derive the candidates in the order of their counters, each once.

    If the value is a candidate, it comes last. With a format it does not come at all.
    """
    derive, form = names_and_deriver(item.ring).deriver.token, form_of(item)
    space = form.space(item.data)
    derived: set[bytes] = set()
    for counter in range(tries(space)):
        if len(derived) == space:
            break  # there are no other tokens
        token = derive(form, item.data, counter, item.origin)
        if token not in derived:
            derived.add(token)
            if token != item.data:
                yield token
    if item.data in derived and item.format is None:
        yield item.data


def token_key(item: TokenItem, token: bytes) -> bytes:
    """Return the key of the ``t.`` entry that a token has."""
    return names_and_deriver(item.ring).of_token(token, item.kind.number)
