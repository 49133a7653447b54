"""Target *requests*: batches of hostile stream entries with good neighbours among them, handled by ``Handler``.

Each batch has to pass these checks. Every entry has one result. Answers are replies of the contract, in the format of
the request, with codes of the closed list. Good neighbours are answered right. An entry is answered if a second reader
finds exactly one id in it (``tolerant``). Nothing of a payload but the id gets into a message, a reason, a log line, an
audit line or a metric.
"""

import json
import random
from collections import Counter
from collections.abc import Sequence

import jsonschema
import msgspec
import structlog

from fuzz.mutations import Fields, Mutator, giants
from fuzz.tolerant import json_ids, msgpack_ids
from fuzz.world import MARK, MARK_DIGITS, OWNERS, REPLY, ROUTE, Fault, World, answer_is
from token_worker.acra.value_types import TYPES
from token_worker.contract.codec import sniff
from token_worker.contract.messages import Format, Reply, ReplyError
from token_worker.contract.schemas import documents
from token_worker.service.replies import DeadLettered, Result
from token_worker.streams.entry import Answer, Entry
from token_worker.streams.reply_facts import ReplyFacts
from token_worker.telemetry.audit import Audit

A_BATCH = 24
"""Hostile entries in a batch."""

NEIGHBOURS = 3

REASONS = frozenset({"payload_missing", "not_json_or_msgpack", "no_readable_id"})
MESSAGE_CHARACTERS = 200
SCHEMA_EACH = 997
"""Of this many replies one is checked against the published schema, too."""

READ_AGAIN_BYTES = 10_000
"""Longest payload whose id is looked for a second time, character by character."""

_KNOWN = {owner.id for owner in OWNERS}
_TYPE_NAMES = {*TYPES, "unknown"}


