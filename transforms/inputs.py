"""Inputs -> splits: listing, slicing, packing, and what a published version lets this run take over."""

import itertools
import logging
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from schemas import storage
from schemas.embeddings import is_part_name
from schemas.errors import InputError, RunFailed
from schemas.manifest import newest_manifest
from schemas.matches import QUERIES_FOLDER, UNMATCHED_FOLDER
from schemas.pairs import DUPLICATES_FOLDER, GROUPS_FOLDER, WORK_FOLDER
from schemas.splits import FileInfo, Slice, Split, split_id
from transforms.sources import BadFile, detect, parquet_row_groups

PACK_FILES = 4096
"""Most files in one pack: each costs an open, and a pack is the unit of work."""

FOOTERS_AT_ONCE = 32
"""Large Parquet files whose footers are read at a time: on a store each costs requests and hardly any computing."""
LINE_FORMATS = ("text", "jsonl")
_LOGGER = logging.getLogger(__name__)


def list_inputs(patterns: Sequence[str]) -> list[tuple[FileInfo, str]]:
    """Files that the patterns match, each once, with the name that ids are made of; in the order of these names.

    The name is the path below the deepest folder that all patterns share before their first wildcard. It is taken from
    the patterns, not from what they match today, so that tomorrow's files do not change today's names.

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
    base = _common_folder([storage.fixed_folder(p) for p in patterns])
    return sorted(((file, uri.removeprefix(base)) for uri, file in found.items()), key=lambda pair: pair[1])


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


def slice_files(files: Iterable[tuple[FileInfo, str]], format_: str, split_bytes: int) -> list[tuple[Slice, ...]]:
    """What each split reads: pieces of large files, packs of small ones.

    Raises:
        InputError: a file's format cannot be told from its name.
    """
    small: list[Slice] = []
    large: list[Slice] = []
    for file, name in files:
        kind, codec = detect(name, format_)
        if file.size == 0 and not codec and kind != "parquet":
            continue
        whole = Slice(file, name, kind, codec, size=file.size)
        if file.size <= split_bytes:
            small.append(whole)
        else:
            large.append(whole)
    with ThreadPoolExecutor(FOOTERS_AT_ONCE, thread_name_prefix="footers") as pool:
        sliced = pool.map(lambda whole: [(piece,) for piece in _slices(whole, split_bytes)], large)
        return [*_packs(small, split_bytes), *itertools.chain.from_iterable(sliced)]


def _slices(whole: Slice, split_bytes: int) -> Iterator[Slice]:
    size = whole.file.size
    if whole.format == "parquet":
        yield from _row_group_slices(whole, split_bytes)
    elif whole.codec or whole.format not in LINE_FORMATS:
        yield whole
    else:
        for start in range(0, size, split_bytes):
            stop = min(start + split_bytes, size)
            yield whole._replace(start=start, stop=stop, size=stop - start)


def _row_group_slices(whole: Slice, split_bytes: int) -> Iterator[Slice]:
    try:
        groups = parquet_row_groups(whole.file)
    except BadFile:
        yield whole  # the reader says what is wrong with it, or skips it
        return
    start = gathered = 0
    for number, (_, group_bytes) in enumerate(groups):
        if gathered and gathered + group_bytes > split_bytes:
            yield whole._replace(start=start, stop=number, size=gathered)
            start, gathered = number, 0
        gathered += group_bytes
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
    root = storage.folder_uri(output)
    for file in inputs:
        if file.uri.startswith(root):
            raise InputError(f"--output {output}: the input {file.uri} lies in it; write to a folder of its own")
    for pattern in patterns:
        folder = storage.folder_uri(pattern)
        if storage.fixed_folder(pattern) == folder and root.startswith(folder):
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
