"""Tokens are drawn, changed and moved at random, where tokens are few: whatever the order, none goes astray."""

import itertools
import random
from contextlib import closing
from unittest import mock

import pytest

from harness.direct import DirectHandler, Message
from harness.moving import CLIENT, Moving, copied, finished
from harness.servers import Valkey
from token_worker.acra.value_types import STR
from token_worker.admin.migrate_stages import drop
from token_worker.admin.stored_tokens import Token
from token_worker.admin.tokens import TokenFilter
from token_worker.errors import CheckFailed
from token_worker.keys.layout_record import LayoutName

STEPS = 60
LETTERS = "abcdef"
SEEDS = 24, 33, 59, 65
"""In these, a token that was revoked is drawn again in Acra's layout, and comes back."""


class Walk:
    """Tokens as they should be.

    Attributes:
        live: value and state of each token that was given, and not removed.
        consistent: the token of each value.
        removed: tokens that were removed, and not given again.
        revoked: those of which the dense layout still has tombstones.
    """

    def __init__(self, moving: Moving, chance: random.Random) -> None:
        self.moving = moving
        self.chance = chance
        self.layout: LayoutName = "acra"
        self.live: dict[str, tuple[str, bool]] = {}
        self.consistent: dict[str, str] = {}
        self.removed: set[str] = set()
        self.revoked: set[str] = set()
        self._numbers = itertools.count(1, 100)

    @property
    def other(self) -> LayoutName:
        return "dense" if self.layout == "acra" else "acra"

    def ask(self, requests: list[Message]) -> list[str]:
        """Values, or codes of errors."""
        with DirectHandler(self.moving.server, self.moving.master_key, layout=self.layout) as handler:
            asked = [{"client_id": CLIENT.id, "type": "str", **request} for request in requests]
            replies = handler.ask(asked, first=next(self._numbers))
        return [str(reply["value"] if reply["status"] == "ok" else reply["error"]["code"]) for reply in replies]

    def draw(self) -> None:
        """Give tokens to some values, consistently or not."""
        wanted = [(self.chance.choice(LETTERS), self.chance.random() < 0.4) for _ in range(self.chance.randrange(1, 5))]
        given = self.ask([{"op": "tokenize", "value": value, "consistent": how} for value, how in wanted])
        for (value, is_consistent), token in zip(wanted, given, strict=True):
            if token == "token_disabled":
                assert any(held == value and disabled for held, disabled in self.live.values())
                continue
            assert self.live.get(token, (value, False)) == (value, False)
            if self.layout == "dense":
                assert token not in self.revoked
            self.removed.discard(token)
            self.revoked.discard(token)
            self.live[token] = value, False
            if is_consistent:
                assert self.consistent.setdefault(value, token) == token

    def change(self) -> None:
        """Disable, enable or remove a token."""
        if not self.live:
            return
        token = self.chance.choice(sorted(self.live))
        what = self.chance.choice(["disable", "enable", "remove"])
        with self.moving.admin(self.layout) as admin:
            found = admin.of_token(token.encode(), STR)
            assert isinstance(found, Token)
            if what == "remove":
                assert admin.remove(found, TokenFilter())
            else:
                assert admin.set_disabled(found, disabled=what == "disable")
        value, _ = self.live[token]
        if what != "remove":
            self.live[token] = value, what == "disable"
            return
        del self.live[token]
        self.removed.add(token)
        if self.layout == "dense":
            self.revoked.add(token)
        if self.consistent.get(value) == token:
            del self.consistent[value]

    def copy(self) -> None:
        copied(self.moving, self.other)

    def move(self) -> None:
        """Move to the other layout. A token that it holds for another value is refused, until that is deleted."""
        try:
            finished(self.moving, self.other)
        except CheckFailed as error:
            if "that the new layout holds for another value" not in str(error):
                raise
            left = self.moving.dense if self.other == "dense" else self.moving.names("tokens/*")
            self.moving.storage.delete(*left)
            if self.other == "dense":
                self.revoked.clear()
            finished(self.moving, self.other)
        self.layout = self.other

    def drop(self) -> None:
        even_changed = self.chance.random() < 0.5
        with self.moving.stage() as stage:
            drop(stage, self.other, even_changed=even_changed, dry_run=False)
        if self.other == "dense" and even_changed:
            self.revoked.clear()

    def check(self) -> None:
        """Check every token, and the value of every consistent one."""
        tokens, gone = sorted(self.live), sorted(self.removed)
        back = self.ask([{"op": "detokenize", "value": token} for token in [*tokens, *gone]])
        for token, answer in zip(tokens, back, strict=False):
            value, is_disabled = self.live[token]
            assert answer == ("token_disabled" if is_disabled else value)
        assert set(back[len(tokens) :]) <= {"token_not_found"}
        values = sorted(self.consistent)
        for value, answer in zip(
            values, self.ask([{"op": "tokenize", "value": value} for value in values]), strict=True
        ):
            token = self.consistent[value]
            assert answer == ("token_disabled" if self.live[token][1] else token)


@pytest.mark.parametrize("seed", SEEDS)
def test_tokens_that_move_at_random(storage_server: Valkey, seed: int) -> None:
    """Each token gives back its value in the layout in use, and none comes back after its removal, but from Acra."""
    with mock.patch("os.urandom", random.Random(f"k{seed}").randbytes):  # keys decide which tokens are drawn
        moving = Moving(storage_server, bytes(32))
    chance = random.Random(seed)
    with closing(moving):
        walk = Walk(moving, chance)
        for _ in range(STEPS):
            step = chance.choices([walk.draw, walk.change, walk.copy, walk.move, walk.drop], [6, 5, 2, 2, 1])[0]
            step()
            walk.check()
