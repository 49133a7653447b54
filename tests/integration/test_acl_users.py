"""The users that ``token-worker acl`` prints have the rights that they need, and no others."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from harness.servers import Valkey, redis_binary, valkey_binary
from harness.stack import Stack, wait_until
from token_worker.acra.owner import Owner
from token_worker.client import TokenClient
from token_worker.keys.index_key import index_path
from token_worker.keys.layout_record import TOKENS_RECORD, layout_path
from token_worker.monitor.collector import Collector
from token_worker.settings import load
from token_worker.storage.dense.entry import EntryNames, check_name
from token_worker.storage.dense.layout import DenseLayout
from token_worker.streams.routes import Route

CLIENT = "shop-frontend"
ROUTES = [
    {
        "requests": "in[1]",
        "responses": "out[1]",
        "ops": ["tokenize", "detokenize"],
        "request_retention_seconds": 3600,
    },
    {"requests": "tenant:in", "responses": "tenant:out", "ops": ["tokenize"], "client_id": "tenant-two"},
]


class ServersWithUsers:
    """Servers with the users that ``token-worker acl`` prints for the routes, and the files with their passwords."""

    def __init__(self, streams: Valkey, storage: Valkey, folder: Path) -> None:
        self.servers = {"streams": streams, "keys": storage, "tokens": storage}
        self.folder = folder
        self.routes = json.dumps(ROUTES)
        self.stack = Stack(
            streams,
            storage,
            settings={
                "TOKEN_WORKER_ROUTES": self.routes,
                "TOKEN_WORKER_CLAIM_IDLE_MS": "1000",
                "TOKEN_WORKER_MAX_DELIVERIES": "1",
            },
        )
        done = self.stack.run("acl", "--passwords", str(folder), "--reply-groups", "--json")
        assert done.returncode == 0, done.stderr
        for line in done.stdout.splitlines():
            row = json.loads(line)
            with self.servers[row["server"]].client() as client:
                client.execute_command("ACL", "SETUSER", row["user"], *row["rules"])
        self.stack.generate_key(CLIENT)
        self.stack.generate_key("tenant-two")

    def settings_as(self, name: str) -> dict[str, str]:
        """Settings to work as this user on all servers where there is such a one."""
        settings: dict[str, str] = {}
        for use in ("streams", "keys", "tokens"):
            server = "keys" if use == "tokens" else use
            file = self.folder / f"{server}-{name}"
            if file.exists():
                url = self.servers[use].url.replace("redis://", f"redis://{name}@")
                settings |= {f"TOKEN_WORKER_{use.upper()}_URL": url}
                settings |= {f"TOKEN_WORKER_{use.upper()}_PASSWORD_FILE": str(file)}
        return settings

    def client_as(self, name: str, server: str = "streams") -> Any:
        password = (self.folder / f"{server}-{name}").read_text().strip()
        return redis.Redis(port=self.servers[server].port, username=name, password=password, protocol=2)


@pytest.fixture(params=[valkey_binary, redis_binary])
def secured(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServersWithUsers]:
    """Users of the routes, on servers of this test's own."""
    binary: Callable[[], str] = request.param
    with Valkey(binary=binary()) as streams, Valkey(binary=binary()) as storage:
        secured = ServersWithUsers(streams, storage, tmp_path / "passwords")
        with secured.stack:
            yield secured


def payload(number: int, **more: Any) -> dict[str, Any]:
    request = {"id": f"r{number}", "op": "tokenize", "client_id": CLIENT, "type": "str", "value": f"value {number}"}
    return {"payload": json.dumps({**request, **more})}


