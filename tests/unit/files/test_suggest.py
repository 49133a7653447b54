"""``token-worker file --suggest`` names columns that look like personal data, and understands the answers."""

from collections.abc import Sequence

import pytest

from token_worker.cli.file_suggest import chosen
from token_worker.contract.messages import Op, TypeName
from token_worker.files.columns import Column
from token_worker.files.suggest import Sample, suggest
from token_worker.tokens.formats import builtin_formats
from token_worker.tokens.formats.date import Date, OnlyDateParameters

FORMATS = builtin_formats()


@pytest.mark.parametrize(
    ("values", "kind", "why"),
    [
        (["ada@navy.example", "grace@navy.example", None, ""], "email", "e-mail addresses"),
        (["ada@navy.example", *(f"u{number}@navy.example" for number in range(20)), "none"], "email", "e-mail"),
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
    [found] = suggest({"x17": Sample(values)}, FORMATS)
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
    [found] = suggest({"x17": Sample(values)}, FORMATS)
    assert (found.is_offered, found.why) == (False, "does not look like personal data")
    assert found.type is not None


@pytest.mark.parametrize(
    "name",
    [
        "name", "Name", "first_name", "lastName", "SURNAME", "customer name", "Kunden-Name", "address.street",
        "zip_code", "postal_code", "PostalCode", "phone", "phoneNumber", "mobile_phone", "Telefon",
        "dateOfBirth", "birth_date", "dob", "born", "geboren", "vorname", "Nachname", "fname", "Straße", "anschrift",
        "telefonnummer", "cardnumber", "emailaddress", "passport_no", "tax_id", "card_number", "IBAN", "accountNumber",
        "user_name", "items[].holder.name", "e-mail", "billing_address_1", "ip_address", "email",
    ],
)  # fmt: skip
def test_personal_data_is_told_by_its_name(name: str) -> None:
    """If the values have no known form, the name of the column decides."""
    [found] = suggest({name: Sample(["Grace Hopper 12", "Ada 34567"])}, FORMATS)
    assert (found.type, found.is_offered) == (TypeName.STR, True), found
    assert found.why.startswith("its name says: ")


@pytest.mark.parametrize(
    "name",
    ["id", "product_name", "company_name", "file_name", "email_verified", "has_phone", "address_id", "account_type",
     "card_count", "created_at", "phone_status", "shipping_cost", "recipe", "description", "country_code", "tip"],
)  # fmt: skip
def test_other_names_are_not_offered(name: str) -> None:
    """Names of things, and what is about personal data and is none itself."""
    [found] = suggest({name: Sample(["Grace Hopper 12", "Ada 34567"])}, FORMATS)
    assert not found.is_offered


@pytest.mark.parametrize("values", [["1", "0"], ["true", "false"], ["Y", "N"], ["yes", "no"]])
def test_flags_are_not_offered(values: list[str | None]) -> None:
    """A column that says yes or no is not offered, whatever its name."""
    [found] = suggest({"phone": Sample(values)}, FORMATS)
    assert not found.is_offered


def test_personal_numbers_are_text() -> None:
    """A later telephone number or postal code may begin with 0: text fits it, a number does not; others may be."""
    found = suggest({"zip": Sample(["10115", "80331"]), "quantity": Sample(["10115", "80331"])}, FORMATS)
    assert [column.type for column in found] == [TypeName.STR, TypeName.INT32]
    [number] = suggest({"zip": Sample(["10115"], [TypeName.INT32, TypeName.INT64], "number")}, FORMATS)
    assert (number.type, number.is_offered) == (TypeName.INT32, True)


def test_every_column_is_shown() -> None:
    """Columns without a token type are shown with their type in the file and the reason; so are empty columns."""
    found = suggest(
        {
            "day": Sample([], (), "date32[day]"),
            "twice": Sample([], (), refused="more than one column has this name"),
            "name": Sample([None, ""]),
            "amount": Sample(["1.5"], (TypeName.INT32,), "decimal128(9, 2)"),
        },
        FORMATS,
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
    },
    FORMATS,
)


@pytest.mark.parametrize(
    ("answer", "columns", "wrong"),
    [
        ("email, id", [("email", "email", "email-safe"), ("id", "int32", None)], []),
        ("2,3", [("email", "email", "email-safe"), ("a, b", "str", None)], []),
        ("1", [("1", "str", None)], []),
        (
            "email=str,3=bytes,id=digits",
            [("email", "str", None), ("a, b", "bytes", None), ("id", "str", "digits")],
            [],
        ),
        ("id=str:ours", [("id", "str", "ours")], []),
        ("emial, id", [("id", "int32", None)], ["There is no column emial; the columns are id, email, a, b, day, 1."]),
        ("6", [], ["There is no column 6; the columns are id, email, a, b, day, 1."]),
        ("no=str", [], ["There is no column no; the columns are id, email, a, b, day, 1."]),
        ("day", [], ["Column day: no token type fits this kind of column."]),
        ("email,2", [("email", "email", "email-safe")], ["Column email is named twice."]),
        ("", [], ["Name at least one column. Ctrl-C exits."]),
    ],
)
def test_answers_name_columns(answer: str, columns: Sequence[tuple[str, str, str | None]], wrong: list[str]) -> None:
    """An answer has names or numbers of columns, also with types. Every mistake in it is named before the next try."""
    assert chosen(answer, FOUND, Op.TOKENIZE, FORMATS) == (tuple(Column(*column) for column in columns), wrong)


def test_unknown_formats_are_told_with_their_column() -> None:
    """An answer with a format that is unknown gets the nearest one."""
    columns, [wrong] = chosen("id=digit", FOUND, Op.TOKENIZE, FORMATS)
    assert columns == ()
    assert wrong.startswith("Column id: digit is neither a type nor a format, the nearest is digits;")


def test_answers_to_detokenize_have_no_format() -> None:
    """A format only says the type of the tokens then."""
    assert chosen("email,id=digits", FOUND, Op.DETOKENIZE, FORMATS) == (
        (Column("email", "email"), Column("id", "str")),
        [],
    )


def test_every_kind_with_a_sample_is_suggested() -> None:
    """Each built-in format is proposed for a sample of it, except those that only a person can choose."""
    found = suggest({name: Sample(values) for name, values in SAMPLES.items()}, FORMATS)
    assert {guess.name: guess.format for guess in found if guess.is_offered} == {
        "card": "pan",
        "iban": "iban",
        "phone": "phone",
        "ssn": "ssn",
        "email": "email-safe",
        "birth_date": "date",
        "account": "uuid",
        "date_of_birth": "datetime",
        "surname": "letters",
        "konto": "digits",
    }
    assert {*FORMATS} - {guess.format for guess in found} == {"email-domain"}
    assert not [guess for guess in found if "mixed" in guess.why]


SAMPLES: dict[str, list[str | None]] = {
    "card": ["4242 4242 4242 4242", "3782 822463 10005"],
    "iban": ["DE02120300000000202051", "GB33BUKB20201555555555", "NO9386011117947"],
    "phone": ["+49 30 901820", "+1 415 555 0100"],
    "ssn": ["078-05-1120", "219-09-9999"],
    "email": ["ada@navy.example", "grace@navy.example"],
    "birth_date": ["1906-12-09", "1815-12-10", *(f"19{year}-02-03" for year in range(10, 40))],
    "account": ["9f1c2a34-0000-4000-8000-000000000001", "7d1c2a34-0000-4000-8000-00000000000f"],
    "date_of_birth": ["1906-12-09T10:00:00Z", "1990-12-09T10:00:00Z"],
    "surname": ["Hopper", "Lovelace", "Müller-Lüdenscheidt"],
    "konto": ["0012345678", "98765432"],
}
"""By name of a column: values of each kind."""


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("x", ["2024-01-31", "1999-12-01"], "date"),
        ("x", ["2024-01-31T10:00:00Z", "2024-01-31T10:00:00.25Z"], "datetime"),
        ("x", ["9f1c2a34-0000-4000-8000-000000000001"], "uuid"),
        ("x", ["Ada", "Grace"], None),
        ("x", ["0012345678", "98765432"], None),
        ("x", ["4006381333931", "4012345678901"], None),
        ("order_no", ["000123456", "000123457"], None),
        ("order_no", ["2024000017", "2024000018"], None),
        ("sku", ["AB-1234-X", "CD-5678-Y"], None),
        ("part", ["415-155-0101", "203-045-0102"], None),
        ("price", ["12.50", "1999.00"], None),
        ("id", ["1", "2", "10000"], None),
        ("ean", ["4006381333931", "5901234123457"], None),
    ],
)
def test_other_data_gets_a_format_only_if_its_form_is_certain(
    name: str, values: list[str | None], expected: str | None
) -> None:
    """Dates and UUIDs that are not personal get their format in case they are chosen. Nothing is offered."""
    [found] = suggest({name: Sample(values)}, FORMATS)
    assert (found.format, found.is_offered) == (expected, False)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("name", ["Grace Hopper 12", "Ada 34567"]),
        ("street", ["Ordnance Road 3", "Rue Monge 17"]),
        ("username", ["grace", "ada"]),
        ("phone", ["+49 (0)30 901820 ext. 7", "+1 415 555 0100 x1"]),
    ],
)
def test_formats_that_keep_too_much_are_not_suggested(name: str, values: list[str | None]) -> None:
    """Names with digits, streets and short numbers stay plain text, and are offered."""
    [found] = suggest({name: Sample(values)}, FORMATS)
    assert (found.type, found.format, found.is_offered) == (TypeName.STR, None, True)


