import io
import random
import threading
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from schemas import storage
from schemas.rejects import Reason, Reject
from schemas.splits import FileInfo
from transforms.sources import (
    BadFile,
    ReadOptions,
    Row,
    columns_of,
    kept_type,
    parquet_batches,
    parquet_row_groups,
    read_batches,
    read_footers,
    read_rows,
)

PLAIN = ReadOptions()
TEN = pa.table({"text": [f"t{i}" for i in range(10)], "n": list(range(10))})


def content(table: pa.Table, row_group_size: int = 4, **how) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=row_group_size, **how)
    return sink.getvalue()


def read(piece, options: ReadOptions = PLAIN) -> list:
    return list(read_rows(piece, options))


def kept_schema(piece, names: Sequence[str]) -> pa.Schema:
    return pa.schema([(name, kept_type(piece.file, name)) for name in names])


def bad_file(piece, options: ReadOptions = PLAIN) -> str:
    with pytest.raises(BadFile) as error:
        read(piece, options)
    assert error.value.uri == piece.file.uri
    return error.value.reason


def unchecked_strings(values: list[bytes | None], large: bool = False) -> pa.Array:
    """What a careless writer makes: a string column whose bytes need not be UTF-8."""
    raw = pa.array(values, pa.large_binary() if large else pa.binary())
    return pa.Array.from_buffers(pa.large_string() if large else pa.string(), len(raw), raw.buffers())


def test_row_groups_share_out_the_rows_and_number_them_through_the_file(write) -> None:
    piece = write("a.parquet", content(TEN))
    whole = read(piece)
    assert whole == [Row(i, f"t{i}", None, ()) for i in range(10)]
    pieces = [piece._replace(start=a, stop=b) for a, b in [(0, 1), (1, 1), (1, 3)]]
    assert [read(p) for p in pieces] == [whole[:4], [], whole[4:]]
    assert read(piece._replace(start=2)) == whole[8:]


@pytest.mark.parametrize("size", [0, 1], ids=["for first rows", "for all"])
def test_a_row_group_is_streamed_and_never_held_whole(write, monkeypatch, size: int) -> None:
    """A file may be one row group. `size` says whether more than first rows are wanted."""
    table = pa.table({"text": [f"{i:01000}" for i in range(20_000)]})
    piece = write("a.parquet", content(table, len(table), compression="none", use_dictionary=False))
    asked: list[int] = []

    class Counting(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            asked.append(size)
            return super().read(size)

    monkeypatch.setattr(storage, "open_random", lambda file: Counting(file.uri))
    rows = read_rows(piece._replace(size=size), PLAIN)
    assert next(rows) == Row(0, "0" * 1000, None, ())
    assert sum(asked) < 6 << 20  # a batch, of 20 MB
    assert len(list(rows)) == 19_999
    assert sum(asked) > 20_000_000


def test_row_groups_are_told_from_the_footer(write) -> None:
    piece = write("a.parquet", content(TEN))
    groups = parquet_row_groups(piece.file)
    assert [rows for rows, _ in groups] == [4, 4, 2]
    footer = pq.read_metadata(piece.file.uri)
    assert [size for _, size in groups] == [footer.row_group(i).total_byte_size for i in range(3)]


def test_batches_do_not_change_what_is_read(write, monkeypatch) -> None:
    piece = write("a.parquet", content(TEN, row_group_size=10))
    whole = read(piece)
    monkeypatch.setattr(parquet_batches, "BATCH_ROWS", 3)
    assert read(piece) == whole
    monkeypatch.setattr(parquet_batches, "BATCH_BYTES", 1)
    assert read(piece) == whole


@pytest.mark.parametrize(
    "type_",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
    ],
    ids=str,
)
def test_text_and_id_may_be_any_kind_of_string(type_: pa.DataType, write) -> None:
    column = pa.array(["é", "b", None, "b"]).cast(type_)
    piece = write("a.parquet", content(pa.table({"text": column, "id": column})))
    found = read(piece, ReadOptions(id_column="id"))
    assert [found[0], found[1], found[3]] == [Row(0, "é", "é", ()), Row(1, "b", "b", ()), Row(3, "b", "b", ())]
    assert found[2].reason == Reason.NULL_TEXT


