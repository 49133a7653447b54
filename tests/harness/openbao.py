"""OpenBao as in production: it keeps its data on disk, and can be sealed."""

import json
from typing import Self

import requests

from harness.server_process import START_SECONDS
from harness.servers import OpenBao, bao_binary
from harness.stack import wait_until

SERVES, NOT_INITIALIZED, SEALED = 200, 501, 503
"""HTTP statuses of its health."""


class KeptOpenBao(OpenBao):
    """OpenBao that keeps its data on disk, KV 2 at ``secret/``: it can be killed, started again, and sealed."""

    def __init__(self) -> None:
        super().__init__()
        self._unseal_key = ""

    def choose_ports(self) -> None:
        super().choose_ports()
        self._cluster_port = self.a_port()

    def command(self) -> list[str]:
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        cluster = f"127.0.0.1:{self._cluster_port}"
        address = f"127.0.0.1:{self.port}"
        settings = {
            "storage": {"raft": {"path": str(data), "node_id": "one", "performance_multiplier": 1}},
            "listener": {"tcp": {"address": address, "cluster_address": cluster, "tls_disable": True}},
            "api_addr": self.url,
            "cluster_addr": f"http://{cluster}",
        }
        config = self.folder / "server.json"
        config.write_text(json.dumps(settings))
        return [bao_binary(), "server", f"-config={config}"]

    def answers(self) -> bool:
        """Tell whether it is up; ``start`` unseals it then."""
        return self.health() in {SERVES, NOT_INITIALIZED, SEALED}

    def start(self) -> Self:
        """Start it and make it usable, the first time by a new key and root token."""
        super().start()
        try:
            if not self._unseal_key:
                made = self.call("PUT", "sys/init", secret_shares=1, secret_threshold=1)
                self._unseal_key, self.root_token = made["keys"][0], made["root_token"]
                self.unseal()
                self.call("POST", "sys/mounts/secret", type="kv", options={"version": "2"})
                self._wait_for("secret/config")  # it prepares a new mount in the background
            else:
                self.unseal()
        except BaseException:  # as in the other classes
            self.stop()
            raise
        return self

    def seal(self) -> None:
        """Lock it: it knows nothing until it is unsealed."""
        self.call("PUT", "sys/seal")

    def unseal(self) -> None:
        """Open it, and wait until it serves."""
        self.call("PUT", "sys/unseal", key=self._unseal_key)
        self._wait_for("sys/mounts")

    def _wait_for(self, path: str) -> None:
        """Wait until it is the active node and returns this path."""
        wait_until(lambda: self.health() == SERVES and self._gives(path), path, START_SECONDS)

    def _gives(self, path: str) -> bool:
        try:
            self.call("GET", path)
        except requests.HTTPError:
            return False
        return True
