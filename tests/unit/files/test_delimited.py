"""Formats of ``token-worker file``: rows are found, changed and written; all else stays as it was."""

import codecs
import csv
import encodings.aliases
import io
import json
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from token_worker.client import Item, OtherFormat
from token_worker.client.errors import refusal
from token_worker.contract.messages import Op, TypeName
from token_worker.errors import CheckFailed, OperatorError
from token_worker.files import json_lines
from token_worker.files.columns import READ, WRITE, Column, RowError
from token_worker.files.delimited import Delimited, Dialect
from token_worker.files.json_lines import JsonLines
from token_worker.files.records import BLOCK_BYTES, ROW_BYTES, Encoding, Records
from token_worker.files.rows import CHUNK_ITEMS, Finished, RowFormat, chunks
from token_worker.files.suggest import Sample, mask, suggest

UTF8 = Encoding(None, b"")
COMMA = Dialect(UTF8, ",")


def rows(data: bytes, dialect: Dialect = COMMA) -> list[bytes]:
    """The records of a file."""
    return [*chain.from_iterable(Records(io.BytesIO(data), dialect.encoding, dialect.cut).blocks())]


def through(form: RowFormat, lines: Sequence[bytes], answer: Callable[[Any], Any], *, dedupe: bool = True) -> Finished:
    """All rows changed, as one."""
    output, problems, lost, empty = b"", [], 0, 0
    other_format: dict[str, list[int]] = {}
    for chunk in chunks(form, [lines], 0, dedupe=dedupe):
        done = chunk.finish([answer(value) for _, value, *_ in chunk.items])
        output += done.output
        problems += done.problems
        lost += done.lost
        empty += done.empty
        for column, numbers in done.other_format.items():
            other_format.setdefault(column, []).extend(numbers)
    return Finished(output, problems, lost, empty, other_format)


def delimited(data: bytes, *columns: str, dialect: Dialect = COMMA) -> tuple[Delimited, list[bytes]]:
    """A file with a header, and the records below it."""
    header, *others = rows(data, dialect)
    return Delimited(dialect, [Column(*text.split("=")) for text in columns], header, header=True), others


FIELDS = st.text(st.sampled_from('ab",\r\n é'), max_size=6)
LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def raw_files(draw: st.DrawFn) -> bytes:
    """Anything that has to do with CSV."""
    return draw(st.text(st.sampled_from('ab",\r\n'), max_size=40)).encode()


@given(raw_files(), st.integers(1, 9))
@example(b',"\r', 1)
@example(b'a,"\r\nb",a\r\n', 9)
def test_csv_is_read_as_python_reads_it(data: bytes, block: int) -> None:
    """Records and fields are those of Python's csv module, and their bytes make up the file, however it is read."""
    expected = [*csv.reader(io.StringIO(data.decode(), newline=""))]
    found, pending = [], b""
    for start in range(0, len(data), block):
        pending += data[start : start + block]
        cut, used = COMMA.cut(pending, start + block >= len(data))
        found += cut
        pending = pending[used:]
    if pending:  # a quote that is never closed: Python takes the rest of the file for the field
        assert expected[len(found)][-1] == COMMA.text(COMMA.fields(pending + b'"')[-1])
        expected = expected[: len(found)]
    assert b"".join(found) + pending == data
    assert expected == [
        [COMMA.text(field) for field in COMMA.fields(record)] if record.strip(b"\r\n") else [] for record in found
    ]


