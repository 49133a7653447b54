"""Workers and operators in any order, in the dense layout: on one server, and in a cluster command by command."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engine_memory import (
    ORIGIN,
    SHOP,
    ClusterRun,
    DenseMemory,
    ForeignMemory,
    Nodes,
    SteppedRun,
    candidate,
    code,
    detokenize,
    run,
    shop_ring,
    tokenize,
)
from token_worker.acra.value_types import STR
from token_worker.admin.owner_keys import OwnerKeys
from token_worker.admin.stored_tokens import Token
from token_worker.admin.stored_tokens_dense import DenseTokens
from token_worker.errors import Code
from token_worker.keys.cache import KeyCache
from token_worker.keys.keyring import Keyring
from token_worker.storage.dense.entry import ALONE, DISABLED, FOREIGN, REMOVED
from token_worker.storage.dense.layout import read_next, token_plaintext
from token_worker.storage.token_item import TokenItem
from token_worker.testing.memory import MemoryKeys

VALUE = b"a value"


class Keys(OwnerKeys):
    """The keys of the shop."""

    def ring(self) -> Keyring:
        return shop_ring()

    def open(self, open_with: Callable[[Keyring], Any]) -> Any:
        return open_with(shop_ring())


class Operator:
    """Removes or disables a token by the steps of ``token-worker tokens``: in a cluster, others act between any two."""

    def __init__(self, memory: DenseMemory, token: bytes, flag: int, *, in_cluster: bool) -> None:
        self._entries = Nodes(memory.entries)
        self._stored = DenseTokens(self._entries, Keys(KeyCache(MemoryKeys(), bytes(32)), SHOP), tuple)
        keys = self._stored.names_of_token(token, STR)
        self._t_key = next((key for key in keys if key in memory.entries), keys[0])
        self._flag = flag
        self._steps = self._run()
        self._in_cluster = in_cluster

    def advance(self) -> bool:
        if self._in_cluster:
            return next(self._steps, None) is not None
        for _ in self._steps:
            pass
        return False

    def _run(self) -> Iterator[str]:
        value = b""
        while True:
            [raw] = self._entries.read([self._t_key])
            yield "token entry read"
            found = [] if raw is None else self._stored.open_tokens([(self._t_key, raw)])
            now = found[0] if found else self._stored.of_value(value, STR) if value else None
            if not isinstance(now, Token) or now.t.key != self._t_key:
                return
            if self._flag == DISABLED and now.state == "disabled" and now.is_whole:
                return
            value = now.value
            yield "value entry read"
            if self._flag == REMOVED or now.is_half_gone:
                steps = self._stored.steps_to_remove(now)
            else:
                steps = self._stored.steps_to_set(now, disabled=True)
            for step in steps:
                if not self._entries.change([step]):
                    break
                yield "entry written"
            else:
                return


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.sampled_from([b"a", b"b", b"ab", b"long value"]), min_size=1, max_size=3),
    targets=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from([REMOVED, DISABLED])), max_size=3),
    orphans=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=2),
    before=st.booleans(),
    in_cluster=st.booleans(),
    turns=st.lists(st.integers(0, 6), max_size=80),
)
def test_any_interleaving_with_operators(
    *,
    values: list[bytes],
    targets: list[tuple[int, int, int]],
    orphans: list[tuple[int, int]],
    before: bool,
    in_cluster: bool,
    turns: list[int],
) -> None:
    """In any order of workers and operators, an enabled value entry has its token entry, enabled, of this value.

    On one server that holds at any time; in a cluster when the operators are done. A token that was removed before a
    batch began is no answer of the batch, and no token belongs to two values.
    """
    memory = DenseMemory()
    for at, counter in orphans:  # as a crash leaves them
        value = values[at % len(values)]
        memory.put_t(shop_ring(), STR, candidate(value, counter), value)
    if before:
        run(memory, [tokenize(shop_ring(), value) for value in values])
    batches = [[tokenize(shop_ring(), value) for value in values] for _ in range(2)]
    worker = ClusterRun if in_cluster else SteppedRun
    actors: list[SteppedRun | Operator] = [worker(memory, batch) for batch in batches]
    for at, counter, flag in targets:
        actors.append(Operator(memory, candidate(values[at % len(values)], counter), flag, in_cluster=in_cluster))
    for turn in itertools.chain(turns, itertools.repeat(0)):
        if not actors:
            break
        if not actors[turn % len(actors)].advance():
            del actors[turn % len(actors)]
        if not in_cluster:
            check_invariants(memory, values)
    check_invariants(memory, values)
    removed = removed_tokens(memory)

    last = run(memory, [tokenize(shop_ring(), value) for value in values])

    check_invariants(memory, values)
    assert removed_tokens(memory) == removed
    answers = dict(zip(values, last, strict=True))
    given_out = [token for token in answers.values() if isinstance(token, bytes)]
    assert len(set(given_out)) == len(given_out)
    assert not {memory.token_key(token) for token in given_out} & removed
    for value, token in answers.items():
        if isinstance(token, bytes):
            assert run(memory, [detokenize(shop_ring(), token)]) == [value]
        else:
            assert code(token) is Code.TOKEN_DISABLED


@pytest.mark.parametrize("flag", [REMOVED, DISABLED], ids=["removes", "disables"])
@pytest.mark.parametrize("in_cluster", [False, True], ids=["one server", "cluster"])
@pytest.mark.parametrize("has_tombstone", [False, True], ids=["nothing", "tombstone"])
@pytest.mark.parametrize("has_token", [False, True], ids=["new token", "orphan"])
def test_every_order_of_a_worker_and_an_operator(
    *, flag: int, in_cluster: bool, has_tombstone: bool, has_token: bool
) -> None:
    """In every order of one worker's and one operator's commands, a value entry that is enabled has its token entry.

    The value has a tombstone or nothing, and the token that it gets next may have an entry already.
    """
    for order in itertools.product((True, False), repeat=9):
        memory = DenseMemory()
        if has_tombstone:
            memory.put_h(shop_ring(), STR, VALUE, b"", flags=REMOVED)
        if has_token:
            memory.put_t(shop_ring(), STR, candidate(VALUE), VALUE)
        item = tokenize(shop_ring(), VALUE)
        worker = (ClusterRun if in_cluster else SteppedRun)(memory, [item])
        operator = Operator(memory, candidate(VALUE), flag, in_cluster=in_cluster)
        for is_workers_turn in order:
            (worker if is_workers_turn else operator).advance()
        while operator.advance():
            pass
        while worker.advance():
            pass
        check_invariants(memory, [VALUE])
        check_answer(memory, item)


@pytest.mark.parametrize("flag", [REMOVED, DISABLED], ids=["removes", "disables"])
@pytest.mark.parametrize("kind", [ALONE, ALONE | FOREIGN], ids=["drawn here", "foreign"])
def test_every_order_with_a_token_that_is_alone(*, flag: int, kind: int) -> None:
    """In every order, a token that an operator takes away goes to nobody but the redelivered request that had it."""
    for order in itertools.product((True, False), repeat=7):
        memory = ForeignMemory()
        lone = candidate(VALUE, origin=ORIGIN)
        for token in (lone, candidate(VALUE)):
            memory.put_t(shop_ring(), STR, token, VALUE, flags=kind)
        items = [tokenize(shop_ring(), VALUE), tokenize(shop_ring(), VALUE, origin=ORIGIN)]
        worker = ClusterRun(memory, items)
        operators = [Operator(memory, token, flag, in_cluster=True) for token in (lone, candidate(VALUE))]
        for is_workers_turn in order:
            for actor in [worker] if is_workers_turn else operators:
                actor.advance()
        while any(operator.advance() for operator in operators):
            pass
        while worker.advance():
            pass
        check_invariants(memory, [VALUE])
        consistent, redelivered = (item.result for item in items)
        assert consistent == candidate(VALUE, 1)
        if isinstance(redelivered, bytes):
            assert redelivered in (lone, candidate(VALUE, 1, origin=ORIGIN))
        else:
            assert redelivered is not None
            assert code(redelivered) is Code.TOKEN_DISABLED
        for result in run(memory, [detokenize(shop_ring(), token) for token in (lone, candidate(VALUE))]):
            assert code(result) is (Code.TOKEN_NOT_FOUND if flag == REMOVED else Code.TOKEN_DISABLED)


def check_answer(memory: DenseMemory, item: TokenItem) -> None:
    """Check that an answer is a token of this value, or one that was removed or disabled since."""
    if not isinstance(item.result, bytes):
        assert item.result is not None
        assert code(item.result) is Code.TOKEN_DISABLED
        return
    plaintext, flags = memory.opened(memory.token_key(item.result))
    assert flags == REMOVED or plaintext == token_plaintext(STR.number, item.data)


def removed_tokens(memory: DenseMemory) -> set[bytes]:
    """Names of the token entries that are tombstones."""
    return {name for name in memory.entries if name[:1] == b"t" and memory.opened(name)[1] & REMOVED}


def check_invariants(memory: DenseMemory, values: list[bytes]) -> None:
    """Check that the token entry of each enabled value entry exists and holds the value."""
    for value in values:
        key = memory.value_key(value)
        if key not in memory.entries:
            continue
        plaintext, flags = memory.opened(key)
        if flags:
            continue
        held, token_flags = memory.opened(memory.token_key(read_next(plaintext)[1]))
        assert token_flags == 0
        assert held == token_plaintext(STR.number, value)