def test_a_few_values_that_do_not_fit_are_counted() -> None:
    """A format that nine in ten values fit is proposed, and the table says how many do not."""
    cards = [f"{number:06}" for number in range(9)]
    [found] = suggest({"konto": Sample([*cards, "unknown"])}, FORMATS)
    assert found.format == "digits"
    assert found.why.endswith("; 1 of 10 distinct values do not fit digits: rows are left out")
    [found] = suggest({"konto": Sample([*cards, "unknown", "none"])}, FORMATS)
    assert found.format is None


@pytest.mark.parametrize(
    ("name", "values", "mixed"),
    [
        ("card", ["4242 4242 4242 4242", "4000056655665556"], "separators"),
        ("card", ["4242 4242 4242 4242", "4000-0566-5566-5556"], "separators"),
        ("iban", ["DE02120300000000202051", "GB33 BUKB 2020 1555 5555 55"], "separators"),
        ("phone", ["+49 30 901820", "+4930901821"], "separators"),
        ("ssn", ["078-05-1120", "219099999"], "separators"),
        (
            "account",
            ["9f1c2a34-0000-4000-8000-000000000001", "7D1C2A34-0000-4000-8000-00000000000F"],
            "upper and lower case",
        ),
        ("born", ["2024-01-31T10:00:00Z", "2024-01-31T10:00:00+00:00"], "time zones"),
        ("born", ["2024-01-31T10:00:00Z", "2024-01-31 10:00:00Z"], "separators"),
        ("born", ["2024-01-31T10:00:00Z", "2024-01-31 10:00:00"], "separators and time zones"),
        ("email", ["ada@navy.example", "Grace@navy.example"], "upper and lower case"),
        ("surname", ["Hopper", "LOVELACE"], "upper and lower case"),
    ],
)
def test_mixed_spellings_are_told(name: str, values: list[str | None], mixed: str) -> None:
    """One value written in two ways has two tokens, and joins break; so the table warns, and says what differs."""
    [found] = suggest({name: Sample(values)}, FORMATS)
    assert found.format
    assert found.why.endswith(f"; mixed {mixed}: different tokens for the same value")


