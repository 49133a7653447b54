"""``token-worker file`` on real servers: there and back in every format, cut short and gone on with, refusals."""

import datetime as dt
import gzip
import os
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import file_kills, quick
from harness.stack import Stack, WorkerProcess, wait_until
from token_worker.files import compressed
from token_worker.files.progress import JobProgress, load

CLIENT = ("--client", "shop-frontend")
COLUMNS = ("--column", "email=email", "--column", "card=str")


@pytest.fixture
def worker(stack: Stack) -> WorkerProcess:
    return stack.start_worker()


def customers(count: int, *, first: int = 0) -> bytes:
    """A CSV file."""
    rows = (
        f'{number},user{number}@example.org,"Ada, {number}",4242 {number:012}\r\n' for number in range(first, count)
    )
    return ("id,email,name,card\r\n" + "".join(rows)).encode()


def start(stack: Stack, *arguments: str, **settings: str) -> "subprocess.Popen[str]":
    """The command, running."""
    return quick.Popen(
        [sys.executable, "-m", "token_worker", "file", *arguments, *CLIENT],
        env=stack.environment(**settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


LIMITED = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
runpy.run_module("token_worker", run_name="__main__")
"""


def cut_short(stack: Stack, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The command, which cannot write more than so much of a file, as on a full disk."""
    return subprocess.run(
        [sys.executable, "-c", LIMITED, "file", *arguments, *CLIENT],
        env=stack.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def wait_until_it_sends(stack: Stack, before: int) -> None:
    wait_until(lambda: stack.streams.xinfo_stream("tokenize:requests")["entries-added"] > before, "requests")


DUCKDB = """
COPY (
    SELECT i::BIGINT AS id, 'user' || i || '@example.org' AS email, to_days(i::INTEGER) AS interval,
        TIMETZ '12:00:00+02' AS timetz, i::UINTEGER AS uint32, make_timestamp_ns(1000000000000000001 + i) AS ns
    FROM range(5000) AS t(i)
) TO '{}' (FORMAT parquet, KV_METADATA {{made_by: 'a test'}})
"""


def parquet(path: Path) -> None:
    """A file with every type, nulls, metadata and row groups."""
    kinds = {"i": pa.int32(), "l": pa.int64(), "s": pa.string(), "t": pa.large_string(), "b": pa.binary()}
    values = {"i": range(250), "l": range(250), "s": map(str, range(250)), "t": map(str, range(250))}
    columns = {name: pa.array([*those], kinds[name]) for name, those in values.items()}
    columns["b"] = pa.array([None if number % 3 else bytes([number]) for number in range(250)], pa.binary())
    columns["other"] = pa.array([[number] for number in range(250)])
    table = pa.table(columns).replace_schema_metadata({"made by": "a test"})
    pq.write_table(table, path, row_group_size=100, compression={"i": "zstd", "s": "gzip"}, use_dictionary=["s"])


ZSTD = compressed._zstd()
OPEN = {".gz": gzip.decompress, ".zst": ZSTD.decompress}

FILES = {
    "a.csv": (customers(1500), COLUMNS),
    "a.tsv": ("id\temail\n1\tada@example.org\n\n2\t\n".encode("utf-16"), ("--column", "email=email")),
    "a.jsonl": (
        b'{"id": 12, "n":-3, "b":"AAECAw==", "email" : "ada@example.org"}\n{"id": null,"n": 9007199254740993}\n',
        ("--column", "id=int32", "--column", "n=int64", "--column", "b=bytes", "--column", "email=email"),
    ),
    "a.csv.gz": (gzip.compress(customers(1500)), COLUMNS),
    "a.csv.zst": (ZSTD.compress(customers(1500)), COLUMNS),
    "excel.csv": (
        b'\xef\xbb\xbfsep=;\r\nid;card\r\n1;"4242 4242"\r\n\\N;\\N\r\n',
        ("--column", "card=str", "--null", "\\N"),
    ),
    "numbers.jsonl": (
        b'{"n":"-3"}\n{"n": 9007199254740993}\n{"n":""}\n',
        ("--column", "n=int64", "--numbers"),
    ),
    "nested.jsonl": (
        (
            b'{"address":{"zip" : 1010},"items":[{"iban":"DE021203"}, {"iban":null}],"phones":["1","2"]}\n'
            b'{"items":[],"a.b":"x"}\n{"address":null,"items":[{}]}\n'
        ),
        tuple(
            part
            for name in ("address.zip=int32", "items[].iban=str", "phones[]=str", '"a.b"=str')
            for part in ("--column", name)
        ),
    ),
    "a.parquet": (
        b"",
        tuple(part for pair in ("i=int32", "l=int64", "s=str", "t=str", "b=bytes") for part in ("--column", pair)),
    ),
}


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("name", FILES)
def test_files_go_there_and_back(stack: Stack, tmp_path: Path, name: str) -> None:
    """A file that was tokenized and detokenized has its bytes again; a second run gives the same tokens."""
    data, columns = FILES[name]
    source, tokens, back, again = (tmp_path / f"{step}-{name}" for step in ("in", "tokens", "back", "again"))
    source.write_bytes(data)
    if name.endswith(".parquet"):
        parquet(source)
    for op, path, out in (("tokenize", source, tokens), ("detokenize", tokens, back), ("tokenize", source, again)):
        done = stack.run("file", op, str(path), str(out), *columns, *CLIENT)
        assert done.returncode == 0, done.stderr
    if name.endswith((".gz", ".zst")):
        assert OPEN[source.suffix](back.read_bytes()) == OPEN[source.suffix](data)
    elif name.endswith(".parquet"):  # the same table, and how it is encoded is the writer's
        assert pq.read_table(back).equals(pq.read_table(source), check_metadata=True)
    else:
        assert back.read_bytes() == source.read_bytes()
    assert tokens.read_bytes() == again.read_bytes() != source.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (source, tokens, back, again)}


@pytest.mark.usefixtures("worker")
def test_parquet_stays_as_it_was(stack: Stack, tmp_path: Path) -> None:
    """Tokens have the types of their values; other columns, nulls, metadata, row groups and compression are kept."""
    source, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    parquet(source)
    columns = FILES["a.parquet"][1]
    assert stack.run("file", "tokenize", str(source), str(out), *columns, *CLIENT).returncode == 0
    before, after = pq.ParquetFile(source), pq.ParquetFile(out)
    assert after.schema_arrow.equals(before.schema_arrow, check_metadata=True)
    for group in range(before.num_row_groups):
        was, now = before.metadata.row_group(group), after.metadata.row_group(group)
        assert now.num_rows == was.num_rows
        assert [now.column(index).compression for index in range(6)] == [
            was.column(index).compression for index in range(6)
        ]
    old, new = before.read(), after.read()
    assert new.column("other").equals(old.column("other"))
    assert new.column("b").is_null().equals(old.column("b").is_null())
    assert all(not new.column(name).equals(old.column(name)) for name in "ilstb")


@pytest.mark.usefixtures("worker")
def test_a_file_of_duckdb_goes_there_and_back(stack: Stack, tmp_path: Path) -> None:
    """Types that Arrow lacks, nanoseconds and metadata come back as they were, also if a run was cut short."""
    source, tokens, back = (tmp_path / f"{name}.parquet" for name in ("in", "tokens", "back"))
    duckdb.execute(DUCKDB.format(source))
    columns = ("--column", "id=int64", "--column", "email=email")
    (tmp_path / "tokens.parquet.assembled").mkdir()  # the end of the run fails
    assert stack.run("file", "tokenize", str(source), str(tokens), *columns, *CLIENT).returncode == 1
    (tmp_path / "tokens.parquet.assembled").rmdir()
    for op, path, to, more in (("tokenize", source, tokens, ("--resume",)), ("detokenize", tokens, back, ())):
        done = stack.run("file", op, str(path), str(to), *columns, *CLIENT, *more)
        assert done.returncode == 0, done.stderr
    same = "SELECT count(*) FROM '{}' JOIN '{}' USING (id, email)"
    assert duckdb.execute(same.format(source, tokens)).fetchall() == [(0,)]
    for query in (
        "SELECT * EXCLUDE (file_name) FROM parquet_schema('{}')",
        "SELECT * EXCLUDE (file_name) FROM parquet_kv_metadata('{}')",
        "FROM '{}'",
    ):
        was, now = (duckdb.execute(query.format(path)).fetchall() for path in (source, back))
        assert was == now != []


@pytest.mark.usefixtures("worker")
def test_file_goes_from_standard_input_to_standard_output(stack: Stack, tmp_path: Path) -> None:
    """From standard input to standard output, and what was left out is counted: exit status 1."""
    data = "email,id\r\nada@example.org,1\r\nnone,2\r\n"
    arguments = ("tokenize", "-", "-", "--format", "csv", "--column", "email=email", *CLIENT)
    done = quick.run(
        [sys.executable, "-m", "token_worker", "file", *arguments],
        env=stack.environment(), input=data.encode(), capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    header, row, end = done.stdout.split(b"\r\n")
    assert (header, row[-2:], end) == (b"email,id", b",1", b"")
    assert done.returncode == 1
    assert b"1 row could not be done and is left out: invalid_email 1" in done.stderr
    assert not [*tmp_path.iterdir()]


@pytest.mark.usefixtures("worker")
def test_rows_that_cannot_be_done_are_reported(stack: Stack, tmp_path: Path) -> None:
    """Such rows are left out of the output and named in the errors file, by row, column and code, without a value."""
    source, out, errors = tmp_path / "in.csv", tmp_path / "out.csv", tmp_path / "errors.jsonl"
    source.write_text("email,n\nada@example.org,1\nsecret,2\n\nada@example.org,0099\nsecret,0099\nx,y,z\n")
    arguments = ("--column", "email=email", "--column", "n=int32", "--errors", str(errors), *CLIENT)
    done = stack.run("file", "tokenize", str(source), str(out), *arguments)
    assert done.returncode == 1, done.stderr
    assert len(out.read_text().splitlines()) == 3  # header, one row, the blank one
    found = [msgspec.json.decode(line) for line in errors.read_bytes().splitlines()]
    assert [(problem["row"], problem["column"], problem["code"]) for problem in found] == [
        (3, "email", "invalid_email"),
        (5, "n", "wrong_form"),
        (6, "n", "wrong_form"),
        (7, None, "wrong_fields"),
    ]
    for text in (errors.read_text(), done.stderr, done.stdout):
        assert "secret" not in text
        assert "0099" not in text
    assert "4 rows could not be done and are left out: invalid_email 1, wrong_fields 1, wrong_form 2" in done.stderr
    assert "\n  column n: wrong_form (2 rows, 5, 6): expected a whole number in decimal digits" in done.stderr
    assert "\n  column email: invalid_email (row 3): " in done.stderr
    assert "\n  the row: wrong_fields (row 7): expected 2 fields\n" in done.stderr
    assert done.stderr.endswith(f"\n  all these rows: {errors}\n")


@pytest.mark.usefixtures("worker")
def test_many_rows_that_cannot_be_done_are_summed_up(stack: Stack, tmp_path: Path) -> None:
    """Any number of wrong rows gives a short summary: columns, counts, first rows, the expected form, and --errors."""
    source = tmp_path / "in.csv"
    source.write_text("a,b\n" + "x,007\n" * 5000)
    done = stack.run("file", "tokenize", str(source), str(tmp_path / "o.csv"), "--column", "b=int64", *CLIENT)
    assert done.returncode == 1
    assert done.stderr.endswith(
        "5,000 rows could not be done and are left out: wrong_form 5,000\n"
        "  column b: wrong_form (5,000 rows, the first are 2, 3, 4, 5, 6): expected a whole number in decimal digits,"
        " without a leading 0\n  all these rows: use --errors FILE\n"
    )


@pytest.mark.parametrize("away", [False, True])
def test_missing_answers_are_told_soon(stack: Stack, tmp_path: Path, away: bool) -> None:
    """Long before a request's time is up it is said that no worker answers, or which server is away."""
    source = tmp_path / "in.csv"
    source.write_bytes(customers(10))
    address = {"TOKEN_WORKER_STREAMS_URL": "redis://127.0.0.1:1"} if away else {}
    running = start(stack, "tokenize", str(source), str(tmp_path / "out.csv"), *COLUMNS, **address)
    try:
        assert running.stderr is not None
        complaint = running.stderr.readline()
    finally:
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=60)
    assert (
        "no answers: Redis for streams at 127.0.0.1:1: " if away else "no answers: no worker answers; does a worker run"
    ) in complaint


@pytest.mark.usefixtures("worker")
def test_rows_are_left_out_of_parquet(stack: Stack, tmp_path: Path) -> None:
    """A row that cannot be done is left out of its row group; the columns of the others stay together."""
    source, out, back = (tmp_path / name for name in ("in.parquet", "out.parquet", "back.parquet"))
    addresses = [f"user{number}@navy.example" if number % 4 else "none" for number in range(20)]
    pq.write_table(pa.table({"n": range(20), "email": addresses}), source, row_group_size=8)
    for op, path, to, status in (("tokenize", source, out, 1), ("detokenize", out, back, 0)):
        done = stack.run("file", op, str(path), str(to), "--column", "email=email", *CLIENT)
        assert done.returncode == status, done.stderr
    done_rows = [(number, address) for number, address in enumerate(addresses) if number % 4]
    assert [(row["n"], row["email"]) for row in pq.read_table(back).to_pylist()] == done_rows
    assert [row["n"] for row in pq.read_table(out).to_pylist()] == [number for number, _ in done_rows]
    assert pq.ParquetFile(out).num_row_groups == 3


@pytest.mark.usefixtures("worker")
def test_unknown_tokens_are_reported(stack: Stack, tmp_path: Path) -> None:
    """A cell that is not a token is an error of its row, and never stays as if it were the value."""
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(customers(3))
    done = stack.run("file", "detokenize", str(source), str(out), *COLUMNS, *CLIENT)
    assert done.returncode == 1
    assert out.read_bytes() == customers(0)
    assert "token_not_found 6" in done.stderr


@pytest.mark.parametrize("form", ["csv", "csv.gz", "jsonl", "parquet"])
def test_runs_that_are_killed_anywhere_give_the_same_bytes(tmp_path: Path, form: str) -> None:
    """Killed before or within any write, sync or rename, and again while it goes on, it ends with the same files."""
    command = [sys.executable, file_kills.__file__, str(tmp_path), form]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 15


def progress(out: Path) -> JobProgress:
    """The position that a run has saved."""
    place = out.with_name(out.name + ".progress")
    wait_until(place.exists, "progress")
    found = load(place)
    assert found is not None
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_goes_on(stack: Stack, worker: WorkerProcess, tmp_path: Path, number: int) -> None:
    """Cut short by a full disk, then by a signal, it ends with the output of an undisturbed run, byte for byte."""
    source, out, whole, errors = (tmp_path / name for name in ("in.csv", "out.csv", "whole.csv", "errors.jsonl"))
    source.write_bytes(customers(5000).replace(b"user777@", b""))
    arguments = ("tokenize", str(source), str(out), *COLUMNS, "--errors", str(errors))
    done = cut_short(stack, *arguments)
    assert done.returncode == 1
    assert done.stderr.endswith("File too large; --resume continues\n")
    before = progress(out)
    assert 0 < before.output <= 150_000
    worker.signal(signal.SIGSTOP)  # so that it cannot end before it is stopped
    sent = stack.streams.xinfo_stream("tokenize:requests")["entries-added"]
    running = start(stack, *arguments, "--resume")
    try:
        wait_until_it_sends(stack, sent)
        running.send_signal(number)
        _, complaint = running.communicate(timeout=60)
    finally:
        running.kill()
        running.wait()
        worker.signal(signal.SIGCONT)
    assert running.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert number == signal.SIGKILL or complaint.endswith("stopped; --resume continues\n")
    assert not out.exists()
    assert progress(out) == before
    for path in (out.with_name("out.csv.partial"), errors):
        with path.open("ab") as file:
            file.write(b"what was not saved\n" * 50_000)
    done = stack.run("file", *arguments, "--resume", *CLIENT)
    assert "1 row could not be done" in done.stderr
    assert done.returncode == 1
    stack.run("file", "tokenize", str(source), str(whole), *COLUMNS, *CLIENT)
    assert out.read_bytes() == whole.read_bytes()
    assert len(errors.read_bytes().splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv", "out.csv", "whole.csv", "errors.jsonl"}


def test_without_workers_it_gives_up_and_goes_on_later(stack: Stack, tmp_path: Path) -> None:
    """Without answers it waits as long as --wait says, then ends with exit status 3; with a worker it continues."""
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(customers(3000))
    arguments = ("file", "tokenize", str(source), str(out), *COLUMNS, *CLIENT)
    done = stack.run(*arguments, "--wait", "0", "--timeout", "0.5")
    assert done.returncode == 3, done.stderr
    assert not [path for path in tmp_path.iterdir() if path != source]  # no row was done
    stack.start_worker()
    assert stack.run(*arguments).returncode == 0


def test_a_run_that_gives_up_says_how_it_goes_on(stack: Stack, worker: WorkerProcess, tmp_path: Path) -> None:
    """Rows that were done before the answers stopped are kept, and the last line says so."""
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(customers(5000))
    arguments = ("tokenize", str(source), str(out), *COLUMNS)
    cut_short(stack, *arguments)
    before = progress(out)
    worker.stop()
    done = stack.run("file", *arguments, "--resume", "--wait", "0", "--timeout", "0.5", *CLIENT)
    assert (done.returncode, done.stderr.endswith("waited for 0 seconds; --resume continues\n")) == (3, True), (
        done.stderr
    )
    assert progress(out) == before


def test_other_runs_are_not_gone_on_with(stack: Stack, worker: WorkerProcess, tmp_path: Path) -> None:
    """A run goes on with the same input and options alone, and neither beside another nor unasked."""
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(customers(5000))
    arguments = ("tokenize", str(source), str(out), *COLUMNS)
    cut_short(stack, *arguments)
    before = progress(out)
    worker.signal(signal.SIGSTOP)
    sent = stack.streams.xinfo_stream("tokenize:requests")["entries-added"]
    running = start(stack, *arguments, "--resume")
    try:
        wait_until_it_sends(stack, sent)
        done = stack.run("file", *arguments, "--resume", *CLIENT)
        assert (done.returncode, "another run writes" in done.stderr) == (1, True)
    finally:
        running.kill()
        running.communicate()
        worker.signal(signal.SIGCONT)
    for more, complaint in (
        ((), "a run was interrupted: --resume continues it, --force starts again"),
        (("--resume", "--column", "name=str"), "had other options"),
    ):
        done = stack.run("file", *arguments, *more, *CLIENT)
        assert (done.returncode, complaint in done.stderr) == (1, True), done.stderr
    source.write_bytes(customers(5000, first=1))
    done = stack.run("file", *arguments, "--resume", *CLIENT)
    assert (done.returncode, "had another input" in done.stderr) == (1, True)
    assert progress(out) == before
    assert stack.run("file", *arguments, "--force", *CLIENT).returncode == 0
    assert len(out.read_bytes().splitlines()) == 5000


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (("in.csv", "there.csv", *COLUMNS), 1, "there.csv exists; --force replaces it"),
        (("in.csv", "out.csv", "--column", "mail=email"), 2, "no column mail; the columns are id, email, name, card"),
        (("in.csv", "out.csv", "--column", "email=text"), 2, "is neither a type nor a format"),
        (("in.csv", "out.csv", "--column", "id=str", "--column", "id=int32"), 2, "named twice"),
        (("in.csv", "out.csv"), 2, "name the columns"),
        (("in.csv", "in.csv", *COLUMNS, "--force"), 2, "must be different files"),
        (("in.csv", "link.csv", *COLUMNS, "--force"), 2, "must be different files"),
        (("in.csv", "out.csv", *COLUMNS, "--errors", "in.csv", "--force"), 2, "must be different files"),
        (("in.csv", "out.csv", *COLUMNS, "--errors", "out.csv.partial"), 2, "must be different files"),
        (("in.csv", "out.csv", *COLUMNS, "--errors", "there.csv"), 1, "there.csv exists"),
        (("in.csv", "-", *COLUMNS, "--resume"), 2, "cannot be resumed"),
        (("in.csv", "out.csv", *COLUMNS, "--resume"), 1, "no run to resume"),
        (("in.csv", "/dev/null", *COLUMNS, "--force"), 2, "not a regular file"),
        (("in.csv", "out.csv", *COLUMNS, "--delimiter", ""), 2, "one ASCII character"),
        (("in.csv", "out.csv", *COLUMNS, "--encoding", "idna"), 2, "does not contain ASCII"),
        (("in.csv", "out.csv", *COLUMNS, "--timeout", "nan"), 2, "less than 100,000,000 seconds"),
        (("in.csv", "out.csv", *COLUMNS, "--wait", "inf"), 2, "less than 100,000,000 seconds"),
        (("in.csv", "out.csv", *COLUMNS, "--zone", "\udcff"), 2, "names must be UTF-8"),
        (("in.csv", "x" * 250, *COLUMNS), 1, "File name too long"),
        (("none.csv", "out.csv", *COLUMNS), 1, "none.csv: No such file or directory"),
        (("in.csv", "no/out.csv", *COLUMNS), 1, "No such file or directory"),
        (("in.csv", "out.csv", *COLUMNS, "--encoding", "cp037"), 2, "does not contain ASCII"),
        (("in.csv", "out.csv", *COLUMNS, "--delimiter", "ab"), 2, "one ASCII character"),
        (("in.csv", "out.parquet", *COLUMNS, "--format", "parquet"), 2, "not a Parquet file"),
        (("in.csv", "out.parquet", *COLUMNS), 2, "OUT out.parquet would hold csv, the format of IN or --format"),
        (("in.csv", "out.jsonl.gz", *COLUMNS), 2, "OUT out.jsonl.gz would hold csv"),
        (("in.csv", "out.tsv", *COLUMNS), 2, "OUT out.tsv would hold csv"),
        (("in.csv", "out.csv", *COLUMNS, "--format", "jsonl"), 2, "OUT out.csv would hold jsonl"),
        (("broken.parquet", "out.parquet.gz", "--column", "s=str"), 2, "Parquet has its own compression"),
        (("in.csv", "out.csv", *COLUMNS, "--null", ""), 2, "--null: expected the text of a cell"),
        (("in.jsonl", "out.jsonl", "--column", "a.b=str", "--null", "x"), 2, "are only for CSV and TSV"),
        (("in.csv", "out.csv", "--column", "email=email", "--delimiter", ";"), 2, "--delimiter ',' would find it"),
        (("in.csv", "-", *COLUMNS, "--format", "parquet"), 2, "needs files, not pipes"),
        (("empty.csv", "out.csv", *COLUMNS), 2, "has no header"),
        (("open.csv", "out.csv", "--column", "a=str"), 1, "row 2: a quote is never closed"),
        (("values.csv", "out.csv", "--column", "email=email"), 2, "have values? Then use --no-header"),
        (("in.csv", "out.jsonl", "--format", "jsonl", "--no-header", *COLUMNS), 2, "are only for CSV and TSV"),
        (("in.csv", "out.csv", "--numbers", *COLUMNS), 2, "--numbers is only for JSON Lines"),
        (("in.jsonl", "out.jsonl", "--numbers", *COLUMNS), 2, "--numbers is only for columns of type int64"),
        (("in.jsonl", "out.jsonl", "--column", "a[0]=str"), 2, "a[0] is not a path to a member: expected a path like"),
        (("in.jsonl", "out.jsonl", "--column", "a.c=str"), 2, "no row has a member a.c; the members are a.b"),
        (("broken.parquet", "out.parquet", "--column", "s=str"), 1, "the input cannot be read: it is damaged"),
        (("broken.parquet", "out.parquet", "--column", "i=str"), 2, "is int32, and tokens of type str are not"),
    ],
)  # fmt: skip
def test_mistake_is_refused_in_one_line_and_leaves_nothing_behind(
    stack: Stack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    status: int,
    complaint: str,
) -> None:
    """Each mistake is said in a line, and leaves nothing behind and everything as it was."""
    files = {"in.csv": customers(3), "there.csv": b"there", "empty.csv": b"", "open.csv": b'a\n"b\n'}
    files["in.jsonl"] = b'{"a":{"b":"x"}}\n'
    files["values.csv"] = b"grace@navy.example,Grace\n"
    parquet(tmp_path / "broken.parquet")
    whole = (tmp_path / "broken.parquet").read_bytes()
    files["broken.parquet"] = whole[:4] + bytes(3000) + whole[3004:]
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "link.csv").hardlink_to(tmp_path / "in.csv")
    monkeypatch.chdir(tmp_path)
    done = stack.run("file", "tokenize", *CLIENT, *arguments)
    assert done.returncode == status, done.stderr
    assert complaint in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert "grace" not in done.stderr.lower()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {**files, "link.csv": files["in.csv"]}


