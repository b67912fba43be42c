"""Kept columns whose files differ: one type is settled before any work, or the run is refused."""

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.dataset import open_dataset
from schemas.errors import InputError
from tests.jobs.conftest import Ran, Run
from tests.kept import came_out, pieces_of

pytestmark = pytest.mark.usefixtures("fake_encoder")


@pytest.fixture
def run(run_job: Run) -> Run:
    return run_job


def write(folder: Path, **files: Any) -> Path:
    """A Parquet file for each array, whose rows have the texts `a 0`, `a 1`, …; None is a file without the column."""
    folder.mkdir(exist_ok=True)
    for name, column in files.items():
        count = 2 if column is None else len(column)
        columns = {"text": [f"{name} {i}" for i in range(count)]} | ({} if column is None else {"k": column})
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


def kept(found: Ran) -> tuple[str, dict[str, Any]]:
    """The column's type in the parts, and its values by text."""
    assert found.status == 0, found.stderr
    table = pq.read_table(found.output, columns=["text", "k"])
    return str(table.schema.field("k").type), dict(zip(table["text"].to_pylist(), table["k"], strict=True))


def python(values: dict[str, pa.Scalar]) -> dict[str, Any]:
    return {text: value.as_py() for text, value in values.items()}


WIDER: dict[str, tuple[pa.Array, pa.Array, str, list[Any]]] = {
    "whole numbers": (pa.array([1, 2], pa.int32()), pa.array([2**40, None]), "int64", [1, 2, 2**40, None]),
    "unsigned": (pa.array([255], pa.uint8()), pa.array([-1], pa.int8()), "int16", [255, -1]),
    "floats": (pa.array([1.5], pa.float32()), pa.array([0.1, 1e300]), "double", [1.5, 0.1, 1e300]),
    "null": (pa.nulls(2), pa.array(["x"]), "string", [None, None, "x"]),
    "strings": (pa.array(["x"]), pa.array(["y"], pa.large_string()), "string", ["x", "y"]),
    "dictionary": (pa.array(["x", "x"]).dictionary_encode(), pa.array(["y"]), "string", ["x", "x", "y"]),
    "bytes": (pa.array([b"ab"], pa.binary(2)), pa.array([b"c"]), "binary", [b"ab", b"c"]),
    "times": (
        pa.array([1000], pa.timestamp("ms")),
        pa.array([2_500_001], pa.timestamp("us")),
        "timestamp[us]",
        [datetime.datetime(1970, 1, 1, 0, 0, 1), datetime.datetime(1970, 1, 1, 0, 0, 2, 500_001)],
    ),
    "decimals": (
        pa.array([Decimal("123.4")], pa.decimal128(4, 1)),
        pa.array([Decimal("0.123")], pa.decimal128(3, 3)),
        "decimal128(6, 3)",
        [Decimal("123.4"), Decimal("0.123")],
    ),
    "structs": (
        pa.array([{"a": 1}]),
        pa.array([{"b": "x", "a": 2}]),
        "struct<a: int64, b: string>",
        [{"a": 1, "b": None}, {"a": 2, "b": "x"}],
    ),
    "lists": (
        pa.array([[{"a": 1}], None], pa.list_(pa.struct([("a", pa.int8())]))),
        pa.array([[{"a": 2**40}, None]]),
        "list<element: struct<a: int64>>",
        [[{"a": 1}], None, [{"a": 2**40}, None]],
    ),
}


@pytest.mark.parametrize("name", WIDER)
def test_a_column_has_the_narrowest_type_that_holds_all(tmp_path: Path, name: str) -> None:
    one, other, type_, values = WIDER[name]
    found, by_place, rejected = came_out(pieces_of(write(tmp_path / "a", a=one, b=other)))
    assert (str(found), [v.as_py() for v in by_place.values()], rejected) == (type_, values, set())
    _, by_place, rejected = came_out(pieces_of(write(tmp_path / "b", b=one, a=other)))
    assert [v.as_py() for v in by_place.values()] == [*values[len(one) :], *values[: len(one)]] and not rejected


