"""The main job, end to end, on real servers: records in, tokens out, and back again.

Starts Valkey twice (streams; keys and tokens) and OpenBao (the master key), two workers that log in to it by AppRole
with a policy for that one secret, and takes records through them. Exits 0 only if everything held;
it stops everything that it started.
"""

import base64
import filecmp
import json
import random
import re
import secrets
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import click
from redis import ResponseError
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from harness.ending import end_by_signals
from harness.servers import DEPLOY_FILES, OpenBao, Valkey
from harness.stack import Reply, Stack, wait_until
from token_worker.cli.file_columns import read_kind
from token_worker.contract.messages import Op
from token_worker.errors import CheckFailed, OperatorError
from token_worker.files.columns import Column
from token_worker.files.inputs import FORMATS_BY_ENDING, Input, open_input
from token_worker.files.progress import JobOptions
from token_worker.tokens.formats import builtin_formats
from token_worker.tokens.formats.pan import luhn_sum

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors" / "acra-types.json"
POLICY = DEPLOY_FILES / "vault" / "master-key-only.hcl"
CLIENT = "demo-client"
WORKERS = 2

console = Console()


CUSTOMER = (
    Column("id", "str", "uuid"),
    Column("name", "str", "letters"),
    Column("born", "str", "date"),
    Column("email", "email", "email-safe"),
    Column("phone", "str", "phone"),
    Column("card", "str", "pan"),
    Column("iban", "str", "iban"),
    Column("login", "str"),
    Column("account", "int64"),
    Column("key", "bytes"),
)
Record = tuple[Any, ...]


class Check:
    """The checks of the demo, printed one by one."""

    def __init__(self) -> None:
        self.failed = 0

    def that(self, *, holds: bool, what: str) -> None:
        """Print a line; a check that does not hold makes the demo fail."""
        self.failed += not holds
        console.print(f"  [green]✓[/] {what}" if holds else f"  [red]✗ {what}[/]")


def customers(count: int) -> list[Record]:
    """Made-up customer records, the same ones each time."""
    rng = random.Random(20_26)
    first = ("Ada", "Grace", "Alan", "Barbara", "Edsger", "Frances", "Jürgen", "Zoë", "Ludwika", "Søren")
    last = ("Lovelace", "Hopper", "Turing", "Liskov", "Dijkstra", "Allen", "Müller", "Łukasz", "Ørsted", "Nightingale")
    records: list[Record] = []
    for number in range(count):
        name = f"{rng.choice(first)} {rng.choice(last)}"
        born = str(date(1930, 1, 1) + timedelta(rng.randrange(30_000)))
        email = f"user{number}@mail{rng.randrange(100)}.example"
        phone = f"+1 415 555 {rng.randrange(10**4):04}"
        card = with_check_digit(f"4242{rng.randrange(10**11):011}")
        iban = with_check_digits("DE", f"{rng.randrange(10**18):018}")
        account = str(rng.randrange(-(2**63), 2**63))
        key = base64.b64encode(rng.randbytes(12)).decode()
        records.append((str(UUID(int=rng.getrandbits(128), version=4)), name, born, email, phone, card, iban,
                        f"user-{number}", account, key))  # fmt: skip
    return records


def with_check_digit(digits: str) -> str:
    """Return a card number in groups of four digits, with the check digit at its end."""
    last = next(last for last in "0123456789" if not luhn_sum((digits + last).encode()))
    return " ".join(re.findall("....", digits + last))


def with_check_digits(country: str, account: str) -> str:
    """Return an IBAN: ISO 7064's check digits between country and account."""
    number = "".join(str(int(char, 36)) for char in f"{account}{country}00")
    return f"{country}{98 - int(number) % 97:02}{account}"


def wrong(expected: Sequence[Record], got: Sequence[Record]) -> list[int]:
    """Numbers of the records that differ from the expected ones."""
    pairs = zip(expected, got, strict=True)
    return [number for number, (should, is_) in enumerate(pairs) if tuple(should) != tuple(is_)]


def send(stack: Stack, op: str, columns: Sequence[Column], records: Sequence[Record], what: str) -> list[Reply]:
    """Send one request for each record, with one item for each column; the replies in the order of the records."""
    run = secrets.token_hex(4)
    messages: list[dict[str, Any]] = [
        {
            "id": f"{run}-{number}",
            "op": op,
            "client_id": CLIENT,
            "items": [item(column, value) for column, value in zip(columns, record, strict=True)],
        }
        for number, record in enumerate(records)
    ]
    bar = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*bar, console=console) as progress:
        task = progress.add_task(what, total=len(messages))
        replies = stack.ask(messages, op, lambda count: progress.update(task, completed=count))
    return [replies[message["id"]] for message in messages]


