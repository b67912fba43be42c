"""Real runs beside each other, stalled and killed between any two requests to the store: what the model of the protocol
says (`test_protocol_model.py`) holds of the code."""

import os
from pathlib import Path

import pytest

from schemas.dataset import open_dataset
from schemas.errors import RunFailed
from schemas.manifest import Manifest, newest_manifest, versions
from tests.publishing import MODEL, encoded
from tests.transforms.interleaving import Killed, assert_whole, stage, whole_run
from transforms import leases
from transforms.write import write_part


def ids_of(output: Path) -> list[str]:
    return open_dataset(str(output)).read(["id"])["id"].to_pylist()


def files_of(output: Path) -> set[str]:
    return {str(path.relative_to(output)) for path in output.rglob("*.parquet")}


def test_a_part_that_a_stalled_clean_up_deletes_is_never_one_of_a_later_version(tmp_path: Path) -> None:
    whole_run(tmp_path, "first", "a")
    with stage(tmp_path) as runs:
        runs.add("A", lambda: whole_run(tmp_path, "A", "b"))
        runs.add("B", lambda: whole_run(tmp_path, "B", "a"))
        runs.go("A", until=lambda verb, uri: verb == "remove" and "part-" in uri)
        runs.go("B")
        assert ids_of(tmp_path) == ["a"]
        runs.go("A")
    assert ids_of(tmp_path) == ["a"]
    assert [type(run.outcome) for run in runs.runs.values()] == [Manifest, Manifest]
    name = newest_manifest(str(tmp_path)).parts[0].name  # type: ignore[union-attr]
    assert name.endswith("-1.parquet") and files_of(tmp_path) == {name}


def test_what_a_backfill_writes_outlives_the_nightly_runs_beside_it(tmp_path: Path) -> None:
    whole_run(tmp_path, "first", "a")
    with stage(tmp_path) as runs:
        runs.add("backfill", lambda: whole_run(tmp_path, "backfill", "xyz"))
        runs.go("backfill", until=lambda verb, uri: verb == "replace" and "intent" in uri)
        written = files_of(tmp_path)
        assert len(written) == 4
        for night in ("b", "c"):
            runs.add(night, lambda night=night: whole_run(tmp_path, night, night))  # type: ignore[misc]
            runs.go(night)
        assert len(files_of(tmp_path) & written) == 3
        runs.go("backfill")
        assert "another run published version 3" in str(runs.runs["backfill"].outcome)
        runs.add("again", lambda: whole_run(tmp_path, "again", "xyz"))
        runs.go("again")
        assert runs.runs["again"].outcome.reused["parts"] == 3
    assert (ids_of(tmp_path), len(files_of(tmp_path))) == (["x", "y", "z"], 3)


def test_a_version_whose_number_others_have_used_is_not_published(tmp_path: Path) -> None:
    """Its version was removed since: a run that stalled says that it published nothing."""
    whole_run(tmp_path, "first", "a")
    with stage(tmp_path) as runs:
        runs.add("A", lambda: whole_run(tmp_path, "A", "b"))
        runs.go("A", until=lambda verb, uri: verb == "create" and "_manifest" in uri)
        for name in ("B", "C"):
            runs.add(name, lambda name=name: whole_run(tmp_path, name, name))  # type: ignore[misc]
            runs.go(name)
        assert (tmp_path / "_manifest/00000002.json").read_bytes() == b""
        assert versions(str(tmp_path)) == [3]
        runs.go("A")
        assert "another run published version 3" in str(runs.runs["A"].outcome)
    whole_run(tmp_path, "last", "d")
    assert (ids_of(tmp_path), os.listdir(tmp_path / "_manifest")) == (["d"], ["00000004.json"])


def leftover(output: Path, i: str) -> str:
    """What a killed run left; its name."""
    return write_part(str(output), "killed", encoded(f"s-{i}", 0, [i]), MODEL).name


def test_a_clean_up_meets_a_run_that_came_since_it_looked_who_is_alive(tmp_path: Path) -> None:
    """That run builds on the version of the clean-up, and has found what the clean-up took for nobody's."""
    whole_run(tmp_path, "first", "a")
    left = leftover(tmp_path, "x")
    with stage(tmp_path) as runs:
        runs.add("A", lambda: whole_run(tmp_path, "A", "b"))
        runs.go("A", until=lambda verb, uri: verb == "replace" and "removing" in uri)
        runs.add("B", lambda: whole_run(tmp_path, "B", "bx"))
        runs.go("B", until=lambda verb, uri: verb == "replace" and "intent" in uri)
        runs.go("A")
        assert left in files_of(tmp_path)
        runs.go("B")
        assert runs.runs["B"].outcome.reused["parts"] == 2
    assert ids_of(tmp_path) == ["b", "x"]


