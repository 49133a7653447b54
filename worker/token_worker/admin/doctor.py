"""Checks a set-up from the place where a worker would run: finds problems, and says what to do. Changes nothing.

If a right is missing for a check, its status is ``unknown``, never ``ok``, and its remedy names that right. A server
that is away, or a node of a cluster, is a finding; the other servers are checked all the same.
"""

import platform
import random
import re
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from importlib.metadata import version

from token_worker import __version__
from token_worker.admin.access import AdminAccess
from token_worker.admin.check import Check, unknown
from token_worker.admin.doctor_access import clients_apart, copiers, readers, writers
from token_worker.admin.doctor_layout import examine_index_keys, examine_layout
from token_worker.admin.key_store import AdminStore, RedisAdminStore
from token_worker.admin.keys import BAD_STATUSES, LocatedKey, classify, locate_keys, read_keys
from token_worker.admin.stream_ends import by_name, read_clock, read_ends
from token_worker.admin.workers import read_route
from token_worker.contract.messages import Op
from token_worker.errors import OperatorError, ServerError, SettingsError, TokenWorkerError, Unavailable
from token_worker.keys.master import MasterKeys
from token_worker.redis.address import RedisSettings, is_loopback
from token_worker.redis.cluster import ClusterLink
from token_worker.redis.connect import make_link, make_primary_link
from token_worker.redis.exchange import drive
from token_worker.redis.link import Link
from token_worker.settings.options import Settings
from token_worker.storage.durability import Durability, examine_fsync
from token_worker.streams.routes import Route

CLOCK_OFFSET_SECONDS_MAX = 1.0
"""Largest difference between the clocks of this host and a server. This host's clock notes when tokens were used."""

SAMPLE_KEYS = 50
"""Keys, chosen at random, on which the master key is tried."""

TOKEN_SECONDS_MIN = 600.0
"""A Vault token that cannot be renewed and ends sooner than this is a finding."""

OLDEST_VERSIONS = {"valkey": (7, 2), "redis": (7, 0)}
"""Oldest versions of servers that are supported."""

LIBRARIES = ("redis", "hvac", "cryptography", "msgspec", "structlog")

_LOST = {"streams": "requests and replies", "keys": "new keys", "tokens": "tokens that were handed out"}
_TURN_ON_APPEND_ONLY = (
    "run CONFIG SET appendonly yes, and when that is done write it into the server's configuration (docs/operations.md,"
    " persistence): a restart with appendonly yes before that loses all data"
)
_AS_ADMIN = "run doctor once as an administrator of that server"

_MOVE_KEYS = "`acra-keys export --all --private_keys`, then `acra-keys import` into this Redis (keystore version 1)"
_WHERE_KEYS_MAY_BE = (
    "`token-worker keys generate` if no client has a key yet; else check the folder (TOKEN_WORKER_KEYS_FOLDER) and the"
    " database number (TOKEN_WORKER_KEYS_URL). If Acra has them as files, or in its keystore version 2"
)

Fields = dict[str, str]


def examine(settings: Settings) -> Iterator[Check]:
    """Do all checks, one after the other."""
    yield _versions()
    yield from examine_servers(settings)
    yield from _master_key(settings)


def examine_servers(settings: Settings, *, tries_rights: bool = True) -> Iterator[Check]:
    """Do the checks that need no key and no Vault.

    Args:
        settings: the settings of a worker.
        tries_rights: whether to do the checks that try rights. A right that is missing leaves a line in ``ACL LOG``.
    """
    uses = {"streams": settings.streams, "keys": settings.keys, "tokens": settings.tokens}
    for use, server in uses.items():
        if use == "keys" and settings.keys_source == "vault":
            continue
        yield _way(use, server)
        link = make_link(use, server, raise_server_errors=True)
        try:
            yield from _reach(use, use, _use(use, link, settings, server, tries_rights=tries_rights))
        finally:
            link.close()
    yield _apart(settings)
    if settings.keys_source == "redis":
        keys = make_primary_link("keys", settings.keys, raise_server_errors=True)
        try:
            yield from _layout(settings, RedisAdminStore(keys, settings.keys_folder), tries_rights=tries_rights)
        finally:
            keys.close()


def _layout(settings: Settings, store: AdminStore, *, tries_rights: bool = True) -> Iterator[Check]:
    link = make_link("tokens", settings.tokens, raise_server_errors=True)
    try:
        yield from _guarded("layout", lambda: examine_layout(store, link, settings.layout, tries_rights=tries_rights))
    finally:
        link.close()


