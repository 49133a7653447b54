"""Addresses of Redis in the settings: where it is, and how to log in. Pure.

An address can name one server, *Sentinels* (which know the server that is the primary now) or nodes of a *cluster*
(which know the other nodes). User, password and TLS files are for the servers. Sentinels get the same TLS files, and a
user and a password of their own if they need them.
"""

import re
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import msgspec

Kind = Literal["server", "sentinel", "cluster"]

DEFAULT_PORT: Final = 6379
_HOSTS: Final = "[user[:password]@]host[:port][,host[:port]…]"
_FORMS: Final[dict[Kind, str]] = {
    "server": (
        "redis://[user[:password]@]host[:port][/database], rediss:// and the same for TLS, or"
        " unix://[user@]/path[?db=number]; or redis+sentinel:// or redis+cluster://"
    ),
    "sentinel": f"redis+sentinel://{_HOSTS}/service[/database], or rediss+sentinel:// and the same for TLS",
    "cluster": f"redis+cluster://{_HOSTS}, or rediss+cluster:// and the same for TLS",
}
_PORTS: Final = {"sentinel": 26379, "cluster": DEFAULT_PORT}
_PATHS: Final = {"sentinel": r"/([A-Za-z0-9._-]+)(?:/(\d{0,5}))?", "cluster": r"/?()()"}

_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class Node(NamedTuple):
    """A Sentinel or a node of a cluster. An IPv6 host has no brackets here."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class RedisSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Address of one Redis and the means to log in.

    Attributes:
        url: the address as given, without the password. For one server, redis-py takes it as it is.
        kind: whether the address names one server, Sentinels, or nodes of a cluster.
        user: user to log in as, quoted as in the address; None for the default user.
        nodes: Sentinels, or nodes of the cluster; empty for one server.
        service: name of the primary at the Sentinels.
        database: number of the database behind Sentinels.
        password: password of the servers.
        password_file: file with that password, read again for each connection; None if it is part of the address.
        sentinel_user: user to log in as at the Sentinels; None for the default user.
        sentinel_password: password of the Sentinels.
        sentinel_password_file: file with that password, read again for each connection.
        ca_file, cert_file, key_file: files for TLS.
    """

    url: str
    kind: Kind = "server"
    user: str | None = None
    nodes: tuple[Node, ...] = ()
    service: str = ""
    database: int = 0
    password: str | None = None
    password_file: str | None = None
    sentinel_user: str | None = None
    sentinel_password: str | None = None
    sentinel_password_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    def __rich_repr__(self) -> list[tuple[str, str | None]]:
        shown = {name: getattr(self, name) for name in ("url", "password", "sentinel_password")}
        files = {name: getattr(self, name) for name in ("ca_file", "cert_file", "key_file")}
        return [(name, value and "***" if "password" in name else value) for name, value in (shown | files).items()]

    def __repr__(self) -> str:
        return f"RedisSettings({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    @property
    def selects(self) -> bool:
        """True if connections choose a database. Their user needs the right to SELECT then."""
        if self.kind != "server":
            return self.database > 0
        parts = urlsplit(self.url)
        number = parts.query.removeprefix("db=") if parts.scheme == "unix" else parts.path.strip("/")
        return int(number or 0) > 0

    @property
    def is_tls(self) -> bool:
        """True if connections use TLS."""
        return self.url.startswith("rediss")

    @property
    def hosts(self) -> list[str]:
        """All hosts that the address names; empty for a socket."""
        host = urlsplit(self.url).hostname if self.kind == "server" else None
        return [node.host for node in self.nodes] if host is None else [host]

    @property
    def server(self) -> str:
        """``host:port``, the path of the socket, ``service@host:port,…`` or ``host:port,…``, as the address has it."""
        return self._named(self._places)

    @property
    def identity(self) -> str:
        """The same text for all addresses of one server: like ``server``, sorted, and with one name of the loopback."""
        places = (Node("localhost" if is_loopback(node.host) else node.host, node.port) for node in self._places)
        return self._named(sorted(places, key=str))

    @property
    def _places(self) -> tuple[Node, ...]:
        """Host and port of each server that the address names; none for a socket."""
        if self.kind != "server":  # not every Python parses a URL with several hosts
            return self.nodes
        parts = urlsplit(self.url)
        return () if parts.scheme == "unix" else (Node(parts.hostname or "", parts.port or DEFAULT_PORT),)

    def _named(self, places: Iterable[Node]) -> str:
        names = ",".join(map(str, places)) or urlsplit(self.url).path
        return f"{self.service}@{names}" if self.service else names

    def at(self, node: Node) -> "RedisSettings":
        """Settings of one server behind the Sentinels, or of one node of the cluster."""
        user = f"{self.user}@" if self.user else ""
        url = f"{'rediss' if self.is_tls else 'redis'}://{user}{node}/{self.database}"
        return self._plain(url, self.password, self.password_file, self.user)

    def sentinel(self, node: Node) -> "RedisSettings":
        """Settings of one Sentinel."""
        user = quote(self.sentinel_user, safe="") if self.sentinel_user else None
        url = f"{'rediss' if self.is_tls else 'redis'}://{f'{user}@' if user else ''}{node}/0"
        return self._plain(url, self.sentinel_password, self.sentinel_password_file, user)

    def _plain(self, url: str, password: str | None, file: str | None, user: str | None) -> "RedisSettings":
        return RedisSettings(
            url=url,
            user=user,
            password=password,
            password_file=file,
            ca_file=self.ca_file,
            cert_file=self.cert_file,
            key_file=self.key_file,
        )


