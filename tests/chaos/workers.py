"""Faults of workers: a worker is killed, stopped or cut off at a command that was chosen before.

Proxies between the worker and its servers see every command, and strike at the chosen one. A killed worker is replaced
by a new one behind the same proxies.
"""

import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import redis

from chaos.plan import Fault, Plan
from harness.commands import CLAIM, COMMIT, DENSE_LABELS, LABELS, UNCOUNT, label
from harness.ledger import Kind, Ledger
from harness.proxy import Command, Moment, Proxy, Relay, Verdict
from harness.stack import Stack, WorkerProcess
from token_worker.keys.layout_record import LayoutName
from token_worker.streams.routes import DEFAULT_ROUTES

KILL, STOP, CUT = "SIGKILL of a worker", "SIGSTOP of a worker, then SIGCONT", "connections of a worker"

BEFORE, AFTER = "before it", "after it"
ANYWHERE = "any command"
BY_CLOCK = Fault(KILL, "anything", "by the clock")
"""A kill that looks at no command."""

ALIVE_SECONDS = (0.0, 2.0)
"""Life of a worker before such a kill."""

STOPS = ("streams XREADGROUP", CLAIM, "tokens MGET", "tokens MSETNX", COMMIT)
STOP_SECONDS = (1.3, 2.5)
"""Longer than the claim time: another worker has the entries by then."""

CUTS = {
    "reset before it": (Moment.BEFORE, Verdict.CUT),
    "in the middle of it": (Moment.BEFORE, Verdict.CUT_IN_THE_MIDDLE),
    "after it, the reply is lost": (Moment.AFTER, Verdict.CUT),
    "in the middle of the reply": (Moment.AFTER, Verdict.CUT_IN_THE_MIDDLE),
    "delayed": (Moment.AFTER, Verdict.PASS),
    "half open": (Moment.AFTER, Verdict.HOLD),
}
CUT_PLACES = ("streams", COMMIT, "keys", "tokens", "tokens MSETNX", "vault")
DELAY_SECONDS = (0.5, 2.0)

SKIPPED = {ANYWHERE: 150, "streams": 10, "tokens": 10}
"""Upper limits for the random number of commands that a strike at such a place lets pass; elsewhere it lets none."""

WAIT_SECONDS = 5.0
"""Time in which a strike has to find its command."""

SEES_NOTHING = frozenset({"streams XREADGROUP", CLAIM, "streams XPENDING"})
"""Commands with possibly empty replies. A strike after an empty reply would hit a worker without any entries."""


RETENTION = frozenset({"streams EVALSHA turn", "streams EVALSHA trim", "streams EVALSHA sweep"})
"""Commands that trim the streams: sent after a worker's first batch, then every ten seconds, if it is its turn."""

AT_START = (
    RETENTION
    | {"streams CLIENT", "streams EVALSHA group", "tokens CLIENT", "tokens GET", "tokens SET", "vault"}
    | {place for place in (*LABELS, *CUT_PLACES) if place.startswith("keys")}
)
"""Commands that a worker seldom sends later: a new worker is started for them."""


class Roles(NamedTuple):
    """Ports of a worker's servers, and whether all keys are in Vault; without a port of Vault no key is."""

    streams: int
    storage: int
    vault: int | None = None
    all_keys: bool = False


def worker_faults(layout: LayoutName) -> dict[Fault, float]:
    """All faults of workers in a layout, with their weights."""
    faults: dict[Fault, float] = {}
    for place in (*(LABELS if layout == "acra" else DENSE_LABELS), "vault"):
        for moment in (BEFORE, AFTER):
            faults[Fault(KILL, place, moment)] = 1.0
    faults |= {Fault(KILL, ANYWHERE, moment): 10.0 for moment in (BEFORE, AFTER)}
    faults[BY_CLOCK] = 10.0
    faults |= {Fault(STOP, place, moment): 0.4 for place in STOPS for moment in (BEFORE, AFTER)}
    for place in CUT_PLACES:
        faults |= {Fault(CUT, place, moment): 0.1 if moment == "half open" else 0.5 for moment in CUTS}
    return faults


class _Strike(NamedTuple):
    """A fault that waits for its command.

    Attributes:
        place: a server or a command; empty for any command.
        skip: number of such commands to let pass.
        act: brings the fault about, and returns what the proxy has to do.
        struck: set when the fault has happened.
    """

    place: str
    moment: Moment
    skip: list[int]
    act: Callable[[], Verdict]
    struck: threading.Event


