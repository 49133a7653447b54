"""Tokens that were drawn inconsistently, as ``tokens migrate`` moves them: each has one entry in either layout.

The twin's name comes from the data id of the token. In the dense layout the twin is a *foreign* entry. A token that was
drawn there has an entry with another name, which holds the token. When it has come back from Acra's layout, its foreign
entry takes the place of that one, which is deleted: no token has two entries.

A token that is removed in the dense layout leaves a tombstone with the data id, by which its twin in Acra's is deleted.
Acra's layout leaves nothing. So a twin without a source is deleted.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from token_worker.admin.migrate_reading import Finding, Pair, Reader, Revoked, Single
from token_worker.admin.migrate_rows import LEAVE, Row, Step
from token_worker.admin.migrate_sides import AcraSide, DenseSide, Lone, Opened, Side


class SingleTwin(NamedTuple):
    """The entry that a single has in the other layout.

    Attributes:
        name: of the entry.
        raw: the entry as it was read; None if there is none.
        opened: its content; None if there is none, or if it does not open.
    """

    name: bytes
    raw: bytes | None
    opened: Opened | None

    @property
    def read(self) -> Step:
        """A step that only compares."""
        return Step(self.name, self.raw or b"", LEAVE)

    def equals(self, lone: Lone) -> bool:
        """Tell whether the twin is the same token: type, value, state and day."""
        opened = self.opened
        return (
            opened is not None
            and not opened.removed
            and (opened.numbers, opened.data) == ((lone.number,), lone.value)
            and (opened.disabled, opened.day) == (lone.disabled, lone.day)
        )

    def is_changed(self, lone: Lone) -> bool:
        """Tell whether the twin is the same token, but disabled, enabled or removed since."""
        opened = self.opened
        return opened is not None and opened.numbers == (lone.number,) and (opened.removed or opened.data == lone.value)


class Singles:
    """Makes the rows that change singles and their twins.

    Args:
        reader: reads entries.
        source: the old layout.
        target: the new layout.
    """

    def __init__(self, reader: Reader, source: AcraSide | DenseSide, target: AcraSide | DenseSide) -> None:
        self._reader = reader
        self._source = source
        self._target = target

    def twins(self, singles: Sequence[Single]) -> list[SingleTwin]:
        """Read the twins of singles of the source."""
        names = [self._target.lone_name(single.ring, single.lone.data_id) for single in singles]
        twins = []
        for single, name, raw in zip(singles, names, self._reader.read(names), strict=True):
            opened = None if raw is None else self._reader.open_with(self._target, single.ring, "token", name, raw)
            twins.append(SingleTwin(name, raw, opened))
        return twins

    def copying(self, single: Single, twin: SingleTwin, now: int) -> Row | Finding:
        """Make the row that copies a single. It is a finding if Acra's layout holds the token for another value."""
        if self._target.keeps_unpaired and twin.opened is not None and twin.opened.data != single.lone.value:
            return Finding("conflict", single.name, single.raw)
        if single.ring.unsettled is not None:
            raise single.ring.unsettled
        made = self._target.seal_lone(single.ring, single.lone, twin.name, now)
        return [Step(single.name, single.raw, LEAVE), Step(twin.name, twin.raw or b"", made)]

    def revoking(self, tombstones: Sequence[Revoked]) -> Iterator[Row]:
        """Make the rows that delete the twins of tokens which were removed in the dense layout, the source.

        Such a token may have been drawn again in Acra's layout, and have come back: then it has a foreign entry.
        """
        own_names = [self._source.lone_name(each.ring, each.data_id) for each in tombstones]
        raws = self._reader.read(own_names)
        twin_names = [self._target.lone_name(each.ring, each.data_id) for each in tombstones]
        twins = self._at(self._target, twin_names)
        for tombstone, own_name, raw, twin_name in zip(tombstones, own_names, raws, twin_names, strict=True):
            twin, is_own = twins.get(twin_name), tombstone.name == own_name
            if isinstance(twin, Single) and (is_own or raw is None):
                compared = [Step(own_name, tombstone.raw if is_own else b"", LEAVE)]
                if not is_own:
                    compared.append(Step(tombstone.name, tombstone.raw, LEAVE))
                yield [*compared, Step(twin.name, twin.raw, b"")]

    def sweeping(self, twins: Sequence[Single]) -> Iterator[Row | Finding | None]:
        """Make the row of each single of the dense layout that deletes it; None if it stays.

        It goes if its source in Acra's layout is gone, has become a pair, or has another twin. It is a finding if the
        token was given to another value in Acra's layout, consistently.
        """
        names = [self._source.lone_name(twin.ring, twin.lone.data_id) for twin in twins]
        raws = self._reader.read(names)
        sources = self._at(self._source, names)
        for twin, name, raw in zip(twins, names, raws, strict=True):
            source = sources.get(name)
            if isinstance(source, Pair) and source.content.value != twin.lone.value:
                yield Finding("conflict", name, source.raws.token)
            elif isinstance(source, Pair) or raw is None or (isinstance(source, Single) and not self._is_twin(twin)):
                yield [Step(name, raw or b"", LEAVE), Step(twin.name, twin.raw, b"")]
            else:
                yield None

    def _is_twin(self, single: Single) -> bool:
        """Tell whether an entry of the target has the name of a twin."""
        return single.name == self._target.lone_name(single.ring, single.lone.data_id)

    def _at(self, side: Side, names: Sequence[bytes]) -> dict[bytes, Pair | Single]:
        """Read the tokens with these token entries, by name."""
        found: dict[bytes, Pair | Single] = {}
        for token in self._reader.tokens(side, names):
            if isinstance(token, Pair):
                found[token.names[0]] = token
            elif isinstance(token, Single):
                found[token.name] = token
        return found
