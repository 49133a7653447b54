"""Files stay short enough to be read in one go; Ruff has the limits for functions."""

from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "worker" / "token_worker"

LINES_MAX = 450
"""The longest file that there is today. A change may lower this number, not raise it."""


@pytest.mark.parametrize("suffix", ["py", "lua"])
def test_no_file_of_the_package_is_long(suffix: str) -> None:
    """A module or script that grows past the limit is split."""
    lines = {file: len(file.read_text().splitlines()) for file in PACKAGE.rglob(f"*.{suffix}")}
    assert lines
    assert {str(file.relative_to(PACKAGE)): count for file, count in lines.items() if count > LINES_MAX} == {}
