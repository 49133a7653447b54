"""Replies that are held back until the token storage has their tokens on disk or on replicas.

Workers have the very rights that ``token-worker acl`` prints.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from harness.producer import BatchProducer
from harness.proxy import Command, Moment, Proxy, Verdict
from harness.servers import Valkey, redis_binary, valkey_binary
from harness.stack import Stack, has_logged, wait_until, workers_killed
from token_worker.acra.owner import Owner
from token_worker.cli import app
from token_worker.errors import Unavailable
from token_worker.storage.dense.entry import check_name

ALWAYS = ("appendonly yes", "appendfsync always")
SETTINGS = {
    "TOKEN_WORKER_CLAIM_IDLE_MS": "1000",
    "TOKEN_WORKER_MAX_DELIVERIES": "1",  # the second isolated try that counts would make an entry a dead letter
}

DETOKENIZE = '[{"requests": "detokenize:requests", "responses": "detokenize:responses", "ops": ["detokenize"]}]'


@contextmanager
def replicated(binary: str) -> Iterator[tuple[Valkey, Valkey]]:
    """A token storage, and a replica that has caught up with it."""
    with Valkey(binary=binary) as primary, Valkey(f"replicaof 127.0.0.1 {primary.port}", binary=binary) as replica:
        wait_until(lambda: is_synchronous(replica), "the replica")
        yield primary, replica


def is_synchronous(replica: Valkey) -> bool:
    with replica.client() as client:
        return bool(client.info("replication").get("master_link_status") == "up")


@pytest.mark.parametrize("binary", [valkey_binary, redis_binary])
def test_reply_waits_for_the_replica(streams_server: Valkey, tmp_path: Path, binary: Callable[[], str]) -> None:
    """While no replica confirms, tokenize requests wait, and their tries do not count. Detokenizing works."""
    settings = {**SETTINGS, "TOKEN_WORKER_DURABILITY": "replicas:1"}
    with (
        replicated(binary()) as (primary, replica),
        workers_killed(Stack(streams_server, primary, settings=settings)) as stack,
    ):
        # Given a worker, and tokens that its replica has
        stack.restrict(tmp_path / "passwords")
        stack.start_worker(log=tmp_path / "first.log")
        old = BatchProducer(stack)
        old.add_new(50)
        old.send()
        assert old.settle() == []
        # When the replica does not answer any more
        replica.signal(signal.SIGSTOP)
        producer = BatchProducer(stack)
        producer.add_new(50, start=1000)
        producer.send()
        wait_until(lambda: has_logged(tmp_path / "first.log", "0 of 1 replicas confirmed"), "the worker to say so")
        # Then nothing is answered, also by a worker that is started now and finds what the first one has written,
        stack.workers[0].kill()
        stack.start_worker(log=tmp_path / "second.log")
        wait_until(lambda: has_logged(tmp_path / "second.log", "0 of 1 replicas confirmed"), "the second worker")
        assert producer.replies_written() == old.replies_written() == 50
        [group] = stack.streams.xinfo_groups("tokenize:requests")
        assert group["pending"] + group["lag"] == 50
        # but for requests whose replies bring no token;
        stack.workers[1].kill()
        back = BatchProducer(stack)
        back.add_tokens_of(old)
        back.send()
        stack.start_worker(TOKEN_WORKER_ROUTES=DETOKENIZE)
        assert back.settle() == []
        # and all are answered when it is back.
        replica.signal(signal.SIGCONT)
        stack.start_worker()
        assert producer.settle() == []
        assert stack.dead_letters() == 0


def test_token_that_another_worker_wrote_is_held_back_too(streams_server: Valkey, tmp_path: Path) -> None:
    """A worker that only found a token, and wrote nothing, waits for the replicas all the same."""
    with replicated(valkey_binary()) as (primary, replica), workers_killed(Stack(streams_server, primary)) as stack:
        # Given tokens that were written while the replica did not answer
        replica.signal(signal.SIGSTOP)
        stack.start_worker()
        producer = BatchProducer(stack)
        producer.add_new(5)
        producer.send()
        assert producer.settle() == []
        stack.workers[0].kill()
        # When a worker that has to wait for the replica is asked for the same
        producer.add_new(5)
        producer.send()
        log = tmp_path / "log"
        stack.start_worker(log=log, TOKEN_WORKER_DURABILITY="replicas:1")
        wait_until(lambda: has_logged(log, "0 of 1 replicas confirmed"), "the worker to say so")
        # Then it answers as soon as the replica does, and not before.
        assert producer.replies_written() == 5
        replica.signal(signal.SIGCONT)
        assert producer.settle() == []


def test_commands_that_change_tokens_wait(
    streams_server: Valkey, storage_server: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a replica, a command with replicas:1 says that its change was not confirmed; others do not wait."""
    monkeypatch.setattr("token_worker.admin.cluster_entries.CONFIRM_MS", 1)
    client = "shop-frontend"
    with Stack(streams_server, storage_server, layout="dense") as stack:
        stack.generate_key(client)
        audit = {"TOKEN_WORKER_AUDIT_FILE": str(tmp_path / "audit.log")}
        runner = CliRunner(env=stack.environment(TOKEN_WORKER_DURABILITY="replicas:1", **audit))
        stack.storage.set(check_name(Owner("client", "other-client")), b"of a key that is lost")
        for arguments in (
            *(["tokens", command, client, "--yes"] for command in ("disable", "reencrypt")),
            ["tokens", "verify", client, "--repair"],
            ["keys", "destroy", "other-client", "--last", "--confirm", "other-client", "--unused-elsewhere"],
        ):
            error = runner.invoke(app, arguments).exception
            assert isinstance(error, Unavailable), arguments
            assert error.reason == "0 of 1 replicas confirmed"
        for arguments in (["status", client], ["verify", client], ["disable", client, "--dry-run"]):
            assert runner.invoke(app, ["tokens", *arguments]).exit_code == 0, arguments
        assert runner.invoke(app, ["keys", "rotate", client, "--yes"]).exit_code == 0


