"""Tell if a column seems to hold personal data, by the form of its values or else by its name. Pure.

No library does this: libraries that recognize names in text need models that are larger than this project.
"""

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Final

from token_worker.tokens.formats import builtin_formats

MATCHING_SHARE = 0.9
"""Share of the values that must have a form."""

DATE_OF_BIRTH: Final = "a date of birth"

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_CARD = re.compile(r"[2-6]\d{3}([ -]?)\d{4,6}\1\d{4,5}(?:\1\d{1,4})?")
_IBAN = re.compile(r"[A-Z]{2}\d{2}(?: ?[A-Z0-9]{1,4}){3,8}")
_PHONE = re.compile(
    r"(?:(?:\+|0?0[1-9]|\(\+?\d)[\d ()./-]*"
    r"|(?:1[-. ])?\(?[2-9]\d{2}\)?[-. ][2-9]\d{2}[-. ]\d{4})"
    r"(?: ?(?:x|ext\.?) ?\d+)?"
)
_DATE = re.compile(r"\d{1,4}([-./])\d{1,2}\1\d{1,4}")
_FORMATS = builtin_formats()
_SOCIAL_SECURITY = re.compile(r"(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}")


def is_email(text: str) -> bool:
    """Return True if a text has the form of an e-mail address."""
    return _EMAIL.fullmatch(text) is not None


def _is_card(text: str) -> bool:
    return _CARD.fullmatch(text) is not None and _FORMATS["pan"].problem(text.encode()) is None


def _is_iban(text: str) -> bool:
    return _IBAN.fullmatch(text) is not None and _FORMATS["iban"].problem(text.encode()) is None


def _is_phone(text: str) -> bool:
    if _DATE.fullmatch(text):
        return False
    return _PHONE.fullmatch(text) is not None and 7 <= sum(char.isdecimal() for char in text) <= 18


def are_dates(values: Sequence[str]) -> bool:
    """Return True if all these values are dates in numbers, in any order."""
    return all(map(_DATE.fullmatch, values))


def _is_social_security(text: str) -> bool:
    return _SOCIAL_SECURITY.fullmatch(text) is not None


def _is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return not text.isdecimal()


DETECTORS: dict[str, Callable[[str], bool]] = {
    "e-mail addresses": is_email,
    "card numbers, with correct checksums": _is_card,
    "IBANs, with correct checksums": _is_iban,
    "social security numbers": _is_social_security,
    "IP addresses": _is_ip_address,
    "telephone numbers": _is_phone,
}
"""Forms of values, and the function that detects each form."""

_WORDS = {
    "a name": "firstname lastname surname forename fullname givenname familyname middlename maidenname cardholder"
    " fname lname vorname nachname familienname geburtsname prenom nom apellido apellidos nombre cognome achternaam"
    " voornaam",
    "an e-mail address": "email emails emailaddress emailadresse mail mailadresse courriel correo",
    "a telephone number": "phone phones phonenumber telephone tel mobile mobilenumber cell cellphone fax msisdn telefon"
    " telefono telefonnummer mobil handy handynummer",
    "an address": "address addresses addr street strasse straße adresse anschrift direccion indirizzo postcode zip"
    " zipcode postal postalcode plz",
    "a number of an account or card": "iban pan card cardnumber creditcard cc ccnumber cvv cvc bic account konto"
    " kontonummer kreditkarte kreditkartennummer kartennummer",
    "a social security number": "ssn socialsecurity socialsecuritynumber",
    "a number of a person": "nino passport taxid tin nationalid nif dni cpf curp steuernummer driverlicense"
    " driverslicense licenseplate imei",
    DATE_OF_BIRTH: "birth birthday birthdate dob born geboren geburtsdatum geburtstag naissance nacimiento",
    "an address of a machine": "ip ipaddress ipaddr",
    "a user": "username login userlogin nickname",
}
_MEANINGS = {word: meaning for meaning, words in _WORDS.items() for word in words.split()}

_PERSONS = frozenset(
    word
    for words in (
        "first last full given family middle maiden user person contact customer client patient employee owner member",
        "holder recipient sender payer payee guest student author billing shipping account legal kunde kunden cliente",
    )
    for word in words.split()
)
"""Words with which ``name`` means the name of a person. The word ``name`` alone does so, too."""

_ABOUT = frozenset(
    word
    for words in (
        "count flag type status kind verified valid sent is has at created updated opened version balance currency",
        "total amount brand network domain provider opt optin length hash token",
    )
    for word in words.split()
)
"""A column with one of these words is about the data, and does not hold the data itself: ``email_verified``."""

_KEYS = frozenset({"id", "ids", "key", "code"})
"""More such words, unless the word belongs to the usual name: ``address_id`` is about an address, ``postal_code`` is
data."""

FEWEST_CHARACTERS = 3
"""Shortest personal value of a column that is detected by its name. Flags and counts are shorter."""

_SPLIT = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-zà-ÿß]+|\d+")


def by_values(values: Sequence[str]) -> str | None:
    """Return the form that nearly all these values have, or None."""
    for form, has_form in DETECTORS.items():
        if values and sum(map(has_form, values)) >= MATCHING_SHARE * len(values):
            return form
    return None


def by_name(name: str) -> str | None:
    """Return the personal data that a column of this name holds, or None."""
    words = [word.lower() for word in _SPLIT.findall(name)]
    if _ABOUT & {*words}:
        return None
    pairs = ["".join(words[at : at + 2]) for at in range(len(words) - 1)]
    for word in pairs if _KEYS & {*words} else [*pairs, *words]:
        if meaning := _MEANINGS.get(word):
            return meaning
    if "name" in words and (len(words) == 1 or _PERSONS & {*words}):
        return "a name"
    return None


def could_be(values: Sequence[str]) -> bool:
    """Return True if these values can be personal data. Flags and counts cannot."""
    return any(sum(char.isalnum() for char in value) >= FEWEST_CHARACTERS for value in values) and not all(
        value.lower() in ("true", "false", "yes", "no") for value in values
    )
