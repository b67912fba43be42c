"""Inputs that grow, shrink, change, vanish; options and models that change: the dataset is a clean run's, and no text
is encoded that need not be."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.dataset import open_dataset
from schemas.manifest import read_manifest, versions
from tests.faults import harness

pytestmark = pytest.mark.faults


class Bench:
    """A corpus, an output that is kept up to date, and how many texts each run encoded."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.source, self.output, self.log = folder, folder / "in", folder / "out", folder / "log"
        harness.write_corpus(self.source)

    def run(self, *more: str) -> int:
        """Brings the output up to date; the number of texts that were encoded."""
        tally = self.folder / "tally"
        tally.unlink(missing_ok=True)
        argv = harness.arguments(self.source, self.output, *more)
        assert harness.run(argv, self.log, count_texts, str(tally)) == 0, self.log.read_text()
        return sum(map(int, tally.read_text().split())) if tally.exists() else 0

    def assert_clean(self, *more: str) -> None:
        clean = self.folder / f"clean-{len(os.listdir(self.folder))}"
        assert harness.run(harness.arguments(self.source, clean, *more), self.log) == 0
        harness.assert_same_dataset(self.output, clean)


def count_texts(tally: str) -> None:
    real = harness.SlowEncoder.encode

    def counting(self: harness.SlowEncoder, texts: list[str], *args: object) -> object:
        with open(tally, "a") as file:
            file.write(f"{len(texts)}\n")
        return real(self, texts, *args)  # type: ignore[arg-type]

    harness.SlowEncoder.encode = counting  # type: ignore[method-assign, assignment]
    harness.SlowEncoder.seconds_per_block = 0


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path)
    assert found.run() == 4 * 299
    yield found


def test_nothing_new_publishes_nothing_and_encodes_nothing(bench: Bench) -> None:
    assert bench.run() == 0
    assert versions(str(bench.output)) == [1]
    assert "unchanged" in bench.log.read_text()
    bench.assert_clean()


def append(bench: Bench) -> int:
    """Rows at the end of a file: they, and the file's last block."""
    with (bench.source / "shard-3.jsonl").open("a") as file:
        file.writelines(f'{{"text": "appended {i}"}}\n' for i in range(10))
    return 10 + 128


def add_file(bench: Bench) -> int:
    harness.write_corpus(bench.folder / "more", files=1, seed=9)
    (bench.folder / "more" / "shard-0.jsonl").rename(bench.source / "shard-2b.jsonl")
    return 299


def shrink(bench: Bench) -> int:
    path = bench.source / "shard-1.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:145]))
    return 128


def vanish(bench: Bench) -> int:
    (bench.source / "shard-3.jsonl").unlink()
    return 0


def change(bench: Bench) -> int:
    path = bench.source / "shard-2.jsonl"
    path.write_text(path.read_text().replace("row", "new"))
    return 299


def touch(bench: Bench) -> int:
    """The same bytes under another time: read again, found done."""
    os.utime(bench.source / "shard-0.jsonl", (1, 1))
    return 0


@pytest.mark.parametrize("edit", [append, add_file, shrink, vanish, change, touch], ids=lambda f: f.__name__)
def test_an_edit_encodes_what_is_new_and_publishes_what_a_clean_run_would(
    bench: Bench, edit: Callable[[Bench], int]
) -> None:
    most = edit(bench)
    encoded = bench.run()
    assert encoded <= most
    assert (encoded > 0) == (most > 0)
    assert versions(str(bench.output)) == [2]
    bench.assert_clean()


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--prompt", "query: "], "prompt: "),
        (["--max_seq_length", "64"], "max_seq_length: 256 -> 64"),
        (["--truncate_dim", "64"], "dim: 384 -> 64"),
        (["--id_from", "text"], "the reader's options changed: id_from"),
        (["--fresh"], "--fresh"),
    ],
)
def test_other_options_encode_everything_anew_and_say_why(bench: Bench, flags: list[str], why: str) -> None:
    assert bench.run(*flags) == 4 * 299
    assert why in bench.log.read_text()
    bench.assert_clean(*flags)
    schema = open_dataset(str(bench.output)).read(["id", "embedding"]).schema
    assert schema.field("embedding").type.list_size == (64 if "--truncate_dim" in flags else 384)


def test_ten_lines_in_the_middle_encode_few_rows(tmp_path: Path) -> None:
    """With ids made of the text. Ids made of offsets move with every line before them."""
    source, output = tmp_path / "in.txt", tmp_path / "out"
    lines = [f"line {i * 7919 % 20_011} of {i}" for i in range(20_000)]
    source.write_text("\n".join(lines))
    flags = ["--id_from", "text", "--rows_per_part", "256", "--split_bytes", "50000"]
    tally = tmp_path / "tally"
    argv = ["--input", str(source), "--output", str(output), *flags]
    assert harness.run(argv, tmp_path / "log", count_texts, str(tally)) == 0
    source.write_text("\n".join([*lines[:100], *(f"inserted {i}" for i in range(10)), *lines[100:]]))
    tally.unlink()
    assert harness.run(argv, tmp_path / "log", count_texts, str(tally)) == 0
    assert 10 <= sum(map(int, tally.read_text().split())) < 0.02 * 20_000


