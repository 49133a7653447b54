"""Facts about Redis that the page on erasure tells."""

from collections.abc import Callable

import pytest

from harness.servers import Valkey, redis_binary, valkey_binary
from harness.stack import wait_until


def on_disk(server: Valkey) -> bytes:
    """Rewrite the append-only file; what is on disk afterwards."""
    folder = server.folder / "appendonlydir"
    with server.client() as client:
        client.bgrewriteaof()
        wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "the rewrite")
    wait_until(lambda: len([*folder.iterdir()]) == 3, "the old files to be gone")  # base, increment, manifest
    return b"".join(file.read_bytes() for file in folder.iterdir())


@pytest.mark.parametrize("binary", [valkey_binary, redis_binary])
def test_trimmed_entry_is_on_disk_until_its_block_is_trimmed(binary: Callable[[], str]) -> None:
    """A rewritten file holds no entry of a block that is trimmed as a whole, and every entry of a block that is not.

    So an erased value is gone from the disk when the entries after it are, too; on an empty stream at the latest.
    """
    with (
        Valkey("appendonly yes", "rdbcompression no", "aof-use-rdb-preamble yes", binary=binary()) as server,
        server.client() as client,
    ):
        ids = [client.xadd("stream", {"payload": f"person {number}."}) for number in range(150)]
        client.xtrim("stream", minid=ids[140], approximate=False)
        text = on_disk(server)
        assert [number for number in range(150) if f"person {number}.".encode() in text] == [*range(100, 150)]
        client.xtrim("stream", maxlen=0, approximate=False)
        assert b"person" not in on_disk(server)