def test_commands_that_store_keys_wait(streams_server: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With replicas:1, a command says so if a replica lacks the keys that it has stored: a fail-over may lose them."""
    client, settings = "shop-frontend", {"TOKEN_WORKER_DURABILITY": "replicas:1"}
    with (
        replicated(valkey_binary()) as (primary, replica),
        Stack(streams_server, primary, layout="dense", settings=settings) as stack,
    ):
        stack.restrict(tmp_path / "passwords")
        as_operator = stack.settings_as("token-operator", tmp_path / "passwords")
        audit = {"TOKEN_WORKER_AUDIT_FILE": str(tmp_path / "audit.log")}
        runner = CliRunner(env=stack.environment(**as_operator, **audit))
        commands = [["generate", client], ["rotate", client, "--yes"], ["index", client], ["rewrap"]]
        replica.signal(signal.SIGSTOP)
        try:
            with monkeypatch.context() as patches:
                patches.setattr("token_worker.admin.access.CONFIRM_MS", 1)
                for arguments in commands:
                    error = runner.invoke(app, ["keys", *arguments]).exception
                    assert isinstance(error, Unavailable), arguments
                    assert error.reason == "0 of 1 replicas confirmed"
                    assert "the keys are stored" in str(error)
            assert runner.invoke(app, ["keys", "index", client, "--dry-run"]).exit_code == 0
        finally:
            replica.signal(signal.SIGCONT)
        for arguments in commands[1:]:
            assert runner.invoke(app, ["keys", *arguments]).exit_code == 0, arguments
        with primary.client() as here, replica.client() as there:
            name = f".acrakeys/{client}_storage_sym"
            assert there.get(name) == here.get(name) is not None


@pytest.mark.parametrize("binary", [valkey_binary, redis_binary])
@pytest.mark.timeout(120)
def test_server_killed_right_after_the_reply_has_its_tokens(
    streams_server: Valkey, tmp_path: Path, binary: Callable[[], str]
) -> None:
    """With fsync, a storage that is killed at the moment of a reply has its tokens after it was started again."""
    settings = {**SETTINGS, "TOKEN_WORKER_DURABILITY": "fsync", "TOKEN_WORKER_BATCH_SIZE": "20"}
    with (
        Valkey(*ALWAYS, binary=binary()) as storage,
        Proxy(streams_server.port) as proxy,
        workers_killed(Stack(streams_server, storage, settings=settings)) as stack,
    ):
        storage_is_killed = threading.Event()

        def kill_storage(moment: Moment, command: Command) -> Verdict:
            if moment is Moment.AFTER and command.name == "EVALSHA" and stack.streams.xlen("tokenize:responses"):
                storage.kill()
                proxy.hook = lambda _moment, _command: Verdict.PASS
                storage_is_killed.set()
            return Verdict.PASS

        # When the storage is killed as soon as a reply is written, and is started again
        proxy.hook = kill_storage
        producer = BatchProducer(stack)
        producer.add_new(60)
        producer.send()
        log = tmp_path / "worker.log"
        stack.start_worker(log=log, TOKEN_WORKER_STREAMS_URL=proxy.url)
        assert storage_is_killed.wait(90)
        assert not producer.is_settled()
        storage.start()
        # Then every token of a reply can be detokenized, and the rest is answered.
        assert producer.settle() == []
        back = BatchProducer(stack)
        back.add_tokens_of(producer)
        back.send()
        assert back.settle() == []


@pytest.mark.parametrize(
    ("binary", "options"), [(valkey_binary, ALWAYS), (redis_binary, ("appendonly yes", "appendfsync everysec"))]
)
def test_rights_that_are_printed_are_enough_for_fsync(
    streams_server: Valkey, tmp_path: Path, binary: Callable[[], str], options: tuple[str, ...]
) -> None:
    """A worker that may not check appendfsync logs that fsync requires it, unless WAITAOF is enough on this server."""
    settings = {"TOKEN_WORKER_DURABILITY": "fsync"}
    with (
        Valkey(*options, binary=binary()) as storage,
        workers_killed(Stack(streams_server, storage, settings=settings)) as stack,
    ):
        stack.restrict(tmp_path / "passwords")
        log = tmp_path / "log"
        stack.start_worker(log=log)
        producer = BatchProducer(stack)
        producer.add_new(10)
        producer.send()
        assert producer.settle() == []
        assert has_logged(log, "fsync requires appendfsync always") == (binary is valkey_binary)


def test_worker_without_a_right_that_durability_needs_names_it(streams_server: Valkey, tmp_path: Path) -> None:
    """Users that were printed before the durability was set are named, until the right is given."""
    with Valkey() as storage, Stack(streams_server, storage) as stack:
        stack.restrict(tmp_path)
        url = storage.url.replace("//", "//token-worker@")
        file = str(tmp_path / "keys-token-worker")
        own = {"TOKEN_WORKER_TOKENS_URL": url, "TOKEN_WORKER_TOKENS_PASSWORD_FILE": file}
        log = tmp_path / "log"
        stack.start_worker(log=log, TOKEN_WORKER_DURABILITY="replicas:1", **own)
        wait_until(lambda: has_logged(log, "server unavailable", "+set on token-worker:mark"), "the worker to say so")


def test_worker_refuses_a_server_that_confirms_without_a_sync(streams_server: Valkey, tmp_path: Path) -> None:
    """With fsync, a worker waits until a Valkey syncs every write. Its log names the setting."""
    log = tmp_path / "log"
    with Valkey("appendonly yes") as storage, Stack(streams_server, storage) as stack:
        stack.start_worker(log=log, TOKEN_WORKER_DURABILITY="fsync")
        wait_until(lambda: has_logged(log, "server unavailable", "needs appendfsync always"), "the worker to say so")
        stack.storage.config_set("appendfsync", "always")
        wait_until(lambda: has_logged(log, "worker is ready"), "the worker")


@pytest.mark.parametrize(
    ("options", "durability", "status", "text"),
    [
        (("appendonly yes",), "fsync", "finding", "appendfsync always"),
        ((), "fsync", "finding", "appendonly yes"),
        (ALWAYS, "fsync", "ok", "on disk before a reply"),
        ((), "replicas:1", "finding", "0 are connected"),
        ((), "server", "ok", "as safe as its persistence"),
    ],
)
def test_doctor_tells_whether_durability_is_what_it_is_set_to(
    streams_server: Valkey, options: tuple[str, ...], durability: str, status: str, text: str
) -> None:
    """The check of the token storage says whether the server is set as the durability needs it."""
    with Valkey(*options) as storage, Stack(streams_server, storage) as stack:
        done = stack.run("doctor", "--json", TOKEN_WORKER_DURABILITY=durability)
        rows = {row["check"]: row for row in map(msgspec.json.decode, done.stdout.splitlines())}
        check = rows["tokens: durability before a reply"]
        assert (check["status"], text in check["message"]) == (status, True)
