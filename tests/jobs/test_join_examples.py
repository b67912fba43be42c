"""The README's examples of joining, run on the sample as it prints them."""

import re
import shlex
from pathlib import Path

import duckdb
import numpy as np
import pytest

from jobs import embed, join
from schemas.dataset import open_dataset

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text().split("## Joining\n")[1].split("\n## ")[0]
DATA = ROOT / "tests" / "data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the sample is embedded to `out`, and the section's first command has run."""
    folder = tmp_path_factory.mktemp("readme")
    line = re.search(r"echo '([^']*)' > asked.txt\npython -m jobs.join ([^\n]*)", SECTION)
    assert line
    (folder / "asked.txt").write_text(line[1] + "\n")
    with pytest.MonkeyPatch().context() as patch:
        patch.chdir(folder)
        assert embed.main(["--input", f"{DATA}/*", "--output", "out", "--device", "cpu"]) == 0
        assert join.main([*shlex.split(line[2]), "--device", "cpu"]) == 0
    return folder


def listed(folder: Path) -> list[tuple[str, int, float]]:
    rows = open_dataset(str(folder / "matches")).read().to_pylist()
    assert [row["rank"] for row in rows] == [1, 2, 3] and "alpaca" in rows[0]["corpus_text"]
    return [(row["corpus_id"], row["rank"], row["score"]) for row in rows]


@pytest.mark.model
def test_the_sql_of_the_readme_finds_what_the_job_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (sql,) = re.findall(r"```sql\n(.*?)```", SECTION, re.DOTALL)
    with_texts, scan = (duckdb.sql(query).fetchall() for query in sql.split(";\n")[:2])
    texts = {row["id"]: row["text"] for row in open_dataset("out").read(["id", "text"]).to_pylist()}
    found = listed(folder)
    assert with_texts == [("asked.txt#0", rank, score, texts[i]) for i, rank, score in found]
    assert [i for _, i, _ in scan] == [i for i, *_ in found]
    assert [score for *_, score in scan] == pytest.approx([score for *_, score in found], abs=1e-6)


@pytest.mark.model
def test_the_python_of_the_readme_finds_what_the_job_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    made: dict = {}
    exec(code, made)
    ids, _, scores = zip(*listed(folder), strict=True)
    assert list(made["by_pandas"].sort_values("rank")["corpus_id"]) == list(ids)
    assert made["by_polars"].sort("rank")["corpus_id"].to_list() == list(ids)
    assert made["by_faiss"].tolist() == [list(ids)]
    assert np.abs(made["scores"][0] - scores).max() < 1e-6