def is_loopback(host: str | None) -> bool:
    """Return True if the name of a host means this machine."""
    return host in _LOOPBACK


def parse(url: str) -> RedisSettings:
    """Read an address.

    Raises:
        ValueError: the text is no address. The error says what is expected and repeats nothing of the text.
    """
    kind: Kind = next((kind for kind in _FORMS if re.match(rf"rediss?\+{kind}:", url)), "server")
    found = _parse_one(url) if kind == "server" else _parse_several(url, kind)
    if found is None or "#" in url or re.search(r"[^!-~]", url):
        raise ValueError(f"expected {_FORMS[kind]}")
    return found


def _parse_one(url: str) -> RedisSettings | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme == "unix":
        good = not parts.hostname and len(parts.path) > 1 and bool(re.fullmatch(r"(db=\d+)?", parts.query))
    else:
        good = bool(parts.hostname and port != 0 and re.fullmatch(r"/?\d*", parts.path) and not parts.query)
    if not good or parts.scheme not in {"redis", "rediss", "unix"}:
        return None
    user = f"{parts.username}@" if parts.username else ""
    query = f"?{parts.query}" if parts.query else ""
    return RedisSettings(
        url=f"{parts.scheme}://{user}{parts.netloc.rpartition('@')[2]}{parts.path}{query}",
        user=parts.username or None,
        password=unquote(parts.password) if parts.password else None,
    )


def _parse_several(url: str, kind: Kind) -> RedisSettings | None:
    found = re.fullmatch(r"(rediss?\+\w+)://(?:([^:/]*)(?::([^@/]*))?@)?([^@/]+)(/.*)?", url)
    if found is None:
        return None
    scheme, user, password, hosts, path = found.groups(default="")
    place = re.fullmatch(_PATHS[kind], path)
    nodes = [_parse_node(text, _PORTS[kind]) for text in hosts.split(",")]
    if place is None or None in nodes:
        return None
    return RedisSettings(
        url=f"{scheme}://{f'{user}@' if user else ''}{hosts}{path}",
        kind=kind,
        user=user or None,
        nodes=tuple(node for node in nodes if node is not None),
        service=place[1],
        database=int(place[2] or 0),
        password=unquote(password) or None,
    )


def _parse_node(text: str, default_port: int) -> Node | None:
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)\]|([^\[\]:?]+))(?::(\d{1,5}))?", text)
    if found is None or not 0 < int(found[3] or default_port) < 65536:
        return None
    return Node(found[1] or found[2], int(found[3] or default_port))
