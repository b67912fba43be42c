"""The jobs read from and write to every store what they read from and write to a disk, part by part."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import transforms.encode
from jobs import embed, mine
from schemas import storage
from schemas.dataset import open_dataset
from tests.benchmarks.corpus import sentences
from tests.datasets import clustered, write_dataset
from tests.fakes import FakeEncoder
from tests.stores.datasets import assert_same_dataset, files, upload

SMALL = ("--rows_per_part", "128", "--split_bytes", "6000", "--max_error_rate", "0.05", "--device", "cpu")
"""Many splits, blocks and parts of a small corpus."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard of each kind, with broken rows, in a folder of their own."""
    folder = tmp_path_factory.mktemp("corpus") / "shards"
    folder.mkdir()
    texts = sentences(900)
    lines = [json.dumps({"text": text, "lang": "en"}) for text in texts[:300]]
    lines[7] = '{"text": '
    (folder / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    (folder / "plain lines, 100%.txt").write_text("\n".join(texts[300:600]))
    pq.write_table(pa.table({"text": [None, *texts[601:]]}), folder / "c.parquet", row_group_size=50)
    (folder / "_notes.txt").write_text("no data")
    return folder


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of texts that the fake encoder is given from here on."""
    given: list[int] = []

    class Counting(FakeEncoder):
        def encode(self, texts, *args, **options):  # type: ignore[no-untyped-def]
            given.append(len(texts))
            return super().encode(texts, *args, **options)

    monkeypatch.setattr(transforms.encode, "Encoder", Counting)
    return given


@pytest.fixture(scope="module")
def clean(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a run from disk to disk publishes."""
    out = str(tmp_path_factory.mktemp("clean") / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms.encode, "Encoder", FakeEncoder)
        assert embed.main(["--input", str(shards), "--output", out, *SMALL]) == 0
    return out


def test_from_any_store_to_another_the_dataset_is_the_local_one_and_again_nothing_is_encoded(
    folder: str, s3: str, gs: str, shards: Path, clean: str, encoded: list[int]
) -> None:
    source, output = f"{folder}/shards", f"{s3 if folder.startswith('gs') else gs}/out"
    upload(shards, source)
    patterns = [f"{source}/*.jsonl.gz", f"{source}/*.txt", f"{source}/*.parquet"]
    argv = ["--input", *patterns, "--output", output, *SMALL]
    assert embed.main(argv) == 0
    assert sum(encoded) == 898
    assert_same_dataset(output, clean)
    encoded.clear()
    before = files(output)
    assert embed.main(argv) == 0
    assert encoded == []
    assert files(output) == before


def test_on_one_store_the_dataset_is_the_local_one(
    object_folder: str, shards: Path, clean: str, encoded: list[int]
) -> None:
    upload(shards, f"{object_folder}/shards")
    argv = ["--input", f"{object_folder}/shards", "--output", f"{object_folder}/out", *SMALL]
    assert embed.main(argv) == 0
    assert_same_dataset(f"{object_folder}/out", clean)


def test_a_shard_that_grew_on_a_store_is_read_again(folder: str, shards: Path, encoded: list[int]) -> None:
    """By its tag: its name is the same, and its listing was seen before."""
    upload(shards, f"{folder}/shards")
    argv = ["--input", f"{folder}/shards", "--output", f"{folder}/out", *SMALL]
    assert embed.main(argv) == 0
    encoded.clear()
    grown = storage.join(folder, "shards", "plain lines, 100%.txt")
    storage.replace(grown, storage.read_bytes(grown) + b"\none more line")
    assert embed.main(argv) == 0
    assert 0 < sum(encoded) < 300
    dataset = open_dataset(f"{folder}/out")
    assert dataset.manifest.version == 2
    assert "one more line" in dataset.read(["text"])["text"].to_pylist()


@pytest.mark.model
def test_the_real_model_from_a_store_makes_the_same_vectors_from_store_to_store(
    s3: str, gs: str, tmp_path: Path, bundled_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("\n".join(sentences(40)))
    upload(tmp_path / "in", f"{s3}/in")
    upload(Path(bundled_model), f"{gs}/model")
    found = []
    for source, output, model in (
        (str(tmp_path / "in"), str(tmp_path / "out"), bundled_model),
        (f"{s3}/in", f"{gs}/out", f"{gs}/model/"),
    ):
        assert embed.main(["--input", source, "--output", output, "--model", model, "--device", "cpu"]) == 0
        dataset = open_dataset(output)
        found.append((dataset.read(), [part.name for part in dataset.manifest.parts]))
    (local, parts), (stored, stored_parts) = found
    assert stored.equals(local) and stored_parts == parts
    vectors = np.stack(stored["embedding"].to_numpy(zero_copy_only=False))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_mining_finds_on_any_store_what_it_finds_on_a_disk(folder: str, tmp_path: Path) -> None:
    vectors = clustered(1500)
    flags = ("--min_score", "0.8", "--with_text", "--groups", "--device", "cpu")
    local = write_dataset(tmp_path / "dataset", vectors)
    assert mine.main(["--input", str(local), "--output", str(tmp_path / "pairs"), *flags]) == 0
    write_dataset(f"{folder}/dataset", vectors)
    assert mine.main(["--input", f"{folder}/dataset", "--output", f"{folder}/pairs", *flags]) == 0
    found, expected = files(f"{folder}/pairs"), files(str(tmp_path / "pairs"))
    assert open_dataset(f"{folder}/pairs").read(["score"]).num_rows > 1000
    manifest = "_manifest/00000001.json"
    assert found.pop(manifest) and expected.pop(manifest)
    assert found == expected
