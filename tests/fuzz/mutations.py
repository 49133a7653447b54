"""Hostile stream entries, made at random from good messages: thousands a second, repeatable by the generator's state.

A message is a list of members, pairs of encoded name and encoded value, so that one set of changes serves JSON and
MessagePack, and so that names can stand twice and values be what no encoder writes.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from fuzz.world import ENCODE, MARK, MARK_DIGITS, Good
from token_worker.contract.messages import Format

Members = list[tuple[bytes, bytes]]
Fields = dict[bytes, bytes]

_NAMES = (
    *("id", "op", "client_id", "zone_id", "type", "value", "items", "ref"),
    *("consistent", "reply_to", "expires_at", "replay", "replay_of", "as", "format", "", "ID", "value\u0000", MARK),
)
_TEXTS = (
    *("", MARK, MARK * 20, MARK * 40, MARK * 80, f"{MARK}\u0000", f"\u202e{MARK}\U0010ffff", "tokenize", "detokenize"),
    *("Tokenize", "int32", "int64", "str", "bytes", "email", "float", "shop-frontend", "billing_service"),
    *("broken-client", "DDDDzoneone", "unknown-client", f"../{MARK}", "responses:me", f"responses:{MARK}", "responses"),
    *("requests", "requests:dead", "0-0", "1-1", "1-1\n", "9" * 20 + "-" + "9" * 20, "-5", "+5", "05", "-0", "0x10"),
    *("1e3", "٣", f"{MARK_DIGITS}{'0' * 30}", "9223372036854775808", "AA==", "AB==", "AA=", "A", " AA==", "AA==\n"),
    *("@", "a@", "@b", f"{MARK}@", f"{MARK}@{'x' * 300}", "a@b.c", "é@ü.de", "a" * 249 + "@b.de", "a" * 250 + "@b.de"),
)
_NUMBERS = (
    *(0, 1, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64 - 1),
    *(1_800_000_000_000, int(f"{MARK_DIGITS}0000"), 0.5, -0.0, 1e300, 1e-300, 5e-324),
)
_OTHERS: tuple[Any, ...] = (
    *(None, True, False, [], {}, [[]], [MARK], {MARK: MARK}, {"type": "str"}, {"type": "str", "value": MARK}),
    *([{"type": "str", "value": MARK}], [{"type": "str", "value": MARK, MARK: 1}], [None], [MARK, 1, {}]),
)
_COMMON = (*_TEXTS, *_NUMBERS, *_OTHERS)

_RAW = {
    Format.JSON: (
        *(b"NaN", b"-Infinity", b"Infinity", b"1e999", b"-1e999", b"1E+5", b"-0", b"-", b"01", b"1.", b".5", b"0x1"),
        *(b"-9223372036854775809", b"18446744073709551616", MARK_DIGITS.encode() + b"0" * 5000, b"1" * 400),
        *(b'"\\ud800"', b'"\\udfff' + MARK.encode() + b'"', b'"\\ud83d\\ude00"', b'"\\u0000"', b'"\\x"', b'"\\u12"'),
        *(b'"\xff"', b'"' + MARK.encode() + b'\xed\xa0\x80"', b'"\xc0\x80"', b'"\xf5\x80\x80\x80"', b'"\x00\x01\n"'),
        *(
            b"nul",
            b"",
            b",",
            b":",
            b'"' + MARK.encode(),
            b"\\",
            b"/* */1",
            b"[1,]",
            b'{"a":1,}',
            b"[",
            b"]",
            b"}",
            b"{",
        ),
        *(b"[" * 100 + b"]" * 100, b"[" * 1100 + b"]" * 1100, b'{"a":' * 1100 + b"1" + b"}" * 1100, b"[" * 1100),
        *(b'[{"type":"str","value":' * 400, b"\xef\xbb\xbf1", b"  \t\r\n 1 \n"),
    ),
    Format.MSGPACK: (
        *(b"\xc1", b"", b"\xca\x7f\xc0\x00\x00", b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", b"\xcb\x7f\xf0" + bytes(6)),
        *(b"\xa1\xff", b"\xa3\xed\xa0\x80", b"\xa2\xc0\x80", b"\xd9\xff", b"\xda\xff\xff", b"\xdb\xff\xff\xff\xff"),
        *(b"\xc4\x00", b"\xc4\x07" + MARK.encode(), b"\xc6\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xde\xff\xff"),
        *(b"\xdf\xff\xff\xff\xff", b"\xdc\xff\xff", b"\x91" * 100 + b"\xc0", b"\x91" * 1100 + b"\xc0", b"\x91" * 1100),
        *(b"\x81\xa1a" * 1100 + b"\xc0", b"\x81\xc0\xc0", b"\x81\x90\xc0", b"\x81\x01\x02", b"\x82\xa1a\x01\xa1a\x02"),
        *(b"\xd4\x05\x00", b"\xd6\xff\x00\x00\x00\x00", b"\xd7\xff" + b"\xff" * 8, b"\xc7\x0c\xff" + b"\xff" * 12),
        *(b"\xc7\x07\x01" + MARK.encode(), b"\xc9\xff\xff\xff\xff\x01", b"\xd3\x80" + bytes(7), b"\xcf" + b"\xff" * 8),
        *(
            b"\xd2\xff\xff\xff\xff",
            b"\xcc\x05",
            b"\xdb\x00\x00\x00\x07" + MARK.encode(),
            b"\x90",
            b"\x80",
            b"\xdf" + bytes(4),
        ),
    ),
}
"""Encoded values that no encoder writes, most of them malformed, by format."""

_HOSTILE = {form: (*map(ENCODE[form], _COMMON), *_RAW[form], *_RAW[form]) for form in Format}
_HOSTILE_NAMES = {
    Format.JSON: (*map(msgspec.json.encode, _NAMES), b"5", b'"\\ud800"', b'"\\u0069d"', b"id", b'"\xff"', b""),
    Format.MSGPACK: (
        *map(msgspec.msgpack.encode, _NAMES),
        b"\x05",
        b"\xc0",
        b"\xc4\x02id",
        b"\xa1\xff",
        b"\x90",
        b"\x80",
    ),
}
_BYTES = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\xc1",
    b"\xdf",
    b"\xdb",
    b"9",
)
_FRAMES = (
    *(
        (b"\xef\xbb\xbf", b""),
        (b"\xef\xbb\xbf", b"}"),
        (b" \t\r\n", b"\n"),
        (b"", b"\x00"),
        (b"", b"\r\n{}"),
        (b"", b","),
    ),
    *((b"[", b"]"), (b"\xff\xfe", b""), (b"\xfe\xff", b""), (b"\x0b", b"\x0c")),
)
"""Bytes that may stand before and behind a message."""
_TRACES: tuple[bytes, ...] = (
    *(b"", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", b"\xff\xfe", b"x" * 5000, b"\x00", b"a=b,c=d"),
)
_STARTS = (
    b"{",
    b" {",
    b"\x81",
    b"\x85",
    b"\x8f",
    b"\xde\x00\x05",
    b"\xdf\x00\x00\x00\x05",
    b"",
    b"[",
    b'"',
    b"\x91",
    b"\xc0",
)


class Mutator:
    """Makes hostile entries.

    Args:
        good: messages that they are made from.
        rng: source of all choices.
    """

    def __init__(self, good: Sequence[Good], rng: random.Random) -> None:
        self._good = [(one.format, _members(one), one.payload) for one in good]
        self._rng = rng
        self._ways: tuple[Callable[[], bytes], ...] = (
            *[self._changed_members] * 11,
            *[self._changed_bytes] * 5,
            self._many_items,
            self._framed,
            self._noise,
        )

    def fields(self) -> Fields:
        """One entry."""
        rng = self._rng
        chance = rng.random()
        if chance < 0.0005:
            return {b"payload": self._long()}
        fields = {b"payload": rng.choice(self._ways)()}
        if chance > 0.9:
            fields[b"traceparent"] = rng.choice(_TRACES)
            fields[b"tracestate"] = rng.choice(_TRACES)
            if chance > 0.99:
                del fields[b"payload"]
                fields[b"PAYLOAD"] = MARK.encode()
        return fields

    def _changed_members(self) -> bytes:
        rng = self._rng
        form, members, _ = rng.choice(self._good)
        members = members.copy()
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            self._change(form, members)
        return _joined(form, members)

    def _change(self, form: Format, members: Members) -> None:
        rng = self._rng
        at = int(rng.random() * len(members)) if members else 0
        hostile = rng.choice(_HOSTILE[form])
        chance = rng.random()
        if chance < 0.6 and members:
            members[at] = members[at][0], hostile
        elif chance < 0.7 and members:
            del members[at]
        elif chance < 0.8:
            members.insert(at, (rng.choice(_HOSTILE_NAMES[form]), hostile))
        elif chance < 0.9 and members:
            members.append((members[at][0], hostile))
        elif members:
            members[at] = rng.choice(_HOSTILE_NAMES[form]), members[at][1]

    def _many_items(self) -> bytes:
        rng = self._rng
        form, members, _ = rng.choice(self._good)
        encode = ENCODE[form]
        kinds = ("int32", "int64", "str", "bytes", "email")
        items = []
        for number in range(rng.randrange(40)):
            item = [
                (encode("type"), encode(rng.choice(kinds))),
                (encode("value"), rng.choice(_HOSTILE[form]) if rng.random() < 0.3 else encode(rng.choice(_COMMON))),
                (encode("ref"), encode(f"ref-{number}")),
            ]
            if rng.random() < 0.05:
                self._change(form, item)
            items.append(_joined(form, item))
        list_ = (
            b"[" + b",".join(items) + b"]"
            if form is Format.JSON
            else b"\xdc" + len(items).to_bytes(2) + b"".join(items)
        )
        dropped = {encode("type"), encode("value"), encode("items")}
        return _joined(form, [*(pair for pair in members if pair[0] not in dropped), (encode("items"), list_)])

    def _changed_bytes(self) -> bytes:
        rng = self._rng
        payload = bytearray(rng.choice(self._good)[2])
        for _ in range(rng.choice((1, 1, 2, 4))):
            at = int(rng.random() * (len(payload) + 1))
            chance = rng.random()
            if chance < 0.3 and at < len(payload):
                payload[at] ^= 1 << int(rng.random() * 8)
            elif chance < 0.45:
                payload[at:at] = rng.choice(_BYTES)
            elif chance < 0.6:
                del payload[at : at + rng.choice((1, 1, 2, 8))]
            elif chance < 0.7:
                del payload[at:]
            elif chance < 0.8:
                payload[at : at + 1] = rng.choice(_BYTES)
            elif chance < 0.9:
                end = at + int(rng.random() * 20)
                payload[at:at] = payload[at:end]
            else:
                other = rng.choice(self._good)[2]
                payload[at:] = other[int(rng.random() * len(other)) :]
        return bytes(payload)

    def _framed(self) -> bytes:
        before, behind = self._rng.choice(_FRAMES)
        ways = (self._changed_members, self._changed_bytes, self._many_items)
        return before + self._rng.choice(ways)() + behind

    def _noise(self) -> bytes:
        rng = self._rng
        return rng.choice(_STARTS) + rng.randbytes(int(rng.random() * 60))

    def _long(self) -> bytes:
        """A message near the limit of a request: more than linear time would show."""
        rng = self._rng
        form, members, _ = rng.choice(self._good)
        text = rng.choice((MARK, "\\", '"', "[", '{"a":', "\\ud800", "ż", "9", "1e", "\u0000", " "))
        raw = text.encode() * (rng.choice((70_000, 400_000, 1_100_000)) // len(text.encode()))
        if form is Format.JSON and rng.random() < 0.7:
            value = raw if rng.random() < 0.5 else b'"' + raw + b'"'
        else:
            value = ENCODE[form](raw.decode())
        name = "value" if rng.random() < 0.5 else rng.choice(_NAMES)
        return _joined(form, [*members, (ENCODE[form](name), value)])


def giants(good: Sequence[Good]) -> list[Fields]:
    """The largest entries there are: fields of 10 MB, 10,000 fields, deepest nesting, and values over their limit."""
    tens = 10_000_000
    made: list[Fields] = [
        {b"payload": b"\x00" * tens},
        {b"payload": b"[" * tens},
        {b"payload": b'{"id":"x","value":' + b"[" * tens},
        {b"payload": b'{"id":"x","value":"' + MARK.encode() * (tens // len(MARK)) + b'"}'},
        {b"payload": b"\x82\xa2id\xa1x\xa5value" + b"\x91" * tens},
        {b"payload": b"\x82\xa2id\xa1x\xa5value\xc6" + tens.to_bytes(4) + bytes(tens)},
        {b"field-%d" % number: MARK.encode() for number in range(10_000)},
    ]
    texts = [one for one in good if one.message.get("type") == "str"]
    made += [{b"payload": ENCODE[one.format]({**one.message, "value": MARK * 11_000})} for one in texts[:2]]
    for one in good[:2]:
        made.append({b"payload": one.payload, b"other": b"x" * tens})
        made.append({b"payload": one.payload, **{b"field-%d" % number: b"" for number in range(10_000)}})
    return made


def _members(good: Good) -> Members:
    encode = ENCODE[good.format]
    return [(encode(name), encode(value)) for name, value in good.message.items()]


def _joined(form: Format, members: Members) -> bytes:
    if form is Format.JSON:
        return b"{" + b",".join([name + b":" + value for name, value in members]) + b"}"
    head = bytes((0x80 | len(members),)) if len(members) < 16 else b"\xde" + len(members).to_bytes(2)
    return head + b"".join([name + value for name, value in members])
