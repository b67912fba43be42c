"""The manifest is put once every row is accounted for and every file is there, or not at all."""

import dataclasses
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from schemas import storage
from schemas.blocks import SplitRead
from schemas.dataset import open_dataset
from schemas.errors import RunFailed
from schemas.manifest import Manifest, newest_manifest, versions
from schemas.processes import this_process
from schemas.rejects import Reason
from schemas.removals import removals
from tests.publishing import MODEL, alive, encoded, part, plan, publish_ids, read, reject
from transforms.publish import publish
from transforms.write import write_part


def publish_two(folder: Path, **changes: Any) -> Manifest:
    """s1 is of two parts and a rejected row, s2 of one part; records come in any order."""
    parts = [part(folder, "s2", 0, ["d"]), part(folder, "s1", 1, ["c"]), part(folder, "s1", 0, ["a", "b"])]
    reads = [read("s2", 1, 1), read("s1", 2, 4)]
    return publish(plan(folder, **changes), reads, parts, [reject(folder, "s1", Reason.BROKEN_JSON)])


def test_parts_are_published_in_input_order_with_all_rows_accounted_for(tmp_path: Path) -> None:
    manifest = publish_two(tmp_path)
    assert open_dataset(str(tmp_path)).read(["id"])["id"].to_pylist() == ["a", "b", "c", "d"]
    assert newest_manifest(str(tmp_path)) == manifest
    counts = manifest.counts
    assert (counts.rows_in, counts.rows_out, counts.rejected, counts.tokens) == (5, 4, {"broken_json": 1}, 12)
    assert [(s.id, len(s.parts), s.counts.rows_in) for s in manifest.splits] == [("s1", 2, 4), ("s2", 1, 1)]
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("part-")) == [
        "_SUCCESS", "_manifest", "_rejects",
    ]  # fmt: skip
    assert os.listdir(tmp_path / "_manifest") == ["00000001.json"]


def test_records_that_come_twice_count_once(tmp_path: Path) -> None:
    parts = [part(tmp_path, "s1", 0, ["a"]), part(tmp_path, "s1", 0, ["a"])]
    rejects = [reject(tmp_path, "s1", Reason.NULL_TEXT)] * 2
    manifest = publish(plan(tmp_path, order=("s1",)), [read("s1", 1, 2)] * 2, parts, rejects)
    assert (manifest.counts.rows_in, manifest.counts.rows_out, len(manifest.parts)) == (2, 1, 1)


@pytest.mark.parametrize(
    ("reads", "parts", "message"),
    [
        ([], [0], "1 of 1 splits were never read"),
        ([read("s1", 2, 1)], [0], "2 blocks were read but 1 parts came"),
        ([read("s1", 1, 1)], [], "1 blocks were read but 0 parts came"),
        ([read("s1", 1, 2)], [0], "rows were lost or doubled"),
    ],
)
def test_nothing_is_published_unless_every_row_came(
    tmp_path: Path, reads: list[SplitRead], parts: list[int], message: str
) -> None:
    written = [part(tmp_path, "s1", number, ["a"]) for number in parts]
    with pytest.raises(RunFailed, match=message):
        publish(plan(tmp_path, order=("s1",)), reads, written, [])
    assert newest_manifest(str(tmp_path)) is None
    assert not (tmp_path / "_SUCCESS").exists()


def test_a_part_that_is_gone_or_another_is_not_published(tmp_path: Path) -> None:
    written = part(tmp_path, "s1", 0, ["a"])
    (tmp_path / written.name).unlink()
    with pytest.raises(RunFailed, match=f"{written.name}: is gone or other than written"):
        publish(plan(tmp_path, order=("s1",)), [read("s1", 1, 1)], [written], [])
    (tmp_path / written.name).write_bytes(b"something else")
    with pytest.raises(RunFailed, match=f"{written.name}: is gone or other than written"):
        publish(plan(tmp_path, order=("s1",)), [read("s1", 1, 1)], [written], [])
    assert os.listdir(tmp_path / "_manifest") == []


def test_too_many_broken_rows_are_told_with_the_most_frequent_reasons(tmp_path: Path) -> None:
    reasons = [Reason.BROKEN_JSON] * 2 + [Reason.WRONG_TYPE] + [Reason.NULL_TEXT] * 9
    rejected = reject(tmp_path, "s1", *reasons)
    with pytest.raises(RunFailed) as failed:
        publish(plan(tmp_path, order=("s1",), max_error_rate=0.2), [read("s1", 0, 12)], [], [rejected])
    assert str(failed.value).startswith(
        "3 of 12 rows are broken, more than --max_error_rate 0.2: 2 x broken_json (as a#0: error 0); "
        "1 x wrong_type (as a#2: error 2). Nothing is published"
    )
    manifest = publish(plan(tmp_path, order=("s1",), max_error_rate=0.25), [read("s1", 0, 12)], [], [rejected])
    assert (manifest.counts.rows_out, manifest.counts.rejected_rows) == (0, 12)


