import pytest

from schemas.rejects import Reason, Reject
from transforms.sources import BlankLine, ReadOptions, Row, read_rows
from transforms.sources.chunks import CHUNK_BYTES

BOM = b"\xef\xbb\xbf"


def read(piece, limit: int = 1 << 20) -> list:
    return list(read_rows(piece, ReadOptions(max_record_bytes=limit)))


def row(offset: int, text: str) -> Row:
    return Row(offset, text, None, ())


def test_a_line_is_a_row_and_its_offset_is_its_first_byte(write) -> None:
    assert read(write("a.txt", "één\ntwo\n".encode())) == [row(0, "één"), row(6, "two")]


def test_a_missing_last_newline_changes_nothing(write) -> None:
    assert read(write("a.txt", b"a\nb")) == read(write("a.txt", b"a\nb\n")) == [row(0, "a"), row(2, "b")]


def test_crlf_ends_a_line_and_any_other_cr_is_text(write) -> None:
    content = b"a\r\nb\rc\r\r\nd\r"
    assert read(write("a.txt", content)) == [row(0, "a"), row(3, "b\rc\r"), row(9, "d\r")]


def test_only_a_newline_ends_a_line(write) -> None:
    text = "a\u2028b\x0bc\x0cd\x85e\x1cf"
    assert read(write("a.txt", text.encode())) == [row(0, text)]


def test_nul_and_spaces_around_are_kept(write) -> None:
    assert read(write("a.txt", b" a\0b \n")) == [row(0, " a\0b ")]


def test_blank_lines_are_told_and_are_no_rows(write) -> None:
    content = "\n  \t\r\n\u00a0\nx\n".encode()
    assert read(write("a.txt", content)) == [BlankLine(0), BlankLine(1), BlankLine(6), row(9, "x")]


def test_a_bom_is_stripped_at_the_start_and_only_there(write) -> None:
    assert read(write("a.txt", BOM + b"a\n" + BOM + b"b")) == [row(0, "a"), row(5, "\ufeffb")]
    assert read(write("a.txt", BOM)) == []
    assert read(write("a.txt", BOM + b"\n")) == [BlankLine(0)]


def test_invalid_utf8_rejects_its_line_and_no_other(write) -> None:
    content = b"a\r\nb\xffc\r\n\xed\xa0\x80\nd\r\n\nlast\r"
    bad = [
        Reject(
            "a.txt", 3, "read", Reason.INVALID_UTF8, "no UTF-8 at byte 1 of the line: invalid start byte", b"b\xffc\r"
        ),
        Reject(
            "a.txt",
            8,
            "read",
            Reason.INVALID_UTF8,
            "no UTF-8 at byte 0 of the line: invalid continuation byte",
            b"\xed\xa0\x80",
        ),
    ]
    assert read(write("a.txt", content)) == [row(0, "a"), *bad, row(12, "d"), BlankLine(15), row(16, "last\r")]


def test_a_line_above_the_limit_is_rejected_with_its_first_kilobyte(write) -> None:
    long = bytes(range(97, 122)) * 100
    error = "a line of more than 1500 bytes (--max_record_bytes)"
    reject = Reject("a.txt", 2, "read", Reason.TOO_LARGE, error, long[:1024])
    assert read(write("a.txt", b"a\n" + long + b"\nb\n"), 1500) == [row(0, "a"), reject, row(2503, "b")]
    assert read(write("a.txt", b"a\n" + long), 1500) == [row(0, "a"), reject]
    assert read(write("a.txt", b"x" * 1500), 1500) == [row(0, "x" * 1500)]


@pytest.mark.parametrize("fill", [CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_lines_that_end_around_a_chunk_are_whole(fill: int, write) -> None:
    assert read(write("a.txt", b"x" * fill + "\r\né\n".encode()), 1 << 24) == [row(0, "x" * fill), row(fill + 2, "é")]


def test_an_empty_file_has_no_rows(write) -> None:
    assert read(write("a.txt", b"")) == []


def test_reading_is_lazy(write) -> None:
    rows = read_rows(write("a.txt.gz", b"no gzip"), ReadOptions())
    assert iter(rows) is rows  # nothing is opened, and nothing raised, before the first row is asked for
