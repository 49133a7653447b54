"""Moves tokens from one layout of the token storage into the other: copies, compares, and deletes what was moved.

A token in the old layout is the *source*, its copy in the new one the *twin*. The source decides: a twin that differs
is replaced, and a twin without a source is deleted. Every change is a row of ``twins.lua``. It compares the source and
the twin with what was read, and then writes both entries of the twin, the token entry first. So a copy may run while
workers use the source, may be killed at any time, and may be run again.

Tokens that were drawn inconsistently have one entry in each layout; see ``migrate_singles``. What cannot be moved stays
where it is, and is not touched: tombstones, and what cannot be read. It is found again when the layout is changed back.

Touches ``tokens/*`` and the names of the dense layout: ``v…`` and ``t…`` of 16 bytes, and the check values ``c…``.
"""

import hmac
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from token_worker.acra.owner import Owner
from token_worker.admin.migrate_reading import Finding, Pair, Reader, Revoked, Single
from token_worker.admin.migrate_rows import LEAVE, Row, Step, Tally
from token_worker.admin.migrate_scan import Page
from token_worker.admin.migrate_sides import AcraSide, DenseSide, Opened, Side
from token_worker.admin.migrate_singles import Singles, SingleTwin
from token_worker.errors import CheckFailed
from token_worker.keys.keyring import Keyring
from token_worker.redis.link import RedisLink
from token_worker.redis.script import Script
from token_worker.storage.dense.entry import check_name, is_foreign

TWINS = Script(__package__, "twins.lua")

ROWS_A_SCRIPT = 100
"""Most tokens that are changed at once: less than a millisecond of the server."""


class Twin(NamedTuple):
    """The names of a twin, and its entries as they were read."""

    names: tuple[bytes, bytes]
    raws: tuple[bytes | None, bytes | None]


