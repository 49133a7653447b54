"""``token-worker file --suggest`` names columns that look like personal data, and understands the answers."""

from collections.abc import Sequence

import pytest

from token_worker.cli.file_suggest import chosen
from token_worker.contract.messages import TypeName
from token_worker.files.suggest import Sample, suggest


@pytest.mark.parametrize(
    ("values", "kind", "why"),
    [
        (["ada@navy.example", "grace@navy.example", None, ""], "email", "e-mail addresses"),
        ([*["ada@navy.example"] * 1, *(f"u{number}@navy.example" for number in range(20)), "none"], "str", "e-mail"),
        (["4242424242424242", "5105105105105100", "378282246310005"], "str", "card numbers"),
        (["4242 4242 4242 4242", "3782-822463-10005"], "str", "card numbers"),
        (["DE02120300000000202051", "GB33 BUKB 2020 1555 5555 55", "NO9386011117947"], "str", "IBANs"),
        (["+49 30 901820", "0049 (0)30 901820", "030/901820"], "str", "telephone"),
        (["+14155550100", "+442079460000"], "str", "telephone"),
        (["(415) 555-0100", "415-555-0101", "1-415-555-0102", "415.555.0103 ext. 7"], "str", "telephone"),
        (["078-05-1120", "219-09-9999"], "str", "social security"),
        (["192.0.2.1", "2001:db8::1"], "str", "IP addresses"),
    ],
)
def test_personal_data_is_told_by_its_form(values: list[str | None], kind: str, why: str) -> None:
    """A column with values of a known form is offered under any name, and the form is named."""
    [found] = suggest({"x17": Sample(values)})
    assert (found.type, found.is_offered, found.why[: len(why)]) == (kind, True, why)


@pytest.mark.parametrize(
    "values",
    [
        ["1", "2", "99999"],
        ["4242424242424241", "5105105105105101"],
        ["DE02120300000000202052", "GB33BUKB20201555555556"],
        ["2024-01-31", "1999-12-01"],
        ["31/01/2024", "01.12.1999", "05-06-2024"],
        ["2024-01-31T10:00:00Z"],
        ["0.1234567", "12.5", "-3"],
        ["red", "green"],
        ["1.2.3", "10.0.1"],
        ["4006381333931", "4012345678901"],
        ["1700000000", "1700000001"],
        ["a@b", "@x.example"],
        ["9f1c2a34-0000-4000-8000-000000000001"],
        ["true", "false"],
    ],
)
def test_other_data_is_not_offered(values: list[str | None]) -> None:
    """Numbers whose checksums do not hold, dates, amounts and codes are shown, and are not offered."""
    [found] = suggest({"x17": Sample(values)})
    assert (found.is_offered, found.why) == (False, "does not look like personal data")
    assert found.type is not None


@pytest.mark.parametrize(
    "name",
    [
        "name", "Name", "first_name", "lastName", "SURNAME", "customer name", "Kunden-Name", "address.street",
        "zip_code", "postal_code", "PostalCode", "phone", "phoneNumber", "mobile_phone", "Telefon",
        "dateOfBirth", "birth_date", "dob", "passport_no", "tax_id", "card_number", "IBAN", "accountNumber",
        "user_name", "items[].holder.name", "e-mail", "billing_address_1", "ip_address", "email",
    ],
)  # fmt: skip
def test_personal_data_is_told_by_its_name(name: str) -> None:
    """If the values have no known form, the name of the column decides."""
    [found] = suggest({name: Sample(["Grace Hopper 12", "Ada 34567"])})
    assert (found.type, found.is_offered) == (TypeName.STR, True), found
    assert found.why.startswith("its name says: ")


@pytest.mark.parametrize(
    "name",
    ["id", "product_name", "company_name", "file_name", "email_verified", "has_phone", "address_id", "account_type",
     "card_count", "created_at", "phone_status", "shipping_cost", "recipe", "description", "country_code", "tip"],
)  # fmt: skip
def test_other_names_are_not_offered(name: str) -> None:
    """Names of things, and what is about personal data and is none itself."""
    [found] = suggest({name: Sample(["Grace Hopper 12", "Ada 34567"])})
    assert not found.is_offered


@pytest.mark.parametrize("values", [["1", "0"], ["true", "false"], ["Y", "N"], ["yes", "no"]])
def test_flags_are_not_offered(values: list[str | None]) -> None:
    """A column that says yes or no is not offered, whatever its name."""
    [found] = suggest({"phone": Sample(values)})
    assert not found.is_offered


def test_personal_numbers_are_text() -> None:
    """A later telephone number or postal code may begin with 0: text fits it, a number does not; others may be."""
    found = suggest({"zip": Sample(["10115", "80331"]), "quantity": Sample(["10115", "80331"])})
    assert [column.type for column in found] == [TypeName.STR, TypeName.INT32]
    [number] = suggest({"zip": Sample(["10115"], [TypeName.INT32, TypeName.INT64], "number")})
    assert (number.type, number.is_offered) == (TypeName.INT32, True)


def test_every_column_is_shown() -> None:
    """Columns without a token type are shown with their type in the file and the reason; so are empty columns."""
    found = suggest(
        {
            "day": Sample([], (), "date32[day]"),
            "twice": Sample([], (), refused="more than one column has this name"),
            "name": Sample([None, ""]),
            "amount": Sample(["1.5"], (TypeName.INT32,), "decimal128(9, 2)"),
        }
    )
    assert [(column.name, column.type, column.is_offered) for column in found] == [
        ("day", None, False),
        ("twice", None, False),
        ("name", None, False),
        ("amount", None, False),
    ]
    assert [column.why for column in found] == [
        "no token type fits this kind of column",
        "more than one column has this name",
        "no value in the first rows",
        "does not look like personal data; no type fits all its values",
    ]


FOUND = suggest(
    {
        "id": Sample(["1"]),
        "email": Sample(["ada@navy.example"]),
        "a, b": Sample(["x"]),
        "day": Sample([], (), "date32[day]"),
        "1": Sample(["x"]),
    }
)


@pytest.mark.parametrize(
    ("answer", "columns", "wrong"),
    [
        ("email, id", [("email", "email"), ("id", "int32")], []),
        ("2,3", [("email", "email"), ("a, b", "str")], []),
        ("1", [("1", "str")], []),
        ("email=str,3=bytes", [("email", "str"), ("a, b", "bytes")], []),
        ("emial, id", [("id", "int32")], ["There is no column emial; the columns are id, email, a, b, day, 1."]),
        ("6", [], ["There is no column 6; the columns are id, email, a, b, day, 1."]),
        ("day", [], ["Column day: no token type fits this kind of column."]),
        ("email,2", [("email", "email")], ["Column email is named twice."]),
        ("", [], ["Name at least one column. Ctrl-C exits."]),
    ],
)
def test_answers_name_columns(answer: str, columns: Sequence[tuple[str, str]], wrong: list[str]) -> None:
    """An answer has names or numbers of columns, also with types. Every mistake in it is named before the next try."""
    assert chosen(answer, FOUND, {}) == (tuple(columns), wrong)


def test_types_that_were_said_before_hold() -> None:
    """A type of the command line holds for an answer that has none."""
    assert chosen("id", FOUND, {"id": "str"}) == ((("id", "str"),), [])
