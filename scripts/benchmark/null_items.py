"""The null worker for requests in MessagePack that name a stream for their reply, as ``TokenClient`` sends them.

Otherwise as ``null``: read, decode, echo, encode, and the same commit script. ``python -P null_items.py URL REQUESTS
RESPONSES``.
"""

import sys
from typing import Any

import msgspec
import redis

from benchmark.null import BATCH, BLOCK_MS, GROUP, echo
from token_worker.contract.messages import Request
from token_worker.streams.delivery import COMMIT


def serve(url: str, requests: str, responses: str) -> None:
    """Answer what comes; the stream's group has to be there."""
    client: Any = redis.Redis.from_url(url, protocol=2)
    client.response_callbacks.clear()  # plain replies: no worker needs them rearranged
    decode, encode = msgspec.msgpack.Decoder(Request).decode, msgspec.msgpack.Encoder().encode
    client.execute_command("SCRIPT", "LOAD", COMMIT.source)
    read = ("XREADGROUP", "GROUP", GROUP, "null", "COUNT", BATCH, "BLOCK", BLOCK_MS, "STREAMS", requests, ">")
    while True:
        for _, entries in client.execute_command(*read) or ():
            targets: dict[str, int] = {}
            arguments: list[Any] = [GROUP, 60]
            for entry_id, fields in entries:
                request = decode(fields[1])
                number = targets.setdefault(str(request.reply_to), len(targets) + 3)
                arguments += (b"+" + entry_id, encode(echo(entry_id, request)), number, "", "", "")
            keys = (requests, responses, *targets)
            client.execute_command("EVALSHA", COMMIT.sha, len(keys), *keys, *arguments)


if __name__ == "__main__":
    serve(*sys.argv[1:4])
