"""The token engine on a dictionary, in both layouts: it records the steps, and a test acts between any two of them."""

from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import TokenEntry, decode_entry, encode_entry, encode_token_value
from token_worker.acra.value_types import STR, TokenType
from token_worker.admin.entry_store import EntryChange
from token_worker.errors import Code, Refused, Unavailable
from token_worker.keys.cache import KeySearch
from token_worker.keys.keyring import DataKeyCache, Keyring
from token_worker.storage.acra.layout import AcraLayout
from token_worker.storage.dense import entry
from token_worker.storage.dense.entry import ALONE, DISABLED, FOREIGN, REMOVED
from token_worker.storage.dense.layout import (
    DenseLayout,
    alone_plaintext,
    foreign_plaintext,
    open_entry,
    read_alone,
    read_next,
    token_plaintext,
    value_plaintext,
)
from token_worker.storage.engine import Engine, FindKeys, Steps
from token_worker.storage.item_group import ItemGroup
from token_worker.storage.layout import Layout
from token_worker.storage.steps import WRITTEN, Adopt, Outcome, Row, Store
from token_worker.storage.token_item import ItemResult, TokenItem
from token_worker.testing.memory import MemoryTokens
from token_worker.tokens.derivation import PLAIN, Deriver, Origin

NOW = 1_800_000_000
SHOP = Owner("client", "shop-frontend")
BILLING = Owner("client", "billing_service")
KEY = bytes(range(32))
OLD_KEY = bytes(range(32, 64))
INDEX_KEY = bytes(range(64, 96))
DERIVER = Deriver(KEY, SHOP)
ORIGIN = Origin(b"tokenize:requests", b"1-1", 0)

IN_GROUPS = False
"""If this is true, the engine is given items in groups. The fixture ``guess_after`` sets it for some runs."""

MoreOf = Callable[[Keyring], KeySearch | Unavailable]


def new_ring(*keys: bytes, owner: Owner = SHOP, index_key: bytes = INDEX_KEY) -> Keyring:
    """Make a keyring whose first key seals."""
    current, *older = keys or (KEY,)
    made = Keyring(owner, current, DataKeyCache(), index_key, "present")
    for key in older:
        made.add(key)
    return made


@cache
def shop_ring() -> Keyring:
    """The keyring with both keys of the shop: the same in all tests, as computing keys takes the time of many steps."""
    return new_ring(KEY, OLD_KEY)


class EngineMemory(MemoryTokens):
    """A token storage in a dictionary.

    Attributes:
        steps: that the engine asked for.
        meddle: called before each step.
    """

    layout: Layout

    def __init__(self) -> None:
        super().__init__(self.new_layout())
        self.steps: list[Any] = []
        self.meddle: Callable[[Any], None] = lambda _: None

    @property
    def step_names(self) -> list[str]:
        return [type(step).__name__ for step in self.steps]

    def execute(self, step: Any) -> Any:
        self.meddle(step)
        self.steps.append(step)
        return super().execute(step)

    def once(self, kind: type[Any], action: Callable[[], object]) -> None:
        """Do something before the first step of this kind."""
        done: list[bool] = []

        def meddle(step: Any) -> None:
            if isinstance(step, kind) and not done:
                done.append(True)
                action()

        self.meddle = meddle

    def value_key(self, value: bytes, kind: TokenType = STR, ring: Keyring | None = None) -> bytes:
        """Name of a value entry."""
        return self.layout.prepare(ring or shop_ring()).names.of_value(value, kind.number)

    def token_key(self, token: bytes, kind: TokenType = STR, ring: Keyring | None = None) -> bytes:
        """Name of a token entry."""
        return self.layout.prepare(ring or shop_ring()).names.of_token(token, kind.number)

    @abstractmethod
    def new_layout(self) -> Layout:
        """Make a layout."""

    @abstractmethod
    def put_t(
        self, ring: Keyring, kind: TokenType, token: bytes, value: bytes, *, disabled: bool = False, age: int = 0
    ) -> bytes:
        """Put a token entry, made ``age`` seconds ago; its name."""

    @abstractmethod
    def put_h(self, ring: Keyring, kind: TokenType, value: bytes, token: bytes, *, disabled: bool = False) -> bytes:
        """Put a value entry; its name."""

    @abstractmethod
    def disable(self, key: bytes) -> None:
        """Disable an entry that ``KEY`` or ``OLD_KEY`` of the shop seals."""

    @abstractmethod
    def is_disabled(self, key: bytes) -> bool:
        """Tell if an entry is disabled."""

    @abstractmethod
    def damaged(self, raw: bytes) -> bytes:
        """Return an entry with the last byte of its ciphertext changed."""


