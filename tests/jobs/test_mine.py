"""Pairs as a brute-force scan finds them, whatever the blocks, workers and kills."""

import dataclasses
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import transforms.compare
import transforms.publish_found
from jobs import embed
from schemas.dataset import open_dataset
from schemas.errors import RunFailed
from schemas.pairs import DUPLICATES_SCHEMA, GROUPS_SCHEMA, PAIRS_SCHEMA, PAIRS_WITH_TEXT_SCHEMA
from tests.datasets import FINGERPRINT, clustered, write_dataset
from tests.found import Mined, Miner, Scores, killed_after
from transforms.publish import put_version


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Miner:
    return Miner(tmp_path, capsys)


def brute(vectors: np.ndarray, ids: list[str], texts: list[str], min_score: float) -> Scores:
    """Every pair in float64; rows of equal text have the vector of the smallest id, and 1 among themselves."""
    stands: dict[str, int] = {}
    for i in sorted(range(len(ids)), key=lambda i: ids[i]):
        stands.setdefault(texts[i], i)
    wide = vectors[[stands[text] for text in texts]].astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    scores = (wide @ wide.T).astype(np.float32)
    for text in {t for t in texts if texts.count(t) > 1} if len(set(texts)) < len(texts) else ():
        same = [i for i, t in enumerate(texts) if t == text]
        scores[np.ix_(same, same)] = 1
    rows, cols = np.nonzero(np.triu(scores >= np.float32(min_score), 1))
    pairs = [(min(ids[i], ids[j]), max(ids[i], ids[j])) for i, j in zip(rows, cols, strict=True)]
    return dict(zip(pairs, scores[rows, cols], strict=True))


def best_first(scores: Scores) -> list[tuple[str, str]]:
    return sorted(scores, key=lambda pair: (-scores[pair], pair))


def assert_same(found: Scores, wanted: Scores, exact: float = 1e-6) -> None:
    """The same pairs but for those whose score float64 cannot tell from the threshold, and their scores."""
    assert found.keys() == wanted.keys()
    assert all(abs(found[pair] - wanted[pair]) <= exact for pair in wanted)


ROWS = 3000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, list[str], list[str]]:
    """Clusters, in seven parts; ids in no order; each tenth text stands twice or more, with other vectors."""
    vectors, random = clustered(ROWS), np.random.default_rng(1)
    ids = [f"é{i}" if i % 7 == 0 else f"row-{i}" for i in random.permutation(ROWS)]
    texts = [f"text {random.integers(0, 100)}" if i % 10 == 0 else f"a text of its own: {i}" for i in range(ROWS)]
    return write_dataset(tmp_path_factory.mktemp("made") / "in", vectors, ids, texts), vectors, ids, texts


@pytest.mark.parametrize("min_score", [0.5, 0.8, 0.95, 1.0])
def test_pairs_are_those_of_a_brute_force_scan_best_first(run: Miner, made: Any, min_score: float) -> None:
    source, *rows = made
    found = run(source, min_score)
    wanted = brute(*rows, min_score)
    assert len(wanted) > 100
    assert_same(found.scores, wanted)
    table = found.table
    listed = list(zip(table["id_a"], table["id_b"], strict=True))
    assert listed == best_first(found.scores)
    assert all(a < b for a, b in listed)
    assert pq.read_schema(next(found.output.glob("*.parquet"))).remove_metadata() == PAIRS_SCHEMA
    assert found.manifest.kind == "pairs" and found.manifest.details["pairs"] == len(wanted)
    assert sorted(p.name[:5] for p in found.output.iterdir()) == ["_SUCC", "_mani", "part-"]


@pytest.mark.model
@pytest.mark.parametrize("min_score", [0.6, 0.7, 0.8, 0.9])
def test_pairs_of_real_sentences_are_those_of_a_brute_force_scan(run: Miner, real_rows: Path, min_score: float) -> None:
    rows = open_dataset(str(real_rows)).read().to_pandas()
    wanted = brute(np.stack(list(rows["embedding"])), list(rows["id"]), list(rows["text"]), min_score)
    assert len(wanted) > 1000
    assert_same(run(real_rows, min_score).scores, wanted)


