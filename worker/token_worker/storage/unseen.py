"""Writes values as new ones without a look-up: batches of new values mostly come in a row. Pure, as the engine is.

A value that is known after all costs what its token took to draw and to seal. Each batch of new values saves a round
trip.
"""

from collections.abc import Generator, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

from token_worker.storage.item_group import ItemGroup, group_alike
from token_worker.storage.layout import Layout
from token_worker.storage.steps import WRITTEN, Outcome, Step, Store
from token_worker.storage.token_item import TokenItem, draw_first

_names_of = attrgetter("names")


def store_unseen(
    groups: Sequence[ItemGroup], layout: Layout, now: int, duplicates: list[tuple[TokenItem, TokenItem]]
) -> Generator[Step, Any, Sequence[ItemGroup]]:
    """Write the values of groups as new ones.

    Args:
        groups: groups to tokenize; they have their names.
        layout: of the token storage.
        now: in Unix seconds.
        duplicates: takes items, each with the first item that wants the same.

    Returns:
        The values that were not written: they take the usual way.
    """
    names = [*chain(*map(_names_of, groups))]
    drawn = [group.draw() for group in groups] if len({*names}) == len(names) else []
    if not drawn or not all(drawn):
        return (yield from _store_each(groups, layout, now, duplicates))
    rows = [row for group, tokens in zip(groups, drawn, strict=True) for row in layout.new_rows(group, tokens, now)]
    outcomes: list[Outcome] = yield Store(rows)
    if outcomes.count(WRITTEN) == len(rows):
        for group, tokens in zip(groups, drawn, strict=True):
            group.results = tokens
        return []
    left: list[TokenItem] = []
    written = iter(outcomes)
    for group, tokens in zip(groups, drawn, strict=True):
        group.results = [token if next(written).what == "written" else None for token in tokens]
        left += [group.item(place) for place, result in enumerate(group.results) if result is None]
    return group_alike(left)


def _store_each(
    groups: Sequence[ItemGroup], layout: Layout, now: int, duplicates: list[tuple[TokenItem, TokenItem]]
) -> Generator[Step, Any, Sequence[ItemGroup]]:
    """Do the same where values are equal, have formats, or may have no token: the first of equal items decides."""
    unseen: dict[bytes, TokenItem] = {}
    for group in groups:
        for place, name in enumerate(group.names):
            item = group.item(place)
            first = unseen.setdefault(name, item)
            if first is not item:
                duplicates.append((item, first))
    draw_first(unseen.values())
    fresh = [item for item in unseen.values() if item.result is None and item.token]
    outcomes: list[Outcome] = (yield Store(layout.rows(fresh, now))) if fresh else []
    for item, (what, *_) in zip(fresh, outcomes, strict=True):
        if what == "written":
            item.result = item.token
    left = [item for item in unseen.values() if not isinstance(item.result, bytes)]
    for item in left:
        item.result = None  # a value that cannot get a token may have one
    return group_alike(left)
