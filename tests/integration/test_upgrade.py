"""Two versions serve side by side, as the page on upgrades says.

There is no older release yet. So the other version is the same program under another version number: the test shows
the procedure, not that two programs agree.
"""

import json
import shutil
import sys
from pathlib import Path

import token_worker
from harness.doc_pages import page
from harness.doc_runner import Reader
from harness.load import Load
from harness.producer import BatchProducer
from harness.servers import Valkey
from harness.stack import Stack

PAGE = "docs/upgrade.md"
NEW = "99.0.0"


def install(folder: Path) -> None:
    """Put the program below ``new`` as another version."""
    package = folder / "new" / "lib" / "token_worker"
    shutil.copytree(Path(token_worker.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__init__.py").write_text(f'__version__ = "{NEW}"\n')
    program = folder / "new" / "bin" / "token-worker"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={package.parent} exec {sys.executable} -m token_worker "$@"\n')
    program.chmod(0o755)


def test_workers_are_replaced_under_load(storage_server: Valkey, tmp_path: Path) -> None:
    """While old workers are replaced by new ones and back, each request gets one right reply."""
    install(tmp_path)
    with Valkey() as streams, Stack(streams, storage_server) as stack:
        stack.generate_key("shop-frontend")
        old = [stack.start_worker() for _ in range(2)]
        producer = BatchProducer(stack)
        places = {"streams:6379": f"127.0.0.1:{streams.port}"}
        (tmp_path / "worker.toml").write_text("")
        with Reader(tmp_path, stack.settings, places) as operator, Load(producer) as load:
            load.wait_for_replies()
            operator.follow(page(PAGE))
            for worker in old:
                load.go_on()
                assert worker.stop() == 0
            load.go_on()  # answered by the new version alone
            notes = stack.streams.hvals("tokenize:requests:workers")
            stack.start_worker()
            load.go_on()
        assert [json.loads(note)["version"] for note in notes] == [NEW]
        assert producer.settle() == []