def test_what_python_cannot_hold_comes_out_as_it_went_in(run: Run, tmp_path: Path) -> None:
    columns = {
        "nanoseconds": pa.array([1, 1501], pa.time64("ns")),
        "far": pa.array([4_000_000, -4_000_000], pa.int32()).cast(pa.date32()),
        "farther": pa.array([2**62, -(2**62)], pa.timestamp("us", "UTC")),
        "unsigned": pa.array([2**64 - 1, 0], pa.uint64()),
        "half": pa.array([0.1, None], pa.float16()),
    }
    pq.write_table(pa.table({"text": ["a", "b"]} | columns), tmp_path / "a.parquet")
    found = run(tmp_path / "a.parquet", "--keep_columns", ",".join(columns))
    assert found.status == 0
    assert pq.read_table(found.output).sort_by("text").select(list(columns)) == pa.table(columns)


UTC = pa.timestamp("us", "UTC")
CLASHES = {
    "whole and fraction": (pa.array([1]), pa.array([1.5]), "double"),
    "number and string": (pa.array([1]), pa.array(["x"]), "string"),
    "date and time": (pa.array([1], pa.date32()), pa.array([1], pa.timestamp("ms")), "timestamp[us]"),
    "zone and none": (pa.array([1], pa.timestamp("us")), pa.array([1], UTC), "timestamp[us]"),
    "signed and unsigned": (pa.array([1], pa.uint64()), pa.array([1], pa.int8()), "double"),
    "zones": (
        pa.array([1], pa.timestamp("us", "UTC")),
        pa.array([1], pa.timestamp("us", "Asia/Tokyo")),
        "timestamp[us, UTC]",
    ),
    "in a struct": (pa.array([{"a": 1}]), pa.array([{"a": "x"}]), None),
}


@pytest.mark.parametrize("name", CLASHES)
def test_what_no_type_holds_is_refused_with_both_files_named(tmp_path: Path, name: str) -> None:
    one, other, likely = CLASHES[name]
    folder = write(tmp_path / "in", a=one, b=one, c=other)
    types = [str(pq.read_schema(folder / f"{n}.parquet").field("k").type) for n in "ac"]
    with pytest.raises(InputError) as error:
        came_out(pieces_of(folder))
    assert f"it is {types[0]} in {folder}/a.parquet and {types[1]} in {folder}/c.parquet" in str(error.value)
    assert (f"--keep_columns k:{likely}." if likely else "make the files alike") in str(error.value)


def test_a_run_that_is_refused_has_done_nothing(run: Run, tmp_path: Path) -> None:
    found = run(write(tmp_path / "in", a=pa.array([1]), b=pa.array(["x"])), "--keep_columns", "k")
    assert found.status == 2 and not found.output.exists()


def test_a_type_that_was_asked_for_holds_and_what_does_not_fit_is_rejected(run: Run, tmp_path: Path) -> None:
    folder = write(tmp_path / "in", a=pa.array([1, 2**53 + 1, None]), b=pa.array([0.1]))
    (folder / "c.jsonl").write_text(
        '{"text": "c 0", "k": 1.10}\n{"text": "c 1", "k": 1e400}\n{"text": "c 2", "k": "x"}\n{"text": "c 3"}\n'
    )
    type_, values = kept(run(folder, "--keep_columns", "k:double", "--max_error_rate", 1))
    assert type_ == "double"
    assert python(values) == {"a 0": 1.0, "a 2": None, "b 0": 0.1, "c 0": 1.1, "c 3": None}
    found = run(folder, "--keep_columns", "k:double", "--max_error_rate", 1)
    errors = {(row["source"], row["raw"]): row["error"] for row in found.rejects}
    assert set(errors) == {("a.parquet", b"a 1"), ("c.jsonl", b"c 1"), ("c.jsonl", b"c 2")}
    assert "kept column 'k': a value that is no double: '1e400' would become inf" in errors.values()


def test_an_int_that_is_asked_for_refuses_fractions_and_text_loses_no_zeros(run: Run, tmp_path: Path) -> None:
    folder = write(tmp_path / "in", a=pa.array([1.0, 1.5]), b=pa.array(["7", "007"]))
    type_, values = kept(run(folder, "--keep_columns", "k:int64", "--max_error_rate", 1))
    assert (type_, python(values)) == ("int64", {"a 0": 1, "b 0": 7})


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_misspelt_type_is_told(run: Run, tmp_path: Path, name: str) -> None:
    write(tmp_path, a=pa.array([1]))
    (tmp_path / "a.jsonl").write_text('{"text": "a", "k": 1}\n')
    found = run(tmp_path / name, "--keep_columns", "k:doubel")
    assert found.status == 2 and "'doubel' is no type; types are bool, int8" in found.stderr


