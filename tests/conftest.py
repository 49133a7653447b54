"""Fixtures: real servers that live as long as the test session, emptied for each test that asks for one."""

import os
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import settings

import token_worker
from harness.clients import KINDS, FakeWorker, Kind, threads
from harness.container import why_not
from harness.ending import interrupt_by_signals
from harness.key_places import InRedis, InVault, Place
from harness.moving import Moving
from harness.servers import OpenBao, Valkey, redis_binary
from harness.stack import Stack, wait_until
from harness.toolchains import SharedFolders

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts programs in the background with SIGINT ignored, and what tests start would inherit that. A signal
    # that has a handler here has its default action in processes that we start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
interrupt_by_signals()

os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # programs that tests start import the harness, too

if settings.get_current_profile_name() == "default":  # with CI set, hypothesis has a profile of its own
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")

TREE = Path(__file__).parents[1] / "worker"

LONGEST = {
    "test_every_fault_happens_and_what_is_promised_holds",
    "test_types_generated_from_asyncapi",
    "test_bench_gives_every_figure",
}
"""Tests of more than half a minute."""

Say = Callable[[str], None]
_SAID = "said"


def pytest_configure() -> None:
    """Refuse to test another copy of the package than the reader of the result has in mind.

    The tree, where an edit is seen at once; with ``TEST_INSTALLED=1`` in the environment, as ``scripts/test`` sets it,
    a package that is installed apart from the tree.
    """
    found = Path(token_worker.__file__)
    if found.is_relative_to(TREE):
        if os.environ.get("TEST_INSTALLED") == "1":
            raise pytest.UsageError(f"TEST_INSTALLED=1, but the tests would run the tree: {found}")
    elif os.environ.get("TEST_INSTALLED") != "1":
        raise pytest.UsageError(
            f"the tests would run a copy of the package, and would not see an edit of the tree: {found}\n"
            "Use scripts/check, or link the package to the tree: pip install --editable . (or set TEST_INSTALLED=1)"
        )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tests: else one of them may run alone at the end, while all other processes are idle."""
    items.sort(key=lambda item: getattr(item, "originalname", "") not in LONGEST)


@pytest.fixture
def say(record_property: Callable[[str, object], None]) -> Say:
    """Prints a line at the end of the run: a seed or a figure that a reader of a run that passed wants to see."""
    return lambda line: record_property(_SAID, line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests had to say, in whatever process they ran."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    lines = [f"{report.nodeid}: {line}" for report in reports for name, line in report.user_properties if name == _SAID]
    if lines:
        terminalreporter.section("what tests had to say")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def _streams_process() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture(scope="session")
def _storage_process() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture(scope="session")
def _redis82_process() -> Iterator[Valkey]:
    with Valkey(binary=redis_binary()) as server:
        yield server


def _emptied(server: Valkey) -> Valkey:
    with server.client() as client:
        client.flushall()
        client.script_flush()
    return server


@pytest.fixture
def streams_server(_streams_process: Valkey) -> Valkey:
    """An empty Valkey for streams, shared by the session; never kill or reconfigure this one."""
    return _emptied(_streams_process)


@pytest.fixture
def storage_server(_storage_process: Valkey) -> Valkey:
    """An empty Valkey for keys and tokens, shared by the session; never kill or reconfigure this one."""
    return _emptied(_storage_process)


@pytest.fixture(params=["storage_server", "redis82_server"])
def server(request: pytest.FixtureRequest) -> Valkey:
    """An empty server for keys and tokens: Valkey, then Redis."""
    found: Valkey = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def redis82_server(_redis82_process: Valkey) -> Valkey:
    """An empty Redis 8.2, shared by the session; never kill or reconfigure this one."""
    return _emptied(_redis82_process)


@pytest.fixture(scope="session")
def namespaces(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A machine on which a container can be imitated; elsewhere the test is skipped."""
    why = why_not(tmp_path_factory.mktemp("container"))
    if why is not None:
        pytest.skip(f"no container can be imitated here: {why}")


@pytest.fixture(scope="session")
def openbao_server() -> Iterator[OpenBao]:
    """An OpenBao in development mode, shared by the session; use mounts and paths of your own."""
    with OpenBao() as server:
        yield server


@pytest.fixture(scope="session")
def shared_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedFolders]:
    """Folders that take long to fill, made once for all processes of the run."""
    base = tmp_path_factory.getbasetemp()
    with closing(SharedFolders(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)) as folders:
        yield folders


@pytest.fixture
def stack(streams_server: Valkey, storage_server: Valkey) -> Iterator[Stack]:
    """Workers and a producer on the session's servers, with a key of the client ``shop-frontend``."""
    with Stack(streams_server, storage_server) as stack:
        stack.generate_key("shop-frontend")
        yield stack


@pytest.fixture
def bare(streams_server: Valkey, storage_server: Valkey) -> Iterator[Stack]:
    """A stack without any key or record. Its workers need not end by themselves."""
    with Stack(streams_server, storage_server) as stack:
        yield stack
        for worker in stack.workers:
            worker.kill()


@pytest.fixture(params=["redis", "vault"])
def place(request: pytest.FixtureRequest, bare: Stack) -> Place:
    """An empty key storage in Redis, then in Vault, which ``bare`` uses."""
    found: Place = InRedis(bare) if request.param == "redis" else InVault(request.getfixturevalue("openbao_server"))
    bare.settings |= {"TOKEN_WORKER_TOKENS_URL": bare.settings["TOKEN_WORKER_KEYS_URL"], **found.settings}
    return found


@pytest.fixture
def served(stack: Stack) -> Stack:
    """A stack with a worker."""
    stack.start_worker()
    return stack


@pytest.fixture
def moving(storage_server: Valkey) -> Iterator[Moving]:
    """A storage with keys and index keys, and no token yet."""
    with closing(Moving(storage_server, secrets.token_bytes(32))) as moving:
        yield moving


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of client for producers."""
    found: Kind = request.param
    return found


@pytest.fixture
def fake_worker(streams_server: Valkey) -> Iterator[FakeWorker]:
    """A worker that answers when the test says so, on the server of the streams."""
    with streams_server.client() as streams:
        yield FakeWorker(streams)


@pytest.fixture
def all_clients_closed() -> Iterator[None]:
    """Fails a test that leaves a thread of a client behind."""
    yield
    wait_until(lambda: not threads(), "the clients' threads to end")
