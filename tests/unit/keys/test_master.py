"""The master key as text: its sources, and the texts that are refused."""

import base64
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from token_worker.errors import MasterKeyError
from token_worker.keys.master import (
    FIELD,
    MASTER_KEY_BYTES_MIN,
    MasterKeyVersion,
    VaultMasterKey,
    decode_master_key,
    from_environment,
)

KEY = os.urandom(MASTER_KEY_BYTES_MIN)
TEXT = base64.b64encode(KEY).decode()
LONG_KEY = os.urandom(96)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(TEXT, KEY, id="shortest"),
        pytest.param(f"\n {TEXT}\t\n", KEY, id="whitespace-around"),
        pytest.param(base64.b64encode(LONG_KEY).decode(), LONG_KEY, id="long"),
        pytest.param(base64.encodebytes(LONG_KEY).decode(), LONG_KEY, id="broken-into-lines"),
        pytest.param(base64.encodebytes(LONG_KEY).decode().replace("\n", "\r\n"), LONG_KEY, id="dos-lines"),
    ],
)
def test_base64_of_32_bytes_or_more_is_a_master_key(text: str, expected: bytes) -> None:
    """Base64 of 32 bytes or more is a master key, with whitespace around it and line breaks in it."""
    assert decode_master_key(text, "here") == expected


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("*" + TEXT[1:], id="alphabet"),
        pytest.param(TEXT.rstrip("="), id="no-padding"),
        pytest.param(TEXT + TEXT, id="two-keys"),
        pytest.param(TEXT[:8] + " " + TEXT[8:], id="space-inside"),
        pytest.param(KEY.hex() + "0", id="hex"),
        pytest.param("ключ" * 12, id="not-ascii"),
    ],
)
def test_text_that_is_not_base64_is_refused_and_not_shown(text: str) -> None:
    """Text that is not strictly base64 is refused. The message names its place and has no part of the text."""
    with pytest.raises(MasterKeyError) as caught:
        decode_master_key(text, "here")
    assert str(caught.value) == "here: not base64"
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("size", [0, 1, 16, 31])
def test_short_key_is_refused_with_both_numbers(size: int) -> None:
    """A key under 32 bytes is refused with both numbers."""
    with pytest.raises(MasterKeyError, match=f"^here: {size} bytes, needs at least 32$"):
        decode_master_key(base64.b64encode(bytes(size)).decode(), "here")


def test_master_key_is_read_from_its_variable() -> None:
    """ACRA_MASTER_KEY holds the key itself."""
    assert from_environment(TEXT, None) == KEY


def test_master_key_is_read_from_its_file(tmp_path: Path) -> None:
    """ACRA_MASTER_KEY_FILE names a file with the key, with a line break at its end as editors leave it."""
    file = tmp_path / "master"
    file.write_text(TEXT + "\n")
    assert from_environment(None, str(file)) == KEY


def test_missing_master_key_names_every_variable() -> None:
    """Without a master key the message names every variable that could bring one."""
    with pytest.raises(MasterKeyError, match=r"ACRA_MASTER_KEY .*ACRA_MASTER_KEY_FILE .*VAULT_ADDR"):
        from_environment(None, None)


def test_two_places_for_the_master_key_are_refused(tmp_path: Path) -> None:
    """Two places for one key are refused rather than ranked."""
    with pytest.raises(MasterKeyError, match="both ACRA_MASTER_KEY and ACRA_MASTER_KEY_FILE"):
        from_environment(TEXT, str(tmp_path / "master"))


def test_variable_that_is_empty() -> None:
    """An empty variable is a key of no bytes, not an absent one."""
    with pytest.raises(MasterKeyError, match=r"^ACRA_MASTER_KEY: 0 bytes, needs at least 32$"):
        from_environment("", None)


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that is not there is named with the reason."""
    file = tmp_path / "none"
    with pytest.raises(MasterKeyError) as caught:
        from_environment(None, str(file))
    assert str(caught.value) == f"ACRA_MASTER_KEY_FILE ({file}): cannot be read (No such file or directory)"


@pytest.mark.parametrize("content", [KEY, b"\xff" * 48, TEXT.encode("utf-16")], ids=["raw", "high-bytes", "utf-16"])
def test_file_that_is_not_base64(tmp_path: Path, content: bytes) -> None:
    """A file that holds raw bytes instead of base64 is refused like any other text."""
    file = tmp_path / "master"
    file.write_bytes(content)
    with pytest.raises(MasterKeyError) as caught:
        from_environment(None, str(file))
    assert str(caught.value) == f"ACRA_MASTER_KEY_FILE ({file}): not base64"


def test_previous_master_key_is_held_while_any_version_has_it() -> None:
    """Vault drops the oldest versions of a secret. A master key is gone only if no version has it any more."""
    kept = {4: KEY, 5: LONG_KEY}

    def read_version(_mount: str, _path: str, number: int | None = None) -> Any:
        number = max(kept) if number is None else number
        key = kept.get(number)
        fields = {FIELD: base64.b64encode(key or b"").decode()}
        return None if key is None else SimpleNamespace(fields=fields, number=number)

    session = SimpleNamespace(settings=SimpleNamespace(secret="secret/acra/transport"))
    vault: Any = SimpleNamespace(
        session=session, split=lambda _path: ("secret", "acra/transport"), read_version=read_version
    )
    source = VaultMasterKey(vault)
    assert source.holds(MasterKeyVersion(KEY, 1))
    del kept[4]
    assert not source.holds(MasterKeyVersion(KEY, 1))
