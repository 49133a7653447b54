"""``token-worker file`` with formats, on real servers: tokens fit their columns, and give their values back."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.stack import Stack
from token_worker.tokens.formats import AnyFormat, builtin_formats

CLIENT = ("--client", "shop-frontend")
COLUMNS = {
    "id": "uuid",
    "name": "letters",
    "born": "date",
    "seen": "datetime",
    "email": "email-safe",
    "phone": "phone",
    "card": "pan",
    "iban": "iban",
    "konto": "str:digits",
    "plate": "str:plate",
}
PLATE = {"name": "plate", "kind": "template", "template": r"[A-Z]{2}-\d{5,8}"}
"""A format that the workers have and the command does not."""

ROWS = [
    {
        "id": f"9f1c2a34-0000-4000-8000-{number:012x}",
        "name": f"Müller-{'abcdefghij'[number % 10] * 3} Łukasz",
        "born": f"19{10 + number}-0{1 + number % 9}-17",
        "seen": f"2024-01-{10 + number % 20}T10:00:00.{number:03}Z",
        "email": f"user{number}@mail.example",
        "phone": f"+49 30 9018{number:04}",
        "card": card,
        "iban": iban,
        "konto": f"00-{number:03}-98765",
        "plate": f"AB-{number:05}",
    }
    for number, (card, iban) in enumerate(
        [
            ("4242 4242 4242 4242", "DE02120300000000202051"),
            ("5105105105105100", "GB33 BUKB 2020 1555 5555 55"),
            ("3782-822463-10005", "NO9386011117947"),
        ]
    )
]


def write(path: Path) -> None:
    """Write the rows: line ends, quotes, spaces and escapes are those of other programs."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table({name: [row[name] for row in ROWS] for name in COLUMNS}), path)
    elif path.suffix == ".csv":
        lines = [",".join(f'"{cell}"' if " " in cell else cell for cell in row.values()) for row in ROWS]
        path.write_bytes("\r\n".join([",".join(COLUMNS), *lines]).encode())
    else:
        path.write_text("".join(f"{json.dumps(row, ensure_ascii=False, indent=None)} \n" for row in ROWS))


