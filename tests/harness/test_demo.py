"""``scripts/demo``: the main job, as a new user runs it."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from harness import demo
from harness.processes import Run
from harness.stack import wait_until


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness.demo", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_demo_holds() -> None:
    """Records are tokenized and detokenized, Acra's tokens are detokenized, and the exit status is 0."""
    done = run("--records", "300")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("✓") == 5
    assert "✗" not in done.stdout


def test_values_and_tokens_fit_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """UUIDs and long addresses stand whole in the table, each value with its token below it."""
    console = Console(width=80)
    monkeypatch.setattr(demo, "console", console)
    [record] = demo.customers(1)
    long = {"id": "9f1c2a34-0000-8000-8000-000000000001", "email": "v" * 30 + "@tokens.invalid"}
    tokens = tuple(long.get(column.name, f"t-{column.name}") for column in demo.CUSTOMER)
    with console.capture() as capture:
        demo.show(demo.CUSTOMER, [record], [tokens])
    shown = capture.get()
    for value in (*map(str, record), *tokens):
        assert value in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_demo_takes_a_file(tmp_path: Path) -> None:
    """The columns of a given CSV file are tokenized and detokenized."""
    file = tmp_path / "customers.csv"
    file.write_text("id,email,note\n1,ada@example.org,x\n-9223372036854775808,grace@navy.example,y\n")
    done = run("--csv", str(file), "--columns", "email:email,id:int64")
    assert done.returncode == 0, done.stdout
    assert "2 records of 2 values" in done.stdout


def test_demo_says_which_values_are_refused(tmp_path: Path) -> None:
    """A value that cannot be tokenized is named by row and column, and the exit status is 1."""
    file = tmp_path / "customers.csv"
    file.write_text("id,email\n1,ada@example.org\n99999999999,ada@example.org\n2,no address\n")
    done = run("--csv", str(file), "--columns", "email:email,id:int32")
    assert done.returncode == 1
    assert "row 4, column email: invalid_email" in done.stdout
    assert "row 3, column id: value_out_of_range" in done.stdout
    assert "no address" not in done.stdout


def test_rows_are_numbered_as_in_the_file(tmp_path: Path) -> None:
    """A refused value is named by its row in the file, blank rows counted; so is a row with too few cells."""
    file = tmp_path / "customers.csv"
    file.write_text("id32,id64,email\n1,2,ada@example.org\n\n\n007,007,grace@navy.example\n3,4\n")
    done = run("--csv", str(file), "--columns", "email:email,id32:int32,id64:int64")
    assert done.returncode == 1
    named = {line.split(":")[0].strip() for line in done.stdout.splitlines() if line.strip().startswith("row ")}
    assert named == {"row 5, column id32", "row 5, column id64", "row 6"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"id\n\n", "no records"),
        (b"", "no header"),
        (b'id\n1\n"2\n', "row 3: a quote is never closed"),
        (b"id,id\n1,2\n", "more than one column id"),
    ],
    ids=["header alone", "empty", "open quote", "ambiguous"],
)
def test_demo_refuses_wrong_files(tmp_path: Path, content: bytes, expected: str) -> None:
    """A file that cannot be read as records is wrong usage, said in a line: exit status 2, before any start."""
    file = tmp_path / "file.csv"
    file.write_bytes(content)
    result = CliRunner().invoke(demo.demo, ["--csv", str(file), "--columns", "id:str"])
    assert result.exit_code == 2
    assert expected in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("nothing:str", "there is no column nothing"),
        ("id:float", "expected NAME:TYPE"),
        (None, "belong together"),
    ],
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
    changed = [*records[:17], (*records[17][:-1], "AAAA"), *records[18:]]
    assert demo.wrong(records, changed) == [17]
    assert demo.wrong(records, records) == []


