"""``scripts/demo``: the main job, as a new user runs it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import demo
import pytest
from click.testing import CliRunner
from stack import wait_until

DEMO = Path(demo.__file__)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DEMO), *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_demo_holds() -> None:
    """Records go there and back, Acra's tokens turn back, and the exit status is 0."""
    done = run("--records", "300")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("✓") == 5
    assert "✗" not in done.stdout


def test_demo_takes_a_file(tmp_path: Path) -> None:
    """A CSV file's own columns are tokenized and turned back."""
    file = tmp_path / "customers.csv"
    file.write_text("id,email,note\n1,ada@example.org,x\n-9223372036854775808,grace@navy.example,y\n")
    done = run("--csv", str(file), "--columns", "email:email,id:int64")
    assert done.returncode == 0, done.stdout
    assert "2 records of 2 values" in done.stdout


def test_demo_says_which_values_are_refused(tmp_path: Path) -> None:
    """A value that cannot be tokenized is named by row and column, and the exit status is 1."""
    file = tmp_path / "customers.csv"
    file.write_text("id,email\n1,ada@example.org\n99999999999,no address\n")
    done = run("--csv", str(file), "--columns", "email:email,id:int32")
    assert done.returncode == 1
    assert "row 3, column email: invalid_email" in done.stdout
    assert "row 3, column id: value_out_of_range" in done.stdout
    assert "no address" not in done.stdout


@pytest.mark.parametrize(
    ("columns", "expected"),
    [("nothing:str", "has no column nothing"), ("id:float", "expected NAME:TYPE"), (None, "belong together")],
)
def test_demo_refuses_wrong_columns(tmp_path: Path, columns: str | None, expected: str) -> None:
    """Columns that the file does not have, or of no known type, are wrong usage: exit status 2, before any start."""
    file = tmp_path / "file.csv"
    file.write_text("id\n1\n")
    result = CliRunner().invoke(demo.demo, ["--csv", str(file), *(("--columns", columns) if columns else ())])
    assert result.exit_code == 2
    assert expected in result.output


def test_demo_notices_what_is_wrong() -> None:
    """One changed value among many is found by its number."""
    records = demo.customers(50)
    changed = [*records[:17], (*records[17][:4], "AAAA"), *records[18:]]
    assert demo.wrong(records, changed) == [17]
    assert demo.wrong(records, records) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_no_process_behind(tmp_path: Path, number: int) -> None:
    """With ``--keep`` all goes on until Ctrl-C, which stops every server and worker."""
    output = tmp_path / "output"
    with output.open("wb") as out:
        process = subprocess.Popen([sys.executable, str(DEMO), "--records", "20", "--keep"], stdout=out, stderr=out)
    try:
        wait_until(lambda: "What a worker of your own needs" in output.read_text(), "the demo")
        children = _descendants(process.pid)
        assert len(children) == 5  # two of Valkey, OpenBao, two workers
        process.send_signal(number)
        assert process.wait(60) == 128 + number
        assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    finally:
        process.kill()
    assert "token-worker request tokenize" in output.read_text()


def _descendants(pid: int) -> list[int]:
    """Processes that ``pid`` started; they are in sessions of their own."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == pid and os.getpid() != int(folder.name):
                found.append(int(folder.name))
    return found