def written(table: Iterable[Iterable[str]], end: str, *, every: bool) -> bytes:
    """A CSV file; fields are quoted where they have to be, or all. Python's writer leaves some line ends bare."""

    def field(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if every or any(mark in text for mark in '",\r\n') else text

    return "".join(",".join(map(field, row)) + end for row in table).encode()


@given(st.lists(st.tuples(FIELDS, FIELDS, FIELDS), max_size=8), LINE_ENDS, st.booleans())
def test_other_cells_stay_as_they_are(table: list[tuple[str, str, str]], end: str, every: bool) -> None:
    """A changed column reads back as changed, all others as before; unchanged, the file is the same byte for byte."""
    form, lines = delimited(written([("a", "b", "c"), *table], end, every=every), "b=str")
    assert through(form, lines, lambda value: value).output == b"".join(lines)
    changed = through(form, lines, lambda value: value + '",\n')
    back = [*csv.reader(io.StringIO(changed.output.decode(), newline=""))]
    assert back == [[a, b + '",\n' if b else b, c] for a, b, c in table]
    assert changed.empty == sum(not b for _, b, _ in table)


@given(st.lists(st.tuples(FIELDS, FIELDS), max_size=5), LINE_ENDS, st.booleans())
def test_what_goes_there_comes_back(table: list[tuple[str, str]], end: str, every: bool) -> None:
    """Tokens put in and values put back give the bytes that there were."""
    form, lines = delimited(written([("a", "b"), *table], end, every=every), "a=str", "b=str")
    tokens = through(form, lines, lambda value: value.encode().hex()).output
    back = through(form, rows(tokens), lambda value: bytes.fromhex(value).decode()).output
    assert back == b"".join(lines)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'a,b\n1,"x"\n', b'a,b\n1,"new"\n'),
        (b'a,b\r\n"1",x\r\n', b'a,b\r\n"1",new\r\n'),
        (b"a,b\r1,x\r\r", b"a,b\r1,new\r\r"),
        (b"a,b\n\n1,x", b"a,b\n\n1,new"),
        (b'a,b\n"1\n2",x\n', b'a,b\n"1\n2",new\n'),
        (b'a,b\n1"2,x\n', b'a,b\n1"2,new\n'),
        (b"a,b\n1,\n", b"a,b\n1,\n"),
        (b'a,b\n1,""\n', b'a,b\n1,""\n'),
    ],
)
def test_cells_are_spliced(before: bytes, after: bytes) -> None:
    """A cell keeps its quotes; line ends, blank rows and a missing last line end are kept."""
    header, *_ = rows(before)
    form, lines = delimited(before, "b=str")
    assert header + through(form, lines, lambda _: "new").output == after


@pytest.mark.parametrize(
    ("data", "encoding"),
    [(b'a,b\n1,"x"y\n', "utf-8"), (b'a,b\n1,""x\n', "utf-8"), (b"a,b\n1,\x81\xca\n1,\xee\xf9\n", "cp932")],
)
def test_cells_that_would_not_come_back_are_refused(data: bytes, encoding: str) -> None:
    """A cell that is written in another way than its text would be, as in the last row, is an error where asked for."""
    dialect = Dialect(Encoding(encoding, b""), ",")
    form, lines = delimited(data, "b=str", dialect=dialect)
    done = through(form, lines, lambda value: value)
    assert (done.output, [problem.code for problem in done.problems]) == (b"".join(lines[:-1]), ["wrong_form"])
    other, lines = delimited(data, "a=str", dialect=dialect)
    assert through(other, lines, lambda value: value).output == b"".join(lines)


def test_rows_with_other_numbers_of_fields_are_not_done() -> None:
    """A row with more or fewer fields than the header could have its value anywhere: it is left out, and named."""
    form, lines = delimited(b"a,b,c\n1,2\n1,2,3\n1,2,3,4\n", "b=str")
    done = through(form, lines, lambda _: "new")
    assert done.output == b"1,new,3\n"
    assert [(problem.row, problem.column, problem.code) for problem in done.problems] == [
        (1, None, "wrong_fields"),
        (3, None, "wrong_fields"),
    ]


@pytest.mark.parametrize(
    ("data", "delimiter"),
    [
        (b'a,b,c\n1,"x\\"",one\n2,"y",two\n3,z,three\n', ","),  # quotes escaped by backslashes
        (b'a\tb\tc\r\n1\t"x\tone\r\n2\ty "z"\ttwo\r\n3\tz\tthree\r\n', "\t"),  # a file without quoting
        (b'a,b,c\n"1,x,one\n"2",y,two\n3,z,three\n', ","),
        (b'a,b,c\r1,"x\\"",one\r2,"y",two\r3,z,three\r', ","),
    ],
)
def test_rows_that_a_quote_may_have_joined_are_not_done(data: bytes, delimiter: str) -> None:
    """The value of a row that a quote has joined to the next row is not passed on in the clear: both are left out."""
    form, lines = delimited(data, "c=str", dialect=Dialect(UTF8, delimiter))
    [alone] = through(form, [lines[0].rstrip(b"\r\n")], lambda _: "new").problems
    assert alone.code == "wrong_fields"
    done = through(form, lines, lambda _: "new")
    assert done.output == lines[-1].replace(b"three", b"new")
    assert [(problem.row, problem.column, problem.code) for problem in done.problems] == [(1, None, "wrong_fields")]
    assert "--no-quotes" in done.problems[0].message


@pytest.mark.parametrize("name", ["nothing", "twice"])
def test_columns_have_to_be_there_once(name: str) -> None:
    """A column that is not there, or twice, is refused, and the message names those that are."""
    with pytest.raises(OperatorError, match="the columns are a, twice, twice"):
        delimited(b"a,twice,twice\n", f"{name}=str")


def test_names_in_messages_are_printable() -> None:
    """A file cannot have a terminal do something by the names of its columns."""
    with pytest.raises(OperatorError, match=r"the columns are \?\[31m, b$"):
        delimited(b"\x1b[31m,b\n", "a=str")
    with pytest.raises(OperatorError, match=r'the members are "\\u001b\[31m"$'):
        json_form("a=str", some=[b'{"\\u001b[31m":1}'])


