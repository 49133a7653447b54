"""Tokens of every kind in one layout, and what has to be true of them after they were moved into the other."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, NamedTuple
from unittest import mock

from harness.direct import DirectHandler, Message
from harness.key_places import Fuse, InVault, Killed
from harness.servers import Valkey
from token_worker.acra.owner import Owner
from token_worker.acra.token_entry import EntryNames, decode_entry, encode_entry
from token_worker.acra.value_types import TYPES
from token_worker.admin import migrate_stages
from token_worker.admin.entry_store import ServerEntries
from token_worker.admin.index_keys import owners_with_keys
from token_worker.admin.key_store import AdminStore, RedisAdminStore
from token_worker.admin.layout import read_records
from token_worker.admin.migrate_rows import Tally
from token_worker.admin.migrate_stages import Stage, copy, drop, finish, open_stage
from token_worker.admin.stored_tokens import Token as StoredToken
from token_worker.admin.tokens import TokenAdmin, TokenFilter
from token_worker.keys.cache import KeyCache
from token_worker.keys.index_key import index_path, seal_index_key
from token_worker.keys.layout_record import LayoutName, layout_path
from token_worker.keys.store import RedisKeyStore, VaultKeyStore, new_key, wrap
from token_worker.keys.vault_kv import VaultKv
from token_worker.redis.address import RedisSettings
from token_worker.redis.link import RedisLink
from token_worker.settings.vault import VaultSettings
from token_worker.storage.durability import NoBarrier

CLIENT = Owner("client", "shop-frontend")
ZONE = Owner("zone", "DDDDDDDDzoneone")
FOLDER = ".acrakeys"
STR = TYPES["str"].number
FORMATS: list[Message] = [{"name": "card", "kind": "pan", "keep_first": 6, "min_space": 1000}]

OF_ALL_KINDS: list[Message] = [
    {"type": "int32", "value": -7},
    {"type": "int64", "value": 2**60},
    {"type": "str", "value": "a value of many words"},
    {"type": "str", "value": "x"},
    {"type": "bytes", "value": "AAEC/w=="},
    {"type": "email", "value": "grace@navy.example"},
    {"type": "str", "value": "4111111111111111", "format": "card"},
    {"type": "str", "value": "with a zone", "zone_id": ZONE.id},
    {"type": "str", "value": "ü" * 300},
]
"""Requests without ``op`` and ``client_id``."""

_NAMES = EntryNames(CLIENT)


class Given(NamedTuple):
    """A token that was given for a request."""

    request: Message
    token: Any

    def __repr__(self) -> str:
        """Show neither value nor token: a test that fails prints this."""
        return f"Given({self.request['type']})"


class Token(NamedTuple):
    """The answer of a layout for a token, without its value: errors by their codes."""

    tokenized: str
    detokenized: str


SAME = Token("same", "same")
DISABLED = Token("token_disabled", "token_disabled")


class Moving:
    """A server with keys and index keys of a client and a zone.

    Args:
        server: holds keys and tokens.
        master_key: of the key storage.
    """

    def __init__(self, server: Valkey, master_key: bytes) -> None:
        self.server = server
        self.master_key = master_key
        self.storage: Any = server.client()
        self.keys = {owner: new_key() for owner in (CLIENT, ZONE)}
        for owner, key in self.keys.items():
            self.storage.set(f"{FOLDER}/{owner.key_name}", wrap(key, master_key, owner))
            self.storage.set(index_path(FOLDER, owner), seal_index_key(new_key(), master_key, owner))

    def close(self) -> None:
        self.storage.close()

    def ask(self, layout: LayoutName, requests: Sequence[Message]) -> list[Message]:
        """Replies of a worker that has just started in this layout."""
        with DirectHandler(self.server, self.master_key, formats=FORMATS, layout=layout) as handler:
            return handler.ask([{"client_id": CLIENT.id, **request} for request in requests])

    def give(self, requests: Sequence[Message], layout: LayoutName = "acra") -> list[Given]:
        """Tokenize. Every request must get a token."""
        replies = self.ask(layout, [{"op": "tokenize", **request} for request in requests])
        assert {reply["status"] for reply in replies} == {"ok"}
        return [Given(request, reply["value"]) for request, reply in zip(requests, replies, strict=True)]

    def answers(self, layout: LayoutName, given: Sequence[Given]) -> list[Token]:
        """Ask a worker for tokens and their values. Each answer is ``same``, ``other``, or the code of an error."""
        values = self.values(layout, given)
        tokens = self.ask(layout, [{"op": "tokenize", **request} for request, _ in given])
        return [
            Token(_compare(token, each.token), value) for each, token, value in zip(given, tokens, values, strict=True)
        ]

    def values(self, layout: LayoutName, given: Sequence[Given]) -> list[str]:
        """Ask a worker for the values of tokens: each is ``same``, ``other``, or the code of an error."""
        back = [_without_form(request) | {"op": "detokenize", "value": token} for request, token in given]
        values = self.ask(layout, back)
        return [_compare(value, each.request["value"]) for each, value in zip(given, values, strict=True)]

    def acra_content(self, name: bytes) -> tuple[int, bool]:
        """Day of creation and state of an entry of Acra's."""
        entry = decode_entry(self.storage.get(name))
        return entry.created // 86400, entry.disabled

    def names(self, pattern: str) -> list[bytes]:
        """Names in the storage."""
        return sorted(self.storage.scan_iter(pattern, count=1000))

    @property
    def dense(self) -> dict[bytes, bytes]:
        """All entries of the dense layout, as they are stored."""
        names = [name for name in self.names("[tv]" + "?" * 15) if not name.startswith(b"token-worker")]
        return dict(zip(names, self.storage.mget(names), strict=True)) if names else {}

    @contextmanager
    def stage(self, fuse: "Kill | None" = None) -> Iterator[Stage]:
        """The stages of the command, in this process."""
        address = RedisSettings(url=self.server.url)
        with (
            closing(RedisLink("keys", address, raise_server_errors=True)) as keys_link,
            closing(RedisLink("tokens", address, raise_server_errors=True)) as link,
        ):
            store = RedisAdminStore(keys_link, FOLDER)
            keys = KeyCache(RedisKeyStore(keys_link, FOLDER), self.master_key, with_index=True)
            if fuse is not None:
                fuse.wire(link)
                fuse.wire(keys_link)
            yield self._open_stage(store, link, keys)

    @staticmethod
    def _open_stage(store: AdminStore, link: RedisLink, keys: KeyCache) -> Stage:
        return open_stage(
            store,
            link,
            keys,
            owners_with_keys(store),
            rate=float("inf"),
            progress=lambda _part, _tally: None,
            needs_all=True,
        )

    @contextmanager
    def admin(self, layout: LayoutName) -> Iterator[TokenAdmin]:
        """The commands on tokens of the client."""
        with self.stage() as stage:
            yield TokenAdmin(ServerEntries(stage.link), stage.reader.keys, CLIENT, layout=layout, rate=1e9)

    @staticmethod
    def found(admin: TokenAdmin, given: Given) -> StoredToken:
        """The token of a text, as a command finds it."""
        found = admin.of_token(given.token.encode(), TYPES["str"])
        assert isinstance(found, StoredToken)
        return found

    def foreign_name(self, given: Given) -> bytes:
        """Name of the foreign entry of a text."""
        with self.stage() as stage:
            ring = stage.reader.ring(CLIENT)
            assert ring is not None
            return stage.dense.of(ring).names.of_foreign(given.token.encode(), STR)