class Entries:
    """Hostile stream entries."""

    name = "requests"
    a_batch = A_BATCH

    def __init__(self, seed: str) -> None:
        self._world = World(seed)
        self._neighbours = self._world.good
        self._schema = jsonschema.Draft202012Validator(json.loads(documents()["reply.schema.json"]))
        self._replies = 0
        self.outcomes: Counter[str] = Counter()

    def begin(self, rng: random.Random) -> None:
        """Start a round without anything of the rounds before."""
        self._tokens = self._world.tokens()
        self._handler = self._world.handler(self._tokens)
        self._mutator = Mutator(self._world.good, rng)
        self._rng = rng
        self._audit = _Lines()

    def largest(self) -> list[list[Fields]]:
        """Batches of the largest cases, each alone."""
        return [[fields] for fields in giants(self._world.good)]

    def draw(self) -> list[Fields]:
        """Draw the cases of the next batch."""
        return [self._mutator.fields() for _ in range(A_BATCH)]

    def check(self, cases: Sequence[Fields]) -> None:
        """Handle the cases as one batch, and check it.

        Raises:
            Fault: a check failed.
        """
        hostile = [self._world.next_entry(fields) for fields in cases]
        good = self._rng.sample(self._neighbours, NEIGHBOURS)
        neighbours = [self._world.next_entry({b"payload": one.payload}) for one in good]
        entries = [*hostile, *neighbours]
        self._rng.shuffle(entries)
        with structlog.testing.capture_logs() as lines:
            results = self._handler.handle(entries)
            self._audit.detokenize([result for result in results if isinstance(result, Answer)])
        by_entry = {result.entry.id: result for result in results}
        if len(results) != len(entries) or set(by_entry) != {entry.id for entry in entries}:
            raise Fault(f"{len(results)} results for {len(entries)} entries, of {len(by_entry)} of them")
        ids = {"no id of any"}
        for number, entry in enumerate(hostile):
            self._judge(by_entry[entry.id], entry, ids, number)
        for entry, one in zip(neighbours, good, strict=True):
            answer = by_entry[entry.id]
            if not isinstance(answer, Answer) or not answer_is(one, answer):
                raise Fault("a good neighbour has not got its right answer")
            ids.add(one.message["id"])
        texts = [str(value) for line in lines for name, value in line.items() if name != "request_id"]
        texts += [str(value) for line in self._audit.lines for name, value in line.items() if name != "request_id"]
        if any(_is_marked(text) for text in texts):
            raise Fault("a log line or an audit line tells something of a payload")
        if {line["request_id"] for line in self._audit.lines} - ids:
            raise Fault("an audit line names a request that nobody sent")
        self._audit.lines.clear()

    def _judge(self, result: Result, entry: Entry, ids: set[str], number: int) -> None:
        if isinstance(result, DeadLettered):
            if result.reason not in REASONS:
                raise Fault("the reason of a dead letter is none of the known ones", number)
            if _id_of(entry) is not None:
                raise Fault("an entry whose id can be read is a dead letter", number)
            self.outcomes[result.reason] += 1
            return
        if not isinstance(result, Answer):
            raise Fault("an entry is postponed, though every key is there", number)
        problem = self._problem(result, entry, ids)
        if problem:
            raise Fault(problem, number)

    def _problem(self, answer: Answer, entry: Entry, ids: set[str]) -> str | None:
        """Check the answer to an entry; returns what is wrong."""
        form = sniff(entry.payload or b"")
        if form is None or sniff(answer.payload) is not form:
            return "an answer is not in the format of its request"
        given_up = self._handler.internal(entry) if self._rng.random() < 0.1 else answer
        for payload in filter(None, {given_up.payload, answer.forbidden, answer.payload}):
            try:
                reply = REPLY[form](payload)
            except msgspec.DecodeError:
                return "an answer is no reply of the contract"
            problem = self._problem_of_reply(reply, entry)
            if problem:
                return problem
            self._replies += 1
            if (
                self._replies % SCHEMA_EACH == 0
                and form is Format.JSON
                and not self._schema.is_valid(json.loads(payload))
            ):
                return "an answer is not valid by the published schema"
        if reply.id != (_id_of(entry) or reply.id):
            return "an answer has another id than its request"
        ids.add(reply.id)
        self.outcomes.update({code for _, code in answer.facts.outcomes})
        if any(
            stream is not None and not stream.startswith(f"{ROUTE.responses}:")
            for stream in (answer.reply_to, given_up.reply_to)
        ):
            return "an answer goes to a stream that the route does not allow"
        return _problem_of_facts(answer.facts)

    def _problem_of_reply(self, reply: Reply, entry: Entry) -> str | None:
        if reply.request_entry != entry.id.decode():
            return "an answer names another entry"
        errors: list[ReplyError] = []
        answered = 0
        if isinstance(reply.items, list):
            for item in reply.items:
                if isinstance(item.error, ReplyError) is (item.value is not msgspec.UNSET):
                    return "an item has both value and error, or neither"
                answered += item.value is not msgspec.UNSET
                errors += [item.error] if isinstance(item.error, ReplyError) else []
            wanted = "error" if not answered else "partial" if errors else "ok"
        else:
            if isinstance(reply.error, ReplyError) is (reply.value is not msgspec.UNSET):
                return "an answer has both value and error, or neither"
            errors += [reply.error] if isinstance(reply.error, ReplyError) else []
            wanted = "error" if errors else "ok"
        if reply.status != wanted:
            return "an answer's status is not that of its items"
        for error in errors:
            text = error.message
            if _is_marked(text) or not text.isascii() or not text.isprintable() or len(text) > MESSAGE_CHARACTERS:
                return "a message tells something of a payload"
        return None


class _Lines(Audit):
    """An audit log that is read at once."""

    def __init__(self) -> None:
        super().__init__("worker", None)
        self.lines: list[dict[str, object]] = []

    def _write(self, lines: bytes) -> None:
        for line in map(json.loads, lines.splitlines()):
            del line["timestamp"]  # any digits may stand in it
            self.lines.append(line)


def _problem_of_facts(facts: ReplyFacts) -> str | None:
    if facts.op not in {"tokenize", "detokenize", "unknown"}:
        return "an operation is counted that is none"
    if {facts.client_id, facts.zone_id} - _KNOWN - {None}:
        return "a client or zone is counted that is not known to exist"
    if any(kind not in _TYPE_NAMES for kind, _ in facts.outcomes):
        return "a type is counted that is none"
    return None


def _id_of(entry: Entry) -> str | None:
    """The id in a payload of any form, if there is just one and it can be read."""
    payload = entry.payload or b""
    form = sniff(payload) if len(payload) <= READ_AGAIN_BYTES else None
    if form is None:
        return None
    ids = json_ids(payload) if form is Format.JSON else msgpack_ids(payload)
    return ids[0] if len(ids) == 1 and ids[0] else None


def _is_marked(text: str) -> bool:
    return MARK in text or MARK_DIGITS in text