def test_columns_by_number() -> None:
    """Without a header columns are numbers from 1."""
    lines = rows(b"1;2;3\n4;5;6\n", Dialect(UTF8, ";"))
    form = Delimited(Dialect(UTF8, ";"), [Column("3", "int32"), Column("1", "int64")], lines[0], header=False)
    assert through(form, lines, lambda value: value + 10).output == b"11;2;13\n14;5;16\n"


def test_without_quotes_a_quote_is_a_character() -> None:
    """Quotes are of no meaning where it is said so; an answer that would need them is an error of its row."""
    plain = Dialect(UTF8, "\t", quotes=False)
    form, lines = delimited(b'a\tb\n"\t"x\ny\tz\n', "b=str", dialect=plain)
    done = through(form, lines, lambda value: {'"x': '"'}.get(value, "\t"))
    assert done.output == b'"\t"\n'
    assert [problem.code for problem in done.problems] == ["wrong_form"]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("int32", "-2147483648", -(2**31)),
        ("int64", "9223372036854775807", 2**63 - 1),
        ("str", " x", " x"),
        ("bytes", "AAE=", b"\0\1"),
        ("email", "a@b.example", "a@b.example"),
    ],
)
def test_texts_are_values(kind: str, text: str, value: Any) -> None:
    """A text is the value that is written as it."""
    assert READ[kind](text) == value
    assert WRITE[kind](value) == text


@pytest.mark.parametrize(
    ("kind", "text", "code"),
    [
        *(("int64", text, "wrong_form") for text in ("007", "+5", " 5", "5 ", "1.0", "1e3", "-0", "", "٣", "0x1", "x")),
        ("int32", "2147483648", "value_out_of_range"),
        ("int64", "9" * 100, "value_out_of_range"),
        *(("bytes", text, "wrong_form") for text in ("AAE", "AAE=\n", "AAF=", "A A=", "é", "")),
    ],
)
def test_texts_that_would_not_come_back_are_refused(kind: str, text: str, code: str) -> None:
    """A cell that is not written in the form of its type is an error."""
    with pytest.raises(RowError) as refused:
        READ[kind](text)
    assert refused.value.code == code


def test_refusals_are_told_by_row_and_column() -> None:
    """A row whose value is refused is left out; others of the chunk are not."""
    form, lines = delimited(b"a,b\nx,1\ny,2\nx,07\n", "a=str", "b=int32")
    refused = refusal("value_too_large", "a reason")
    done = through(form, lines, lambda value: refused if value == "y" else value)
    assert done.output == b"x,1\n"
    assert [(problem.row, problem.column, problem.code) for problem in done.problems] == [
        (2, "a", "value_too_large"),
        (3, "b", "wrong_form"),
    ]
    assert done.lost == 2


def test_values_are_sent_once_unless_each_gets_its_own_token() -> None:
    """A value that occurs several times is sent once for each chunk. With inconsistent tokens, each gets its own."""
    form, lines = delimited(b"a,b\nx,x\ny,\n\nx,y\n0\nx,z\n", "a=str", "b=str")
    for dedupe, count in ((True, 5), (False, 7)):
        [chunk] = chunks(form, [lines], 0, dedupe=dedupe)
        assert len(chunk.items) == count
        answers = [str(value) + str(place) for place, (_, value, *_) in enumerate(chunk.items)]
        seen = {True: b"x0,x2\ny1,\n\nx0,y3\nx0,z4\n", False: b"x0,x4\ny1,\n\nx2,y5\nx3,z6\n"}
        assert chunk.finish(answers).output == seen[dedupe]


@pytest.mark.parametrize("dedupe", [True, False])
def test_nothing_of_a_row_that_cannot_be_done_is_sent(dedupe: bool) -> None:
    """Neither the cell that is wrong nor its neighbours; what becomes of these elsewhere is none of this row's."""
    form, lines = delimited(b"a,b\nx,07\ny,1\nz,2\nx,3\n", "a=str", "b=int32")
    [chunk] = chunks(form, [lines], 0, dedupe=dedupe)
    assert [value for _, value, *_ in chunk.items] == ["y", "z", "x", 1, 2, 3]
    done = chunk.finish(["Y", "Z", refusal("value_too_large", "a reason"), 10, 20, 30])
    assert done.output == b"Y,10\nZ,20\n"
    assert [(problem.row, problem.column, problem.code) for problem in done.problems] == [
        (1, "b", "wrong_form"),
        (4, "a", "value_too_large"),
    ]