class MovingInVault(Moving):
    """The same with keys, index keys and the record of the layout in Vault. Workers have copies of the keys in Redis.

    Attributes:
        fuse: ends the process at a call to Vault for the record.
    """

    def __init__(self, server: Valkey, master_key: bytes, place: InVault) -> None:
        super().__init__(server, master_key)
        self.fuse: Fuse | None = None
        self._place = place
        for name in self.names(f"{FOLDER}*"):
            place.put(name.decode().replace(FOLDER, place.folder, 1), self.storage.get(name))
        settings = VaultSettings(address=place.settings["VAULT_ADDR"], token=place.settings["VAULT_TOKEN"])
        store = VaultKeyStore(VaultKv(settings), "secret", place.folder)
        self._keys = KeyCache(store, master_key, with_index=True)

    def forget_record(self) -> None:
        """Delete the record of the layout in Vault, if there is one."""
        self._place.api("DELETE", f"secret/metadata/{layout_path(self._place.folder)}")

    @contextmanager
    def stage(self, fuse: "Kill | None" = None) -> Iterator[Stage]:
        """The stages of the command, in this process."""
        with closing(RedisLink("tokens", RedisSettings(url=self.server.url), raise_server_errors=True)) as link:
            if fuse is not None:
                fuse.wire(link)
            yield self._open_stage(self._place.store(self.fuse), link, self._keys)


