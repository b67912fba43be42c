import pytest

from schemas.errors import InputError
from transforms.sources import detect


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a/b.txt", ("text", "")),
        ("b.LOG", ("text", "")),
        ("b.text.bz2", ("text", "bz2")),
        ("b.jsonl.gz", ("jsonl", "gz")),
        ("b.ndjson", ("jsonl", "")),
        ("b.json.zstd", ("jsonl", "zst")),
        ("b.csv.zst", ("csv", "zst")),
        ("b.tsv", ("tsv", "")),
        ("b.tab.GZ", ("tsv", "gz")),
        ("b.parquet", ("parquet", "")),
        ("b.pq", ("parquet", "")),
        ("dir.csv/b.txt", ("text", "")),
    ],
)
def test_a_name_tells_format_and_codec(name: str, found: tuple[str, str]) -> None:
    assert detect(name) == found


def test_an_explicit_format_wins_over_the_name_but_not_over_its_codec() -> None:
    assert detect("part-00000.csv.gz", "text") == ("text", "gz")
    assert detect("part-00000", "jsonl") == ("jsonl", "")


def test_an_unknown_extension_is_refused_naming_the_file_the_known_ones_and_the_flag() -> None:
    with pytest.raises(InputError) as error:
        detect("in/part-00000.xz")
    for expected in ("in/part-00000.xz", ".ndjson", ".tab", ".pq", ".bz2", "--format text|jsonl|csv|tsv|parquet"):
        assert expected in str(error.value)


@pytest.mark.parametrize(("name", "format"), [("a.parquet.gz", "auto"), ("a.gz", "parquet")])
def test_compressed_parquet_is_refused_before_it_is_read(name: str, format: str) -> None:
    with pytest.raises(InputError, match=r"\.gz.*decompress"):
        detect(name, format)
