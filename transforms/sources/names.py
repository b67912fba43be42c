"""What a file is, told from its name."""

from schemas.errors import InputError

FORMATS = ("text", "jsonl", "csv", "tsv", "parquet")
_FORMAT_OF = {
    ".txt": "text",
    ".text": "text",
    ".log": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_CODEC_OF = {".gz": "gz", ".bz2": "bz2", ".zst": "zst", ".zstd": "zst"}


def detect(name: str, format: str = "auto") -> tuple[str, str]:
    """`(format, codec)` of a file: the codec by its last suffix ("" for none), the format by the one before it.

    A `format` other than auto is taken instead of what the name says; the codec always comes from the name.

    Raises:
        InputError: the name says no format that is known, or names a compressed Parquet file.
    """
    stem, codec = name, ""
    for suffix, found in _CODEC_OF.items():
        if name.lower().endswith(suffix):
            stem, codec = name[: -len(suffix)], found
    if format == "auto":
        format = next((f for suffix, f in _FORMAT_OF.items() if stem.lower().endswith(suffix)), "")
    if format not in FORMATS:
        raise InputError(
            f"{name}: its name does not say what format it has; known are {', '.join(_FORMAT_OF)}, each also with "
            f"{', '.join(_CODEC_OF)}; name the format: --format {'|'.join(FORMATS)}"
        )
    if format == "parquet" and codec:
        raise InputError(f"{name}: Parquet inside .{codec} is not read, since it is read by row groups; decompress it")
    return format, codec
