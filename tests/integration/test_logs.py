"""Logs of workers are rotated as the page on logs says, by the real logrotate."""

import gzip
import subprocess
from pathlib import Path

import pytest

from harness.doc_pages import page
from harness.doc_runner import Reader
from harness.stack import Stack, has_logged, wait_until

PAGE = "docs/logs.md"
LOGROTATE = Path("/usr/sbin/logrotate")


@pytest.mark.skipif(not LOGROTATE.exists(), reason="logrotate is not installed")
def test_log_in_a_file_is_rotated(stack: Stack, tmp_path: Path) -> None:
    """After a rotation by the configuration of the page, the old lines are in the old file, and new ones in the new."""
    log = tmp_path / "token-worker.log"
    worker = stack.start_worker(log=log)
    wait_until(lambda: has_logged(log, "worker is ready"), "the worker")
    with Reader(tmp_path, {}, {"/var/log/": f"{tmp_path}/"}) as operator:
        operator.follow(page(PAGE))
    command = [str(LOGROTATE), "--force", f"--state={tmp_path}/state", f"{tmp_path}/token-worker.logrotate"]
    subprocess.run(command, check=True, timeout=60)
    assert worker.stop() == 0
    [old] = tmp_path.glob("token-worker.log.1*")
    assert b"worker is ready" in gzip.decompress(old.read_bytes())
    new = log.read_bytes()
    assert b"worker is ready" not in new
    assert b"drained" in new
    assert new.startswith(b"{")  # no hole where the old lines were