def _use(use: str, link: Link, settings: Settings, server: RedisSettings, *, tries_rights: bool) -> Iterator[Check]:
    for name, one in _servers(use, link):
        is_there = yield from _reach(use, name, _server(name, one, server.user, tries_rights=tries_rights))
        if not is_there and one is link:
            return
    if use == "streams":
        for route in settings.routes:
            yield from _reach(use, route.requests, _route(route, settings.group, link, tries_rights=tries_rights))
        return
    for name, one in _servers(use, link):
        if tries_rights:
            yield copiers(name, one, settings.keys_folder)
        if use == "tokens" and (tries_rights or settings.durability != "fsync"):
            yield _durability(name, Durability.parse(settings.durability), one, is_elected=server.kind != "server")


def _reach(use: str, name: str, checks: Iterator[Check]) -> Generator[Check, None, bool]:
    """Do the checks of a server until one fails because it is away. Returns False in that case."""
    try:
        yield from checks
    except (Unavailable, ServerError) as error:
        remedy = f"check that it runs, and its address (TOKEN_WORKER_{use.upper()}_URL or its default) and password"
        yield Check(f"{name}: reachable", "finding", str(error), remedy)
        return False
    return True


def _versions() -> Check:
    libraries = [f"{name} {version(name)}" for name in LIBRARIES]
    parts = [f"token-worker {__version__}", f"Python {platform.python_version()}", *libraries]
    return Check("versions", "ok", ", ".join(parts))


def _way(use: str, server: RedisSettings) -> Check:
    """Check for TLS and a password, unless the server is on this machine."""
    name = f"{use}: TLS and password"
    if all(is_loopback(host) for host in server.hosts):
        return Check(name, "ok", "not needed: the server is on this machine")
    missing = [] if server.is_tls else ["TLS"]
    missing += [] if server.password is not None else ["a password"]
    if not missing:
        return Check(name, "ok", "both are used")
    remedy = f"rediss:// in the URL, and TOKEN_WORKER_{use.upper()}_PASSWORD_FILE"
    return Check(name, "finding", f"without {' and '.join(missing)} to {server.server}", remedy)


def _servers(use: str, link: Link) -> list[tuple[str, Link]]:
    """The links to check, each with a name: the server, or each primary of a cluster."""
    if isinstance(link, ClusterLink):
        return [(f"{use} at {node.node}", node) for node in link.primaries()]
    return [(use, link)]


def _server(use: str, link: Link, username: str | None, *, tries_rights: bool) -> Iterator[Check]:
    yield _clock(use, link)
    try:
        info = _info(link)
    except ServerError as error:
        yield unknown(f"{use}: version, memory, persistence", error, "+info")
    else:
        yield _version(use, info)
        if not use.startswith("streams"):
            yield _eviction(use, info)
        yield _persistence(use, info)
    if tries_rights:
        yield _user(use, link, username)


def _info(link: Link) -> Fields:
    text: bytes = link.call("INFO")
    pairs = (line.split(":", 1) for line in text.decode(errors="replace").splitlines() if ":" in line)
    return {name: value.strip() for name, value in pairs}


def _version(use: str, info: Fields) -> Check:
    kind = "valkey" if "valkey_version" in info else "redis"
    text = info.get(f"{kind}_version", "0.0")
    found = re.match(r"(\d+)\.(\d+)", text)
    number = (int(found[1]), int(found[2])) if found else (0, 0)
    least = ".".join(map(str, OLDEST_VERSIONS[kind]))
    if number < OLDEST_VERSIONS[kind]:
        return Check(f"{use}: version", "finding", f"{kind} {text}", f"{kind} {least} or later")
    return Check(f"{use}: version", "ok", f"reachable, {kind} {text}")


def _eviction(use: str, info: Fields) -> Check:
    policy = info.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        return Check(f"{use}: eviction", "ok", "maxmemory-policy noeviction")
    remedy = "set maxmemory-policy noeviction, also in its configuration: a value is lost with an evicted entry"
    return Check(f"{use}: eviction", "finding", f"maxmemory-policy {policy}", remedy)


def _persistence(use: str, info: Fields) -> Check:
    name = f"{use}: persistence"
    if info.get("aof_enabled") != "1":
        lost = _LOST[use.partition(" ")[0]]
        return Check(name, "finding", f"no append-only file: a crash loses {lost}", _TURN_ON_APPEND_ONLY)
    if info.get("aof_last_write_status", "ok") != "ok":
        return Check(
            name, "finding", "the append-only file cannot be written", "see the server's log: the disk may be full"
        )
    return Check(name, "ok", "append-only file; with appendfsync everysec, a crash of the machine can lose a second")


