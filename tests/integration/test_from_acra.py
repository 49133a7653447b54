"""The guide for users of Acra holds: on data of the real binaries, with the commands that it names."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.direct import Vectors
from harness.servers import Valkey
from harness.stack import Stack


@pytest.fixture
def acra(streams_server: Valkey, storage_server: Valkey) -> Iterator[tuple[Stack, Vectors]]:
    """Keys and tokens that Acra wrote, and a worker beside them."""
    vectors = Vectors("acra-types")
    vectors.load(storage_server)
    with Stack(streams_server, storage_server, master_key=vectors.master_key) as stack:
        stack.start_worker()
        yield stack, vectors


def one_line(case: dict[str, Any]) -> bool:
    """Tell whether a shell and a plain CSV can hold the value and the token."""
    texts = [str(case[side]) for side in ("value", "token")]
    return all(text.isprintable() and text == text.strip() for text in texts)


def test_keys_of_acra_are_found_in_order(acra: tuple[Stack, Vectors]) -> None:
    """``keys verify`` opens every key with Acra's master key, and finds fault with another one."""
    stack, _ = acra
    assert stack.run("keys", "verify").returncode == 0
    assert stack.run("keys", "verify", ACRA_MASTER_KEY="A" * 43 + "=").returncode == 1


def test_token_of_acra_is_turned_back(acra: tuple[Stack, Vectors]) -> None:
    """``request detokenize`` gives the value of a token that Acra made, and ``tokenize`` that token."""
    stack, vectors = acra
    case = next(case for case in vectors.cases if case["type"] == "str" and "zone_id" not in case and one_line(case))
    options = ("--type", "str", "--client", case["client_id"])
    back = stack.run("request", "detokenize", *options, value=case["token"])
    again = stack.run("request", "tokenize", *options, value=case["value"])
    assert f'"value": "{case["value"]}"' in back.stdout
    assert f'"value": "{case["token"]}"' in again.stdout


def test_table_keeps_the_tokens_that_acra_made(acra: tuple[Stack, Vectors], tmp_path: Path) -> None:
    """A file of values gets Acra's tokens for those Acra has seen, new ones for others, and comes back as it was."""
    stack, vectors = acra
    kinds = {case["type"] for case in vectors.cases}
    assert kinds == {"int32", "int64", "str", "bytes", "email"}
    client = next(case["client_id"] for case in vectors.cases if "zone_id" not in case)
    for kind in sorted(kinds):
        cases = [
            case
            for case in vectors.cases
            if (case["type"], case.get("client_id"), case.get("zone_id")) == (kind, client, None) and one_line(case)
        ]
        assert cases, kind
        rows = [[str(number), str(case["value"])] for number, case in enumerate(cases)]
        if kind == "str":
            rows.append(["new", "a value that Acra has never seen"])
        file, tokens, back = (tmp_path / f"{kind}-{name}.csv" for name in ("values", "tokens", "back"))
        with file.open("w", newline="") as out:
            csv.writer(out).writerows([["number", "value"], *rows])
        options = ("--client", client, "--column", f"value={kind}")
        done = stack.run("file", "tokenize", str(file), str(tokens), *options)
        assert done.returncode == 0, kind
        written = [row[1] for row in csv.reader(io.StringIO(tokens.read_text()))][1:]
        assert [str(case["token"]) for case in cases] == written[: len(cases)]
        assert stack.run("file", "detokenize", str(tokens), str(back), *options).returncode == 0
        assert back.read_bytes() == file.read_bytes()


def test_what_differs_from_acra(acra: tuple[Stack, Vectors]) -> None:
    """A value that Acra passes through or cuts is a named error here."""
    stack, vectors = acra
    client = next(case["client_id"] for case in vectors.cases if "zone_id" not in case)
    for op, kind, value, code in (
        ("detokenize", "str", "no token of anybody", "token_not_found"),
        ("tokenize", "int32", str(2**31), "value_out_of_range"),
        ("tokenize", "email", "a@b.c", "invalid_email"),
    ):
        done = stack.run("request", op, "--type", kind, "--client", client, value=value)
        assert (done.returncode, f'"code": "{code}"' in done.stdout) == (1, True), code
