"""Layout records: their bytes, and which pairs of them a worker accepts."""

import json
from typing import cast
from unittest.mock import Mock

import pytest
from msgspec.structs import replace

from token_worker.errors import CorruptData, ServerError, SettingsError, Unavailable
from token_worker.keys.layout_record import (
    LayoutName,
    LayoutRecord,
    decode_keys_record,
    decode_record,
    encode_record,
    find_problem,
    layout_of,
    layout_path,
    new_record,
    read_tokens_record,
)
from token_worker.redis.link import Link
from token_worker.streams.worker_notes import WorkerNote

ID = "0123456789abcdef" * 2
DENSE = LayoutRecord(layout="dense", storage=ID, since="2026-11-30T07:51:01Z")
ACRA = LayoutRecord(layout="acra", storage=ID, since="2026-11-30T07:51:01Z")
UNFINISHED = LayoutRecord(layout="dense", storage=ID, since="2026-11-30T07:51:01Z", unfinished=True)
FOREIGN = LayoutRecord(layout="dense", storage=ID, since="2026-11-30T07:51:01Z", foreign=True)
OTHER = LayoutRecord(layout="dense", storage=ID[::-1], since="2026-11-30T07:51:01Z")


def test_a_record_has_the_bytes_that_the_specification_shows() -> None:
    """A record is JSON of three members, in this order."""
    text = b'{"layout":"dense","storage":"0123456789abcdef0123456789abcdef","since":"2026-11-30T07:51:01Z"}'
    assert encode_record(DENSE) == text
    assert decode_record(text, "key storage") == DENSE
    assert layout_path("prod/keys") == "prod/keys.layout"


def test_record_of_an_unfinished_move() -> None:
    """While a move is finished, the record of the token storage says so; that of the key storage must not."""
    text = encode_record(UNFINISHED)
    assert text == encode_record(DENSE)[:-1] + b',"unfinished":true}'
    assert decode_record(text, "token storage") == UNFINISHED
    assert UNFINISHED.finished == DENSE
    with pytest.raises(CorruptData, match="copied from an unfinished move"):
        decode_keys_record(text)


def test_record_of_a_storage_with_foreign_entries() -> None:
    """A record says that there may be foreign entries, also while the move is unfinished; a new one does not."""
    text = encode_record(FOREIGN)
    assert text == encode_record(DENSE)[:-1] + b',"foreign":true}'
    assert decode_keys_record(text) == FOREIGN
    unfinished = encode_record(replace(FOREIGN, unfinished=True))
    assert decode_record(unfinished, "token storage").finished == FOREIGN
    assert not new_record("dense", 0).foreign


def test_new_records_have_ids_of_their_own() -> None:
    """A new record has a random id and the time in UTC, unless it is given the id of the storage."""
    first, second = (new_record("dense", 1_796_025_061.9) for _ in range(2))
    assert first.since == "2026-11-30T07:51:01Z"
    assert first.storage != second.storage
    assert decode_record(encode_record(first), "key storage") == first
    assert new_record("acra", 0, ID).storage == ID


def changed(**members: object) -> bytes:
    return json.dumps({"layout": "dense", "storage": ID, "since": "2026-11-30T07:51:01Z"} | members).encode()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"dense",
        b"[]",
        b"\xff" * 16,
        b"[" * 100_000,
        b'{"layout":"dense"}',
        changed(storage=ID[:-1]),
        changed(storage=ID.upper()),
        changed(storage=ID + "\n"),
        changed(since="yesterday"),
        changed(since=1),
        changed(layout=["dense"]),
    ],
)
def test_damaged_records_are_refused(text: bytes) -> None:
    """A text that is no record is named as damaged, with its place and without its content."""
    with pytest.raises(CorruptData, match=r"^layout record in the token storage: damaged") as error:
        decode_record(text, "token storage")
    assert ID[:-1] not in str(error.value)