def _durability(use: str, durability: Durability, link: Link, *, is_elected: bool) -> Check:
    """Check that tokens are as safe before a reply as ``TOKEN_WORKER_DURABILITY`` says."""
    name = f"{use}: durability before a reply"
    try:
        if durability.fsync:
            if is_elected:
                remedy = "set replicas:N, with as many replicas as may be promoted"
                return Check(name, "finding", "fsync: a replica that is promoted may lack tokens", remedy)
            if examine_fsync(link):
                return Check(name, "ok", "fsync: tokens are on disk before a reply")
            return Check(name, "unknown", "fsync requires appendfsync always, which this user may not check", _AS_ADMIN)
        if durability.replicas:
            replicas = int(_info(link).get("connected_slaves", 0))
            message = f"replicas:{durability.replicas}, and {replicas} are connected"
            if replicas < durability.replicas:
                return Check(name, "finding", message, "add replicas: until then no reply with a token is written")
            return Check(name, "ok", message)
    except SettingsError as error:
        return Check(name, "finding", str(error), "change the server, or TOKEN_WORKER_DURABILITY")
    except ServerError as error:
        return unknown(name, error, "+waitaof" if durability.fsync else "+info")
    return Check(name, "ok", "server: as safe as its persistence; fsync and replicas:N make replies wait for more")


def _clock(use: str, link: Link) -> Check:
    name = f"{use}: clock"
    before = time.time()
    try:
        seconds, micros = link.call("TIME")
    except ServerError as error:
        return unknown(name, error, "+time")
    after = time.time()
    theirs = int(seconds) + int(micros) / 1e6
    off = max(before - theirs, theirs - after, 0.0)
    if off > CLOCK_OFFSET_SECONDS_MAX:
        return Check(name, "finding", f"differs from this host's by {off:.1f} seconds", "synchronize both by NTP")
    return Check(name, "ok", "the same as this host's, within a second")


def _user(use: str, link: Link, username: str | None) -> Check:
    name = f"{use}: user"
    remedy = "log in as the user that `token-worker acl` prints, named in the URL"
    if username in (None, "", "default"):
        return Check(name, "finding", "logged in as user default", remedy)
    dangerous = [words for words in (("CONFIG", "GET", "maxmemory-policy"), ("ACL", "LIST")) if _may(link, words)]
    if dangerous:
        may = " and ".join(" ".join(words[:2]) for words in dangerous)
        return Check(name, "finding", f"the user may {may}", remedy)
    return Check(name, "ok", "not user default; the user may use neither CONFIG nor ACL")


def _may(link: Link, command: tuple[str, ...]) -> bool:
    try:
        link.call(*command)
    except ServerError:
        return False
    return True


def _route(route: Route, group: str, link: Link, *, tries_rights: bool) -> Iterator[Check]:
    yield _group(route, group, link)
    yield _ids(route, link)
    if tries_rights and Op.DETOKENIZE in route.ops:
        node = link.node_of(route.requests) if isinstance(link, ClusterLink) else link
        yield writers(route, node)
        yield readers(route, node)


def _group(route: Route, group: str, link: Link) -> Check:
    name = f"{route.requests}: group"
    try:
        groups = [by_name(raw) for raw in link.call("XINFO", "GROUPS", route.requests)]
        if group not in [bytes(found["name"]).decode() for found in groups]:
            return Check(name, "finding", f"there is no group {group}", "start a worker: it makes the group")
        workers = drive(read_route(route, group, drive(read_clock(), link)), link).workers
    except ServerError as error:
        if error.code == "NOPERM":
            return unknown(name, error, "+xinfo|groups +xinfo|consumers")
        return Check(name, "finding", "there is no such stream yet", "start a worker: it makes stream and group")
    alive = [worker.consumer for worker in workers if worker.reads]
    if not alive:
        return Check(name, "finding", f"no worker reads for {group}", "start a worker")
    return Check(name, "ok", f"{group} is read by {', '.join(alive)}")


def _ids(route: Route, link: Link) -> Check:
    """Check the ids: ids ahead of the server's clock tell no ages, and ids can be used up."""
    name = f"{route.requests}: ids"
    try:
        now_ms = drive(read_clock(), link)
        found = {stream: drive(read_ends(route, stream), link).ids_finding(now_ms) for stream in route.streams}
    except ServerError as error:
        return unknown(name, error, "the rights that `token-worker acl` prints")
    findings = {stream: finding for stream, finding in found.items() if finding is not None}
    if findings:
        remedies = dict.fromkeys(finding.remedy for finding in findings.values())
        messages = [f"{stream}: {finding.message}" for stream, finding in findings.items()]
        return Check(name, "finding", "; ".join(messages), "; ".join(remedies))
    return Check(name, "ok", "no stream of the route is ahead of the server's clock, or near its last id")


