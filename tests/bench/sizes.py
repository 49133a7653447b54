"""The sizes of a run, and its layout."""

import msgspec

from token_worker.keys.layout_record import LayoutName


class Sizes(msgspec.Struct, frozen=True):
    """The numbers of a run; each is an option of the command line.

    Attributes:
        rounds: number of samples of each figure; groups with a long preparation take three at most.
        requests: single requests of one backlog, and items of one in requests of many.
        acra: tokens as Acra writes them; more than the 4,096 data keys that a worker keeps.
        rate: single requests a second of the steady load.
        seconds: length of each steady load.
        idle: seconds for which the CPU of an idle worker is counted.
        stored: tokens in the large storage.
        clients: clients that send in turn.
        large: number of requests of 1 MiB and 1,000 items.
        rows: number of rows in the file for the command.
        loop: seconds of each closed or open loop, and of each load by a client.
        open_rate: requests a second that stand for the closed loop's rate in the open loops; 0 for the rate measured.
        listed: values of the list that one call of the client takes.
        layout: layout of the tokens, except in the group that compares both.
    """

    rounds: int = 5
    requests: int = 10_000
    acra: int = 6_000
    rate: int = 1000
    seconds: float = 3
    idle: float = 11
    stored: int = 1_000_000
    clients: int = 100_000
    large: int = 40
    rows: int = 100_000
    loop: float = 1
    open_rate: float = 0
    listed: int = 100_000
    layout: LayoutName = "acra"

    @property
    def few_rounds(self) -> int:
        """Rounds of the groups that prepare much."""
        return min(self.rounds, 3)


QUICK = Sizes(
    rounds=1,
    requests=400,
    acra=400,
    rate=500,
    seconds=0.5,
    idle=0.5,
    stored=20_000,
    clients=400,
    large=2,
    rows=2000,
    loop=0.04,
    listed=2000,
)
"""Sizes of a short run that tests the benchmark itself; its figures mean nothing."""

ITEMS = 100
"""Number of items in a request with items."""
