"""Matches as a brute-force scan finds them, whatever the blocks, workers and kills; queries as rows or as text."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import transforms.join_matches
from jobs import cli, embed, join, mine
from jobs.join_queries import embed_queries
from schemas.dataset import open_dataset
from schemas.errors import InputError
from schemas.matches import matches_schema, unmatched_schema
from tests.benchmarks.corpus import sentences
from tests.datasets import FINGERPRINT, clustered, write_dataset
from tests.found import Joined, Joiner, Listed, killed_after
from tests.jobs.conftest import Run
from tests.matches import brute_matches, exact_scores, greedy


@pytest.fixture
def run_join(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Joiner:
    return Joiner(tmp_path, capsys)


def named(matches: list, query_ids: list[str], corpus_ids: list[str]) -> Listed:
    """As `Joined.listed`, of rows by number."""
    found: Listed = []
    for query, match, score in matches:
        rank = found[-1][2] + 1 if found and found[-1][0] == query_ids[query] else 1
        found.append((query_ids[query], corpus_ids[match], rank, score))
    return found


ASKED: list[dict[str, Any]] = [{"top_k": 7}, {"min_score": 0.7}, {"top_k": 3, "min_score": 0.8}]


def flags_of(asked: dict[str, Any]) -> list[str]:
    return [part for name, value in asked.items() for part in (f"--{name}", str(value))]


class Made:
    """300 queries and 3,000 rows of the same clusters, in parts; ids in no order."""

    def __init__(self, folder: Path) -> None:
        random = np.random.default_rng(1)
        vectors = clustered(3300)
        self.query_ids = [f"q{i}é" for i in random.permutation(300)]
        self.corpus_ids = [f"é{i}" if i % 7 == 0 else f"row-{i}" for i in random.permutation(3000)]
        self.queries = write_dataset(folder / "queries", vectors[3000:], self.query_ids, part_rows=70)
        self.corpus = write_dataset(folder / "corpus", vectors[:3000], self.corpus_ids)
        self.scores = exact_scores(vectors[3000:], vectors[:3000])
        self.own_scores = exact_scores(vectors[:3000], vectors[:3000])

    def wanted(self, **asked: Any) -> Listed:
        return named(brute_matches(self.scores, self.corpus_ids, **asked), self.query_ids, self.corpus_ids)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("asked", ASKED)
def test_matches_are_those_of_a_brute_force_scan_by_query_and_rank(run_join: Joiner, made: Made, asked: dict) -> None:
    found = run_join(made.queries, made.corpus, *flags_of(asked))
    wanted = made.wanted(**asked)
    assert len(wanted) > 100
    assert found.listed == wanted
    assert pq.read_schema(next(found.output.glob("*.parquet"))).remove_metadata() == matches_schema(False)
    manifest = found.manifest
    matched = len({query for query, *_ in wanted})
    assert manifest.kind == "matches" and manifest.details["pairs"] == len(wanted)
    assert (manifest.details["matched"], manifest.details["unmatched"]) == (matched, 300 - matched)
    assert sorted(p.name[:5] for p in found.output.iterdir()) == ["_SUCC", "_mani", "part-"]


@pytest.mark.parametrize("asked", ASKED)
def test_a_dataset_joined_with_itself_has_no_row_as_its_own_match(run_join: Joiner, made: Made, asked: dict) -> None:
    found = run_join(None, made.corpus, "--self", *flags_of(asked), "--memory_mb", 1)
    ids = made.corpus_ids
    wanted = named(brute_matches(made.own_scores, ids, itself=True, **asked), ids, ids)
    assert "by 1,024 rows" in found.stderr  # and fewer queries, where the best of each take memory
    assert found.listed == wanted and all(query != match for query, match, *_ in wanted)


@pytest.mark.model
@pytest.mark.parametrize("asked", [{"top_k": 10}, {"min_score": 0.6}, {"top_k": 3, "min_score": 0.6}])
def test_matches_of_real_sentences_that_come_as_text_are_the_brute_force(
    run_join: Joiner, real_rows: Path, tmp_path: Path, asked: dict
) -> None:
    (tmp_path / "asked.txt").write_text("\n".join(sentences(5500)[5000:]) + "\n")
    output = tmp_path / "matches"
    found = run_join(tmp_path / "asked.txt", real_rows, *flags_of(asked), "--device", "cpu", output=output)
    assert found.status == 0, found.stderr
    queries, corpus = (open_dataset(str(f)).read().to_pandas() for f in (output / "_queries", real_rows))
    assert list(queries["text"]) == sentences(5500)[5000:]
    vectors = [np.stack(list(rows["embedding"])) for rows in (queries, corpus)]
    wanted = brute_matches(exact_scores(*vectors), list(corpus["id"]), **asked)
    assert len(wanted) > 500
    assert found.listed == named(wanted, list(queries["id"]), list(corpus["id"]))


@pytest.mark.model
def test_real_sentences_joined_with_themselves_are_the_brute_force(run_join: Joiner, real_rows: Path) -> None:
    rows = open_dataset(str(real_rows)).read().to_pandas()
    vectors, ids = np.stack(list(rows["embedding"])), list(rows["id"])
    wanted = brute_matches(exact_scores(vectors, vectors), ids, top_k=10, itself=True)
    assert run_join(None, real_rows, "--self", "--top_k", 10).listed == named(wanted, ids, ids)


@pytest.mark.parametrize("asked", [{"top_k": 3, "min_score": 0.8}, {"min_score": 0.5, "one_to_one": ""}])
def test_blocks_and_worker_processes_change_not_a_byte(run_join: Joiner, made: Made, asked: dict) -> None:
    flags = [flag for flag in flags_of(asked) if flag] + ["--with_text", "--keep_unmatched"]
    one = run_join(made.queries, made.corpus, *flags)
    small = run_join(made.queries, made.corpus, *flags, "--memory_mb", 1)
    processes = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    several = run_join(made.queries, made.corpus, *flags, *processes)
    assert one.status == small.status == several.status == 0
    assert len(one.files) == 2
    assert one.files == small.files == several.files
    assert [p.name for p in one.manifest.parts] == [p.name for p in several.manifest.parts]


@pytest.mark.faults
@pytest.mark.parametrize(("asked", "items"), [({"top_k": 7}, 6), ({"min_score": 0.7}, 3)])
def test_killed_while_comparing_the_same_command_goes_on(
    run_join: Joiner, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict, items: int
) -> None:
    output = tmp_path / "killed"
    flags = [*flags_of(asked), "--memory_mb", "1"]
    argv = ["--self", "--corpus", made.corpus, *flags, "--output", output]
    killed_after(2, "join", "transforms.join_matches", argv)
    (work,) = (output / "_work").iterdir()
    assert len(list(work.glob("matches-*.json"))) == 2
    settled: list[str] = []
    real = transforms.join_matches.settle

    def settle(folder: str, name: str, files: Any) -> Any:
        settled.append(name)
        return real(folder, name, files)

    monkeypatch.setattr(transforms.join_matches, "settle", settle)
    found = run_join(None, made.corpus, "--self", *flags, output=output)
    assert len([name for name in settled if name.startswith("matches")]) == items - 2
    assert found.files == run_join(None, made.corpus, "--self", *flags_of(asked)).files
    assert not (output / "_work").exists() and os.listdir(output / "_manifest") == ["00000001.json"]


def test_one_to_one_is_greedy_by_score_over_all_candidates(run_join: Joiner, made: Made) -> None:
    for asked in ({"min_score": 0.5}, {"top_k": 2}, {"top_k": 4, "min_score": 0.8}):
        found = run_join(made.queries, made.corpus, *flags_of(asked), "--one_to_one")
        candidates = brute_matches(made.scores, made.corpus_ids, **asked)
        wanted = named(greedy(candidates, made.query_ids, made.corpus_ids), made.query_ids, made.corpus_ids)
        assert 50 < len(wanted) < len(candidates) / 2
        assert found.listed == wanted


def test_queries_without_a_match_are_counted_and_listed_on_request(run_join: Joiner, made: Made) -> None:
    found = run_join(made.queries, made.corpus, "--min_score", 0.9, "--keep_unmatched", "--with_text")
    matched = {query for query, *_ in made.wanted(min_score=0.9)}
    unmatched = [query for query in made.query_ids if query not in matched]
    assert 20 < len(unmatched) < 280
    table = pq.read_table(found.output / "_unmatched")
    assert table.schema.remove_metadata() == unmatched_schema(True)
    assert table.to_pydict() == {"query_id": unmatched, "query_text": [f"text of {query}" for query in unmatched]}
    assert found.manifest.details["unmatched"] == len(unmatched)
    assert f"{len(matched)} queries have a match, {len(unmatched)} have none" in found.stdout
    plain = run_join(made.queries, made.corpus, "--min_score", 0.9, "--with_text")
    assert not (plain.output / "_unmatched").exists() and plain.listed == found.listed


def test_with_text_each_match_has_its_rows_texts(run_join: Joiner, made: Made) -> None:
    table = run_join(made.queries, made.corpus, "--top_k", 3, "--with_text").table
    assert list(table["query_text"]) == [f"text of {i}" for i in table["query_id"]]
    assert list(table["corpus_text"]) == [f"text of {i}" for i in table["corpus_id"]]


def test_more_matches_than_the_corpus_has_rows_are_all_rows(run_join: Joiner, made: Made, tmp_path: Path) -> None:
    corpus = write_dataset(tmp_path / "small", clustered(4), list("abcd"))
    found = run_join(made.queries, corpus, "--top_k", 10**9)
    assert found.manifest.details["pairs"] == 1200 and found.table["rank"].max() == 4


@pytest.mark.parametrize(("queries", "corpus"), [(0, 5), (5, 0), (0, 0), (1, 1)])
@pytest.mark.parametrize("asked", [["--top_k", 2], ["--min_score", 0.5], ["--top_k", 1, "--one_to_one"]])
def test_empty_datasets_have_no_matches_and_that_is_no_error(
    run_join: Joiner, tmp_path: Path, queries: int, corpus: int, asked: list
) -> None:
    here = write_dataset(tmp_path / "here", np.ones((queries, 8), np.float32))
    there = write_dataset(tmp_path / "there", np.ones((corpus, 8), np.float32))
    found = run_join(here, there, *asked, "--keep_unmatched")
    assert found.status == 0, found.stderr
    assert len(found.table) == min(queries, corpus)
    assert found.table.columns.tolist() == ["query_id", "corpus_id", "rank", "score"]
    assert pq.read_table(found.output / "_unmatched").num_rows == queries - min(queries, corpus)


def test_the_same_again_is_nothing_to_do_and_another_question_is_a_new_version(
    run_join: Joiner, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "matches"
    first = run_join(made.queries, made.corpus, "--min_score", 0.9, "--keep_unmatched", output=output)
    wanted = first.files
    with monkeypatch.context() as patch:
        patch.delattr("jobs.join.JoinDatasets")
        again = run_join(made.queries, made.corpus, "--min_score", 0.9, "--keep_unmatched", output=output)
    assert "version 1, unchanged" in again.stdout and again.files == wanted
    other = run_join(made.queries, made.corpus, "--top_k", 1, output=output)
    assert other.manifest.version == 2 and len(other.files) == 1
    assert other.listed == made.wanted(top_k=1)


def test_the_summary_says_what_was_found(run_join: Joiner, made: Made) -> None:
    found = run_join(made.queries, made.corpus, "--top_k", 3, "--json")
    said, listed = json.loads(found.stdout), found.listed
    assert (said["queries"], said["corpus_rows"], said["pairs"]) == (300, 3000, 900)
    assert (said["matched"], said["unmatched"], said["top_k"], said["min_score"]) == (300, 0, 3, None)
    assert sum(said["histogram"].values()) == 900
    firsts = [[query, match] for query, match, rank, _ in listed if rank == 1]
    assert [match[:2] for match in said["best"]] == firsts[:10]
    assert said["best"][0][3:] == [f"text of {listed[0][0]}", f"text of {listed[0][1]}"]
    text = run_join(made.queries, made.corpus, "--top_k", 3).stdout
    assert "900 matches of 300 queries among 3,000 rows" in text


def test_progress_is_in_pairs_compared(run_join: Joiner, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.cli.LOG_SECONDS", 0.02)
    for asked in ASKED:
        stderr = run_join(made.queries, made.corpus, *flags_of(asked)).stderr
        lines = [line for line in stderr.splitlines() if "M pairs compared" in line]
        assert lines[0].startswith("0% 0 M pairs") and lines[-1].startswith("100% 1 M pairs compared")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--top_k or --min_score: say how many"),
        (["--top_k", "0"], "--top_k 0: must be 1 or more"),
        (["--top_k", "-1"], "--top_k -1: must be 1 or more"),
        (["--min_score", "0"], "--min_score 0.0: a cosine above 0"),
        (["--min_score", "1.0001"], "--min_score 1.0001: a cosine above 0"),
        (["--min_score", "nan"], "--min_score nan: a cosine above 0"),
        (["--top_k", "1", "--memory_mb", "0"], "--memory_mb 0: must be 1 or more"),
        (["--top_k", "1", "--self"], "--queries or --self: say what"),
    ],
)
def test_questions_without_sense_are_refused(run_join: Joiner, made: Made, flags: list[str], message: str) -> None:
    found = run_join(made.queries, made.corpus, *flags)
    assert found.status == 2 and found.stderr.startswith(f"error: {message}") and found.stderr.count("\n") == 1
    assert not found.output.exists()


def test_datasets_that_do_not_fit_together_are_refused(run_join: Joiner, made: Made, tmp_path: Path) -> None:
    def dataset(name: str, **fields: Any) -> Path:
        fingerprint = FINGERPRINT.__class__(**FINGERPRINT.__dict__ | fields)
        return write_dataset(tmp_path / name, clustered(20), fingerprint=fingerprint)

    cases = [
        (dataset("other", weights_sha256="1" * 64), made.corpus, "of another model than those of --corpus"),
        (dataset("cls", pooling="cls"), made.corpus, "pooling: 'mean' -> 'cls'"),
        (dataset("dot", similarity="dot", normalized=False), made.corpus, "--queries"),
        (made.queries, tmp_path / "dot", "compared by 'dot'"),
        (made.queries, tmp_path / "nothing", "no published dataset"),
    ]
    for queries, corpus, message in cases:
        found = run_join(queries, corpus, "--top_k", 1)
        assert found.status == 2 and message in found.stderr and found.stderr.count("\n") == 1
    asked = dataset("asked", prompt="query: ", long_texts="chunk")
    assert run_join(asked, made.corpus, "--top_k", 1).status == 0


def test_an_output_that_holds_something_else_is_refused(run_join: Joiner, made: Made, tmp_path: Path) -> None:
    assert run_join(made.queries, made.corpus, "--top_k", 1, output=made.corpus).status == 2
    matches = run_join(made.queries, made.corpus, "--top_k", 1)
    found = run_join(matches.output, made.corpus, "--top_k", 1)
    assert found.status == 2 and "--queries" in found.stderr and "is a dataset of matches" in found.stderr
    argv = ["--input", str(made.corpus), "--output", str(matches.output), "--min_score", "0.9"]
    assert mine.main(argv) == 2


def test_vectors_without_a_cosine_are_named(run_join: Joiner, made: Made, tmp_path: Path) -> None:
    vectors = clustered(60)
    vectors[7] = 0
    found = run_join(write_dataset(tmp_path / "in", vectors), made.corpus, "--top_k", 1)
    assert found.status == 2 and "'row-00007'" in found.stderr


def test_too_many_matches_are_refused_with_a_threshold_that_fits(
    run_join: Joiner, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.join_plan.MOST_PAIRS", 500)
    for queries, itself in ((made.queries, []), (None, ["--self"])):
        found = run_join(queries, made.corpus, "--min_score", 0.3, *itself)
        assert found.status == 2 and found.stderr.startswith("error: --min_score 0.3: makes about ")
        fits = found.stderr.split("--min_score ")[2].split(" ")[0]
        assert 0.8 < float(fits) < 1
        assert 0 < run_join(queries, made.corpus, "--min_score", fits, *itself).manifest.details["pairs"] <= 500
        assert run_join(queries, made.corpus, "--min_score", 0.3, "--top_k", 2, *itself).status == 0


QUESTIONS = "Which socks keep cold feet warm?\nHow are a list and a tuple different?\n"


@pytest.fixture
def embedded(run: Run, tmp_path: Path) -> Path:
    """The sample, as the fake encoder has it."""
    return run("tests/data/sentences.txt", output=tmp_path / "corpus").output


def test_queries_that_are_text_are_embedded_first_and_only_what_is_new(
    run_join: Joiner, embedded: Path, tmp_path: Path
) -> None:
    asked, output = tmp_path / "asked.txt", tmp_path / "matches"
    asked.write_text(QUESTIONS)
    found = run_join(asked, embedded, "--top_k", 2, "--with_text", output=output)
    assert found.status == 0, found.stderr
    assert list(found.table["query_text"]) == [line for line in QUESTIONS.splitlines() for _ in range(2)]
    assert found.manifest.details["queries_input"] == str(output / "_queries")
    first = open_dataset(str(output / "_queries")).manifest
    again = run_join(asked, embedded, "--top_k", 2, "--with_text", output=output)
    assert "version 1, unchanged" in again.stdout
    assert open_dataset(str(output / "_queries")).manifest == first
    asked.write_text(QUESTIONS + "And a third one?\n")
    grown = run_join(asked, embedded, "--top_k", 2, output=output)
    assert grown.manifest.version == 2 and grown.manifest.details["queries"] == 3
    assert sorted(p.name[:5] for p in output.iterdir()) == ["_SUCC", "_mani", "_quer", "part-"]


def test_text_of_every_format_is_read_as_embed_reads_it(run_join: Joiner, embedded: Path, tmp_path: Path) -> None:
    rows = [{"key": f"k{i}", "body": text} for i, text in enumerate(QUESTIONS.splitlines())]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--text_column", "body", "--id_column", "key"]
    found = run_join(tmp_path / "*.jsonl", embedded, "--top_k", 1, *flags)
    assert [query for query, *_ in found.listed] == ["k0", "k1"]
    found = run_join(tmp_path / "missing-*.jsonl", embedded, "--top_k", 1)
    assert found.status == 2 and f"--queries {tmp_path}/missing-*.jsonl: matches no file" in found.stderr
    found = run_join(tmp_path / "asked.jsonl", embedded, "--top_k", 1)
    assert found.status == 2 and "--text_column" in found.stderr


def prompts_of(found: Joined) -> tuple[str, str]:
    details = found.manifest.details
    return details["queries_prompt"], details["corpus_prompt"]


def test_queries_have_the_corpus_prompt_or_the_one_that_is_asked_for(
    run_join: Joiner, run: Run, tmp_path: Path, bundled_model: str
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in Path(bundled_model).iterdir():
        (model / file.name).symlink_to(file)
    config = json.loads((model / "config_sentence_transformers.json").read_text())
    (model / "config_sentence_transformers.json").unlink()
    prompts = {"prompts": {"query": "query: ", "passage": "passage: "}}
    (model / "config_sentence_transformers.json").write_text(json.dumps(config | prompts))
    (tmp_path / "asked.txt").write_text(QUESTIONS)
    flags = ["--model", model, "--prompt_name", "passage", "--max_seq_length", 20, "--truncate_dim", 100]
    corpus = run("tests/data/sentences.txt", *flags, output=tmp_path / "corpus").output
    plain = run_join(tmp_path / "asked.txt", corpus, "--top_k", 1)
    assert prompts_of(plain) == ("passage: ", "passage: "), plain.stderr
    named_prompt = run_join(tmp_path / "asked.txt", corpus, "--top_k", 1, "--query_prompt_name", "query")
    assert prompts_of(named_prompt) == ("query: ", "passage: ")
    given = run_join(tmp_path / "asked.txt", corpus, "--top_k", 1, "--query_prompt", "")
    assert prompts_of(given) == ("", "passage: ")
    embedded = [open_dataset(str(f.output / "_queries")).manifest.fingerprint for f in (plain, named_prompt)]
    theirs = open_dataset(str(corpus)).manifest.fingerprint
    assert embedded[0] == theirs and embedded[1].differences(theirs) == ["prompt: 'passage: ' -> 'query: '"]
    wrong = run_join(tmp_path / "asked.txt", corpus, "--top_k", 1, "--query_prompt_name", "question")
    assert wrong.status == 2 and "--query_prompt_name question: the model has passage, query" in wrong.stderr


def test_a_model_that_did_not_make_the_corpus_is_refused(run_join: Joiner, made: Made, tmp_path: Path) -> None:
    (tmp_path / "asked.txt").write_text(QUESTIONS)
    found = run_join(tmp_path / "asked.txt", made.corpus, "--top_k", 1)
    assert found.status == 2 and "--model made-up: not found" in found.stderr
    found = run_join(tmp_path / "asked.txt", made.corpus, "--top_k", 1, "--model", "all-MiniLM-L6-v2")
    assert found.status == 2 and "is not the model that made the corpus: weights_sha256" in found.stderr


def test_text_is_refused_where_the_runner_does_not_wait_for_it(embedded: Path) -> None:
    argv = ["--queries", "file:///asked.txt", "--corpus", str(embedded), "--output", "file:///matches"]
    args, options = cli.parse(join.arguments(), [*argv, "--runner=DataflowRunner"])
    with pytest.raises(InputError, match="embed them first"):
        embed_queries(args, open_dataset(str(embedded)).manifest.fingerprint, options)


def test_an_output_of_joining_is_no_place_for_embeddings(run_join: Joiner, made: Made) -> None:
    found = run_join(made.queries, made.corpus, "--top_k", 1)
    assert embed.main(["--input", "tests/data/sentences.txt", "--output", str(found.output)]) == 2