@pytest.mark.usefixtures("worker")
def test_refusals_for_all_rows_end_the_run(stack: Stack, tmp_path: Path) -> None:
    """A client or zone without a key is said once, and leaves nothing behind."""
    source, out, errors = (tmp_path / name for name in ("in.csv", "out.csv", "errors.jsonl"))
    source.write_bytes(customers(3000))
    for name, complaint in (("client", "unknown_client"), ("zone", "unknown_zone")):
        more = ("--errors", str(errors), *CLIENT, f"--{name}", "another-owner")
        done = stack.run("file", "tokenize", str(source), str(out), *COLUMNS, *more)
        assert done.returncode == 1
        assert complaint in done.stderr
        assert "--resume" not in done.stderr
        assert [*tmp_path.iterdir()] == [source]


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [("file", "tokenize", "in.csv", "-", *COLUMNS, *CLIENT), ("schemas", "--help")])
def test_a_full_standard_output_is_told(
    stack: Stack, tmp_path: Path, arguments: tuple[str, ...], unbuffered: str
) -> None:
    """A full device as standard output is an error of one line, with the reason; of any command, buffered or not."""
    (tmp_path / "in.csv").write_bytes(customers(10))
    with Path("/dev/full").open("wb") as full:
        done = quick.run(
            [sys.executable, "-m", "token_worker", *arguments], env=stack.environment(PYTHONUNBUFFERED=unbuffered),
            cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "exception" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("closed", "source", "out"), [("<&-", "-", "out.csv"), (">&-", "in.csv", "-")])