def test_everybody_can_do_what_they_have_to(secured: ServersWithUsers) -> None:
    """Producer, worker, reader, monitor and operator, each as a user of its own, do all of their work."""
    stack = secured.stack
    producer, reader = secured.client_as("producer-in-1"), secured.client_as("reader-out-1")
    for number in range(20):
        producer.xadd("in[1]", payload(number))
    producer.xadd("in[1]", payload(20, reply_to="out[1]:mine"))
    producer.xadd("in[1]", {"no": "payload"})  # becomes a dead letter
    worker = stack.start_worker(**secured.settings_as("token-worker"), log=secured.folder / "worker.log")
    wait_until(lambda: reader.xread({"out[1]:mine": "0"}), "the reply on a stream of its own")
    wait_until(lambda: stack.streams.xlen("in[1]:dead"), "the dead letter")
    reader.xgroup_create("out[1]", "readers", id="0")
    [[_, replies]] = reader.xreadgroup("readers", "me", {"out[1]": ">"}, count=100)
    assert {json.loads(fields[b"payload"])["status"] for _, fields in replies} == {"ok"}
    assert reader.xack("out[1]", "readers", *(entry_id for entry_id, _ in replies)) == 20
    reader.expire("out[1]:mine", 10)
    wait_until(lambda: stack.streams.exists("in[1]:low-water"), "the low-water mark, kept by trimming")
    assert stack.streams.exists("in[1]:trimmed")
    wait_until(lambda: stack.streams.hlen("in[1]:workers"), "the worker's note about itself")
    [note] = secured.client_as("token-monitor").hgetall("in[1]:workers").values()
    assert json.loads(note)["ready"]

    lag = secured.stack.run("lag", "--json", **secured.settings_as("token-monitor"))
    assert lag.returncode == 0, lag.stderr
    rows = {json.loads(line)["stream"]: json.loads(line) for line in lag.stdout.splitlines()}
    assert (rows["in[1]"]["undelivered"], rows["in[1]"]["dead_letters"]) == (0, 1)

    check_monitor(secured)

    as_operator = secured.settings_as("token-operator")
    for arguments, status in (
        (("replay", "--from", "0-0"), 1),  # the entry without a payload is a finding
        (("dead-letters", "list"), 0),
        (("dead-letters", "replay", "--all"), 1),  # the same
        (("dead-letters", "drop", "--all", "--yes"), 0),
        (("keys", "list"), 0),
        (("keys", "rotate", CLIENT, "--yes"), 0),
        (("keys", "verify"), 0),
        (("keys", "generate", "third-client"), 0),
        (("keys", "index", "--all"), 0),
        (("keys", "rewrap"), 0),
        (("keys", "destroy", "third-client", "--last", "--confirm=third-client", "--unused-elsewhere"), 0),
        (("keys", "destroy", "third-client", "--last", "--restore"), 0),
        (("tokens", "status", CLIENT), 0),
        (("tokens", "disable", CLIENT, "--yes"), 0),
        (("tokens", "verify", CLIENT), 0),
        (("tokens", "reencrypt", CLIENT, "--yes"), 0),
        (("tokens", "remove", CLIENT, "--yes"), 0),
    ):
        done = secured.stack.run(*arguments, **as_operator)
        assert done.returncode == status, (arguments, done.stdout, done.stderr)
        assert "NOPERM" not in done.stdout + done.stderr
    assert not stack.storage.keys("tokens/*")
    assert worker.stop() == 0
    assert "NOPERM" not in (secured.folder / "worker.log").read_text()
    assert stack.streams.xinfo_consumers("in[1]", "token-workers") == []
    assert not stack.streams.exists("in[1]:workers")


def check_monitor(secured: ServersWithUsers) -> None:
    """As ``token-monitor``, the monitor reads all that its page shows, and may read neither keys nor tokens."""
    collector = Collector(load(secured.stack.environment(**secured.settings_as("token-monitor"))))
    for source in collector.sources:
        source.look()
    look = collector.look()
    seen = [look.streams, *look.servers.values(), look.keys, look.checks]
    assert [one.trouble for one in seen if one is not None and one.trouble is not None] == []
    facts, keys, checks = look.streams.value, look.keys and look.keys.value, look.checks.value
    assert facts is not None
    assert facts.refused == []
    assert [*facts.dead["in[1]:dead"].by_reason] == ["payload_missing"]
    assert [worker.ready for worker in facts.workers["in[1]"]] == [True]
    assert keys is not None
    assert keys.clients == 2
    verdicts = {check.check: check.status for check in checks or ()}
    assert (verdicts["keys: right to read"], verdicts["tokens: right to read"]) == ("ok", "ok")
    assert "finding" not in {verdicts["streams: user"], verdicts["keys: user"], verdicts["tokens: user"]}


