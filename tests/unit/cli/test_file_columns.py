"""``token-worker file --column`` takes a type, a format, or both, and says what is known when it is neither."""

from collections.abc import Sequence

import click
import pytest

from token_worker.cli.file_columns import read_columns
from token_worker.contract.messages import Op
from token_worker.files.columns import Column
from token_worker.tokens.formats import KINDS, AnyFormat

FORMATS: dict[str, AnyFormat] = {name: KINDS["pan"](name, KINDS["pan"].parameters_type()) for name in ("pan", "card")}
FORMATS["safe"] = KINDS["email-safe"]("safe", KINDS["email-safe"].parameters_type())


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("a=str", Column("a", "str")),
        ("a=int64", Column("a", "int64")),
        ("a=pan", Column("a", "str", "pan")),
        ("a=card", Column("a", "str", "card")),
        ("a=safe", Column("a", "email", "safe")),
        ("a=str:pan", Column("a", "str", "pan")),
        ("a=str:theirs", Column("a", "str", "theirs")),
        ("a=email:x:y", Column("a", "email", "x:y")),
        ("a=b=pan", Column("a=b", "str", "pan")),
        ('"a:b"=pan', Column('"a:b"', "str", "pan")),
    ],
)
def test_columns_have_a_type_and_a_format(text: str, column: Column) -> None:
    """A format that is known tells its type. One that is not known is taken with its type. Detokenized has none."""
    assert read_columns([text], Op.TOKENIZE, FORMATS) == (column,)
    assert read_columns([text], Op.DETOKENIZE, FORMATS) == (Column(column.name, column.type),)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a=pam"], "column a: pam is neither a type nor a format, the nearest is pan; types: int32,"),
        (["a=pam"], "card, pan, safe; a format that only the workers know needs its type, such as str:NAME"),
        (["a=string"], ", the nearest is str;"),
        (["a=zzz"], "zzz is neither a type nor a format; types: "),
        (["a="], "column a: nothing is neither a type nor a format; types: "),
        (["pan"], "expected NAME=TYPE, NAME=FORMAT or NAME=TYPE:FORMAT; types: int32"),
        (["=pan"], "expected NAME=TYPE, NAME=FORMAT or NAME=TYPE:FORMAT; types: int32"),
        (["n=int64:pan"], "column n: only str and email have formats, not int64"),
        (["n=float:pan"], "column n: only str and email have formats, not float"),
        (["a=email:pan"], "column a: pan is a format of type str"),
        (["a=str:"], "expected the name of a format after the colon, of at most 64 characters"),
        ([f"a=str:{'x' * 65}"], "expected the name of a format after the colon, of at most 64 characters"),
        (["a=pan", "a=str"], "a column is named twice"),
        (["a=\x1b[31m"], "column a: ?[31m is neither"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("op", Op)
def test_wrong_columns_are_told(given: Sequence[str], expected: str, op: Op) -> None:
    """An unknown name gets the types, the formats and the nearest of them; numbers have no formats."""
    with pytest.raises(click.BadParameter) as caught:
        read_columns(given, op, FORMATS)
    assert expected in caught.value.message
    assert caught.value.param_hint == "--column"