def test_standard_streams_that_are_closed_are_told(
    stack: Stack, tmp_path: Path, closed: str, source: str, out: str
) -> None:
    """A process that was started without the stream that it is to use says so in a line."""
    (tmp_path / "in.csv").write_bytes(customers(3))
    command = (
        sys.executable,
        "-m",
        "token_worker",
        "file",
        "tokenize",
        source,
        out,
        "--format",
        "csv",
        *COLUMNS,
        *CLIENT,
    )
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *command],
        env=stack.environment(), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "standard input or output is closed\n")


def test_routes_that_do_not_serve_it_are_told(stack: Stack, tmp_path: Path) -> None:
    """Settings without a route for the operation, or with several possible clients, are wrong usage."""
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(customers(3))
    done = stack.run("file", "tokenize", str(source), str(out), *COLUMNS)
    assert (done.returncode, done.stderr[:14]) == (2, "name a client:")
    routes = msgspec.json.encode([{"requests": "a", "responses": "b", "ops": ["detokenize"]}]).decode()
    arguments = ("file", "tokenize", str(source), str(out), *COLUMNS, *CLIENT)
    done = stack.run(*arguments, TOKEN_WORKER_ROUTES=routes)
    assert (done.returncode, done.stderr[:9]) == (2, "no route ")