@pytest.mark.parametrize(
    ("answer", "missed"),
    [(2, "every token gave its value back"), (3, "the same records sent again")],
    ids=["value", "token"],
)
def test_demo_fails_on_a_wrong_answer(monkeypatch: pytest.MonkeyPatch, answer: int, missed: str) -> None:
    """If one value or token is wrong, its check gets a cross, the others do not, and the exit status is 1."""
    truthful, calls = demo.send, 0

    def send(*arguments: Any) -> list[dict[str, Any]]:
        nonlocal calls
        calls += 1
        replies = truthful(*arguments)
        if calls == answer:
            replies[1]["items"][0]["value"] = "another"
        return replies

    monkeypatch.setattr(demo, "send", send)
    result = CliRunner().invoke(demo.demo, ["--records", "3"])
    assert result.exit_code == 1
    assert [missed in line for line in result.output.splitlines() if "✗" in line] == [True]


def test_demo_fails_on_a_wrong_answer_about_acras_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Acra's own data is compared, too: a case that says something else than the storage is found."""
    acra = json.loads(demo.VECTORS.read_text())
    case = next(case for case in acra["cases"] if case["type"] == "str")
    case["value"] = "another"
    altered = tmp_path / "acra.json"
    altered.write_text(json.dumps(acra))
    monkeypatch.setattr(demo, "VECTORS", altered)
    result = CliRunner().invoke(demo.demo, ["--records", "3"])
    assert result.exit_code == 1
    assert len([line for line in result.output.splitlines() if "✗" in line and "AcraTranslator" in line]) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_leaves_no_process_behind(tmp_path: Path, number: int) -> None:
    """With ``--keep`` all goes on until Ctrl-C, which stops every server and worker."""
    with running(tmp_path, "--keep") as run:
        wait_until_kept(run)
        assert len(run.children()) == 5  # two of Valkey, OpenBao, two workers
        run.process.send_signal(number)
        assert run.process.wait(60) == 128 + number
        assert run.left_behind() == []


@pytest.mark.parametrize("started", [1, 2, 3, 4, 5])
def test_ctrl_c_while_it_starts_leaves_no_process_behind(tmp_path: Path, started: int) -> None:
    """A server or worker that has only just been started is stopped, too."""
    with running(tmp_path) as run:
        run.wait_for(lambda: len(run.children()) >= started, "the servers")
        run.process.send_signal(signal.SIGINT)
        assert run.process.wait(60) == 128 + signal.SIGINT
        assert run.left_behind() == []


def test_impatient_ctrl_c_leaves_no_process_behind(tmp_path: Path) -> None:
    """Pressed again and again while all is being stopped, Ctrl-C does not cut that short."""
    with running(tmp_path, "--keep") as run:
        wait_until_kept(run)

        def ended() -> bool:
            run.process.send_signal(signal.SIGINT)
            return run.process.poll() is not None

        wait_until(ended, "the end", 60)
        assert run.left_behind() == []


def test_printed_commands_work(tmp_path: Path) -> None:
    """The commands that ``--keep`` prints work in a shell, with redis-cli or, if that is missing, with Python."""
    with running(tmp_path, "--keep") as run:
        wait_until_kept(run)
        lines = [line.strip() for line in run.output.read_text().splitlines()]
        pasted = [line for line in lines if line.startswith(("export ", "echo ", "python "))]
        assert len([line for line in pasted if line.startswith("python ")]) == 2
        script = "\n".join(["set -e", *pasted, "token-worker keys generate another-client"])
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert '"status": "ok"' in done.stdout
        assert "request_entry" in done.stdout.splitlines()[-2]  # the newest reply, as Python reads it
        assert "another-client_storage_sym: generated" in done.stdout


def running(folder: Path, *arguments: str) -> Run:
    """A demo of few records that runs."""
    return Run(folder, "-m", "harness.demo", "--records", "20", *arguments)


def wait_until_kept(run: Run) -> None:
    """Wait for the last lines that ``--keep`` prints."""
    run.wait_for(lambda: "export TOKEN_WORKER_VAULT_SECRET_ID_FILE=" in run.output.read_text(), "the demo")


def test_demo_needs_no_tool_of_the_tests() -> None:
    """The demo runs in an environment without pytest and what is installed for tests alone."""
    alone = "import sys; sys.modules |= dict.fromkeys(['pytest', 'hypothesis', 'fakeredis']); import harness.demo"
    done = subprocess.run(
        [sys.executable, "-c", alone], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
