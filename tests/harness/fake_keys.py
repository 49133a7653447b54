"""A key storage and a clock that tests of the key cache control."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from token_worker.acra.key_name import HISTORY_INFIX
from token_worker.acra.owner import Owner
from token_worker.errors import Unavailable
from token_worker.keys.index_key import KeyTexts, seal_index_key
from token_worker.keys.store import wrap

T = TypeVar("T")

MASTER_KEY = bytes(range(32))
AWAY = Unavailable("keys", "ConnectionError")


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1e-6  # as with a real one, no two readings are equal
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class FakeStore:
    """A key storage in a dictionary that counts what it is asked.

    Attributes:
        sealed: texts by name, without the folder.
        index: texts of index keys, by the name of the owner's key.
        is_away: raise ``Unavailable`` from now on.
        scan_answers: errors that the next scans of the history raise; None for a scan that succeeds.
        looked_up: every owner asked for, in order.
        read_names: every name of the history that was read, in order.
        scans: number of scans of the history.
        listed: number of times that the names of an owner's history were listed.
    """

    def __init__(self, clock: Clock) -> None:
        self.sealed: dict[str, bytes] = {}
        self.index: dict[str, bytes] = {}
        self.is_away = False
        self.scan_answers: list[Unavailable | None] = []
        self.looked_up: list[Owner] = []
        self.read_names: list[str] = []
        self.scans = 0
        self.listed = 0
        self.scan_began: float | None = None
        self._clock = clock
        self._names: list[str] = []
        self._names_since = float("-inf")

    def put(self, owner: Owner, key: bytes, stamp: str = "") -> None:
        name = owner.key_name + (HISTORY_INFIX + stamp if stamp else "")
        self.sealed[name] = wrap(key, MASTER_KEY, owner)

    def rotate(self, owner: Owner, key: bytes, stamp: str = "2026-01-01T00:00:00") -> None:
        self.sealed[owner.key_name + HISTORY_INFIX + stamp] = self.sealed[owner.key_name]
        self.put(owner, key)

    def current(self, owners: Sequence[Owner]) -> list[bytes | None]:
        self.looked_up += owners
        return self._read([owner.key_name for owner in owners])

    def put_index(self, owner: Owner, key: bytes, master_key: bytes = MASTER_KEY) -> None:
        self.index[owner.key_name] = seal_index_key(key, master_key, owner)

    def current_with_index(self, owners: Sequence[Owner]) -> list[KeyTexts]:
        keys = self.current(owners)
        return [KeyTexts(key, self.index.get(owner.key_name)) for key, owner in zip(keys, owners, strict=True)]

    def read(self, names: Sequence[str]) -> list[bytes | None]:
        self.read_names += names
        return self._read(names)

    def _read(self, names: Sequence[str]) -> list[bytes | None]:
        if self.is_away:
            raise AWAY
        return [self.sealed.get(name) for name in names]

    def history_names(self, owner: Owner, since: float) -> tuple[list[str], bool]:
        self.listed += 1
        names = [name for name in self._names if name.startswith(owner.key_name + HISTORY_INFIX)]
        return names, self._names_since > since

    def refresh_history(self) -> None:
        self.scans += 1
        answer = self.scan_answers.pop(0) if self.scan_answers else None
        if answer is not None:
            raise answer
        began = self._clock() if self.scan_began is None else self.scan_began
        self._names, self._names_since = sorted(self.sealed, reverse=True), began

    def create(self, owner: Owner, sealed: bytes) -> bool:
        raise NotImplementedError


class ByHand:
    """Does the jobs it is given when a test says so.

    Attributes:
        jobs: those that are not done yet, in order.
    """

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []

    def submit(self, job: Callable[[], T]) -> "Future[T]":
        future: Future[T] = Future()

        def do() -> None:
            try:
                future.set_result(job())
            except Exception as error:  # noqa: BLE001 - as a thread does
                future.set_exception(error)

        self.jobs.append(do)
        return future

    def do(self) -> None:
        """Do all jobs there are."""
        while self.jobs:
            self.jobs.pop(0)()

    def close(self) -> None:
        """Do nothing: no thread has to end."""
