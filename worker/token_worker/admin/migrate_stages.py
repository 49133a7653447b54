"""The stages of ``tokens migrate``: the copy beside workers, the finish without them, and the drop afterwards.

**Finish.** A full scan brings the twins up to date, whatever was copied before. Then the record in the token storage is
written, as ``unfinished``: no worker starts any more. A second full scan, in both directions, must find no difference.
Only then the record in the key storage is written, and ``unfinished`` goes from the other: workers start in the new
layout. If the second scan finds a difference, somebody still writes; the record in the token storage is put back.

If a finish is killed, the records may differ. The same command completes it. No worker has used the new layout then,
because ``unfinished`` stands there. If the records differ without it, one storage is older than the other. Then the
layout that the token storage records may hold what the other one does not: nothing is touched.

Without any record, Acra's layout is in use; or both records were lost. So entries of the dense layout that no move has
made are not taken for copies then: nothing is touched, either.

Touches the entries of both layouts, and the records: ``token-worker:layout`` and ``<folder>.layout``.
"""

import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import NamedTuple

from msgspec.structs import replace

from token_worker.acra.owner import Owner
from token_worker.admin.key_store import AdminStore
from token_worker.admin.layout import (
    Records,
    end_move,
    layout_of_name,
    plan_change,
    read_records,
    strings,
    write_records,
)
from token_worker.admin.migrate import Mover, sum_of
from token_worker.admin.migrate_findings import refuse
from token_worker.admin.migrate_reading import FindingKind, Reader
from token_worker.admin.migrate_rows import Tally
from token_worker.admin.migrate_scan import Page, Place, Walk, read_place, save_place
from token_worker.admin.migrate_sides import AcraSide, DenseSide, Side
from token_worker.errors import CheckFailed, Refused, TokenWorkerError, Unavailable
from token_worker.keys.cache import KeyCache
from token_worker.keys.keyring import Keyring
from token_worker.keys.layout_record import TOKENS_RECORD, LayoutName, LayoutRecord, encode_record, new_record
from token_worker.redis.link import RedisLink
from token_worker.redis.script import Script
from token_worker.storage.dense.entry import check_name
from token_worker.storage.durability import DurabilityBarrier

_REPLACE = Script(__package__, "replace.lua")

OWNERS_A_READ = 500
"""Owners whose keys are read by one command."""

OWNERS_NAMED = 5
"""Most owners that an error names."""

_ALREADY = "this is the layout already"


class Stage(NamedTuple):
    """The servers, keys and settings that a stage works on.

    Attributes:
        store: the key storage.
        link: the token storage.
        reader: reads its entries.
        acra: Acra's layout.
        dense: the dense layout.
        owners: clients and zones that have a key.
        rate: most tokens in a second.
        progress: is called with the part that is done, from 0 to 1, and the counts so far.
    """

    store: AdminStore
    link: RedisLink
    reader: Reader
    acra: AcraSide
    dense: DenseSide
    owners: list[Owner]
    rate: float
    progress: Callable[[float, Tally], object]

    def mover(self, to: LayoutName, *, changes: bool) -> Mover:
        """Make what moves tokens into a layout."""
        sides = (self.acra, self.dense) if to == "dense" else (self.dense, self.acra)
        return Mover(self.link, self.reader, *sides, changes=changes)

    def side(self, layout: LayoutName) -> AcraSide | DenseSide:
        """Return a layout by its name."""
        return self.acra if layout == "acra" else self.dense

    def walk(self, tally: Tally, start: float = 0.0, end: float = 1.0) -> Walk:
        """Make a walk that takes this part of the whole time."""
        return Walk(self.link, self.rate, lambda part: self.progress(start + part * (end - start), tally))


