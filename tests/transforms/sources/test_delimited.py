import csv
import gzip
import io
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.rejects import Reason, Reject
from transforms.sources import (
    BadFile,
    BlankLine,
    ReadOptions,
    Row,
    chunks,
    columns_of,
    delimited,
    read_rows,
    record_ends,
)

IDS = ReadOptions(id_column="id")
HEADER = b"id,text\n"


def read(piece, options: ReadOptions = IDS) -> list:
    return list(read_rows(piece, options))


def short(items: list) -> list:
    """Texts of the good rows, reasons and raw bytes of the others, each with its offset."""
    return [(i.offset, i.text) if isinstance(i, Row) else (i.offset, i.reason, i.raw) for i in items]


def bad_file(piece, options: ReadOptions = IDS) -> str:
    with pytest.raises(BadFile) as error:
        read(piece, options)
    assert error.value.uri == piece.file.uri
    return error.value.reason


def test_rows_carry_their_number_their_id_and_what_is_kept(write) -> None:
    content = b'k,text,id,\xc3\xa9\r\n1,"a, ""b""",x,\r\n,c,y,"d\r\ne"'
    found = read(write("a.csv", content), ReadOptions(id_column="id", keep_columns=("é", "k")))
    assert found == [Row(0, 'a, "b"', "x", ("", "1")), Row(1, "c", "y", ("d\r\ne", ""))]


def test_tsv_has_the_same_rules_with_tabs(write) -> None:
    assert read(write("a.tsv", b'id\ttext\n1\ta,b\n2\t"c\td"\n')) == [Row(0, "a,b", "1", ()), Row(1, "c\td", "2", ())]


def test_a_bom_belongs_to_no_column_name(write) -> None:
    assert read(write("a.csv", b"\xef\xbb\xbf" + HEADER + b"1,a\n")) == [Row(0, "a", "1", ())]
    assert read(write("a.csv", b'\xef\xbb\xbf"text"\na\n'), ReadOptions()) == [Row(0, "a", None, ())]


def test_nul_is_kept(write) -> None:
    assert read(write("a.csv", HEADER + b"1,a\0b\n")) == [Row(0, "a\0b", "1", ())]


def test_empty_lines_are_no_rows_and_take_no_number(write) -> None:
    assert read(write("a.csv", b"\n" + HEADER + b"\n1,a\n\r\n2,b\n\n")) == [
        BlankLine(0),
        Row(0, "a", "1", ()),
        BlankLine(1),
        Row(1, "b", "2", ()),
        BlankLine(2),
    ]


@pytest.mark.parametrize(
    ("line", "reason", "error"),
    [
        (b"1", Reason.WRONG_WIDTH, "1 fields, the header has 2"),
        (b"1,a,b", Reason.WRONG_WIDTH, "3 fields, the header has 2"),
        (b"1,", Reason.BLANK_TEXT, "field 'text' is blank"),
        (b'1," "', Reason.BLANK_TEXT, "field 'text' is blank"),
        (b",a", Reason.MISSING_ID, "id field 'id' is blank"),
        (b"1,\xff", Reason.INVALID_UTF8, "the row is no UTF-8"),
        (b"1,a\rb", Reason.BROKEN_CSV, "new-line character seen in unquoted field"),
        (b'1,"a"b"c,"d', Reason.BROKEN_CSV, "its quote is never closed"),
        (b"1," + b"x" * 5000, Reason.TOO_LARGE, "a line of more than 4000 bytes (--max_record_bytes)"),
    ],
)
def test_a_bad_row_is_rejected_with_its_reason_and_the_rest_goes_on(write, line, reason, error) -> None:
    piece = write("a.csv", HEADER + b"0,good\n" + line + b"\n2,good\n")
    expected = Reject("a.csv", 1, "read", reason, error, line[:1024])
    options = ReadOptions(id_column="id", max_record_bytes=4000)
    assert read(piece, options) == [Row(0, "good", "0", ()), expected, Row(2, "good", "2", ())]


def test_invalid_utf8_in_a_row_of_several_lines_rejects_that_row(write) -> None:
    found = read(write("a.csv", HEADER + b'1,"a\n\xff\nb"\n2,c\n'))
    assert short(found) == [(0, Reason.INVALID_UTF8, b'1,"a\n\xff\nb"'), (1, "c")]


