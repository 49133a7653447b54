"""A worker says ready when it can answer requests, and else says in words what is wrong and goes on trying."""

import base64
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness.key_places import InRedis, InVault, Place
from harness.producer import sent_requests
from harness.proxy import Command, Moment, Proxy, Relay, Verdict
from harness.servers import OpenBao, Valkey, Watched
from harness.stack import Stack, has_logged, wait_until, workers_killed
from token_worker.acra.owner import Owner
from token_worker.errors import Refused, SettingsError, Unavailable
from token_worker.keys.background import ThreadExecutor
from token_worker.keys.cache import KeyCache
from token_worker.keys.keyring import Keyring
from token_worker.keys.live_master_keys import NONE_OPENS, READ_SECONDS, LiveMasterKeys
from token_worker.keys.master import MasterKeys, VaultMasterKey
from token_worker.keys.store import RedisKeyStore, new_key, wrap
from token_worker.keys.vault_kv import VaultKv
from token_worker.redis.address import parse
from token_worker.redis.connect import make_link
from token_worker.redis.link import RedisLink
from token_worker.settings.vault import VaultSettings

CLIENT = Owner("client", "shop-frontend")
READY = "worker is ready"
NO_KEY_OPENS = "not ready: no key opens"
REREAD_SOON = """
import sys
from token_worker.cli import main
from token_worker.keys import live_master_keys
live_master_keys.FIRST_SECONDS = live_master_keys.READ_SECONDS = 0.1
sys.argv[0] = "token-worker"
main()
"""

NOTE_SOON = """
import sys
from token_worker.cli import main
from token_worker.service import note_writer
note_writer.NOTE_SECONDS = 0.1
sys.argv[0] = "token-worker"
main()
"""


def put_key(place: Place, master_key: bytes, name: str = CLIENT.key_name) -> None:
    place.put(f"{place.folder}/{name}", wrap(new_key(), master_key, CLIENT))


def logs(log: Path, *words: str) -> None:
    wait_until(lambda: has_logged(log, *words), f"{words} in the log")


# -- a sample of keys


def test_worker_with_a_key_that_opens_is_ready(place: Place, bare: Stack, tmp_path: Path) -> None:
    """The start line says what the worker is and whom it asks; then it is ready, without a warning."""
    put_key(place, bare.master_key)
    log = tmp_path / "log"
    bare.start_worker(log=log, TOKEN_WORKER_CONSUMER="worker-7", TOKEN_WORKER_GROUP="my-group")
    logs(log, READY)
    start = log.read_text().splitlines()[0]
    urls = (bare.settings["TOKEN_WORKER_STREAMS_URL"], bare.settings["TOKEN_WORKER_TOKENS_URL"])
    for words in (*urls, "worker-7", "my-group", "tokenize:requests", "0.1.0", '"durability": "server"', place.folder):
        assert words in start
    assert ("Vault at http://127.0.0.1" in start) == isinstance(place, InVault)
    assert "warning" not in log.read_text()


def test_wrong_master_key_is_not_ready(place: Place, bare: Stack, tmp_path: Path) -> None:
    """If the master key opens none of the keys, the worker says so, reads no request, and is ready once one opens."""
    put_key(place, os.urandom(32))
    put_key(place, os.urandom(32), "other-client_storage_sym")
    log = tmp_path / "log"
    bare.start_worker(log=log)
    logs(log, NO_KEY_OPENS, "wrong master key: ACRA_MASTER_KEY opens none of the 2 keys", place.folder)
    assert not has_logged(log, READY)
    assert not bare.streams.exists("tokenize:requests")
    put_key(place, bare.master_key)
    logs(log, READY)
    assert sent_requests(bare, 5, CLIENT.id).settle() == []


def test_wrong_master_key_is_seen_among_many_tokens(bare: Stack, tmp_path: Path) -> None:
    """A worker is not ready with a wrong master key, also if the only key is among tokens in the same database."""
    put_key(InRedis(bare), os.urandom(32))
    bare.storage.mset({b"tokens/%d" % number: b"entry" for number in range(15_000)})
    log = tmp_path / "log"
    bare.start_worker(log=log)
    logs(log, NO_KEY_OPENS, "wrong master key: ACRA_MASTER_KEY does not open the only key")
    assert not has_logged(log, READY)