class AcraMemory(EngineMemory):
    """Entries as AcraServer writes them."""

    def new_layout(self) -> Layout:
        return AcraLayout()

    def put_t(
        self, ring: Keyring, kind: TokenType, token: bytes, value: bytes, *, disabled: bool = False, age: int = 0
    ) -> bytes:
        key = self.token_key(token, kind, ring)
        self.entries[key] = acra_entry(ring, encode_token_value(value, kind.number), NOW - age, disabled=disabled)
        return key

    def put_h(self, ring: Keyring, kind: TokenType, value: bytes, token: bytes, *, disabled: bool = False) -> bytes:
        key = self.value_key(value, kind, ring)
        self.entries[key] = acra_entry(ring, token, disabled=disabled)
        return key

    def disable(self, key: bytes) -> None:
        self.entries[key] = encode_entry(decode_entry(self.entries[key])._replace(disabled=True))

    def is_disabled(self, key: bytes) -> bool:
        return decode_entry(self.entries[key]).disabled

    def damaged(self, raw: bytes) -> bytes:
        entry = decode_entry(raw)
        return encode_entry(entry._replace(block=entry.block[:-1] + bytes([entry.block[-1] ^ 1])))


def acra_entry(ring: Keyring, inside: bytes, accessed: int = NOW, *, disabled: bool = False) -> bytes:
    """An entry of Acra's layout with anything inside."""
    return encode_entry(TokenEntry(ring.seal(inside), accessed, accessed, disabled=disabled))


class DenseMemory(EngineMemory):
    """Entries as our layout has them, and what operators do to them."""

    layout: DenseLayout

    def new_layout(self) -> DenseLayout:
        return DenseLayout()

    def put_t(
        self,
        ring: Keyring,
        kind: TokenType,
        token: bytes,
        value: bytes,
        *,
        disabled: bool = False,
        age: int = 0,
        flags: int = 0,
    ) -> bytes:
        names, number = self.layout.prepare(ring).names, kind.number
        key = names.of_foreign(token, number) if flags & FOREIGN else names.of_token(token, number)
        flags |= DISABLED if disabled else 0
        if not flags & ALONE:
            plaintext = token_plaintext(number, value)
        elif flags & (FOREIGN | REMOVED):
            plaintext = foreign_plaintext(number, names.data_id(token, number), value)
        else:
            plaintext = alone_plaintext(number, token, value)
        self.entries[key] = self.sealed(ring, key, plaintext, flags, NOW - age)
        return key

    def put_h(
        self,
        ring: Keyring,
        kind: TokenType,
        value: bytes,
        token: bytes,
        *,
        disabled: bool = False,
        next_counter: int = 0,
        flags: int = 0,
    ) -> bytes:
        key = self.value_key(value, kind, ring)
        flags |= DISABLED if disabled else 0
        self.entries[key] = self.sealed(ring, key, value_plaintext(kind.number, next_counter, token), flags)
        return key

    def sealed(self, ring: Keyring, key: bytes, plaintext: bytes, flags: int = 0, now: int = NOW) -> bytes:
        """Seal an entry with any plaintext."""
        seal_key = self.layout.prepare(ring).seal_key
        return seal_key.seal(key, seal_key.head(flags, entry.day_of(now)), plaintext)

    def opened(self, key: bytes, ring: Keyring | None = None) -> tuple[bytes, int]:
        """Plaintext and flags of an entry."""
        ring = ring or shop_ring()
        return open_entry(self.layout.prepare(ring), ring, key, self.entries[key])

    def disable(self, key: bytes) -> None:
        self._change(key, add=DISABLED)

    def enable(self, key: bytes) -> None:
        self._change(key, drop=DISABLED)

    def is_disabled(self, key: bytes) -> bool:
        return bool(self.opened(key)[1] & DISABLED)

    def damaged(self, raw: bytes) -> bytes:
        return raw[:-1] + bytes([raw[-1] ^ 1])

    def remove(self, key: bytes) -> None:
        """Make a tombstone of an entry."""
        plaintext, flags = self.opened(key)
        if flags & ALONE:
            alone = read_alone(self.layout.prepare(shop_ring()).names, key, plaintext, flags)
            plaintext = foreign_plaintext(plaintext[0], alone.data_id, b"")
        else:
            content = read_next(plaintext)[1] if key[:1] == b"v" else plaintext[1:]
            plaintext = plaintext[: -len(content)]
        self._reseal(key, plaintext, flags & (ALONE | FOREIGN) | REMOVED)

    def remove_token(self, value: bytes, token: bytes) -> None:
        """Remove a token of type ``str`` as operators do: its value entry first."""
        self.remove(self.value_key(value))
        self.remove(self.token_key(token))

    def _change(self, key: bytes, add: int = 0, drop: int = 0) -> None:
        plaintext, flags = self.opened(key)
        self._reseal(key, plaintext, flags & ~drop | add)

    def _reseal(self, key: bytes, plaintext: bytes, flags: int) -> None:
        self.entries[key] = self.sealed(shop_ring(), key, plaintext, flags)


