"""A compressed file equals the plain one, or it is a BadFile: never a part of it that reads as success."""

import bz2
import errno
import gzip
import os
import random
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from schemas import storage
from schemas.splits import FileInfo, Slice
from schemas.stores import Store
from transforms.sources import BadFile, ReadOptions, Row, chunks, detect, read_ahead, read_rows
from transforms.sources.chunks import PIECES_AHEAD, decompress, read_chunks


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def streamed_zst(data: bytes) -> bytes:
    """As `zstd` makes them from a pipe: without the size in the frame's header."""
    stream = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    return stream.compress(data) + stream.flush()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "zst": zst}
CODECS = sorted(COMPRESS)
ROWS = b"".join(b"row %d %d\n" % (i, random.Random(i).getrandbits(64)) for i in range(40))


def rows_until_bad_file(piece: Slice) -> tuple[list[str], str]:
    """Texts read, and what was wrong with the file in the end ("" for nothing)."""
    texts = []
    try:
        for item in read_rows(piece, ReadOptions()):
            assert isinstance(item, Row)
            texts.append(item.text)
    except BadFile as error:
        assert error.uri == piece.file.uri
        return texts, error.reason
    return texts, ""


@pytest.mark.parametrize("codec", CODECS)
@given(
    members=st.lists(st.binary(max_size=300), min_size=1, max_size=4), size=st.integers(1, 40), most=st.integers(1, 64)
)
def test_members_in_any_chunks_give_the_plain_content(codec: str, members: list[bytes], size: int, most: int) -> None:
    raw = b"".join(map(COMPRESS[codec], members))
    pieces: Iterator[bytes] = iter([raw[i : i + size] for i in range(0, len(raw), size)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_BYTES", most)  # also the most that zlib and bz2 may put out at once
        assert b"".join(decompress(pieces, codec, "f")) == b"".join(members)


@pytest.mark.parametrize("codec", CODECS)
def test_a_compressed_file_has_the_rows_and_offsets_of_the_plain_one(codec: str, write) -> None:
    plain = list(read_rows(write("a.txt", ROWS), ReadOptions()))
    assert list(read_rows(write(f"a.txt.{codec}", COMPRESS[codec](ROWS)), ReadOptions())) == plain
    assert [row.offset for row in plain[:2]] == [0, ROWS.index(b"\n") + 1]


@pytest.mark.parametrize("codec", CODECS)
def test_a_file_cut_at_any_byte_is_a_bad_file(codec: str, write) -> None:
    raw, texts = COMPRESS[codec](ROWS), ROWS.decode().splitlines()
    for size in range(len(raw)):
        found, reason = rows_until_bad_file(write(f"a.txt.{codec}", raw[:size]))
        assert reason.startswith("empty: no" if size == 0 else "truncated: it ends inside"), (size, reason)
        assert found == texts[: len(found)]


def test_a_streamed_zst_frame_cut_at_any_byte_is_a_bad_file(write) -> None:
    raw = streamed_zst(ROWS)
    assert rows_until_bad_file(write("a.txt.zst", raw)) == (ROWS.decode().splitlines(), "")
    assert all(rows_until_bad_file(write("a.txt.zst", raw[:n]))[1] for n in range(len(raw)))


@pytest.mark.parametrize("codec", CODECS)
def test_rows_before_the_damage_come_out_and_the_line_cut_by_it_does_not(codec: str, write) -> None:
    raw = COMPRESS[codec](ROWS + b"half a li") + COMPRESS[codec](b"ne\nnever seen\n")[:-3]
    texts, reason = rows_until_bad_file(write(f"a.txt.{codec}", raw))
    assert texts[:40] == ROWS.decode().splitlines()
    assert "half a li" not in texts
    assert reason.startswith("truncated: it ends inside") and reason.endswith("member 2")


@pytest.mark.parametrize("codec", CODECS)
def test_a_flipped_bit_anywhere_is_a_bad_file_or_changes_nothing(codec: str, write) -> None:
    raw, texts = COMPRESS[codec](ROWS), ROWS.decode().splitlines()
    harmless = 0
    for at in range(len(raw)):
        damaged = raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :]
        try:
            found, reason = list(read_rows(write(f"a.txt.{codec}", damaged), ReadOptions())), ""
        except BadFile as error:
            found, reason = [], error.reason
        if not reason:
            assert [i.text for i in found if isinstance(i, Row)] == texts
            harmless += 1
    assert harmless <= 8  # gzip's time stamp, flags and system; a bit of bzip2's last byte


@pytest.mark.parametrize("codec", CODECS)
def test_a_file_that_is_not_what_its_name_says_is_named_so(codec: str, write) -> None:
    _, reason = rows_until_bad_file(write(f"a.txt.{codec}", b"plain text, not compressed\n"))
    kind = {"gz": "gzip", "bz2": "bzip2", "zst": "Zstandard"}[codec]
    assert reason == f"named .{codec} but no {kind} file: it begins with b'plain te'"


@pytest.mark.parametrize("codec", CODECS)
def test_what_follows_a_member_must_be_one(codec: str, write) -> None:
    texts, reason = rows_until_bad_file(write(f"a.txt.{codec}", COMPRESS[codec](ROWS) + b"garbage after the end"))
    assert reason.startswith("corrupt") and "in member 2: " in reason
    assert texts == ROWS.decode().splitlines()


def test_zero_bytes_after_a_gzip_member_are_padding(write) -> None:
    padded = gzip.compress(b"a\n") + bytes(200_000) + gzip.compress(b"b\n") + bytes(512)
    assert rows_until_bad_file(write("a.txt.gz", padded)) == (["a", "b"], "")


def test_a_skippable_zst_frame_is_no_damage(write) -> None:
    raw = b"\x50\x2a\x4d\x18\x03\x00\x00\x00xyz" + zst(b"a\n")
    assert rows_until_bad_file(write("a.txt.zst", raw)) == (["a"], "")


@pytest.mark.parametrize("codec", CODECS)
def test_a_compressed_file_of_nothing_has_no_rows(codec: str, write) -> None:
    assert rows_until_bad_file(write(f"a.txt.{codec}", COMPRESS[codec](b""))) == ([], "")


def test_an_unreadable_file_says_why(write, tmp_path) -> None:
    piece = write("a.txt", b"x\n")
    gone = piece._replace(file=piece.file._replace(uri=str(tmp_path / "gone.txt")))
    assert rows_until_bad_file(gone)[1] == "cannot be read: No such file or directory"
    folder = piece._replace(file=piece.file._replace(uri=str(tmp_path)))
    assert rows_until_bad_file(folder)[1] == "cannot be read: Is a directory"


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.txt.gz", "a.parquet"])
def test_a_file_without_permission_says_so_in_every_format(name: str, write, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    piece = write(name, b"x\n")
    monkeypatch.setattr(storage, "open_read", refuse)
    monkeypatch.setattr(storage, "open_random", refuse)
    assert rows_until_bad_file(piece)[1] == "cannot be read: Permission denied"


def test_a_lost_connection_is_not_the_files_fault(write, monkeypatch) -> None:
    def lose(*_: object) -> None:
        raise ConnectionResetError("peer went away")

    piece = write("a.txt", b"x\n")
    monkeypatch.setattr(storage, "open_read", lose)
    with pytest.raises(ConnectionResetError):
        list(read_chunks(piece))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.txt.gz", "a.txt.zst", "a.txt.bz2"])
def test_a_line_of_200_mb_is_refused_in_64_mb_of_memory(name: str, tmp_path: Path) -> None:
    zeros, path = 200 << 20, tmp_path / name
    head = b'text\n1\n"' if name == "a.csv" else b""
    if name.count(".") == 1:
        with path.open("wb") as file:  # sparse: zero bytes that take no room
            file.write(head)
            file.truncate(len(head) + zeros)
            file.seek(0, os.SEEK_END)
            file.write(b'\n{"text": "good"}\n')
    else:
        compress = COMPRESS[name.rsplit(".")[-1]]
        path.write_bytes(compress(bytes(zeros)) + compress(b"\ngood\n"))
    piece = Slice(FileInfo(str(path), path.stat().st_size, ""), name, *detect(name))
    tracemalloc.start()
    try:
        found = [(type(r).__name__, r.offset) for r in read_rows(piece, ReadOptions(max_record_bytes=1 << 20))]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    after = ("Row", zeros + 1)
    assert found == ([("Row", 0), ("Reject", 1), ("Row", 2)] if head else [("Reject", 0), after])
    assert peak < 64 << 20


@pytest.fixture
def stored() -> Iterator[list[Slice]]:
    """Small files of a store, a line in each."""
    names = [f"memory:///pack/{number}.txt" for number in range(2 * PIECES_AHEAD)]
    for name in names:
        storage.create(name, name.encode())
    yield [Slice(file, file.uri, "text", "", size=file.size) for file in map(storage.stat, names) if file]
    storage.remove(names)


def expected_of(stored: list[Slice]) -> dict:
    return storage.resolve(stored[0].file.uri)[0]._expected


def test_files_are_fetched_side_by_side_and_read_in_order(stored, monkeypatch) -> None:
    """Each fetch waits until as many as there may be are under way: one after the other, none would end."""
    together, real = threading.Barrier(PIECES_AHEAD), Store.fetch

    def fetch(*asked):
        together.wait(20)
        return real(*asked)

    monkeypatch.setattr(Store, "fetch", fetch)
    read = [row.text for piece in read_ahead(stored) for row in read_rows(piece, ReadOptions())]
    assert read == [piece.file.uri for piece in stored]
    assert expected_of(stored) == {}


def test_a_file_that_is_gone_is_missed_in_its_place(stored) -> None:
    storage.remove([stored[3].file.uri])
    read: list[str] = []
    with pytest.raises(BadFile) as error:
        for piece in read_ahead(stored):
            read += [row.text for row in read_rows(piece, ReadOptions())]
    assert error.value.uri == stored[3].file.uri
    assert read == [piece.file.uri for piece in stored[:3]]


def test_what_was_fetched_for_nothing_is_given_up(stored) -> None:
    pieces = read_ahead(stored)
    assert next(pieces) == stored[0]
    assert len(expected_of(stored)) == PIECES_AHEAD + 1
    pieces.close()
    assert expected_of(stored) == {}
