"""Strings that one array of `string` cannot hold, with the limit made small."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms import long_strings
from transforms.long_strings import as_one_array, as_strings


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_strings, "MOST_BYTES", 200)


@given(st.lists(st.lists(st.text(max_size=40), max_size=9), min_size=1, max_size=6))
def test_values_survive_in_one_array_and_back(chunks: list[list[str]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_strings, "MOST_BYTES", 200)
        column = pa.chunked_array([pa.array(chunk, pa.string()) for chunk in chunks])
        whole = as_one_array(column)
        assert whole.type == (pa.large_string() if column.nbytes > 200 else pa.string())
        back = as_strings(whole)
    assert whole.to_pylist() == back.to_pylist() == [value for chunk in chunks for value in chunk]
    assert back.type == pa.string()


def test_no_chunk_is_longer_than_the_limit_but_for_one_value() -> None:
    values = pa.array(["a" * 30] * 50 + ["b" * 300] + ["c"] * 10, pa.large_string())
    chunks = as_strings(values).chunks
    assert [len(chunk) for chunk in chunks if chunk.nbytes > 200] == [1]
    assert max(map(len, chunks)) > 1
