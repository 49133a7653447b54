"""``token-worker request``: send one request, wait for its reply, and print the reply."""

import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import msgspec

from token_worker.acra.value_types import TYPES
from token_worker.cli.file_columns import known, nearest, shown
from token_worker.cli.terminal import parse_text, read_text
from token_worker.contract.messages import Op, TypeName
from token_worker.errors import ServerError, TokenWorkerError, Unavailable
from token_worker.redis.connect import make_link
from token_worker.redis.link import Link
from token_worker.settings import load
from token_worker.streams.clock import ServerClock
from token_worker.streams.routes import Route, own_reply_stream, route_for
from token_worker.streams.strays import EARLIER_MS, REFUSED_SECONDS, Strays
from token_worker.tokens.formats import AnyFormat

WAIT_MS = 1000
"""Longest wait of one read. It is shorter than the time-out of the socket."""


@click.command(
    # \b keeps click from wrapping the line, so that the example can be pasted
    epilog="\b\nExample: echo -n grace@navy.example | token-worker request tokenize --type email --client shop-frontend"
)
@click.argument("op", type=click.Choice([op.value for op in Op]))
@click.option(
    "--type",
    "type_name",
    metavar=f"[{'|'.join(TypeName)}]",
    help="Type of the value. Needed unless --format names a format that these settings know.",
)
@click.option("--format", "format_name", metavar="NAME", help="Format of the token, one that the route allows.")
@click.option("--client", help="Client id. Not needed on a route that is pinned to one client.")
@click.option("--zone", help="Zone id.")
@click.option(
    "--inconsistent", is_flag=True, help="Make a token for this request only, even if the value already has one."
)
@click.option(
    "--as-bytes", is_flag=True, help="Give or print the value of a str or email as base64: it might not be UTF-8."
)
@click.option(
    "--timeout", "timeout_seconds", type=click.FloatRange(min=0.1), default=10.0, help="Seconds to wait for the reply."
)
@click.pass_obj
def request(
    config: Path | None,
    op: str,
    *,
    type_name: str | None,
    format_name: str | None,
    client: str | None,
    zone: str | None,
    inconsistent: bool,
    as_bytes: bool,
    timeout_seconds: float,
) -> None:
    """Send one request and print its reply as JSON.

    The command reads the value or token from standard input, or asks for it on a terminal. It takes neither from the
    arguments, which other users of the machine can see. Give `bytes` as base64; they are printed as base64, too.

    Exit status 1: the reply is an error.
    """
    if inconsistent and op == Op.DETOKENIZE:
        raise click.UsageError("--inconsistent is only for tokenize")
    if format_name is not None and op == Op.DETOKENIZE:
        raise click.UsageError("--format is only for tokenize: a token is found without its format")
    settings = load(os.environ, config)
    type_name = _type_of(settings.formats, Op(op), type_name, format_name)
    if as_bytes and TYPES[type_name].is_number:
        raise click.UsageError("--as-bytes is for str, email and bytes")
    try:
        route = route_for(settings.routes, Op(op), client)
        # The command removes this stream after use. So no other reader may use it.
        reply_to = own_reply_stream(route, settings.routes, f"cli-{secrets.token_hex(8)}")
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    text = read_text()
    message: dict[str, Any] = {
        "id": f"cli-{secrets.token_hex(8)}",
        "op": op,
        "type": type_name,
        "value": parse_text(type_name, text),
        "reply_to": reply_to,
    }
    optional = {"client_id": client, "zone_id": zone, "format": format_name}
    message |= {name: value for name, value in optional.items() if value is not None}
    if inconsistent:
        message["consistent"] = False
    if as_bytes:
        message["as"] = "bytes"
    reply = _exchange(make_link("streams", settings.streams, raise_server_errors=True), route, message, timeout_seconds)
    click.echo(msgspec.json.format(reply, indent=2))
    if msgspec.json.decode(reply)["status"] != "ok":
        raise SystemExit(1)


def _type_of(formats: Mapping[str, AnyFormat], op: Op, type_name: str | None, format_name: str | None) -> str:
    """Return the given type, or the type of a format that the settings know.

    Raises:
        click.UsageError: there is no such type, or none is given and the settings do not know the format.
    """
    if format_name in list(TypeName):
        raise click.UsageError(f"{format_name} is a type, not a format: --type {format_name}")
    if type_name in list(TypeName):
        return str(type_name)
    if found := formats.get(type_name or ""):
        option = f"--format {type_name}" if op == Op.TOKENIZE else f"--type {found.value_type.name}"
        raise click.UsageError(f"{type_name} is a format, not a type: {option}")
    if type_name is not None:
        raise click.UsageError(f"there is no type {shown(type_name)}{nearest(type_name, formats)}; {known(formats)}")
    if format_name is None:
        needed = "--type or --format is" if op == Op.TOKENIZE else "--type is"
        raise click.UsageError(f"{needed} needed; {known(formats)}")
    if format_name not in formats:
        raise click.UsageError(
            f"these settings have no format {shown(format_name)}{nearest(format_name, formats)}; {known(formats)};"
            " a format that only the workers know needs --type"
        )
    return formats[format_name].value_type.name


def _exchange(link: Link, route: Route, message: dict[str, Any], timeout_seconds: float) -> bytes:
    """Send the request, and return the payload of the reply. Then remove the reply's stream, or let it expire."""
    since = time.monotonic()
    deadline = since + timeout_seconds
    clock, strays = ServerClock(), Strays(route.responses)
    clock.refresh(link)
    expires_at = clock.unix_ms(deadline)
    request = message if expires_at is None else {**message, "expires_at": expires_at}
    clock.learn_from_id(link.call("XADD", route.requests, "*", "payload", msgspec.json.encode(request)), since)
    while (left_ms := int((deadline - time.monotonic()) * 1000)) > 0:
        look_ms = int((strays.next_at(since) - time.monotonic()) * 1000)
        block_ms = max(1, min(WAIT_MS, left_ms, look_ms))
        # Read from the start of the stream, not from "$": the reply may already be there.
        found = link.call("XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", message["reply_to"], "0")
        if found:
            with suppress(TokenWorkerError):  # producers need no permission for this, and the reply is here
                link.call("UNLINK", message["reply_to"])
            fields = found[0][1][0][1]
            return bytes(dict(zip(fields[::2], fields[1::2], strict=True))[b"payload"])
        if time.monotonic() >= strays.next_at(since):
            for reply in _read_shared(link, strays, clock.unix_ms(since)):
                if _is_reply(reply, message["id"]):
                    return reply
    raise Unavailable(
        "worker", f"no reply on {route.responses} within {timeout_seconds:g} seconds; is a worker running?"
    )


def _read_shared(link: Link, strays: Strays, since_ms: int | None) -> list[bytes]:
    """Return the newer replies on the shared response stream: workers use it if they cannot write to ``reply_to``."""
    strays.rest(time.monotonic())
    if since_ms is None:
        return []
    try:
        return strays.look(link, since_ms - EARLIER_MS)
    except ServerError:  # no permission to read it
        strays.rest(time.monotonic(), REFUSED_SECONDS)
        return []


def _is_reply(payload: bytes, request_id: str) -> bool:
    if request_id.encode() not in payload:
        return False
    try:
        return bool(msgspec.json.decode(payload)["id"] == request_id)
    except (ValueError, TypeError, LookupError, RecursionError):
        return False
