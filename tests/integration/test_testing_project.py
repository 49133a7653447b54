"""A project of its own whose tests use the fixture ``token_worker``, as the package is installed here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.doc_pages import page
from harness.doc_runner import Reader

SECRET = "grace.7f3a@navy.example"
PAGE = "docs/testing.md"

FAILING = """
import logging
import os

import pytest
from token_worker.client import TokenClient

@pytest.fixture
def client(token_worker):
    with TokenClient(token_worker.url, client_id="shop-frontend") as client:
        token = client.tokenize(os.environ["VALUE"], type="email")
        client.detokenize(token, type="email")
        logging.getLogger("shop").debug("the project's own line")
        yield client

def test_number(token_worker, client):
    assert len(token_worker.requests) == 1

def test_requests(token_worker, client):
    requests = token_worker.requests
    assert not requests

def test_equal(token_worker, client):
    requests = token_worker.requests
    assert requests == []

def test_attributes(token_worker, client):
    [first, second] = token_worker.requests
    assert first.op == "detokenize"

def test_values(token_worker, client):
    assert token_worker.requests[0].values == ["Grace"]

def test_two_values(token_worker, client):
    first, second = token_worker.requests
    assert first.values == second.values

def test_membership(token_worker, client):
    assert "Grace" in token_worker.requests[0].values

def test_time_out(token_worker, client):
    token_worker.wait_for_requests(3, timeout_seconds=0)

def test_plan(token_worker, client):
    token_worker.refuse_next("forbidden")
"""


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the tests as the project's author does; warnings are errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-p", "no:cacheprovider", "--color=no", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "VALUE": SECRET, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def write_page(folder: Path) -> None:
    """Make a project of the files that the page shows."""
    files = {block.notes["file"]: block.text for block in page(PAGE).blocks() if "file" in block.notes}
    assert len(files) >= 5
    for name, text in files.items():
        (folder / name).write_text(text)


def test_page_runs_as_printed(tmp_path: Path) -> None:
    """The project of the page passes: errors, time-outs, requests, an event loop, a producer without our client."""
    with Reader(tmp_path, {}, {}) as reader:
        reader.follow(page(PAGE))


@pytest.mark.parametrize("arguments", [["-p", "no:randomly"], ["-n", "2"]], ids=["in order", "in two processes"])
def test_project_passes_however_it_is_run(tmp_path: Path, arguments: list[str]) -> None:
    """The fixture needs no other plugin, and no order of the tests; each process has workers of its own."""
    write_page(tmp_path)
    done = run_pytest(tmp_path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 8 passed in " in done.stdout


def test_failing_tests_show_no_value(tmp_path: Path) -> None:
    """A failing test prints neither the value that was sent nor its token, with all options that print more."""
    (tmp_path / "test_shop.py").write_text(FAILING)
    done = run_pytest(tmp_path, "-vv", "--showlocals", "-o", "log_level=DEBUG", "-p", "no:randomly")
    assert done.returncode == 1
    assert "8 failed, 1 passed, 1 error" in done.stdout
    assert "<Values: 1> == ['Grace']" in done.stdout
    assert "the project's own line" in done.stdout
    assert "no request came for: refuse_next('forbidden', count=1)" in done.stdout
    assert SECRET not in done.stdout + done.stderr
    assert "@" not in done.stdout.replace("@pytest", "")  # nor the token, which is an address, too


def test_project_without_the_extra(tmp_path: Path) -> None:
    """Without fakeredis, tests that do not use the fixture pass, and the others say what to install."""
    (tmp_path / "conftest.py").write_text("import sys\n\nsys.modules['fakeredis'] = None\n")
    (tmp_path / "test_shop.py").write_text("def test_fine(): ...\n\ndef test_worker(token_worker): ...\n")
    done = run_pytest(tmp_path)
    assert "1 passed, 1 error" in done.stdout
    assert "pip install 'token-worker[testing]'" in done.stdout
    assert "Traceback" not in done.stdout
    assert "plugin.py" not in done.stdout


def test_project_with_a_fixture_of_that_name(tmp_path: Path) -> None:
    """A project that has a fixture ``token_worker`` of its own keeps it."""
    (tmp_path / "conftest.py").write_text("import pytest\n\n@pytest.fixture\ndef token_worker():\n    return 42\n")
    (tmp_path / "test_shop.py").write_text("def test_own(token_worker):\n    assert token_worker == 42\n")
    done = run_pytest(tmp_path)
    assert done.returncode == 0, done.stdout
