"""Writes the tables of the formats ``iban`` and ``phone`` into the package.

A table that changes by this changes what is drawn: raise ``version`` of the kind. (But not if only the release of the
source in a docstring changes.)
"""

import re
from functools import cache
from importlib.resources import files
from itertools import product
from pathlib import Path

import phonenumbers
import regex
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata

FORMATS = Path(__file__).parent.parent / "worker" / "token_worker" / "tokens" / "formats"

BANKS = {
    "AL": (0, 3),
    "IS": (0, 2),
    "IT": (1, 6),
    "MU": (0, 6),
    "SC": (0, 6),
    "SM": (1, 6),
    "XK": (0, 2),
}
"""Places of the bank identifiers that are not the first part of the BBAN.

Source: IBAN Registry, "bank identifier position within the BBAN".
"""

NUMBER_TYPES = (
    "fixed_line",
    "mobile",
    "pager",
    "personal_number",
    "premium_rate",
    "shared_cost",
    "toll_free",
    "uan",
    "voicemail",
    "voip",
)
DIGITS = "0123456789"
LONGEST_PREFIX = 4


def iban_table() -> str:
    """Return the text of ``iban_table.py``."""
    text = files("stdnum").joinpath("iban.dat").read_text(encoding="utf-8")
    release = re.search(r"^# generated from iban-registry-v(\d+)\.txt$", text, re.MULTILINE)
    if release is None:
        raise SystemExit("stdnum/iban.dat does not say which release of the registry it has")
    lines = [
        '"""Structures of IBANs by country. Made by ``scripts/make_format_tables.py``; do not edit.',
        "",
        f"Source: IBAN Registry of SWIFT (ISO 13616-2), release {release[1]}, as in python-stdnum.",
        '"""',
        "",
        "STRUCTURES: dict[bytes, tuple[str, int, int]] = {",
    ]
    for country, structure in re.findall(r'^([A-Z]{2}) .*bban="([^"]+)"$', text, re.MULTILINE):
        parts = re.findall(r"(\d+)!([nac])", structure)
        start, end = BANKS.get(country, (0, int(parts[0][0])))
        bban = " ".join(count + characters for count, characters in parts)
        lines.append(f'    b"{country}": ("{bban}", {start}, {end}),')
    lines += [
        "}",
        '"""By country code: the parts of the BBAN, and where the bank identifier begins and ends in the BBAN, from 0.',
        "",
        "A part is a number of characters and their class: n digits, a letters A-Z, c digits and letters A-Z.",
        '"""',
    ]
    return "\n".join(lines) + "\n"


def phone_table() -> str:
    """Return the text of ``phone_table.py``."""
    codes = sorted(map(str, COUNTRY_CODE_TO_REGION_CODE))
    prefixes = {code: prefix for code in codes if (prefix := dead_prefix(int(code))) is not None}
    lines = [
        '"""Calling codes, and what no number begins with. Made by ``scripts/make_format_tables.py``; do not edit.',
        "",
        f"Source: metadata of libphonenumber, as in phonenumberslite {phonenumbers.__version__}.",
        '"""',
        "",
        "DEAD_PREFIXES: dict[bytes, bytes] = {",
        *(f'    b"{code}": b"{prefix}",' for code, prefix in prefixes.items()),
        "}",
        '"""By calling code: digits that no national number begins with."""',
        "",
        "ZERO_IN_USE = frozenset(",
        "    {",
        *(f'        b"{code}",' for code in prefixes if is_assigned(int(code), "0")),
        "    }",
        ")",
        '"""Calling codes in which some national numbers begin with 0. In all others none does."""',
    ]
    return "\n".join(lines) + "\n"


def dead_prefix(code: int) -> str | None:
    """Return the prefix of tokens with a calling code: the shortest that begins with 0, else the shortest.

    Of several the lowest. None: the code has no dead prefix.
    """
    for firsts in ("0", DIGITS[1:]):
        for length in range(LONGEST_PREFIX):
            for first, *rest in product(firsts, *[DIGITS] * length):
                if is_dead(code, prefix := first + "".join(rest)):
                    return prefix
    return None


@cache
def is_dead(code: int, prefix: str) -> bool:
    """Return True if no national number begins so, of whatever length.

    Programs that read a number strip a trunk prefix, and sometimes a carrier code, also after the calling code. So no
    number may begin with what they leave of the prefix, however often they strip.
    """
    if not prefix or is_assigned(code, prefix):
        return False
    plan = _plans(code)[0]  # that of the main region: libphonenumber strips by this one
    stripped = plan.national_prefix_for_parsing
    if stripped is None:
        return True
    if any(regex.fullmatch(stripped, prefix + digit, partial=True) for digit in DIGITS):
        return False  # more than the prefix is stripped
    for end in range(1, len(prefix) + 1):
        match = regex.fullmatch(stripped, prefix[:end])
        if match is None:
            continue
        if plan.national_prefix_transform_rule is not None and match.lastindex is not None:
            return False  # what is stripped is replaced
        if not is_dead(code, prefix[end:]):
            return False
    return True


@cache
def is_assigned(code: int, prefix: str) -> bool:
    """Return True if a national number of some type, in some region of the calling code, begins so."""
    return any(regex.fullmatch(pattern, prefix, partial=True) for pattern in _patterns(code))


@cache
def _patterns(code: int) -> frozenset[str]:
    kinds = [getattr(plan, name) for plan in _plans(code) for name in NUMBER_TYPES]
    return frozenset(kind.national_number_pattern for kind in kinds if kind and kind.national_number_pattern)


@cache
def _plans(code: int) -> list[PhoneMetadata]:
    regions = COUNTRY_CODE_TO_REGION_CODE[code]
    plans = [PhoneMetadata.metadata_for_region_or_calling_code(code, region) for region in regions]
    return [plan for plan in plans if plan is not None]


TABLES = {FORMATS / "iban_table.py": iban_table, FORMATS / "phone_table.py": phone_table}

if __name__ == "__main__":
    for path, table in TABLES.items():
        path.write_text(table())
