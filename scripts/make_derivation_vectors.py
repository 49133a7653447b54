"""Writes tests/vectors/derivation.json from the product. A vector that changes by this is a breaking release."""

import json
from pathlib import Path
from typing import Any, Literal

from token_worker.acra.owner import Owner
from token_worker.tokens.derivation import PLAIN, Deriver, Origin

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
CASES: list[tuple[str, Literal["client", "zone"], str, Origin | None]] = [
    ("first", "client", "shop-frontend", None),
    ("after rotation", "client", "shop-frontend", None),
    ("first", "client", "Client With Spaces", None),
    ("first", "zone", "DDDDDDDDUXhraqEnfwpZNnam", None),
    ("first", "client", "shop-frontend", Origin(b"tokenize:requests", b"1795486782194-0", 0)),
    ("first", "client", "shop-frontend", Origin(b"tokenize:requests", b"1795486782194-0", 999)),
]


def vectors() -> list[dict[str, Any]]:
    """All types, counters 0 to 3, rotation, zone, inconsistent."""
    found = []
    for key_name, kind, owner_id, origin in CASES:
        deriver = Deriver(KEYS[key_name], Owner(kind, owner_id))
        for type_name, values in VALUES.items():
            for value in values:
                for counter in range(4):
                    token = deriver.token(PLAIN[type_name], value, counter, origin)
                    case: dict[str, Any] = {"key": KEYS[key_name].hex(), "kind": kind, "id": owner_id}
                    if origin is not None:
                        case["origin"] = [origin.stream.decode(), origin.entry.decode(), origin.item]
                    found.append(
                        {**case, "type": type_name, "value": value.hex(), "counter": counter, "token": token.hex()}
                    )
    return found


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(vector) for vector in vectors())
    FILE.write_text(f"[\n{lines}\n]\n")