def test_wrong_master_key_shows_where_tokens_hide_the_keys(bare: Stack, tmp_path: Path) -> None:
    """If a look at start sees no key among many tokens, the first key that does not open makes the worker not ready."""
    bare.storage.mset({b"tokens/%d" % number: b"entry" for number in range(50_000)})
    log = tmp_path / "log"
    bare.start_worker(log=log, program=("-c", NOTE_SOON), TOKEN_WORKER_CONSUMER="worker-1")
    logs(log, READY)
    assert has_logged(log, "client keys are tried when they are used")
    assert not has_logged(log, "no client key was seen")
    put_key(InRedis(bare), os.urandom(32))  # later than the look: so it is not seen, wherever it stands
    request = {"id": "1", "op": "tokenize", "client_id": CLIENT.id, "type": "str", "value": "any value"}
    assert bare.ask([request])["1"]["error"]["code"] == "key_unreadable"
    wait_until(
        lambda: NONE_OPENS.encode() in (bare.streams.hget("tokenize:requests:workers", "worker-1") or b""), "why"
    )


def test_wrong_folder_is_not_ready(place: Place, bare: Stack, tmp_path: Path) -> None:
    """If the folder has other things in it than keys, the worker says so, by another sentence."""
    place.put(f"{place.folder}/users/1", "somebody")
    log = tmp_path / "log"
    bare.start_worker(log=log)
    logs(log, NO_KEY_OPENS, f"wrong folder: {place.folder} of ", "check TOKEN_WORKER_KEYS_FOLDER")
    assert not has_logged(log, READY)


def test_no_key_at_all_is_ready_with_a_warning(place: Place, bare: Stack, tmp_path: Path) -> None:
    """On a new set-up the worker is ready, warns, and tells a producer's operator how to make a key."""
    log = tmp_path / "log"
    bare.start_worker(log=log)
    logs(log, READY)
    assert has_logged(log, "no client key was seen: token-worker keys generate makes the first", place.folder)
    request = {"id": "1", "op": "tokenize", "client_id": CLIENT.id, "type": "str", "value": "any value"}
    error = bare.ask([request])["1"]["error"]
    assert error["code"] == "unknown_client"
    assert "token-worker keys generate" in error["message"]


def test_key_storage_that_is_away_is_not_ready(bare: Stack, storage_server: Valkey, tmp_path: Path) -> None:
    """The worker waits for the key storage before it is ready, also if its master key needs no server."""
    bare.generate_key(CLIENT.id)
    log = tmp_path / "log"
    with Proxy(storage_server.port) as proxy:
        proxy.go_away()
        bare.start_worker(
            log=log, TOKEN_WORKER_KEYS_URL=proxy.url, TOKEN_WORKER_TOKENS_URL=bare.settings["TOKEN_WORKER_KEYS_URL"]
        )
        logs(log, "server unavailable", f"Redis for keys at 127.0.0.1:{proxy.port}: connection refused")
        assert not has_logged(log, READY)
        proxy.come_back()
        logs(log, "servers available again", '"keys"')
        logs(log, READY)


def test_master_key_that_is_put_right_in_vault_needs_no_restart(
    bare: Stack, openbao_server: OpenBao, tmp_path: Path
) -> None:
    """A worker that waits because of a wrong master key, or of none, reads the secret again, and is ready then."""
    bao, path = InVault(openbao_server), f"master-{secrets.token_hex(6)}/transport"

    def store(master_key: bytes) -> None:
        fields = {"acra_master_key": base64.b64encode(master_key).decode()}
        bao.api("POST", f"secret/data/{path}", {"data": fields})

    bare.generate_key(CLIENT.id)
    bare.settings.pop("ACRA_MASTER_KEY")
    bare.settings |= {
        "VAULT_ADDR": openbao_server.url,
        "VAULT_TOKEN": openbao_server.root_token,
        "TOKEN_WORKER_VAULT_SECRET": f"secret/{path}",
    }
    log, waiting = tmp_path / "log", tmp_path / "waiting"
    bare.start_worker(log=waiting)
    logs(waiting, "server unavailable", f"Vault has no secret secret/{path}")
    store(os.urandom(32))
    bare.start_worker(log=log, program=("-c", REREAD_SOON))
    logs(log, NO_KEY_OPENS, f"wrong master key: the secret secret/{path} in Vault at {openbao_server.url}")
    store(bare.master_key)
    logs(log, "new master key read")
    logs(log, READY)
    assert sent_requests(bare, 5, CLIENT.id).settle() == []


