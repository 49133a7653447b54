"""The entry point: ``token-worker``, and ``python -m token_worker``."""

import sys

from token_worker import interrupts


def main() -> None:
    """Run a command, once it is imported."""
    interrupts.exit_quietly()
    interrupts.obey_sigterm()
    try:
        from token_worker.cli import main as run  # noqa: PLC0415 - takes a while
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("token_worker"):
            raise
        missing = f"the package {error.name} is missing"
        print(f"token-worker: {missing}; commands need all dependencies: pip install token-worker", file=sys.stderr)  # noqa: T201
        sys.exit(2)

    run()


if __name__ == "__main__":
    main()
