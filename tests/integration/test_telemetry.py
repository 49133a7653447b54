"""Metrics, health and audit of real workers."""

import json
import os
import signal
import stat
import sys
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from harness import fetching, quick
from harness.servers import Valkey, free_port
from harness.stack import COMMAND_SECONDS, Stack, has_logged, wait_until

CLIENT = "shop-frontend"
TOKENIZE = {"op": "tokenize", "client_id": CLIENT, "type": "str"}
DETOKENIZE = {"op": "detokenize", "client_id": CLIENT, "type": "str"}


def get(port: int, path: str) -> tuple[int, str]:
    """Status and body; 0 where nothing listens."""
    return fetching.get(f"http://127.0.0.1:{port}{path}")


def metrics(port: int) -> dict[tuple[str, ...], float]:
    """Samples by name and label values."""
    _, text = get(port, "/metrics")
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value for sample in samples}


def test_metrics_count_what_was_done(stack: Stack) -> None:
    """Requests, items, latency, dead letters and Acra's own counters are those of the replies."""
    port = free_port()
    stack.start_worker(TOKEN_WORKER_HTTP_ADDRESS=f"127.0.0.1:{port}")
    sent: list[dict[str, Any]] = [{**TOKENIZE, "id": str(n), "value": f"value {n}"} for n in range(20)]
    sent.append({**TOKENIZE, "id": "bad", "value": ""})
    sent.append({"id": "items", "op": "tokenize", "client_id": CLIENT, "items": [{"type": "int32", "value": 1}] * 3})
    sent.append({"id": "whole", "op": "tokenize", "oops": 1})
    replies = stack.ask(sent)
    stack.ask(
        [{**DETOKENIZE, "id": "d", "value": replies["0"]["value"]}, {**DETOKENIZE, "id": "e", "value": "none"}],
        "detokenize",
    )
    stack.streams.xadd("tokenize:requests", {"no": "payload"})
    dead = ("token_worker_dead_letters_total", "payload_missing")
    wait_until(lambda: metrics(port)[dead] == 1, "the dead letter")
    found = metrics(port)
    assert found["token_worker_requests_total", "ok", "tokenize:requests"] == 21
    assert found["token_worker_requests_total", "error", "tokenize:requests"] == 2
    assert found["token_worker_items_total", "tokenize", "ok", "str"] == 20
    assert found["token_worker_items_total", "tokenize", "ok", "int32"] == 3
    assert found["token_worker_items_total", "detokenize", "token_not_found", "str"] == 1
    assert found["acra_tokenizations_total", "success", "str"] == 20
    assert found["acra_detokenizations_total", "success", "str"] == 1
    assert found["acra_detokenizations_total", "fail", "str"] == 1
    assert found["token_worker_latency_seconds_count",] == 25
    assert found["token_worker_batch_entries_sum",] >= 25
    assert found["token_worker_key_cache_misses_total",] >= 1
    assert [found["token_worker_connections_total", server] for server in ("streams", "keys", "tokens")] == [1, 2, 1]
    assert found["token_worker_server_available", "streams"] == found["token_worker_ready",] == 1
    assert not [name for sample in found for name in sample if CLIENT in name]


def test_redeliveries_and_suppressed_replies_are_counted(stack: Stack) -> None:
    """An entry of a dead worker is a redelivery. One that killed many workers is a dead letter, although unread."""
    stack.streams.xgroup_create("tokenize:requests", "token-workers", id="0", mkstream=True)
    _, killer = stack.send([{**TOKENIZE, "id": str(n), "value": "left behind"} for n in range(2)])
    stack.streams.xreadgroup("token-workers", "dead", {"tokenize:requests": ">"})
    stack.streams.xclaim("tokenize:requests", "token-workers", "dead", 0, [killer], retrycount=9, justid=True)
    port = free_port()
    stack.start_worker(TOKEN_WORKER_HTTP_ADDRESS=f"127.0.0.1:{port}", TOKEN_WORKER_CLAIM_IDLE_MS="1000")
    stack.wait_for_replies(1)
    wait_until(lambda: metrics(port).get(("token_worker_redeliveries_total", "tokenize:requests")) == 1, "the count")
    moved = ("token_worker_dead_letters_total", "deliveries_exhausted")
    wait_until(lambda: metrics(port)[moved] == 1, "the dead letter")


def test_worker_is_ready_only_while_all_is_well(storage_server: Valkey) -> None:
    """Alive and ready while all is well; not ready, with the reason, while a server is away or the worker drains."""
    port = free_port()
    with Valkey() as streams, Stack(streams, storage_server) as stack:
        stack.generate_key(CLIENT)
        worker = stack.start_worker(TOKEN_WORKER_HTTP_ADDRESS=f"127.0.0.1:{port}")
        wait_until(lambda: get(port, "/readyz") == (200, "ok\n"), "readiness")
        assert get(port, "/healthz") == (200, "ok\n")
        assert get(port, "/nothing")[0] == 404
        streams.kill()
        away = f"Redis for streams at 127.0.0.1:{streams.port}: connection refused\n"
        wait_until(lambda: get(port, "/readyz") == (503, away), "the reason")
        assert get(port, "/healthz")[0] == 200
        streams.start()
        wait_until(lambda: get(port, "/readyz")[0] == 200, "readiness again")
        worker.signal(signal.SIGSTOP)
        worker.signal(signal.SIGCONT)
        worker.signal(signal.SIGTERM)
        wait_until(lambda: get(port, "/readyz") in {(503, "draining\n"), (503, "drained\n"), (0, "")}, "draining")
        assert worker.wait() == 0