class Kill:
    """Ends a process at its n-th command to a server: from then on no command is done.

    Attributes:
        calls: commands so far.
    """

    def __init__(self, at: int = 0, *, before: bool = False) -> None:
        self.calls = 0
        self._at = at
        self._before = before

    def wire(self, link: RedisLink) -> None:
        """Let the commands of a connection count."""
        call: Callable[..., Any] = link.call

        def counted(*command: Any) -> Any:
            self.calls += 1
            if self._at and (self.calls > self._at or (self._before and self.calls == self._at)):
                raise Killed
            answer = call(*command)
            if self.calls == self._at:
                raise Killed
            return answer

        link.call = counted  # type: ignore[method-assign]


def words(count: int) -> list[Message]:
    """Requests for so many texts."""
    return [{"type": "str", "value": f"value {number}"} for number in range(count)]


def t_name(given: Given) -> bytes:
    """Name of the token entry of a text in Acra's layout."""
    return _NAMES.of_token(given.token.encode(), STR)


def v_name(given: Given) -> bytes:
    """Name of the value entry of a text in Acra's layout."""
    return _NAMES.of_value(given.request["value"].encode(), STR)


def set_disabled(moving: Moving, given: Given, *, disabled: bool, half: str = "both") -> None:
    """Disable or enable a text of the client in Acra's layout, as the commands do."""
    for name in {"both": [t_name(given), v_name(given)], "token": [t_name(given)], "value": [v_name(given)]}[half]:
        moving.storage.set(name, encode_entry(decode_entry(moving.storage.get(name))._replace(disabled=disabled)))


def remove_in_dense(moving: Moving, given: Given) -> None:
    """Remove the token of a text in the dense layout, as the command does."""
    with moving.admin("dense") as admin:
        assert admin.remove(moving.found(admin, given), TokenFilter())


def copied(moving: Moving, to: LayoutName = "dense") -> Tally:
    """Copy, as the command does without ``--finish``."""
    with moving.stage() as stage:
        return copy(stage, to, dry_run=False, resume=False)


def finished(moving: Moving, to: LayoutName = "dense", leave: Any = frozenset(), before_check: Any = None) -> Tally:
    """Finish. ``before_check`` is called just before the second scan."""
    calls = 0

    def check_workers() -> None:
        nonlocal calls
        calls += 1
        if calls == 2 and before_check is not None:
            before_check()

    with moving.stage() as stage:
        return finish(stage, to, leave=leave, check_workers=check_workers, barrier=NoBarrier(), dry_run=False).tally


def interrupt(moving: Moving) -> None:
    """Kill a finish into the dense layout when no worker starts any more, before the new layout is recorded."""

    def kill() -> None:
        raise Killed

    with mock.patch.object(migrate_stages, "_open_door"):
        try:
            finished(moving, before_check=kill)
        except Killed:
            return
    raise AssertionError("the finish was not interrupted")


def drop_acra(moving: Moving) -> Tally:
    """Delete the entries of Acra's layout whose twins are the same."""
    with moving.stage() as stage:
        return drop(stage, "acra", even_changed=False, dry_run=False)


def layout_of(moving: Moving) -> tuple[LayoutName, str | None]:
    """The layout in use, and the problem of the records, if there is one."""
    with moving.stage() as stage:
        found = read_records(stage.store, stage.link)
    problem = found.problem()
    return found.layout, None if problem is None else str(problem)


def _without_form(request: Message) -> Message:
    return {name: member for name, member in request.items() if name not in ("format", "consistent")}


def _compare(reply: Message, expected: object) -> str:
    if reply["status"] != "ok":
        return str(reply["error"]["code"])
    return "same" if str(reply["value"]) == str(expected) else "other"  # large numbers are text in JSON