def test_what_did_not_change_stays_the_version_it_is(tmp_path: Path) -> None:
    first = publish_two(tmp_path)
    again = publish_two(tmp_path, run="another", base_version=1)
    assert again == first
    assert versions(str(tmp_path)) == [1]


def test_splits_of_the_base_version_are_carried_over_unread(tmp_path: Path) -> None:
    publish_two(tmp_path)
    new = part(tmp_path, "s3", 0, ["e"])
    order = ("s3", "s2")
    manifest = publish(plan(tmp_path, run="next", base_version=1, order=order), [read("s3", 1, 1)], [new], [])
    assert (manifest.version, manifest.parent, manifest.reused) == (2, 1, {"splits": 1, "parts": 1, "rows": 1})
    assert open_dataset(str(tmp_path)).read(["id"])["id"].to_pylist() == ["e", "d"]
    assert (manifest.counts.rows_in, manifest.counts.rejected) == (2, {})


def test_of_two_runs_on_one_version_the_second_says_so(tmp_path: Path) -> None:
    first = publish_two(tmp_path)
    with pytest.raises(RunFailed, match="another run published version 1"):
        publish_two(tmp_path, run="another")
    assert publish_two(tmp_path).same_data(first)  # its own put, whose answer was lost
    assert newest_manifest(str(tmp_path)) == first


def test_a_run_that_published_stays_published_when_its_step_is_tried_again(tmp_path: Path) -> None:
    """Also once the version that it was planned on is gone, and when another run has published on top since."""
    publish_ids(tmp_path, "first", 0, "a")
    publish_ids(tmp_path, "second", 1, "b")
    assert publish_ids(tmp_path, "second", 1, "b").version == 2
    publish_ids(tmp_path, "third", 2, "c")
    assert publish_ids(tmp_path, "second", 1, "b").run == "third"
    assert (versions(str(tmp_path)), newest_manifest(str(tmp_path)).lineage) == ([3], ("first", "second"))  # type: ignore[union-attr]
    with pytest.raises(RunFailed, match="another run published version 3"):
        publish_ids(tmp_path, "late", 1, "d")


@pytest.mark.parametrize("fault", [OSError(28, "No space left"), RunFailed("InternalError"), ValueError("a bug")])
@pytest.mark.parametrize("step", ["replace", "moments", "remove", "names"])
def test_a_fault_after_the_publish_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step: str, fault: Exception
) -> None:
    publish_ids(tmp_path, "first", 0, "a")
    real = getattr(storage, step)

    def fail(*args: Any) -> Any:
        if (tmp_path / "_manifest/00000002.json").exists():
            raise fault
        return real(*args)

    with monkeypatch.context() as broken, caplog.at_level(logging.WARNING):
        broken.setattr(storage, step, fail)
        assert publish_ids(tmp_path, "second", 1, "b").version == 2
    assert "published, but the clean-up after it failed" in caplog.text or "stays until it runs out" in caplog.text
    publish_ids(tmp_path, "third", 2, "b")
    assert files_of(tmp_path) == {entry.name for entry in newest_manifest(str(tmp_path)).files}  # type: ignore[union-attr]
    assert [name for name in os.listdir(tmp_path / "_manifest") if name.endswith(".json")] == ["00000002.json"]


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.parquet")}


@pytest.mark.parametrize("keep_versions", [1, 2])
def test_files_that_no_kept_version_lists_are_removed(tmp_path: Path, keep_versions: int) -> None:
    """Of older versions, and what killed runs left."""
    first = publish_two(tmp_path)
    stray = part(tmp_path, "dead run", 0, ["stray"])
    (tmp_path / "notes.txt").write_text("not ours")
    new = part(tmp_path, "s3", 0, ["e"])
    next_plan = plan(tmp_path, run="next", base_version=1, order=("s3",), keep_versions=keep_versions)
    publish(next_plan, [read("s3", 1, 1)], [new], [])
    kept = {new.name, "notes.txt"} | ({p.name for p in first.parts} if keep_versions == 2 else set())
    assert {p.name for p in tmp_path.iterdir() if not p.name.startswith("_")} == kept
    assert stray.name not in kept
    assert versions(str(tmp_path)) == ([1, 2] if keep_versions == 2 else [2])
    assert len(list((tmp_path / "_rejects").iterdir())) == keep_versions - 1