def test_an_empty_cell_is_no_number_but_no_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,k\na 0,1.50\na 1,\na 2,x\n")
    type_, values = kept(run(tmp_path / "a.csv", "--keep_columns", "k:decimal(5, 2)", "--max_error_rate", 1))
    assert (type_, python(values)) == ("decimal128(5, 2)", {"a 0": Decimal("1.50"), "a 1": None})


def test_a_type_that_cannot_be_made_is_refused(run: Run, tmp_path: Path) -> None:
    found = run(write(tmp_path / "in", a=pa.array([[1]])), "--keep_columns", "k:double")
    assert found.status == 2
    assert "--keep_columns k:double" in found.stderr and "list<element: int64>" in found.stderr


def test_names_may_have_colons_and_types_commas(run: Run, tmp_path: Path) -> None:
    table = pa.table({"text": ["a"], "dc:title": ["t"], "at": [0], "n": ["1.5"]})
    pq.write_table(table, tmp_path / "a.parquet")
    found = run(tmp_path / "a.parquet", "--keep_columns", "dc:title,at:timestamp[us, UTC],n:decimal(5, 2)")
    assert found.status == 0
    (row,) = pq.read_table(found.output, columns=["dc:title", "at", "n"]).to_pylist()
    assert row == {
        "dc:title": "t",
        "at": datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC),
        "n": Decimal("1.50"),
    }


@pytest.mark.parametrize("names", ["Text", "ID", "a,A", "Embedding"])
def test_names_that_differ_by_case_alone_are_refused(run: Run, tmp_path: Path, names: str) -> None:
    found = run(write(tmp_path / "in", a=pa.array([1])), "--keep_columns", names)
    assert found.status == 2 and "by case alone" in found.stderr


def rows_of_every_reader(output: Path) -> list[list[Any]]:
    query = f"select k from '{output}/*.parquet' order by text"
    return [
        pd.read_parquet(output).sort_values("text")["k"].tolist(),
        duckdb.sql(query).fetchnumpy()["k"].tolist(),
        pl.read_parquet(f"{output}/*.parquet").sort("text")["k"].to_list(),
    ]


def test_a_narrower_file_that_comes_later_takes_the_published_type(run: Run, tmp_path: Path) -> None:
    flags = ("--keep_columns", "k", "--split_bytes", 1)
    folder = write(tmp_path / "in", b=pa.array([2**40]))
    run(folder, *flags)
    write(folder, a=pa.array([5], pa.int32()))
    found = run(folder, *flags)
    assert kept(found)[0] == "int64"
    assert found.manifest.reused["rows"] == 1
    assert rows_of_every_reader(found.output) == [[5, 2**40]] * 3


def test_a_wider_file_that_comes_later_is_refused_until_fresh(run: Run, tmp_path: Path) -> None:
    folder = write(tmp_path / "in", a=pa.array([5], pa.int32()))
    before = run(folder, "--keep_columns", "k", "--split_bytes", 1).manifest
    write(folder, b=pa.array([2**40, 7]))
    found = run(folder, "--keep_columns", "k", "--split_bytes", 1)
    assert found.status == 2
    assert all(word in found.stderr for word in ("--fresh", "int64", "int32", "--keep_columns k:int32"))
    assert found.manifest == before
    as_before = run(folder, "--keep_columns", "k:int32", "--max_error_rate", 1, "--split_bytes", 1)
    assert (as_before.status, as_before.manifest.reused["rows"]) == (0, 1)
    assert rows_of_every_reader(as_before.output) == [[5, 7]] * 3
    fresh = run(folder, "--keep_columns", "k", "--fresh")
    assert rows_of_every_reader(fresh.output) == [[5, 2**40, 7]] * 3