@pytest.mark.parametrize("type_", [pa.int8(), pa.uint64(), pa.int64()], ids=str)
def test_integer_ids_become_their_digits(type_: pa.DataType, write) -> None:
    table = pa.table({"text": ["a", "b"], "id": pa.array([7, None], type_)})
    found = read(write("a.parquet", content(table)), ReadOptions(id_column="id"))
    assert found[0] == Row(0, "a", "7", ())
    assert found[1] == Reject("a.parquet", 1, "read", Reason.MISSING_ID, "id field 'id' is missing or null", b"b")


@pytest.mark.parametrize("large", [False, True])
def test_a_bad_row_is_rejected_with_its_reason_and_the_rest_goes_on(large: bool, write) -> None:
    texts = unchecked_strings([b"a", b"b\xff" + b"c" * 2000, None, b"", b" \n", b"x" * 5000, "é".encode()], large)
    found = read(write("a.parquet", content(pa.table({"text": texts}))), ReadOptions(max_record_bytes=4000))
    assert found == [
        Row(0, "a", None, ()),
        Reject(
            "a.parquet",
            1,
            "read",
            Reason.INVALID_UTF8,
            "no UTF-8 at byte 1 of a value: invalid start byte",
            b"b\xff" + b"c" * 1022,
        ),
        Reject("a.parquet", 2, "read", Reason.NULL_TEXT, "field 'text' is null", b""),
        Reject("a.parquet", 3, "read", Reason.BLANK_TEXT, "field 'text' is blank", b""),
        Reject("a.parquet", 4, "read", Reason.BLANK_TEXT, "field 'text' is blank", b" \n"),
        Reject(
            "a.parquet",
            5,
            "read",
            Reason.TOO_LARGE,
            "a text of more than 4000 bytes (--max_record_bytes)",
            b"x" * 1024,
        ),
        Row(6, "é", None, ()),
    ]


def test_invalid_utf8_in_a_kept_column_rejects_its_row_and_in_any_other_column_none(write) -> None:
    table = pa.table({"text": ["a", "b"], "k": unchecked_strings([b"\xff", b"k"])})
    piece = write("a.parquet", content(table))
    found = read(piece, ReadOptions(keep_columns=("k",)))
    assert (found[0].reason, found[0].raw, found[1]) == (Reason.INVALID_UTF8, b"a", Row(1, "b", None, ("k",)))
    assert [row.text for row in read(piece)] == ["a", "b"]


def test_values_that_python_cannot_hold_are_kept_all_the_same(write) -> None:
    columns = {
        "date": pa.array([0, 4_000_000], pa.int32()).cast(pa.date32()),  # the year 12921
        "nanoseconds": pa.array([1, 1501], pa.time64("ns")),
        "far": pa.array([2**62, -(2**62)], pa.timestamp("us", "UTC")),
        "long": pa.array([1, 2**62 + 1], pa.duration("ns")),
        "unsigned": pa.array([2**64 - 1, 0], pa.uint64()),
    }
    piece = write("a.parquet", content(pa.table({"text": ["a", "b"]} | columns)))
    (found,) = read_batches(piece, ReadOptions(keep_columns=tuple(columns)))
    assert found.kept == pa.record_batch(columns)


def test_old_times_beyond_nanoseconds_are_no_other_times(write) -> None:
    """Spark wrote 9999-12-31 as INT96, which Arrow reads as a day of 1816."""
    far = pa.array([0, 253_402_300_799_999_999, None], pa.timestamp("us"))
    old = content(pa.table({"text": ["a", "b", "c"], "at": far}), use_deprecated_int96_timestamps=True)
    piece = write("a.parquet", old)
    as_planned = ReadOptions(keep_columns=("at",), kept=kept_schema(piece, ("at",)))
    found = read(piece, as_planned)
    assert [found[0].kept[0].isoformat(), found[2].kept] == ["1970-01-01T00:00:00", (None,)]
    assert found[1].reason == Reason.WRONG_TYPE and "out of bounds" in found[1].error
    micros = pa.schema([("at", pa.timestamp("us"))])
    (rows,) = read_batches(piece, ReadOptions(keep_columns=("at",), kept=micros))
    assert rows.kept.column(0) == far
    near = pa.array([1, 1501, None], pa.timestamp("ns"))
    old = content(pa.table({"text": ["a", "b", "c"], "at": near}), use_deprecated_int96_timestamps=True)
    (rows,) = read_batches(write("b.parquet", old), as_planned)
    assert rows.kept.column(0) == near


