"""Inputs of ``token-worker file``: markers of absent values, Excel's first line, delimiters, compression."""

import bz2
import gzip
import io
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import file_kills
from token_worker.contract.messages import Op
from token_worker.errors import CheckFailed, OperatorError
from token_worker.files import compressed, job, rows
from token_worker.files.columns import Column
from token_worker.files.inputs import open_input
from token_worker.files.job import Job
from token_worker.files.output_paths import OutputPaths
from token_worker.files.progress import Counts, JobOptions


def take(
    data: bytes, *columns: str, answer: Callable[[Any], Any] = lambda _: "new", **more: Any
) -> tuple[bytes, list[str], list[str]]:
    """The output, the problems and what was told."""
    notices: list[str] = []
    pairs = tuple((name, kind) for name, _, kind in (text.rpartition("=") for text in columns))
    options = JobOptions(**{"op": Op.TOKENIZE, "columns": pairs, "format": "csv"} | more)
    source = open_input(options, io.BufferedReader(io.BytesIO(data)), again=False, tell=notices.append)
    output, problems = source.head.data, []
    for chunk in source.chunks([Column(*pair) for pair in pairs], source.head.offset, source.head.rows, dedupe=True):
        done = chunk.finish([answer(value) for _, value, *_ in chunk.items])
        output += done.output
        problems += [f"{problem.row} {problem.code}" for problem in done.problems]
    return output, problems, notices


# -- no value


def test_markers_of_no_value_are_kept() -> None:
    """A cell as --null says is kept; one in quotes is text, as Postgres has it; both kinds of empty cells stay."""
    data = b'a,b\n\\N,x\nNULL,x\n"NULL",x\n,x\n"",x\nz,x\n'
    output, problems, _ = take(data, "a=str", nulls=("\\N", "NULL"))
    assert (output, problems) == (b'a,b\n\\N,x\nNULL,x\n"new",x\n,x\n"",x\nnew,x\n', [])
    output, _, _ = take(data, "a=str", nulls=('"NULL"',))
    assert output == b'a,b\nnew,x\nnew,x\n"NULL",x\n,x\n"",x\nnew,x\n'
    assert take(b"n\nNULL\n7\n", "n=int32", nulls=("NULL",), answer=lambda _: 8)[0] == b"n\nNULL\n8\n"


def test_cells_that_look_like_no_value_are_told() -> None:
    """Each such text is told once a column, with the option that keeps it; what is kept is not, nor other columns."""
    data = b'a,b,c\nNULL,nan,NULL\nNULL,x,x\n\\N,"N/A",x\n'
    _, _, notices = take(data, "a=str", "b=str")
    assert notices == [
        f"column {column}: a cell says {text} and is handled as a value; if it means no value, --null {shell} keeps it"
        for column, text, shell in (
            ("a", "NULL", "NULL"), ("a", "\\N", "'\\N'"), ("b", "nan", "nan"), ("b", "N/A", "N/A"),
        )
    ]  # fmt: skip
    _, _, notices = take(data, "a=str", nulls=("NULL", "\\N"))
    assert notices == []


def test_tokens_that_read_as_no_value_are_refused() -> None:
    """A token that happens to be such a marker could not be detokenized: its row is an error; in quotes it can."""
    output, problems, _ = take(b'a\nabcd\n"abcd"\n', "a=str", nulls=("NULL",), answer=lambda _: "NULL")
    assert (output, problems) == (b'a\n"NULL"\n', ["2 wrong_form"])


@pytest.mark.parametrize("text", ["", "a,b", "a\nb", '"a'])
def test_markers_that_no_cell_can_be_are_refused(text: str) -> None:
    """A marker that has no effect is wrong usage."""
    with pytest.raises(OperatorError, match="--null: expected the text of a cell"):
        take(b"a\nx\n", "a=str", nulls=(text,))


