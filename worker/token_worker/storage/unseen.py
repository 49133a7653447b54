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
from token_worker.storage.steps import WRITTEN, Outcome, Row, Step, Store
from token_worker.storage.token_item import TokenItem, draw_first

_names_of = attrgetter("names")


def store_unseen(
    groups: Sequence[ItemGroup], layout: Layout, now: int, duplicates: list[tuple[TokenItem, TokenItem]]
) -> Generator[Step, Any, Sequence[ItemGroup]]:
    """Write the values of groups as new ones, by one step.

    Tokens and entries of a group are made at once where that can be. Equal values get items, and so do values whose
    token has to be drawn by itself.

    Args:
        groups: groups to tokenize; they have their names.
        layout: of the token storage.
        now: in Unix seconds.
        duplicates: takes items, each with the first item that wants the same.

    Returns:
        The values that were not written: they take the usual way.
    """
    names = [*chain(*map(_names_of, groups))]
    are_distinct = len({*names}) == len(names)
    rows: list[Row] = []
    drawn: list[tuple[ItemGroup, list[bytes]]] = []
    unseen: dict[bytes, TokenItem] = {}
    for group in groups:
        tokens = group.draw() if are_distinct else []
        if tokens:
            drawn.append((group, tokens))
            rows += layout.new_rows(group, tokens, now)
            continue
        for place, name in enumerate(group.names):
            item = group.item(place)
            first = unseen.setdefault(name, item)  # the first of equal items decides
            if first is not item:
                duplicates.append((item, first))
    draw_first(unseen.values())
    fresh = [item for item in unseen.values() if item.result is None and item.token]
    if fresh:
        rows += layout.rows(fresh, now)
    outcomes: list[Outcome] = (yield Store(rows)) if rows else []
    left: list[TokenItem] = []
    start = 0
    for group, tokens in drawn:
        its_outcomes = outcomes[start : start + len(tokens)]
        start += len(tokens)
        if its_outcomes.count(WRITTEN) == len(tokens):
            group.results = tokens
            continue
        are_written = [what == "written" for what, *_ in its_outcomes]
        group.results = [token if written else None for token, written in zip(tokens, are_written, strict=True)]
        left += [group.item(place) for place, written in enumerate(are_written) if not written]
    for item, (what, *_) in zip(fresh, outcomes[start:], strict=True):
        if what == "written":
            item.result = item.token
    for item in unseen.values():
        if not isinstance(item.result, bytes):
            item.result = None  # a value that cannot get a token may have one
            left.append(item)
    return group_alike(left)