class WorkerFaults:
    """Faults of one worker after the other, behind the same proxies.

    Args:
        settings: of these workers.
        log: file for the workers' output.
        keeps: the worker is never killed; the same one runs for the whole act.
    """

    def __init__(
        self,
        stack: Stack,
        ledger: Ledger,
        plan: Plan,
        rng: random.Random,
        roles: Roles,
        exits: ExitStack,
        *,
        settings: dict[str, str],
        log: Path,
        keeps: bool,
    ) -> None:
        self.log = log
        self._stack = stack
        self._ledger = ledger
        self._plan = plan
        self._rng = rng
        self._keeps = keeps
        self._lock = threading.Lock()
        self._strike: _Strike | None = None
        self._is_alone = False
        self._over = threading.Event()
        self._worker: WorkerProcess | None = None
        self._settings = dict(settings)
        ports = {"streams": roles.streams, "tokens": roles.storage}
        if not roles.all_keys:
            ports["keys"] = roles.storage
        for role, port in ports.items():
            proxy = exits.enter_context(Proxy(port, partial(self._hook, role)))
            self._settings[f"TOKEN_WORKER_{role.upper()}_URL"] = proxy.url
        self._roles = set(ports)
        if roles.vault is not None:
            proxy = exits.enter_context(Relay(roles.vault, partial(self._hook, "vault")))
            self._settings["VAULT_ADDR"] = f"http://127.0.0.1:{proxy.port}"
            self._roles.add("vault")

    def start(self) -> None:
        """Start a worker, unless one runs."""
        if self._worker is not None and not self._worker.is_alive:
            status = self._worker.wait()
            self._ledger.note(Kind.WORKER_ENDED, f"one with exit status {status}")
            self._worker = None
        if self._worker is None:
            self._worker = self._stack.start_worker(log=self.log, **self._settings)

    def work(self, over: threading.Event) -> None:
        """Bring about one fault after the other until ``over`` is set; a worker runs afterwards."""
        self._over = over
        while not over.is_set():
            self.start()
            fault = self._plan.take(self._can)
            if fault == BY_CLOCK:
                over.wait(self._rng.uniform(*ALIVE_SECONDS))
                self._kill_now()
            else:
                self._do(fault)
        with self._lock:
            self._strike = None
        self.start()

    def _can(self, fault: Fault) -> bool:
        if fault.theme == KILL:
            return not self._keeps and (fault.place in (ANYWHERE, BY_CLOCK.place) or self._has(fault.place))
        if self._keeps and fault.place in AT_START and fault.place != "vault":
            return False
        return fault.theme in (STOP, CUT) and self._has(fault.place)

    def _has(self, place: str) -> bool:
        return place.partition(" ")[0] in self._roles

    def _do(self, fault: Fault) -> None:
        moment, act = self._act(fault)
        place = "" if fault.place == ANYWHERE else fault.place
        skip = self._rng.randrange(SKIPPED.get(fault.place, 1))
        strike = _Strike(place, moment, [skip], act, threading.Event())
        if not self._keeps and place in AT_START:  # what is there has sent it already
            self._kill_now()
        with self._lock:
            self._strike = strike
        self.start()
        if self._wait(strike):
            self._plan.happened(fault)
            if fault.theme == KILL and self._worker is not None:
                self._worker.kill()
                self._worker = None
            return
        self._plan.failed(fault)
        if fault.theme == KILL:  # another worker may send the command soon after it starts
            self._kill_now()

    def _kill_now(self) -> None:
        if self._worker is not None and self._worker.is_alive:
            self._worker.kill()
            self._worker = None
            self._plan.happened(BY_CLOCK)

    def _have_a_turn(self) -> None:
        """Make the next worker that asks the one to trim the streams."""
        with suppress(redis.RedisError):
            self._stack.streams.delete(*(route.own_keys.trim_turn for route in DEFAULT_ROUTES))

    def _wait(self, strike: _Strike) -> bool:
        """Wait until the strike has found its command; False if it found none in time."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not strike.struck.wait(0.1):
            with self._lock:
                if self._strike is not strike:  # it has, and takes its time
                    continue
                is_dead = self._worker is None or not self._worker.is_alive
                if is_dead or self._over.is_set() or time.monotonic() > deadline:
                    self._strike = None
                    return False
        return True

    def _act(self, fault: Fault) -> tuple[Moment, Callable[[], Verdict]]:
        if fault.theme == CUT:
            moment, verdict = CUTS[fault.moment]
            if fault.moment == "delayed":
                return moment, partial(self._delay, self._rng.uniform(*DELAY_SECONDS))
            return moment, lambda: verdict
        moment = Moment.BEFORE if fault.moment == BEFORE else Moment.AFTER
        if fault.theme == KILL:
            return moment, self._kill
        return moment, partial(self._stop, self._rng.uniform(*STOP_SECONDS))

    # -- in the threads of the proxies

    def _hook(self, role: str, moment: Moment, command: Command) -> Verdict:
        strike = self._strike
        if strike is None:
            return Verdict.PASS
        name = label(role, command)
        if moment is Moment.BEFORE and self._lead_to(strike.place, name):
            return Verdict.CUT
        if moment is not strike.moment:
            return Verdict.PASS
        is_in_vain = moment is Moment.AFTER and name in SEES_NOTHING and not command.reply
        if is_in_vain or strike.place not in ("", role, name):
            return Verdict.PASS
        with self._lock:
            if self._strike is not strike:
                return Verdict.PASS
            strike.skip[0] -= 1
            if strike.skip[0] >= 0:
                return Verdict.PASS
            self._strike = None
        verdict = strike.act()
        strike.struck.set()
        return verdict

    def _lead_to(self, place: str, name: str) -> bool:
        """Bring the worker to a rare command; True if its connection has to be cut for that."""
        if name == "streams EVALSHA turn" and place in RETENTION:
            self._have_a_turn()
        is_alone, self._is_alone = self._is_alone, name == CLAIM  # after a claim it looks up what one entry needs
        return place == UNCOUNT and is_alone and name == "tokens MGET"

    def _kill(self) -> Verdict:
        if self._worker is not None:
            self._worker.signal(signal.SIGKILL)
        return Verdict.CUT

    def _stop(self, seconds: float) -> Verdict:
        worker = self._worker
        if worker is not None:
            worker.signal(signal.SIGSTOP)
            self._over.wait(seconds)
            worker.signal(signal.SIGCONT)
        return Verdict.PASS

    def _delay(self, seconds: float) -> Verdict:
        self._over.wait(seconds)
        return Verdict.PASS
