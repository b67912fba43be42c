"""The name of a part is a digest of what its rows hold, whoever built the columns."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.blocks import block_name
from transforms.block_table import block_table
from transforms.sources import ReadOptions, Rows

PAIR = pa.struct([("x", pa.int64()), ("y", pa.string())])
COLUMNS: dict[str, pa.Array] = {
    "struct": pa.array([{"x": 1, "y": "a"}, None, {"x": None, "y": "b"}, None], PAIR),
    "struct in struct": pa.array(
        [{"p": None, "l": [1]}, None, {"p": {"x": 1}}], pa.struct([("p", PAIR), ("l", pa.list_(pa.int8()))])
    ),
    "list": pa.array([[{"x": 1, "y": "a"}, None], None, []], pa.list_(PAIR)),
    "large list": pa.array([None, [None, {"x": 1}]], pa.large_list(PAIR)),
    "map": pa.array([[("k", None), ("l", {"x": 1})], None], pa.map_(pa.string(), PAIR)),
    "fixed-size list": pa.array([[None, {"x": 1}]] * 2, pa.list_(PAIR, 2)),
    "bits": pa.array([{"b": True}, None, {"b": None}], pa.struct([("b", pa.bool_())])),
}


def name_of(column: pa.Array) -> str:
    texts = pa.array([f"text {i}" for i in range(len(column))])
    rows = Rows(np.arange(len(column)), texts, kept=pa.record_batch({"k": column}))
    kept = pa.schema([("k", column.type)])
    return block_name(block_table([("a", rows)], ReadOptions(keep_columns=("k",)), kept, "offset"), "model")


def through_parquet(column: pa.Array) -> pa.Array:
    file = io.BytesIO()
    pq.write_table(pa.table({"k": column}), file)
    return pq.read_table(file)["k"].combine_chunks().cast(column.type)


@pytest.mark.parametrize("kind", COLUMNS)
def test_parquet_and_python_values_make_one_name(kind: str) -> None:
    """Parts had the names of Python values first: who keeps such a column shall find them."""
    column = COLUMNS[kind]
    read = through_parquet(column)
    assert read.to_pylist() == column.to_pylist()
    assert name_of(read) == name_of(pa.array(column.to_pylist(), column.type))


def test_what_stands_below_a_null_struct_is_not_in_the_name() -> None:
    mask = pa.array([False, True])
    made: list[Any] = [[pa.array([1, x]), pa.array(["a", y])] for x, y in ((0, ""), (7, "b"), (None, None))]
    columns = [pa.StructArray.from_arrays(fields, fields=list(PAIR), mask=mask) for fields in made]
    assert len({name_of(column) for column in columns}) == 1
