"""The command ``token-worker``. Each command is thin: it reads settings, calls the package, and says what came of it.

Exit status: 0 fine, 1 a finding, 2 wrong usage or settings, 3 a server is out of reach.
"""

from token_worker.cli.app import app, main

__all__ = ["app", "main"]
