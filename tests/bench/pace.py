"""A steady load: one process sends at a fixed rate, whatever the worker does, another reads replies as they come.

``python -P pace.py send URL STREAM RATE`` adds the requests whose JSON, without an id, stands on its standard input,
one a line. Their ids begin with the monotonic time, in nanoseconds, at which each was sent.
``python -P pace.py read URL STREAM COUNT`` prints ``ready``, then for each reply when its request was sent and when
the reply was here, by that same clock, as one JSON list of pairs.
"""

import sys
import time
from typing import Any

import msgspec

from token_worker.redis.address import RedisSettings
from token_worker.redis.link import RedisLink

GIVE_UP_SECONDS = 30
"""Time that the reader waits for one more reply."""


def send(url: str, stream: str, rate: float) -> None:
    """One request at its time; one that is late is sent at once, and so are those after it until the rate is kept."""
    link = RedisLink("streams", RedisSettings(url=url))
    bodies = [line.strip().removeprefix("{").encode() for line in sys.stdin]
    start = time.monotonic() + 0.05
    for number, body in enumerate(bodies):
        wait = start + number / rate - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        link.call("XADD", stream, "*", "payload", b'{"id":"%d-%d",%s' % (time.monotonic_ns(), number, body))


def read(url: str, stream: str, count: int) -> list[tuple[int, int]]:
    """Print for each reply the time when its request was sent, and the time when the reply was read."""
    link = RedisLink("streams", RedisSettings(url=url))
    link.call("PING")
    print("ready", flush=True)
    arrived: list[tuple[int, Any]] = []
    after: bytes = b"0"
    last = time.monotonic()
    while len(arrived) < count and time.monotonic() - last < GIVE_UP_SECONDS:
        reply = link.call("XREAD", "COUNT", 1000, "BLOCK", 1000, "STREAMS", stream, after)
        now = time.monotonic_ns()
        for _, entries in reply or ():
            after = entries[-1][0]
            last = time.monotonic()
            arrived += ((now, fields[1]) for _, fields in entries)
    ids = ((now, msgspec.json.decode(payload)["id"]) for now, payload in arrived)
    return [(int(name.partition("-")[0]), now) for now, name in ids]


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(sys.argv[2], sys.argv[3], float(sys.argv[4]))
    else:
        print(msgspec.json.encode(read(sys.argv[2], sys.argv[3], int(sys.argv[4]))).decode())