def read(path: Path) -> list[dict[str, str]]:
    """Read the rows as any other program does."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()  # type: ignore[no-any-return]
    if path.suffix == ".csv":
        lines = path.read_text().splitlines()
        return [dict(zip(COLUMNS, (cell.strip('"') for cell in line.split(",")), strict=True)) for line in lines[1:]]
    return [json.loads(line) for line in path.read_text().splitlines()]


def options(columns: dict[str, str]) -> list[str]:
    return [part for name, kind in columns.items() for part in ("--column", f"{name}={kind}")]


def routes(**rules: Any) -> str:
    """The usual routes, the one that tokenizes with rules about formats."""
    return json.dumps(
        [
            {"requests": f"{op}:requests", "responses": f"{op}:responses", "ops": [op], **more}
            for op, more in (("tokenize", rules), ("detokenize", {}))
        ]
    )


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_tokens_of_formats_go_there_and_back(stack: Stack, tmp_path: Path, name: str) -> None:
    """Each cell gets a token of the format of its column. The same options give back the file, byte for byte."""
    stack.start_worker(
        TOKEN_WORKER_FORMATS=json.dumps([PLATE]),
        TOKEN_WORKER_ROUTES=routes(allowed_formats=[*builtin_formats(), "plate"]),
    )
    source, tokens, back = (tmp_path / f"{step}-{name}" for step in ("in", "tokens", "back"))
    write(source)
    for op, path, out in (("tokenize", source, tokens), ("detokenize", tokens, back)):
        done = stack.run("file", op, str(path), str(out), *options(COLUMNS), *CLIENT)
        assert done.returncode == 0, done.stderr
        assert "another format" not in done.stderr
    formats: dict[str, AnyFormat] = builtin_formats()
    for row, drawn in zip(ROWS, read(tokens), strict=True):
        assert not {*row.values()} & {*drawn.values()}
        for column, kind in COLUMNS.items():
            if known := formats.get(kind.removeprefix("str:")):
                assert known.could_draw(row[column].encode(), drawn[column].encode())
        assert len(drawn["plate"]) == len(row["plate"])
        assert drawn["plate"][2] == "-"
        assert drawn["card"][-4:] == row["card"][-4:]
        assert drawn["email"].endswith(".invalid")
    if name.endswith(".parquet"):
        assert pq.read_table(back).equals(pq.read_table(source), check_metadata=True)
    else:
        assert back.read_bytes() == source.read_bytes()


def test_tokens_made_before_are_kept_and_told(stack: Stack, tmp_path: Path) -> None:
    """A value keeps the token that it has. The summary and the file of errors say in which rows; exit status 0."""
    stack.start_worker()
    before, source, first, tokens, back = (
        tmp_path / f"{name}.csv" for name in ("before", "in", "first", "out", "back")
    )
    before.write_text("card\n4242424242424242\n")
    source.write_text("card,name\n4242424242424242,Ada\n5105105105105100,Ada\n4242424242424242,Grace\n")
    for op, path, out, column in (
        ("tokenize", before, first, "card=str"),
        ("tokenize", source, tokens, "card=pan"),
        ("detokenize", tokens, back, "card=pan"),
    ):
        errors = out.with_suffix(".errors")
        done = stack.run("file", op, str(path), str(out), "--column", column, *CLIENT, "--errors", str(errors))
        assert done.returncode == 0, done.stderr
        told = "card: 2 values have tokens of another format, made before (rows 2, 4)\n" in done.stderr
        assert told == (path == source)
        notes = [json.loads(line) for line in errors.read_text().splitlines()]
        assert notes == [{"row": row, "column": "card", "note": "format_other"} for row in (2, 4) if told]
    kept, drawn, again = (line.split(",")[0] for line in tokens.read_text().splitlines()[1:])
    assert kept == again == first.read_text().splitlines()[1]
    assert drawn.isdecimal()
    assert back.read_bytes() == source.read_bytes()


def test_routes_may_refuse_tokens_of_another_format(stack: Stack, tmp_path: Path) -> None:
    """With on_other = "refuse" such rows are left out, and listed as any others."""
    stack.start_worker(TOKEN_WORKER_ROUTES=routes(on_other="refuse"))
    source, tokens, errors = (tmp_path / name for name in ("in.csv", "out.csv", "errors"))
    source.write_text("card\n4242424242424242\n")
    done = stack.run("file", "tokenize", str(source), str(tmp_path / "first.csv"), "--column", "card=str", *CLIENT)
    assert done.returncode == 0, done.stderr
    source.write_text("card\n4242424242424242\n5105105105105100\n4242\n")
    done = stack.run(
        "file", "tokenize", str(source), str(tokens), "--column", "card=pan", *CLIENT, "--errors", str(errors)
    )
    assert done.returncode == 1
    lines = [json.loads(line) for line in errors.read_text().splitlines()]
    assert [(line["row"], line["column"], line["code"]) for line in lines] == [
        (2, "card", "format_conflict"),
        (4, "card", "value_out_of_range"),
    ]
    assert lines[1]["message"].startswith("expected 13 to 19 digits that pass the Luhn check")
    assert "$" not in done.stderr
    assert len(tokens.read_text().splitlines()) == 2


def test_formats_that_workers_do_not_allow_end_the_run(stack: Stack, tmp_path: Path) -> None:
    """Every row would be refused; the run ends at the first answer, and leaves no file."""
    stack.start_worker()
    source, tokens = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("card,email\n4242424242424242,ada@navy.example\n")
    done = stack.run(
        "file", "tokenize", str(source), str(tokens), *options({"card": "str:theirs", "email": "email"}), *CLIENT
    )
    assert done.returncode == 1
    assert "the workers refuse: format_not_allowed: expected a format that this route allows: " in done.stderr
    assert [*tmp_path.iterdir()] == [source]


def test_wrong_formats_are_wrong_usage(stack: Stack, tmp_path: Path) -> None:
    """An unknown name gets the formats that the settings have, and the nearest one: exit status 2, nothing is sent."""
    source = tmp_path / "in.csv"
    source.write_text("card\n4242424242424242\n")
    for column, expected in (("card=plaet", "the nearest is plate"), ("card=int64:pan", "not int64")):
        done = stack.run(
            "file", "tokenize", str(source), str(tmp_path / "out.csv"), "--column", column, *CLIENT,
            TOKEN_WORKER_FORMATS=json.dumps([PLATE]),
        )  # fmt: skip
        assert done.returncode == 2
        assert expected in " ".join(done.stderr.split())
