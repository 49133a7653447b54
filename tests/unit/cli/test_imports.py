"""A process loads only the modules that it needs, for the sake of memory and start-up time."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["hvac", "requests", "rich.progress", "token_worker.admin.replay"])
def test_worker_loads_no_more_than_it_uses(module: str) -> None:
    """A worker without Vault has neither Vault's client nor what other commands need in memory."""
    code = f"import sys, token_worker.cli.run; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