def test_what_a_run_beside_has_written_is_left_until_that_run_is_over(tmp_path: Path) -> None:
    """However old it is, and by whichever clock: only that the run is alive counts."""
    first = publish_ids(tmp_path, "first", 0, "a")
    with alive(tmp_path, "backfill", 1):
        mine = part(tmp_path, "backfill", 0, ["x"], "backfill")
        for moment in (1000, 4_000_000_000):
            os.utime(tmp_path / mine.name, (moment, moment))
            base = newest_manifest(str(tmp_path)).version  # type: ignore[union-attr]
            second = publish_ids(tmp_path, f"nightly {moment}", base, str(moment))
            assert files_of(tmp_path) == {mine.name, second.parts[0].name}
        assert first.parts[0].name not in files_of(tmp_path)
    publish_ids(tmp_path, "last", 3, "b")
    assert mine.name not in files_of(tmp_path)


def test_a_run_that_builds_on_the_newest_version_may_have_found_any_file(tmp_path: Path) -> None:
    """It began between this run's publish and its clean-up: what it found is removed by its own clean-up, or later."""
    publish_ids(tmp_path, "first", 0, "a")
    with alive(tmp_path, "next", 2):
        second = publish_ids(tmp_path, "second", 1, "b")
        assert len(files_of(tmp_path)) == 2 and versions(str(tmp_path)) == [1, 2]
    publish_ids(tmp_path, "unchanged", 2, "b")
    assert (files_of(tmp_path), versions(str(tmp_path))) == ({second.parts[0].name}, [2])


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_damaged_manifest_costs_no_file_that_is_kept(
    tmp_path: Path, damaged: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Of an older version it is no hindrance; of one that is kept, nothing is removed."""
    publish_ids(tmp_path, "first", 0, "a", keep_versions=3)
    publish_ids(tmp_path, "second", 1, "b", keep_versions=3)
    (tmp_path / f"_manifest/{damaged:08d}.json").write_text("{")
    if damaged == 2:
        with pytest.raises(RunFailed, match="is no manifest"):
            publish_ids(tmp_path, "third", 2, "c", keep_versions=2)
        return
    publish_ids(tmp_path, "third", 2, "c", keep_versions=3)
    assert len(files_of(tmp_path)) == 3 and "00000001.json: is no manifest" in caplog.text
    publish_ids(tmp_path, "fourth", 3, "d", keep_versions=1)
    assert (len(files_of(tmp_path)), versions(str(tmp_path))) == (1, [4])


def put_record(folder: Path, version: int, names: list[str], by: Any) -> Path:
    record = folder / "_manifest" / f"{version:08d}-0.removing"
    record.write_text(json.dumps({"by": by, "names": names}))
    return record


OVER = [*(this_process() or ())[:3], 1 << 30, "0"]
ELSEWHERE = ["host", "another boot", "pid:[1]", 1, "0"]


def test_a_clean_up_that_was_killed_is_finished_by_the_next_run(tmp_path: Path) -> None:
    publish_two(tmp_path)
    stray = part(tmp_path, "dead run", 0, ["stray"])
    put_record(tmp_path, 1, [stray.name], OVER)
    publish_two(tmp_path, run="another", base_version=1)
    assert not (tmp_path / stray.name).exists()
    assert os.listdir(tmp_path / "_manifest") == ["00000001.json"]


@pytest.mark.parametrize("by", [this_process(), ELSEWHERE, None], ids=["stalled", "elsewhere", "unknown"])
def test_a_name_that_may_still_be_deleted_is_never_used(tmp_path: Path, by: Any) -> None:
    """By whoever put the record: nobody else takes it away, and its names are left alone, file or none."""
    publish_ids(tmp_path, "first", 0, "a")
    stray = part(tmp_path, "dead run", 0, ["stray"])
    record = put_record(tmp_path, 1, [stray.name, encoded("", 0, ["gone"]).name], by)
    ids = ["stray", "gone", "free"]
    found = [part(tmp_path, "s", number, [i], "later") for number, i in enumerate(ids)]
    assert [p.name for p in found] == [
        stray.name.replace(".parquet", "-1.parquet"),
        encoded("", 0, ["gone"]).name.replace(".parquet", "-1.parquet"),
        encoded("", 0, ["free"]).name,
    ]
    assert not any(p.adopted for p in found)
    again = [part(tmp_path, "s", number, [i], "later still") for number, i in enumerate(ids)]
    assert [(p.name, p.adopted) for p in again] == [(p.name, True) for p in found]
    publish_ids(tmp_path, "second", 1, "b")
    assert record.exists() and not (tmp_path / stray.name).exists()
    assert [r.by for r in removals(str(tmp_path))] == [by and type(this_process())(*by)]


ZEROS = f"part-{'0' * 32}.parquet"


@pytest.mark.parametrize("name", ["../victim.txt", f"../{ZEROS}", "_SUCCESS", f"/{ZEROS}", f"{ZEROS}/..", 7])
def test_a_record_that_lists_what_is_no_part_is_refused(tmp_path: Path, name: Any) -> None:
    output, victim = tmp_path / "out", tmp_path / "victim.txt"
    publish_ids(output, "first", 0, "a")
    for place in (victim, tmp_path / ZEROS):
        place.write_text("not ours")
    before = sorted(tmp_path.rglob("*"))
    put_record(output, 1, [name], OVER)
    with pytest.raises(RunFailed, match="is no record of a clean-up"):
        publish_ids(output, "second", 1, "b")
    assert [path for path in before if not path.exists()] == []


def test_a_record_of_before_is_understood_and_its_names_left_alone(tmp_path: Path) -> None:
    """Records used to be a list of names, and nothing said whose."""
    publish_ids(tmp_path, "first", 0, "a")
    stray = part(tmp_path, "dead run", 0, ["stray"])
    (tmp_path / "_manifest/00000001.removing").write_text(json.dumps([stray.name]))
    publish_ids(tmp_path, "second", 1, "stray")
    assert [p.name for p in newest_manifest(str(tmp_path)).parts] == [stray.name.replace(".parquet", "-1.parquet")]  # type: ignore[union-attr]
    assert files_of(tmp_path) == {stray.name.replace(".parquet", "-1.parquet")}


def test_a_part_that_was_written_anew_since_it_was_found_is_not_published(tmp_path: Path) -> None:
    """By the same name and of the same size: but its vectors may be another machine's."""
    found = part(tmp_path, "s1", 0, ["a"])
    (tmp_path / found.name).unlink()
    other = write_part(str(tmp_path), "other", encoded("s1", 0, ["a"], vector=2.0), MODEL)
    assert (other.name, other.size) == (found.name, found.size) and other.checksum != found.checksum
    with pytest.raises(RunFailed, match=f"{found.name}: is gone or other than written"):
        publish(plan(tmp_path, order=("s1",)), [read("s1", 1, 1)], [found], [])
    assert newest_manifest(str(tmp_path)) is None


def test_a_part_that_was_only_touched_is_published(tmp_path: Path) -> None:
    found = part(tmp_path, "s1", 0, ["a"])
    os.utime(tmp_path / found.name, (1000, 1000))
    assert publish(plan(tmp_path, order=("s1",)), [read("s1", 1, 1)], [found], []).version == 1


def test_double_ids_are_looked_for_where_they_can_be(tmp_path: Path) -> None:
    parts = [part(tmp_path, "s1", 0, ["a", "b"]), part(tmp_path, "s2", 0, ["b"])]
    reads = [read("s1", 1, 2), read("s2", 1, 1)]
    with pytest.raises(RunFailed, match=r"1 ids are not unique, among them 'b' \(2 times\)"):
        publish(plan(tmp_path, unique_ids=False), reads, parts, [])
    kept = dataclasses.replace(plan(tmp_path, unique_ids=False), duplicate_ids="keep")
    assert publish(kept, reads, parts, []).counts.rows_out == 3


def test_tokens_of_found_parts_are_not_counted_as_encoded(tmp_path: Path) -> None:
    parts = [part(tmp_path, "s1", 0, ["a"]), part(tmp_path, "s2", 0, ["b", "c"])]
    parts[0] = part(tmp_path, "s1", 0, ["a"])
    assert [p.adopted for p in parts] == [True, False]
    manifest = publish(plan(tmp_path), [read("s1", 1, 1), read("s2", 1, 2)], parts, [])
    assert (manifest.timings["encoded_tokens"], manifest.counts.tokens) == (6, 9)
    assert manifest.reused == {"splits": 0, "parts": 1, "rows": 1}


def test_a_fresh_run_takes_nothing_over(tmp_path: Path) -> None:
    publish_two(tmp_path)
    new = part(tmp_path, "s3", 0, ["e"])
    fresh = plan(tmp_path, run="next", base_version=1, order=("s3", "s2"), fresh=True)
    with pytest.raises(RunFailed, match="1 of 2 splits were never read"):
        publish(fresh, [read("s3", 1, 1)], [new], [])


def test_a_clean_up_takes_away_no_intent_but_of_who_is_over(tmp_path: Path) -> None:
    publish_ids(tmp_path, "first", 0, "a")
    for number, by in enumerate((OVER, ELSEWHERE, this_process(), None)):
        for version in (1, 2, 3):
            intent = tmp_path / "_manifest" / f"{version:08d}-{number}.intent"
            intent.write_text(json.dumps({"by": by}))
    publish_ids(tmp_path, "second", 1, "b")
    left = sorted(name for name in os.listdir(tmp_path / "_manifest") if name.endswith(".intent"))
    assert left == [f"{version:08d}-{number}.intent" for version in (1, 2, 3) for number in (1, 2, 3)]
    assert len(files_of(tmp_path)) == 2  # somebody is about to publish version 3, and may list any