def test_text_after_a_closing_quote_is_read_as_python_reads_it(write) -> None:
    assert short(read(write("a.csv", HEADER + b'1,"a" b\n'))) == [(0, "a b")]


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        # the quote is never closed
        (b'1,"a\n2,b\n3,c\n', [(0, Reason.BROKEN_CSV, b'1,"a'), (1, "b"), (2, "c")]),
        # two of them: what is between them must not become a part of one long text
        (
            b'1,"a\n2,b\n3,"c\n4,d\n',
            [(0, Reason.BROKEN_CSV, b'1,"a'), (1, "b"), (2, Reason.BROKEN_CSV, b'3,"c'), (3, "d")],
        ),
        # closed as it should be, so all of it is one row, which has too many fields
        (b'1,"a\n2,b",c\n3,d\n', [(0, Reason.WRONG_WIDTH, b'1,"a\n2,b",c'), (1, "d")]),
        # what follows may have good quotes, over several lines
        (b'1,"a\n2,"b\nc"\n3,d\n', [(0, Reason.BROKEN_CSV, b'1,"a'), (1, "b\nc"), (2, "d")]),
        # at the last line
        (b'1,a\n2,"b', [(0, "a"), (1, Reason.BROKEN_CSV, b'2,"b')]),
    ],
)
def test_a_stray_quote_costs_its_own_line_and_no_other(write, lines: bytes, found: list) -> None:
    assert short(read(write("a.csv", HEADER + lines))) == found


LIMITS = "(--max_record_bytes) or 100,000 lines"
AGAIN = "; the lines after the row's first are read again"


def test_a_row_of_several_lines_above_the_limit_is_passed_over_whole(write) -> None:
    lines = b'1,"a\n' + b"2,b\n" * 100 + b'3,c"\n4,d\n'
    found = read(write("a.csv", HEADER + lines), ReadOptions(id_column="id", max_record_bytes=200))
    error = f"a record of more than 200 bytes {LIMITS}"
    assert found == [Reject("a.csv", 0, "read", Reason.TOO_LARGE, error, lines[:200]), Row(1, "d", "4", ())]


def test_a_row_of_exactly_the_limit_is_good_and_one_byte_more_is_not(write) -> None:
    piece = write("a.csv", HEADER + b'1,"' + b"a" * 10 + b"\n" + b"b" * 10 + b'"\n')
    at_limit = read(piece, ReadOptions(id_column="id", max_record_bytes=25))
    assert [i.text for i in at_limit] == ["a" * 10 + "\n" + "b" * 10]
    above = read(piece, ReadOptions(id_column="id", max_record_bytes=24))
    assert [i.reason for i in above] == [Reason.TOO_LARGE]


def test_a_row_of_more_lines_than_may_be_held_is_passed_over_whole(write) -> None:
    content = b'text\nfirst\n"' + b"a line\n" * 100_001 + b'"\nlast\n'
    assert [(i.offset, i.text) for i in read(write("a.csv", content), ReadOptions()) if isinstance(i, Row)] == [
        (0, "first"),
        (2, "last"),
    ]


def test_a_row_of_the_wrong_width_is_passed_over_whole(write) -> None:
    row = b'2,"Dear all,\nhello, world\nbye",oops'
    found = read(write("a.csv", HEADER + b"1,ok\n" + row + b"\n3,fine\n"))
    assert short(found) == [(0, "ok"), (1, Reason.WRONG_WIDTH, row), (2, "fine")]