def test_client_can_do_what_it_has_to(secured: ServersWithUsers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with the rights of a client sends, reads replies, trims its own stream, and leaves no stream behind."""
    monkeypatch.setattr("token_worker.client.replies.TRIM_SECONDS", 0.0)
    password = (secured.folder / "streams-client-in-1").read_text().strip()
    url = f"redis://client-in-1:{password}@127.0.0.1:{secured.servers['streams'].port}"
    routes = msgspec.json.decode(secured.routes, type=tuple[Route, ...])
    secured.stack.start_worker(log=None, **secured.settings_as("token-worker"))
    with TokenClient(url, routes=routes, client_id=CLIENT) as tokens:
        for _ in range(2):
            assert tokens.detokenize(tokens.tokenize("Grace")) == "Grace"
    # The library that connects tells its name, and does without where it may not.
    assert {row["object"] for row in secured.stack.streams.acl_log()} <= {"client|setinfo"}
    assert secured.stack.streams.keys("out*") == []


@pytest.mark.parametrize(
    "user", ["producer-in-1", "reader-out-1", "client-in-1", "token-monitor", "token-operator", "token-worker"]
)
def test_nobody_can_do_more(secured: ServersWithUsers, user: str) -> None:
    """Deleting, trimming, scripts on other keys, listing keys, and another tenant's streams are refused."""
    stack = secured.stack
    for stream in ("in[1]", "out[1]", "tenant:in", "tenant:out", "in1"):
        stack.streams.xadd(stream, {"payload": "x"})
    stack.streams.set("something:else", "1")
    client = secured.client_as(user)
    tries: list[tuple[Any, ...]] = [
        ("DEL", "in[1]"),
        ("DEL", "out[1]"),
        ("SET", "in[1]", "x"),
        ("XRANGE", "in1", "-", "+"),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
        ("GET", "something:else"),
        ("HGETALL", "something:else"),
        ("EVAL", "return redis.call('GET', KEYS[1])", 1, "something:else"),
        ("EVAL", "return redis.call('DEL', 'in[1]')", 0),
        ("EVAL", "return redis.call('FLUSHALL')", 0),
    ]
    if user != "token-worker":
        tries += [("XTRIM", "in[1]", "MAXLEN", 0), ("XTRIM", "out[1]", "MAXLEN", 0)]
        tries += [("XADD", "tenant:out", "*", "payload", "x"), ("XACK", "in[1]", "token-workers", "1-0")]
    if user.startswith(("producer", "reader", "client")):
        tries += [("XADD", "tenant:in", "*", "payload", "x"), ("XRANGE", "tenant:in", "-", "+")]
        tries += [("XREAD", "STREAMS", "tenant:out", "0"), ("XREAD", "STREAMS", "in[1]", "0"), ("EVAL", "return 1", 0)]
    if user.startswith("producer"):
        tries += [("XREAD", "STREAMS", "out[1]", "0"), ("XDEL", "in[1]", "1-0")]
    if user.startswith("client"):
        tries += [("EXPIRE", "out[1]", 1), ("UNLINK", "out[1]"), ("XREAD", "STREAMS", "tenant:out:mine", "0")]
    if user.startswith("reader"):
        tries += [("XADD", "out[1]", "*", "payload", "x"), ("EXPIRE", "out[1]", 1), ("XDEL", "out[1]", "1-0")]
    before = {key: stack.streams.dump(key) for key in stack.streams.keys("*")}
    for command in tries:
        with pytest.raises(redis.RedisError) as refused:
            client.execute_command(*command)
        assert isinstance(refused.value, redis.exceptions.NoPermissionError) or "permission" in str(refused.value), (
            command
        )
    assert {key: stack.streams.dump(key) for key in stack.streams.keys("*")} == before


def is_refused(client: Any, *command: Any) -> bool:
    """Try a command. Tell whether the user lacks a right for it."""
    try:
        client.execute_command(*command)
    except redis.exceptions.NoPermissionError:
        return True
    except redis.ResponseError as error:  # by a script
        return "permission" in str(error)
    return False


def test_rights_in_the_dense_layout(secured: ServersWithUsers) -> None:
    """A worker reads index keys and records, and writes entries of the layout; index keys are made by operators alone.

    Its rights end at names of another length.
    """
    worker, operator = (secured.client_as(name, "keys") for name in ("token-worker", "token-operator"))
    owner = Owner("client", CLIENT)
    index, record, check = index_path(".acrakeys", owner), layout_path(".acrakeys"), check_name(owner)
    names = EntryNames(bytes(32), owner)
    value, token = names.of_value(b"value\n", 3), names.of_token(b"token", 3)
    script = "for _, key in ipairs(KEYS) do redis.call('GET', key) redis.call('SET', key, '') end"

    refused = {
        "worker": [
            *(is_refused(worker, "SET", name, "x") for name in (index, record, TOKENS_RECORD)),
            *(is_refused(worker, "MSETNX", name, "x") for name in (value + b"x", value[:-1], b"x" + value[1:])),
            *(is_refused(worker, "DEL", name) for name in (index, value, token, check)),
            is_refused(worker, "EVAL", script, 1, index),
        ],
        "monitor": [
            *(is_refused(secured.client_as("token-monitor", "keys"), "MGET", name) for name in (index, value)),
            is_refused(secured.client_as("token-monitor", "keys"), "SET", TOKENS_RECORD, "x"),
        ],
    }
    allowed = {
        "worker": [
            is_refused(worker, "MGET", f".acrakeys/{owner.key_name}", index, record),
            is_refused(worker, "GET", TOKENS_RECORD),
            is_refused(worker, "MSETNX", value, "x", token, "x"),
            is_refused(worker, "MGET", value, token),
            is_refused(worker, "SET", check, "x", "NX", "GET"),
            is_refused(worker, "EVAL", script, 2, value, token),
            is_refused(worker, "SET", DenseLayout.unused_name, "", "XX"),
        ],
        "operator": [
            *(is_refused(operator, "SET", name, "x") for name in (index, record, TOKENS_RECORD)),
            *(is_refused(operator, "EVAL", script, 1, name) for name in (index, record, value)),
            *(is_refused(operator, "DEL", name) for name in (index, record, value, token, check)),
        ],
        "monitor": [
            is_refused(secured.client_as("token-monitor", "keys"), "MGET", record),
            is_refused(secured.client_as("token-monitor", "keys"), "GET", TOKENS_RECORD),
        ],
    }

    assert {user: set(tries) for user, tries in refused.items()} == {"worker": {True}, "monitor": {True}}
    assert {user: set(tries) for user, tries in allowed.items()} == {user: {False} for user in allowed}


@pytest.mark.parametrize("binary", [valkey_binary, redis_binary])
def test_lines_load_as_an_acl_file_and_as_commands(stack: Stack, tmp_path: Path, binary: Callable[[], str]) -> None:
    """The command that the output names makes the users, leaves others alone, and saves all.

    The output is an ACL file, too. Without --passwords nobody can log in.
    """
    (tmp_path / "users.acl").touch()
    with Valkey(f"aclfile {tmp_path}/users.acl", binary=binary()) as server, server.client() as client:
        client.execute_command("ACL", "SETUSER", "somebody-else")
        done = stack.run("acl", "--server", "streams", TOKEN_WORKER_STREAMS_URL=server.url)
        assert done.returncode == 0, done.stderr
        (tmp_path / "lines").write_text(done.stdout)
        command = done.stderr.rpartition("administrator: ")[2].replace("FILE", f"{tmp_path}/lines")
        _run_in_shell(command, *["OK"] * len(done.stdout.splitlines()), "OK")
        made = client.acl_list()
        assert {"token-worker", "producer-tokenize", "reader-detokenize", "somebody-else"} <= set(client.acl_users())
        assert "off" in client.acl_getuser("token-worker")["flags"]
        assert "user somebody-else" in (tmp_path / "users.acl").read_text()
        (tmp_path / "users.acl").write_text(done.stdout)
        assert client.acl_load()
        assert set(client.acl_list()) == {row for row in made if "somebody-else" not in row}


def _run_in_shell(line: str, *printed: str) -> None:
    if not shutil.which("redis-cli"):
        pytest.skip("redis-cli is not installed")
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=True, timeout=60)  # noqa: S602
    assert done.stdout.split() == [*printed], done.stdout