def test_a_footer_is_read_once_for_all_splits_of_a_file(write, monkeypatch) -> None:
    """A file of 48 MB in 2,000 splits read 39 GiB of footers."""
    table = pa.table({"text": [f"t{i}" for i in range(500)]})
    piece = write("a.parquet", content(table, 1))
    asked: list[int] = []

    class Counting(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            asked.append(size)
            return super().read(size)

    monkeypatch.setattr(storage, "open_random", lambda file: Counting(file.uri))
    groups = len(parquet_row_groups(piece.file))
    footer = sum(asked)
    assert groups == 500 and footer > 50_000
    found = [read(piece._replace(start=i, stop=i + 1)) for i in range(groups)]
    assert [rows[0].text for rows in found] == table["text"].to_pylist()
    assert sum(asked) < 2 * footer


def test_footers_of_many_files_are_read_side_by_side(write, monkeypatch) -> None:
    pieces = [write(f"{i}.parquet", content(TEN)) for i in range(4)]
    side_by_side = threading.Barrier(4, timeout=60)  # would break if one waited for another

    def opened(file: FileInfo) -> io.FileIO:
        side_by_side.wait()
        return io.FileIO(file.uri)

    monkeypatch.setattr(storage, "open_random", opened)
    read_footers(piece.file for piece in pieces)
    assert [parquet_row_groups(piece.file)[0][0] for piece in pieces] == [4] * 4  # without another look


def test_a_footer_of_a_changed_file_is_read_anew(write) -> None:
    piece = write("a.parquet", content(TEN))
    assert len(read(piece)) == 10
    changed = write("a.parquet", content(TEN.slice(0, 3)))
    assert changed.file != piece.file
    assert len(read(changed)) == 3


@pytest.mark.parametrize(("size", "count"), [(100_000, 2000), (3_000_000, 60)])
def test_a_dictionary_makes_no_gigabytes_of_a_small_file(write, size: int, count: int) -> None:
    """4,096 times one text of 100 KB, in a file of 28 KB, took 1 GB. Random text, or its page would be small too."""
    long = random.Random(0).randbytes(size // 2).hex()
    table = pa.table({"text": ["short", *[long] * count], "k": ["k"] * (count + 1)})
    piece = write("a.parquet", content(table, 4096, dictionary_pagesize_limit=1 << 30))
    assert piece.file.size < 2 * size
    before = pa.total_allocated_bytes()
    held, lengths = [0], []
    for rows in read_batches(piece, ReadOptions(keep_columns=("k",))):
        held.append(pa.total_allocated_bytes() - before)
        lengths += pc.utf8_length(rows.texts).to_pylist()
    assert lengths == [5, *[size] * count]
    assert max(held) < 120_000_000


def test_nested_dictionaries_that_differ_from_group_to_group_are_read(write) -> None:
    """pyarrow fails on them where one batch reaches over two row groups."""
    lists = pa.array([["x"], ["y", None], None, ["z"]], pa.list_(pa.dictionary(pa.int8(), pa.string())))
    piece = write("a.parquet", content(pa.table({"text": list("abcd"), "l": lists}), 2))
    options = ReadOptions(keep_columns=("l",))
    assert kept_schema(piece, options.keep_columns).types == [pa.list_(pa.field("element", pa.string()))]
    assert [row.kept[0] for row in read(piece, options)] == lists.to_pylist()


def test_kept_columns_keep_their_type_and_value(write) -> None:
    table = pa.table(
        {
            "text": ["a", "b"],
            "i": pa.array([1, None], pa.int16()),
            "l": [[1.5, None], []],
            "s": [{"x": 1, "y": "p"}, None],
            "t": pa.array([1, 2], pa.timestamp("ms", "UTC")),
        }
    )
    piece = write("a.parquet", content(table))
    options = ReadOptions(keep_columns=("i", "l", "s", "t", "s.y"))
    schema = kept_schema(piece, options.keep_columns)
    types = [table.schema.field(n).type for n in ("i", "l", "s", "t")]
    assert schema.names == ["i", "l", "s", "t", "s.y"]
    assert schema.types == [*types, pa.string()]
    assert all(field.nullable for field in schema)
    columns = [
        pa.array(v, t)
        for v, t in zip(zip(*[r.kept for r in read(piece, options)], strict=True), schema.types, strict=True)
    ]
    assert columns[:4] == [table[n].combine_chunks() for n in ("i", "l", "s", "t")]
    assert columns[4].to_pylist() == ["p", None]


def test_kept_views_become_what_they_are_views_of(write) -> None:
    table = pa.table({"text": ["a"], "s": pa.array(["v"], pa.string_view()), "b": pa.array([b"w"], pa.binary_view())})
    piece, options = write("a.parquet", content(table)), ReadOptions(keep_columns=("s", "b"))
    assert kept_schema(piece, options.keep_columns).types == [pa.string(), pa.binary()]
    assert read(piece, options) == [Row(0, "a", None, ("v", b"w"))]


def test_non_null_columns_become_nullable_kept_ones(write) -> None:
    schema = pa.schema([pa.field("text", pa.string(), nullable=False), pa.field("k", pa.int64(), nullable=False)])
    piece = write("a.parquet", content(pa.table({"text": ["a"], "k": [1]}, schema=schema)))
    read_as = ReadOptions(keep_columns=("k",), kept=kept_schema(piece, ("k",)))
    (rows,) = read_batches(piece, read_as)
    assert rows.kept.schema == pa.schema([pa.field("k", pa.int64())])


def test_a_text_may_be_a_field_of_a_struct_and_a_name_may_have_a_dot(write) -> None:
    docs = pa.array([{"text": "a", "n": 1}, None, {"text": "c", "n": 3}])
    piece = write("a.parquet", content(pa.table({"doc": docs, "x.y": ["p", "q", "r"]})))
    found = read(piece, ReadOptions(text_column="doc.text", keep_columns=("x.y", "doc.n")))
    assert (found[0], found[2]) == (Row(0, "a", None, ("p", 1)), Row(2, "c", None, ("r", 3)))
    assert found[1].reason == Reason.NULL_TEXT


def test_a_missing_column_is_a_bad_file_that_lists_the_columns(write) -> None:
    piece = write("a.parquet", content(TEN))
    assert bad_file(piece, ReadOptions(text_column="txt")) == "no column 'txt'; there are 'text', 'n'"
    assert bad_file(piece, ReadOptions(id_column="id")) == "no column 'id'; there are 'text', 'n'"
    assert bad_file(piece, ReadOptions(keep_columns=("text.x",))) == "no column 'text.x'; there are 'text', 'n'"
    assert kept_type(piece.file, "k") is None


def test_a_column_of_another_type_is_a_bad_file_that_names_the_type(write) -> None:
    table = pa.table({"text": ["a"], "b": [b"x"], "f": [1.5], "two": ["x"]}).rename_columns(["text", "b", "f", "f"])
    piece = write("a.parquet", content(table))
    assert bad_file(piece, ReadOptions(text_column="b")) == "column 'b' should hold strings, holds binary"
    assert bad_file(piece, ReadOptions(text_column="f")) == "two columns 'f'; there are 'text', 'b', 'f', 'f'"
    expected = "id column 'f' should hold strings or integers, holds double"
    only_one = write("a.parquet", content(table.select([0, 2])))
    assert bad_file(only_one, ReadOptions(id_column="f")) == expected


@pytest.mark.parametrize("damage", ["empty", "text", "head", "tail", "middle", "footer"])
def test_a_damaged_file_is_a_bad_file(damage: str, write) -> None:
    good = content(pa.table({"text": [f"text {i * 7919}" for i in range(2000)]}), write_page_checksum=True)
    bad = {
        "empty": b"",
        "text": b"id,text\n1,a\n" * 9,
        "head": good[: len(good) // 2],
        "tail": good[:-1],
        "middle": good[:60] + bytes(20) + good[80:],
        "footer": good[:-30] + b"\xff" * 20 + good[-10:],
    }[damage]
    assert bad_file(write("a.parquet", bad)).startswith("no readable Parquet file: ")


def test_a_changed_byte_of_a_text_is_found_by_its_page_s_checksum(write) -> None:
    good = content(TEN, compression="none", use_dictionary=False, write_page_checksum=True)
    assert good.count(b"t5") == 1  # neither least nor greatest of its row group: in no statistics
    bad = good.replace(b"t5", b"t6")
    assert "CRC checksum verification failed" in bad_file(write("a.parquet", bad))


def test_an_empty_table_has_no_rows_and_its_columns(write) -> None:
    piece = write("a.parquet", content(TEN.slice(0, 0)))
    assert read(piece) == []
    assert columns_of(piece, ReadOptions()) == ["text", "n"]
