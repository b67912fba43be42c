import math
from typing import Any

import pyarrow as pa
import pytest

from transforms.sources.kept_cast import can_cast, checked_cast

DAY = 86_400_000_000
CASTS: list[tuple[pa.Array, pa.DataType, list[Any]]] = [
    # what does not fit is "bad"
    (pa.array([1, 2**53, 2**53 + 1, None]), pa.float64(), [1.0, 2.0**53, "bad", None]),
    (pa.array([0.5, 0.1, 1e300, math.inf, None]), pa.float32(), [0.5, "bad", "bad", math.inf, None]),
    (pa.array([2.0, 1.5, -0.0, 1e300]), pa.int64(), [2, "bad", 0, "bad"]),
    (pa.array([127, 128, -129]), pa.int8(), [127, "bad", "bad"]),
    (pa.array([0, 1, 2]), pa.bool_(), [False, True, "bad"]),
    (pa.array([1.0, math.nan]), pa.bool_(), [True, "bad"]),
    (pa.array([1.0, math.nan]), pa.int64(), [1, "bad"]),
    (pa.array(["7", "007", "0x10", "1.0", "", "9" * 30]), pa.int64(), [7, *["bad"] * 5]),
    (pa.array(["1.10", "0.10000000000000001", "1e5", "-0"]), pa.float64(), [1.1, 0.1, 1e5, 0.0]),
    (pa.array(["1e400", "1e-400", "9007199254740993", "1.00000000000000000001", "x"]), pa.float64(), ["bad"] * 5),
    (pa.array(["inf", "0e5", "0.000"]), pa.float64(), [math.inf, 0.0, 0.0]),
    (pa.array(["0.1", "16777217", "1e39"]), pa.float32(), [float(pa.scalar(0.1, pa.float32()).as_py()), "bad", "bad"]),
    (pa.array([0, DAY, 1], pa.timestamp("us")).cast(pa.timestamp("us")), pa.int64(), [0, DAY, 1]),
    (pa.array([b"a", b"\xff"]), pa.string(), ["a", "bad"]),
    (pa.array(["x", "1"]).dictionary_encode(), pa.int8(), ["bad", 1]),
    (pa.array([True, None]), pa.string(), ["true", None]),
]


@pytest.mark.parametrize(("column", "target", "expected"), CASTS, ids=str)
def test_a_value_becomes_its_equal_or_is_told(column: pa.Array, target: pa.DataType, expected: list[Any]) -> None:
    cast, errors = checked_cast(column, target)
    assert cast.type == target
    assert ["bad" if i in errors else value for i, value in enumerate(cast.to_pylist())] == expected


def test_times_that_a_type_cannot_tell_are_told() -> None:
    for column, target, bad in [
        (pa.array([DAY, DAY + 1], pa.timestamp("us")), pa.date32(), {1}),
        (pa.array([1000, 1500], pa.timestamp("ms")), pa.timestamp("s"), {1}),
        (pa.array([1, 2**62], pa.timestamp("us")), pa.timestamp("ns"), {1}),
        (pa.array([1, 2**62], pa.duration("us")), pa.duration("ns"), {1}),
        (pa.array([10**9, 1], pa.time64("ns")), pa.time32("s"), {1}),
    ]:
        assert set(checked_cast(column, target)[1]) == bad


def test_many_bad_values_are_each_found() -> None:
    cast, errors = checked_cast(pa.array([str(i) if i % 3 else "x" for i in range(1000)]), pa.int16())
    assert sorted(errors) == list(range(0, 1000, 3))
    assert [value for i, value in enumerate(cast.to_pylist()) if i % 3] == [i for i in range(1000) if i % 3]


def test_what_can_be_cast_at_all() -> None:
    assert can_cast(pa.string(), pa.timestamp("us")) and can_cast(pa.dictionary(pa.int8(), pa.string()), pa.int8())
    assert not can_cast(pa.list_(pa.int8()), pa.float64()) and not can_cast(pa.date32(), pa.bool_())