def item(column: Column, value: Any) -> dict[str, Any]:
    """An item of a request. The format has no effect on detokenize."""
    return {"type": column.type, "value": value, **({"format": column.format} if column.format else {})}


def values(replies: Iterable[Reply]) -> list[Record]:
    """Tokens or values of whole replies; None for an error."""
    return [tuple(item.get("value") for item in reply.get("items", [])) for reply in replies]


def refusals(columns: Sequence[Column], replies: Iterable[Reply]) -> Iterator[str]:
    """Print the values that workers refused, by record and column."""
    for number, reply in enumerate(replies, 1):
        if "error" in reply:
            yield f"record {number}: {reply['error']['code']}: {reply['error']['message']}"
        for column, item in zip(columns, reply.get("items", []), strict=False):
            if "error" in item:
                yield f"record {number}, column {column.name}: {item['error']['code']}: {item['error']['message']}"


def show(columns: Sequence[Column], before: Sequence[Record], after: Sequence[Record]) -> None:
    """Each value of two records, and its token on the next line: so 80 columns hold both without a cut."""
    table = Table("column", "type or format", box=box.SIMPLE)
    table.add_column("value, and its token", overflow="fold")
    for record, tokens in list(zip(before, after, strict=True))[:2]:
        for number, (column, value, token) in enumerate(zip(columns, record, tokens, strict=True), 1):
            kind = column.format or column.type
            values_shown = f"{escape(str(value))}\n[cyan]{escape(str(token))}[/]"
            table.add_row(escape(column.name), kind, values_shown, end_section=number == len(columns))
    console.print(table)


@contextmanager
def running(acra: dict[str, Any]) -> Iterator[Stack]:
    """Servers, the client's key, and two workers."""
    with Valkey() as streams, Valkey() as storage, OpenBao() as bao:
        console.print(
            f"  Valkey on ports {streams.port} (streams) and {storage.port} (keys, tokens), OpenBao on {bao.port}"
        )
        settings = bao.admit_workers(POLICY, acra["master_key"])
        with Stack(streams, storage, settings=settings, fresh=True) as stack:
            stack.settings.pop("ACRA_MASTER_KEY")  # it comes from Vault
            for words in (("tokens", "layout", "dense"), ("keys", "generate", CLIENT)):
                command = [sys.executable, "-m", "token_worker", *words]
                subprocess.run(command, env=stack.environment(), check=True, stdout=subprocess.DEVNULL)
            stack.restrict(streams.folder / "passwords")
            for _ in range(WORKERS):
                stack.start_worker(log=streams.folder / "workers.log")
            wait_until(lambda: len(consumers(stack)) == WORKERS, "the workers")
            console.print(
                f"  {WORKERS} workers, logged in to OpenBao by AppRole, with the rights of `token-worker acl`;"
                " tokens have the dense layout"
            )
            yield stack


def consumers(stack: Stack) -> set[bytes]:
    """Workers that have asked for requests."""
    try:
        found = stack.streams.xinfo_consumers("tokenize:requests", "token-workers")
    except ResponseError:  # no worker has made the group yet
        return set()
    return {consumer["name"] for consumer in found}


def take_through(stack: Stack, check: Check, records: Sequence[Record]) -> None:
    """Tokenize, detokenize, and tokenize again."""
    replies = send(stack, "tokenize", CUSTOMER, records, "tokenize")
    problems = list(refusals(CUSTOMER, replies))
    for problem in problems[:10]:
        console.print(f"  [red]{problem}[/]", highlight=False)
    check.that(holds=not problems, what=f"{len(records):,} records of {len(CUSTOMER)} values tokenized")
    if problems:
        return
    tokens = values(replies)
    show(CUSTOMER, records, tokens)
    back = values(send(stack, "detokenize", CUSTOMER, tokens, "detokenize"))
    check.that(holds=not wrong(records, back), what="every token gave its value back")
    again = values(send(stack, "tokenize", CUSTOMER, records, "again"))
    check.that(holds=not wrong(tokens, again), what="the same records sent again got the same tokens")


