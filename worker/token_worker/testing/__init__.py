"""A token worker for the tests of a producer: in the test's own process, on fakeredis, without any server.

``InProcessWorker`` is the worker, and the pytest fixture ``token_worker`` gives a test one of its own. Both need the
extra ``testing``. Producers reach the worker over TCP, by any Redis client: ``TokenClient``, ``AsyncTokenClient``, or
plain XADD and XREAD.

What is real: the contract, the checks of the route, the derivation of tokens, the sealing of entries. Every client and
zone with a valid id has a key, the same one in every run, so that a value has the same token in every run.

What is not: keys and tokens are in memory, and a reply and its acknowledgement are two commands. Delivery and
durability can only be tested with a real worker and a real server.

Importing this package loads neither fakeredis nor the worker: pytest imports it for every project it runs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from token_worker.testing.received import ReceivedRequest, Values
    from token_worker.testing.worker import InProcessWorker

__all__ = ["InProcessWorker", "ReceivedRequest", "Values"]

_MODULES = {"InProcessWorker": "worker", "ReceivedRequest": "received", "Values": "received"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
