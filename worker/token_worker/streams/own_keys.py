"""Keys that workers and operators keep beside the streams of a route. Pure. No other module spells their names.

The rules for ``reply_to``, the rights of ACL users, the checks of doctor and the tests read them here. Each name is
that of one of the streams of the route, with a suffix. So in a cluster it has the hash tag of the stream, and is in the
same slot.
"""

from collections.abc import Mapping
from typing import NamedTuple


class OwnKeys(NamedTuple):
    """Names of the keys beside the streams of one route.

    Attributes:
        low_water_mark: the id up to which all requests are acknowledged. A lost group is made again there.
        trim_turn: the name of the worker whose turn to trim the streams it is. It expires.
        workers: a hash of the workers' notes by consumer, see ``worker_notes``.
        arrivals: by stream, the notes of when its entries arrived, see ``retention``.
        replays: by stream that a replay can read, the record of a replay.
    """

    low_water_mark: str
    trim_turn: str
    workers: str
    arrivals: Mapping[str, str]
    replays: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """All of the names."""
        return self.low_water_mark, self.trim_turn, self.workers, *self.arrivals.values(), *self.replays.values()


def replay_record(stream: str) -> str:
    """Name the record of a replay that reads this stream."""
    return f"{stream}:replay"


def own_keys(requests: str, responses: str, dead_letters: str) -> OwnKeys:
    """Name all keys beside the streams of a route with these streams."""
    return OwnKeys(
        low_water_mark=f"{requests}:low-water",
        trim_turn=f"{requests}:trimmed",
        workers=f"{requests}:workers",
        arrivals={
            requests: f"{requests}:arrivals",
            responses: f"{requests}:arrivals:responses",
            dead_letters: f"{requests}:arrivals:dead-letters",
        },
        replays={stream: replay_record(stream) for stream in (requests, dead_letters)},
    )
