"""A dump of the token storage, and all logs, hold no value and no token; in the dense layout no hash of them either.

``LONG_TESTS=1`` searches for 10,000 values and their tokens.
"""

import base64
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from harness.dump_search import Search, Secret
from harness.servers import Valkey
from harness.stack import Stack, has_logged, wait_until
from token_worker.acra.owner import Owner
from token_worker.acra.value_types import TYPES
from token_worker.keys.layout_record import LayoutName

VALUES = 10_000 if os.environ.get("LONG_TESTS") else 300
"""Values that are tokenized, and searched for with their tokens."""

A_REQUEST = 50
SHOP, ZONE = Owner("client", "shop-frontend"), Owner("zone", "DDDDDDDDUXhraqEnfwpZNnam")


def values(chance: Random) -> list[tuple[str, str]]:
    """Types and values as they stand in a request: cards, names, addresses and bytes, each of at least 12 bytes."""
    made = []
    for number in range(VALUES):
        digits = "".join(chance.choices("0123456789", k=16))
        kind, value = (
            ("str", digits),
            ("str", f"Ada {digits} Łovelace"),
            ("email", f"ada.{digits}@navy.example"),
            ("bytes", base64.b64encode(chance.randbytes(12 + number % 40)).decode()),
        )[number % 4]
        made.append((kind, value))
    return made


def secret(owner: Owner, kind: str, value: str) -> Secret:
    return Secret(base64.b64decode(value) if kind == "bytes" else value.encode(), owner, TYPES[kind].number)


def requests_of(texts: list[tuple[str, str]], op: str) -> list[dict[str, Any]]:
    """Requests for a client, for a zone, and for inconsistent tokens, in turn."""
    made = []
    for number, start in enumerate(range(0, len(texts), A_REQUEST)):
        items = [{"type": kind, "value": value} for kind, value in texts[start : start + A_REQUEST]]
        request: dict[str, Any] = {"id": f"{op} {number}", "op": op, "client_id": SHOP.id, "items": items}
        request |= {"zone_id": ZONE.id} if number % 3 == 1 else {}
        request |= {"consistent": False} if number % 3 == 2 and op == "tokenize" else {}
        made.append(request)
    return made


@pytest.mark.parametrize(("layout", "finds_hashes"), [("acra", True), ("dense", False)])
def test_dump_and_logs_hold_nothing_to_search_for(
    streams_server: Valkey, tmp_path: Path, layout: LayoutName, say: Callable[[str], None], *, finds_hashes: bool
) -> None:
    """Values and tokens are nowhere in the clear. Hashes that anybody can compute are found in Acra's layout alone."""
    texts = values(Random(21))
    log = tmp_path / "worker.log"
    more = {"TOKEN_WORKER_LOG_LEVEL": "debug", "TOKEN_WORKER_AUDIT_FILE": str(tmp_path / "audit.log")}
    with (
        Valkey("rdbcompression no") as storage,
        Stack(streams_server, storage, layout=layout) as stack,
        storage.client() as client,
    ):
        stack.generate_key(SHOP.id)
        stack.generate_key(ZONE.id, "zone")
        worker = stack.start_worker(log=log, **more)
        wait_until(lambda: has_logged(log, "worker is ready"), "the worker")
        asked = requests_of(texts, "tokenize")
        replies = stack.ask(asked)
        search, tokens = Search(), []
        for request in asked:
            owner = ZONE if "zone_id" in request else SHOP
            for item, answer in zip(request["items"], replies[request["id"]]["items"], strict=True):
                tokens.append((item["type"], answer["value"]))
                search.add(secret(owner, item["type"], item["value"]))
                search.add(secret(owner, *tokens[-1]))
        back = stack.ask(requests_of(tokens, "detokenize"), "detokenize")
        assert {reply["status"] for reply in back.values()} == {"ok"}
        logs = [_changed(stack, *tokens[at], change) for at, change in ((0, "disable"), (4, "remove"))]
        worker.stop()
        client.save()
        dump = Path(str(client.config_get("dir")["dir"]), "dump.rdb").read_bytes()
    logs += [path.read_text() for path in tmp_path.iterdir()]
    assert any("tokenize 1" in text or "detokenize 1" in text for text in logs)

    found = search.count(dump) + search.count("\n".join(logs).encode())

    say(f"{layout}: {search.secrets:,} values and tokens in {len(dump):,} bytes of a dump: {dict(found)}")
    assert found["clear"] == 0
    if finds_hashes:  # of each value, and of each token that has an entry still
        assert found["hash"] >= search.secrets - A_REQUEST - VALUES // 3
    else:
        assert found["hash"] == 0


def _changed(stack: Stack, kind: str, token: str, change: str) -> str:
    """Change a token by a command; all that it prints, and its line of the audit log."""
    done = stack.run("tokens", change, SHOP.id, "--type", kind, "--token", "--yes", value=token)
    assert done.returncode == 0
    return done.stdout + done.stderr
