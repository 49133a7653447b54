"""The null worker: read, decode, echo each value, encode, and the same commit script, until killed.

What no worker on Redis Streams can do without, as one would write it with redis-py and msgspec: of the product it has
the types of the messages and the script alone, so that the yardstick stays as it is when the product gets faster. A
process of its own: ``python -P null.py URL REQUESTS RESPONSES [everything|client]``; with ``everything`` it imports
first what the real worker does; with ``client`` it takes what ``TokenClient`` sends: MessagePack, which names a stream
for the reply.
"""

import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import redis
from msgspec import UNSET

from token_worker.contract.messages import Reply, ReplyItem, Request
from token_worker.streams.commit import COMMIT

GROUP = "token-workers"
BATCH = 500
BLOCK_MS = 1000

Entry = tuple[bytes, list[bytes]]
Commit = Callable[[str, str, Iterable[Entry]], tuple[Sequence[str], list[Any]]]

_decode_json, _encode_json = msgspec.json.Decoder(Request).decode, msgspec.json.Encoder().encode
_decode, _encode = msgspec.msgpack.Decoder(Request).decode, msgspec.msgpack.Encoder().encode


def echo(entry_id: bytes, request: Request) -> Reply:
    """The reply that gives every value back as it came."""
    reply = Reply(id=request.id, op=request.op, request_entry=entry_id.decode(), status="ok")
    if request.items is UNSET:
        reply.value = request.value
    else:
        reply.items = [ReplyItem(item.ref, item.value) for item in request.items]
    return reply


def plain(requests: str, responses: str, entries: Iterable[Entry]) -> tuple[Sequence[str], list[Any]]:
    """Keys and arguments of the commit script; replies go to the route's response stream."""
    arguments: list[Any] = [GROUP, 60]
    for entry_id, fields in entries:
        arguments += (entry_id, _encode_json(echo(entry_id, _decode_json(fields[1]))))
    return (requests, responses), arguments


def client(requests: str, responses: str, entries: Iterable[Entry]) -> tuple[Sequence[str], list[Any]]:
    """The same; replies go to the streams that requests name."""
    targets: dict[str, int] = {}
    arguments: list[Any] = [GROUP, 60]
    for entry_id, fields in entries:
        request = _decode(fields[1])
        number = targets.setdefault(str(request.reply_to), len(targets) + 3)
        arguments += (b"+" + entry_id, _encode(echo(entry_id, request)), number, "", "", "")
    return (requests, responses, *targets), arguments


def serve(commit: Commit, url: str, requests: str, responses: str) -> None:
    """Answer what comes; the stream's group has to be there."""
    server: Any = redis.Redis.from_url(url, protocol=2)
    server.response_callbacks.clear()  # plain replies: no worker needs them rearranged
    server.execute_command("SCRIPT", "LOAD", COMMIT.source)
    read = ("XREADGROUP", "GROUP", GROUP, "null", "COUNT", BATCH, "BLOCK", BLOCK_MS, "STREAMS", requests, ">")
    while True:
        for _, entries in server.execute_command(*read) or ():
            keys, arguments = commit(requests, responses, entries)
            server.execute_command("EVALSHA", COMMIT.sha, len(keys), *keys, *arguments)


if __name__ == "__main__":
    if sys.argv[4:] == ["everything"]:
        importlib.import_module("token_worker.service.start")
    serve(client if sys.argv[4:] == ["client"] else plain, *sys.argv[1:4])