class Mover:
    """Moves tokens between two layouts on one server.

    Args:
        link: the token storage.
        reader: reads its entries.
        source: the old layout.
        target: the new layout.
        changes: whether to change anything. Without it, all is compared and counted.
        now: Unix seconds, for Acra's time of last use.

    Attributes:
        tally: what was done and found.
        value_names: ``sum_of`` the names of the value entries of all tokens that were copied or compared.
        twin_names: ``sum_of`` the names of their twins.
    """

    def __init__(
        self,
        link: RedisLink,
        reader: Reader,
        source: AcraSide | DenseSide,
        target: AcraSide | DenseSide,
        *,
        changes: bool,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._link = link
        self._reader = reader
        self._source = source
        self._target = target
        [self._dense] = [side for side in (source, target) if isinstance(side, DenseSide)]
        self._changes = changes
        self._now = now
        self._claimed: set[Owner] = set()
        self._singles = Singles(reader, source, target)
        self.tally = Tally()
        self.value_names = self.twin_names = 0

    # -- copying

    def copy(self, names: Sequence[bytes]) -> None:
        """Copy the tokens of these token entries of the source, where there is no twin that equals them."""
        pairs, singles, revoked = self._tokens(names)
        rows: list[Row] = []
        new = 0
        for pair, twin in zip(pairs, self._twins(pairs), strict=True):
            self.value_names += hash(pair.names[1])
            if self._equals(pair, twin):
                self.tally.counts["same"] += 1
            else:
                row = self._copying(pair, twin)
                if row is None:
                    continue
                rows.append(row)
                new += twin.raws == (None, None)
            self.twin_names += sum_of(twin.names)
        for single, its_twin in zip(singles, self._single_twins(singles), strict=True):
            if its_twin.equals(single.lone):
                self.tally.counts["same"] += 1
            else:
                made = self._singles.copying(single, its_twin, int(self._now()))
                if isinstance(made, Finding):
                    self.tally.find(made)
                    continue
                rows.append(made)
                new += its_twin.raw is None
            self.twin_names += hash(its_twin.name)
        done = self._run(rows)
        self.tally.counts["copied"] += done
        self.tally.counts["changed"] += max(0, done - new)
        if revoked and self._target.keeps_unpaired:
            self.tally.counts["twins_deleted"] += self._run(list(self._singles.revoking(revoked)))

    def check_values(self, names: Sequence[bytes]) -> None:
        """Find value entries of the source that fit no token entry."""
        self._reader.begin_page(self._source, names)
        for finding in self._reader.broken(self._source, names):
            if finding.kind != "removed":  # its token entry is counted
                self.tally.find(finding)

    def sweep(self, page: Page) -> None:
        """Delete twins whose source is gone: pairs, and single entries that belong to no token."""
        target, reader = self._target, self._reader
        reader.begin_page(target, [*page.tokens, *page.values])
        pairs: list[Pair] = []
        singles: list[Single] = []
        rows: list[Row] = []
        for found in reader.tokens(target, page.tokens):
            if isinstance(found, Pair):
                pairs.append(found)
                continue
            if isinstance(found, Single):
                singles.append(found)
                continue
            self._note_foreign(found.raw)
            if isinstance(found, Revoked):
                continue
            if found.kind == "orphan":
                rows.append([Step(found.name, found.raw, b"")])
            else:
                self.tally.counts[f"left_{found.kind}"] += 1
        for pair, source in zip(pairs, self._others(pairs, self._source), strict=True):
            if self._is_gone(pair.ring, source):
                (t_name, v_name), (t_raw, v_raw) = pair.names, pair.raws
                rows.append([*_as_read(source), Step(v_name, v_raw, b""), Step(t_name, t_raw, b"")])
        if not target.keeps_unpaired:  # those of Acra's may be its own: ``copy`` deletes the others
            for single, made in zip(singles, self._singles.sweeping(singles), strict=True):
                if isinstance(made, Finding):
                    self.tally.find(made)
                if isinstance(made, list):
                    rows.append(made)
                else:
                    self._note_foreign(single.raw)
        rows += [
            [Step(found.name, found.raw, b"")]
            for found in reader.broken(target, page.values)
            if found.kind in ("value_alone", "mismatch")
        ]
        self.tally.counts["twins_deleted"] += self._run(rows)

    # -- deleting the source

    def drop(self, names: Sequence[bytes], *, even_changed: bool) -> None:
        """Delete the tokens of these token entries of the source, each if its twin was opened and equals it.

        Args:
            names: names of token entries.
            even_changed: whether to delete it, too, if its token was disabled, enabled or removed since it was moved.
        """
        pairs, singles, _ = self._tokens(names, even_changed=even_changed)
        rows: list[Row] = []
        for pair, twin in zip(pairs, self._twins(pairs), strict=True):
            if self._equals(pair, twin):
                kind = "dropped"
            elif self._is_changed(pair, twin):
                kind = "dropped" if even_changed else "changed_since"
            else:
                kind = "different"
            if kind != "dropped":
                self.tally.counts[kind] += 1
                continue
            (t_name, v_name), (t_raw, v_raw) = pair.names, pair.raws
            rows.append([*_as_read(twin), Step(v_name, v_raw, b""), Step(t_name, t_raw, b"")])
        for single, its_twin in zip(singles, self._single_twins(singles), strict=True):
            is_changed = its_twin.is_changed(single.lone)
            if its_twin.equals(single.lone) or (is_changed and even_changed):
                rows.append([its_twin.read, Step(single.name, single.raw, b"")])
            else:
                self.tally.counts["changed_since" if is_changed else "different"] += 1
        self.tally.counts["dropped"] += self._run(rows)

    def drop_copies(self, names: Sequence[bytes], *, even_changed: bool) -> None:
        """Delete copies in Acra's layout of single tokens that were drawn in the dense layout, which is in use.

        ``drop`` counts them as different. A copy that was begun and given up has made them, and only their source tells
        it.

        Args:
            names: names of token entries of the target.
            even_changed: as in ``drop``.
        """
        self._reader.begin_page(self._target, names)
        found = [token for token in self._reader.tokens(self._target, names) if not _is_twin(token)]
        singles = [single for single in found if isinstance(single, Single)]
        back = Singles(self._reader, self._target, self._source)
        rows = [
            [Step(single.name, single.raw, LEAVE), Step(twin.name, twin.raw or b"", b"")]
            for single, twin in zip(singles, back.twins(singles), strict=True)
            if twin.equals(single.lone) or (even_changed and twin.is_changed(single.lone))
        ]
        if even_changed:
            rows += back.revoking([tombstone for tombstone in found if isinstance(tombstone, Revoked)])
        done = self._run(rows)
        self.tally.counts["dropped"] += done
        self.tally.counts["different"] -= done

    def drop_tombstones(self, names: Sequence[bytes]) -> None:
        """Delete value entries of the source that are tombstones."""
        found = [entry for entry in self._reader.broken(self._source, names) if entry.kind == "removed"]
        self.tally.counts["tombstones_dropped"] += self._run([[Step(entry.name, entry.raw, b"")] for entry in found])

    def _is_changed(self, pair: Pair, twin: Twin) -> bool:
        """Tell whether the twin is the same token, but disabled, enabled or removed since."""
        content = pair.content
        token, value = self._open(self._target, pair.ring, twin)
        if token is None or content.number not in token.numbers:
            return False
        if token.removed:
            return True
        return (
            token.data == content.value
            and not token.alone
            and value is not None
            and not value.removed
            and value.data == content.token
        )

    # -- twins

    def _tokens(
        self, names: Sequence[bytes], *, even_changed: bool = False
    ) -> tuple[list[Pair], list[Single], list[Revoked]]:
        """Read tokens of the source. Everything else is noted; with ``even_changed`` tombstones and orphans go."""
        self._reader.begin_page(self._source, names)
        pairs: list[Pair] = []
        singles: list[Single] = []
        revoked: list[Revoked] = []
        rows: list[Row] = []
        for found in self._reader.tokens(self._source, names):
            if isinstance(found, Pair):
                pairs.append(found)
            elif isinstance(found, Single):
                singles.append(found)
            elif even_changed and (isinstance(found, Revoked) or found.kind in ("removed", "orphan")):
                rows.append([Step(found.name, found.raw, b"")])
            elif isinstance(found, Revoked):
                revoked.append(found)
                self.tally.find(Finding("removed", found.name, found.raw))
            else:
                self.tally.find(found)
        self.tally.counts["tokens"] += len(pairs) + len(singles)
        self.tally.counts["inconsistent"] += len(singles)
        if rows:
            self.tally.counts["tombstones_dropped"] += self._run(rows)
        return pairs, singles, revoked

    def _note_foreign(self, raw: bytes) -> None:
        """Note if an entry that stays in the target is a foreign one."""
        self.tally.has_foreign |= not self._target.keeps_unpaired and is_foreign(raw)

    def _single_twins(self, singles: Sequence[Single]) -> list[SingleTwin]:
        for single in singles:
            self._claim(single.ring)
        self.tally.has_foreign |= bool(singles) and not self._target.keeps_unpaired
        return self._singles.twins(singles)

    def _twins(self, pairs: Sequence[Pair]) -> list[Twin]:
        for pair in pairs:
            self._claim(pair.ring)
        return self._others(pairs, self._target)

    def _others(self, pairs: Sequence[Pair], side: Side) -> list[Twin]:
        """Read the entries that the tokens have in the other layout."""
        names: list[tuple[bytes, bytes]] = []
        for pair in pairs:
            of, content = side.names(pair.ring), pair.content
            names.append((of.of_token(content.token, content.number), of.of_value(content.value, content.number)))
        raws = iter(self._reader.read([name for both in names for name in both]))
        return [Twin(both, (next(raws), next(raws))) for both in names]

    def _open(self, side: Side, ring: Keyring, twin: Twin) -> tuple[Opened | None, Opened | None]:
        (t_name, v_name), (t_raw, v_raw) = twin
        reader = self._reader
        return (
            None if t_raw is None else reader.open_with(side, ring, "token", t_name, t_raw),
            None if v_raw is None else reader.open_with(side, ring, "value", v_name, v_raw),
        )

    def _equals(self, pair: Pair, twin: Twin) -> bool:
        """Open both entries of a twin, and compare them with the source: type, value, token, state, and days."""
        if None in twin.raws:
            return False
        token, value = self._open(self._target, pair.ring, twin)
        number, its_value, its_token, disabled, token_day, value_day = pair.content
        return (
            token is not None
            and value is not None
            and number in token.numbers
            and number in value.numbers
            and token.data == its_value
            and value.data == its_token
            and token.disabled is value.disabled is disabled
            and not (token.removed or token.alone or value.removed)
            and (token.day, value.day) == (token_day, value_day)
        )

    def _copying(self, pair: Pair, twin: Twin) -> Row | None:
        """Make the row that copies a token. None if the twin's token is that of another value."""
        token, value = self._open(self._target, pair.ring, twin)
        if token is not None and self._belongs_to_another(pair, twin.names[0], token):
            self.tally.find(Finding("conflict", pair.names[0], pair.raws.token))
            return None
        stale: Row = []
        if value is not None and not value.removed and value.data != pair.content.token:
            stale = self._replaced(pair, value.data)
        if pair.ring.unsettled is not None:
            raise pair.ring.unsettled
        made = self._target.seal(pair.ring, pair.content, twin.names, int(self._now()))
        sources = [Step(name, raw, LEAVE) for name, raw in zip(pair.names, pair.raws, strict=True)]
        writes = [Step(name, old or b"", new) for name, old, new in zip(twin.names, twin.raws, made, strict=True)]
        return [*sources, *writes, *stale]

    def _belongs_to_another(self, pair: Pair, t_name: bytes, token: Opened) -> bool:
        """Tell whether a token entry of the target, which this token needs, holds a token that was not moved."""
        if token.removed or token.data == pair.content.value:
            return False
        if not self._target.keeps_unpaired:
            return token.alone
        names = self._target.names(pair.ring)
        v_name = names.of_value(token.data, token.numbers[0])
        [v_raw] = self._reader.read([v_name])
        value = None if v_raw is None else self._reader.open_with(self._target, pair.ring, "value", v_name, v_raw)
        return value is None or names.of_token(value.data, token.numbers[0]) != t_name

    def _replaced(self, pair: Pair, old_token: bytes) -> Row:
        """Make the steps that delete the token which a value had before in the target.

        Else its entry would look like that of an inconsistent token, and a token that was removed would come back.
        """
        number, ring, reader = pair.content.number, pair.ring, self._reader
        if not self._target.keeps_unpaired:
            return []  # ``sweep`` knows it
        t_name = self._target.names(ring).of_token(old_token, number)
        s_name = self._source.names(ring).of_token(old_token, number)
        f_name = self._dense.of(ring).names.of_foreign(old_token, number)
        t_raw, s_raw, f_raw = reader.read([t_name, s_name, f_name])
        token = None if t_raw is None else reader.open_with(self._target, ring, "token", t_name, t_raw)
        sources = [(s_name, s_raw), (f_name, f_raw)]
        is_live = False
        for name, raw in sources:
            source = None if raw is None else reader.open_with(self._source, ring, "token", name, raw)
            is_live |= raw is not None and (source is None or not source.removed)
        if t_raw is None or token is None or token.data != pair.content.value or is_live:
            return []
        return [*(Step(name, raw or b"", LEAVE) for name, raw in sources), Step(t_name, t_raw, b"")]

    def _is_gone(self, ring: Keyring, source: Twin) -> bool:
        """Tell whether the source of a twin was removed.

        In the dense layout that leaves a tombstone. A token of Acra's without any trace there was written by Acra after
        its tokens were moved: it stays.
        """
        if not self._target.keeps_unpaired:
            return None in source.raws
        for opened in self._open(self._source, ring, source):
            if opened is not None and opened.removed:
                return True
        self.tally.counts["only_in_acra"] += None in source.raws
        return False

    def _claim(self, ring: Keyring) -> None:
        """Check that the owner's index key is the one that made the names in the token storage; or note that it does.

        Raises:
            CheckFailed: another index key made them.
        """
        if ring.owner in self._claimed:
            return
        name, check = check_name(ring.owner), self._dense.of(ring).check
        if self._changes:
            self._link.call("SET", name, check, "NX")
        found = self._link.call("GET", name)
        if found is not None and not hmac.compare_digest(found, check):
            raise CheckFailed(
                f"{ring.owner.key_name}: another index key made the names of its entries in the dense layout; restore"
                " that index key from a backup of the key storage"
            )
        self._claimed.add(ring.owner)

    def _run(self, rows: Sequence[Row]) -> int:
        """Change rows. Returns the number of those that were changed; the others were changed by somebody else."""
        if not self._changes:
            return len(rows)
        done = 0
        for start in range(0, len(rows), ROWS_A_SCRIPT):
            part = rows[start : start + ROWS_A_SCRIPT]
            names: list[bytes] = []
            arguments: list[bytes | int] = []
            for row in part:
                arguments.append(len(row))
                for name, old, new in row:
                    names.append(name)
                    arguments += (old, new)
            done += sum(self._link.run(TWINS, names, arguments))
        self.tally.counts["busy"] += len(rows) - done
        return done


def _is_twin(token: Pair | Single | Revoked | Finding) -> bool:
    return not isinstance(token, Pair) and is_foreign(token.raw)


def sum_of(names: Iterable[bytes]) -> int:
    """Return a sum by which two lists of names are compared, in whatever order. A name that occurs twice counts twice.

    The sums of different lists are equal with a chance of 1 in 2^64.
    """
    return sum(map(hash, names))  # keyed anew in each process, so nobody can choose names with equal sums


def _as_read(twin: Twin) -> Row:
    """Steps that only compare."""
    return [Step(name, raw or b"", LEAVE) for name, raw in zip(twin.names, twin.raws, strict=True)]
