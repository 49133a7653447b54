"""``python -m token_worker`` is ``token-worker``."""

from token_worker.cli import main

if __name__ == "__main__":
    main()
