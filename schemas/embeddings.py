"""A part: the Parquet file of one encoded block, and all that its footer says."""

import dataclasses
import io
import json
import re
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.model import ModelFingerprint

ROW_GROUP_ROWS = 8192
ZSTD_LEVEL = 1
_PART_NAME = re.compile(r"part-[0-9a-f]{32}(-[1-9][0-9]*)?\.parquet")
MODEL_KEY, STATS_KEY = b"embedding_model", b"embedding_stats"


def embeddings_schema(fingerprint: ModelFingerprint, kept: pa.Schema | None = None) -> pa.Schema:
    """The schema of every part of a dataset: nothing is null but kept columns, vectors have a fixed size."""
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("token_count", pa.int32(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
        pa.field(
            "embedding", pa.list_(pa.field("item", pa.float32(), nullable=False), fingerprint.dim), nullable=False
        ),
    ]
    return pa.schema([*fields, *(kept or ())], metadata={MODEL_KEY: fingerprint.to_json()})


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartStats:
    """What a part's footer says of how it came to be: a function of the block and the model alone, so that whoever
    finds the part knows all that its writer knew."""

    rows_in: int  # rows of the block
    rows_out: int  # rows of the part: fewer by the rejected, more by the chunks of long texts
    tokens: int
    truncated: int
    chunks: int = 0  # rows added by --long_texts chunk
    rejects: tuple[tuple[int, str, str], ...] = ()  # (row of the block, reason, error), refused by the encoder
    cosines: tuple[float, ...] = ()  # of a sample against float32, where the part is not torch float32

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> "PartStats":
        found = json.loads(text)
        found["rejects"] = tuple(tuple(r) for r in found["rejects"])
        return cls(**found | {"cosines": tuple(found["cosines"])})


class Part(NamedTuple):
    """A part that is on disk, as its own footer tells it, and the place in the input that it stands for."""

    split_id: str
    number: int
    name: str
    size: int
    checksum: str  # sha256:… of the file locally, etag:… on a store
    adopted: bool  # found there rather than written by this run
    stats: PartStats
    encode_msec: int  # what encoding it took this run
    etag: str = ""  # the file's, as its store told it when it was written or found


def part_bytes(table: pa.Table, stats: PartStats) -> bytes:
    """A part's file, whole. The same table and stats give the same bytes."""
    metadata = (table.schema.metadata or {}) | {STATS_KEY: stats.to_json().encode()}
    plain = {"id", "text", "token_count", "truncated", "embedding.list.element"}
    sink = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata(metadata),
        sink,
        row_group_size=ROW_GROUP_ROWS,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        use_dictionary=[n for n in table.column_names if n not in plain and n != "embedding"],
        write_statistics=["id", "token_count", "truncated"],
        write_page_checksum=True,
    )
    return sink.getvalue()


def read_footer(source: Any) -> tuple[pa.Schema, PartStats]:
    """Schema and stats of a part. `source` is a path or a file object. Raises KeyError or pa.ArrowInvalid where it is
    no part of ours."""
    metadata = pq.read_metadata(source)
    schema = metadata.schema.to_arrow_schema()
    return schema, PartStats.from_json(metadata.metadata[STATS_KEY])


def is_part_name(name: str) -> bool:
    """Whether a part of ours may have this name: a digest, and a number where the digest alone was not free."""
    return _PART_NAME.fullmatch(name) is not None