@contextmanager
def beside_acra(stack: Stack) -> Iterator[Stack]:
    """Servers and a worker of their own, with the same master key: tokens in Acra's layout need a storage for them."""
    same = {name: value for name, value in stack.settings.items() if not name.endswith(("_URL", "_PASSWORD_FILE"))}
    with Valkey() as streams, Valkey() as storage, Stack(streams, storage, settings=same, fresh=True) as other:
        other.settings.pop("ACRA_MASTER_KEY")
        yield other


def turn_acras_back(stack: Stack, check: Check, acra: dict[str, Any]) -> None:
    """Load what the real AcraTranslator wrote into a storage; its tokens and its values are known."""
    stack.start_worker()
    for name, value in acra["redis"].items():
        stack.storage.set(name, value)
    cases = [{**case, "id": str(number)} for number, case in enumerate(acra["cases"])]
    common = [{"id": case["id"], "client_id": case["client_id"], "type": case["type"]} for case in cases]
    back = stack.ask(
        [{**c, "op": "detokenize", "value": case["token"]} for c, case in zip(common, cases, strict=True)], "detokenize"
    )
    found = stack.ask([{**c, "op": "tokenize", "value": case["value"]} for c, case in zip(common, cases, strict=True)])
    ok = all(str(back[case["id"]].get("value")) == str(case["value"]) for case in cases)
    check.that(holds=ok, what=f"{len(cases)} tokens that AcraTranslator made gave their values back")
    ok = all(str(found[case["id"]].get("value")) == str(case["token"]) for case in cases)
    check.that(holds=ok, what=f"{len(cases)} values that AcraTranslator tokenized got its tokens")


def explain(stack: Stack) -> None:
    """Commands to use the running demo with: each line can be pasted into a shell."""
    streams = stack.settings["TOKEN_WORKER_STREAMS_URL"]
    port = streams.rsplit(":", 1)[1].split("/")[0]
    payload = json.dumps(
        {
            "id": "1",
            "op": "tokenize",
            "client_id": CLIENT,
            "type": "str",
            "format": "pan",
            "value": "4242 4242 4242 4242",
        }
    )
    connect = f"import json, redis; r = redis.Redis(port={port});"
    paragraphs = {
        "Servers and workers are running until Ctrl-C. In another terminal, from this folder:": (
            f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH TOKEN_WORKER_STREAMS_URL={streams}",
            f"echo -n grace@navy.example | token-worker request tokenize --type email --client {CLIENT}",
        ),
        "A request to the stream, and the newest reply:": (
            f"redis-cli -p {port} XADD tokenize:requests '*' payload '{payload}'",
            f"redis-cli -p {port} XREVRANGE tokenize:responses + - COUNT 1",
        ),
        "The same without redis-cli:": (
            f"""python -c '{connect} print(r.xadd("tokenize:requests", {{"payload": json.dumps({payload})}}))'""",
            f"""python -c '{connect} print(r.xrevrange("tokenize:responses", count=1))'""",
        ),
        "What a worker of your own needs:": [
            f"export {name}={shlex.quote(value)}" for name, value in stack.settings.items()
        ],
    }
    for heading, lines in paragraphs.items():
        console.print(f"\n{heading}\n", highlight=False)
        for line in lines:
            console.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)
    console.print()


def read_columns(text: str) -> list[Column]:
    """``email:email,card:pan`` as columns."""
    columns = []
    for part in text.split(","):
        name, _, kind = part.strip().rpartition(":")
        try:
            columns.append(Column(name, *read_kind(kind, builtin_formats())))
        except ValueError as error:
            raise click.BadParameter(f"expected NAME:TYPE or NAME:FORMAT; {error}", param_hint="--columns") from None
    return columns


@contextmanager
def looked_at(file: Path, columns: Sequence[Column]) -> Iterator[Input]:
    """A file as ``token-worker file`` sees it."""
    options = JobOptions(op=Op.TOKENIZE, columns=tuple(columns), format=form_of(file))
    with file.open("rb") as source:
        yield open_input(options, source, again=True)


def form_of(file: Path) -> str:
    """The format of a file by its name; CSV by default."""
    return FORMATS_BY_ENDING.get(file.suffix.lower(), "csv")


def count_rows(file: Path, columns: Sequence[Column]) -> int:
    """Count the rows with values.

    Raises:
        click.BadParameter: the file cannot be read as rows with these columns.
    """
    try:
        with looked_at(file, columns) as source:
            chunks = source.chunks(columns, source.head.offset, source.head.rows, dedupe=True)
            rows = sum(chunk.rows - chunk.blank for chunk in chunks)
    except (OperatorError, CheckFailed) as error:
        raise click.BadParameter(f"{file.name}: {error}", param_hint="--csv, --columns") from None
    if not rows:
        raise click.BadParameter(f"{file.name} has no records", param_hint="--csv")
    return rows


