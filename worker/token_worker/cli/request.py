"""``token-worker request``: send one request, wait for its reply, print it."""

import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from token_worker import settings as settings_module
from token_worker.contract.messages import Op, TypeName
from token_worker.errors import Unavailable
from token_worker.redis_link import RedisLink
from token_worker.streams.routes import Route

WAIT_MS = 1000
"""How long one read waits: below the socket's time-out."""


@click.command(
    epilog="Example: echo -n grace@navy.example | token-worker request tokenize --type email --client shop-frontend"
)
@click.argument("op", type=click.Choice([op.value for op in Op]))
@click.option(
    "--type",
    "type_name",
    type=click.Choice([name.value for name in TypeName]),
    required=True,
    help="Type of the value.",
)
@click.option("--client", help="Client id; may be left out on a route that is pinned to one.")
@click.option("--zone", help="Zone id.")
@click.option("--inconsistent", is_flag=True, help="A token of its own for this request.")
@click.option("--timeout", "timeout_seconds", type=click.FloatRange(min=0.1), default=10.0, help="Seconds to wait.")
@click.pass_obj
def request(
    config: Path | None,
    op: str,
    *,
    type_name: str,
    client: str | None,
    zone: str | None,
    inconsistent: bool,
    timeout_seconds: float,
) -> None:
    """Send one request and print its reply as JSON.

    The value (or token) is read from standard input, or asked for on a terminal; never from the arguments,
    which other users of the machine can see. ``bytes`` are given and answered as base64.

    Exit status 1: the reply is an error.
    """
    settings = settings_module.load(os.environ, config)
    route = _route(settings.routes, Op(op), client)
    text = click.prompt("Value", hide_input=True) if sys.stdin.isatty() else sys.stdin.read().removesuffix("\n")
    message: dict[str, Any] = {
        "id": f"cli-{secrets.token_hex(8)}",
        "op": op,
        "type": type_name,
        "value": _value(type_name, text),
        "reply_to": f"{route.responses}:cli-{secrets.token_hex(8)}",
        "expires_at": int((time.time() + timeout_seconds) * 1000),
    }
    message |= {name: value for name, value in (("client_id", client), ("zone_id", zone)) if value is not None}
    if inconsistent:
        message["consistent"] = False
    reply = _exchange(RedisLink("streams", settings.streams), route, message, timeout_seconds)
    click.echo(msgspec.json.format(reply, indent=2))
    if msgspec.json.decode(reply)["status"] != "ok":
        raise SystemExit(1)


def _route(routes: tuple[Route, ...], op: Op, client: str | None) -> Route:
    serving = [route for route in routes if op in route.ops and route.client_id in (None, client)]
    if not serving:
        raise click.UsageError(f"no route of the settings serves {op} for this client")
    return next((route for route in serving if route.client_id == client), serving[0])


def _value(type_name: str, text: str) -> int | str:
    if type_name not in (TypeName.INT32, TypeName.INT64):
        return text
    try:
        return int(text)
    except ValueError:
        raise click.UsageError(f"a value of type {type_name} is a whole number") from None


def _exchange(link: RedisLink, route: Route, message: dict[str, Any], timeout_seconds: float) -> bytes:
    """The payload of the reply; the reply's stream is removed."""
    deadline = time.monotonic() + timeout_seconds
    reply_to = message["reply_to"]
    link.call("XADD", route.requests, "*", "payload", msgspec.json.encode(message))
    while (left_ms := int((deadline - time.monotonic()) * 1000)) > 0:
        # From the start of the stream, not "$": the reply may be there already.
        found = link.call("XREAD", "COUNT", 1, "BLOCK", max(1, min(WAIT_MS, left_ms)), "STREAMS", reply_to, "0")
        if found:
            link.call("DEL", reply_to)
            fields = found[0][1][0][1]
            return bytes(dict(zip(fields[::2], fields[1::2], strict=True))[b"payload"])
    raise Unavailable(
        "worker", f"no reply on {route.responses} within {timeout_seconds:g} seconds; is a worker running?"
    )