def open_stage(
    store: AdminStore,
    link: RedisLink,
    keys: KeyCache,
    owners: list[Owner],
    *,
    rate: float,
    progress: Callable[[float, Tally], object],
    needs_all: bool,
) -> Stage:
    """Read the keys of all owners.

    Args:
        store: as in ``Stage``, like ``link``, ``owners``, ``rate`` and ``progress``.
        link: see there.
        keys: with index keys. It has to hold the keys of all owners.
        owners: see there.
        rate: see there.
        progress: see there.
        needs_all: whether each owner must have an index key. Without one, it has no entries in the dense layout.

    Raises:
        CheckFailed: an owner has no index key, or one that cannot be read.
        Unavailable: the key storage is away.
    """
    rings = list(_rings(keys, owners))
    without = [ring.owner.key_name for ring in rings if ring.index is None]
    unreadable = [ring.owner.key_name for ring in rings if ring.index_state == "unreadable"]
    if unreadable:
        raise CheckFailed(f"the master key does not open the index key of {_some(unreadable)}")
    if without and needs_all:
        raise CheckFailed(f"no index key: {_some(without)}; make them with `token-worker keys index --all`")
    return Stage(store, link, Reader(link, keys), AcraSide(owners), DenseSide(rings), owners, rate, progress)


def _rings(keys: KeyCache, owners: list[Owner]) -> Iterator[Keyring]:
    for start in range(0, len(owners), OWNERS_A_READ):
        for found in keys.rings(owners[start : start + OWNERS_A_READ]).values():
            if isinstance(found, Unavailable):
                raise found
            if not isinstance(found, Refused):  # entries of the others are reported as unreadable
                yield found


def _some(names: list[str]) -> str:
    more = f" and {len(names) - OWNERS_NAMED} more" if len(names) > OWNERS_NAMED else ""
    return ", ".join(names[:OWNERS_NAMED]) + more


def _read_direction(stage: Stage, to: LayoutName, *, changes: bool) -> Records:
    """Read the records, and check that the old layout is in use.

    A move into the old layout that was interrupted is taken back: its record goes from the token storage.

    Raises:
        CheckFailed: the new layout is in use, or the records are those of different storages or times.
    """
    found = read_records(stage.store, stage.link)
    _check_interrupted(found)
    if found.layout != to:
        if found.in_keys is not None or found.in_tokens is None or found.in_tokens.layout == to:
            plan_change(found, to)  # raises if the records are those of different storages
        return found
    if found.problem() is not None:
        change = plan_change(found, to)
        if changes and change is not None:
            write_records(stage.store, stage.link, found, change.record)
            raise CheckFailed(f"{_ALREADY}; a move into {_other(to)} that was interrupted is taken back")
        raise CheckFailed(str(found.problem()))
    raise CheckFailed(_ALREADY)


def _check_interrupted(found: Records) -> None:
    """Refuse if the records differ, but not by a finish that was interrupted."""
    problem, in_tokens = found.problem(), found.in_tokens
    if problem is None or in_tokens is None:
        return
    if in_tokens.layout != found.layout:
        is_known = in_tokens.unfinished
    else:  # without ``unfinished``, the records of a first move were being written, or the ids differ
        is_older = found.in_keys is not None and found.in_keys.foreign != in_tokens.foreign
        is_known = not (in_tokens.unfinished or is_older)
    if not is_known:
        raise CheckFailed(f"{problem}. Nothing was changed")


def _check_copies(link: RedisLink, found: Records, layout: LayoutName) -> None:
    """Check that entries of a layout that is not in use are copies, if there is no record to tell it.

    Raises:
        CheckFailed: they may be the tokens in use, and the records lost.
    """
    if found.in_keys is not None or found.in_tokens is not None or read_place(link, layout) is not None:
        return
    if any(layout_of_name(name) == layout for names in strings(link) for name in names):
        raise CheckFailed(
            f"there is no record of the layout, and the token storage has tokens of layout {layout} that no move has"
            " made: both records were lost; restore the records, or write new ones (docs/layouts.md). Nothing was"
            " changed"
        )


# -- copy


