"""``token-worker run``: one worker process."""

import os
from pathlib import Path

import click

from token_worker import settings as settings_module
from token_worker.service.start import serve
from token_worker.telemetry import logs


@click.command(
    # \b keeps click from breaking the line: an example is there to be pasted
    epilog="\b\nExample: "
    "ACRA_MASTER_KEY_FILE=/run/secrets/master TOKEN_WORKER_KEYS_URL=redis://keys:6379 token-worker run"
)
@click.pass_obj
def run(config: Path | None) -> None:
    """Serve the routes until SIGTERM or SIGINT; then finish the batch in hand.

    Waits for servers that are away, and says which. Start as many of these as the load needs.
    """
    settings = settings_module.load(os.environ, config)
    logs.configure(settings.log_level, settings.log_format)
    serve(settings)
