"""The pages for Kubernetes and Compose run as printed, and what they deploy serves, as a user who has no rights."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import certifi
import msgspec
import pytest
import redis

from harness.container import Container
from harness.doc_pages import page
from harness.doc_runner import Reader
from harness.fake_kubernetes import FakeKubernetes
from harness.fetching import get
from harness.manifests import Pod, compose_services, service_pod
from harness.ports import release, reserve
from harness.servers import DEPLOY_FILES, OpenBao, Valkey
from harness.stack import Stack, wait_until

pytestmark = pytest.mark.usefixtures("namespaces")

CLIENT = "shop-frontend"
SIGTERM = 143


@pytest.fixture
def ports() -> Iterator[dict[str, str]]:
    """The ports of probes and of the monitor on the pages, each with a port that is free here."""
    free = [reserve(), reserve()]
    yield {f":{shown}": f":{port}" for shown, port in zip(("9200", "9300"), free, strict=True)}
    for port in free:
        release(port)


def start(
    folder: Path, pod: Pod, content: Callable[[str], str], places: Mapping[str, str], args: list[str] | None = None
) -> Container:
    """Start what a pod or service holds, with the test's servers and ports in place of those of the pages."""

    def here(text: str) -> str:
        for on_the_page, in_the_test in places.items():
            text = text.replace(on_the_page, in_the_test)
        return re.sub(r"^\w*ca(cert|_file) = .*\n", "", text, flags=re.MULTILINE)  # the servers have no TLS

    files = {path: content(source) for path, source in pod.files.items()}
    files |= {path: here(text) for path, text in pod.settings.items()}
    variables = {name: here(value) for name, value in pod.environment.items()}
    command = [sys.executable, "-m", "token_worker", *map(here, args or pod.args)]
    return Container(folder, command, variables, files, pod.user, value="grace@navy.example")


def await_status(container: Container, url: str, status: int, token: str = "") -> str:
    """Wait for a status of a page, and return the page."""
    wait_until(lambda: container.has_ended or get(url, token)[0] == status, f"{status} of {url}")
    assert not container.has_ended, container.log.read_text()
    return get(url, token)[1]