def copy(stage: Stage, to: LayoutName, *, dry_run: bool, resume: bool) -> Tally:
    """Copy the tokens, while workers go on in the old layout.

    Raises:
        CheckFailed: the new layout is in use, or may be.
        Unavailable: a server is away.
    """
    _check_copies(stage.link, _read_direction(stage, to, changes=False), to)
    mover = stage.mover(to, changes=not dry_run)
    tally = mover.tally
    source = stage.side("acra" if to == "dense" else "dense")
    start = (read_place(stage.link, to) if resume else None) or "0"
    if not dry_run:
        save_place(stage.link, Place(to=to, cursor=start))
    for page in stage.walk(tally).pages(source, start=start, to=None if dry_run else to):
        mover.copy(page.tokens)
        mover.check_values(page.values)
    if not dry_run:
        save_place(stage.link, Place(to=to, cursor="0"))
    return tally


# -- finish


class Finished(NamedTuple):
    """The result of a finish.

    Attributes:
        tally: of the first scan.
        seconds: time that the finish took. So long the workers had to be stopped, at least.
    """

    tally: Tally
    seconds: float


def finish(
    stage: Stage,
    to: LayoutName,
    *,
    leave: AbstractSet[FindingKind],
    check_workers: Callable[[], object],
    barrier: DurabilityBarrier,
    dry_run: bool,
) -> Finished:
    """Bring all twins up to date, compare all, and record the new layout.

    Args:
        stage: the storages.
        to: the new layout.
        leave: findings that stay behind in the old layout.
        check_workers: raises ``CheckFailed`` if a worker is active.
        barrier: waits until the copies are as safe as new tokens of workers are.
        dry_run: change nothing. The first scan tells what would be done.

    Raises:
        CheckFailed: it cannot be done now. The old layout is still recorded.
        Unavailable: a server is away. Run the same command again.
    """
    begin = time.monotonic()
    check_workers()
    barrier.open()
    if not dry_run and _end_interrupted(stage, to):
        return Finished(Tally(), time.monotonic() - begin)
    found = _read_direction(stage, to, changes=not dry_run)
    _check_copies(stage.link, found, to)
    if found.in_keys is None and not dry_run:  # both records first: if this is killed, they tell what was interrupted
        old = found.in_tokens or new_record(_other(to), time.time())
        if old.layout != to:
            write_records(stage.store, stage.link, found, old)
            found = read_records(stage.store, stage.link)
    change = plan_change(found, to)
    if change is None:
        raise CheckFailed(_ALREADY)
    tally = _bring_up_to_date(stage, to, dry_run=dry_run)
    refuse(tally, leave)
    if not dry_run:
        record = replace(change.record, foreign=tally.has_foreign)
        door = replace(record, unfinished=True)
        with_door = _close_door(stage.link, found, door)
        try:
            check_workers()
            _check_twins(stage, record, leave)
            barrier.wait()
            check_workers()
        except BaseException:
            with suppress(TokenWorkerError):  # then the same command has to be run again
                _open_door(stage.link, with_door, found)
            raise
        closed = read_records(stage.store, stage.link)
        if closed.in_tokens != door:
            raise CheckFailed("another command took the move back meanwhile; the layout was not changed")
        save_place(stage.link, None)  # before the new layout is used: its entries are no copies then
        end_move(stage.store, stage.link, closed, record)
    return Finished(tally, time.monotonic() - begin)


def _end_interrupted(stage: Stage, to: LayoutName) -> bool:
    """End a finish that was killed before its last write. Returns False if there is none."""
    found = read_records(stage.store, stage.link)
    in_keys, in_tokens = found.in_keys, found.in_tokens
    if in_keys is None or in_tokens is None or in_keys.layout != to:
        return False
    if not in_tokens.unfinished or in_keys != in_tokens.finished:
        return False
    end_move(stage.store, stage.link, found, in_keys)
    return True


def _bring_up_to_date(stage: Stage, to: LayoutName, *, dry_run: bool) -> Tally:
    """Copy what has no equal twin, and delete twins without a source.

    Mostly the names show that there are none, and no value entry without a token either. Else all entries are opened.
    """
    mover = stage.mover(to, changes=not dry_run)
    tally, source, target = mover.tally, stage.side(_other(to)), stage.side(to)
    value_names = 0
    for page in stage.walk(tally, 0.0, 0.4).pages(source):
        mover.copy(page.tokens)
        value_names += sum_of(page.values)
    if value_names != mover.value_names:
        for page in stage.walk(tally, 0.4, 0.45).pages(source):
            mover.check_values(page.values)
    if _has_twins_alone(stage, target, mover, 0.45):
        return tally
    for page in stage.walk(tally, 0.45, 0.5).pages(target):
        mover.sweep(page)
    return tally


