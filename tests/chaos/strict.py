"""The act in which nothing may be lost: workers are killed, stopped and cut, servers restart and keep their data.

Streams and token storage are two Valkeys that sync every write; Vault is an OpenBao. Six workers run at any time. The
first has all keys from Vault, and is never killed. The second has the master key from Vault, the others from their
environment.
"""

import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

from chaos.judge import Outcome, judge
from chaos.plan import Fault, Plan
from chaos.scene import KEPT, Scene
from chaos.servers import ServerFaults, server_faults
from chaos.vault import VaultFaults, vault_faults
from chaos.workers import Roles, WorkerFaults, worker_faults
from harness.openbao import KeptOpenBao
from harness.servers import Valkey
from token_worker.keys.layout_record import LayoutName

RATE = 300

EXTRA_SECONDS = 180.0
"""Additional time for faults that have not happened yet."""

WORKERS = 6


def play(
    seconds: float, rng: random.Random, progress: Callable[[str], None], layout: LayoutName
) -> tuple[Outcome, Counter[Fault]]:
    """Bring about faults for some seconds, or longer if some have not happened. Returns the result and the faults."""
    plan = Plan(worker_faults(layout) | server_faults() | vault_faults(), rng)

    def fork() -> random.Random:
        return random.Random(rng.random())

    with (
        Valkey(*KEPT) as streams,
        Valkey(*KEPT) as storage,
        KeptOpenBao() as bao,
        Scene(streams, storage, fork(), rate=RATE, layout=layout) as scene,
        ExitStack() as exits,
    ):
        vault = VaultFaults(bao, scene, plan, fork())
        ports = Roles(streams.port, storage.port)
        kinds = [
            (ports._replace(vault=bao.port, all_keys=True), vault.all_by_vault),
            (ports._replace(vault=bao.port), vault.by_vault),
            *[(ports, vault.by_environment)] * (WORKERS - 2),
        ]
        workers = [
            WorkerFaults(
                scene.stack,
                scene.ledger,
                plan,
                fork(),
                roles,
                exits,
                settings=settings,
                log=bao.folder / f"worker-{number}.log",
                keeps=number == 0,
            )
            for number, (roles, settings) in enumerate(kinds)
        ]
        vault.watch(workers[0].log, workers[1].log)
        workers[0].start()
        with scene.traffic() as crew:
            for work in (*(worker.work for worker in workers), ServerFaults(scene, plan, fork()).work, vault.work):
                crew.start(work)
            begin = time.monotonic()
            while not crew.over.wait(0.2):
                left = seconds - (time.monotonic() - begin)
                if left < 0 and (not plan.missing or left < -EXTRA_SECONDS):
                    break
                progress(_tell(left, plan, scene))
            progress("nothing lost: what is left is answered and detokenized")
        return judge("nothing is lost", scene.ledger, None, scene.producer.refused), plan.counts


def _tell(left: float, plan: Plan, scene: Scene) -> str:
    faults, missing = sum(plan.counts.values()), len(plan.missing)
    due = f", {missing} kinds still to come" if missing else ""
    return f"nothing lost: {max(left, 0):.0f} s left, {faults} faults{due}, {scene.ledger.replies:,} requests answered"