def test_older_versions_are_kept_and_read(bench: Bench) -> None:
    before = open_dataset(str(bench.output)).read()
    append(bench)
    bench.run("--keep_versions", "2")
    assert versions(str(bench.output)) == [1, 2]
    assert open_dataset(str(bench.output), 1).read().equals(before)
    assert open_dataset(str(bench.output)).manifest.counts.rows_out == before.num_rows + 10
    assert read_manifest(str(bench.output), 2).parent == 1
    vanish(bench)
    bench.run("--keep_versions", "1")
    assert versions(str(bench.output)) == [3]
    bench.assert_clean()


def test_duplicate_ids_are_found_and_named(tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("a", "b"):
        rows = [f'{{"text": "{name} {i}", "key": "{i if i == 17 else name + str(i)}"}}\n' for i in range(300)]
        (source / f"{name}.jsonl").write_text("".join(rows))
    argv = harness.arguments(source, output, "--id_column", "key")
    assert harness.run(argv, tmp_path / "log") == 1
    assert "1 ids are not unique, among them '17' (2 times)" in (tmp_path / "log").read_text()
    assert versions(str(output)) == []
    assert harness.run([*argv, "--duplicate_ids", "keep"], tmp_path / "log") == 0
    assert open_dataset(str(output)).manifest.counts.rows_out == 600


def test_equal_files_under_text_ids_keep_all_their_rows(tmp_path: Path) -> None:
    """Their blocks are one part, which the manifest lists twice."""
    source = tmp_path / "in"
    harness.write_corpus(source, files=1)
    (source / "copy.jsonl").write_text((source / "shard-0.jsonl").read_text())
    argv = harness.arguments(source, tmp_path / "out", "--id_from", "text", "--duplicate_ids", "keep")
    assert harness.run(argv, tmp_path / "log") == 0
    dataset = open_dataset(str(tmp_path / "out"))
    assert dataset.manifest.counts.rows_out == dataset.read(["id"]).num_rows == 2 * 299


def test_files_that_went_missing_or_were_damaged_are_made_again(bench: Bench) -> None:
    """By hand, by a disk, or by a `--fresh` that was killed when it had written some parts anew."""
    gone, cut, *_ = open_dataset(str(bench.output)).manifest.parts
    (bench.output / gone.name).unlink()
    (bench.output / cut.name).write_bytes((bench.output / cut.name).read_bytes()[:-100])
    (reject, *_) = (bench.output / "_rejects").iterdir()
    reject.unlink()
    assert bench.run() == gone.rows + cut.rows
    assert "made again: 3 files" in bench.log.read_text()
    # A damaged file is not written over, since the version before lists it: its part has the name that comes next.
    anew = cut.name.replace(".parquet", "-1.parquet")
    assert [p.name for p in open_dataset(str(bench.output)).manifest.parts[:2]] == [gone.name, anew]
    assert harness.contents(bench.output)[anew] == cut.checksum.removeprefix("sha256:")
    assert harness.run(harness.arguments(bench.source, bench.folder / "clean"), bench.log) == 0
    assert open_dataset(str(bench.output)).read().equals(open_dataset(str(bench.folder / "clean")).read())


def test_a_part_of_another_size_is_published_as_it_is(bench: Bench) -> None:
    """What another machine's `--fresh` wrote before it was killed: good parts, other bytes than the version lists."""
    part = open_dataset(str(bench.output)).manifest.parts[0]
    table = pq.read_table(bench.output / part.name)
    pq.write_table(table, bench.output / part.name, compression="none")
    with (bench.source / "shard-9.jsonl").open("w") as file:
        file.write('{"text": "new"}\n')
    assert bench.run() == 1
    harness.published(bench.output)
    sizes = {entry.name: entry.size for entry in open_dataset(str(bench.output)).manifest.parts}
    assert sizes[part.name] == (bench.output / part.name).stat().st_size != part.size


def test_kept_columns_are_of_one_type_whichever_file_comes_first(bench: Bench) -> None:
    for name in bench.source.iterdir():
        name.unlink()
    options = ("--keep_columns", "n")
    pq.write_table(pa.table({"text": ["b"], "n": pa.array([1], pa.int64())}), bench.source / "b.parquet")
    bench.run(*options)
    pq.write_table(pa.table({"text": ["a"], "n": pa.array([2], pa.int32())}), bench.source / "a.parquet")
    assert bench.run(*options) == 2  # a pack of both, read anew; the parts' type stays
    assert open_dataset(str(bench.output)).read(["text", "n"]).to_pylist() == [
        {"text": "a", "n": 2},
        {"text": "b", "n": 1},
    ]
    bench.assert_clean(*options)