@pytest.mark.parametrize(
    ("row", "first"),
    [
        (b'1,"' + b"x" * 5000 + b'\nhello, world\nbye"', b'1,"' + b"x" * 1021),
        (b'1,"a\nhello, ' + b"x" * 5000 + b'\nbye"', b'1,"a'),
        (b'1,"a\nhello, ' + b"x" * 500_000 + b'""\nbye"', b'1,"a'),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_a_row_that_holds_a_line_above_the_limit_is_passed_over_whole(write, row: bytes, first: bytes, name) -> None:
    content = HEADER + row + b"\n2,b\n" + row + b"\n3,c\n"
    piece = write(name, gzip.compress(content) if name.endswith(".gz") else content)
    found = read(piece, ReadOptions(id_column="id", max_record_bytes=4000))
    assert short(found) == [(0, Reason.TOO_LARGE, first), (1, "b"), (2, Reason.TOO_LARGE, first), (3, "c")]


def test_a_long_line_whose_quote_is_never_closed_costs_itself_alone(write) -> None:
    content = HEADER + b'1,"' + b"x" * 5000 + b"\n2,b\n3,c\n"
    found = read(write("a.csv", content), ReadOptions(id_column="id", max_record_bytes=4000))
    error = f"a line of more than 4000 bytes (--max_record_bytes); its quote is never closed{AGAIN}"
    assert found == [
        Reject("a.csv", 0, "read", Reason.TOO_LARGE, error, (b'1,"' + b"x" * 5000)[:1024]),
        Row(1, "b", "2", ()),
        Row(2, "c", "3", ()),
    ]


def test_a_field_above_python_s_own_limit_of_128_kib_is_read(write) -> None:
    text = "x" * 300_000
    assert read(write("a.csv", HEADER + b'1,"' + text.encode() + b'"\n')) == [Row(0, text, "1", ())]


@pytest.mark.parametrize("line", [b'a",b,"c\n', b'1,"a\n', b'x,"""y\n', b'"\n', b'1,"a ""b\n', b'1,"a\n\n\n\n\n'])
@pytest.mark.parametrize("limit", [1000, 1 << 20])
def test_a_file_full_of_stray_quotes_is_not_read_again_from_each(line: bytes, limit: int, write, monkeypatch) -> None:
    pulled, ahead = 0, 0
    pull, chunks = delimited._LineFeed.__next__, record_ends.read_chunks

    def counted(self) -> str:
        nonlocal pulled
        pulled += 1
        return pull(self)

    def counted_chunks(piece) -> Iterator[bytes]:
        nonlocal ahead
        for chunk in chunks(piece):
            ahead += len(chunk)
            yield chunk

    monkeypatch.setattr(delimited._LineFeed, "__next__", counted)
    monkeypatch.setattr(record_ends, "read_chunks", counted_chunks)
    content = HEADER + line * 10_000
    found = read(write("a.csv", content), ReadOptions(id_column="id", max_record_bytes=limit))
    assert len(found) >= 5_000
    assert pulled <= 4 * content.count(b"\n")
    assert ahead <= len(content)


def test_a_good_row_of_any_size_comes_through_after_many_stray_quotes(write) -> None:
    text = "x" * 9000 + "\n" + "y" * 9000
    piece = write("a.csv", HEADER + b'1,"a\n' * 60 + b'2,b\n3,"' + text.encode() + b'"\n')
    found = read(piece, ReadOptions(id_column="id", max_record_bytes=20_000))
    assert [i.reason for i in found[:60]] == [Reason.BROKEN_CSV] * 60
    assert [i.text for i in found[60:]] == ["b", text]


def test_a_missing_or_doubled_column_is_a_bad_file_that_lists_the_columns(write) -> None:
    piece = write("a.csv", b"a, text,b,b\n1,2,3,4\n")
    listed = "in the header row; there are 'a', ' text', 'b', 'b'"
    assert bad_file(piece, ReadOptions()) == f"no column 'text' {listed}"
    assert bad_file(piece, ReadOptions(text_column="a", id_column="id")) == f"no column 'id' {listed}"
    assert bad_file(piece, ReadOptions(text_column="a", keep_columns=("k",))) == f"no column 'k' {listed}"
    assert bad_file(piece, ReadOptions(text_column="b")) == f"two columns 'b' {listed}"
    assert [r.text for r in read(piece, ReadOptions(text_column="a"))] == [
        "1"
    ]  # one that nobody asked for may be double


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\n\r\n", "expected a header row, found only empty lines"),
        (b"\xff\xfei\0d\0", "expected a header row: the row is no UTF-8"),
        (
            b'"id,text\n1,a\n',
            "expected a header row: its quote is never closed; the lines after the row's first are read again",
        ),
        (b"x" * 5000, "expected a header row: a line of more than 4000 bytes (--max_record_bytes)"),
    ],
)
def test_a_file_without_a_header_row_is_a_bad_file(write, content: bytes, reason: str) -> None:
    assert bad_file(write("a.csv", content), ReadOptions(max_record_bytes=4000)) == reason


def test_a_file_without_a_byte_has_no_rows_and_one_with_a_header_alone_has_none_either(write) -> None:
    assert read(write("a.csv", b"")) == read(write("a.csv", b"\xef\xbb\xbf")) == read(write("a.csv", HEADER)) == []


def test_columns_are_the_header(write) -> None:
    assert columns_of(write("a.tsv", b'\xef\xbb\xbf"i\nd"\ttext\n1\n'), ReadOptions()) == ["i\nd", "text"]
    assert columns_of(write("a.csv", b""), ReadOptions()) == []


texts = st.text(st.sampled_from('ab ,"\t\n\ré\0'), max_size=12)
tables = st.lists(st.tuples(texts, texts.filter(lambda t: bool(t.strip())), texts), max_size=8)


