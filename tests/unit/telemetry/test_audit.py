"""Lines of the audit log of a worker, read back from its file."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

from token_worker.contract.messages import Op
from token_worker.streams.entry import Answer, Entry
from token_worker.streams.reply_facts import ReplyFacts
from token_worker.streams.routes import Route
from token_worker.telemetry.audit import Audit

ROUTES = [Route(name, "out", frozenset({Op.DETOKENIZE})) for name in ("in", 'in \u00e9"')]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACED = {b"payload": b"", b"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01".encode()}
OK = ReplyFacts("detokenize", "ok", "shop", None, (("str", "ok"),))
PARTLY = ReplyFacts("detokenize", "partial", "shop", "zone", (("str", "ok"), ("str", "token_not_found"), ("str", "ok")))
UNKNOWN = ReplyFacts("detokenize", "error", None, None, (("unknown", "unknown_client"),))
TOKENIZED = ReplyFacts("tokenize", "ok", "shop", None, (("str", "ok"),))


def line(route: Route, entry: str, request_id: str, facts: ReplyFacts, **trace: str) -> dict[str, Any]:
    outcomes = [outcome for _, outcome in facts.outcomes]
    named = {"stream": route.requests, "entry": entry, "request_id": request_id}
    owner = {"client_id": facts.client_id, "zone_id": facts.zone_id}
    items = {outcome: outcomes.count(outcome) for outcome in outcomes}
    return {"event": "detokenize", **named, **owner, "items": items, "worker": "w-1", **trace, "logger": "audit"}


def test_each_detokenized_request_of_a_batch_has_its_own_line(tmp_path: Path) -> None:
    """A line has the ids, route, owner, items and trace of its own request, whatever requests stand beside it."""
    plain: dict[bytes, bytes] = {b"payload": b""}
    rows = [
        (ROUTES[0], "1-0", "a", OK, plain),
        (ROUTES[0], "1-1", 'b"\n\u00e9', OK, plain),
        (ROUTES[0], "1-2", "traced", OK, TRACED),
        (ROUTES[0], "1-3", "c", OK, plain),
        (ROUTES[0], "1-4", "tokenized", TOKENIZED, plain),
        (ROUTES[0], "1-5", "other field", OK, {**plain, b"x": b"y"}),
        (ROUTES[1], "1-0", "d", PARTLY, plain),
        (ROUTES[1], "1-1", "e", UNKNOWN, TRACED),
    ]
    path = tmp_path / "audit.log"
    Audit("w-1", str(path)).detokenize(
        Answer(Entry.of(route, entry.encode(), fields), b"", facts=facts, request_id=request_id)
        for route, entry, request_id, facts, fields in rows
    )
    expected = [
        line(route, entry, request_id, facts, **({"trace_id": TRACE} if fields is TRACED else {}))
        for route, entry, request_id, facts, fields in rows
        if facts is not TOKENIZED
    ]
    found = [json.loads(text) for text in path.read_text().splitlines()]
    assert [list(made)[:-2] for made in found] == [list(made) for made in expected]
    assert [{name: made[name] for name in wanted} for made, wanted in zip(found, expected, strict=True)] == expected
    assert {(made["level"], made["timestamp"][-6:]) for made in found} == {("info", "+00:00")}


def test_lines_have_the_time_of_their_own_batch(tmp_path: Path) -> None:
    """Alike requests of several batches have lines that differ in ids and time alone."""
    path = tmp_path / "audit.log"
    audit = Audit("w-1", str(path))
    began = dt.datetime.now(dt.UTC)
    for number in (1, 2):
        audit.detokenize([Answer(Entry(ROUTES[0], b"%d-0" % number, None), b"", facts=OK, request_id=str(number))])
    first, second = (json.loads(text) for text in path.read_text().splitlines())
    times = [dt.datetime.fromisoformat(made.pop("timestamp")) for made in (first, second)]
    assert began <= times[0] < times[1] <= dt.datetime.now(dt.UTC)
    assert {**first, "entry": "2-0", "request_id": "2"} == second
