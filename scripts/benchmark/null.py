"""The null worker: read, decode, echo each value, encode, and the same commit script, until killed.

What no worker on Redis Streams can do without, as one would write it with redis-py and msgspec: of the product it has
the types of the messages and the script alone, so that the yardstick stays as it is when the product gets faster. A
process of its own: ``python -P null.py URL REQUESTS RESPONSES [everything]``; with ``everything`` it imports first what
the real worker does.
"""

import importlib
import sys
from collections.abc import Iterable
from typing import Any

import msgspec
import redis
from msgspec import UNSET

from token_worker.contract.messages import Reply, ReplyItem, Request
from token_worker.streams.delivery import COMMIT

GROUP = "token-workers"
BATCH = 500
BLOCK_MS = 1000


def commit_arguments(answers: Iterable[tuple[bytes, bytes]]) -> list[Any]:
    """Arguments of the commit script for entry ids and their replies, which go to the route's response stream."""
    arguments: list[Any] = [GROUP, 60]
    for entry_id, payload in answers:
        arguments += (entry_id, payload)
    return arguments


def echo(entry_id: bytes, request: Request) -> Reply:
    """The reply that gives every value back as it came."""
    reply = Reply(id=request.id, op=request.op, request_entry=entry_id.decode(), status="ok")
    if request.items is UNSET:
        reply.value = request.value
    else:
        reply.items = [ReplyItem(item.ref, item.value) for item in request.items]
    return reply


def serve(url: str, requests: str, responses: str) -> None:
    """Answer what comes; the stream's group has to be there."""
    client: Any = redis.Redis.from_url(url, protocol=2)
    client.response_callbacks.clear()  # plain replies: no worker needs them rearranged
    decode, encode = msgspec.json.Decoder(Request).decode, msgspec.json.Encoder().encode
    client.execute_command("SCRIPT", "LOAD", COMMIT.source)
    read = ("XREADGROUP", "GROUP", GROUP, "null", "COUNT", BATCH, "BLOCK", BLOCK_MS, "STREAMS", requests, ">")
    while True:
        for _, entries in client.execute_command(*read) or ():
            answers = [(entry_id, encode(echo(entry_id, decode(fields[1])))) for entry_id, fields in entries]
            client.execute_command("EVALSHA", COMMIT.sha, 2, requests, responses, *commit_arguments(answers))


if __name__ == "__main__":
    if sys.argv[4:] == ["everything"]:
        importlib.import_module("token_worker.service.start")
    serve(*sys.argv[1:4])
