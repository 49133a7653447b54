"""The command ``token-worker``. Each command is thin: it reads settings, calls the package, and prints the result.

Exit status: 0 success, 1 a finding, 2 wrong usage or settings, 3 a server is out of reach.
"""

from token_worker.cli.app import app, main

__all__ = ["app", "main"]
