"""Formats: how tokens of ``str`` and ``email`` are drawn so that they fit a column. One module a kind. All are pure."""

from typing import Any

import msgspec

from token_worker.tokens.formats.base import Format
from token_worker.tokens.formats.date import Date
from token_worker.tokens.formats.date_time import DateTime
from token_worker.tokens.formats.digits import Digits
from token_worker.tokens.formats.email_domain import EmailDomain
from token_worker.tokens.formats.email_safe import EmailSafe
from token_worker.tokens.formats.iban import Iban
from token_worker.tokens.formats.letters import Letters
from token_worker.tokens.formats.pan import Pan
from token_worker.tokens.formats.phone import Phone
from token_worker.tokens.formats.ssn import Ssn
from token_worker.tokens.formats.template import Template
from token_worker.tokens.formats.uuid_text import Uuid

AnyFormat = Format[Any, Any]

KINDS: dict[str, type[AnyFormat]] = {
    kind.kind: kind
    for kind in (Pan, Iban, Phone, Ssn, Digits, Template, Date, DateTime, Uuid, EmailDomain, EmailSafe, Letters)
}
"""By name: all kinds."""


def builtin_formats() -> dict[str, AnyFormat]:
    """Make the built-in formats: each kind with its default parameters, under its own name.

    A kind whose parameters have no defaults has no built-in format.
    """
    return {
        name: kind(name, msgspec.convert({}, kind.parameters_type))
        for name, kind in KINDS.items()
        if not any(field.required for field in msgspec.structs.fields(kind.parameters_type))
    }
