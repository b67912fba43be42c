import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.kept_types import TYPE_NAMES, common_type, holds, parse_type, plain_type

CODES = pa.dictionary(pa.int8(), pa.string())
FLAT = [
    *(pa.type_for_alias(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *(pa.float16(), pa.float32(), pa.float64(), pa.bool_(), pa.null(), pa.date32(), pa.date64()),
    *(pa.string(), pa.large_string(), pa.binary(), pa.binary(2), pa.binary(3), CODES),
    *(pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("ms", "UTC"), pa.time32("s"), pa.time64("ns")),
    *(pa.duration("us"), pa.decimal128(5, 2), pa.decimal128(38, 0), pa.dictionary(pa.int32(), pa.string())),
]


def nested(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    fields = st.dictionaries(st.sampled_from("abc"), inner, min_size=1)
    return st.one_of(
        fields.map(lambda found: pa.struct(list(found.items()))),
        inner.map(pa.list_),
        inner.map(lambda t: pa.list_(t, 2)),
        inner.map(lambda t: pa.map_(pa.string(), t)),
    )


kinds = st.recursive(st.sampled_from(FLAT), nested, max_leaves=3)
PAIRS = pa.list_(pa.int8(), 2)
COMMON = [
    (pa.uint8(), pa.int8(), pa.int16()),
    (pa.uint32(), pa.int8(), pa.int64()),
    (pa.uint8(), pa.uint64(), pa.uint64()),
    (pa.float16(), pa.float32(), pa.float32()),
    (pa.decimal128(38, 0), pa.decimal128(5, 5), pa.decimal256(43, 5)),
    (pa.decimal32(9, 2), pa.decimal32(9, 0), pa.decimal64(11, 2)),
    (pa.timestamp("s", "UTC"), pa.timestamp("ns", "UTC"), pa.timestamp("ns", "UTC")),
    (pa.time32("s"), pa.time64("us"), pa.time64("us")),
    (CODES, CODES, pa.dictionary(pa.int32(), pa.string())),
    (CODES, pa.string_view(), pa.string()),
    (PAIRS, pa.list_(pa.int16(), 2), pa.list_(pa.int16(), 2)),
    (PAIRS, pa.null(), pa.list_(pa.int8())),
    (pa.struct({"a": PAIRS}), pa.struct({"b": pa.null()}), pa.struct({"a": pa.list_(pa.int8()), "b": pa.null()})),
    (pa.map_(pa.string(), pa.int8()), pa.map_(pa.string(), pa.null()), pa.map_(pa.string(), pa.int8())),
]


@pytest.mark.parametrize(("one", "other", "common"), COMMON, ids=str)
def test_a_common_type(one: pa.DataType, other: pa.DataType, common: pa.DataType) -> None:
    assert common_type(one, other) == common
    assert common_type(other, one) == common or pa.types.is_struct(common)  # whose fields are in the order of the first


NONE = [
    (pa.int8(), pa.float64()),
    (pa.int64(), pa.uint64()),
    (pa.int8(), pa.decimal128(5, 0)),
    (pa.bool_(), pa.int8()),
    (pa.string(), pa.binary()),
    (pa.date32(), pa.timestamp("s")),
    (pa.timestamp("s"), pa.timestamp("s", "UTC")),
    (pa.timestamp("s", "UTC"), pa.timestamp("s", "Europe/Paris")),
    (pa.time64("us"), pa.duration("us")),
    (pa.list_(pa.int8()), pa.int8()),
    (pa.decimal256(76, 0), pa.decimal128(5, 5)),
    (pa.struct([("a", pa.int8()), ("a", pa.int8())]), pa.struct([("a", pa.int8()), ("b", pa.int8())])),
]


@pytest.mark.parametrize(("one", "other"), NONE, ids=str)
def test_no_common_type(one: pa.DataType, other: pa.DataType) -> None:
    assert common_type(one, other) is None and common_type(other, one) is None


@given(kinds, kinds)
def test_a_common_type_holds_both_and_is_the_same_in_either_order(one: pa.DataType, other: pa.DataType) -> None:
    common, turned = common_type(one, other), common_type(other, one)
    assert (common is None) == (turned is None)
    if common is not None and turned is not None:
        assert holds(common, one) and holds(common, other)
        assert holds(common, turned) and holds(turned, common)
    assert common_type(one, one) == plain_type(one)


@given(kinds, kinds, kinds)
def test_the_order_of_files_does_not_decide_whether_there_is_a_type(
    a: pa.DataType, b: pa.DataType, c: pa.DataType
) -> None:
    def all_of(*types: pa.DataType) -> pa.DataType | None:
        held: pa.DataType | None = pa.null()
        for type_ in types:
            held = common_type(held, type_) if held is not None else None
        return held

    found = [all_of(*order) for order in ((a, b, c), (c, b, a), (b, c, a))]
    assert len({one is None for one in found}) == 1


def test_published_dictionaries_hold_what_their_values_hold() -> None:
    """Parts of an earlier release number their values with 8 bits."""
    published = pa.dictionary(pa.int8(), pa.string())
    assert holds(published, pa.dictionary(pa.int32(), pa.string())) and holds(published, pa.string())
    assert not holds(published, pa.int64())


@pytest.mark.parametrize("name", TYPE_NAMES)
def test_every_name_is_a_type(name: str) -> None:
    assert parse_type(name) is not None


def test_types_as_people_write_them() -> None:
    assert parse_type("timestamp[us, UTC]") == parse_type("timestamp[us, tz=UTC]") == pa.timestamp("us", "UTC")
    assert parse_type("timestamp[ns, +02:00]") == pa.timestamp("ns", "+02:00")
    assert parse_type("decimal(40,2)") == pa.decimal256(40, 2)
    assert [parse_type(text) for text in ("i8", "title", "", "decimal(99, 1)", "list<int8>", "time32[us]")] == [
        None
    ] * 6