def first_records(file: Path, columns: Sequence[Column]) -> list[Record]:
    """Some rows of a file, the given columns of each."""
    with looked_at(file, columns) as source:
        samples = source.sample()
        return list(zip(*(samples[column.name].values for column in columns), strict=True))[:3]


def take_file_through(stack: Stack, check: Check, columns: Sequence[Column], file: Path, rows: int) -> None:
    """Tokenize and detokenize a file with ``token-worker file``."""
    with TemporaryDirectory() as folder:
        tokens, back, again, errors = (Path(folder) / f"{name}{file.suffix}" for name in ("t", "b", "a", "errors"))
        do_file(stack, "tokenize", file, tokens, columns, errors)
        lines = errors.read_text().splitlines() if errors.exists() else []
        problems = [line for line in map(json.loads, lines) if "code" in line]
        for problem in problems[:10]:
            place = f"row {problem['row']}" + (f", column {problem['column']}" if problem["column"] else "")
            console.print(f"  [red]{place}: {problem['code']}: {problem['message']}[/]", highlight=False)
        done = tokens.exists() and not problems
        check.that(holds=done, what=f"{rows:,} records of {len(columns)} values tokenized")
        if not done:
            return
        show(columns, first_records(file, columns), first_records(tokens, columns))
        do_file(stack, "detokenize", tokens, back, columns)
        check.that(holds=same(file, back), what="every token gave its value back")
        do_file(stack, "tokenize", file, again, columns)
        check.that(holds=same(tokens, again), what="the same records sent again got the same tokens")


def same(one: Path, other: Path) -> bool:
    """Tell whether two files have the same content; a failed run leaves no file. Parquet may have other bytes."""
    if not other.exists():
        return False
    if form_of(one) == "parquet":
        from pyarrow import parquet  # may not be installed

        return bool(parquet.read_table(one).equals(parquet.read_table(other)))
    return filecmp.cmp(one, other, shallow=False)


def do_file(
    stack: Stack, op: str, source: Path, out: Path, columns: Sequence[Column], errors: Path | None = None
) -> None:
    """Run ``token-worker file``; its output goes to the terminal."""
    options = [option for column in columns for option in ("--column", f"{column.name}={column.format or column.type}")]
    options += ["--client", CLIENT, "--format", form_of(source), *(("--errors", str(errors)) if errors else ())]
    command = [sys.executable, "-m", "token_worker", "file", op, str(source), str(out), *options]
    subprocess.run(command, env=stack.environment(), check=False, stdin=subprocess.DEVNULL)


@click.command(context_settings={"show_default": True})
@click.option("--records", type=click.IntRange(1, 1_000_000), default=5000, help="How many records to make up.")
@click.option(
    "--csv", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Take a file's records."
)
@click.option(
    "--columns", help="Columns of the file, and their types or formats: email:email,card:pan (bytes are base64)."
)
@click.option("--keep", is_flag=True, help="Leave servers and workers running until Ctrl-C.")
def demo(records: int, file: Path | None, columns: str | None, *, keep: bool) -> None:
    """Take records through real servers and real workers, tokenized and back."""
    if (file is None) != (columns is None):
        raise click.UsageError("--csv and --columns belong together")
    chosen = read_columns(columns) if columns else list(CUSTOMER)
    rows = count_rows(file, chosen) if file else 0
    acra = json.loads(VECTORS.read_text())
    check = Check()
    console.print("[bold]Starting servers and workers[/]")
    with running(acra) as stack:
        console.print("  The master key in OpenBao is the one that Acra's data below was written with.")
        console.print("[bold]Records[/]")
        if file:
            take_file_through(stack, check, chosen, file, rows)
        else:
            take_through(stack, check, customers(records))
        console.print("[bold]What Acra wrote[/], in Acra's layout, with a worker and servers of its own")
        with beside_acra(stack) as other:
            turn_acras_back(other, check, acra)
        if keep:
            explain(stack)
            signal.pause()
    if check.failed:
        console.print(f"[red]{check.failed} of the checks failed[/]")
        raise SystemExit(1)
    console.print("[green]All of it held.[/]")


if __name__ == "__main__":
    end_by_signals()
    demo(prog_name="scripts/demo")