def test_chunks_are_bounded() -> None:
    """A chunk ends when it has the values of a request, or bytes enough."""
    form, lines = delimited(b"a\n" + b"".join(b"%d\n" % number for number in range(2500)), "a=int32")
    assert [len(chunk.items) for chunk in chunks(form, [lines], 0, dedupe=True)] == [CHUNK_ITEMS, CHUNK_ITEMS, 500]
    form, lines = delimited(b"a\n" + (b"x" * 300_000 + b"\n") * 3, "a=str")
    assert [chunk.rows for chunk in chunks(form, [lines], 0, dedupe=True)] == [1, 1, 1]


# -- records and encodings


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "utf-8", "cp1252"])
def test_encodings_are_kept(encoding: str) -> None:
    """Unchanged text has the same bytes in the output as in the input; sizes are those in the file."""
    data = 'a,b\r\n"é\n",x\r\n\r\nü,€'.encode(encoding)
    kept = Encoding(None if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF8)) else encoding, data[:4])
    dialect = Dialect(kept, ",")
    file = io.BytesIO(data[len(kept.mark) :])
    [[header, *lines]] = Records(file, kept, dialect.cut).blocks()
    form = Delimited(dialect, [Column("b", "str")], header, header=True)
    assert kept.mark + kept.written(header) + through(form, lines, lambda line: line).output == data
    assert len(kept.mark) + kept.size(header) + sum(map(kept.size, lines)) == len(data)
    new = kept.mark + kept.written(header) + through(form, lines, lambda _: "ß").output
    assert new == 'a,b\r\n"é\n",ß\r\n\r\nü,ß'.encode(encoding)


def all_encodings() -> list[str]:
    return sorted({*encodings.aliases.aliases.values()})


@pytest.mark.parametrize("name", all_encodings())
def test_encodings_that_are_taken_keep_rows_apart(name: str) -> None:
    """An encoding that Python knows is refused, or no character of it is taken for a delimiter, quote or line end."""
    try:
        dialect = Dialect(Encoding(name, b""), "|")
    except OperatorError:
        return
    letters = [chr(number) for number in range(0xA0, 0x3000)] + [chr(number) for number in range(0x4E00, 0x5400)]
    known = []
    for letter in letters:
        try:
            known.append((letter.encode(name), letter))
        except UnicodeEncodeError:
            continue
    text = "".join(letter for _, letter in known)
    [record] = rows(dialect.encoding.written(text.encode(dialect.encoding.cells) + b"|x\n"), dialect)
    first, second = dialect.fields(record)
    assert (dialect.text(first), second) == (text, b"x")


@pytest.mark.parametrize("name", ["cp037", "utf-7", "iso2022_jp", "hz", "idna", "rot13", "base64", "no-such"])
def test_other_encodings_are_refused(name: str) -> None:
    """Encodings that do not hold ASCII as it is, and what is none, are refused."""
    with pytest.raises(OperatorError, match="does not contain ASCII"):
        Encoding(name, b"")


def test_cells_outside_the_encoding_are_errors_of_their_rows() -> None:
    """A cell or an answer that the encoding does not have costs its row alone, and the error says what to do."""
    form, lines = delimited(b"a\n\xff\nx\n", "a=str")
    done = through(form, lines, lambda _: "new")
    assert (done.output, [problem.code for problem in done.problems]) == (b"new\n", ["wrong_encoding"])
    assert "--encoding" in done.problems[0].message
    latin = Dialect(Encoding("latin-1", b""), ",")
    form, lines = delimited(b"a\nx\n\xff\n", "a=str", dialect=latin)
    done = through(form, lines, lambda value: "€" if value == "x" else value)
    assert (done.output, [problem.code for problem in done.problems]) == (b"\xff\n", ["wrong_encoding"])
    assert "convert the file to utf-8" in done.problems[0].message


@pytest.mark.parametrize("data", [b"a,b\n" + b"x" * (ROW_BYTES + 1), b'a,b\n"' + b"x,\n" * ROW_BYTES, b'a\n"x'])
def test_rows_without_end_are_named(data: bytes) -> None:
    """A row over the limit, or a quote that is never closed, ends the run, naming the row."""
    with pytest.raises(CheckFailed, match="row 2"):
        rows(data)