def test_a_value_without_letters_does_not_mix_cases() -> None:
    """A UUID of digits alone goes with those in lower case and with those in capitals."""
    digits = "11111111-0000-4000-8000-000000000001"
    for other in ("9f1c2a34-0000-4000-8000-000000000001", "9F1C2A34-0000-4000-8000-000000000001"):
        [found] = suggest({"account": Sample([digits, other])}, FORMATS)
        assert (found.format, "mixed" in found.why) == ("uuid", False)


@pytest.mark.parametrize(
    ("name", "values", "share", "expected"),
    [
        (
            "phone",
            [*(f"+49 30 9018{n:02}" for n in range(43)), *(f"030/9018{n:02}" for n in range(57))],
            "only 43 of 100 distinct values fit phone",
            "with + and a known calling code",
        ),
        ("x17", ["(030) 901820", "(030) 901821"], "only 0 of 2 distinct values fit phone", "with +"),
        ("born", ["1906-12-09", "1906-12-10", "09.12.1906"], "only 2 of 3 distinct values fit date", "YYYY-MM-DD"),
        ("konto", ["DE02120300000000202051", "2", "3"], "only 1 of 3 distinct values fit iban", "IBAN"),
        ("name", ["Grace", "Ada 34567"], "only 1 of 2 distinct values fit letters", "without digits"),
    ],
)
def test_formats_that_too_few_values_fit_are_told(
    name: str, values: list[str | None], share: str, expected: str
) -> None:
    """A column that its data give a format, and whose values are mixed, stays plain text. The table says why."""
    [found] = suggest({name: Sample(values)}, FORMATS)
    assert (found.type, found.format, found.is_offered) == (TypeName.STR, None, True)
    told, _, lacks = found.why.partition("; ")[2].partition(": expected ")
    assert told == share
    assert expected in lacks


def test_formats_that_no_value_fits_are_not_told_by_name_alone() -> None:
    """The name says what the column may hold. Only a form of the values says it for certain."""
    [found] = suggest({"username": Sample(["grace", "ada"])}, FORMATS)
    assert found.why == "its name says: a user"


def test_names_with_digits_that_fit_are_not_counted_as_misfits() -> None:
    """A few digits among many names do not change the format. The run takes them, so no row is left out."""
    names = [f"Ada {letter}" for letter in "ABCDEFGHIJKLMNOPQRS"]
    [found] = suggest({"name": Sample([*names, "X Æ A-12"])}, FORMATS)
    assert (found.format, "do not fit" in found.why) == ("letters", False)


def test_formats_of_the_settings_are_suggested() -> None:
    """A format of the settings is proposed if the built-in one of its kind does not fit; else a hint says so."""
    sample = {"birthday": Sample(["09.12.1906", "31.01.2024"])}
    [found] = suggest(sample, FORMATS)
    assert (found.type, found.format) == (TypeName.STR, None)
    assert "[[formats]]" in found.why
    ours = Date("german", OnlyDateParameters(template="%d.%m.%Y"))
    [found] = suggest(sample, {**FORMATS, "german": ours})
    assert (found.type, found.format) == (TypeName.STR, "german")


def test_columns_of_numbers_get_no_format() -> None:
    """A number of JSON or Parquet cannot hold a token of a format."""
    [found] = suggest({"konto": Sample(["12345678", "98765432"], (TypeName.INT32, TypeName.INT64))}, FORMATS)
    assert (found.type, found.format, found.is_offered) == (TypeName.INT32, None, True)