@pytest.mark.usefixtures("worker")
def test_inconsistent_rows_have_tokens_of_their_own(stack: Stack, tmp_path: Path) -> None:
    """With --inconsistent the same value gets a token of its own in each row, and each gives the value back."""
    source, out, back = (tmp_path / name for name in ("in.csv", "out.csv", "back.csv"))
    source.write_text("a\n" + "same\n" * 20)
    column = ("--column", "a=str", *CLIENT)
    assert stack.run("file", "tokenize", str(source), str(out), "--inconsistent", *column).returncode == 0
    assert len(set(out.read_text().splitlines())) == 21
    assert stack.run("file", "detokenize", str(out), str(back), *column).returncode == 0
    assert back.read_bytes() == source.read_bytes()


def test_smaller_limits_of_the_workers_are_found_out(stack: Stack, tmp_path: Path) -> None:
    """If workers take fewer items than usual, requests are made smaller until workers take them."""
    stack.start_worker(TOKEN_WORKER_MAX_ITEMS="100")
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(customers(1000))
    done = stack.run("file", "tokenize", str(source), str(out), *COLUMNS, *CLIENT)
    assert done.returncode == 0, done.stderr
    assert len(out.read_bytes().splitlines()) == 1001


def test_suggestions_are_shown_masked(stack: Stack, tmp_path: Path) -> None:
    """With --suggest all columns are shown, with no value, and why; options for what looks like personal data."""
    table = pa.table(
        {
            "id": pa.array(["1"]),
            "who": pa.array(["grace@navy.example"]),
            "surname": pa.array(["Hopper"]),
            "born": pa.array([dt.date(1906, 12, 9)]),
            "amount": pa.array([Decimal("1.50")]),
            "tags": pa.array([["Grace"]]),
        }
    )
    (tmp_path / "in.csv").write_text("id,who,surname,day\n1,grace@navy.example,Hopper,1906-12-09\n")
    (tmp_path / "in.jsonl").write_text('{"id":1,"a":{"who":"grace@navy.example","surname":"Hopper","ok":true}}\n')
    pq.write_table(table, tmp_path / "in.parquet")
    for name, shown in (
        ("in.csv", ["id", "who", "surname", "day"]),
        ("in.jsonl", ["id", "a.who", "a.surname", "a.ok"]),
        ("in.parquet", ["id", "who", "surname", "born", "amount", "tags"]),
    ):
        done = stack.run("file", "tokenize", str(tmp_path / name), "--suggest")
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(f"--column {shown[1]}=email-safe --column {shown[2]}=letters\n")
        lines = [line.split() for line in done.stdout.splitlines()]
        assert [line[1] for line in lines if line[:1] and line[0].isdecimal()] == shown
        assert "e-mail addresses" in done.stdout
        assert "xxxxx@xxxx.xxxxxxx" in done.stdout
        for value in ("grace", "hopper", "1906"):
            assert value not in done.stdout.lower()
    assert "decimal(3, 2)" in done.stdout
    assert len([*tmp_path.iterdir()]) == 3


@pytest.mark.usefixtures("worker")
def test_suggestions_can_be_taken(stack: Stack, tmp_path: Path) -> None:
    """On a terminal it asks which columns, asks again after a typo, and goes on with these."""
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("id,who,n\n1,grace@navy.example,Grace\n")
    ours, theirs = os.openpty()
    try:
        os.write(ours, b"who,nn\nwho,3\n")
        done = quick.run(
            [sys.executable, "-m", "token_worker", "file", "tokenize", str(source), str(out), "--suggest", *CLIENT],
            env=stack.environment(TERM="dumb"), stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        shown = os.read(ours, 100_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0, done.stderr
    assert "There is no column nn; the columns are id, who, n." in shown
    header, row = out.read_text().splitlines()
    number, who, name = row.split(",")
    assert (header, number, len(name)) == ("id,who,n", "1", len("Grace"))
    assert who.endswith(".invalid")
    assert "grace" not in row.lower()
