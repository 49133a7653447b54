"""``token-worker run``: one worker process."""

import os
from pathlib import Path

import click

from token_worker.service.start import serve
from token_worker.settings import load
from token_worker.telemetry import logs


@click.command(
    # \b keeps click from wrapping the line, so that the example can be pasted
    epilog="\b\nExample: "
    "ACRA_MASTER_KEY_FILE=/run/secrets/master TOKEN_WORKER_KEYS_URL=redis://keys:6379 token-worker run"
)
@click.pass_obj
def run(config: Path | None) -> None:
    """Run one worker until SIGTERM or SIGINT. It then finishes its current batch.

    The worker waits for servers that are unavailable and logs which. Start as many workers as the load needs.
    """
    settings = load(os.environ, config)
    logs.configure(settings.log_level, settings.log_format)
    serve(settings)