def test_a_clean_up_leaves_what_somebody_is_about_to_publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it takes that run for dead."""
    monkeypatch.setattr(leases.Lease, "is_alive", lambda *_: False)
    whole_run(tmp_path, "first", "a")
    left = leftover(tmp_path, "x")
    with stage(tmp_path) as runs:
        runs.add("A", lambda: whole_run(tmp_path, "A", "b"))
        runs.go("A", until=lambda verb, uri: verb == "replace" and "removing" in uri)
        runs.add("B", lambda: whole_run(tmp_path, "B", "bx"))
        runs.go("B", until=lambda verb, uri: verb == "create" and "_manifest" in uri)
        runs.go("A")
        assert left in files_of(tmp_path)
        runs.go("B")
        assert isinstance(runs.runs["B"].outcome, Manifest)
    assert ids_of(tmp_path) == ["b", "x"]


def test_a_publisher_whose_files_are_announced_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was taken for dead, and comes back while the clean-up is about to delete what it has found."""
    monkeypatch.setattr(leases.Lease, "is_alive", lambda *_: False)
    whole_run(tmp_path, "first", "a")
    left = leftover(tmp_path, "x")
    with stage(tmp_path) as runs:
        runs.add("A", lambda: whole_run(tmp_path, "A", "b"))
        runs.go("A", until=lambda verb, uri: verb == "replace" and "removing" in uri)
        runs.add("B", lambda: whole_run(tmp_path, "B", "bx"))
        runs.go("B", until=lambda verb, uri: verb == "replace" and "intent" in uri)
        runs.go("A", until=lambda verb, uri: verb == "remove" and "part-" in uri)
        runs.go("B")
        assert f"{left}: is gone or other than written" in str(runs.runs["B"].outcome)
        runs.go("A")
    assert ids_of(tmp_path) == ["b"]


WANTS = {"back": ("A", "b", "B", "a"), "backfill": ("A", "b", "B", "bc")}


def steps_of(output: Path, name: str, ids: str) -> int:
    """How many requests a run makes when nobody is beside it."""
    whole_run(output, "first", "a")
    with stage(output) as runs:
        runs.add(name, lambda: whole_run(output, name, ids))
        return runs.go(name)


def race(output: Path, case: str, schedule: list[tuple[str, int]], kill: str = "") -> None:
    """Two runs, in this order, and then one more: checks all that is promised."""
    output.mkdir()
    whole_run(output, "first", "a")
    one, its, other, theirs = WANTS[case]
    with stage(output) as runs:
        for name, ids in ((one, its), (other, theirs)):
            runs.add(name, lambda name=name, ids=ids: whole_run(output, name, ids))  # type: ignore[misc]
        for name, steps in schedule:
            runs.go(name, steps)
        if kill and not runs.runs[kill].over:
            runs.runs[kill].kill()
        for name in (one, other):
            runs.go(name)
        newest = newest_manifest(str(output))
        assert newest is not None
        for name, run in runs.runs.items():
            assert isinstance(run.outcome, Manifest | RunFailed | Killed), run.outcome
            if isinstance(run.outcome, Manifest):  # its own, or the one before where that was the same
                assert newest.includes(run.outcome.run), name
            if isinstance(run.outcome, RunFailed):
                assert not newest.includes(name), run.outcome
        runs.add("last", lambda: whole_run(output, "last", "ad"))
        runs.go("last")
        assert isinstance(runs.runs["last"].outcome, Manifest), runs.runs["last"].outcome
    assert_whole(output)
    assert files_of(output) == {entry.name for entry in newest_manifest(str(output)).files}  # type: ignore[union-attr]
    assert [name[8:] for name in os.listdir(output / "_manifest")] == [".json"]


@pytest.mark.parametrize("case", WANTS)
def test_a_run_may_stall_or_be_killed_before_any_request(tmp_path: Path, case: str) -> None:
    """The other one does all of its work meanwhile."""
    one, its, other, _ = WANTS[case]
    for steps in range(steps_of(tmp_path / "alone", one, its) + 1):
        kill = one if steps % 2 else ""
        race(tmp_path / f"{steps}", case, [(one, steps), (other, 0 if kill else 1 << 30)], kill)
        if kill:
            race(tmp_path / f"{steps} stalled", case, [(one, steps), (other, 1 << 30)])


@pytest.mark.parametrize("case", ["back", "backfill"])
def test_two_runs_may_stall_in_turn(tmp_path: Path, case: str) -> None:
    """One stalls, then the other, then the first again, before any third request of either."""
    one, its, other, theirs = WANTS[case]
    first, second = steps_of(tmp_path / "a", one, its), steps_of(tmp_path / "b", other, theirs)
    for steps in range(1, first, 9):
        for then in range(1, second, 9):
            race(tmp_path / f"{steps}-{then}", case, [(one, steps), (other, then), (one, 1 << 30)])