def test_rows_that_a_quote_seems_to_have_joined_are_told() -> None:
    """A file without quoting, read with quoting, would pass values in the clear: once, a line says what to do."""
    data = b'a\tb\n"begin\tone\nan end"\ttwo\n"begin\tone\nan end"\ttwo\n'
    _, problems, notices = take(data, "b=str", format="tsv")
    assert problems == []
    assert [notice.count("--no-quotes") for notice in notices] == [1]
    assert take(data, "b=str", format="tsv", quotes=False)[0] == data.replace(b"one", b"new").replace(b"two", b"new")
    for ordinary in (b'a,b,c\n1,"Main Street 1\nParis, France",x\n', b'b\n"Main Street 1\nParis"\n'):
        assert take(ordinary, "b=str")[2] == []


# -- delimiters


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(("first", "form"), [("sep=;", "csv"), ("SEP=;", "tsv"), ('"sep=;"', "csv")])
def test_the_first_line_of_excel_is_no_row(encoding: str, first: str, form: str) -> None:
    """The line says the delimiter and stays as it is. The header is the next row. Row numbers count both."""
    data = f"{first}\r\na;b\r\n1,5;x\r\nx\r\n"
    output, problems, _ = take(data.encode(encoding), "b=str", format=form)
    assert output == f"{first}\r\na;b\r\n1,5;new\r\n".encode(encoding)
    assert problems == ["4 wrong_fields"]


def test_the_first_line_of_excel_goes_with_the_options() -> None:
    """Without a header, values begin behind it; a delimiter that contradicts it is refused, the same one is not."""
    data = b"sep=\t\na\tb\n"
    assert take(data, "2=str", header=False)[0] == b"sep=\t\na\tnew\n"
    assert take(data, "b=str", delimiter="\t")[0] == data
    with pytest.raises(OperatorError, match="--delimiter differs"):
        take(data, "b=str", delimiter=",")
    with pytest.raises(OperatorError, match="no header"):
        take(b"sep=;\n", "b=str")


@pytest.mark.parametrize(
    ("header", "more", "complaint"),
    [
        (b"id;email", {}, "the columns are id;email; --delimiter ';' would find it"),
        (b"id\temail", {}, r"the columns are id\?email; --delimiter \$'\\t' would find it"),
        (b"id|email", {"delimiter": ";"}, r"the columns are id\|email; --delimiter '\|' would find it"),
        (b"id,email", {"format": "tsv"}, "the columns are id,email; --delimiter ',' would find it"),
        (b"id;5555123456", {}, "there is not exactly one column email; does the first row"),
        (b"id;5555123456;email", {}, "there is not exactly one column email; --delimiter ';' would find it"),
        (b"id;mail", {}, "the columns are id;mail$"),
    ],
)
def test_the_delimiter_that_was_meant_is_told(header: bytes, more: dict[str, Any], complaint: str) -> None:
    """If a column is missing, but exists with another delimiter, the message names that delimiter."""
    with pytest.raises(OperatorError, match=complaint):
        take(header + b"\nx;y\n", "email=str", **more)


def test_the_delimiter_that_was_meant_is_told_without_header() -> None:
    """The delimiter that was meant is named also if columns are numbers."""
    with pytest.raises(OperatorError, match="the columns are 1 to 1; --delimiter ';' would find them"):
        take(b"x;y\n", "1=str", "2=str", header=False)


# -- compression

COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "zst": compressed._zstd().compress}
DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.decompress, "zst": compressed._zstd().decompress}
TEXT = b"a,b\r\n" + b"".join(b"value %d,x\r\n" % number for number in range(5000))