class ForeignMemory(DenseMemory):
    """The dense layout where there may be foreign entries."""

    def new_layout(self) -> DenseLayout:
        return DenseLayout(has_foreign=True)


MEMORIES: dict[str, type[AcraMemory] | type[DenseMemory]] = {"acra": AcraMemory, "dense": DenseMemory}
"""By the name of the layout."""


def no_more(_: Keyring) -> KeySearch | Unavailable:
    """Find no further key."""
    return KeySearch.EXHAUSTED


def drive(steps: Steps, memory: EngineMemory, more: MoreOf = no_more) -> None:
    """Perform all steps of a run; a run that does not end is a failure."""
    answer: Any = None
    for _ in range(1000):
        try:
            step = steps.send(answer)
        except StopIteration:
            return
        answer = _answer_to(step, memory, more)
    raise AssertionError("the engine does not come to an end")


def _answer_to(step: Any, memory: EngineMemory, more: MoreOf = no_more) -> Any:
    if isinstance(step, FindKeys):
        memory.steps.append(step)
        return [more(ring) for ring in step.rings]
    return memory.execute(step)


def run(
    memory: EngineMemory, items: Iterable[TokenItem], *, now: int = NOW, more: MoreOf = no_more
) -> list[ItemResult]:
    """Run items on a new engine, and return their results."""
    items = list(items)
    drive(steps_of(Engine(memory.layout), items, now), memory, more)
    results = [item.result for item in items]
    assert all(result is not None for result in results)
    return [result for result in results if result is not None]


def steps_of(engine: Engine, items: list[TokenItem], now: int) -> Steps:
    """Yield the steps of an engine that runs items. With ``IN_GROUPS`` it gets groups of them, if none has a format."""
    are_plain = IN_GROUPS and all(item.format is None for item in items)
    in_groups = [item for item in items if are_plain and item.origin is None]
    groups: dict[tuple[Keyring, int, bool], tuple[ItemGroup, list[TokenItem]]] = {}
    for item in in_groups:
        key = item.ring, item.kind.number, item.tokenize
        group, members = groups.setdefault(key, (ItemGroup(item.ring, item.kind, item.tokenize, []), []))
        group.data.append(item.data)
        members.append(item)
    others = [item for item in items if item not in in_groups]
    yield from engine.run(others, now, [group for group, _ in groups.values()])
    for group, members in groups.values():
        for item, result in zip(members, group.results, strict=True):
            item.result = result


def tokenize(ring: Keyring, data: bytes, kind: TokenType = STR, origin: Origin | None = None) -> TokenItem:
    return TokenItem(ring, kind, data, tokenize=True, origin=origin)