def test_users_of_several_servers_do_not_come_as_one_file(stack: Stack) -> None:
    """Lines for several servers are refused: no server could load them. Uses of one server give one file."""
    done = stack.run("acl")
    assert (done.returncode, done.stdout) == (2, "")
    assert "choose one by --server" in done.stderr
    keys, tokens = (stack.run("acl", "--server", server) for server in ("keys", "tokens"))
    assert keys.stdout == tokens.stdout
    assert keys.stdout.count("user ") == 3


def test_pattern_that_covers_streams_of_routes_gets_no_right(stack: Stack) -> None:
    """A ``reply_to`` of ``*`` would open every stream to readers, so it is left out, and the output says so."""
    routes = json.dumps([{"requests": "in", "responses": "out", "ops": ["tokenize"], "reply_to": "*"}])
    done = stack.run("acl", "--server", "streams", TOKEN_WORKER_ROUTES=routes)
    assert done.returncode == 0, done.stderr
    assert "reply_to * also matches" in done.stderr
    assert "~* " not in done.stdout
    assert "~*)" not in done.stdout


class _Second(Valkey):
    """A server that is used for its database 1 only."""

    @property
    def url(self) -> str:
        return super().url.removesuffix("/0") + "/1"

    def client(self, **options: Any) -> redis.Redis:
        return super().client(db=1, **options)


def test_rights_are_enough_for_a_database_with_a_number(streams_server: Valkey, tmp_path: Path) -> None:
    """A worker and an operator whose keys and tokens are in another database than 0 may choose that."""
    with _Second() as storage, Stack(streams_server, storage) as stack:
        stack.generate_key(CLIENT)
        stack.restrict(tmp_path)
        stack.start_worker()
        stack.send([{"id": "r", "op": "tokenize", "client_id": CLIENT, "type": "str", "value": "some text"}])
        assert [reply["status"] for reply in stack.wait_for_replies(1)] == ["ok"]
        url = storage.url.replace("//", "//token-operator@")
        file = str(tmp_path / "keys-token-operator")
        listed = stack.run("keys", "list", TOKEN_WORKER_KEYS_URL=url, TOKEN_WORKER_KEYS_PASSWORD_FILE=file)
        assert listed.returncode == 0, listed.stderr
