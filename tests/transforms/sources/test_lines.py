"""Laws of byte ranges: whatever the bytes and wherever the cuts, every record comes out once."""

import itertools
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.rejects import Reason, Reject
from transforms.sources import BlankLine, ReadOptions, Row, chunks, read_rows
from transforms.sources.lines import Lines, LongLine, line_blocks, read_line_blocks, read_lines

BOM = b"\xef\xbb\xbf"
ATOMS = [b"a", b"bc", b" ", b"\n", b"\n", b"\r\n", b"\r", b"\0", b"\xff", b"\xc3", "é\u2028".encode(), BOM, b"x" * 30]
JSON = [
    b'{"text":"a"}',
    b'{"text":" "}',
    b'{"text":"\xff"}',
    b'{"text":"\\ud800"}',
    b"{}",
    b"[1]",
    b'{"text":"\\u0000"}',
]
contents = st.lists(st.sampled_from([*ATOMS, *JSON]) | st.binary(max_size=6), max_size=30).map(b"".join)
cuts = st.lists(st.integers(0, 120), max_size=6)
chunk_sizes = st.integers(1, 50)
limits = st.sampled_from([1, 5, 20, 1 << 20])


def physical_lines(content: bytes) -> list[tuple[int, bytes]]:
    """The definition, in one line of regular expression: offset and bytes, with the newline."""
    return [(m.start(), m[0]) for m in re.finditer(rb"[^\n]*\n|[^\n]+\Z", content)]


def text_records(content: bytes, limit: int) -> list[tuple[int, object]]:
    records: list[tuple[int, object]] = []
    for offset, line in physical_lines(content):
        if len(line) - line.endswith(b"\n") > limit:
            records.append((offset, Reason.TOO_LARGE))
            continue
        line = line.removeprefix(BOM) if offset == 0 else line
        if not line:
            continue  # a file of nothing but a BOM
        line = line.removesuffix(b"\r\n") if line.endswith(b"\r\n") else line.removesuffix(b"\n")
        try:
            text = line.decode()
            records.append((offset, text if text.strip() else None))
        except UnicodeDecodeError:
            records.append((offset, Reason.INVALID_UTF8))
    return records


def found_records(piece, limit: int) -> list[tuple[int, object]]:
    found: list[tuple[int, object]] = []
    for item in read_rows(piece, ReadOptions(max_record_bytes=limit)):
        if isinstance(item, Reject):
            assert item.source == piece.name and item.stage == "read"
            found.append((item.offset, item.reason))
        else:
            found.append((item.offset, item.text if isinstance(item, Row) else None))
            assert isinstance(item, (Row, BlankLine))
    return found


def ranges(content: bytes, cuts: list[int]) -> list[tuple[int, int]]:
    """Ranges that share out the file, empty ones among them; the last one ends at its size or with -1."""
    edges = [0, *sorted(min(c, len(content)) for c in cuts)]
    return [*itertools.pairwise(edges), (edges[-1], -1 if len(cuts) % 2 else len(content))]


@settings(max_examples=400, deadline=None)
@given(content=contents, cuts=cuts, chunk=chunk_sizes, limit=limits)
@example(content=b"a\nb\n", cuts=[2], chunk=50, limit=5)  # a line that begins exactly at a cut
@example(content=b"a\r\nb", cuts=[1, 2, 3], chunk=1, limit=5)  # cuts around \r\n
@example(content=BOM + b"a\nb", cuts=[1, 2, 3], chunk=2, limit=5)
@example(content=b"a\r", cuts=[1], chunk=1, limit=5)
def test_ranges_of_a_text_file_share_out_its_records(content, cuts, chunk, limit, write) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_BYTES", chunk)
        piece = write("a.txt", content)
        expected = text_records(content, limit)
        assert found_records(piece, limit) == expected
        shared = [(a, b, found_records(piece._replace(start=a, stop=b), limit)) for a, b in ranges(content, cuts)]
    assert [r for _, _, records in shared for r in records] == expected
    for start, stop, records in shared:
        assert all(start <= offset and (offset < stop or stop < 0) for offset, _ in records)


@settings(max_examples=200, deadline=None)
@given(content=contents, cuts=cuts, chunk=chunk_sizes, limit=limits)
def test_ranges_of_a_jsonl_file_share_out_its_records(content, cuts, chunk, limit, write) -> None:
    piece = write("a.jsonl", content)
    options = ReadOptions(max_record_bytes=limit, keep_columns=("text",))
    whole = list(read_rows(piece, options))
    bom_alone = content == BOM and limit >= len(BOM)
    assert [item.offset for item in whole] == [offset for offset, _ in physical_lines(content)][bom_alone:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_BYTES", chunk)
        pieces = [piece._replace(start=a, stop=b) for a, b in ranges(content, cuts)]
        assert [item for p in pieces for item in read_rows(p, options)] == whole


@given(content=contents, chunk=chunk_sizes, limit=limits)
def test_lines_do_not_depend_on_the_chunks_that_they_come_in(content: bytes, chunk: int, limit: int) -> None:
    def lines(size: int) -> list[tuple[int, bytes, bool]]:
        pieces = iter([content[i : i + size] for i in range(0, len(content), size)])
        found = []
        for block in line_blocks(pieces, 0, -1, limit):
            if isinstance(block, LongLine):
                found.append((block.offset, block.head, True))
            else:
                found += [(block.offset + at, line, False) for at, line in physical_lines(block.data)]
        return found

    assert lines(chunk) == lines(1 << 20)


def test_a_low_limit_leaves_lines_together(write) -> None:
    lines = [b"line %d of some text" % i for i in range(200_000)]
    lines[77_777] = b"x" * 1001
    blocks = list(read_line_blocks(write("a.txt", b"\n".join(lines)), 1000))
    assert len(blocks) <= 10  # 5 chunks of 1 MiB, and what is around the long line
    (long,) = (block for block in blocks if isinstance(block, LongLine))
    assert long == LongLine(sum(len(line) + 1 for line in lines[:77_777]), lines[77_777])
    assert b"".join(block.data for block in blocks if isinstance(block, Lines)) == b"\n".join(
        [*lines[:77_777], *lines[77_778:]]
    )


def test_one_huge_line_cut_into_ranges_is_not_read_again_by_each(write, monkeypatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 100)
    piece = write("a.txt", b"x" * 10_000 + b"\nlast")
    read = []
    real = chunks.read_chunks

    def counted(piece):
        for chunk in real(piece):
            read.append(len(chunk))
            yield chunk

    monkeypatch.setattr("transforms.sources.lines.read_chunks", counted)
    found = [list(read_lines(piece._replace(start=s, stop=s + 500), 1 << 20)) for s in range(0, 10_500, 500)]
    assert [f for f in found if f] == [[(0, b"x" * 10_000)], [(10_001, b"last")]]
    assert sum(read) < 3 * 10_500


class Chunk(bytes):
    """A chunk of which no larger one can be made by adding to it: that would be a copy for each chunk."""

    def __add__(self, other: object) -> bytes:
        raise AssertionError("chunks are joined once")

    __radd__ = __add__


def test_a_long_line_is_put_together_once() -> None:
    chunks = iter([Chunk(b"x" * 100) for _ in range(1000)])
    assert list(line_blocks(chunks, 0, -1, 1 << 20)) == [Lines(0, b"x" * 100_000)]
