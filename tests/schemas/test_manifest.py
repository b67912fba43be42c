"""The record that publishes a version: nothing is lost in it, and every row is accounted for."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import storage
from schemas.dataset import open_dataset
from schemas.errors import InputError, RunFailed
from schemas.manifest import (
    Counts,
    Manifest,
    PartEntry,
    SplitEntry,
    manifest_uri,
    newest_manifest,
    read_manifest,
    versions,
)
from schemas.model import ModelFingerprint
from schemas.splits import FileInfo

FINGERPRINT = ModelFingerprint(
    name="m", weights_sha256="0", max_seq_length=8, pooling="mean", normalized=True, prompt="", dim=2, dtype="float32",
    backend="torch", similarity="cosine", long_texts="truncate",
)  # fmt: skip


def some(kind: Any) -> Any:
    return st.lists(kind, max_size=3).map(tuple)


numbers = st.integers(0, 1 << 53)
counts = st.builds(
    Counts, rows_in=numbers, rows_out=numbers, blank_lines=numbers, truncated=numbers, tokens=numbers, chunks=numbers,
    rejected=st.dictionaries(st.sampled_from(["null_text", "broken_json", "too_long"]), numbers),
)  # fmt: skip
entries = st.builds(PartEntry, st.text(), numbers, numbers, st.text())
splits = st.builds(
    SplitEntry, st.text(), some(st.text()), some(st.text()), counts,
    st.none() | st.tuples(st.floats(-1, 1), st.floats(0, 9), numbers), some(st.tuples(st.text(), st.text())),
)  # fmt: skip


def manifest(**changes: Any) -> Manifest:
    known: dict[str, Any] = {
        "version": 1, "parent": 0, "run": "r", "kind": "embeddings", "created": "", "fingerprint": FINGERPRINT,
        "options": {}, "parts": (), "rejects": (), "splits": (), "inputs": (), "counts": Counts(), "fidelity": None,
        "timings": {}, "reused": {},
    }  # fmt: skip
    return Manifest(**known | changes)


@given(
    some(entries), some(entries), some(splits), some(st.builds(FileInfo, st.text(), numbers, st.text())), counts,
    st.none() | st.dictionaries(st.text(), st.floats(allow_nan=False)),
)  # fmt: skip
def test_a_manifest_survives_a_round_trip(
    parts: Any, rejects: Any, split_entries: Any, inputs: Any, counted: Counts, fidelity: Any
) -> None:
    written = manifest(
        parts=parts, rejects=rejects, splits=split_entries, inputs=inputs, counts=counted, fidelity=fidelity
    )
    assert Manifest.from_json(written.to_json()) == written


@given(counts, counts, counts)
def test_counts_add_up_in_any_order(a: Counts, b: Counts, c: Counts) -> None:
    assert (a + b) + c == a + (b + c) == (c + b) + a
    assert (a + b).rejected_rows == a.rejected_rows + b.rejected_rows


@given(counts)
def test_a_row_too_many_or_too_few_is_found(counted: Counts) -> None:
    rows_in = counted.rows_out + counted.rejected_rows - counted.chunks
    Counts(**vars(counted) | {"rows_in": rows_in}).check("it")
    for wrong in (rows_in - 1, rows_in + 1):
        with pytest.raises(RunFailed, match="rows were lost or doubled"):
            Counts(**vars(counted) | {"rows_in": wrong}).check("it")


def test_blank_rows_are_rejected_but_not_broken() -> None:
    counted = Counts(rejected={"null_text": 2, "blank_text": 3, "broken_json": 4})
    assert (counted.rejected_rows, counted.broken_rows) == (9, 4)


def test_the_same_data_is_told_whatever_run_made_it() -> None:
    one = manifest(run="a", version=1, timings={"wall_seconds": 1.0})
    assert one.same_data(manifest(run="b", version=2, timings={}))
    assert not one.same_data(manifest(parts=(PartEntry("p", 1, 1, ""),)))
    assert not one.same_data(manifest(inputs=(FileInfo("a", 1, ""),)))


def test_the_highest_version_is_the_dataset(tmp_path: Path) -> None:
    assert newest_manifest(str(tmp_path)) is None
    (tmp_path / "_manifest").mkdir()
    for version in (2, 10, 9):
        Path(manifest_uri(str(tmp_path), version)).write_bytes(manifest(version=version).to_json())
    for stray in ("00000011.json.tmp", "11.json", "00000012.intent", ".00000013.json.tmp-1-a"):
        (tmp_path / "_manifest" / stray).touch()
    assert versions(str(tmp_path)) == [2, 9, 10]
    assert newest_manifest(str(tmp_path)) == read_manifest(str(tmp_path), 10)


def test_a_reader_that_meets_a_publish_gets_the_newer_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 2 is published, and 1 removed, between a reader's listing and its reading."""
    (tmp_path / "_manifest").mkdir()
    place = {version: Path(manifest_uri(str(tmp_path), version)) for version in (1, 2)}
    place[1].write_bytes(manifest(version=1).to_json())
    real = storage.read_bytes

    def publish_before_reading(uri: str) -> bytes:
        if place[1].exists():
            place[2].write_bytes(manifest(version=2).to_json())
            place[1].unlink()
        return real(uri)

    monkeypatch.setattr(storage, "read_bytes", publish_before_reading)
    assert open_dataset(str(tmp_path)).manifest.version == 2
    place[2].rename(place[1])
    with pytest.raises(InputError, match="version 1 is not there; there are 2"):
        open_dataset(str(tmp_path), 1)


def test_a_version_that_is_listed_and_stays_out_of_reach_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a loop without end."""
    (tmp_path / "_manifest").mkdir()
    Path(manifest_uri(str(tmp_path), 1)).write_bytes(manifest().to_json())

    def gone(uri: str) -> bytes:
        raise FileNotFoundError(uri)

    monkeypatch.setattr(storage, "read_bytes", gone)
    with pytest.raises(FileNotFoundError, match=r"00000001\.json"):
        newest_manifest(str(tmp_path))


def test_an_empty_file_in_the_place_of_an_old_version_is_no_version(tmp_path: Path) -> None:
    (tmp_path / "_manifest").mkdir()
    Path(manifest_uri(str(tmp_path), 1)).touch()
    assert newest_manifest(str(tmp_path)) is None
    Path(manifest_uri(str(tmp_path), 2)).write_bytes(manifest(version=2).to_json())
    assert (versions(str(tmp_path)), open_dataset(str(tmp_path)).manifest.version) == ([2], 2)
    with pytest.raises(InputError, match="version 1 is not there; there are 2"):
        open_dataset(str(tmp_path), 1)


@pytest.mark.parametrize("text", [b"{", b"[]", b"{}", manifest().to_json()[:-40], b"\xff\xfe"])
def test_a_damaged_manifest_is_named(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "_manifest").mkdir()
    Path(manifest_uri(str(tmp_path), 1)).write_bytes(text)
    with pytest.raises(RunFailed, match=r"00000001\.json: is no manifest that this release reads"):
        newest_manifest(str(tmp_path))


def test_manifests_of_before_know_no_lineage() -> None:
    found = Manifest.from_json(manifest().to_json().replace(b'"lineage": [],', b""))
    assert found.lineage == () and found.includes("r") and not found.includes("")
    assert manifest(lineage=("a", "b")).includes("a")
