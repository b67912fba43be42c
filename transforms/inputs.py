"""Inputs -> splits: listing, slicing, packing, and what a published version lets this run take over."""

import contextlib
import logging
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence

from schemas import storage
from schemas.embeddings import is_part_name
from schemas.errors import InputError, RunFailed
from schemas.manifest import newest_manifest
from schemas.matches import QUERIES_FOLDER, UNMATCHED_FOLDER
from schemas.pairs import DUPLICATES_FOLDER, GROUPS_FOLDER, WORK_FOLDER
from schemas.splits import FileInfo, Slice, Split, split_id
from transforms.ranges import LARGE_FILE_SPLITS, SEARCH_SPLITS
from transforms.sources import BadFile, detect, parquet_row_groups

PACK_FILES = 4096
"""Most files in one pack: each costs an open, and a pack is the unit of work."""

LINE_FORMATS = ("text", "jsonl")
_LOGGER = logging.getLogger(__name__)


def list_inputs(patterns: Sequence[str], root: str | None = None) -> list[tuple[FileInfo, str]]:
    """Files that the patterns match, each once, with the name that ids are made of; in the order of these names.

    root: the folder that names are relative to, as a URI that ends with '/'; `common_root` by default. A file
        elsewhere has its URI for a name

    Raises:
        InputError: a pattern matches nothing, or a file whose name is no UTF-8, which ids could not hold.
    """
    found: dict[str, FileInfo] = {}
    for pattern in patterns:
        try:
            files = storage.find(pattern)
        except InputError as error:
            raise InputError(f"--input {error}") from None
        if not files:
            raise InputError(f"--input {pattern}: matches no file")
        if odd := next((file.uri for file in files if not _is_utf8(file.uri)), None):
            raise InputError(
                f"--input {pattern}: the name of {odd!r} is no UTF-8, so no id can be made of it; rename it"
            )
        found |= {file.uri: file for file in files}
    if links := linked_files(found):
        link, target = min(links.items())
        _LOGGER.warning(
            f"--input: {len(links):,} of {len(found):,} names are links to a file that has another of them, as {link} "
            f"to {target}; each file is read once"
        )
        found = {uri: file for uri, file in found.items() if uri not in links}
    base = common_root(patterns) if root is None else root
    return sorted(((file, uri.removeprefix(base)) for uri, file in found.items()), key=lambda pair: pair[1])


def common_root(patterns: Sequence[str]) -> str:
    """The deepest folder that all patterns share before their first wildcard. It is taken from the patterns, not from
    what they match today, so that tomorrow's files do not change today's names.

    Raises InputError for a place that cannot be looked at.
    """
    try:
        return _common_folder([storage.fixed_folder(p) for p in patterns])
    except (InputError, RunFailed) as error:
        raise InputError(f"--input {error}") from None


def linked_files(uris: Iterable[str]) -> dict[str, str]:
    """On a disk, the names that lead to the same file as another one, which has the value's name: hard and symbolic
    links, also to a folder above. The one kept is no symbolic link, if one of them is none, and the first by name."""
    same: dict[tuple[int, ...], list[tuple[str, int]]] = {}
    for uri in sorted(uris):
        if storage.is_local(uri):
            with contextlib.suppress(OSError):  # who reads it will say so
                there = os.stat(uri)
                key = (there.st_dev, there.st_ino, there.st_size, there.st_mtime_ns)
                same.setdefault(key, []).append((uri, there.st_nlink))
    links: dict[str, str] = {}
    for names in same.values():
        targets = {os.path.realpath(uri) for uri, _ in names} if len(names) > 1 else set()
        if len(targets) > 1 and min(nlink for _, nlink in names) == 1:
            continue  # some file systems give one number to several files
        kept = min((os.path.realpath(uri) != uri, uri) for uri, _ in names)[1] if targets else names[0][0]
        links |= {uri: kept for uri, _ in names if uri != kept}
    return links


