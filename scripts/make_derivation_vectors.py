"""Writes tests/vectors/derivation.json from the product. A vector that changes by this is a breaking release."""

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, Literal

import msgspec

from token_worker.acra.owner import Owner
from token_worker.tokens.derivation import PLAIN, Deriver, Form, Origin
from token_worker.tokens.formats import KINDS

FILE = Path(__file__).parent.parent / "tests" / "vectors" / "derivation.json"
KEYS = {"first": bytes(range(32)), "after rotation": bytes(range(100, 132))}
VALUES: dict[str, list[bytes]] = {
    "int32": [(0).to_bytes(4, "little"), (-1).to_bytes(4, "little", signed=True), (2**31 - 1).to_bytes(4, "little")],
    "int64": [(0).to_bytes(8, "little"), (-(2**63)).to_bytes(8, "little", signed=True), (2**31).to_bytes(8, "little")],
    "str": [b"a", b"4242424242424242", b"4242 4242 4242 4242", "żółć 日本語 👩‍🚀".encode(), b"x" * 200],
    "bytes": [b"\x00", b"\xff" * 33, bytes(range(256))],
    "email": [
        b"a@b.cd",
        b"ab@c.de",
        b"ab@cd.io",
        b"grace@navy.example",
        b"grace@navy.mil.test1",
        "用户@例子.广告".encode(),
    ]
    + [b"x" * (n - 4) + b"@y.z" for n in (64, 140, 254)],
}
FORMATS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("pan", {}, ["4000000000006", "4111111111111111", "4111 1111-1111 1111", "6304000000000000000"]),
    ("pan", {"keep_first": 6, "min_space": 1000}, ["4000000000006", "4111 1111 1111 1111"]),
    ("pan", {"keep_last": 9, "min_space": 10}, ["4000000000006"]),
    ("pan", {"token": "valid"}, ["4000000000006", "4111 1111 1111 1111", "6304000000000000000"]),
    ("pan", {"token": "valid", "keep_first": 6, "keep_last": 0, "real_numbers": True}, ["4111111111111111"]),
    ("pan", {"token": "any", "real_numbers": True}, ["4111111111111111"]),
    ("iban", {}, ["NO9386011117947", "DE89370400440532013000", "GB29 NWBK 6016 1331 9268 19"]),
    ("iban", {}, ["MT84MALT011000012345MTLCAST001S"]),
    ("iban", {"keep_bank": True}, ["DE89370400440532013000", "GB29NWBK60161331926819"]),
    ("iban", {"token": "valid"}, ["NO9386011117947", "FR14 2004 1010 0505 0001 3M02 606"]),
    ("phone", {}, ["+4930901820", "+1 (212) 555-0100", "+39 06 6982", "+7 912 345-67-89", "+992 372 21 00 00"]),
    ("phone", {"keep_last": 4}, ["+44 20 7946 0958", "+225 27 20 12 34 56"]),
    ("date", {}, ["1900-01-01", "1984-02-29", "2099-12-31"]),
    ("date", {"keep_year": True}, ["1984-02-29", "2023-06-15"]),
    ("date", {"template": "%-d/%-m/%y", "min": "1930-01-01", "max": "2029-12-31"}, ["1/2/84", "31/12/29"]),
    ("datetime", {}, ["2024-05-06T07:08", "2024-05-06 07:08:09", "1999-12-31T23:59:59.123456789+05:30"]),
    ("datetime", {"keep_year": True}, ["2024-05-06T07:08:09Z"]),
    ("datetime", {"template": "%d.%m.%Y %H:%M:%S"}, ["06.05.2024 07:08:09"]),
    ("uuid", {}, ["f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "urn:uuid:F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6"]),
    ("uuid", {}, ["00000000-0000-0000-0000-000000000000"]),
    ("ssn", {}, ["123-45-6789", "123456789"]),
    ("ssn", {"keep_last": 4, "min_space": 4900}, ["123-45-6789"]),
    ("digits", {}, ["1234", "12-345 678.9/0", "1" * 64]),
    ("digits", {"keep_first": 1, "keep_last": 2, "min_space": 10}, ["1-2-3-4"]),
    ("template", {"template": "[A-Z]{2}-\\d{4,8}"}, ["AB-1234", "AB-12345678"]),
    ("template", {"template": "x([0-9a-f]{3,4})-\\d\\d"}, ["xabc-12", "xabcd-99"]),
    ("email-domain", {}, ["ab@x", "ada.lovelace@example.com", "用户@例子.广告", "x" * 64 + "@EXAMPLE.com"]),
    ("email-safe", {}, ["a@b", "ada.lovelace@example.com"]),
    (
        "letters",
        {},
        ["Li", "Ada Lovelace", "Jürgen Müller-Lüdenscheidt", "Ωραία", "Юлия", "王小明", "김철수", "𠮷野家"],
    ),
    ("letters", {}, ["Ọlọ́runfẹ́mi", "राठौड़ लड़का", "Mª 1", "Ștefan Groß", "ﾔﾏﾀﾞ", "e\u0323\u0302x\u200b\u0301"]),
]
"""Kinds, parameters, and values with edge lengths."""
CASES: list[tuple[str, Literal["client", "zone"], str, Origin | None]] = [
    ("first", "client", "shop-frontend", None),
    ("after rotation", "client", "shop-frontend", None),
    ("first", "client", "Client With Spaces", None),
    ("first", "zone", "DDDDDDDDUXhraqEnfwpZNnam", None),
    ("first", "client", "shop-frontend", Origin(b"tokenize:requests", b"1795486782194-0", 0)),
    ("first", "client", "shop-frontend", Origin(b"tokenize:requests", b"1795486782194-0", 999)),
]


def vectors() -> list[dict[str, Any]]:
    """All types and formats, counters 0 to 3, rotation, zone, inconsistent. Most of formats have counter 0 alone."""
    found = []
    for key_name, kind, owner_id, origin in CASES:
        deriver = Deriver(KEYS[key_name], Owner(kind, owner_id))
        case: dict[str, Any] = {"key": KEYS[key_name].hex(), "kind": kind, "id": owner_id}
        if origin is not None:
            case["origin"] = [origin.stream.decode(), origin.entry.decode(), origin.item]
        for name, form, values in _forms():
            is_short = "parameters" in name and (key_name, kind, owner_id, origin) != CASES[0]
            for value, counter in product(values, range(1 if is_short else 4)):
                token = deriver.token(form, value, counter, origin)
                found.append({**case, **name, "value": value.hex(), "counter": counter, "token": token.hex()})
    return found


def _forms() -> Iterator[tuple[dict[str, Any], Form, list[bytes]]]:
    """Yield each type and format: how the vectors name it, the form, and its values."""
    for type_name, values in VALUES.items():
        yield {"form": type_name}, PLAIN[type_name], values
    for kind, parameters, texts in FORMATS:
        form = KINDS[kind](kind, msgspec.convert(parameters, KINDS[kind].parameters_type))
        definition = json.loads(form.field[4:])
        yield {"form": definition, "parameters": parameters}, form, [text.encode() for text in texts]


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(vector, ensure_ascii=False) for vector in vectors())
    FILE.write_text(f"[\n{lines}\n]\n")