@settings(max_examples=300, deadline=None)
@given(rows=tables, name=st.sampled_from(["a.csv", "a.tsv"]), end=st.sampled_from(["\n", "\r\n"]))
def test_what_csv_writes_comes_back(rows: list, name: str, end: str, write) -> None:
    sink = io.StringIO(newline="")
    delimiter = "," if name == "a.csv" else "\t"
    writer = csv.writer(sink, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([("k", "text", "l"), *rows])  # quoted, all of it: some versions leave a \r bare
    found = read(write(name, sink.getvalue().encode()), ReadOptions(keep_columns=("k", "l")))
    assert found == [Row(i, text, None, (k, last)) for i, (k, text, last) in enumerate(rows)]


good_lines = st.sampled_from([b"1,a\n", b'1,"a, b"\n', b'1,"a\nb"\n', b'1,"a ""b"" c"\n', b"1,a\r\n", b'"1",a "b" c\n'])


@settings(deadline=None)
@given(lines=st.lists(good_lines, max_size=12), strays=st.sets(st.integers(0, 12)))
def test_good_rows_are_never_lost_for_stray_quotes_between_them(lines: list, strays: set, write) -> None:
    alone = [row.text for row in read(write("a.csv", HEADER + b"".join(lines)))]
    assert len(alone) == len(lines)
    content = b"".join(b'7,"Well, I\n' * (i in strays) + line for i, line in enumerate([*lines, b""]))
    found = read(write("a.csv", HEADER + content))
    assert [row.text for row in found if isinstance(row, Row)] == alone
    assert {i.raw for i in found if isinstance(i, Reject)} <= {b'7,"Well, I'}


ATOMS = [
    b"a",
    b"1,",
    b",",
    b'"',
    b'"',
    b'""',
    b',"',
    b'",',
    b'"\n',
    b"\n",
    b"\n",
    b"\r\n",
    b"\r",
    b"\0",
    b"\xff",
    b"x" * 30,
]


def strict_end(lines: list[bytes], first: int) -> tuple[int, bool]:
    """`(line, good)`: where the record that begins at line `first` ends, or shows that its quotes are wrong."""
    state = "start"
    for number in range(first, len(lines)):
        for byte in lines[number].decode("latin1") + "\n":
            if state in ("start", "plain") and byte in ",\r\n":
                state = {",": "start", "\r": "return", "\n": "end"}[byte]
            elif state == "start":
                state = "quoted" if byte == '"' else "plain"
            elif state == "quoted":
                state = "quote" if byte == '"' else "quoted"
            elif state == "quote":
                state = {'"': "quoted", ",": "start", "\r": "return", "\n": "end"}.get(byte, "wrong")
            elif state == "return":
                state = {"\r": "return", "\n": "end"}.get(byte, "wrong")
            if state == "wrong":
                return number, False
        if state == "end":
            return number, True
    return len(lines), False


def by_the_rule(content: bytes, limit: int, most_lines: int) -> Iterator[object]:
    """Texts, None for an empty line, reasons of what is refused; a record at a time, each from its own first line."""
    lines = content.split(b"\n")
    lines = lines if lines[-1] else lines[:-1]
    at = 0
    while at < len(lines):
        end, good = strict_end(lines, at)
        record = lines[at : end + 1] if good else lines[at : at + 1]
        at += len(record)
        if len(record) > most_lines or len(b"\n".join(record)) > limit:
            yield Reason.TOO_LARGE
        elif not good and end >= at:
            yield Reason.BROKEN_CSV
        else:
            yield read_by_python(record, good)


def read_by_python(record: list[bytes], good: bool) -> object:
    pulled = iter([*(line.decode(errors="replace") + "\n" for line in record), ""])
    try:
        fields = next(csv.reader(pulled, strict=good))
    except csv.Error:
        return Reason.BROKEN_CSV
    if next(pulled, None) is None:
        return Reason.BROKEN_CSV
    if fields and len(fields) != 2:
        return Reason.WRONG_WIDTH
    try:
        b"".join(record).decode()
    except UnicodeDecodeError:
        return Reason.INVALID_UTF8
    return (fields[1] if fields[1].strip() else Reason.BLANK_TEXT) if fields else None


@settings(max_examples=1000, deadline=None)
@given(
    body=st.lists(st.sampled_from(ATOMS), max_size=40).map(b"".join),
    limit=st.sampled_from([20, 60, 1 << 20]),
    most_lines=st.sampled_from([2, 4, 100_000]),
    chunk=st.sampled_from([1, 7, 1 << 20]),
    codec=st.sampled_from(["", ".gz"]),
)
def test_records_are_those_of_a_reader_that_goes_byte_by_byte(body, limit, most_lines, chunk, codec, write) -> None:
    content = HEADER + body
    piece = write(f"a.csv{codec}", gzip.compress(content, 1) if codec else content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_BYTES", chunk)
        patch.setattr(delimited, "_MOST_LINES", most_lines)
        found = read(piece, ReadOptions(max_record_bytes=limit))
    shapes = [i.text if isinstance(i, Row) else i.reason if isinstance(i, Reject) else None for i in found]
    assert shapes == list(by_the_rule(body, limit, most_lines))
    numbered = [i.offset for i in found if not isinstance(i, BlankLine)]
    assert numbered == list(range(len(numbered)))
