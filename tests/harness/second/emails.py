"""Format kinds ``email-domain`` and ``email-safe``: e-mail addresses."""

from collections.abc import Mapping
from typing import Any

from harness.second.source import LOWER, LOWER_AND_DIGITS, Source


def domain_token(source: Source, value: str, definition: Mapping[str, Any]) -> str:
    """Another address in the value's domain."""
    local, _, domain = value.partition("@")
    return source.characters(LOWER_AND_DIGITS, len(local)) + "@" + domain


def safe_token(source: Source, value: str, definition: Mapping[str, Any]) -> str:
    """An address that can never receive mail."""
    local = source.characters(LOWER_AND_DIGITS, 12)
    label = source.characters(LOWER, 1) + source.characters(LOWER_AND_DIGITS, 5)
    return f"{local}@{label}.invalid"
