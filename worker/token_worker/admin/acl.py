"""Redis ACL users for the routes. Each user has the commands and keys that it needs, and no more. Pure.

Commands and keys stand together in selectors (Redis 7.0). So a right on one key is not a right on another: a worker may
SET its low-water mark, but not a stream. Redis checks the commands of a script against the same rules. Users are *off*
until they have a password.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from token_worker.errors import CheckFailed
from token_worker.keys.index_key import index_folder
from token_worker.keys.layout_record import MOVE_PLACE, TOKENS_RECORD, LayoutName, layout_path
from token_worker.redis.address import Kind, RedisSettings
from token_worker.storage.dense.entry import NAME_BYTES
from token_worker.storage.durability import MARK, Durability
from token_worker.streams.routes import Route, keys_of, may_reply_to, streams_of

Server = Literal["streams", "keys", "tokens"]
Role = Literal["worker", "monitor", "operator", "producer", "reader", "client"]

_OTHERS: frozenset[Role] = frozenset({"producer", "reader", "client"})
"""Roles of programs that use a Redis client of their own choice."""

_NAME_CHARACTERS_MAX = 100
"""Most characters of a user's name: it is a part of a file's name and of a key in a Kubernetes Secret (253)."""

_SCRIPTS = ("eval", "evalsha")
_READING_SCRIPTS = ("eval_ro", "evalsha_ro")
_LOOK = ("xinfo|stream", "xinfo|groups", "xinfo|consumers", "xpending", "xrange", "xlen")
_WORK = (
    *_LOOK,
    *("xreadgroup", "xclaim", "xgroup|create", "xgroup|setid", "xgroup|destroy", "xgroup|delconsumer"),
    *("xack", "xadd", "xtrim"),
    *("memory|usage", "type", "exists", "expire"),
)
_OF_WORKERS: dict[Kind, tuple[str, ...]] = {
    "server": (),
    "sentinel": ("role",),
    "cluster": ("cluster|slots", "asking"),
}
"""Further commands that workers and operators need, by the kind of address."""

_OF_OTHERS: dict[Kind, tuple[str, ...]] = {
    "server": (),
    "sentinel": ("role",),
    "cluster": ("cluster|slots", "cluster|shards", "cluster|nodes", "asking", "command"),
}
"""Further commands that producers and readers need: their Redis clients differ from ours."""

_OF_LAYOUTS: dict[LayoutName, tuple[str, ...]] = {
    "acra": ("tokens/*",),
    "dense": tuple(kind + "?" * (NAME_BYTES - 1) for kind in "vtc"),
}
"""Patterns of the names in the token storage. In the dense layout each has the same length."""

_GROUP_READING = ("xreadgroup", "xack", "xautoclaim", "xgroup|create")


class Selector(msgspec.Struct, frozen=True):
    """Commands that are allowed on keys; ``keys`` are patterns with their permission (``~``, ``%R~``, ``%W~``)."""

    commands: tuple[str, ...]
    keys: tuple[str, ...]

    def __str__(self) -> str:
        return f"({' '.join([*self.keys, *(f'+{name}' for name in self.commands)])})"


class User(msgspec.Struct, frozen=True):
    """An ACL user of one server.

    Attributes:
        server: the server that the user is for.
        role: what the user is for.
        name: the name: letters, digits, ``.``, ``_`` and ``-``. So it fits a URL and a key of a Kubernetes Secret.
        commands: commands that take no key.
        selectors: commands that take keys.
    """

    server: Server
    role: Role
    name: str
    commands: tuple[str, ...]
    selectors: tuple[Selector, ...]

    def rules(self, password: str | None) -> list[str]:
        """Arguments of ACL SETUSER, with the hash of the password. Without a password the user is off."""
        state = ["off"] if password is None else ["on", f"#{hashlib.sha256(password.encode()).hexdigest()}"]
        commands = [f"+{name}" for name in self.commands]
        return ["reset", *state, *commands, *(str(selector) for selector in self.selectors)]

    def line(self, password: str | None) -> str:
        """The user as a line of an ACL file. After ``ACL SET`` in front of it, it is a command."""
        return " ".join(["user", self.name, *self.rules(password)])


def users(
    routes: Sequence[Route],
    folder: str,
    durability: Durability,
    servers: Mapping[Server, RedisSettings],
    *,
    reply_groups: bool,
    layout: LayoutName | None = None,
) -> list[User]:
    """All users that the routes need.

    Args:
        routes: the configured routes.
        folder: prefix of the key storage.
        durability: how safe tokens are before a reply.
        servers: addresses of the servers.
        reply_groups: True if readers of replies use consumer groups.
        layout: the layout of the tokens; None for rights in each layout.

    Raises:
        CheckFailed: a name has a space, which no ACL can express.
    """
    for name in [*streams_of(routes), *(route.reply_to for route in routes), folder]:
        if " " in name:
            raise CheckFailed(f"{name}: an ACL cannot express a name with a space; choose another")
    layouts: Sequence[LayoutName] = [*_OF_LAYOUTS] if layout is None else [layout]
    found = [
        *_on_streams(routes, reply_groups=reply_groups),
        *_on_storage(folder, durability, layouts, servers["tokens"].kind),
    ]
    return [_behind(servers[user.server], user) for user in found]


def _behind(address: RedisSettings, user: User) -> User:
    """Add the commands that a user needs to find the right server and database."""
    more = (_OF_OTHERS if user.role in _OTHERS else _OF_WORKERS)[address.kind]
    select = ("select",) if address.selects else ()
    return msgspec.structs.replace(user, commands=tuple(dict.fromkeys((*user.commands, *more, *select))))


def too_wide(routes: Sequence[Route]) -> list[Route]:
    """Routes whose ``reply_to`` also matches keys of routes.

    An ACL cannot exclude those keys, so it grants nothing of such a ``reply_to``.
    """
    own = keys_of(routes)
    return [route for route in routes if any(may_reply_to(route, name, frozenset()) for name in own)]


def _on_streams(routes: Sequence[Route], *, reply_groups: bool) -> Iterable[User]:
    wide = too_wide(routes)
    replies = [route.reply_to for route in routes if route not in wide]
    requests = [route.requests for route in routes]
    dead = [route.dead_letters for route in routes]
    responses = [route.responses for route in routes]
    streams = [*requests, *responses, *dead]
    own = [route.own_keys for route in routes]
    arrivals = [name for keys in own for name in keys.arrivals.values()]
    marks = [*(name for keys in own for name in (keys.low_water_mark, keys.trim_turn)), *arrivals]
    notes = [keys.workers for keys in own]
    records = [name for keys in own for name in keys.replays.values()]
    yield User(
        "streams",
        "worker",
        "token-worker",
        ("time",),
        (
            Selector(_WORK, _patterns("~", [*streams, *replies])),
            Selector(("xdel",), _patterns("%W~", dead)),
            Selector(("get", "set"), _patterns("~", marks)),
            Selector(("hset", "hdel", "hgetall", "expire"), _patterns("~", notes)),
            Selector((*_SCRIPTS, *_READING_SCRIPTS), _patterns("~", [*streams, *replies, *marks, *notes])),
        ),
    )
    names = short_names(requests)
    for route in routes:
        adding = Selector(("xadd",), _patterns("%W~", [route.requests]))
        # Requests expire by the server's clock, so a producer may read it.
        yield User("streams", "producer", f"producer-{names[route.requests]}", ("time",), (adding,))
        yield _client(f"client-{names[route.requests]}", route, [] if route in wide else [route.reply_to])
    for stream, name in short_names(responses).items():
        named = [route.reply_to for route in routes if route.responses == stream and route not in wide]
        reading = ("xread", *_GROUP_READING) if reply_groups else ("xread",)
        selectors = [Selector(reading, _patterns("~" if reply_groups else "%R~", [stream, *named]))]
        if named:
            selectors.append(Selector(("expire",), _patterns("%W~", named)))
        yield User("streams", "reader", f"reader-{name}", (), tuple(selectors))
    looking = Selector((*_LOOK, "get", *_READING_SCRIPTS), _patterns("%R~", [*streams, *arrivals]))
    newest = Selector(("xrevrange",), _patterns("%R~", dead))
    knowing = Selector(("hgetall",), _patterns("%R~", notes))
    yield User("streams", "monitor", "token-monitor", ("time", "info"), (looking, knowing, newest))
    yield User(
        "streams",
        "operator",
        "token-operator",
        ("time", "info"),
        (
            Selector(_LOOK, _patterns("%R~", [*streams, *replies])),
            looking,
            knowing,
            Selector(("xadd", "type"), _patterns("~", requests)),
            Selector(("xdel",), _patterns("%W~", dead)),
            Selector(("get", "set", "del"), _patterns("~", records)),
            Selector(_SCRIPTS, _patterns("~", [*requests, *dead, *records])),
        ),
    )


def short_names(streams: Iterable[str]) -> dict[str, str]:
    """The short name of each stream, as it stands in the names of users.

    ``tokenize:requests`` is ``tokenize``: the last word is left out, and characters other than letters, digits, ``.``,
    ``_`` and ``-`` become ``-``. If several streams would have one name, or a name would be too long, a hash of the
    stream stands at its end. So a name does not depend on the order of the routes.
    """
    plain = {stream: _short_name(stream) for stream in streams}
    count = Counter(plain.values())
    return {
        stream: name if count[name] == 1 and 0 < len(name) <= _NAME_CHARACTERS_MAX else _with_hash(name, stream)
        for stream, name in plain.items()
    }


def _short_name(stream: str) -> str:
    first = re.sub(r"(?<=.)[:._/-](requests|responses)\Z", "", stream)
    return re.sub(r"[^A-Za-z0-9._]+", "-", first).strip("-.")


def _with_hash(name: str, stream: str) -> str:
    digest = hashlib.sha256(stream.encode()).hexdigest()[:8]
    return f"{name[: _NAME_CHARACTERS_MAX - 9]}-{digest}".lstrip("-")


def _client(name: str, route: Route, own: Sequence[str]) -> User:
    """A user for ``token_worker.client``: sends requests, reads replies, and trims the streams of its own."""
    selectors = [
        Selector(("xadd",), _patterns("%W~", [route.requests])),
        Selector(("xread", "xrevrange"), _patterns("%R~", [route.responses, *own])),
    ]
    if own:
        selectors.append(Selector(("xtrim", "expire", "unlink"), _patterns("%W~", own)))
    return User("streams", "client", name, ("time",), tuple(selectors))


def _on_storage(
    folder: str, durability: Durability, layouts: Sequence[LayoutName], tokens_kind: Kind
) -> Iterable[User]:
    tokens = tuple(f"~{pattern}" for layout in layouts for pattern in _OF_LAYOUTS[layout])
    of_keys, of_tokens = _glob(layout_path(folder)), _glob(TOKENS_RECORD)
    keys, index = _glob(folder) + "/*", _glob(index_folder(folder)) + "/*"
    key_places = (f"~{keys}", f"~{index}", f"~{_glob(folder)}.retired/*", f"~{_glob(folder)}.scans/*")
    reading = Selector(("mget",), (f"%R~{keys}", f"%R~{index}", f"%R~{of_keys}"))
    yield User("keys", "worker", "token-worker", ("scan",), (reading,))
    waiting = ("waitaof",) if durability.fsync else ("wait",) if durability.replicas else ()
    reading_record = Selector(("get",), (f"%R~{of_tokens}",))
    selectors = [Selector(("mget", "msetnx", "get", "set", *_SCRIPTS), tokens), reading_record]
    marks = Selector(("set",), (f"%W~{MARK}:*" if tokens_kind == "cluster" else f"%W~{MARK}",))
    if waiting or tokens_kind == "cluster":
        selectors.append(marks)
    yield User("tokens", "worker", "token-worker", ("ping", *waiting), tuple(selectors))
    changing = ("mget", "get", "set", "del", *_SCRIPTS)
    on_keys = Selector((*changing, "exists"), (*key_places, f"~{of_keys}"))
    on_tokens = [Selector(changing, tokens), Selector(("get", "set", *_SCRIPTS), (f"~{of_tokens}", f"~{MOVE_PLACE}"))]
    if waiting:
        on_tokens.append(marks)
    waiting_on_keys = ("role", "wait") if durability.replicas else ()
    marks_on_keys = [Selector(("set",), (f"%W~{MARK}",))] if durability.replicas else []
    looking_at_record = Selector(("mget",), (f"%R~{of_keys}",))
    yield User("keys", "monitor", "token-monitor", ("time", "info", "scan"), (looking_at_record,))
    yield User("tokens", "monitor", "token-monitor", ("time", "info"), (reading_record,))
    yield User("keys", "operator", "token-operator", ("scan", *waiting_on_keys), (on_keys, *marks_on_keys))
    yield User("tokens", "operator", "token-operator", ("scan", *waiting), tuple(on_tokens))


def merge(found: Iterable[User]) -> User:
    """Join users with the same name, if one server serves several uses."""
    same = list(found)
    commands = dict.fromkeys(name for user in same for name in user.commands)
    selectors = tuple(selector for user in same for selector in user.selectors)
    return msgspec.structs.replace(same[0], commands=tuple(commands), selectors=selectors)


def _patterns(permission: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{permission}{_glob(name)}" for name in dict.fromkeys(names))


def _glob(name: str) -> str:
    """Escape a name, or one of our patterns, for Redis: there ``[`` and the backslash are special, too."""
    return name.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