def probe(container: Container, spec: dict[str, Any], places: Mapping[str, str]) -> None:
    """Wait until all probes of a container in a manifest succeed, on IPv4 and IPv6."""
    port_of = {port["name"]: places[f":{port['containerPort']}"] for port in spec["ports"]}
    probes = [spec[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe") if name in spec]
    assert len(probes) >= 2
    for each in probes:
        for host in ("127.0.0.1", "[::1]"):
            await_status(container, f"http://{host}{port_of[each['port']]}{each['path']}", 200)


def ask(streams: redis.Redis) -> dict[str, Any]:
    """Have a value tokenized by whoever serves."""
    request = {"id": "1", "op": "tokenize", "client_id": CLIENT, "type": "email", "value": "grace@navy.example"}
    streams.xadd("tokenize:requests", {"payload": msgspec.json.encode(request)})
    found: Any = streams.xread({"tokenize:responses": "0"}, block=60_000)
    [[_, [[_, fields], *_]]] = found
    return dict(msgspec.json.decode(fields[b"payload"]))


def check_monitor(monitor: Container, ports: Mapping[str, str], token: str) -> None:
    """See that a monitor shows page and metrics to those who have its token, reaches both servers, and stops."""
    url = f"http://127.0.0.1{ports[':9300']}"
    await_status(monitor, f"{url}/metrics", 401)
    assert "token_worker_streams_reachable 1.0" in await_status(monitor, f"{url}/metrics", 200, token)
    of_each_server = ("tokenize:requests", CLIENT)
    wait_until(lambda: all(name in get(f"{url}/", token)[1] for name in of_each_server), "the names on the page")
    assert not re.findall("away since.*|.*cannot be read.*", get(f"{url}/", token)[1])
    assert monitor.stop() in {0, SIGTERM}, monitor.log.read_text()


def test_kubernetes_runs_as_printed(
    stack: Stack, openbao_server: OpenBao, tmp_path: Path, ports: dict[str, str]
) -> None:
    """A worker of the manifests logs in to Vault by its service account, serves, is probed, and stops in time.

    The monitor beside it shows its metrics to those who have the token of the page.
    """
    stack.generate_key(CLIENT)
    master_key = stack.settings["ACRA_MASTER_KEY"]
    openbao_server.call("POST", "secret/data/acra/transport", data={"acra_master_key": master_key})
    policy = (DEPLOY_FILES / "vault" / "master-key-only.hcl").read_text()
    openbao_server.call("POST", "sys/policies/acl/master-key-only", policy=policy)
    stack.restrict(tmp_path / "passwords")
    cluster_folder = tmp_path / "cluster"
    cluster_folder.mkdir()
    vault = {"VAULT_ADDR": openbao_server.url, "VAULT_TOKEN": openbao_server.root_token}
    with FakeKubernetes(cluster_folder, "token-worker") as cluster:
        outside = f"kubernetes_host={cluster.url} disable_local_ca_jwt=true kubernetes_ca_cert=@{certifi.where()}"
        with Reader(tmp_path, vault, {"kubernetes_host=https://kubernetes.default.svc": outside}) as reader:
            cluster.install_kubectl(tmp_path / "bin")
            reader.follow(page("docs/kubernetes.md"))
        servers = {f"{name}:6379": f"127.0.0.1:{stack.settings[f'TOKEN_WORKER_{name.upper()}_URL'].rpartition(':')[2]}"
                   for name in ("streams", "keys")}  # fmt: skip
        places = {**servers, **ports, "/0": "", "rediss:": "redis:", "https://vault:8200": openbao_server.url}
        manifests = cluster.manifests
        with start(tmp_path / "worker", manifests.pod("token-worker"), cluster.content, places) as worker:
            probe(worker, manifests.container("token-worker"), ports)
            assert ask(stack.streams)["status"] == "ok"
            assert worker.stop() == 0, worker.log.read_text()
            assert "traceback" not in worker.log.read_text()
        token = (tmp_path / "page-token").read_text().strip()
        with start(tmp_path / "monitor", manifests.pod("token-worker-monitor"), cluster.content, places) as monitor:
            probe(monitor, manifests.container("token-worker-monitor"), ports)
            check_monitor(monitor, ports, token)
    openbao_server.call("DELETE", "sys/auth/kubernetes")
    openbao_server.call("DELETE", "secret/metadata/acra/transport")


def test_compose_runs_as_printed(tmp_path: Path, ports: dict[str, str]) -> None:
    """Each service has the secrets and the rights that it needs: the worker, its operator, its client, the monitor."""
    with Reader(tmp_path, {}, {}) as reader:
        reader.follow(page("docs/compose.md"))
    deploy = tmp_path / "deploy"

    def content(source: str) -> str:
        return (deploy / source.replace("secret/", "secrets/")).read_text()

    def server(name: str) -> Valkey:
        assert (deploy / "acl" / f"{name}.acl").read_text().endswith("\nuser default off\n")
        return Valkey(f"aclfile {deploy}/acl/{name}.acl", "maxmemory-policy noeviction")

    with server("streams") as streams, server("keys") as keys:
        places = {"streams:6379": f"127.0.0.1:{streams.port}", "keys:6379": f"127.0.0.1:{keys.port}", **ports}
        pods = {name: service_pod(service) for name, service in compose_services().items()}
        for number, command in enumerate((["tokens", "layout", "dense"], ["keys", "generate", CLIENT])):
            with start(tmp_path / f"operator-{number}", pods["operator"], content, places, command) as operator:
                assert operator.wait() == 0, operator.log.read_text()
        with start(tmp_path / "worker", pods["worker"], content, places) as worker:
            await_status(worker, f"http://127.0.0.1{ports[':9200']}/readyz", 200)
            request = ["request", "tokenize", "--type", "email", "--client", CLIENT]
            with start(tmp_path / "client", pods["client"], content, places, request) as client:
                assert client.wait() == 0, client.log.read_text()
                assert msgspec.json.decode(client.log.read_bytes())["status"] == "ok"
            assert worker.stop() == 0, worker.log.read_text()
        with start(tmp_path / "monitor", pods["monitor"], content, places) as monitor:
            check_monitor(monitor, ports, content("secret/monitor-token").strip())
