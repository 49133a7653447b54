"""The null worker: read, decode, echo each value, encode, and the same commit script, until killed.

What no worker on Redis Streams can do without. A process of its own: ``python -P null.py URL REQUESTS RESPONSES
[everything]``; with ``everything`` it imports first what the real worker does.
"""

import importlib
import sys
from collections.abc import Iterable
from typing import Any

from msgspec import UNSET

from token_worker.contract.codec import Decoded, Limits, decode, encode_reply
from token_worker.contract.messages import Reply, ReplyItem
from token_worker.redis_link import RedisLink
from token_worker.settings import RedisSettings
from token_worker.streams.delivery import COMMIT

GROUP = "token-workers"
BATCH = 500
BLOCK_MS = 1000
LIMITS = Limits(1 << 20, 1000)


def commit_arguments(answers: Iterable[tuple[bytes, bytes]]) -> list[Any]:
    """Arguments of the commit script for entry ids and their replies, which go to the route's response stream."""
    arguments: list[Any] = [GROUP, 60]
    for entry_id, payload in answers:
        arguments += (entry_id, 2, payload, b"", b"", b"")
    return arguments


def echo(entry_id: bytes, decoded: Decoded) -> bytes:
    """The reply that gives every value back as it came."""
    request = decoded.request
    if request is None:
        raise ValueError("the null worker takes requests that are valid")
    reply = Reply(id=decoded.id, op=decoded.op, request_entry=entry_id.decode(), status="ok")
    if request.items is UNSET:
        reply.value = request.value
    else:
        reply.items = [ReplyItem(item.ref, item.value) for item in request.items]
    return encode_reply(reply, decoded.format)


def serve(url: str, requests: str, responses: str) -> None:
    """Answer what comes; the stream's group has to be there."""
    link = RedisLink("streams", RedisSettings(url=url))
    read = ("XREADGROUP", "GROUP", GROUP, "null", "COUNT", BATCH, "BLOCK", BLOCK_MS, "STREAMS", requests, ">")
    while True:
        for _, entries in link.call(*read) or ():
            answers = [(entry_id, echo(entry_id, decode(fields[1], LIMITS))) for entry_id, fields in entries]
            link.run(COMMIT, (requests, responses), commit_arguments(answers))


if __name__ == "__main__":
    if sys.argv[4:] == ["everything"]:
        importlib.import_module("token_worker.service.start")
    serve(*sys.argv[1:4])
