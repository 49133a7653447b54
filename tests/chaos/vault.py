"""Faults of Vault (here OpenBao) while workers run: workers go on with cached keys, log the fault, and recover.

A fault counts as soon as the worker that is never killed, and has all its keys in Vault, has logged it and has answered
requests meanwhile. Requests of a new client make that worker ask Vault.
"""

import os
import random
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from pathlib import Path

import redis
import requests

from chaos.plan import Fault, Plan
from chaos.scene import CLIENTS, Scene
from chaos.traffic import AnyPlanter
from harness.openbao import KeptOpenBao
from harness.servers import DEPLOY_FILES, free_port
from token_worker.acra.owner import Owner
from token_worker.keys.index_key import index_path
from token_worker.keys.layout_record import layout_path

VAULT = "Vault"
FAULTS = {
    "sealed, unsealed": 1.0,
    "killed, started again": 1.0,
    "sealed for longer than tokens live": 0.3,
    "tokens revoked": 1.0,
    "AppRole's secret id changed": 1.0,
    "another master key in its secret": 1.0,
}

TOKEN_SECONDS = 6
MOST_TOKEN_SECONDS = 30
"""Life of a worker's token between two renewals, and at most."""

REST_SECONDS = (1.0, 4.0)
NOTICED_SECONDS = 15.0
"""Time in which a worker has to log the fault."""

ANSWERS = 5
"""Requests that the worker has to answer while Vault is away."""

GRACE_SECONDS = 1.0
"""Time for which a replaced secret id stays valid, since workers may have read it already."""

MOST_CLIENTS = 30
ROLE = "auth/approle/role/token-worker"
POLICY = DEPLOY_FILES / "vault" / "all-keys.hcl"


def vault_faults() -> dict[Fault, float]:
    """All faults of Vault, with their weights."""
    return {Fault(VAULT, what): weight for what, weight in FAULTS.items()}


