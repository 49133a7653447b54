"""Workers and operators in any order, in the dense layout: on one server, and in a cluster command by command."""

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engine_memory import (
    ClusterRun,
    DenseMemory,
    SteppedRun,
    candidate,
    code,
    detokenize,
    run,
    shop_ring,
    tokenize,
)
from token_worker.acra.value_types import STR
from token_worker.errors import Code
from token_worker.storage.dense.entry import DISABLED, REMOVED
from token_worker.storage.dense.layout import read_next, token_plaintext
from token_worker.storage.token_item import TokenItem

VALUE = b"a value"


class Operator:
    """Removes or disables a token: on one server at once, in a cluster with a step for each command.

    In a cluster the value entry is changed first, then the token entry, and then the value entry is looked at again. A
    tombstone that still stands there is written anew with another counter. So a worker that read the tombstone while
    the token entry was enabled cannot replace it any more.
    """

    def __init__(self, memory: DenseMemory, token: bytes, flag: int, *, in_cluster: bool) -> None:
        self._memory, self._entries = memory, memory.entries
        self._token, self._t_key, self._flag = token, memory.token_key(token), flag
        self._change = memory.remove if flag == REMOVED else memory.disable
        self._steps = self._run()
        self._in_cluster = in_cluster

    def advance(self) -> bool:
        if self._in_cluster:
            return next(self._steps, None) is not None
        for _ in self._steps:
            pass
        return False

    def _run(self) -> Iterator[str]:
        entries, t_key = self._entries, self._t_key
        while True:
            t_raw = entries.get(t_key)
            if t_raw is None or self._memory.opened(t_key)[1] & (REMOVED | self._flag):
                return
            v_key = self._memory.value_key(self._memory.opened(t_key)[0][1:])
            yield "token entry read"
            v_raw = entries.get(v_key)
            yield "value entry read"
            if entries.get(v_key) != v_raw:
                continue
            self._change_value(v_key)
            yield "value entry written"
            if entries.get(t_key) != t_raw:
                continue
            self._change(t_key)
            yield "token entry written"
            while True:
                v_raw = entries[v_key]
                yield "value entry read again"
                if entries[v_key] == v_raw:
                    self._change_value_again(v_key)
                    return

    def _change_value(self, v_key: bytes) -> None:
        if v_key not in self._entries:
            held = b"" if self._flag == REMOVED else self._token
            value = self._memory.opened(self._t_key)[0][1:]
            self._memory.put_h(shop_ring(), STR, value, held, flags=self._flag)
            return
        plaintext, flags = self._memory.opened(v_key)
        if read_next(plaintext)[1] == self._token and not flags & (REMOVED | self._flag):
            self._change(v_key)

    def _change_value_again(self, v_key: bytes) -> None:
        if self._memory.opened(v_key)[1] & REMOVED:
            self._memory.move_on(v_key)
        else:
            self._change_value(v_key)


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
