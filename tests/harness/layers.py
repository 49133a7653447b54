"""Check the layers of the package. import-linter itself cannot be started by ``python -m``."""

from importlinter.cli import lint_imports_command

if __name__ == "__main__":
    lint_imports_command(["--no-cache", "--no-logo"])
