"""Planted bugs: workers that reply before a line of audit was written, handlers that do before tokens are confirmed."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import cast

from simulation.handling import PuppetHandler
from token_worker.errors import Unavailable
from token_worker.redis.link import RedisLink
from token_worker.service.replies import Result
from token_worker.service.worker import Worker
from token_worker.storage.durability import Durability, DurabilityBarrier, NoBarrier
from token_worker.storage.item_group import ItemGroup
from token_worker.storage.token_item import TokenItem
from token_worker.streams.entry import Answer, Entry
from token_worker.telemetry.audit import Audit


class _NoAudit:
    """Writes nothing."""

    def detokenize(self, answers: Iterable[Answer]) -> None:
        pass


class AuditsAfterwards(Worker):
    """Writes the lines of a batch after its commit."""

    def _answer(self, entries: list[Entry], *, isolated: bool, more: bool, last: bool) -> None:
        audit, self._audit = self._audit, cast(Audit, _NoAudit())
        self._later = audit
        super()._answer(entries, isolated=isolated, more=more, last=last)
        self._audit = audit

    def _commit(self, answers: Sequence[Answer], *, more: bool, last: bool) -> None:
        super()._commit(answers, more=more, last=last)
        with suppress(Unavailable):
            self._later.detokenize(answers)


class AuditsNoneIsolated(Worker):
    """Writes no line for isolated entries."""

    def _is_left_out(self, _entry: Entry) -> bool:
        return True

    def _answer(self, entries: list[Entry], *, isolated: bool, more: bool, last: bool) -> None:
        audit = self._audit
        if isolated and self._is_left_out(entries[0]):
            self._audit = cast(Audit, _NoAudit())
        super()._answer(entries, isolated=isolated, more=more, last=last)
        self._audit = audit


class AuditsNoneGivenUp(AuditsNoneIsolated):
    """Writes no line for entries that are given up."""

    def _is_left_out(self, entry: Entry) -> bool:
        return entry.exhausted


class _LenientAudit:
    """Goes on where no line can be written."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    def detokenize(self, answers: Iterable[Answer]) -> None:
        with suppress(Unavailable):
            self._audit.detokenize(answers)


class RepliesUnaudited(Worker):
    """Replies while the audit file cannot be written."""

    def _answer(self, entries: list[Entry], *, isolated: bool, more: bool, last: bool) -> None:
        audit, self._audit = self._audit, cast(Audit, _LenientAudit(self._audit))
        super()._answer(entries, isolated=isolated, more=more, last=last)
        self._audit = audit


class _NotAlways(PuppetHandler):
    """Does not confirm every batch."""

    def _run_unconfirmed(self, items: list[TokenItem], groups: Sequence[ItemGroup]) -> None:
        barrier, self._tokens.barrier = self._tokens.barrier, NoBarrier()
        try:
            super()._run(items, groups)
        finally:
            self._tokens.barrier = barrier


class ConfirmsFirstTries(_NotAlways):
    """Does not confirm a batch with entries that were taken again."""

    def _run(self, items: list[TokenItem], groups: Sequence[ItemGroup] = ()) -> None:
        is_again = any(item.form[0].deliveries > 1 for item in items)
        (self._run_unconfirmed if is_again else super()._run)(items, groups)


class ConfirmsConsistent(_NotAlways):
    """Does not confirm a batch whose tokens are inconsistent."""

    def _run(self, items: list[TokenItem], groups: Sequence[ItemGroup] = ()) -> None:
        are_inconsistent = all(item.origin is not None for item in items)
        (self._run_unconfirmed if are_inconsistent else super()._run)(items, groups)


class ConfirmsAllTokens(_NotAlways):
    """Confirms a batch only where all of it asks for tokens."""

    def _run(self, items: list[TokenItem], groups: Sequence[ItemGroup] = ()) -> None:
        (super()._run if all(item.tokenize for item in items) else self._run_unconfirmed)(items, groups)


class TrustsAnyConnection(PuppetHandler):
    """Takes the confirmation of a connection that was made anew."""

    def _make_barrier(self, link: RedisLink) -> DurabilityBarrier:
        return _AnyConnection(link, Durability(replicas=1), 1)


class _AnyConnection(DurabilityBarrier):
    def wait(self, items: Iterable[TokenItem] = (), groups: Iterable[ItemGroup] = ()) -> None:
        try:
            super().wait(items, groups)
        except Unavailable as error:
            if error.reason != "connection was replaced":
                raise


class TrustsTheFirstTime(PuppetHandler):
    """Replies to a batch whose confirmation failed when it is handled again."""

    def handle(self, entries: Iterable[Entry]) -> list[Result]:
        try:
            return super().handle(entries)
        except Unavailable as error:
            if error.reason.endswith("replicas confirmed"):
                self._tokens.barrier = NoBarrier()
            raise