# -- what no server can change


@contextmanager
def web_server() -> Iterator[int]:
    """The port of a server that speaks HTTP."""

    class Silent(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it overrides
            """Log nothing."""

    with HTTPServer(("127.0.0.1", 0), Silent) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_port_that_does_not_speak_redis_ends_the_worker(bare: Stack) -> None:
    """An address of something else than Redis is exit status 2, and the text names the setting."""
    with web_server() as port:
        done = bare.run("run", TOKEN_WORKER_STREAMS_URL=f"redis://127.0.0.1:{port}")
    assert done.returncode == 2
    assert f"127.0.0.1:{port} does not speak Redis: set TOKEN_WORKER_STREAMS_URL" in done.stderr


def test_database_that_the_server_does_not_have_ends_the_worker(bare: Stack, streams_server: Valkey) -> None:
    """A database number beyond the server's is exit status 2, and the text names the setting."""
    done = bare.run("run", TOKEN_WORKER_KEYS_URL=f"redis://127.0.0.1:{streams_server.port}/9999")
    assert done.returncode == 2
    assert "has no database 9999: set a smaller number in TOKEN_WORKER_KEYS_URL" in done.stderr


@pytest.mark.parametrize("kind", ["redis://", "redis+sentinel://", "redis+cluster://"])
def test_address_that_was_right_once_is_an_outage(streams_server: Valkey, kind: str) -> None:
    """Another program at the address is a wrong setting at the first connection, and an outage after that."""
    with web_server() as port:
        service = "/main" if "sentinel" in kind else ""
        link = make_link("streams", parse(f"{kind}127.0.0.1:{port}{service}"))
        with pytest.raises(SettingsError, match="does not speak Redis"):
            link.call("XLEN", "stream")
        good = RedisLink("streams", parse(streams_server.url))
        good.connect()
        good.close()
        good._connection.port = port
        with pytest.raises(Unavailable, match="unreadable reply"):
            good.connect()


# -- passwords


@pytest.mark.parametrize("use", ["streams", "keys"])
def test_password_is_read_anew_until_it_is_accepted(storage_server: Valkey, tmp_path: Path, use: str) -> None:
    """A refused password is not ready, in words; the worker goes on with the one that the file holds later.

    Commands end with exit status 2.
    """
    file, log = tmp_path / "password", tmp_path / "log"
    file.write_text("not the password\n")
    with Valkey() as server, workers_killed(Stack(server, server)) as stack:
        stack.settings[f"TOKEN_WORKER_{use.upper()}_URL"] = f"redis://somebody@127.0.0.1:{server.port}"
        stack.settings[f"TOKEN_WORKER_{use.upper()}_PASSWORD_FILE"] = str(file)
        stack.streams.execute_command("ACL", "SETUSER", "somebody", "on", ">first", "allcommands", "allkeys")
        worker = stack.start_worker(log=log)
        refused = f"Redis for {use} at 127.0.0.1:{server.port}: refuses the user or the password"
        logs(log, "server unavailable", refused)
        command = ("lag",) if use == "streams" else ("keys", "list")
        done = stack.run(*command)
        assert done.returncode == 2
        assert refused in done.stderr
        assert "not the password" not in done.stderr + log.read_text()
        # The password is put right,
        file.write_text("first\n")
        logs(log, READY)
        assert sent_requests(stack, 5, CLIENT.id).settle() == []
        # and changed while the worker runs.
        stack.streams.execute_command("ACL", "SETUSER", "somebody", "resetpass", ">second")
        stack.streams.client_kill_filter(user="somebody")
        file.write_text("second\n")
        producer = sent_requests(stack, 5, CLIENT.id, 100)
        assert producer.settle() == []
        assert worker.is_alive


def test_sentinels_have_a_user_and_a_password_that_may_change(storage_server: Valkey, tmp_path: Path) -> None:
    """Sentinels that refuse are not ready, in words, and exit status 2 of a command; they may have a user of ours."""
    file, log = tmp_path / "password", tmp_path / "log"
    file.write_text("wrong")
    with Watched(replicas=0) as watched, workers_killed(Stack(watched, storage_server)) as stack:
        for sentinel in watched.sentinels:
            with sentinel.client() as client:
                client.execute_command("ACL", "SETUSER", "looker", "on", ">right", "allcommands")
                client.execute_command("ACL", "SETUSER", "default", "off")
        stack.settings["TOKEN_WORKER_STREAMS_SENTINEL_USER"] = "looker"
        stack.settings["TOKEN_WORKER_STREAMS_SENTINEL_PASSWORD_FILE"] = str(file)
        stack.start_worker(log=log)
        logs(log, "server unavailable", "no Sentinel names the primary: refuses the user or the password")
        assert stack.run("lag").returncode == 2
        file.write_text("right")
        logs(log, READY)
        assert stack.run("lag").returncode == 0


# -- damaged keys


def test_ten_thousand_damaged_keys_are_one_request_a_minute(storage_server: Valkey, openbao_server: OpenBao) -> None:
    """With 10,000 damaged keys under load, a worker asks Vault once a minute, and others' keys are there at once."""
    bao, path = InVault(openbao_server), f"master-{secrets.token_hex(6)}/transport"
    master_key, wrong = os.urandom(32), os.urandom(32)
    bao.api("POST", f"secret/data/{path}", {"data": {"acra_master_key": base64.b64encode(master_key).decode()}})
    owners = [Owner("client", f"client-{number}") for number in range(10_000)]
    with storage_server.client() as client:
        client.mset({f".acrakeys/{owner.key_name}": wrap(bytes(32), wrong, owner) for owner in owners})
        client.set(f".acrakeys/{CLIENT.key_name}", wrap(new_key(), master_key, CLIENT))
    asked: list[Any] = []

    def count(moment: Moment, command: Command) -> Verdict:
        asked.append(moment)
        return Verdict.PASS

    now = [0.0]
    with Relay(openbao_server.port) as relay:
        vault = VaultKv(
            VaultSettings(
                address=f"http://127.0.0.1:{relay.port}", token=openbao_server.root_token, secret=f"secret/{path}"
            )
        )
        source = VaultMasterKey(vault)
        newest = source.read()
        relay.hook = count
        master_keys = LiveMasterKeys(
            MasterKeys(newest.key), source, version=1, executor=ThreadExecutor("test"), clock=lambda: now[0]
        )
        link = RedisLink("keys", parse(storage_server.url))
        cache = KeyCache(
            RedisKeyStore(link, ".acrakeys"),
            master_keys,
            size=20_000,
            clock=lambda: now[0],
            lookups=ThreadExecutor("keys"),
        )
        minutes, found = 10, dict[Owner, Any]()
        for minute in range(minutes):
            for at in range(0, len(owners), 500):
                now[0] += 60 / 20
                part = owners[(at + 1000 * minute) % len(owners) :][:500]
                rings = cache.rings([*part, CLIENT])
                assert isinstance(rings.pop(CLIENT), Keyring)
                found |= rings
            reading = master_keys._reading
            if reading is not None:
                wait_until(reading.done, "the answer of Vault")
        requests = asked.count(Moment.BEFORE)
        assert 2 <= requests <= minutes + 1
        assert all(isinstance(answer, Refused | Unavailable) for answer in found.values())
        now[0] += 2 * READ_SECONDS
        cache.close()
        vault.close()
        link.close()
