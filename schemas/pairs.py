"""What mining writes: pairs of rows, groups of near-duplicates, groups of equal texts."""

import hashlib
import io

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.embeddings import MODEL_KEY, ZSTD_LEVEL
from schemas.manifest import PartEntry
from schemas.model import ModelFingerprint
from schemas.removals import put_content

KIND = "pairs"
GROUPS_FOLDER, DUPLICATES_FOLDER, WORK_FOLDER = "_groups", "_duplicates", "_work"
PART_PAIRS, PART_PAIRS_WITH_TEXT = 1 << 20, 1 << 17
"""Most pairs of a part."""
PART_TEXT_BYTES = 256 << 20
"""Most text of a part: readers hold a column with offsets of 32 bits, and whoever writes it holds all of it."""
ROW_GROUP_PAIRS = 1 << 16


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, type_, nullable=False) for name, type_ in columns.items()])


PAIRS_SCHEMA = _schema(id_a=pa.string(), id_b=pa.string(), score=pa.float32())
"""`id_a < id_b` by code points; the best pairs first, equal scores by `id_a`, then `id_b`, over all parts in order.
Each pair once, where the input's ids are unique; rows of one id are no pair."""
PAIRS_WITH_TEXT_SCHEMA = _schema(
    id_a=pa.string(), id_b=pa.string(), score=pa.float32(), text_a=pa.string(), text_b=pa.string()
)
GROUPS_SCHEMA = _schema(id=pa.string(), component=pa.string(), star=pa.string(), keep=pa.bool_())
"""Rows that are in some pair, by id. `component`: the smallest id of its connected component; `star`: the
representative that it was given to, itself where it is one, and then `keep` is true."""
DUPLICATES_SCHEMA = _schema(id=pa.string(), representative=pa.string())
"""Rows whose text another row has too, by representative and id; a representative's is itself."""


def pairs_schema(with_text: bool) -> pa.Schema:
    return PAIRS_WITH_TEXT_SCHEMA if with_text else PAIRS_SCHEMA


def write_table(output: str, run: str, folder: str, table: pa.Table, fingerprint: ModelFingerprint) -> PartEntry:
    """Puts a part named by its content, which a retry finds there. `folder` is one below `output`, or ''."""
    sink = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata({MODEL_KEY: fingerprint.to_json()}),
        sink,
        row_group_size=ROW_GROUP_PAIRS,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        write_page_checksum=True,
    )
    data = sink.getvalue()
    sha = hashlib.sha256(data).hexdigest()
    name = f"{folder}/part-{sha[:32]}.parquet" if folder else f"part-{sha[:32]}.parquet"
    name = put_content(output, run, name, data)
    return PartEntry(name, table.num_rows, len(data), f"sha256:{sha}")
