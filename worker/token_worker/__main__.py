"""The entry point: ``token-worker``, and ``python -m token_worker``."""

from token_worker import interrupts


def main() -> None:
    """Run a command, once it is imported."""
    interrupts.begin()
    from token_worker.cli import main as run  # noqa: PLC0415 - takes a while

    run()


if __name__ == "__main__":
    main()
