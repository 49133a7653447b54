"""``token-worker acl``: the Redis ACL users for the configured routes."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import click
import msgspec

from token_worker.admin.acl import Server, User, merge, too_wide, users
from token_worker.errors import CheckFailed
from token_worker.redis.address import RedisSettings
from token_worker.redis.password import read_password
from token_worker.settings import load
from token_worker.settings.options import Settings
from token_worker.storage.durability import Durability


@click.command(epilog="Example: token-worker acl --server streams --passwords ./passwords > users.acl")
@click.option("--server", type=click.Choice(["streams", "keys", "tokens"]), help="Print only the users of this server.")
@click.option(
    "--passwords",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Create a password file for each user in FOLDER; existing files are used. Without it, users are off.",
)
@click.option("--reply-groups", is_flag=True, help="Give readers of replies the rights for consumer groups, too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with the arguments of ACL SETUSER.")
@click.pass_obj
def acl(
    config: Path | None, *, server: Server | None, passwords: Path | None, reply_groups: bool, as_json: bool
) -> None:
    """Print the Redis ACL users that the routes need, as lines of an ACL file.

    `token-worker` is for the workers. For the stream `tokenize:requests`, `producer-tokenize` sends requests, and
    `client-tokenize` also reads the replies: it is for token_worker.client, `request` and `file`. For the stream
    `tokenize:responses`, `reader-tokenize` reads replies. `token-monitor` is for `monitor` and `lag`. `token-operator`
    is for `replay`, `dead-letters`, `keys` and `tokens`.

    Standard error says how to send the lines to the server. Other users stay as they are, and users that are there
    already get these rights. Do not load a file that has these lines alone by ACL LOAD: that removes all other users,
    and lets everybody in as user `default`, even if that was off.

    Workers and operators have rights on tokens in the layout that TOKEN_WORKER_LAYOUT says; in each layout if it is not
    set.

    The command contacts no server. Settings such as TOKEN_WORKER_STREAMS_PASSWORD_FILE take its password files. Servers
    do not replicate users: create them on every replica and on every node of a cluster.
    """
    settings = load(os.environ, config)
    for route in too_wide(settings.routes):
        click.echo(
            f"# {route.requests}: reply_to {route.reply_to} also matches keys of routes, so no right is given to it",
            err=True,
        )
    durability = Durability.parse(settings.durability)
    addresses = _servers(settings)
    found = users(
        settings.routes,
        settings.keys_folder,
        durability,
        addresses,
        reply_groups=reply_groups,
        layout=settings.layout,
    )
    chosen = [user for user in _merged(found, settings) if server is None or _is_same(addresses, server, user.server)]
    if not as_json and not all(_is_same(addresses, user.server, chosen[0].server) for user in chosen):
        raise click.UsageError("the users are for several servers: choose one by --server")
    for user in chosen:
        password = None if passwords is None else _password(passwords, user)
        if as_json:
            row = {"server": user.server, "user": user.name, "rules": user.rules(password)}
            click.echo(msgspec.json.encode(row))
        else:
            click.echo(user.line(password))
    if not as_json:
        if passwords is None:
            click.echo("# These users are off, also if they were on: --passwords FOLDER prints them on", err=True)
        sending = _sending(addresses[chosen[0].server])
        click.echo(f"# To make these users from a FILE with these lines, as an administrator: {sending}", err=True)


def _sending(server: RedisSettings) -> str:
    """The commands that make the users on a server, and leave its other users alone.

    ACL LOAD would remove those that are not in the file, and make user default one without a password.
    """
    place, where = "-h HOST -p PORT", ", on each server"
    if server.kind == "server":
        scheme = "rediss" if server.is_tls else "redis"
        place, where = f"-s {server.server}" if server.server.startswith("/") else f"-u {scheme}://{server.server}", ""
    return f"sed 's/^user/ACL SETUSER/' FILE | redis-cli {place} && redis-cli {place} ACL SAVE{where}"


def _is_same(addresses: Mapping[Server, RedisSettings], one: Server, other: Server) -> bool:
    """Tell whether one server serves both uses."""
    return addresses[one].identity == addresses[other].identity


def _servers(settings: Settings) -> dict[Server, RedisSettings]:
    return {"streams": settings.streams, "keys": settings.keys, "tokens": settings.tokens}


def _merged(found: list[User], settings: Settings) -> list[User]:
    """Merge users that have the same name on the same server. The merged user belongs to the first of its uses."""
    addresses = _servers(settings)
    groups: dict[tuple[str, str], list[User]] = {}
    for user in found:
        groups.setdefault((addresses[user.server].identity, user.name), []).append(user)
    return [merge(group) for group in groups.values()]


def _password(folder: Path, user: User) -> str:
    path = folder / f"{user.server}-{user.name}".replace("/", "_")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    except FileExistsError:
        pass
    except OSError as error:
        raise CheckFailed(f"--passwords {folder}: cannot be written ({error.strerror})") from None
    password = read_password(str(path))
    if password is None:  # an earlier run was ended between making and filling it, say
        raise CheckFailed(f"{path}: is empty or cannot be read; delete it, and a password is made")
    return password
