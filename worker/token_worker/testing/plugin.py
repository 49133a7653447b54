"""The pytest plugin: a fixture. pytest loads this module by its entry point wherever the package is installed.

So importing it loads nothing but pytest, and what the fixture needs is loaded by the first test that asks for it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from token_worker.testing.worker import InProcessWorker


@pytest.fixture
def token_worker() -> "Iterator[InProcessWorker]":
    """A token worker in this process, with no tokens yet; ``token_worker.url`` is its address. See docs/testing.md."""
    try:
        from token_worker.testing.worker import InProcessWorker  # noqa: PLC0415 - see above
    except ModuleNotFoundError as error:
        pytest.fail(f"{error}: install the extra with pip install 'token-worker[testing]'", pytrace=False)
    with InProcessWorker() as worker:
        yield worker