def test_a_type_that_nobody_can_write_is_not_what_to_ask_for(run: Run, tmp_path: Path) -> None:
    folder = write(tmp_path / "in", a=pa.array([[1]], pa.list_(pa.int8())))
    assert run(folder, "--keep_columns", "k").status == 0
    found = run(write(folder, b=pa.array([[2]], pa.list_(pa.int64()))), "--keep_columns", "k")
    assert found.status == 2
    assert "--fresh" in found.stderr
    assert "keep the type" not in found.stderr


def test_a_missing_column_is_refused_or_null(run: Run, tmp_path: Path) -> None:
    folder = write(tmp_path / "in", a=pa.array([1]), b=None)
    (folder / "c.csv").write_text("text\nc 0\n")
    found = run(folder, "--keep_columns", "k", "--format", "auto")
    assert found.status == 2 and "--keep_columns k" in found.stderr
    (folder / "c.csv").unlink()
    found = run(folder, "--keep_columns", "k")
    assert found.status == 2
    assert "b.parquet has no such column, but text; with --missing_columns null" in found.stderr
    type_, values = kept(run(folder, "--keep_columns", "k", "--missing_columns", "null"))
    assert (type_, python(values)) == ("int64", {"a 0": 1, "b 0": None, "b 1": None})


def test_a_missing_column_of_a_line_file_may_be_null(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("text,k\na 0,1\n")
    (tmp_path / "in/b.csv").write_text("text\nb 0\n")
    (tmp_path / "in/c.txt").write_text("c 0\n")
    found = run(tmp_path / "in", "--keep_columns", "k", "--missing_columns", "null")
    assert python(kept(found)[1]) == {"a 0": "1", "b 0": None, "c 0": None}


def test_a_sparse_field_counts_as_there(run: Run, tmp_path: Path) -> None:
    lines = [f'{{"text": "row {i}"}}\n' for i in range(1500)]
    (tmp_path / "a.jsonl").write_text("".join(lines) + '{"text": "last", "\\u006b": 7}\n')
    found = run(tmp_path / "a.jsonl", "--keep_columns", "k")
    assert {text: value for text, value in python(kept(found)[1]).items() if value} == {"last": "7"}


def test_a_shard_without_the_field_is_taken_where_older_ones_have_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_text('{"text": "a 0", "k": "x"}\n')
    run(tmp_path / "in", "--keep_columns", "k")
    (tmp_path / "in/b.jsonl").write_text('{"text": "b 0"}\n')
    found = run(tmp_path / "in", "--keep_columns", "k")
    assert python(kept(found)[1]) == {"a 0": "x", "b 0": None}
    assert python(kept(run(tmp_path / "in", "--keep_columns", "k", "--fresh"))[1]) == {"a 0": "x", "b 0": None}


def test_a_field_that_no_row_has_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a k", "kk": "k"}\n' * 1500)
    found = run(tmp_path / "a.jsonl", "--keep_columns", "k")
    assert found.status == 2 and "no row of the input has it; there are text, kk" in found.stderr
    null = run(tmp_path / "a.jsonl", "--keep_columns", "k", "--missing_columns", "null")
    assert null.manifest.counts.rows_out == 1500


def test_a_part_is_named_for_its_values_and_not_for_the_file_around_them(run: Run, tmp_path: Path) -> None:
    """The order of a dictionary's values, those that no row has, and where row groups end, are the file's own."""
    texts = [f"t {i}" for i in range(9)]
    plain = pa.array(["y", None, "x", "y", None, "z", "x", "y", "y"])
    numbers = pa.array([1, None, 3] * 3, pa.int16())
    indices = pa.array([2, None, 0, 2, None, 3, 0, 2, 2], pa.int8())
    dictionary = pa.DictionaryArray.from_arrays(indices, ["x", "unused", "y", "z"])
    names = []
    for name, columns in {"one": (plain.dictionary_encode(), numbers), "other": (dictionary, numbers)}.items():
        folder = tmp_path / name
        folder.mkdir()
        table = pa.table({"text": texts, "d": columns[0], "n": columns[1]})
        pq.write_table(table, folder / "a.parquet", row_group_size=9 if name == "one" else 2)
        found = run(folder, "--keep_columns", "d,n", output=tmp_path / f"out-{name}")
        names.append([part.name for part in open_dataset(str(found.output)).manifest.parts])
    assert names[0] == names[1]