def _is_utf8(name: str) -> bool:
    """Python stands in for bytes of a file's name that are no UTF-8 with lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _common_folder(folders: list[str]) -> str:
    parts = [folder.split("/") for folder in folders]
    common = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        common.append(level[0])
    base = "/".join(common)
    return f"{base}/" if base and not base.endswith("/") else base


def slice_files(
    files: Iterable[tuple[FileInfo, str]], format_: str, split_bytes: int, rows_per_part: int = 16_384
) -> list[tuple[Slice, ...]]:
    """What each split reads: pieces of large files, packs of small ones.

    Raises:
        InputError: a file's format cannot be told from its name.
    """
    small: list[Slice] = []
    large: list[tuple[Slice, ...]] = []
    for file, name in files:
        kind, codec = detect(name, format_)
        if file.size == 0 and not codec and kind != "parquet":
            continue
        whole = Slice(file, name, kind, codec, size=file.size)
        if file.size <= split_bytes:
            small.append(whole)
        else:
            large += [(piece,) for piece in _slices(whole, split_bytes, rows_per_part)]
    return [*_packs(small, split_bytes), *large]


def _slices(whole: Slice, split_bytes: int, rows_per_part: int) -> Iterator[Slice]:
    size = whole.file.size
    if whole.format == "parquet":
        yield from _row_group_slices(whole, split_bytes, rows_per_part)
    elif whole.codec or whole.format not in LINE_FORMATS:
        yield whole
    else:
        for start in range(0, size, split_bytes):
            stop = min(start + split_bytes, size)
            yield whole._replace(start=start, stop=stop, size=stop - start)


def _row_group_slices(whole: Slice, split_bytes: int, rows_per_part: int) -> Iterator[Slice]:
    try:
        groups = parquet_row_groups(whole.file)
    except BadFile:
        yield whole  # the reader says what is wrong with it, or skips it
        return
    is_large = sum(size for _, size in groups) >= LARGE_FILE_SPLITS * split_bytes
    start = gathered = rows = 0
    for number, (group_rows, group_bytes) in enumerate(groups):
        size = gathered + group_bytes
        # Two splits read what lies between the end of a range and the next anchor: that should be little of a split.
        too_few = is_large and rows < 4 * rows_per_part and size <= SEARCH_SPLITS * split_bytes
        if gathered and size > split_bytes and not too_few:
            yield whole._replace(start=start, stop=number, size=gathered)
            start, gathered, rows = number, 0, 0
        gathered += group_bytes
        rows += group_rows
    yield whole._replace(start=start, stop=len(groups), size=gathered)


def _packs(small: list[Slice], split_bytes: int) -> Iterator[tuple[Slice, ...]]:
    """Small files in packs of at most `split_bytes` and `PACK_FILES`. Past a quarter of that a pack ends where a file's
    name says so, at a rate that makes most packs end that way: a file added among many changes the packs around it and
    no others."""
    pack: list[Slice] = []
    filled = 0.0
    for piece in small:
        share = max(piece.file.size / split_bytes, 1 / PACK_FILES)
        named = zlib.crc32(piece.name.encode()) / 2**32 < 4 * share
        if pack and (filled + share > 1 or (filled >= 0.25 and named)):
            yield tuple(pack)
            pack, filled = [], 0.0
        pack.append(piece)
        filled += share
    if pack:
        yield tuple(pack)


def make_splits(slices: Iterable[tuple[Slice, ...]], options_digest: str) -> list[Split]:
    return [Split(split_id(pieces, options_digest), pieces) for pieces in slices]


def check_output(output: str, patterns: Iterable[str], inputs: Iterable[FileInfo], kind: str = "embeddings") -> None:
    """Raises InputError unless the output folder is new, empty or a dataset of ours of this kind, is writable, and
    neither holds an input nor lies in an input folder. What a killed run left there is ours. Leaves nothing behind."""
    try:
        _check_output(output, patterns, inputs, kind)
    except RunFailed as error:
        raise InputError(f"--output {output}: {error}") from None


def _check_output(output: str, patterns: Iterable[str], inputs: Iterable[FileInfo], kind: str) -> None:
    if storage.stat(output) is not None:
        raise InputError(f"--output {output}: is a file; name a folder")
    root = storage.real_folder_uri(output)
    for file in storage.in_real_folders(inputs):
        if file.uri.startswith(root):
            raise InputError(f"--output {output}: the input {file.uri} lies in it; write to a folder of its own")
    for pattern in patterns:
        folder = storage.folder_uri(pattern)
        if storage.fixed_folder(pattern) == folder and root.startswith(storage.real_folder_uri(pattern)):
            raise InputError(
                f"--output {output}: lies in the input folder {pattern}, so the next run would read it; write to a "
                "folder of its own"
            )
    foreign = sorted(name for name in storage.names(output) if not _is_ours(name))
    if foreign:
        raise InputError(
            f"--output {output}: holds something else ({', '.join(foreign[:3])}); name an empty folder or an earlier "
            "output of this job"
        )
    there = newest_manifest(output)
    if there and there.kind != kind:
        raise InputError(f"--output {output}: holds a dataset of {there.kind}, not of {kind}; name another folder")
    if not storage.probe_write(output):
        _LOGGER.warning(
            f"--output {output}: this store knows no puts on a condition, so of two runs that publish there at once "
            "the later one wins and neither is told: run one at a time"
        )


def _is_ours(name: str) -> bool:
    folders = ("_manifest", "_rejects", GROUPS_FOLDER, DUPLICATES_FOLDER, WORK_FOLDER, UNMATCHED_FOLDER, QUERIES_FOLDER)
    return name in (*folders, "_SUCCESS") or storage.TEMPORARY in name or is_part_name(name)
