"""Every query that was asked is in the matches, among the unmatched or counted as refused; flags that say nothing are
refused."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.datasets import clustered, write_dataset
from tests.found import Joiner
from tests.jobs.conftest import Run
from tests.matches import brute_matches, exact_scores, greedy


@pytest.fixture
def run_join(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Joiner:
    return Joiner(tmp_path, capsys)


@pytest.fixture
def embedded(run: Run, tmp_path: Path) -> Path:
    """The sample, as the fake encoder has it."""
    return run("tests/data/sentences.txt", output=tmp_path / "corpus").output


ASKED = (
    b'{"key": "a", "text": "Which socks keep feet warm?"}\n{"key": "b", "text": ""}\n'
    b'{"key": "c", "text": null}\n{"key": "d", "text": "  "}\n{"key": "e", "text": "And what is a tuple?"}\n'
)


def unmatched(output: Path) -> list[dict]:
    return [row for part in sorted((output / "_unmatched").iterdir()) for row in pq.read_table(part).to_pylist()]


def test_blank_and_null_queries_are_counted_and_listed(run_join: Joiner, embedded: Path, tmp_path: Path) -> None:
    asked, output = tmp_path / "asked.jsonl", tmp_path / "matches"
    asked.write_bytes(ASKED)
    flags = ["--top_k", 1, "--keep_unmatched", "--with_text"]
    found = run_join(asked, embedded, *flags, output=output)
    assert list(found.table["query_text"]) == ["Which socks keep feet warm?", "And what is a tuple?"]
    places = [ASKED.index(f'{{"key": "{key}"'.encode()) for key in "bcd"]
    assert unmatched(output) == [{"query_id": f"asked.jsonl#{place}", "query_text": ""} for place in places]
    details = found.manifest.details
    assert (details["queries"], details["matched"], details["unmatched"]) == (5, 2, 3)
    assert details["rejected"] == {"blank_text": 2, "null_text": 1}
    assert "3 of these were refused: 2 blank_text, 1 null_text; see _queries/_rejects" in found.stdout
    asked.write_bytes(ASKED + b'{"text": ""}\n')  # no row more, but a query
    again = run_join(asked, embedded, *flags, output=output)
    assert again.manifest.version == 2 and again.manifest.details["rejected"] == {"blank_text": 3, "null_text": 1}
    assert "unchanged" in run_join(asked, embedded, *flags, output=output).stdout


def test_queries_that_are_all_blank_are_no_error(run_join: Joiner, embedded: Path, tmp_path: Path) -> None:
    (tmp_path / "asked.jsonl").write_text('{"text": ""}\n{"text": null}\n')
    found = run_join(tmp_path / "asked.jsonl", embedded, "--min_score", 0.5, "--keep_unmatched")
    assert found.status == 0, found.stderr
    details = found.manifest.details
    assert (details["queries"], details["matched"], details["unmatched"]) == (2, 0, 2) and len(found.table) == 0


def test_a_broken_query_ends_the_join_unless_its_share_is_allowed(
    run_join: Joiner, embedded: Path, tmp_path: Path
) -> None:
    (tmp_path / "asked.txt").write_bytes(b"Which socks?\n\xff\xfe\n")
    found = run_join(tmp_path / "asked.txt", embedded, "--top_k", 1)
    assert found.status == 1 and "more than --max_error_rate 0.001" in found.stderr
    found = run_join(tmp_path / "asked.txt", embedded, "--top_k", 1, "--max_error_rate", 0.5)
    details = found.manifest.details
    assert (details["queries"], details["unmatched"], details["rejected"]) == (2, 1, {"invalid_utf8": 1})


@pytest.mark.parametrize("asked", [{"min_score": 0.5}, {"top_k": 2}, {"top_k": 3, "min_score": 0.8}])
def test_one_to_one_with_itself_uses_no_row_twice(run_join: Joiner, tmp_path: Path, asked: dict) -> None:
    vectors, ids = clustered(1500, 8), [f"{i * 7 % 1500:04d}" for i in range(1500)]
    corpus = write_dataset(tmp_path / "in", vectors, ids)
    flags = [part for name, value in asked.items() for part in (f"--{name}", value)]
    found = run_join(None, corpus, "--self", "--one_to_one", "--keep_unmatched", *flags)
    candidates = brute_matches(exact_scores(vectors, vectors), ids, itself=True, **asked)
    wanted = greedy(candidates, ids, ids, itself=True)
    table = found.table
    assert [tuple(row) for row in table[["query_id", "corpus_id", "score"]].itertuples(index=False)] == [
        (ids[a], ids[b], score) for a, b, score in wanted
    ]
    used = [*table["query_id"], *table["corpus_id"]]
    assert len(set(used)) == len(used) > 200
    assert [row["query_id"] for row in unmatched(found.output)] == [i for i in ids if i not in set(used)]
    assert (found.manifest.details["matched"], found.manifest.details["unmatched"]) == (len(used), 1500 - len(used))
    small = run_join(None, corpus, "--self", "--one_to_one", "--keep_unmatched", *flags, "--memory_mb", 1)
    assert "by 1,024 rows" in small.stderr and small.files == found.files


TEXT_FLAGS = [
    ("--query_prompt", "query: "),
    ("--query_prompt", ""),
    ("--query_prompt_name", "query"),
    ("--id_column", "key"),
    ("--text_column", "body"),
    ("--format", "jsonl"),
    ("--id_from", "text"),
    ("--duplicate_ids", "keep"),
    ("--model", "all-MiniLM-L6-v2"),
    ("--max_error_rate", "1"),
]


@pytest.mark.parametrize(("flag", "value"), TEXT_FLAGS)
def test_flags_of_text_are_refused_where_queries_have_vectors(
    run_join: Joiner, tmp_path: Path, flag: str, value: str
) -> None:
    rows = write_dataset(tmp_path / "in", clustered(5))
    for queries, itself in ((rows, []), (None, ["--self"])):
        found = run_join(queries, rows, *itself, "--top_k", 1, flag, value)
        assert found.status == 2 and found.stderr.startswith(f"error: {flag}: says how text is embedded")
        assert not found.output.exists()


def test_queries_of_an_earlier_version_go_with_it(run_join: Joiner, embedded: Path, tmp_path: Path) -> None:
    asked, output = tmp_path / "asked.txt", tmp_path / "matches"
    asked.write_text("Which socks keep feet warm?\n")
    run_join(asked, embedded, "--top_k", 1, output=output)
    assert (output / "_queries").exists()
    kept = run_join(embedded, embedded, "--top_k", 1, "--keep_versions", 2, output=output)
    assert kept.manifest.version == 2 and (output / "_queries").exists()  # version 1 was made from them
    dropped = run_join(embedded, embedded, "--top_k", 2, output=output)
    assert dropped.manifest.version == 3 and not (output / "_queries").exists()
    run_join(asked, embedded, "--top_k", 1, output=output)
    assert (output / "_queries").exists()


def test_rows_of_one_id_on_both_sides_go_by_row(run_join: Joiner, tmp_path: Path) -> None:
    """Equal vectors: of the candidates, which are all alike, queries and matches pair off in their datasets' order."""
    vectors = np.ones((4, 4), np.float32)
    queries = write_dataset(tmp_path / "q", vectors, ["q", "p", "q", "p"], ["0", "1", "2", "3"])
    corpus = write_dataset(tmp_path / "c", vectors, ["c", "c", "b", "b"], ["0", "1", "2", "3"])
    found = run_join(queries, corpus, "--min_score", 0.5, "--one_to_one", "--with_text")
    assert [tuple(row) for row in found.table[["query_text", "corpus_text"]].itertuples(index=False)] == [
        ("0", "0"), ("1", "2"), ("2", "1"), ("3", "3")
    ]  # fmt: skip


def test_the_greedy_reference_of_one_dataset_is_what_it_says_it_is() -> None:
    scores = np.array([[1, 0.9, 0.8], [0.9, 1, 0.7], [0.8, 0.7, 1]], np.float32)
    matches = brute_matches(scores, ["a", "b", "c"], min_score=0.5, itself=True)
    assert [tuple(m[:2]) for m in greedy(matches, "abc", "abc")] == [(0, 1), (1, 0)]
    assert [tuple(m[:2]) for m in greedy(matches, "abc", "abc", itself=True)] == [(0, 1)]