@pytest.mark.parametrize(
    "data",
    [b'"' * ROW_BYTES, b'"a"' * (ROW_BYTES // 3), b"," * ROW_BYTES, b'"",' * (ROW_BYTES // 3), b'""' * 999 + b"\n"],
)
def test_hostile_rows_take_linear_time(data: bytes) -> None:
    """Millions of quotes or delimiters are one look each: the test's own time-out would end a second one."""
    form, _ = delimited(b"a,b\n", "b=str")
    for record in rows(data):
        with pytest.raises(RowError):
            form.split_row(record)


def test_long_rows_are_read_in_blocks() -> None:
    """Rows longer than a block are whole, and CR LF across its border is one line end."""
    for length in range(BLOCK_BYTES - 3, BLOCK_BYTES + 3):
        data = b"a" * length + b"\r\n" + b"b" * 3 * BLOCK_BYTES + b"\r\nc"
        assert rows(data) == [b"a" * length + b"\r\n", b"b" * 3 * BLOCK_BYTES + b"\r\n", b"c"]


# -- JSON Lines


def lines_of(data: bytes) -> list[bytes]:
    return [*chain.from_iterable(Records(io.BytesIO(data), UTF8, json_lines.cut).blocks())]


def json_form(*columns: str, some: Iterable[bytes] = (), op: Op = Op.TOKENIZE, numbers: bool = False) -> JsonLines:
    return JsonLines(UTF8, [Column(*text.split("=")) for text in columns], some, op=op, numbers=numbers)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=5), st.booleans(), st.sampled_from([None, 1]))
def test_members_are_found_where_they_stand(record: dict[str, Any], is_ascii: bool, indent: int | None) -> None:
    """Each member's value is found, whatever stands around it, and whatever objects are within it."""
    line = json.dumps(record, ensure_ascii=is_ascii, separators=(" , ", " : ") if indent else None).encode(
        "utf-8", "surrogatepass"
    )
    found = json_lines.members(line)
    assert [name for name, _, _ in found] == [*record]
    assert [json.loads(line[start:end]) for _, start, end in found] == [*record.values()]


def test_only_values_are_spliced() -> None:
    """Spaces, order, forms of numbers and escapes stay; a number stays a number, a text stays text; null is kept."""
    data = b'{"a": 1, "x" :1.50e1,"b":"1","c":{"a":7}}\r\n\n  {"b":null, "u":"\\u00e9"} \n{"\\u0061":"2","b":""}'
    lines = lines_of(data)
    done = through(json_form("a=int64", "b=int64", some=lines, numbers=True), lines, lambda value: value + 10)
    assert done.output == (
        b'{"a": 11, "x" :1.50e1,"b":"11","c":{"a":7}}\r\n\n  {"b":null, "u":"\\u00e9"} \n{"\\u0061":"12","b":""}'
    )
    assert done.empty == 2


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{", "wrong_json"),
        (b"[]", "wrong_json"),
        (b'{"a":"x" "a":"y"}', "wrong_json"),
        (b'{"a":"x"}{"a":"y"}', "wrong_json"),
        (b'{"a":"x","a":"y"}', "wrong_json"),
        (b'{"a":"x","\\u0061":"y"}', "wrong_json"),
        (b'{"a":"x",}', "wrong_json"),
        (b'{"a":"\xff"}', "wrong_json"),
        (b'{"a":"\\ud800"}', "wrong_json"),
        (b'{"a":1}', "wrong_form"),
        (b'{"a":true}', "wrong_form"),
        (b'{"a":{}}', "wrong_form"),
        (b'{"a":[]}', "wrong_form"),
    ],
)
def test_lines_that_cannot_be_done(line: bytes, code: str) -> None:
    """A line that is no object, has a member twice, or has a wrong kind of value, is an error of its row."""
    done = through(json_form("a=str"), [line], lambda _: "new")
    assert (done.output, [problem.code for problem in done.problems]) == (b"", [code])


def test_line_in_another_encoding_is_told() -> None:
    """A line in Latin-1 looks like JSON to its reader: the error is that it is not UTF-8."""
    [problem] = through(json_form("a=str"), [b'{"a":"\xe9"}\n'], lambda _: "new").problems
    assert (problem.code, problem.message) == ("wrong_json", "expected text in UTF-8")


@pytest.mark.parametrize("cell", [b"1.0", b"1e3", b"-0", b'"01"', b"false", b"2147483648"])
def test_numbers_in_json_have_one_form(cell: bytes) -> None:
    """A number that would not come back as it stands there is an error of its row."""
    done = through(json_form("a=int32"), [b'{"a":%s}' % cell], lambda _: 1)
    assert (done.output, len(done.problems)) == (b"", 1)


NUMBERS = [0, -1, 2**53 + 1, 2**63 - 1, -(2**63)]


@pytest.mark.parametrize("numbers", [False, True])
def test_tokens_of_large_numbers_are_texts(numbers: bool) -> None:
    """Readers of JSON round numbers of 19 digits: an int64 token is text unless it is asked for; the value comes back.

    Values of type ``int32`` are small enough for all.
    """
    lines = [b'{"a":%d, "b":7}\n' % number for number in NUMBERS]
    tokens = through(json_form("a=int64", "b=int32", numbers=numbers), lines, lambda value: value ^ 1).output
    quote = b"" if numbers else b'"'
    assert tokens == b"".join(b'{"a":%s%d%s, "b":6}\n' % (quote, number ^ 1, quote) for number in NUMBERS)
    form = json_form("a=int64", "b=int32", op=Op.DETOKENIZE, numbers=numbers)
    assert through(form, lines_of(tokens), lambda value: value ^ 1).output == b"".join(lines)


