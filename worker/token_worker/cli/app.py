"""All commands under one name, and the exit status for each kind of error."""

import errno
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from token_worker import __version__, interrupts
from token_worker.cli.groups import NearestGroup
from token_worker.errors import (
    CheckFailed,
    LoginRefused,
    OperatorError,
    ServerError,
    SettingsError,
    TokenWorkerError,
    Unavailable,
)
from token_worker.telemetry import logs

EXIT_USAGE_OR_SETTINGS = 2
EXIT_OUT_OF_REACH = 3

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Errors of a standard output that takes no more."""

_CONFIG = click.Path(exists=True, dir_okay=False, path_type=Path)


_OPERATORS = "token-operator"
_USERS = {
    "dead-letters": _OPERATORS,
    "file": "client-…",
    "keys": _OPERATORS,
    "lag": "token-monitor",
    "replay": _OPERATORS,
    "request": "client-…",
    "tokens": _OPERATORS,
}
"""The Redis user, as ``token-worker acl`` names it, that has the rights for a command."""


class _Commands(NearestGroup):
    """The commands. The module of a command is imported only if the command runs: a worker loads no other command."""

    NAMES = (
        "acl",
        "dead-letters",
        "deploy-files",
        "doctor",
        "file",
        "keys",
        "lag",
        "monitor",
        "replay",
        "request",
        "run",
        "schemas",
        "tokens",
    )

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(self.NAMES)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in self.NAMES:
            return None
        module = name.replace("-", "_")
        command: click.Command = getattr(import_module(f"token_worker.cli.{module}"), module)
        interrupts.restore()
        return command

    def invoke(self, context: click.Context) -> Any:
        """Run the command. An error that a right is missing names the user who has it."""
        try:
            return super().invoke(context)
        except (Unavailable, ServerError) as error:
            reason = error.reason if isinstance(error, Unavailable) else error.code
            user = _USERS.get(context.invoked_subcommand or "")
            if reason.rpartition(" ")[2] != "NOPERM" or user is None:
                raise
            text = f"{error}: run this as the Redis user {user}, with the rights that `token-worker acl` prints"
            raise SettingsError(text) from None
        except click.NoSuchOption as error:
            if error.option_name != "--config":
                raise
            text = "--config stands before the command: token-worker --config FILE COMMAND"
            raise click.UsageError(text, error.ctx) from None


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 110},
)
@click.option("--config", type=_CONFIG, help="TOML file of settings; environment variables win over it.")
@click.version_option(__version__, prog_name="token-worker")
@click.pass_context
def app(context: click.Context, config: Path | None) -> None:
    """Tokenize and detokenize over Redis Streams, on the key and token storage of Acra."""
    context.obj = config


def main() -> None:
    """Run a command, and turn expected errors into an exit status."""
    logs.configure("warning", "console" if sys.stderr.isatty() else "json")  # first: no traceback may show local values
    try:
        _run()
    except LoginRefused as error:
        _say(f"{error}: check the user and the password (TOKEN_WORKER_{error.server.upper()}_URL, …_PASSWORD_FILE)")
        sys.exit(EXIT_USAGE_OR_SETTINGS)
    except Unavailable as error:
        _say(f"out of reach: {error}")
        sys.exit(EXIT_OUT_OF_REACH)
    except CheckFailed as finding:
        _say(str(finding))
        sys.exit(1)
    except (OperatorError, TokenWorkerError) as error:
        _say(str(error))
        sys.exit(EXIT_USAGE_OR_SETTINGS)
    except BrokenPipeError:  # the reader has closed the pipe
        _drop_output()
        sys.exit(1)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        _drop_output()
        _say(f"standard output: {error.strerror}")
        sys.exit(1)


def _run() -> None:
    try:
        app(prog_name="token-worker")
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()  # not at the end of the process, where an error has neither words nor exit status


def _drop_output() -> None:
    """Let what could not be written go, so that the end of the process does not try to write it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(text: str) -> None:
    Console(stderr=True, soft_wrap=True).print(text, style="red", markup=False, highlight=False)