def test_blocks_and_worker_processes_change_not_a_byte(run: Miner, made: Any) -> None:
    one = run(made[0], 0.7, "--with_text", "--groups")
    small = run(made[0], 0.7, "--with_text", "--groups", "--memory_mb", 1)
    assert "in 1 block" not in small.stderr and "3 blocks" in small.stderr
    processes = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    several = run(made[0], 0.7, "--with_text", "--groups", *processes)
    assert one.status == small.status == several.status == 0
    assert len(one.files) == 2
    assert one.files == small.files == several.files
    assert [p.name for p in one.manifest.parts] == [p.name for p in several.manifest.parts]


def test_many_parts_are_in_order_together(run: Miner, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transforms.publish_pairs.PART_PAIRS", 700)
    monkeypatch.setattr("transforms.mine.plan_ranges", lambda files, n: _small_ranges(files, n))
    monkeypatch.setattr("transforms.compare.FILE_PAIRS", 100)
    monkeypatch.setattr("transforms.pair_files.ROW_GROUP_PAIRS", 64)
    found = run(made[0], 0.5)
    wanted = brute(*made[1:], 0.5)
    assert len(found.manifest.parts) > len(wanted) / 1000
    assert max(part.rows for part in found.manifest.parts) == 700
    assert_same(found.scores, wanted)
    assert list(found.scores) == best_first(found.scores)


def _small_ranges(files: Any, max_pairs: int) -> Any:
    from transforms.pair_files import plan_ranges

    return plan_ranges(files, max_pairs, 1000)


def test_with_text_each_pair_has_its_rows_texts(run: Miner, made: Any) -> None:
    source, _, ids, texts = made
    found = run(source, 0.8, "--with_text")
    text_of = dict(zip(ids, texts, strict=True))
    table = found.table
    assert list(table["text_a"]) == [text_of[i] for i in table["id_a"]]
    assert list(table["text_b"]) == [text_of[i] for i in table["id_b"]]
    assert pq.read_schema(next(found.output.glob("*.parquet"))).remove_metadata() == PAIRS_WITH_TEXT_SCHEMA
    assert found.scores == run(source, 0.8).scores


def test_collapsed_duplicates_are_listed_once_and_only_representatives_have_pairs(run: Miner, made: Any) -> None:
    source, vectors, ids, texts = made
    found = run(source, 0.8, "--duplicates", "collapse")
    by_text = defaultdict(list)
    for i, text in zip(ids, texts, strict=True):
        by_text[text].append(i)
    groups = {min(members): sorted(members) for members in by_text.values() if len(members) > 1}
    table = pq.read_table(found.output / "_duplicates")
    assert table.schema.remove_metadata() == DUPLICATES_SCHEMA
    listed = defaultdict(list)
    for row in table.to_pylist():
        listed[row["representative"]].append(row["id"])
    assert listed == groups
    stand = {min(members) for members in by_text.values()}
    everything = brute(vectors, ids, texts, 0.8)
    assert_same(found.scores, {pair: s for pair, s in everything.items() if set(pair) <= stand})
    rows = sum(map(len, groups.values()))
    assert found.manifest.details["duplicates"] == {"groups": len(groups), "rows": rows}
    assert f"{len(groups)} texts stand in {rows} rows" in found.stdout


MANY = 1_000_000


@pytest.fixture(scope="module")
def equal_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    vectors = np.ones((MANY, 4), np.float32)
    ids = [f"{i:07d}" for i in range(MANY)]
    return write_dataset(tmp_path_factory.mktemp("many") / "in", vectors, ids, ["the same"] * MANY, 250_000)


def test_a_million_equal_rows_do_not_make_all_their_pairs(run: Miner, equal_rows: Path) -> None:
    refused = run(equal_rows, 0.9)
    assert refused.status == 2 and "--duplicates collapse" in refused.stderr and "499,999,500,000" in refused.stderr
    collapsed = run(equal_rows, 0.9, "--duplicates", "collapse")
    assert collapsed.status == 0 and collapsed.scores == {}
    assert pq.read_table(collapsed.output / "_duplicates").num_rows == MANY
    best = run(equal_rows, 0.9, "--max_pairs", 5)
    assert list(best.scores) == [("0000000", f"{i:07d}") for i in range(1, 6)]


def test_equal_texts_whose_vectors_did_not_show_it_stop_the_run(
    run: Miner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["the same" if i < 400 else str(i) for i in range(1000)]
    source = write_dataset(tmp_path / "in", clustered(1000), texts=texts)
    monkeypatch.setattr("transforms.mine.MOST_PAIRS", 79_000)
    found = run(source, 0.9)
    assert found.status == 1 and "79,800 pairs" in found.stderr and "--duplicates collapse" in found.stderr
    assert run(source, 0.9, "--top_k", 3).status == 0
    monkeypatch.setattr("transforms.mine.MOST_PAIRS", 79_800)
    assert run(source, 0.9).manifest.details["histogram"][-1] >= 79_800


def top_k_of(scores: Scores, k: int) -> Scores:
    partners = defaultdict(list)
    for (a, b), score in scores.items():
        partners[a].append((-score, b))
        partners[b].append((-score, a))
    best = {row: {partner for _, partner in sorted(found)[:k]} for row, found in partners.items()}
    return {(a, b): s for (a, b), s in scores.items() if b in best[a] or a in best[b]}


@pytest.mark.parametrize("top_k", [1, 3, 1000])
def test_top_k_keeps_pairs_among_the_best_of_either_row(run: Miner, made: Any, top_k: int) -> None:
    everything = run(made[0], 0.5).scores
    wanted = top_k_of(everything, top_k)
    small = run(made[0], 0.5, "--top_k", top_k, "--memory_mb", 1)
    assert small.scores == wanted
    assert (len(wanted) < len(everything)) == (top_k < 1000)
    assert small.files == run(made[0], 0.5, "--top_k", top_k, "--duplicates", "expand").files


@pytest.mark.parametrize("max_pairs", [1, 500, 10**9])
def test_max_pairs_keeps_the_best_whatever_the_threshold_lets_through(run: Miner, made: Any, max_pairs: int) -> None:
    everything = run(made[0], 0.3).scores
    wanted = best_first(everything)[:max_pairs]
    for flags in ([], ["--memory_mb", 1]):
        found = run(made[0], 0.3, "--max_pairs", max_pairs, *flags)
        assert list(found.scores) == wanted
        assert found.scores == {pair: everything[pair] for pair in wanted}


def test_max_pairs_settles_ties_by_ids(run: Miner, tmp_path: Path) -> None:
    """Forty rows of one vector and forty of another: 1,560 pairs that score 1, half of them of equal texts."""
    vectors = np.repeat(np.eye(2, 8, dtype=np.float32), 40, axis=0)
    texts = [f"{i // 2}" for i in range(80)]
    source = write_dataset(tmp_path / "in", vectors, texts=texts, part_rows=30)
    everything = run(source, 0.9).scores
    assert len(everything) == 1560 and set(everything.values()) == {1}
    for n in (1, 39, 40, 777, 1559):
        assert list(run(source, 0.9, "--max_pairs", n).scores) == sorted(everything)[:n]


def test_top_k_and_max_pairs_together_are_one_after_the_other(run: Miner, made: Any) -> None:
    wanted = top_k_of(run(made[0], 0.5).scores, 2)
    found = run(made[0], 0.5, "--top_k", 2, "--max_pairs", 900)
    assert len(wanted) > 900 and list(found.scores) == best_first(wanted)[:900]


def test_groups_cut_a_chain_into_stars(run: Miner, tmp_path: Path) -> None:
    """a-b-c-d-e at steps of 20 degrees, and a far pair: neighbours reach 0.9, others do not."""
    angles = np.deg2rad([0, 20, 40, 60, 80, 180, 185])
    vectors = np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    source = write_dataset(tmp_path / "in", vectors[::-1], ids=list("zyedcba"))
    found = run(source, 0.9, "--groups")
    assert found.table[["id_a", "id_b"]].values.tolist()[0] == ["y", "z"]
    assert {(a, b) for a, b in found.scores} == {("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("y", "z")}
    table = pq.read_table(found.output / "_groups")
    assert table.schema.remove_metadata() == GROUPS_SCHEMA
    groups = {row["id"]: (row["component"], row["star"], row["keep"]) for row in table.to_pylist()}
    assert groups == {
        "a": ("a", "b", False),
        "b": ("a", "b", True),
        "c": ("a", "b", False),
        "d": ("a", "d", True),
        "e": ("a", "d", False),
        "y": ("y", "y", True),
        "z": ("y", "y", False),
    }
    assert [entry.name[:12] for entry in found.manifest.extras] == ["_groups/part"]


@pytest.mark.parametrize("rows", [0, 1])
def test_a_dataset_of_one_row_or_none_has_no_pairs_and_that_is_no_error(run: Miner, tmp_path: Path, rows: int) -> None:
    source = write_dataset(tmp_path / "in", np.ones((rows, 8), np.float32))
    found = run(source, 0.5, "--groups", "--top_k", 3, "--duplicates", "collapse")
    assert found.status == 0, found.stderr
    assert found.table.columns.tolist() == ["id_a", "id_b", "score"] and len(found.table) == 0
    assert pq.read_table(found.output / "_groups").num_rows == 0
    assert "0 pairs" in found.stdout


def test_vectors_without_a_cosine_are_named(run: Miner, tmp_path: Path) -> None:
    vectors = clustered(600)
    vectors[[7, 300]] = 0
    vectors[301, 3] = np.nan
    found = run(write_dataset(tmp_path / "in", vectors), 0.8)
    assert found.status == 2
    assert "'row-00007', 'row-00300', 'row-00301'" in found.stderr


def test_vectors_without_a_cosine_that_the_sample_missed_are_named(
    run: Miner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.mine_plan.SAMPLE_ROWS", 100)
    vectors = clustered(6000)
    bad = next(i for i in range(6000) if i not in _sampled(6000))
    vectors[bad] = np.inf
    found = run(write_dataset(tmp_path / "in", vectors), 0.8)
    assert found.status == 1
    assert f"ids 'row-{bad:05d}'; embed" in found.stderr and "Traceback" not in found.stderr
    assert not list(found.output.glob("*.parquet"))


def _sampled(rows: int) -> set[int]:
    return set(np.random.default_rng(0).choice(np.arange(rows), 100, replace=False).tolist())


@pytest.mark.parametrize("min_score", ["0", "-0.1", "1.0001", "nan", "inf"])
def test_a_threshold_that_is_no_cosine_is_refused(run: Miner, made: Any, min_score: str) -> None:
    found = run(made[0], min_score)  # type: ignore[arg-type]
    assert found.status == 2 and f"--min_score {float(min_score)}: a cosine above 0" in found.stderr
    assert not found.output.exists()


@pytest.mark.parametrize("flag", ["--top_k", "--max_pairs", "--memory_mb", "--keep_versions"])
def test_numbers_below_one_are_refused(run: Miner, made: Any, flag: str) -> None:
    for value in ("0", "-1"):
        found = run(made[0], 0.8, flag, value)
        assert found.status == 2 and found.stderr == f"error: {flag} {value}: must be 1 or more\n"


def test_what_is_no_embeddings_dataset_is_refused(run: Miner, made: Any, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    found = run(tmp_path / "plain", 0.8)
    assert found.status == 2 and "no published dataset" in found.stderr
    pairs = run(made[0], 0.9)
    found = run(pairs.output, 0.8)
    assert found.status == 2 and "is a dataset of pairs" in found.stderr
    by_length = FINGERPRINT.__class__(**FINGERPRINT.__dict__ | {"similarity": "dot", "normalized": False})
    source = write_dataset(tmp_path / "in", clustered(100), fingerprint=by_length)
    found = run(source, 0.8)
    assert found.status == 2 and "compared by 'dot'" in found.stderr and found.stderr.count("\n") == 1


def test_an_output_that_holds_something_else_is_refused(run: Miner, made: Any, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "other", clustered(100))
    found = run(made[0], 0.8, output=other)
    assert found.status == 2 and "holds a dataset of embeddings, not of pairs" in found.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    found = run(made[0], 0.8, output=tmp_path / "mine")
    assert found.status == 2 and "thesis.tex" in found.stderr
    assert run(made[0], 0.8, output=made[0]).status == 2
    pairs = run(made[0], 0.9)
    status = embed.main(["--input", "tests/data/sentences.txt", "--output", str(pairs.output)])
    assert status == 2


def test_too_many_pairs_are_refused_with_a_threshold_that_fits(
    run: Miner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.mine_plan.MOST_PAIRS", 2000)
    source = write_dataset(tmp_path / "in", clustered(ROWS))
    found = run(source, 0.3)
    assert found.status == 2 and found.stderr.startswith("error: --min_score 0.3: makes about ")
    fits = found.stderr.split("--min_score ")[2].split(" ")[0]
    assert 0.8 < float(fits) < 1
    assert run(source, float(fits)).manifest.details["pairs"] <= 2000
    assert run(source, 0.3, "--max_pairs", 10).manifest.details["pairs"] == 10


def test_the_summary_says_what_was_found(run: Miner, made: Any) -> None:
    source, _, ids, texts = made
    found = run(source, 0.8, "--json")
    said = json.loads(found.stdout)
    scores = found.scores
    text_of = dict(zip(ids, texts, strict=True))
    assert said["pairs"] == len(scores) and said["rows"] == ROWS and said["unique_rows"] == len(set(texts))
    assert sum(said["histogram"].values()) == len(scores)
    assert said["histogram"]["0.80-0.85"] == sum(s < np.float32(0.85) for s in scores.values())
    assert [tuple(pair[:2]) for pair in said["best"]] == best_first(scores)[:10]
    assert all([text_of[a], text_of[b]] == [x, y] for a, b, _, x, y in said["best"])
    assert said["filter"].startswith("whole-32: ") and said["estimate"]["pairs"] > 0
    text = run(source, 0.8).stdout
    assert f"{len(scores):,} pairs at 0.8 or above, of 3,000 rows" in text
    assert all(text_of[a] in text for a, _ in best_first(scores)[:10])


def test_the_same_again_is_nothing_to_do_and_another_threshold_is_a_new_version(
    run: Miner, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "pairs"
    first = run(made[0], 0.8, "--groups", output=output)
    wanted = first.files
    with monkeypatch.context() as patch:
        patch.delattr("jobs.mine.MineDataset")
        again = run(made[0], 0.8, "--groups", output=output)
    assert "version 1, unchanged" in again.stdout and again.files == wanted
    next((output / "_groups").iterdir()).unlink()
    again = run(made[0], 0.8, "--groups", output=output)
    assert "version 1, unchanged" in again.stdout and again.files == wanted
    other = run(made[0], 0.9, output=output)
    assert other.manifest.version == 2 and len(other.files) == 1
    assert_same(other.scores, brute(*made[1:], 0.9))


def test_kept_versions_keep_their_groups(run: Miner, made: Any, tmp_path: Path) -> None:
    output = tmp_path / "pairs"
    first = run(made[0], 0.8, "--groups", output=output).files
    second = run(made[0], 0.9, "--groups", "--keep_versions", 2, output=output).files
    assert first.items() < second.items() and len(second) == 4
    assert open_dataset(str(output), 1).read().num_rows > open_dataset(str(output)).read().num_rows


def test_progress_is_in_pairs_compared(run: Miner, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.cli.LOG_SECONDS", 0.02)
    lines = [line for line in run(made[0], 0.8).stderr.splitlines() if "M pairs compared" in line]
    assert lines[0].startswith("0% 0 M pairs compared, 0 M pairs/s") and lines[-1].startswith("100% 4 M pairs compared")


def write_versions(folder: Path) -> tuple[Path, Path]:
    """Two versions of a dataset, in folders of their own: of ten parts one is gone, one has moved and three are new.

    Texts stand in old parts, in new ones and in both; equal ones have equal vectors.
    """
    rows, random = 2000, np.random.default_rng(5)
    texts = [f"text {random.integers(0, 150)}" if i % 2 else f"own {i}" for i in range(rows)]
    vector_of = dict(zip(dict.fromkeys(texts), clustered(len(set(texts))), strict=True))
    ids = [f"{i:04d}" for i in random.permutation(rows)]
    old = [0, 1, 2, 3, 4, 5, 6]
    now = [7, 0, 1, 3, 8, 9, 4, 6, 5]
    made = []
    for name, parts in (("old", old), ("new", now)):
        chosen = [row for part in parts for row in range(200 * part, 200 * (part + 1))]
        vectors = np.stack([vector_of[texts[row]] for row in chosen])
        some_ids, some_texts = [ids[row] for row in chosen], [texts[row] for row in chosen]
        made.append(write_dataset(folder / name, vectors, some_ids, some_texts, part_rows=200))
    return made[0], made[1]


def by_text(found: Mined) -> dict[tuple[str, ...], float]:
    table = found.table
    texts = zip(table["text_a"], table["text_b"], strict=True)
    return dict(zip((tuple(sorted(pair)) for pair in texts), table["score"], strict=True))


@pytest.mark.parametrize("flags", [[], ["--duplicates", "collapse"], ["--top_k", "2", "--max_pairs", "800"]])
def test_with_an_earlier_output_only_new_rows_are_compared_and_the_result_is_the_same(
    run: Miner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    old, new = write_versions(tmp_path)
    kept = flags if "collapse" in flags else []
    before = run(old, 0.7, *kept)
    full = run(new, 0.8, "--with_text", "--groups", *flags)
    monkeypatch.setattr("transforms.loaded_blocks.LEAST_BLOCK_ROWS", 250)
    again = run(new, 0.8, "--with_text", "--groups", *flags, "--memory_mb", 1, "--previous", before.output)
    assert "6 blocks" in again.stderr
    assert len(full.scores) > 500
    if "collapse" in flags:  # another row of the same text may stand for it: the one that did before
        assert by_text(again) == by_text(full)
        stood = set(pq.read_table(before.output / "_duplicates").column("representative").to_pylist())
        stands = set(pq.read_table(again.output / "_duplicates").column("representative").to_pylist())
        assert len(stood & stands) > 50 and again.manifest.details["duplicates"] == full.manifest.details["duplicates"]
    else:
        assert again.scores == full.scores
        assert again.files == full.files
    loaded = []
    real_compare = transforms.compare.compare

    def compare(a: Any, b: Any, *args: Any) -> Any:
        loaded.append(len(a.numbers) * len(b.numbers) // (2 if a is b else 1))
        return real_compare(a, b, *args)

    monkeypatch.setattr("transforms.compare.compare", compare)
    run(new, 0.8, *flags, "--previous", before.output)
    fresh = sum(loaded)
    loaded.clear()
    run(new, 0.8, *flags)
    assert fresh < 0.8 * sum(loaded)


def test_an_earlier_output_may_be_the_output_itself(run: Miner, tmp_path: Path) -> None:
    old, new = write_versions(tmp_path)
    first = run(old, 0.8)
    second = run(new, 0.8, "--previous", first.output, output=first.output)
    assert second.manifest.version == 2 and second.manifest.details["previous"]["version"] == 1
    assert second.files == run(new, 0.8).files


def test_a_part_of_the_old_name_with_other_rows_is_compared_anew(run: Miner, tmp_path: Path) -> None:
    """As when the encoder refused a row, and took it when everything was encoded anew."""
    vectors, name = clustered(60, 8), "part-00000000000000000000000000000000.parquet"
    rows = {n: write_dataset(tmp_path / f"of-{n}", vectors[:n]) for n in (59, 60)}
    for folder in rows.values():
        manifest = open_dataset(str(folder)).manifest
        (part,) = manifest.parts
        os.rename(folder / part.name, folder / name)
        manifest = dataclasses.replace(manifest, parts=(part._replace(name=name),))
        (folder / "_manifest/00000001.json").write_bytes(manifest.to_json())
    full = run(rows[60], 0.5)
    assert any("row-00059" in pair for pair in full.scores)
    assert run(rows[60], 0.5, "--previous", run(rows[59], 0.5).output).files == full.files


def test_an_earlier_output_that_lacks_pairs_is_refused(run: Miner, tmp_path: Path) -> None:
    old, new = write_versions(tmp_path)
    cases = [
        ([0.9], "has pairs from 0.9 on only"),
        ([0.8, "--top_k", "3"], "--top_k 3"),
        ([0.8, "--max_pairs", "30"], "--max_pairs 30"),
        ([0.8, "--duplicates", "collapse"], "was made with --duplicates collapse"),
    ]
    for flags, message in cases:
        before = run(old, *flags)
        found = run(new, 0.8, "--previous", before.output)
        assert found.status == 2 and message in found.stderr and found.stderr.count("\n") == 1
    other = FINGERPRINT.__class__(**FINGERPRINT.__dict__ | {"pooling": "cls"})
    before = run(write_dataset(tmp_path / "other", clustered(100), fingerprint=other), 0.8)
    found = run(new, 0.8, "--previous", before.output)
    assert found.status == 2 and "its model is another: pooling: 'cls' -> 'mean'" in found.stderr
    found = run(new, 0.8, "--previous", old)
    assert found.status == 2 and "is a dataset of embeddings" in found.stderr


@pytest.mark.parametrize("flags", [[], ["--duplicates", "collapse"]])
def test_a_text_that_comes_again_under_the_same_id_adds_no_pairs_to_an_earlier_output(
    run: Miner, tmp_path: Path, flags: list[str]
) -> None:
    """Ids made of texts: rows 10 to 19 come again after row 40, and before it."""
    again = [*range(15, 20), *range(40), *range(10, 15), *range(40, 45)]
    vectors, ids = clustered(45), [f"{i * 7 % 45:04d}" for i in range(45)]
    old = write_dataset(tmp_path / "old", vectors[:40], ids[:40], part_rows=5)
    new = write_dataset(tmp_path / "new", vectors[again], [ids[i] for i in again], part_rows=5)
    full = run(new, 0.5, "--groups", *flags)
    assert len(full.scores) > 20
    assert run(new, 0.5, "--groups", *flags, "--previous", run(old, 0.5, *flags).output).files == full.files


@pytest.mark.parametrize("double", ["then", "now"])
def test_an_earlier_output_is_refused_where_an_id_may_be_of_several_texts(
    run: Miner, tmp_path: Path, double: str
) -> None:
    """Of two rows `0000` one goes: its pairs would be taken for the other's."""
    vectors, ids = clustered(40), [f"{i:04d}" for i in range(38)] + ["0000", "0001"]
    keep = {"id_column": "key", "duplicate_ids": "keep"}
    several = write_dataset(tmp_path / "several", vectors, ids, [f"text {i}" for i in range(40)], 20, options=keep)
    unique = write_dataset(tmp_path / "unique", vectors[:38], ids[:38], part_rows=20, options={"id_column": "key"})
    old, new = (several, unique) if double == "then" else (unique, several)
    found = run(new, 0.8, "--previous", run(old, 0.8).output)
    assert found.status == 2 and "ids do not tell which row a pair is of; mine without it" in found.stderr


def test_an_earlier_output_of_other_arithmetic_is_not_mixed_in(
    run: Miner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = write_versions(tmp_path)
    with monkeypatch.context() as once:
        once.setattr("jobs.mine_plan.SCORE_VERSION", 1)
        before = run(old, 0.8)
    found = run(new, 0.8, "--previous", before.output)
    assert found.status == 2 and "its scores were computed otherwise" in found.stderr
    again = run(old, 0.8, output=before.output)  # nor is it taken for what this version would find
    assert again.manifest.version == 2 and again.manifest.options["scores"] == 2


@pytest.mark.faults
def test_killed_while_comparing_the_same_command_goes_on(
    run: Miner, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--memory_mb", "1", "--with_text", "--groups"]
    output = tmp_path / "killed"
    argv = ["--input", made[0], "--output", output, "--min_score", "0.7", *flags]
    killed_after(3, "mine", "transforms.compare", argv)
    (work,) = (output / "_work").iterdir()
    assert len(list(work.glob("pairs-*.json"))) == 3
    settled: list[str] = []
    real = transforms.compare.settle

    def settle(folder: str, name: str, files: Any) -> Any:
        settled.append(name)
        return real(folder, name, files)

    monkeypatch.setattr(transforms.compare, "settle", settle)
    found = run(made[0], 0.7, *flags, output=output)
    assert len(settled) == 3  # of six
    assert found.files == run(made[0], 0.7, *flags).files
    assert not (output / "_work").exists() and os.listdir(output / "_manifest") == ["00000001.json"]


@pytest.mark.parametrize(
    "fails_at",
    ["schemas.storage.replace", "transforms.publish.clean_up", "transforms.clean_up._remove",
     "schemas.storage.remove_folder"],
)  # fmt: skip
@pytest.mark.parametrize("then", [0.7, 0.8])
def test_what_fails_after_the_publish_is_a_warning_and_the_next_run_does_it(
    run: Miner, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: str, then: float
) -> None:
    """Its mark, the removal of older versions, of their parts, of its work in progress."""
    source, output = made[0], tmp_path / "out"
    run(source, 0.8, output=output)
    with monkeypatch.context() as broken:
        broken.setattr(transforms.publish_found, "put_version", publish_and_fail_at(fails_at, broken))
        assert run(source, 0.7, output=output).status == 0
    assert (output / "_work").exists() and open_dataset(str(output)).manifest.version == 2
    monkeypatch.setattr("schemas.removals.is_over", lambda _: True)  # this process stands for two
    again = run(source, then, output=output)
    assert again.status == 0, again.stderr
    assert {p.name for p in again.manifest.parts} == {p.name for p in output.glob("part-*")}
    assert {p.name for p in output.iterdir() if not p.name.startswith("part-")} == {"_SUCCESS", "_manifest"}
    assert [p.suffix for p in (output / "_manifest").iterdir()] == [".json"]


def publish_and_fail_at(step: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    def fail(*_: Any) -> None:
        raise RunFailed("a fault")

    def publish(*args: Any) -> None:
        put_version(*args)
        monkeypatch.setattr(step, fail)

    return publish