def _check_twins(stage: Stage, record: LayoutRecord, leave: AbstractSet[FindingKind]) -> None:
    """Compare every token with its twin, in both directions, and the record with the entries."""
    to = record.layout
    mover = stage.mover(to, changes=False)
    tally, target = mover.tally, stage.side(to)
    for page in stage.walk(tally, 0.5, 0.9).pages(stage.side(_other(to))):
        mover.copy(page.tokens)
    if not _has_twins_alone(stage, target, mover, 0.9):
        for page in stage.walk(tally, 0.9, 1.0).pages(target):
            mover.sweep(Page(page.tokens, []))
    differences = tally.counts["copied"] + tally.counts["twins_deleted"]
    differences = differences or int(tally.has_foreign and not record.foreign)  # another copy made the first of them
    if differences:
        raise CheckFailed(
            f"tokens changed meanwhile ({differences:,}): somebody still writes entries of layout {_other(to)}. Stop"
            " the services of Acra and the commands that use them, then run the command again. The layout was not"
            " changed"
        )
    refuse(tally, leave)


def _has_twins_alone(stage: Stage, target: Side, mover: Mover, part: float) -> bool:
    """Tell whether the target has exactly the twins of the tokens that were copied, by their names."""
    pages = stage.walk(mover.tally, part, part).pages(target)
    names = sum(sum_of(page.tokens) + sum_of(page.values) for page in pages)
    return names == mover.twin_names


def _other(layout: LayoutName) -> LayoutName:
    return "acra" if layout == "dense" else "dense"


def _close_door(link: RedisLink, found: Records, record: LayoutRecord) -> bytes:
    """Write the record of the token storage alone: from now on the records differ, and no worker starts."""
    text = encode_record(record)
    if found.in_tokens != record and not link.run(_REPLACE, [TOKENS_RECORD], [found.tokens_text or b"", text]):
        raise CheckFailed("the layout record was changed meanwhile; run the command again")
    return text


def _open_door(link: RedisLink, text: bytes, found: Records) -> None:
    """Put the record of the token storage back to that of the key storage, which still says the old layout."""
    if found.in_keys is not None:
        link.run(_REPLACE, [TOKENS_RECORD], [text, encode_record(found.in_keys)])


# -- drop


def drop(stage: Stage, layout: LayoutName, *, even_changed: bool, dry_run: bool) -> Tally:
    """Delete the entries of a layout that is not in use any more, each if its twin equals it.

    Args:
        stage: the storages.
        layout: whose entries are deleted.
        even_changed: delete tokens, too, that were disabled, enabled or removed since they were moved.
        dry_run: only count.

    Raises:
        CheckFailed: the layout is in use, or may be, or the records do not agree.
    """
    found = read_records(stage.store, stage.link)
    problem = found.problem()
    if problem is not None:
        raise CheckFailed(str(problem))
    if found.layout == layout:
        raise CheckFailed(f"{layout} is the layout in use: nothing was deleted")
    _check_copies(stage.link, found, layout)
    mover = stage.mover(found.layout, changes=not dry_run)
    tally, side = mover.tally, stage.side(layout)
    for page in stage.walk(tally).pages(side):
        mover.drop(page.tokens, even_changed=even_changed)
        if layout == "dense" and even_changed:
            mover.drop_tombstones(page.values)
    if layout == "acra" and tally.counts["different"]:
        for page in stage.walk(tally).pages(stage.dense):
            mover.drop_copies(page.tokens, even_changed=even_changed)
    if (
        layout == "dense"
        and not dry_run
        and not any(page.tokens or page.values for page in stage.walk(tally).pages(side))
    ):
        for owner in stage.owners:  # without entries a check value has no meaning, and would forbid a new index key
            stage.link.call("DEL", check_name(owner))
    return tally