def test_record_of_another_type_is_damaged() -> None:
    """A key that holds no string is no record. Any other error of the server is raised as it is."""
    link = Mock(spec=Link)
    link.call.side_effect = ServerError("tokens", "WRONGTYPE")
    with pytest.raises(CorruptData, match="damaged"):
        read_tokens_record(cast(Link, link))
    link.call.side_effect = ServerError("tokens", "ERR")
    with pytest.raises(ServerError, match="ERR"):
        read_tokens_record(cast(Link, link))


@pytest.mark.parametrize(
    "text",
    [
        changed(layout="denser"),
        changed(index=2),
        changed(layout="denser", storage="new"),
        changed(unfinished=False),
        changed(foreign=False),
        changed(foreign=1),
    ],
)
def test_records_of_newer_versions_are_refused_in_words(text: bytes) -> None:
    """An unknown layout, or a member that this version does not know, is not read as something else."""
    with pytest.raises(SettingsError, match="written by a newer version of token-worker"):
        decode_record(text, "key storage")


def test_without_a_record_the_layout_is_acra() -> None:
    """Storages without records are Acra's, with and without the setting."""
    assert decode_keys_record(None) is None
    assert layout_of(None) == "acra"
    assert find_problem(None, None) is None
    assert find_problem(None, None, "acra") is None


@pytest.mark.parametrize("record", [ACRA, DENSE, FOREIGN])
def test_equal_records_are_accepted(record: LayoutRecord) -> None:
    """The same record in both storages decides, also if the setting says the same."""
    assert layout_of(record) == record.layout
    assert find_problem(record, record) is None
    assert find_problem(record, record, record.layout) is None


@pytest.mark.parametrize(
    ("in_keys", "in_tokens", "asked", "words"),
    [
        (None, None, "dense", "TOKEN_WORKER_LAYOUT is dense, but there is no record"),
        (None, DENSE, "dense", "the key storage has no record: it is another one, or was restored"),
        (DENSE, DENSE, "acra", "TOKEN_WORKER_LAYOUT is acra, but the key storage records dense"),
        (DENSE, None, None, "the token storage has no record: it is another one, or has lost its data"),
        (ACRA, None, "acra", "the token storage has no record"),
        (None, DENSE, None, "the key storage has no record: it is another one, or was restored"),
        (DENSE, OTHER, None, "different ids"),
        (ACRA, DENSE, None, "records layout acra, the token storage dense"),
        (DENSE, ACRA, "dense", "records layout dense, the token storage acra"),
        (ACRA, UNFINISHED, None, "a move is unfinished"),
        (DENSE, UNFINISHED, None, "a move is unfinished"),
        (None, UNFINISHED, None, "a move is unfinished"),
        (OTHER, UNFINISHED, None, "different ids"),
        (DENSE, FOREIGN, None, "only one of the layout records says that tokens were moved"),
        (FOREIGN, DENSE, None, "only one of the layout records says that tokens were moved"),
    ],
)
def test_records_that_do_not_fit_are_a_problem(
    in_keys: LayoutRecord | None, in_tokens: LayoutRecord | None, asked: LayoutName | None, words: str
) -> None:
    """Any difference is a problem in words, with a remedy, and without the ids."""
    problem = find_problem(in_keys, in_tokens, asked)
    assert problem is not None
    assert words in problem.what
    assert problem.remedy
    address = "redis-tokens.production.internal.example.com:6379"
    note = WorkerNote("0.1.0", "host", 0, ready=False, at=0, why=str(Unavailable("tokens", "", address, str(problem))))
    assert str(note.why).endswith(problem.remedy), "whoever watches the workers reads it to the end"
    assert ID not in str(problem)


@pytest.mark.parametrize("in_tokens", [None, DENSE, UNFINISHED])
def test_setting_that_says_the_layout_of_lost_records_is_kept(in_tokens: LayoutRecord | None) -> None:
    """Nobody is told to leave the setting out if no record says otherwise: workers would take the layout for acra."""
    problem = find_problem(None, in_tokens, "dense")
    assert problem is not None
    assert "leave TOKEN_WORKER_LAYOUT out" not in problem.remedy
