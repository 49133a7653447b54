"""Which format a value gets on a route: names, refs, what is allowed, and types."""

from typing import Any

import pytest

from token_worker.acra.owner import Owner
from token_worker.acra.value_types import STR
from token_worker.contract.messages import Op
from token_worker.contract.values import InvalidValue
from token_worker.errors import Code, Refused
from token_worker.keys.keyring import DataKeyCache, Keyring
from token_worker.service.route_formats import RouteFormats
from token_worker.storage.token_item import TokenItem
from token_worker.streams.routes import Route
from token_worker.tokens.formats import builtin_formats
from token_worker.tokens.formats.pan import Pan, PanParameters

FORMATS = builtin_formats() | {name: Pan(name, PanParameters(keep_last=n)) for n, name in enumerate(("own", "second"))}
RING = Keyring(Owner("client", "shop-frontend"), bytes(32), DataKeyCache())


def rules(**members: Any) -> RouteFormats:
    return RouteFormats(Route("in", "out", frozenset(Op), **members), FORMATS)


def chosen(subject: RouteFormats, name: str | None, ref: str | None = None, type_name: str = "str") -> str | None:
    form = subject.choose(name, ref, type_name)
    return None if form is None else form.name


def refusal(subject: RouteFormats, name: str | None, ref: str | None = None, type_name: str = "str") -> str:
    with pytest.raises(InvalidValue) as raised:
        subject.choose(name, ref, type_name)
    refused = raised.value.at("$.format")
    assert refused.code is Code.FORMAT_NOT_ALLOWED
    return refused.message


def test_route_without_rules_allows_the_built_in_formats() -> None:
    """Without settings a route takes every built-in format and none, but no format of the settings by itself."""
    subject = rules()
    assert not subject.apply_to_all
    assert chosen(subject, None) is None
    assert chosen(subject, "pan", "any ref") == "pan"
    for name in ("own", "no such format"):
        message = refusal(subject, name)
        assert message.startswith("$.format: expected a format that this route allows: ")
        assert "pan" in message
        assert name not in message.split()


def test_refs_pin_formats_and_the_star_is_a_default() -> None:
    """The item's own format comes first, then that of its ref, then that of ``*``; a ref's format cannot be changed."""
    subject = rules(formats={"card": "pan", "other": "own", "*": "second"})
    assert subject.apply_to_all
    for name, ref, expected in (
        (None, "card", "pan"),
        (None, "other", "own"),
        (None, "else", "second"),
        (None, None, "second"),
        ("pan", "card", "pan"),
        ("pan", "else", "pan"),
        ("own", None, "own"),
    ):
        assert chosen(subject, name, ref) == expected
    assert refusal(subject, "own", "card") == "$.format: expected pan, which this route pins to the ref"


def test_formats_that_refs_name_are_the_only_ones() -> None:
    """Where refs have formats, only these may be named, besides those that are allowed; none is still allowed."""
    subject = rules(formats={"card": "own"})
    assert chosen(subject, None, "name") is None
    assert chosen(subject, "own", "name") == "own"
    assert refusal(subject, "pan", "name") == "$.format: expected a format that this route allows: own"
    more = rules(formats={"card": "own"}, allowed_formats=("second",))
    assert chosen(more, "second") == "second"
    assert refusal(more, "pan") == "$.format: expected a format that this route allows: own, second"


def test_no_format_is_allowed() -> None:
    """An empty list of allowed formats refuses every format, and takes values without one."""
    subject = rules(allowed_formats=())
    assert chosen(subject, None) is None
    assert refusal(subject, "pan") == "$.format: expected a format that this route allows, which is none"


def test_format_can_be_required() -> None:
    """A route that requires formats refuses a value without one, unless its ref or ``*`` has one."""
    subject = rules(formats_required=True, formats={"card": "pan"})
    assert subject.apply_to_all
    assert chosen(subject, None, "card") == "pan"
    assert refusal(subject, None, "name") == "$.format: expected a format; this route requires one: pan"
    assert refusal(subject, None, type_name="int32").startswith("$.format: expected a format")
    assert chosen(rules(formats_required=True, formats={"*": "pan"}), None) == "pan"
    assert rules(formats_required=True).apply_to_all


@pytest.mark.parametrize("name", [None, "pan"])
def test_format_of_another_type(name: str | None) -> None:
    """A format is refused beside a type that is not its own, also where the route chose it."""
    subject = rules(formats={"card": "pan"})
    for type_name in ("int32", "int64", "bytes", "email"):
        chosen_by_route = ", which this route gives the value" if name is None else ""
        said = refusal(subject, name, "card", type_name)
        assert said == f"$.format: expected type str with format pan{chosen_by_route}"


@pytest.mark.parametrize("on_other", ["return", "refuse"])
def test_token_of_another_form(on_other: str) -> None:
    """A token that the format could not have drawn is marked, or refused. One that it could have drawn is neither."""
    subject = rules(on_other=on_other)
    card = b"4111111111111111"
    outcomes = []
    for token in (b"2BWWvDUc69KlRpBM", b"4111111111111111", b"4111111111111112", b"2026554076661111"):
        item = TokenItem(RING, STR, card, tokenize=True, format=FORMATS["pan"], result=token)
        subject.compare(item)
        outcomes.append((item.is_other, item.result if isinstance(item.result, bytes) else code_of(item.result)))
    first, own, last, good = outcomes
    assert good == (False, b"2026554076661111")
    if on_other == "return":
        assert [first, own, last] == [
            (True, b"2BWWvDUc69KlRpBM"),
            (True, b"4111111111111111"),
            (True, b"4111111111111112"),
        ]
    else:
        assert {first, own, last} == {(False, Code.FORMAT_CONFLICT)}


def test_token_of_the_winner_of_a_race_is_compared() -> None:
    """A token that another worker stored first is compared, though the item has drawn one of its own."""
    item = TokenItem(RING, STR, b"4111111111111111", tokenize=True, format=FORMATS["pan"])
    item.token, item.result = b"2026554076661111", b"2BWWvDUc69KlRpBM"
    rules().compare(item)
    assert item.is_other


def code_of(result: object) -> Code:
    assert isinstance(result, Refused)
    return result.code


def test_what_has_no_token_is_left_as_it_is() -> None:
    """An error, and an item without a format, are not compared."""
    subject = rules(on_other="refuse")
    refused = Refused(Code.TOKEN_DISABLED, "the token is disabled")
    failed = TokenItem(RING, STR, b"4111111111111111", tokenize=True, format=FORMATS["pan"], result=refused)
    plain = TokenItem(RING, STR, b"4111111111111111", tokenize=True, result=b"2BWWvDUc69KlRpBM")
    for item, expected in ((failed, refused), (plain, b"2BWWvDUc69KlRpBM")):
        subject.compare(item)
        assert item.result is expected
        assert not item.is_other
