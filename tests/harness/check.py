"""Check single files within seconds: lint, spelling, types, and the tests that belong to the files.

A test belongs to a file if it stands at the mirrored place: ``unit/streams/test_delivery*.py`` for
``streams/delivery.py``. So does a unit test that uses the file: it imports the module or, for other files, has the name
of the file in its text. Tests in the folder of a test tool count as unit tests of that tool. If no such test exists,
the tests of the modules that use the file belong to it, and so on.

Types are checked for the whole tree, since an edit can break a module far away. mypy has a cache and needs a second.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

MANY_FILES = 4
"""Test files above which two processes are faster than one."""

_FROM = re.compile(r"^[ \t]*from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)", re.MULTILINE)
_IMPORT = re.compile(r"^[ \t]*import[ \t]+([\w., \t]+)", re.MULTILINE)


def imported(source: str) -> set[str]:
    """Names of all modules that a source may import; ``from a import b`` gives ``a`` and ``a.b``."""
    found: set[str] = set()
    for module, names in _FROM.findall(source):
        without_comments = re.sub(r"#.*", "", names).strip("()\n ")
        found |= {module, *(f"{module}.{name.split()[0]}" for name in without_comments.split(",") if name.strip())}
    for names in _IMPORT.findall(source):
        found |= {name.split()[0] for name in names.split(",") if name.strip()}
    return found


class Project:
    """The sources of a project, and which of them use which.

    Args:
        root: the folder with ``worker`` and ``tests``.
        paths: folders whose modules are imported without a prefix, relative to the root.
    """

    def __init__(self, root: Path, paths: Iterable[str]) -> None:
        self._root = root
        self._paths = [root / path for path in paths]
        self._texts = {file: file.read_text() for path in self._paths for file in path.rglob("*.py")}
        self._imports = {file: imported(text) for file, text in self._texts.items()}

    def tests_of(self, file: Path) -> list[Path]:
        """The tests that belong to a file, or to the nearest modules that use it."""
        if file.name.startswith("test_") and file.suffix == ".py":
            return [file] if file.exists() else []
        reached = files = {file}
        while files:
            tests = {test for file in files for test in self._mirrored(file)}
            tests |= {user for file in files for user in self._users(file) if self._is_unit_test(user, of=file)}
            if tests:
                return sorted(tests)
            users = {user for file in files for user in self._users(file) if not user.name.startswith("test_")}
            files, reached = users - reached, reached | users
        return []

    def _is_unit_test(self, user: Path, *, of: Path) -> bool:
        is_near = user.parent == of.parent or (self._root / "tests" / "unit") in user.parents
        return is_near and user.name.startswith("test_")

    def _mirrored(self, file: Path) -> Iterator[Path]:
        package = self._root / "worker" / "token_worker"
        if package in file.parents:
            room = self._root / "tests" / "unit" / file.parent.relative_to(package)
            yield from (test for test in room.glob(f"test_{file.stem}*.py") if test in self._texts)

    def _users(self, file: Path) -> set[Path]:
        if file.suffix == ".py":
            modules = set(self._modules(file))
            return {user for user, names in self._imports.items() if names & modules}
        if file.suffix == ".md":
            return self._readers(file)
        return {user for user, text in self._texts.items() if f'{file.name}"' in text}

    def _readers(self, page: Path) -> set[Path]:
        """Sources that name a page or its folder, and those that use the test tools among them."""
        names = [f'{page.name}"'] if page.parent == self._root else [f'{page.name}"', f'"{page.parent.name}"']
        readers = {user for user, text in self._texts.items() if any(name in text for name in names)}
        tools = {reader for reader in readers if not reader.name.startswith("test_")}
        return readers.union(*(self._users(tool) for tool in tools))

    def _modules(self, file: Path) -> Iterator[str]:
        """The names by which a source can be imported."""
        for path in self._paths:
            if path in file.parents:
                parts = file.relative_to(path).with_suffix("").parts
                yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def changed() -> list[Path]:
    """Files that differ from the main branch, with those that git does not know yet."""
    for branch in ("origin/main", "main", "HEAD"):
        base = _git("merge-base", "HEAD", branch)
        if base:
            break
    names = _git("diff", "--name-only", *base) + _git("ls-files", "--others", "--exclude-standard")
    return [ROOT / name for name in names]


def _git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []


def main(arguments: list[str] | None = None) -> int:
    """Check the files that are named on the command line, or the changed ones."""
    parser = argparse.ArgumentParser(
        prog="scripts/check", description="Lint, spelling, types and tests of single files."
    )
    parser.add_argument("files", nargs="*", type=Path, help="default: all files that differ from the main branch")
    named = [file.resolve() for file in parser.parse_args(arguments).files]
    missing = [str(file) for file in named if not file.exists()]
    if missing:
        parser.error(f"no such file: {', '.join(missing)}")
    files = named or changed()
    if not files:
        print("No file differs from the main branch.")
        return 0
    pythonpath = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["pythonpath"]
    project = Project(ROOT, dict.fromkeys(["worker", *pythonpath]))
    tests = sorted({test for file in files for test in project.tests_of(file)})
    with subprocess.Popen(
        [sys.executable, "-m", "mypy"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as types:  # beside the tests
        results = [_run(command) for command in _commands([file for file in files if file.exists()], tests)]
        said, _ = types.communicate()
    print(f"\n$ mypy\n{said.strip()}")
    if not tests:
        print("No unit test belongs to these files: scripts/test runs the integration tests.")
    return int(any(results) or types.returncode != 0)


def _commands(files: list[Path], tests: list[Path]) -> Iterator[list[str]]:
    sources = [str(file.relative_to(ROOT)) for file in files if file.suffix == ".py"]
    if sources:
        yield ["ruff", "check", *sources]
        yield ["ruff", "format", "--check", *sources]
    if files:
        yield ["codespell_lib", *(str(file.relative_to(ROOT)) for file in files)]
    if any(file.is_relative_to(ROOT / "worker" / "token_worker") for file in files):
        yield ["harness.layers"]
    if tests:
        processes = ["--numprocesses=2"] if len(tests) > MANY_FILES else []
        yield ["pytest", "-q", *processes, *(str(test.relative_to(ROOT)) for test in tests)]


def _run(command: list[str]) -> int:
    print(f"\n$ {' '.join(command)}", flush=True)
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
