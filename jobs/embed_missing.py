"""Whether a kept field of JSON Lines is in the input at all, or was misspelt."""

from collections.abc import Collection

from jobs import cli
from jobs.embed_kept import type_hint
from schemas.errors import InputError
from schemas.splits import Slice
from transforms.plan import Plan
from transforms.read import BlockOptions
from transforms.sources import BadFile, columns_of, has_field, read_ahead

_WORTH_A_WORD_BYTES = 256 << 20
"""Input that takes long enough to look through that somebody may wonder."""


def check_missing(plan: Plan, options: BlockOptions, filled: Collection[str]) -> None:
    """Looks for kept fields that the first rows lack (`filled` are those they have) in all rows, until one has it.

    Files of other formats name their columns in a header; and where a published version is built upon, its run has
    looked. Raises InputError for a field that no row has, unless missing columns are null.
    """
    if options.read.missing_columns == "null" or len(plan.todo) < len(plan.order):
        return
    pieces = [piece for split in plan.todo for piece in split.slices]
    absent = [name for name in options.read.keep_columns if name not in filled]
    if not absent or any(piece.format != "jsonl" for piece in pieces):
        return
    for name in absent:
        if not _found_soon(name, pieces, options):
            if plan.input_bytes > _WORTH_A_WORD_BYTES:
                cli.say(
                    f"--keep_columns {name}: not in the first rows; looking for it in all of the input; "
                    "--missing_columns null goes on without"
                )
            _look_everywhere(name, pieces, options)


def _found_soon(name: str, pieces: Collection[Slice], options: BlockOptions) -> bool:
    """In the first object of the first file, be it null there."""
    first = next(iter(pieces))
    return name in (columns_of(first, options.read) or [])


def _look_everywhere(name: str, pieces: Collection[Slice], options: BlockOptions) -> None:
    for piece in read_ahead(pieces):
        try:
            if has_field(piece, name, options.read):
                return
        except BadFile as error:
            if not options.skip_bad_files:
                raise error.as_failure() from None
    first = next(iter(pieces))
    there = ", ".join(columns_of(first, options.read) or [])
    raise InputError(
        f"--keep_columns {name}: no row of the input has it; there are {there} in {first.file.uri}{type_hint(name)}; "
        "with --missing_columns null the column is null"
    )
