"""Each alert fires when it should and not before, on series that were scraped from a real worker and exporter."""

import base64
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.prometheus import Recording, debian_program, scrape
from harness.servers import DEPLOY_FILES
from harness.stack import GROUP, wait_until
from harness.watched import CLIENT, Watched
from token_worker.acra.owner import Owner

ALERTS = DEPLOY_FILES / "alerts.yml"
DAMAGED = "shop-with-a-damaged-key"
TOKENIZE = {"op": "tokenize", "type": "str", "value": "a value"}


@pytest.fixture
def watched() -> Iterator[Watched]:
    """A worker that was not asked anything yet."""
    debian_program("promtool")
    with Watched() as watched:
        yield watched


def ask(watched: Watched, client_id: str) -> str:
    """Send a request, and return the status of its reply."""
    reply = watched.stack.ask([{**TOKENIZE, "id": client_id, "client_id": client_id}])[client_id]
    return str(reply["status"])


def test_every_alert_fires_when_it_should_and_no_other(watched: Watched, tmp_path: Path) -> None:
    """The rules see the first dead letter, the first unreadable key and every other trouble, and nothing else."""
    watched.stack.storage.set(f".acrakeys/{Owner('client', DAMAGED).key_name}", "damaged")
    recording = Recording(watched.targets)
    streams, record = watched.stack.streams, recording.record

    # Given a worker that has just started, and one that has answered a request
    record()
    assert ask(watched, CLIENT) == "ok"
    record()

    # When one entry cannot be answered, somebody should look at it
    streams.xadd("tokenize:requests", {"no": "payload"})
    watched.wait_for_worker('token_worker_dead_letters_total{reason="payload_missing"} 1')
    record(TokenWorkerDeadLetters=1, TokenWorkerDeadLettersKept=1)
    streams.delete("tokenize:requests:dead")

    # When one key cannot be read, somebody has to act
    assert ask(watched, DAMAGED) == "error"
    watched.wait_for_worker('token_worker_items_total{.*outcome="key_unreadable".*} 1')
    record(TokenWorkerUnreadable=1)

    # When the streams' server is away
    watched.streams.kill()
    watched.wait_for_worker('token_worker_server_available{server="streams"} 0')
    record(TokenWorkerServerAway=1, TokenWorkerStreamsUnreachable=1)
    watched.streams.start()
    watched.wait_for_worker("token_worker_ready 1")

    # When there is no worker: one entry waits, another worker died with one in hand, a reader of replies is gone, and
    # a producer adds entries with ids of its own
    watched.worker.stop()
    now_ms = int(time.time() * 1000)
    for milliseconds in (1_000_001, 1_000_000):
        streams.xadd("detokenize:requests", {"payload": "waits"}, id=f"{now_ms - milliseconds}-0")
    streams.xreadgroup(GROUP, "dead worker", {"detokenize:requests": ">"}, count=1)
    streams.xgroup_create("detokenize:responses", "reader", id="0", mkstream=True)
    streams.xadd("detokenize:responses", {"payload": "waits"}, id=f"{now_ms - 4_000_000}-0")
    streams.xadd("tokenize:responses", {"payload": "ahead"}, id=f"{now_ms + 3_600_000}-0")
    record(
        TokenWorkerFallsBehind=1,
        TokenWorkerStuckEntries=1,
        TokenWorkerNobodyServes=1,
        TokenWorkerRepliesUnread=1,
        TokenWorkerIdsAhead=1,
    )

    # When nobody measures the lag, and a worker has the wrong master key and a Vault token that cannot be renewed
    watched.stop_exporters()
    watched.bao.call("POST", "auth/approle/role/token-worker", token_explicit_max_ttl="200s")
    for _ in range(2):  # the version before is tried, too
        wrong = base64.b64encode(os.urandom(32)).decode()
        watched.bao.call("POST", "secret/data/acra/transport", data={"acra_master_key": wrong})
    watched.start_worker()
    wait_until(lambda: "wrong master key" in scrape(watched.worker_port, "/readyz"), "the worker to try its keys")
    record(TokenWorkerMonitorMissing=1, TokenWorkerVaultTokenEnds=1, TokenWorkerNotReady=1)

    recording.check(ALERTS, tmp_path / "alerts.json")
    assert recording.alerts == set(re.findall(r"- alert: (\w+)", ALERTS.read_text()))
