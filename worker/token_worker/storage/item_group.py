"""Items of a batch that are alike: of one owner and type, to tokenize or to detokenize.

The engine names, looks up and opens them together. Nearly all requests ask for values whose entries open at once, and
an object for each of them would cost as much as to open it. So only the others get a ``TokenItem``. Pure.
"""

from collections.abc import Iterable, Sequence
from operator import eq
from typing import Any

import msgspec

from token_worker.acra.value_types import EMAIL, TokenType
from token_worker.keys.keyring import Keyring
from token_worker.storage.token_item import ItemResult, TokenItem, prepared
from token_worker.tokens.derivation import PLAIN


class ItemGroup(msgspec.Struct, eq=False):
    """Holds values to tokenize consistently, or tokens to detokenize. A caller's group has no format.

    Attributes:
        ring: keys of the zone if the requests name one, else of the client.
        data: the encoded values or tokens, each at least one byte.
        form: belongs to the caller, who needs it for the results.
        results: for each what ``TokenItem.result`` is; complete when the engine is done.
        names: belongs to the engine, like the attributes below: the name of each entry to look up.
        items: the items that the group was made of, if it was made of items.
        left: the items that could not be handled with the group, each with its place.
    """

    ring: Keyring
    kind: TokenType
    tokenize: bool
    data: list[bytes]
    form: Any = None
    results: Sequence[ItemResult | None] = ()

    names: list[bytes] = []
    items: list[TokenItem] = []
    left: list[tuple[int, TokenItem]] = []

    def item(self, place: int) -> TokenItem:
        """Return the item at a place: the one that the group was made of, or a new one."""
        if self.items:
            return self.items[place]
        made = TokenItem(self.ring, self.kind, self.data[place], self.tokenize, form=self.form, key=self.names[place])
        self.left.append((place, made))
        return made

    def result_item(self, place: int) -> TokenItem:
        """Return an item with the result at a place."""
        result = self.results[place]
        return TokenItem(self.ring, self.kind, self.data[place], self.tokenize, form=self.form, result=result)

    def draw(self) -> list[bytes]:
        """Draw the first candidate of each value. Return an empty list if one of them has to be drawn by itself."""
        if self.items or self.kind is EMAIL or self.ring.unsettled is not None:
            return []
        derive, form = prepared(self.ring).deriver.token, PLAIN[self.kind.name]
        tokens = [derive(form, value, 0) for value in self.data]
        return [] if any(map(eq, tokens, self.data)) else tokens

    def take(self, contents: list[bytes], raws: Sequence[Any]) -> list[tuple[TokenItem, Any]]:
        """Take the contents of entries. Return the items whose content is empty, each with its entry."""
        self.results = contents
        for item, content in zip(self.items, contents, strict=False):  # mostly there are none
            item.result = content or None
        if all(contents):
            return []
        return [(self.item(place), raws[place]) for place, content in enumerate(contents) if not content]

    def settle(self) -> None:
        """Set the results of the items that were left."""
        results: list[ItemResult | None] = [*self.results] or [None] * len(self.data)
        for place, item in self.left:
            results[place] = item.result
        self.results = results


def group_alike(items: Iterable[TokenItem]) -> list[ItemGroup]:
    """Group items that have their names, or get them next."""
    groups: dict[tuple[Keyring, int, bool], ItemGroup] = {}
    for item in items:
        key = item.ring, item.kind.number, item.tokenize
        group = groups.get(key)
        if group is None:
            group = groups[key] = ItemGroup(item.ring, item.kind, item.tokenize, [])
        group.data.append(item.data)
        group.names.append(item.key)
        group.items.append(item)
    return [*groups.values()]