def test_port_that_is_taken_is_an_error_at_start(stack: Stack, streams_server: Valkey) -> None:
    """A worker that cannot listen ends at once, and names the setting."""
    address = f"127.0.0.1:{streams_server.port}"
    done = quick.run(
        [sys.executable, "-m", "token_worker", "run"],
        env=stack.environment(TOKEN_WORKER_HTTP_ADDRESS=address),
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 2
    assert "TOKEN_WORKER_HTTP_ADDRESS" in done.stderr


def test_variables_for_libraries_stop_no_worker(stack: Stack) -> None:
    """A folder for metrics of several processes, which need not exist, is none of a worker's; nor are odd terminals."""
    port = free_port()
    stack.start_worker(
        TOKEN_WORKER_HTTP_ADDRESS=f"[::]:{port}",
        PROMETHEUS_MULTIPROC_DIR="/nowhere",
        prometheus_multiproc_dir="/nowhere",
        OTEL_PROPAGATORS="nonsense",
        COLUMNS="wide",
    )
    wait_until(lambda: get(port, "/readyz") == (200, "ok\n"), "readiness")
    assert metrics(port)["token_worker_latency_seconds_count",] == 0


def test_tracer_provider_that_is_not_there_is_an_error_at_start(stack: Stack) -> None:
    """A provider of spans that is not installed is refused in words, with the variable that names it."""
    done = stack.run("run", OTEL_PYTHON_TRACER_PROVIDER="nonsense")
    assert done.returncode == 2
    assert "OTEL_PYTHON_TRACER_PROVIDER: no provider of that name is installed" in done.stderr
    assert "uncaught" not in done.stderr


def audit_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if '"detokenize"' in line]


def test_every_detokenize_reply_has_its_audit_line(stack: Stack, tmp_path: Path) -> None:
    """Each detokenize request, refused ones too, is in the audit file with its outcome; never a token or value."""
    file = tmp_path / "audit.log"
    for _ in range(2):
        stack.start_worker(TOKEN_WORKER_AUDIT_FILE=str(file))
    replies = stack.ask([{**TOKENIZE, "id": str(n), "value": f"secret value {n}"} for n in range(200)])
    tokens = [reply["value"] for reply in replies.values()]
    asked = [{**DETOKENIZE, "id": f"ask-{n}", "value": token} for n, token in enumerate(tokens)]
    asked.append({**DETOKENIZE, "id": "unknown", "value": "no such token"})
    asked.append({**DETOKENIZE, "id": "stranger", "client_id": "nobody-knows", "value": "x"})
    asked.append({**DETOKENIZE, "id": "invalid", "oops": True})
    items = [{"type": "str", "value": tokens[0]}, {"type": "str", "value": "none"}]
    asked.append({"id": "items", "op": "detokenize", "client_id": CLIENT, "items": items})
    answers = stack.ask(asked, "detokenize")
    text = file.read_text()
    lines = {line["request_id"]: line for line in audit_lines(text)}
    assert set(lines) == set(answers)
    assert all(lines[name]["entry"] == answers[name]["request_entry"] for name in answers)
    assert lines["ask-0"]["items"] == {"ok": 1}
    assert lines["ask-0"]["client_id"] == CLIENT
    assert lines["items"]["items"] == {"ok": 1, "token_not_found": 1}
    assert lines["stranger"]["items"] == {"unknown_client": 1}
    assert lines["stranger"]["client_id"] is None
    assert lines["invalid"]["items"] == {"invalid_request": 1}
    assert not [secret for secret in [*tokens, "secret value", "nobody-knows"] if secret in text]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_audit_lines_are_in_the_log_at_every_level(stack: Stack, tmp_path: Path) -> None:
    """Without a file of their own audit lines are among the logs, also where only errors are logged."""
    log = tmp_path / "log"
    stack.start_worker(log=log, TOKEN_WORKER_LOG_LEVEL="error")
    stack.ask([{**DETOKENIZE, "id": "1", "value": "none"}], "detokenize")
    [line] = audit_lines(log.read_text())
    assert (line["logger"], line["request_id"], line["items"]) == ("audit", "1", {"token_not_found": 1})


def test_no_reply_where_the_audit_cannot_be_written(stack: Stack, tmp_path: Path) -> None:
    """A disk that is full holds the replies back: the entries stay pending, and the log says why in words."""
    if not os.path.exists("/dev/full"):  # noqa: PTH110 - a device
        return
    log = tmp_path / "log"
    worker = stack.start_worker(log=log, TOKEN_WORKER_AUDIT_FILE="/dev/full")
    stack.send([{**DETOKENIZE, "id": "1", "value": "none"}], "detokenize:requests")
    stack.send([{**TOKENIZE, "id": "2", "value": "something"}])
    wait_until(lambda: _pending(stack) == 1, "the pending entry")
    wait_until(lambda: has_logged(log, "server unavailable", "audit", "No space left on device"), "the reason")
    assert stack.streams.xlen("detokenize:responses") == 0
    assert worker.is_alive
    worker.kill()


def _pending(stack: Stack) -> int:
    exists = stack.streams.exists("detokenize:requests") and stack.streams.xinfo_groups("detokenize:requests")
    return int(stack.streams.xpending("detokenize:requests", "token-workers")["pending"]) if exists else 0
