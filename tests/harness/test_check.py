"""``scripts/check`` finds the tests that belong to a file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from harness import check
from harness.check import Project, imported

FILES = {
    "worker/token_worker/streams/__init__.py": "",
    "worker/token_worker/streams/delivery.py": "from token_worker.streams import commit",
    "worker/token_worker/streams/commit.py": 'SCRIPT = Script("commit.lua")',
    "worker/token_worker/streams/commit.lua": "",
    "worker/token_worker/streams/alone.py": "",
    "worker/token_worker/streams/one.py": "from token_worker.streams.other import b",
    "worker/token_worker/streams/other.py": "from token_worker.streams.one import a",
    "tests/conftest.py": "import tool, token_worker.streams.alone",
    "tests/tool.py": "",
    "tests/unit/streams/test_delivery.py": "",
    "tests/unit/streams/test_delivery_take_over.py": "",
    "tests/unit/test_story.py": "from token_worker.streams.delivery import (\n    Delivery,\n)",
    "tests/unit/test_tool.py": "def test():\n    import tool",
    "tests/integration/test_all.py": "from token_worker.streams import alone, delivery",
    "tests/fuzz/damage.py": "",
    "tests/fuzz/test_damage.py": "from fuzz.damage import damage",
    "tests/unit/test_read_me.py": 'TEXT = (ROOT / "README.md").read_text()',
    "tests/pages.py": 'PAGES = (ROOT / "docs").glob("*.md")',
    "tests/unit/test_pages.py": "from pages import PAGES",
    "tests/unit/test_one_page.py": 'TEXT = (ROOT / "docs" / "page.md").read_text()',
    "README.md": "",
    "docs/page.md": "",
}

Find = Callable[[str], list[str]]


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """The names of the tests that belong to a file of a small project."""
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    project = Project(tmp_path, ["worker", "tests"])
    return lambda name: [str(test.relative_to(tmp_path / "tests")) for test in project.tests_of(tmp_path / name)]


def test_tests_at_the_mirrored_place_and_those_that_import_the_module(find: Find) -> None:
    """A module has the tests of its name and the unit tests that import it, but no integration test."""
    expected = ["unit/streams/test_delivery.py", "unit/streams/test_delivery_take_over.py", "unit/test_story.py"]
    assert find("worker/token_worker/streams/delivery.py") == expected


@pytest.mark.parametrize("name", ["commit.py", "commit.lua"])
def test_tests_of_the_nearest_user(find: Find, name: str) -> None:
    """A module or Lua file that no test imports has the tests of the modules that use it."""
    assert find(f"worker/token_worker/streams/{name}") == find("worker/token_worker/streams/delivery.py")


@pytest.mark.parametrize("name", ["alone.py", "one.py"])
def test_module_without_a_test_of_its_own_has_none(find: Find, name: str) -> None:
    """A module that only integration tests reach has no test here; modules that import each other end the search."""
    assert find(f"worker/token_worker/streams/{name}") == []


def test_a_test_belongs_to_itself(find: Find) -> None:
    """A test file is run, of whatever kind it is; one that was deleted is not."""
    assert find("tests/integration/test_all.py") == ["integration/test_all.py"]
    assert find("tests/integration/test_gone.py") == []


def test_tests_of_test_tools(find: Find) -> None:
    """A test tool has the unit tests that import it, and the tests in its own folder."""
    assert find("tests/tool.py") == ["unit/test_tool.py"]
    assert find("tests/fuzz/damage.py") == ["fuzz/test_damage.py"]


def test_tests_that_name_a_file(find: Find) -> None:
    """A page has the unit tests that name it or its folder, also by a test tool."""
    assert find("README.md") == ["unit/test_read_me.py"]
    assert find("docs/page.md") == ["unit/test_one_page.py", "unit/test_pages.py"]


def test_all_forms_of_imports_are_found() -> None:
    """Names are found one by one or in brackets, renamed or not, at the top or in a function."""
    lines = "import a.b, c as d", "from e import f as g, h", "from i import (", "    j,  # why, so", "    k as m,", ")"
    assert imported("\n".join([*lines, "if 1:", "    import n"])) == {
        "a.b",
        "c",
        "e",
        "e.f",
        "e.h",
        "i",
        "i.j",
        "i.k",
        "n",
    }


@pytest.mark.parametrize(
    ("source", "test", "expected"),
    [
        ("NUMBER: int = 1\n", "1", 0),
        ("NUMBER: int = 1 \n", "1", 1),
        ('NUMBER: int = "1"\n', '"1"', 1),
        ("NUMBER: int = 1\n", "2", 1),
    ],
    ids=["right", "lint", "types", "test"],
)
def test_exit_status_is_1_if_any_step_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, test: str, expected: int
) -> None:
    """The exit status is 1 if lint, types or a test of the file fail, and else 0."""
    settings = '[tool.mypy]\nfiles = ["worker"]\n[tool.ruff.lint]\nselect = ["W"]\n[tool.pytest.ini_options]\n'
    (tmp_path / "pyproject.toml").write_text(
        settings + 'pythonpath = ["worker", "tests"]\naddopts = "-p no:cacheprovider"\n'
    )
    module = tmp_path / "worker" / "module.py"
    module.parent.mkdir()
    module.write_text(source)
    unit = tmp_path / "tests" / "unit"
    unit.mkdir(parents=True)
    (unit / "test_module.py").write_text(
        f"from module import NUMBER\n\ndef test() -> None:\n    assert NUMBER == {test}\n"
    )
    monkeypatch.setattr(check, "ROOT", tmp_path)
    assert check.main([str(module)]) == expected


def test_a_file_that_does_not_exist_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """A name that is mistyped is an error, not a check of nothing."""
    with pytest.raises(SystemExit) as stopped:
        check.main(["no/such/file.py"])
    assert stopped.value.code == 2
    assert "no such file" in capsys.readouterr().err
