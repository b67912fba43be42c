"""Kept columns of Parquet files, read as a run reads them: types settled over all files, then blocks and rejects."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.embed import EmbedConfig
from jobs.embed_kept import settle_kept
from schemas import storage
from schemas.blocks import OFFSET, SOURCE, Block, RejectChunk
from schemas.splits import Slice, Split
from transforms.model import EncodeOptions
from transforms.read import BlockOptions, read_split
from transforms.sources import ReadOptions

Place = tuple[str, int]  # file and row


def pieces_of(folder: Path) -> list[Slice]:
    files = [file for path in sorted(folder.iterdir()) for file in storage.find(str(path))]
    return [Slice(file, Path(file.uri).name, "parquet", "", size=file.size) for file in files]


def came_out(pieces: list[Slice]) -> tuple[pa.DataType, dict[Place, pa.Scalar], set[Place]]:
    """The type of column `k` in the parts, its values, and the rejected rows."""
    read = ReadOptions(keep_columns=("k",))
    kept = settle_kept(pieces, EmbedConfig(input=("in",), output="out", read=read, encode=EncodeOptions()))
    read = ReadOptions(keep_columns=("k",), kept=kept)
    options = BlockOptions(read=read, kept=kept, fingerprint_digest="model")
    values: dict[Place, pa.Scalar] = {}
    rejected: set[Place] = set()
    type_ = kept.field("k").type
    for item in read_split(Split("split", tuple(pieces)), options):
        if isinstance(item, Block):
            sink = io.BytesIO()
            pq.write_table(item.table, sink)
            table = pq.read_table(sink)
            type_ = table.schema.field("k").type
            places = zip(table[SOURCE].to_pylist(), table[OFFSET].to_pylist(), strict=True)
            values |= dict(zip(places, table["k"].combine_chunks(), strict=True))
        elif isinstance(item, RejectChunk):
            rejected |= {(reject.source, reject.offset) for reject in item.rejects}
    return type_, values, rejected