def _apart(settings: Settings) -> Check:
    if settings.streams_and_storage_share_server:
        remedy = (
            "give the streams another server (TOKEN_WORKER_STREAMS_URL): full streams fill the key storage, too; or set"
            " TOKEN_WORKER_KEYS_URL, if keys and tokens are on another server already"
        )
        return Check("servers apart", "finding", "streams and storage share one server", remedy)
    return Check("servers apart", "ok", "the streams have a server of their own")


def _master_key(settings: Settings) -> Iterator[Check]:
    with AdminAccess(settings) as access:
        try:
            master_keys, store = access.connect_admin()
        except (OperatorError, Unavailable) as error:
            yield Check("master key", "finding", str(error), "check the settings of the master key and of Vault")
            return
        if settings.master_key_source == "vault":
            yield from _guarded("Vault token", lambda: _vault(access, settings))
        yield from _guarded("master key", lambda: _keys(master_keys, store, settings))


def _keys(master_keys: MasterKeys, store: AdminStore, settings: Settings) -> Iterator[Check]:
    found = locate_keys(store)
    yield from _sample(found, master_keys, store, settings.routes)
    if settings.keys_source == "vault":
        yield from _layout(settings, store)
    link = make_link("tokens", settings.tokens, raise_server_errors=True)
    try:
        yield from _guarded("layout: index keys", lambda: examine_index_keys(found, store, link, master_keys))
    finally:
        link.close()


def _guarded(name: str, checks: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from checks()
    except TokenWorkerError as error:
        yield Check(name, "unknown", str(error), "make that server answer, or grant the right that is missing")


def _sample(
    found: Sequence[LocatedKey], master_keys: MasterKeys, store: AdminStore, routes: Sequence[Route]
) -> Iterator[Check]:
    sample = random.sample(found, min(SAMPLE_KEYS, len(found)))
    bad = [
        f"{key.name.name} ({verdict})"
        for key, stored in read_keys(store, sample)
        if (verdict := classify(key.name, stored.text, master_keys)) in BAD_STATUSES
    ]
    readable = [key for key in found if not key.name.is_of_version_2]
    if not readable and found:
        yield Check("keys", "finding", "all keys are in Acra's keystore version 2; workers read version 1", _MOVE_KEYS)
    elif not found:
        yield Check("keys", "finding", "there are no keys", f"{_WHERE_KEYS_MAY_BE}: {_MOVE_KEYS}")
    elif bad:
        remedy = "run `token-worker keys verify` for all keys; the master key may be the wrong one"
        yield Check(
            "master key", "finding", f"does not open {len(bad)} of {len(sample)} keys: {', '.join(bad[:5])}", remedy
        )
    else:
        yield Check("master key", "ok", f"opens {len(sample)} keys of {len(found)}, chosen at random")
    owners = {key.name.owner.id for key in readable if key.name.owner is not None and key.name.owner.kind == "client"}
    yield from (clients_apart(route, owners) for route in routes if Op.DETOKENIZE in route.ops)
    if master_keys.previous is not None:
        remedy = "run `token-worker keys rewrap`; the last line says how to drop the previous master key then"
        yield Check("previous master key", "finding", "two master keys loaded", remedy)


def _vault(access: AdminAccess, settings: Settings) -> Iterator[Check]:
    vault = access.vault
    if vault is None or settings.vault is None:
        return
    seconds = vault.session.seconds_left
    if seconds is not None and seconds < TOKEN_SECONDS_MIN and not vault.session.is_renewable:
        remedy = "use a token that can be renewed, or TOKEN_WORKER_VAULT_AUTH approle or jwt"
        yield Check("Vault token: time", "finding", f"expires in {seconds:.0f} seconds and cannot be renewed", remedy)
    else:
        yield Check("Vault token: time", "ok", "does not expire" if seconds is None else f"{seconds:.0f} seconds left")
    path, rights = vault.rights(settings.vault.secret)
    if rights is None:
        remedy = "run doctor once with a token that may update sys/capabilities-self, as policy default allows"
        yield Check("Vault token: rights", "unknown", "the token may not look up its own rights", remedy)
        return
    excess = [f"{right} on {where}" for where, may in rights.items() for right in may if _is_excess(where, right, path)]
    if "read" not in rights[path] and "root" not in rights[path]:
        remedy = "grant the policy master-key-only.hcl, which token-worker deploy-files writes"
        yield Check("Vault token: rights", "finding", f"may not read {path}", remedy)
    elif excess:
        remedy = "the policy master-key-only.hcl, which token-worker deploy-files writes, is all a worker needs"
        yield Check("Vault token: rights", "finding", f"may do more than read: {', '.join(excess)}", remedy)
    else:
        yield Check("Vault token: rights", "ok", f"may read {path}, and nothing else that was tried")


def _is_excess(where: str, right: str, path: str) -> bool:
    return right != "deny" and not (where == path and right == "read")
