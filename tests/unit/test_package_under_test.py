"""The tests run the copy of the package that they say: the tree, or what ``scripts/test`` installed."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import token_worker

TREE = Path(__file__).parents[2] / "worker"


def run_pytest(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Collect this file by pytest, with a folder that comes before what is installed."""
    own = {name: value for name, value in os.environ.items() if name not in {"TEST_INSTALLED", "PYTHONPATH"}}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *options, __file__],
        env={**own, **environment, "PYTHONPATH": str(folder)},
        cwd=TREE.parent,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_programs_that_tests_start_run_the_same_copy() -> None:
    """A worker or command that a test starts is the package that the test imports, wherever it starts."""
    command = [sys.executable, "-c", "import token_worker; print(token_worker.__file__)"]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.strip() == token_worker.__file__


def test_a_copy_is_refused(tmp_path: Path) -> None:
    """Plain pytest does not test an old copy of the package, where an edit of the tree would not be seen."""
    shutil.copytree(TREE / "token_worker", tmp_path / "token_worker")
    done = run_pytest(tmp_path)
    assert done.returncode == 4
    assert "would not see an edit of the tree" in done.stderr


def test_the_tree_is_refused_for_the_installed_package(tmp_path: Path) -> None:
    """``scripts/test`` does not test the tree in place of the wheel, also if its arguments ask for that."""
    by_path = run_pytest(TREE, TEST_INSTALLED="1")
    options = tomllib.loads((TREE.parent / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    paths = " ".join([str(TREE), *options["pythonpath"]])
    by_option = run_pytest(tmp_path, "-o", f"pythonpath={paths}", TEST_INSTALLED="1")
    for done in (by_path, by_option):
        assert done.returncode == 4
        assert "the tests would run the tree" in done.stderr