def run(folder: Path, source: str, out: str, **more: Any) -> Counts:
    options = JobOptions(op=Op.TOKENIZE, columns=(Column("a", "str"),), format="csv")
    task = Job(options, file_kills.Client(), stopping=more.pop("stopping", threading.Event()), wait_seconds=1)
    return task.run(folder / source, OutputPaths(folder / out, None), resume=more.pop("resume", False), force=False)


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_compressed_files_are_read_and_written(tmp_path: Path, ending: str) -> None:
    """The name says the compression, each way. The same text has the same bytes; several members are one text."""
    (tmp_path / "in.csv").write_bytes(TEXT)
    (tmp_path / f"in.csv.{ending}").write_bytes(COMPRESS[ending](TEXT[:999]) + COMPRESS[ending](TEXT[999:]))
    run(tmp_path, "in.csv", "plain")
    plain = (tmp_path / "plain").read_bytes()
    assert plain.count(b"\n") > 4000
    for number, source in enumerate(("in.csv", f"in.csv.{ending}")):
        run(tmp_path, source, f"out{number}.{ending}")
        assert DECOMPRESS[ending]((tmp_path / f"out{number}.{ending}").read_bytes()) == plain
    assert (tmp_path / f"out0.{ending}").read_bytes() == (tmp_path / f"out1.{ending}").read_bytes()
    run(tmp_path, f"in.csv.{ending}", "again")
    assert (tmp_path / "again").read_bytes() == plain
    assert not [*tmp_path.glob("*.partial"), *tmp_path.glob("*.assembled"), *tmp_path.glob("*.progress")]


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_compressed_runs_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """Cut short anywhere, also while the output is compressed, a run goes on to the bytes of an undisturbed one."""
    monkeypatch.setattr(rows, "CHUNK_ITEMS", 100)
    monkeypatch.setattr(job, "SAVE_SECONDS", 0)
    source = f"in.csv.{ending}"
    (tmp_path / source).write_bytes(COMPRESS[ending](TEXT))
    run(tmp_path, source, f"whole.{ending}")
    truthful, calls = job._count, 0

    def count(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise SystemExit(130)
        truthful(*arguments)

    monkeypatch.setattr(job, "_count", count)
    with pytest.raises(SystemExit):
        run(tmp_path, source, f"out.{ending}")

    def write_half(_source: Path, target: Path, *_: Any) -> None:
        target.write_bytes(b"half")
        raise SystemExit(143)

    with monkeypatch.context() as patched:
        patched.setattr(job, "compress", write_half)
        with pytest.raises(SystemExit):
            run(tmp_path, source, f"out.{ending}", resume=True)
    run(tmp_path, source, f"out.{ending}", resume=True)
    assert (tmp_path / f"out.{ending}").read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()


@pytest.mark.parametrize("ending", ["gz", "zst"])
@pytest.mark.parametrize("damage", ["cut", "changed", "other", "rest"])
def test_damaged_files_are_told(tmp_path: Path, ending: str, damage: str) -> None:
    """A file that is cut off, changed or compressed in another way is an error, never a shorter text."""
    data = COMPRESS[ending](TEXT)
    middle = len(data) // 2
    (tmp_path / f"in.csv.{ending}").write_bytes(
        {
            "cut": data[:-5],
            "changed": data[:middle] + bytes(200) + data[middle + 200 :],
            "other": bz2.compress(TEXT),
            "rest": data + b"what does not belong there",
        }[damage]
    )
    with pytest.raises(CheckFailed, match="cut off or damaged"):
        run(tmp_path, f"in.csv.{ending}", "out.csv")


def test_members_far_in_a_compressed_file_are_found(tmp_path: Path) -> None:
    """A member that the first rows do not have is looked for in the text, not in its compressed bytes."""
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"x":1}\n' * 2000 + b'{"a":"y"}\n'))
    options = JobOptions(op=Op.TOKENIZE, columns=(Column("a", "str"),), format="jsonl")
    task = Job(options, file_kills.Client(), stopping=threading.Event(), wait_seconds=1)
    assert task.run(path, OutputPaths(tmp_path / "out.jsonl", None), resume=False, force=False).rows == 2001


def test_how_far_a_compressed_file_is(tmp_path: Path) -> None:
    """The progress counts compressed bytes, because only their total is known."""
    path = tmp_path / "in.csv.gz"
    path.write_bytes(gzip.compress(TEXT))
    far: list[tuple[int, int | None]] = []
    options = JobOptions(op=Op.TOKENIZE, columns=(Column("a", "str"),), format="csv")
    task = Job(
        options,
        file_kills.Client(),
        stopping=threading.Event(),
        wait_seconds=1,
        watch=lambda _, *counts: far.append(counts),
    )
    task.run(path, OutputPaths(tmp_path / "out", None), resume=False, force=False)
    size = path.stat().st_size
    assert far[-1] == (size, size)


def test_what_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library for .zst files, what to install is said."""
    for name in ("backports", "compression"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(OperatorError, match=r"pip install 'token-worker\[zstd\]'"):
        compressed.check("zstd")
    compressed.check("gzip")
    compressed.check(None)
