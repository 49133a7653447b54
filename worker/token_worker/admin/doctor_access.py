"""Checks of the doctor about access: which users may do or read what, and which clients share a route.

They ask for the users of a server, which only an administrator may do. Without that right a check is ``unknown``.
"""

from collections.abc import Set as AbstractSet

from token_worker.admin.check import Check, unknown
from token_worker.admin.stream_ends import by_name
from token_worker.errors import ServerError
from token_worker.redis.link import Link
from token_worker.streams.routes import Route


def writers(route: Route, link: Link) -> Check:
    """Check who may write to a request stream of a route that detokenizes."""
    return _who(f"{route.requests}: who may detokenize", link, ("XADD", route.requests, "*", "payload", ""))


def readers(route: Route, link: Link) -> Check:
    """Check who may read the replies of a route that detokenizes: the values of all its clients."""
    stream = route.responses
    ways = (
        ("XREAD", "STREAMS", stream, "0"),
        ("XREADGROUP", "GROUP", "group", "consumer", "STREAMS", stream, ">"),
        ("XRANGE", stream, "-", "+"),
        ("XREVRANGE", stream, "+", "-"),
    )
    return _who(f"{stream}: who may read values", link, *ways)


def copiers(use: str, link: Link, folder: str) -> Check:
    """Check who may read keys, or token entries. Entries tell guessed values without any key."""
    key = f"{folder}/x" if use == "keys" else "tokens/x"
    return _who(f"{use}: who may read", link, ("MGET", key), ("GET", key), ("DUMP", key))


def clients_apart(route: Route, owners: AbstractSet[str]) -> Check:
    """Check that a route that detokenizes does not serve several clients at once."""
    name = f"{route.requests}: clients apart"
    if route.client_id is None and len(owners) > 1:
        message = f"{len(owners):,} clients share it: who writes to it is all of them, who reads its replies reads all"
        return Check(name, "finding", message, "give each client a route of its own, with client_id")
    return Check(name, "ok", "one client" if route.client_id is not None or owners else "no client has a key yet")


def _who(name: str, link: Link, *commands: tuple[str, ...]) -> Check:
    """Check which users may run one of the commands, and whether one of these users needs no password."""
    users, is_open = [], False
    try:
        for raw in link.call("ACL", "USERS"):
            user = bytes(raw).decode(errors="replace")
            details = by_name(link.call("ACL", "GETUSER", user))
            if b"on" not in details["flags"]:
                continue
            if any(link.call("ACL", "DRYRUN", user, *command) == b"OK" for command in commands):
                users.append(user)
                is_open |= b"nopass" in details["flags"]
    except ServerError as error:
        return unknown(name, error, "+acl|users +acl|getuser +acl|dryrun (once, as an administrator)")
    if is_open:
        remedy = (
            "create the users that `token-worker acl` prints, and switch user default off (ACL SETUSER default off)"
        )
        return Check(name, "finding", f"anyone, without a password ({', '.join(users)})", remedy)
    return Check(name, "ok", f"users {', '.join(users) or 'none'}")