def detokenize(ring: Keyring, data: bytes, kind: TokenType = STR) -> TokenItem:
    return TokenItem(ring, kind, data, tokenize=False)


def candidate(value: bytes, counter: int = 0, kind: TokenType = STR, origin: Origin | None = None) -> bytes:
    """The candidate that ``KEY`` of the shop draws."""
    return DERIVER.token(PLAIN[kind.name], value, counter, origin)


def code(result: ItemResult) -> Code:
    """The code of a refusal."""
    assert isinstance(result, Refused), type(result)
    return result.code


class SteppedRun:
    """A worker, step by step."""

    def __init__(self, memory: EngineMemory, items: list[TokenItem], now: int = NOW) -> None:
        self._steps = steps_of(Engine(memory.layout), items, now)
        self._memory = memory
        self._answer: Any = None

    def advance(self) -> bool:
        """Execute the next step. Return False if there is none."""
        try:
            step = self._steps.send(self._answer)
        except StopIteration:
            return False
        self._execute(step)
        return True

    def _execute(self, step: Any) -> None:
        self._answer = _answer_to(step, self._memory)


class ClusterRun(SteppedRun):
    """A worker whose token storage is a cluster: every write of an entry is a step."""

    def __init__(self, memory: EngineMemory, items: list[TokenItem], now: int = NOW) -> None:
        super().__init__(memory, items, now)
        self._parts: Generator[None, None, list[Outcome]] | None = None

    def advance(self) -> bool:
        """Write the next entry, or execute the next step. Return False if there is none."""
        if self._parts is None:
            return super().advance()
        try:
            next(self._parts)
        except StopIteration as stop:
            self._parts, self._answer = None, stop.value
            return super().advance()
        return True

    def write_value(self, row: Row) -> Outcome:
        """Write a value entry where there is nothing, or the tombstone that was read."""
        held = self._memory.entries.get(row.h_key)
        if held is not None and not (row.h_old and held == row.h_old):
            return Outcome("value", held)
        self._memory.entries[row.h_key] = row.h_value
        return WRITTEN

    def _execute(self, step: Any) -> None:
        if isinstance(step, Store | Adopt):
            self._parts = self._write(step)
        else:
            super()._execute(step)

    def _write(self, step: Store | Adopt) -> Generator[None, None, list[Outcome]]:
        """Write as ``storage.cluster_tokens`` does: all token entries first. A pause after each command."""
        outcomes = []
        for row in step.rows:
            outcomes.append(self._write_token(row, is_new=isinstance(step, Store)))
            yield
        for at, row in enumerate(step.rows):
            if outcomes[at] is WRITTEN and row.h_key:
                outcomes[at] = self.write_value(row)
                yield
        return outcomes

    def _write_token(self, row: Row, *, is_new: bool) -> Outcome:
        """Write a token entry where there is nothing, or look if it is still the same."""
        entries = self._memory.entries
        if not is_new:
            return WRITTEN if entries.get(row.t_key) == row.t_value else Outcome("changed")
        held = entries.setdefault(row.t_key, row.t_value)
        return WRITTEN if held == row.t_value else Outcome("token", held)


class Nodes:
    """The entries as commands of operators use them, each on a node of its own.

    Attributes:
        before: called ahead of each command to a node.
        compares: False plants a bug: entries are changed without a look.
    """

    def __init__(self, entries: dict[bytes, bytes]) -> None:
        self.entries = entries
        self.before: Callable[[], None] = lambda: None
        self.compares = True

    def names(self, pattern: bytes, count: int) -> Iterator[list[bytes]]:
        first = pattern[1 : pattern.index(b"]")] if pattern[:1] == b"[" else pattern[:1]
        yield [name for name in self.entries if name[0] in first]

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self._get(key) for key in keys]

    def change(self, steps: Sequence[EntryChange]) -> int:
        for done, (key, old, new) in enumerate(steps):
            if (self._get(key) or b"") != old and self.compares:
                return done
            if new:
                self.entries[key] = new
            else:
                self.entries.pop(key, None)
        return len(steps)

    def confirm(self) -> None:
        pass

    def _get(self, key: bytes) -> bytes | None:
        self.before()
        return self.entries.get(key)