def test_texts_of_numbers_are_told_from_numbers() -> None:
    """A text of type int64 would come back as a number: it is refused, or with numbers kept as a text, both ways."""
    lines = [b'{"a":"12"}\n', b'{"a":12}\n', b'{"a":""}\n', b'{"a":null}\n']
    done = through(json_form("a=int64"), lines, lambda value: value + 1)
    assert done.output == b'{"a":"13"}\n{"a":""}\n{"a":null}\n'
    assert [(problem.row, problem.code, "--numbers" in problem.message) for problem in done.problems] == [
        (1, "wrong_form", True)
    ]
    tokens = through(json_form("a=int64", numbers=True), lines, lambda value: value + 1).output
    assert tokens == b'{"a":"13"}\n{"a":13}\n{"a":""}\n{"a":null}\n'
    back = json_form("a=int64", op=Op.DETOKENIZE, numbers=True)
    assert through(back, lines_of(tokens), lambda value: value - 1).output == b"".join(lines)


def test_number_tokens_of_either_form_are_turned_back() -> None:
    """A token that is a number, from a run with numbers, is read as well as a text."""
    form = json_form("a=int64", op=Op.DETOKENIZE)
    assert through(form, [b'{"a":13}\n', b'{"a":"13"}\n'], lambda value: value - 1).output == b'{"a":12}\n{"a":12}\n'


@pytest.mark.parametrize("dedupe", [True, False])
def test_members_of_nested_objects_are_changed(dedupe: bool) -> None:
    """Objects and lists are gone into by the path; all else, and what is not there or null, stays byte for byte."""
    data = (
        b'{"zip":"n", "address" : {"zip":"a","k":{"zip":"n"}} ,"items":[{"iban":"b"}, {"x":1},{"iban":null}],"t":[]}\n'
        b'{"items":[],"address":null}\n'
        b'{"items":null,"t":["b" , "c",""],"address":{"z":1}}\n'
        b'{"t":[null,"a"],"items":[ {"iban":"a"},{"iban":"b","q":[{"iban":"n"}]} ]}'
    )
    lines = lines_of(data)
    form = json_form("address.zip=str", "items[].iban=str", "t[]=str", some=lines)
    done = through(form, lines, str.upper, dedupe=dedupe)
    assert done.output == (data.replace(b'"a"', b'"A"').replace(b'"b"', b'"B"').replace(b'"c"', b'"C"'))
    assert (done.problems, done.empty) == ([], 3)


def test_each_element_gets_its_answer() -> None:
    """Cells of a list get their answers in order, also in inconsistent runs. A refusal costs the row, told once."""
    lines = [b'{"l":["x","x","y"],"m":[[1],[2,3]]}\n', b'{"l":["x","bad","bad"]}\n', b'{"l":["x"]}\n']
    form = json_form("l[]=str", "m[][]=int32", some=lines)
    [chunk] = chunks(form, [lines], 0, dedupe=False)
    assert [value for _, value, *_ in chunk.items] == ["x", "x", "y", "x", "bad", "bad", "x", 1, 2, 3]
    refused = refusal("value_too_large", "a reason")
    done = chunk.finish(["1", "2", "3", "4", refused, refused, "5", 10, 20, 30])
    assert done.output == b'{"l":["1","2","3"],"m":[[10],[20,30]]}\n{"l":["5"]}\n'
    assert [(problem.row, problem.column, problem.code) for problem in done.problems] == [(2, "l[]", "value_too_large")]


def test_items_have_the_format_of_their_column() -> None:
    """The items of a column with a format name it. Other items are as before."""
    header, *lines = rows(b"a,card,n\nx,4,1\ny,5,2\n")
    columns = [Column("n", "int32"), Column("card", "str", "pan"), Column("a", "str")]
    [chunk] = chunks(Delimited(COMMA, columns, header, header=True), [lines], 0, dedupe=True)
    assert chunk.items == [
        ("str", "x"),
        ("str", "y"),
        Item("str", "4", None, "pan"),
        Item("str", "5", None, "pan"),
        ("int32", 1),
        ("int32", 2),
    ]


