"""A second implementation of the token derivation, from its specification alone; shares no code with the product.

The specification is the docstring of ``token_worker.tokens.derivation``, version 2, and for formats the docstrings of
the modules in ``token_worker.tokens.formats``.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from harness.second import (
    canonical_json,
    dates,
    digits,
    emails,
    ibans,
    letters,
    pan,
    phones,
    plain,
    ssn,
    template,
    uuids,
)
from harness.second.source import Source, byte_stream

KINDS: dict[str, Callable[[Source, str, Mapping[str, Any]], str]] = {
    "date": dates.date_token,
    "datetime": dates.datetime_token,
    "digits": digits.token,
    "email-domain": emails.domain_token,
    "email-safe": emails.safe_token,
    "iban": ibans.token,
    "letters": letters.token,
    "pan": pan.token,
    "phone": phones.token,
    "ssn": ssn.token,
    "template": template.token,
    "uuid": uuids.token,
}
"""Functions that draw a token, by kind of format: from bytes, of a value, by the definition of the format."""


class Origin(NamedTuple):
    """Stream, entry and item of an inconsistent token."""

    stream: str
    entry: str
    item: int


def be32(number: int) -> bytes:
    return bytes(number >> shift & 255 for shift in (24, 16, 8, 0))


def lp(data: bytes) -> bytes:
    return be32(len(data)) + data


def derivation_key(key: bytes, purpose: str, kind: str, owner_id: str) -> bytes:
    """HKDF-SHA256 by RFC 5869: extract, then one block of expand."""
    info = b"token-worker token derivation v2 " + purpose.encode() + lp(kind.encode()) + lp(owner_id.encode())
    extracted = hmac.new(bytes(32), key, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()


def derive(
    form: str | Mapping[str, Any],
    value: bytes,
    key: bytes,
    kind: str,
    owner_id: str,
    counter: int,
    origin: Origin | None = None,
) -> bytes:
    """The candidate with this counter, encoded as for storage.

    Args:
        form: the name of the type; or the definition of the format, all members of it, as JSON has them.
        value: as encoded for storage. It has to be one that the format takes: this is not checked.
        key: the owner's symmetric key.
        kind: ``client`` or ``zone``.
        owner_id: the owner's id.
        counter: number of the candidate, from 0.
        origin: makes it an inconsistent token.
    """
    text = form if isinstance(form, str) else canonical_json.write(form)
    message = lp(text.encode()) + lp(value)
    purpose = "consistent"
    if origin is not None:
        purpose = "inconsistent"
        message += lp(origin.stream.encode()) + lp(origin.entry.encode()) + be32(origin.item)
    seed_key = derivation_key(key, purpose, kind, owner_id)
    digest = hmac.new(seed_key, message + be32(counter), hashlib.sha512).digest()
    source = Source(byte_stream(seed_key, digest))
    if isinstance(form, str):
        return plain.token(source, form, value)
    return KINDS[form["kind"]](source, value.decode(), form).encode()
