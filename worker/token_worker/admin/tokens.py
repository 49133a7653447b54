"""The tokens of one client or zone for operators, who count, disable, remove, verify and encrypt them again.

Entries are found by SCAN, page by page, at a given rate. Every change is a compare-and-set of all entries of a token;
see ``entry_store``. So it undoes nothing that Acra, a worker or another operator did meanwhile. What entries are, and
in which order they change, is the layout's; see ``stored_tokens``.

Values and tokens are shown only to a person who asks for a single one.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from token_worker.acra.owner import Owner
from token_worker.acra.value_types import TokenType
from token_worker.admin.entry_store import EntryChange, EntryStore
from token_worker.admin.owner_keys import OwnerKeys
from token_worker.admin.stored_tokens import Finding, Side, StoredTokens, Token, TokenState, Unreadable
from token_worker.admin.stored_tokens_acra import AcraTokens
from token_worker.admin.stored_tokens_dense import DenseTokens
from token_worker.errors import CheckFailed, CorruptData
from token_worker.keys.cache import KeyCache
from token_worker.keys.layout_record import LayoutName

PAGE_ENTRIES = 200
"""COUNT of a SCAN, and entries that are processed together."""

CHANGE_ATTEMPTS_MAX = 5
"""Attempts to change a token that others keep changing."""


class TokenFilter(NamedTuple):
    """Selects tokens. A token is selected if all conditions that are set hold.

    Attributes:
        kind: the token has this type.
        state: the token is in this state.
        unused_since: the token was last used before this time (Unix seconds). Only in a layout that knows it.
        created_before: the token was created before this time (Unix seconds).
    """

    kind: TokenType | None = None
    state: TokenState | None = None
    unused_since: float | None = None
    created_before: float | None = None

    def takes(self, token: Token) -> bool:
        """Return True if the filter selects the token."""
        return (
            self.kind in (None, token.kind)
            and self.state in (None, token.state)
            and (self.unused_since is None or (token.accessed is not None and token.accessed < self.unused_since))
            and (self.created_before is None or token.t.created < self.created_before)
        )


class Reencrypted(NamedTuple):
    """The result of ``reencrypt``.

    Attributes:
        sealed: entries that were encrypted again, or with a dry run would be.
        passes: passes over all entries.
        unreadable: entries that no key opens.
    """

    sealed: int
    passes: int
    unreadable: int


class TokenAdmin:
    """The token entries of one owner.

    Args:
        entries: the token storage; its errors are raised as they are.
        keys: the keys of the owner. For the dense layout, the cache looks up index keys, too.
        owner: client or zone.
        layout: layout of the tokens.
        list_owners: returns all owners that have an index key. It is called if an entry does not open.
        rate: most entries to read in a second.
        progress: is called with the number of entries that were read so far.

    Attributes:
        stored: the tokens in their layout.

    Raises:
        Refused: the owner has no key that can be read.
        CheckFailed: in the dense layout, the owner's index key cannot be used.
        Unavailable: the key storage is away.
    """

    def __init__(
        self,
        entries: EntryStore,
        keys: KeyCache,
        owner: Owner,
        *,
        layout: LayoutName = "acra",
        list_owners: Callable[[], Iterable[Owner]] = tuple,
        rate: float,
        progress: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._entries = entries
        self._keys = OwnerKeys(keys, owner)
        self._rate = rate
        self._progress = progress
        self._keys.ring()
        self.stored: StoredTokens = (
            AcraTokens(entries, self._keys) if layout == "acra" else DenseTokens(entries, self._keys, list_owners)
        )

    # -- reading

    def tokens(self, chosen: TokenFilter) -> Iterator[Token | Unreadable]:
        """All selected tokens, and every token entry that cannot be read. A token may come twice."""
        for page in self.pages("token"):
            for found in self.stored.open_tokens(page):
                if isinstance(found, Unreadable) or chosen.takes(found):
                    yield found

    def of_value(self, value: bytes, kind: TokenType) -> Token | Unreadable | None:
        """The token of an encoded value, or None. It may be half gone."""
        return self.stored.of_value(value, kind)

    def of_token(self, token: bytes, kind: TokenType) -> Token | Unreadable | None:
        """The token that an encoded token is, or None."""
        for name in self.stored.names_of_token(token, kind):
            found = self._token_at(name)
            if found is not None:
                return found._replace(token=token) if isinstance(found, Token) else found
        return None

    def check_token(self, token: Token) -> Finding | None:
        """Return what is wrong with a token, if ``check_values`` does not find it."""
        return self.stored.check_token(token)

    def check_values(self) -> Iterator[Finding | Unreadable]:
        """All value entries that cannot be read, or do not fit their token entry; see also ``check_token``."""
        for page in self.pages("value"):
            yield from self.stored.check_values(page)

    def pages(self, side: Side) -> Iterator[list[tuple[bytes, bytes]]]:
        """All entries of one side, page by page: their names and what they hold. An entry may come twice."""
        seen, due = 0, time.monotonic()
        for names in self._entries.names(self.stored.pattern(side), PAGE_ENTRIES):
            time.sleep(max(0.0, due - time.monotonic()))
            keys = list(filter(self.stored.includes, names))
            due = time.monotonic() + len(keys) / self._rate
            for start in range(0, len(keys), PAGE_ENTRIES):
                part = keys[start : start + PAGE_ENTRIES]
                yield [(key, raw) for key, raw in zip(part, self._entries.read(part), strict=True) if raw is not None]
            seen += len(keys)
            self._progress(seen)

    # -- changing

    def set_disabled(self, token: Token, *, disabled: bool) -> bool:
        """Disable or enable both entries. Returns False if others kept changing them."""
        wanted: TokenState = "disabled" if disabled else "enabled"
        return self._change(
            token,
            lambda now: self.stored.steps_to_set(now, disabled=disabled),
            lambda now: now.state != wanted or not now.is_whole,
        )

    def remove(self, token: Token, chosen: TokenFilter) -> bool:
        """Remove both entries, if the filter still selects the token.

        A value entry that names another token stays. Returns False if others kept changing the entries.
        """
        return self._change(token, self.stored.steps_to_remove, lambda now: now.is_half_gone or chosen.takes(now))

    def confirm(self) -> None:
        """Wait until all changes are as safe as the settings ask for; raises ``Unavailable`` if that takes too long."""
        self._entries.confirm()

    def repair(self, finding: Finding) -> bool:
        """Put a finding right. Returns False if it has no repair, or if its entries have changed."""
        return bool(finding.repair) and self._entries.change(finding.repair) == len(finding.repair)

    def reencrypt(self, *, dry_run: bool = False) -> Reencrypted:
        """Encrypt entries of older keys again, with the newest key. Repeats passes until one finds no such entry.

        Each entry is changed by itself, and only if it is unchanged. At every moment it is either the old or the new
        one, and both can be read.

        Raises:
            CheckFailed: workers still seal with an older key, because the newest one is settling.
        """
        self._keys.ring()
        seconds_left = self._keys.cache.settling_seconds_left(self._keys.owner)
        if seconds_left > 0:
            raise CheckFailed(
                f"{self._keys.owner.key_name}: workers seal with the old key for {seconds_left:.0f} s more; run the"
                " command again then"
            )
        sealed = passes = 0
        while True:
            passes += 1
            found = 0
            unreadable: set[bytes] = set()
            for key, raw in self._all_entries():
                try:
                    new = self.stored.reseal(key, raw)
                except CorruptData:
                    unreadable.add(key)
                    continue
                if new is not None:
                    found += 1
                    if not dry_run:  # if the entry was changed meanwhile, the next pass finds it again
                        self._entries.change([EntryChange(key, raw, new)])
            sealed += found
            if not found or dry_run:
                return Reencrypted(sealed, passes, len(unreadable))

    def _all_entries(self) -> Iterator[tuple[bytes, bytes]]:
        sides: tuple[Side, Side] = ("token", "value")
        for side in sides:
            for page in self.pages(side):
                yield from page

    def _change(
        self, token: Token, steps: Callable[[Token], list[EntryChange]], is_due: Callable[[Token], bool]
    ) -> bool:
        now: Token | Unreadable | None = token
        has_begun = False
        for _ in range(CHANGE_ATTEMPTS_MAX):
            if now is None or isinstance(now, Unreadable):
                return now is None
            if not has_begun and not is_due(now):
                return True
            wanted = self.stored.steps_to_remove(now) if now.is_half_gone else steps(now)
            done = self._entries.change(wanted)
            if done == len(wanted):
                return True
            has_begun |= any(step.old != step.new for step in wanted[:done])
            now = self._read_again(now)
        return False

    def _read_again(self, token: Token) -> Token | Unreadable | None:
        """Read a token again. If only its value entry is left, return that."""
        found = self._token_at(token.t.key)
        if found is not None:
            return found._replace(token=token.token) if isinstance(found, Token) else found
        left = self.stored.of_value(token.value, token.kind)
        return left if isinstance(left, Token) and left.is_half_gone and left.t.key == token.t.key else None

    def _token_at(self, t_key: bytes) -> Token | Unreadable | None:
        [raw] = self._entries.read([t_key])
        return None if raw is None else next(iter(self.stored.open_tokens([(t_key, raw)])), None)