@pytest.mark.parametrize("dedupe", [True, False])
def test_tokens_of_another_format_are_told_by_column_and_row(dedupe: bool) -> None:
    """Each cell of a row in the output is told, also where a value occurs again. The tokens are written."""
    form, lines = delimited(b"a,b\nx,1\nx,2\ny,x\n,\nx,bad\n", "a=str", "b=str")

    def answer(value: str) -> Any:
        return (
            refusal("format_conflict", "a reason")
            if value == "bad"
            else OtherFormat(f"t{value}")
            if value in "x1"
            else value
        )

    done = through(form, lines, answer, dedupe=dedupe)
    assert done.output == b"tx,t1\ntx,2\ny,tx\n,\n"
    assert done.other_format == {"a": [1, 2], "b": [1, 3]}
    assert [(problem.row, problem.column, problem.code) for problem in done.problems] == [(5, "b", "format_conflict")]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("$.items[292].value: expected 13 to 19 digits", "expected 13 to 19 digits"),
        ("$.items[0]: expected an object", "expected an object"),
        ("a reason", "a reason"),
        ("expected $.items[0].value: or so", "expected $.items[0].value: or so"),
    ],
)
def test_problems_have_no_path_in_the_request(message: str, expected: str) -> None:
    """The number of an item in its request says nothing to the user of a file. Row and column are told instead."""
    form, lines = delimited(b"a\nx\n", "a=str")
    [problem] = through(form, lines, lambda _: refusal("value_out_of_range", message)).problems
    assert problem == (1, "a", "value_out_of_range", expected)


def test_tokens_of_another_format_in_lists_are_told() -> None:
    """Each element is told with its row, and the JSON text is written as usual."""
    lines = [b'{"l":["x","y","x"]}\n', b'{"l":["x"]}\n']
    done = through(json_form("l[]=str", some=lines), lines, lambda value: OtherFormat("t") if value == "x" else value)
    assert done.output == b'{"l":["t","y","t"]}\n{"l":["t"]}\n'
    assert done.other_format == {"l[]": [1, 1, 2]}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"a":"x"}', "a: expected an object or null"),
        (b'{"a":[{"b":"x"}]}', "a: expected an object or null"),
        (b'{"a":{"l":{"c":"x"}}}', "a.l: expected a list or null"),
        (b'{"a":{"l":["x"]}}', r"a.l\[\]: expected an object or null"),
        (b'{"a":{"b":"x","b":"y"}}', "a member occurs twice"),
    ],
)
def test_values_of_another_shape_are_not_passed_over(line: bytes, complaint: str) -> None:
    """If a path leads to another shape, values could stay in the clear: the row is left out, and its path is named."""
    form = json_form("a.b=str", "a.l[].c=str")
    done = through(form, [line], lambda _: "new")
    assert (done.output, done.lost) == (b"", 1)
    with pytest.raises(RowError, match=complaint):
        form.split_row(line)


def test_names_with_dots_are_quoted() -> None:
    """A name that has a dot, a bracket or a quote in it is written as JSON text; messages write it so, too."""
    line = b'{"a.b":"x","c":{"d[]":"y","\\u00e9 \\"":["z"]}}'
    form = json_form('"a.b"=str', 'c."d[]"=str', r'c."\u00e9 \""[]=str', some=[line])
    assert through(form, [line], str.upper).output == b'{"a.b":"X","c":{"d[]":"Y","\\u00e9 \\"":["Z"]}}'
    with pytest.raises(
        OperatorError, match=r'no row has a member a\.b; the members are "a\.b", c\."d\[\]", c\."é \\""\[\]$'
    ):
        json_form("a.b=str", some=[line])


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["a..b"], "not a path to a member"),
        (["a."], "not a path to a member"),
        ([".a"], "not a path to a member"),
        (["[]"], "not a path to a member"),
        (["a[0]"], "not a path to a member"),
        (["a[]b"], "not a path to a member"),
        (['"a'], "not a path to a member"),
        (['"\\x"'], "not JSON text"),
        (["a", "a.b"], "one is inside the other"),
        (["a.b", "a"], "one is inside the other"),
        (["a[]", "a"], "one is inside the other"),
        (["a", '"a"'], "is the same as another"),
    ],
)
def test_names_that_are_none_are_refused(names: list[str], complaint: str) -> None:
    """A path that leads nowhere for sure, or into another, is refused before any row is read."""
    with pytest.raises(OperatorError, match=complaint):
        json_form(*(f"{name}=str" for name in names))


PATHS = st.sampled_from(["a", "b[]", "c.a", "c.b", "d[].a", "d[].c[]", 'e."f.g"'])
SHAPES = st.fixed_dictionaries(
    {},
    optional={
        "a": st.text(max_size=3) | st.none(),
        "b": st.lists(st.text(max_size=3) | st.none(), max_size=3) | st.none(),
        "c": st.fixed_dictionaries({}, optional={"a": st.text(max_size=3), "b": st.none(), "x": JSON}) | st.none(),
        "d": st.lists(
            st.fixed_dictionaries(
                {}, optional={"a": st.text(max_size=3), "c": st.lists(st.text(max_size=2), max_size=2)}
            )
        ),
        "e": st.fixed_dictionaries({}, optional={"f.g": st.text(max_size=3), "f": JSON}),
        "z": JSON,
    },
)