class VaultFaults:
    """Brings the faults of Vault about, one after the other.

    Attributes:
        by_vault: settings of workers that have the master key from Vault.
        all_by_vault: settings of a worker that has all keys from Vault.
        by_environment: settings of workers that have the master key from their environment.
    """

    def __init__(self, bao: KeptOpenBao, scene: Scene, plan: Plan, rng: random.Random) -> None:
        self._bao = bao
        self._scene = scene
        self._plan = plan
        self._rng = rng
        self._over = threading.Event()
        self._clients = 0
        self._answers = 0
        self._metrics = f"127.0.0.1:{free_port()}"
        self._kept = self._started = Path(os.devnull)
        self._master_keys = [scene.stack.settings.pop("ACRA_MASTER_KEY"), b64encode(os.urandom(32)).decode()]
        self.by_environment = {"ACRA_MASTER_KEY": self._master_keys[0]}
        self.by_vault = bao.admit_workers(POLICY, self._master_keys[0])
        self.all_by_vault = {
            **self.by_vault,
            "TOKEN_WORKER_KEYS_SOURCE": "vault",
            "TOKEN_WORKER_HTTP_ADDRESS": self._metrics,
        }
        bao.call("POST", ROLE, token_ttl=f"{TOKEN_SECONDS}s", token_max_ttl=f"{MOST_TOKEN_SECONDS}s")
        if scene.stack.layout == "dense":
            self._copy(layout_path(".acrakeys"))
        for client_id in CLIENTS:
            self._copy_key(client_id)
        self._doing: dict[str, Callable[[], bool]] = {
            "sealed, unsealed": partial(self._away, bao.seal, bao.unseal),
            "killed, started again": partial(self._away, bao.kill, bao.start),
            "sealed for longer than tokens live": partial(self._away, bao.seal, bao.unseal, TOKEN_SECONDS + 1),
            "tokens revoked": self._revoke,
            "AppRole's secret id changed": self._change_secret_id,
            "another master key in its secret": self._change_master_key,
        }

    def watch(self, kept: Path, started: Path) -> None:
        """Read the logs of the worker with all keys from Vault, and of the worker with the master key from Vault."""
        self._kept, self._started = kept, started

    def work(self, over: threading.Event) -> None:
        """Bring about one fault after the other until ``over`` is set; Vault is well afterwards."""
        self._over = over
        while not over.wait(self._plan.rest(VAULT, REST_SECONDS)):
            fault = self._plan.take(lambda fault: fault.theme == VAULT)
            try:
                happened = self._doing[fault.place]()
            except redis.RedisError:  # the storage is away, so that no client could be made
                happened = False
            if happened:
                self._plan.happened(fault)
            else:
                self._plan.failed(fault)

    def _away(self, leave: Callable[[], object], come_back: Callable[[], object], seconds: float = 0.0) -> bool:
        client = self._new_client()
        said = _Said(self._kept)
        self._note_answers()
        begin = time.monotonic()
        leave()
        try:
            if client is not None:
                self._scene.producer.add_client(*client)
            is_told = self._wait(
                lambda: said.any("key storage unavailable", "Vault token not renewed") and self._goes_on()
            )
            self._over.wait(begin + seconds - time.monotonic())
            return is_told
        finally:
            come_back()

    def _revoke(self) -> bool:
        said = _Said(self._kept)
        self._note_answers()
        self._bao.call("PUT", "sys/leases/revoke-prefix/auth/approle/login")
        return self._wait(lambda: said.any("logging in again", "logged in to Vault again") and self._goes_on())

    def _change_secret_id(self) -> bool:
        old = self._bao.call("LIST", f"{ROLE}/secret-id")["data"]["keys"]
        self._bao.write_secret_id(Path(self.by_vault["TOKEN_WORKER_VAULT_SECRET_ID_FILE"]))
        self._over.wait(GRACE_SECONDS)
        for accessor in old:
            self._bao.call("POST", f"{ROLE}/secret-id-accessor/destroy", secret_id_accessor=accessor)
        return self._revoke()

    def _change_master_key(self) -> bool:
        """Put another master key into the secret, and the first one as the previous one. Keys stay sealed with it."""
        self._master_keys.reverse()
        said = _Said(self._started)
        self._note_answers()
        self._bao.call("POST", "secret/data/acra/transport", data={"acra_master_key": self._master_keys[0]})
        return self._wait(lambda: said.any("two master keys loaded") and self._goes_on())

    def _wait(self, condition: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + NOTICED_SECONDS
        while not condition():
            if self._over.wait(0.1) or time.monotonic() > deadline:
                return False
        return True

    # -- the worker that stays

    def _note_answers(self) -> None:
        self._answers = self._answered()

    def _goes_on(self) -> bool:
        return self._answered() >= self._answers + ANSWERS

    def _answered(self) -> int:
        try:
            lines = requests.get(f"http://{self._metrics}/metrics", timeout=2).text.splitlines()
        except requests.RequestException:  # it is being stopped, or starts
            return self._answers
        return int(sum(float(line.split()[-1]) for line in lines if line.startswith("token_worker_requests_total{")))

    # -- clients

    def _new_client(self) -> tuple[str, AnyPlanter] | None:
        """Make a client that no worker knows, with its key in Vault and in the key storage. None: there are enough."""
        if self._clients == MOST_CLIENTS:
            return None
        self._clients += 1
        client_id = f"new-client-{self._clients}"
        planter = self._scene.make_client(client_id)
        self._copy_key(client_id)
        return client_id, planter

    def _copy_key(self, client_id: str) -> None:
        owner = Owner("client", client_id)
        self._copy(f".acrakeys/{owner.key_name}")
        if self._scene.stack.layout == "dense":
            self._copy(index_path(".acrakeys", owner))

    def _copy(self, path: str) -> None:
        """Copy a text of the key storage in Redis to the one in Vault."""
        self._bao.call("POST", f"secret/data/{path}", data={"key": self._scene.stack.storage.get(path).decode()})


class _Said:
    """The lines that are added to a log from now on."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._from = log.stat().st_size if log.exists() else 0

    def any(self, *phrases: str) -> bool:
        """Tell whether the log has one of these texts."""
        with self._log.open("rb") as log:
            log.seek(self._from)
            text = log.read().decode(errors="replace")
        return any(phrase in text for phrase in phrases)
