"""A file's bytes, decompressed, a chunk at a time, and a BadFile wherever they cannot be trusted.

Python's own readers take a .zst that ends inside a frame, and several a .gz, for a whole file. Here a file is good only
if its last member says that it is complete.
"""

import bz2
import contextlib
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import zstandard

from schemas import storage
from schemas.splits import FileInfo, Slice
from transforms.sources.rows import BadFile, gathered

CHUNK_BYTES = 1 << 20
BEHIND_BYTES = 64 << 10
PIECES_AHEAD = 8
_READ_BYTES = {"gz": 1 << 16, "bz2": 1 << 16, "zst": 256}
"""Compressed bytes to take at once. zstandard's decoder cannot be told how much to put out at most; a block of 4 bytes
may hold 128 KiB, so 256 bytes make 8 MiB at most (64 KiB could make 2 GiB), and take no longer."""
_KIND = {"gz": "gzip", "bz2": "bzip2", "zst": "Zstandard"}
_MAGIC = {
    "gz": (b"\x1f\x8b",),
    "bz2": (b"BZh",),
    "zst": (b"\x28\xb5\x2f\xfd", *(bytes([i]) + b"*M\x18" for i in range(80, 96))),
}


def read_chunks(piece: Slice) -> Iterator[bytes]:
    """Non-empty chunks of the piece's file, from byte `piece.start - 1` on (0 for a whole file) to the file's end.

    Raises:
        BadFile: it cannot be opened or read, or it is compressed and truncated, corrupt, empty (not even one member)
            or not what its name says. All that came before the damage has been yielded then.
    """
    with reading(piece.file.uri), storage.open_read(*_range(piece)) as file:
        # read would ask a store for more, to fill a chunk beyond the range; so read1
        if piece.codec:
            raw = iter(lambda: file.read1(_READ_BYTES[piece.codec]), b"")
            yield from _gathered(decompress(raw, piece.codec, piece.file.uri))
        else:
            yield from _by_range(file.read1, piece)


def _by_range(read: Callable[[int], bytes], piece: Slice) -> Iterator[bytes]:
    """What the piece stands for in large chunks; behind it small ones, since only the end of a line is wanted there."""
    left = piece.size + 1
    while data := read(CHUNK_BYTES if not piece.size else min(left, CHUNK_BYTES) if left > 0 else BEHIND_BYTES):
        yield data
        left -= len(data)


def read_ahead(pieces: Iterable[Slice]) -> Iterator[Slice]:
    """The pieces, in order, each to be read before the next is taken. While one is read, the first bytes of
    `PIECES_AHEAD` more are on their way from their stores: whole files of a pack. (Not of Parquet, nor of ranges, whose
    readers know better what they want.)"""
    waiting: deque[Slice] = deque()
    try:
        for piece in pieces:
            if piece.whole and piece.format != "parquet":
                storage.expect(*_range(piece))
            waiting.append(piece)
            if len(waiting) > PIECES_AHEAD:
                yield waiting[0]
                storage.expect_no_more(*_range(waiting.popleft()))
        while waiting:
            yield waiting[0]
            storage.expect_no_more(*_range(waiting.popleft()))
    finally:
        for piece in waiting:
            storage.expect_no_more(*_range(piece))


def _range(piece: Slice) -> tuple[FileInfo, int, int | None]:
    """What is opened: from the byte before the piece on, and to where reading is likely to go."""
    return piece.file, max(piece.start - 1, 0), piece.start + piece.size if piece.size else None


def beginning(piece: Slice) -> Slice:
    """The same piece for a reader that takes some rows of it and leaves: little is requested at once."""
    return piece._replace(size=0)


def beginnings(pieces: Sequence[Slice]) -> Iterator[tuple[Slice, Slice]]:
    """Each piece, and its `beginning`, read ahead."""
    return zip(pieces, read_ahead(map(beginning, pieces)), strict=True)


@contextlib.contextmanager
def reading(uri: str) -> Iterator[None]:
    """Turns what the file system says of a file into BadFile. A lost connection is no fault of the file's: it passes,
    for the runner to try again."""
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        raise BadFile(uri, f"cannot be read: {error.strerror or error}") from None


def _gathered(parts: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in chunks of at least CHUNK_BYTES, so that small ones cost nothing further on."""
    return map(b"".join, gathered(parts, len, CHUNK_BYTES))


def decompress(raw: Iterator[bytes], codec: str, uri: str) -> Iterator[bytes]:
    """The content of compressed `raw`: one member or frame after another, in pieces of at most some MiB.

    Zero bytes after a gzip member are padding, as gzip itself has it. Raises BadFile as `read_chunks` says.
    """
    data = next(raw, b"")
    head, member = data[:8], 0
    if not data:
        raise BadFile(uri, f"empty: no {_KIND[codec]} member (a compressed file of no rows has one)")
    while data:
        decoder, member = _decoder(codec), member + 1
        while not decoder.eof:
            try:
                output, data, hungry = _step(decoder, data, codec)
            except (zlib.error, zstandard.ZstdError, OSError, ValueError) as error:
                raise BadFile(uri, _what_is_wrong(codec, head, member, error)) from None
            if output:
                yield output
            if hungry and not decoder.eof:
                data = next(raw, b"")
                if not data:
                    raise BadFile(uri, f"truncated: it ends inside {_KIND[codec]} member {member}")
        data = decoder.unused_data or next(raw, b"")
        if codec == "gz":
            data = _without_padding(data, raw)


def read_head(piece: Slice, stored_bytes: int) -> tuple[int, bytes]:
    """`(bytes read, their content decompressed)` from the piece's start on: at most `stored_bytes` of the file, and no
    more of a compressed one than makes that much content. For estimates: damage ends it and is not told."""
    with reading(piece.file.uri), storage.open_read(piece.file, piece.start, piece.start + stored_bytes) as file:
        if not piece.codec:
            content = file.read(stored_bytes)
            return len(content), content
        taken, parts, made = 0, [], 0

        def raw() -> Iterator[bytes]:
            nonlocal taken
            while made < stored_bytes and taken < stored_bytes and (data := file.read(_READ_BYTES[piece.codec])):
                taken += len(data)
                yield data

        with contextlib.suppress(BadFile):
            for part in decompress(raw(), piece.codec, piece.file.uri):
                parts.append(part)
                made += len(part)
        return taken, b"".join(parts)


def _without_padding(data: bytes, raw: Iterator[bytes]) -> bytes:
    while data and not (rest := data.lstrip(b"\0")):
        data = next(raw, b"")
    return rest if data else b""


def _decoder(codec: str) -> Any:
    if codec == "gz":
        return zlib.decompressobj(wbits=31)
    return bz2.BZ2Decompressor() if codec == "bz2" else zstandard.ZstdDecompressor().decompressobj()


def _step(decoder: Any, data: bytes, codec: str) -> tuple[bytes, bytes, bool]:
    """`(output, input left, whether it needs more input)`. A full output means that there may be more of it inside."""
    if codec == "zst":
        return decoder.decompress(data), b"", True
    output = decoder.decompress(data, CHUNK_BYTES)
    left = decoder.unconsumed_tail if codec == "gz" else b""
    return output, left, not left and len(output) < CHUNK_BYTES


def _what_is_wrong(codec: str, head: bytes, member: int, error: Exception) -> str:
    if member == 1 and not head.startswith(_MAGIC[codec]):
        return f"named .{codec} but no {_KIND[codec]} file: it begins with {head!r}"
    return f"corrupt {_KIND[codec]} data in member {member}: {error}"
