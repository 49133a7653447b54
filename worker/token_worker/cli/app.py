"""All commands under one name, and how errors become an exit status."""

import os
import sys
from pathlib import Path

import click
from rich.console import Console

from token_worker import __version__
from token_worker.cli.acl import acl
from token_worker.cli.dead_letters import dead_letters
from token_worker.cli.doctor import doctor
from token_worker.cli.keys import keys
from token_worker.cli.lag import lag
from token_worker.cli.replay import replay
from token_worker.cli.request import request
from token_worker.cli.run import run
from token_worker.cli.schemas import schemas
from token_worker.cli.tokens import tokens
from token_worker.errors import Finding, GiveUp, TokenWorkerError, Unavailable
from token_worker.telemetry import logs

USAGE_OR_SETTINGS = 2
OUT_OF_REACH = 3

_CONFIG = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 110})
@click.option("--config", type=_CONFIG, help="TOML file of settings; environment variables win over it.")
@click.version_option(__version__, prog_name="token-worker")
@click.pass_context
def app(context: click.Context, config: Path | None) -> None:
    """Tokenize and detokenize over Redis Streams, on the key and token storage of Acra."""
    context.obj = config


for command in (run, request, lag, replay, dead_letters, keys, tokens, acl, doctor, schemas):
    app.add_command(command)


def main() -> None:
    """Entry point: runs a command and turns errors that are not the program's into an exit status."""
    logs.configure("warning", "console" if sys.stderr.isatty() else "json")  # first of all: nothing may print locals
    try:
        app(prog_name="token-worker")
    except Unavailable as error:
        _say(f"out of reach: {error}")
        sys.exit(OUT_OF_REACH)
    except Finding as finding:
        _say(str(finding))
        sys.exit(1)
    except (GiveUp, TokenWorkerError) as error:
        _say(str(error))
        sys.exit(USAGE_OR_SETTINGS)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has seen enough
        sys.exit(1)


def _say(text: str) -> None:
    Console(stderr=True, soft_wrap=True).print(text, style="red", markup=False, highlight=False)