def upper(record: Any, path: Sequence[str], changed: Callable[[str], str]) -> Any:
    """Return a record with a changed value at a path: a second implementation."""
    if not path:
        return changed(record) if record else record
    if record is None:
        return None
    if path[0] == "[]":
        return [upper(value, path[1:], changed) for value in record]
    return {name: upper(value, path[1:], changed) if name == path[0] else value for name, value in record.items()}


STEPS = {
    "a": ["a"], "b[]": ["b", "[]"], "c.a": ["c", "a"], "c.b": ["c", "b"], "d[].a": ["d", "[]", "a"],
    "d[].c[]": ["d", "[]", "c", "[]"], 'e."f.g"': ["e", "f.g"],
}  # fmt: skip


@given(st.lists(SHAPES, max_size=4), st.sets(PATHS, min_size=1), st.booleans(), st.booleans())
def test_nested_values_go_there_and_come_back(
    records: list[dict[str, Any]], paths: set[str], is_ascii: bool, dedupe: bool
) -> None:
    """Exactly the values at the paths are changed, and after detokenizing all bytes are as they were."""
    lines = [json.dumps(record, ensure_ascii=is_ascii).encode() + b"\n" for record in records]
    names = [f"{path}=str" for path in sorted(paths)]
    done = through(json_form(*names), lines, lambda value: "<" + value, dedupe=dedupe)
    expected = records
    for path in paths:
        expected = [upper(record, STEPS[path], lambda value: "<" + value) for record in expected]
    assert [json.loads(line) for line in lines_of(done.output)] == expected
    back = through(json_form(*names, op=Op.DETOKENIZE), lines_of(done.output), lambda value: value[1:])
    assert [json.loads(line) for line in lines_of(back.output)] == records
    if not is_ascii:
        assert back.output == b"".join(lines)


def test_misspelt_members_are_refused() -> None:
    """A member that no row has is refused, with the names there are; one that any row has is fine, a null too."""
    lines = [b'{"a":1}\n', b'{"mail":null}\n']
    with pytest.raises(OperatorError, match=r"no row has a member email; the members are a, mail"):
        json_form("a=int32", "email=email", some=lines)
    with pytest.raises(OperatorError, match=r"no row has a member email$"):
        json_form("email=email", some=[b'{"mail":[]}'])
    json_form("mail=email", some=lines)


@pytest.mark.parametrize("data", [b'[\n  {"a":\n    1}\n]', b"{\n}\n", b"a,b\n1,2\n"])
def test_what_is_no_json_lines_is_told(data: bytes) -> None:
    """A file of which no line is an object, as one that is written over several lines, is refused as a whole."""
    with pytest.raises(OperatorError, match="no line is a JSON object with members"):
        json_form("a=str", some=lines_of(data))


def test_deep_lines_take_linear_time() -> None:
    """A line nested deeper than it is read costs its row, not the run."""
    line = b'{"x":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b',"a":"x"}'
    assert through(json_form("a=str"), [line], lambda _: "new").lost == 1


# -- suggestions


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-20", None, ""], "int32"),
        (["1", "99999999999"], "int64"),
        (["ada@navy.example", "grace@navy.example"], "email"),
        (["ada@navy.example", "no address"], "str"),
        (["a@b@c.example"], "str"),
        (["4242424242424242", "4242424242424243"], "str"),
        (["1", "007"], "str"),
        (["1.5"], "str"),
        ([None, ""], None),
        ([], None),
    ],
)
def test_types_are_guessed(values: list[str | None], kind: str | None) -> None:
    """A column is a number or an address only if all its values are; digits of one length are text."""
    assert [column.type for column in suggest({"column": Sample(values)}, {})] == [kind]


def test_types_are_guessed_among_those_that_a_column_may_have() -> None:
    """A column of numbers is never suggested as text, nor one of text as a number."""
    [found] = suggest({"column": Sample(["1", "x"], [TypeName.INT32, TypeName.INT64])}, {})
    assert found.type is None
    [found] = suggest({"column": Sample(["1"], [TypeName.EMAIL, TypeName.STR])}, {})
    assert found.type is TypeName.STR


@given(st.text(min_size=1))
def test_examples_are_masked(text: str) -> None:
    """An example shows only the kinds of its characters."""
    assert not {character for character in mask(text) if character.isalnum()} - {"x", "9"}
    assert len(mask(text)) <= 31
