"""Files read by ranges: the same bytes as a file has, in few requests, and none beyond need."""

import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.range_file import FIRST_BYTES, MOST_BYTES, SLACK_BYTES, RangeFile, ReadAheadFile

CONTENT = random.Random(0).randbytes(20 << 20)


class Asked(list[tuple[int, int]]):
    """The ranges that were asked for."""

    def fetch(self, start: int, stop: int) -> bytes:
        assert 0 <= start < stop <= len(CONTENT)
        self.append((start, stop))
        return CONTENT[start:stop]

    @property
    def bytes(self) -> int:
        return sum(stop - start for start, stop in self)


@settings(deadline=None, max_examples=30)
@given(
    ahead=st.booleans(),
    stop=st.none() | st.integers(0, len(CONTENT)),
    steps=st.lists(
        st.tuples(st.sampled_from(["read", "seek"]), st.integers(0, len(CONTENT) + 10)), min_size=1, max_size=8
    ),
)
def test_any_reads_and_seeks_give_the_files_bytes(ahead: bool, stop: int | None, steps: list[tuple[str, int]]) -> None:
    fetch, size = Asked().fetch, len(CONTENT)
    ours = io.BufferedReader(ReadAheadFile(fetch, size, 0, stop) if ahead else RangeFile(fetch, size), 1 << 16)
    theirs = io.BytesIO(CONTENT)
    for verb, number in steps:
        if verb == "seek":
            assert ours.seek(number) == theirs.seek(number)
        else:
            assert ours.read(number // 4) == theirs.read(number // 4)
        assert ours.tell() == theirs.tell()


def test_exact_reads_ask_for_what_they_need_and_nothing_else() -> None:
    asked = Asked()
    file = RangeFile(asked.fetch, len(CONTENT))
    file.seek(-8, io.SEEK_END)
    file.read(100)
    file.seek(1000)
    file.read(24)
    file.read(0)
    assert asked == [(len(CONTENT) - 8, len(CONTENT)), (1000, 1024)]


def test_reading_ahead_begins_small_and_grows() -> None:
    asked = Asked()
    with io.BufferedReader(ReadAheadFile(asked.fetch, len(CONTENT)), 1 << 20) as file:
        assert file.read() == CONTENT
    sizes = [stop - start for start, stop in sorted(asked)]
    assert sizes[:4] == [FIRST_BYTES, 2 * FIRST_BYTES, 4 * FIRST_BYTES, 8 * FIRST_BYTES]
    assert max(sizes) <= MOST_BYTES and len(sizes) == 7
    assert asked.bytes == len(CONTENT)


@pytest.mark.parametrize("start", [0, 5 << 20])
def test_a_range_is_one_request_for_little_more_than_it(start: int) -> None:
    asked, size = Asked(), 8 << 20
    with io.BufferedReader(ReadAheadFile(asked.fetch, len(CONTENT), start, start + size), 1 << 20) as file:
        assert file.read(size) == CONTENT[start : start + size]
    assert asked == [(start, start + size + SLACK_BYTES)]


def test_what_lies_beyond_a_range_is_asked_for_bit_by_bit() -> None:
    asked, size = Asked(), 4 << 20
    with io.BufferedReader(ReadAheadFile(asked.fetch, len(CONTENT), 0, size), 1 << 16) as file:
        assert file.read(size + FIRST_BYTES) == CONTENT[: size + FIRST_BYTES]
    assert [stop - start for start, stop in asked] == [size + SLACK_BYTES, FIRST_BYTES]


def test_a_long_range_is_few_requests_of_one_size_and_never_more_than_one_ahead() -> None:
    asked, size = Asked(), len(CONTENT)
    with io.BufferedReader(ReadAheadFile(asked.fetch, size, 1, size), 1 << 16) as file:
        assert file.read(1) == CONTENT[1:2]
        assert file.read() == CONTENT[2:]
    assert sorted(asked) == asked
    assert len(asked) == 2 and all(stop - start <= MOST_BYTES for start, stop in asked)
    assert asked.bytes == size - 1


def test_one_line_costs_one_small_request() -> None:
    asked = Asked()
    with io.BufferedReader(ReadAheadFile(asked.fetch, len(CONTENT), 777), 1 << 16) as file:
        file.read(100)
    assert asked == [(777, 777 + FIRST_BYTES)]


def test_an_error_of_a_read_ahead_reaches_the_reader() -> None:
    def fetch(start: int, stop: int) -> bytes:
        if start >= 2 * FIRST_BYTES:
            raise ConnectionResetError("gone")
        return CONTENT[start:stop]

    with io.BufferedReader(ReadAheadFile(fetch, len(CONTENT)), 1 << 16) as file, pytest.raises(ConnectionResetError):
        file.read()
