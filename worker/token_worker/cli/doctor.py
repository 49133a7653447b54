"""``token-worker doctor``: check servers, keys and routes in one command."""

import os
from pathlib import Path

import click
import msgspec
from rich import box
from rich.table import Table

from token_worker.admin.doctor import examine
from token_worker.cli.terminal import table_console
from token_worker.settings import load

_SIGNS = {"ok": "ok", "finding": "FINDING", "unknown": "unknown"}


@click.command(epilog="Example: token-worker doctor --json")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")
@click.pass_obj
def doctor(config: Path | None, *, as_json: bool) -> None:
    """Check servers, rights, keys and routes. Print what is wrong and what to do. The command changes nothing.

    Run it where a worker runs, with the worker's settings. Also run it once as an administrator of each server, those
    of streams, keys and tokens, to see who may detokenize, and what a worker's user may not look at.

    Exit status 1: there is a finding.
    """
    checks = []
    for check in examine(load(os.environ, config)):
        checks.append(check)
        if as_json:
            click.echo(msgspec.json.encode(check))
    if not as_json:
        table = Table("check", "", "what was found", "what to do", box=box.SIMPLE)
        for check in checks:
            table.add_row(check.check, _SIGNS[check.status], check.message, check.remedy)
        table_console().print(table)
    if any(check.status == "finding" for check in checks):
        raise SystemExit(1)
