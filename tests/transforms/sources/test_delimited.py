import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.rejects import Reason, Reject
from transforms.sources import BadFile, BlankLine, ReadOptions, Row, columns_of, delimited, read_rows

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
        # closed, but the row has too many fields then
        (b'1,"a\n2,b",c\n3,d\n', [(0, Reason.WRONG_WIDTH, b'1,"a'), (1, Reason.WRONG_WIDTH, b'2,b",c'), (2, "d")]),
        # what follows may have good quotes, over several lines
        (b'1,"a\n2,"b\nc"\n3,d\n', [(0, Reason.BROKEN_CSV, b'1,"a'), (1, "b\nc"), (2, "d")]),
        # at the last line
        (b'1,a\n2,"b', [(0, "a"), (1, Reason.BROKEN_CSV, b'2,"b')]),
    ],
)
def test_a_stray_quote_costs_its_own_line_and_no_other(write, lines: bytes, found: list) -> None:
    assert short(read(write("a.csv", HEADER + lines))) == found


def test_a_row_of_several_lines_above_the_limit_costs_its_first_line(write) -> None:
    piece = write("a.csv", HEADER + b'1,"a\n' + b"2,b\n" * 100 + b'3,c"\n4,d\n')
    found = read(piece, ReadOptions(id_column="id", max_record_bytes=200))
    error = (
        "its quote is not closed within 200 bytes (--max_record_bytes); the lines after the row's first are read again"
    )
    assert found[0] == Reject("a.csv", 0, "read", Reason.TOO_LARGE, error, b'1,"a')
    assert [i.text for i in found[1:]] == ["b"] * 100 + ['c"', "d"]
    assert [i.offset for i in found] == list(range(103))


def test_a_row_of_exactly_the_limit_is_good_and_one_byte_more_is_not(write) -> None:
    piece = write("a.csv", HEADER + b'1,"' + b"a" * 10 + b"\n" + b"b" * 10 + b'"\n')
    at_limit = read(piece, ReadOptions(id_column="id", max_record_bytes=25))
    assert [i.text for i in at_limit] == ["a" * 10 + "\n" + "b" * 10]
    above = read(piece, ReadOptions(id_column="id", max_record_bytes=24))
    assert [i.reason for i in above] == [Reason.TOO_LARGE, Reason.WRONG_WIDTH]


def test_a_field_above_python_s_own_limit_of_128_kib_is_read(write) -> None:
    text = "x" * 300_000
    assert read(write("a.csv", HEADER + b'1,"' + text.encode() + b'"\n')) == [Row(0, text, "1", ())]


@pytest.mark.parametrize("line", [b'a",b,"c\n', b'1,"a\n', b'x,"""y\n', b'"\n', b'1,"a ""b\n'])
def test_a_file_full_of_stray_quotes_is_not_read_again_from_each(line: bytes, write, monkeypatch) -> None:
    pulled = 0
    pull = delimited._LineFeed.__next__

    def counted(self) -> str:
        nonlocal pulled
        pulled += 1
        return pull(self)

    monkeypatch.setattr(delimited._LineFeed, "__next__", counted)
    monkeypatch.setattr(delimited, "_LEAST_LOOK_AHEAD_BYTES", 256)
    lines = 10_000
    found = read(write("a.csv", HEADER + line * lines))
    assert len(found) >= lines // 2
    assert pulled < lines * (256 // len(line) + 20)  # and not lines²/2, which is 5,000 each


def test_the_look_ahead_is_whole_again_past_the_stray_quotes(write) -> None:
    text = "x" * 9000 + "\n" + "y" * 9000
    piece = write("a.csv", HEADER + b'1,"a\n' * 6 + b'2,b\n3,"' + text.encode() + b'"\n')
    found = read(piece, ReadOptions(id_column="id", max_record_bytes=20_000))
    assert [i.reason for i in found[:6]] == [Reason.BROKEN_CSV] * 6
    assert [i.text for i in found[6:]] == ["b", text]


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
