"""All that a GPU changes, measured in one go: the encoder, the whole job, mining and joining, beside their peers.

    python -m tests.benchmarks.gpu [--json FILE] [--model MODEL] [--device cuda|cpu] [--quick] [--sections a,b]

At most eight minutes on one card. Needs torch, transformers, sentence-transformers, pyarrow and pandas, and for the
whole job apache-beam; what is missing is said and left out. Each section is a process of its own: one that fails costs
no other. `--device cpu --quick` tries the script itself where there is no card; its figures mean nothing.

- rates: device memory in bytes a second, matrix products in tokens a second (see `bound`).
- encoder: texts and tokens a second by precision and length, blocks under way as a job has them;
  `SentenceTransformer.encode` in float16 by SDPA, and by FlashAttention-2 without padding where that is installed,
  at its best batch of those tried. Vectors are compared with float32 on the CPU.
- job: whole processes, file to Parquet, beside the plain script in float16; and start apart.
- mine, join: the kernels on the device, beside sentence-transformers' own functions on the same device. Pairs and
  matches are compared with those of the CPU, bit for bit.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks import corpus
from tests.benchmarks.processes import ROOT, machine, markdown, run

BLOCK_ROWS = 16_384
CHECKED_ROWS = 512
PEER_BATCHES = (256, 1024, 4096)
MIN_SCORE = 0.8
TEXTS: dict[str, Callable[[int], list[str]]] = {
    "sentences": corpus.sentences,
    "18": functools.partial(corpus.runs_of_words, tokens=18),
    "68": functools.partial(corpus.runs_of_words, tokens=68),
    "mixed": corpus.mixed_lengths,
}
SIZES = {
    "encoder": {"sentences": 400_000, "18": 400_000, "68": 200_000, "mixed": 60_000},
    "peer": {"sentences": 60_000, "18": 60_000, "68": 30_000, "mixed": 15_000},
    "job": {"18": 1_000_000},
    "mine": {"rows": 100_000},
    "join": {"queries": 20_000, "rows": 200_000, "top_k": 10},
}
QUICK = 200
"""What sizes are divided by."""
GOALS = {"encoder": 150_000, "job": 100_000}
"""Texts of 18 tokens a second, on an H100."""


def size(given: argparse.Namespace, section: str, name: str) -> int:
    return max(SIZES[section][name] // (QUICK if given.quick else 1), 64 if name != "top_k" else 10)


def rates(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    import torch

    from tests.benchmarks.bound import tokens_per_second

    if given.device == "cuda":
        yield {"what": "device", "name": torch.cuda.get_device_name(), "torch": torch.__version__}
        there = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_()
        other = torch.empty_like(there)
        yield {"what": "copy", "bytes_per_second": 20 * 2 * len(there) / _seconds(lambda: other.copy_(there), 20)}
    for dtype in dtypes(given):
        yield {"what": "products", "dtype": dtype, "tokens_per_second": tokens_per_second(given.device, dtype)}


def dtypes(given: argparse.Namespace) -> tuple[str, ...]:
    return tuple(given.dtypes.split(",")) if given.device == "cuda" else ("float32",)


def texts_of(given: argparse.Namespace) -> dict[str, Callable[[int], list[str]]]:
    return {name: TEXTS[name] for name in given.texts.split(",")}


def _seconds(function: Callable[[], object], times: int) -> float:
    """Of so many calls, what they started on the device included; after one that is not counted."""
    function()
    _synchronize()
    started = time.perf_counter()
    for _ in range(times):
        function()
    _synchronize()
    return time.perf_counter() - started


def _synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def encoder(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from transforms.encoder import Encoder
    from transforms.model import EncodeOptions, resolve_model

    for dtype in dtypes(given):
        options = EncodeOptions(model=given.model, device=given.device, dtype=dtype)
        own = Encoder(resolve_model(options), options)
        for name, make in texts_of(given).items():
            texts = make(size(given, "encoder", name))
            blocks = [texts[start : start + BLOCK_ROWS] for start in range(0, len(texts), BLOCK_ROWS)]
            _encode_blocks(own, blocks[: own.calls + 1])  # what is compiled, cached and allocated once
            started = time.perf_counter()
            tokens = _encode_blocks(own, blocks)
            seconds = time.perf_counter() - started
            checked = own.encode(texts[:CHECKED_ROWS])
            yield {
                "what": "encoder",
                "dtype": dtype,
                "texts": name,
                "rows": len(texts),
                "seconds": seconds,
                "texts_per_second": len(texts) / seconds,
                "tokens_per_second": tokens / seconds,
                "batch_tokens": own.batch_tokens,
                "fidelity": min(checked.cosines, default=None),
                **_agreement(given.model, texts[:CHECKED_ROWS], checked.vectors),
            }
        del own


def _encode_blocks(own: Any, blocks: list[list[str]]) -> int:
    """Tokens computed. As many calls are under way as the encoder asks for, as in a job."""
    under_way: deque[Any] = deque()
    tokens = 0
    for block in [*blocks, *([None] * own.calls)]:
        if block is not None:
            under_way.append(own.submit(block))
        if under_way and (block is None or len(under_way) >= own.calls):
            tokens += int(np.minimum(under_way.popleft().result().token_counts, 256).sum())
    return tokens


@functools.cache
def _on_cpu(model: str) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(_folder(model), device="cpu", model_kwargs={"dtype": "float32"})


def _agreement(model: str, texts: list[str], vectors: np.ndarray) -> dict[str, float]:
    """With sentence-transformers in float32 on the CPU."""
    exact = _on_cpu(model).encode(texts)
    cosines = (exact * vectors).sum(1) / (np.linalg.norm(exact, axis=1) * np.linalg.norm(vectors, axis=1))
    return {"max_difference": float(np.abs(exact - vectors).max()), "min_cosine": float(cosines.min())}


def _folder(model: str) -> str:
    from transforms.model import EncodeOptions, resolve_model

    return resolve_model(EncodeOptions(model=model)).folder


def peer(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """sentence-transformers as its page on speed has it: half precision, sorted by length, its best batch."""
    from sentence_transformers import SentenceTransformer

    ways = {"sdpa": {"attn_implementation": "sdpa"}}
    if given.device == "cuda" and importlib.util.find_spec("flash_attn"):
        ways["flash_attention_2"] = {"attn_implementation": "flash_attention_2"}
    elif given.device == "cuda":
        yield {
            "what": "peer",
            "skipped": "flash_attention_2, with which it does without padding: no package flash_attn",
        }
    for way, arguments in ways.items():
        dtype = dtypes(given)[0]
        model = SentenceTransformer(
            _folder(given.model), device=given.device, model_kwargs={"dtype": dtype, **arguments}
        )
        for name, make in texts_of(given).items():
            texts = make(size(given, "peer", name))
            model.encode(texts[:CHECKED_ROWS])
            taken = {}
            for batch in PEER_BATCHES:
                with contextlib.suppress(RuntimeError):  # out of memory
                    started = time.perf_counter()
                    vectors = model.encode(texts, batch_size=batch)
                    taken[batch] = time.perf_counter() - started
            best = min(taken, key=lambda batch: taken[batch])
            yield {
                "what": "peer",
                "way": way,
                "dtype": dtype,
                "texts": name,
                "rows": len(texts),
                "seconds": taken[best],
                "texts_per_second": len(texts) / taken[best],
                "batch": best,
                **_agreement(given.model, texts[:CHECKED_ROWS], vectors[:CHECKED_ROWS].astype(np.float32)),
            }


def job(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from tests.benchmarks.job import computed, spans_of

    if not importlib.util.find_spec("apache_beam"):
        yield {"what": "job", "skipped": "no package apache_beam"}
        return
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "texts.txt"
        rows = size(given, "job", "18")
        texts.write_text("".join(f"{text}\n" for text in TEXTS["18"](rows)), encoding="utf-8")
        dtype = dtypes(given)[0]
        output, trace = Path(folder) / "out", Path(folder) / "trace.json"
        flags = ["--runner=DirectRunner", "--input", str(texts), "--output", str(output), "--device", given.device]
        flags += ["--model", given.model, "--dtype", dtype, "--json", "--profile", str(trace)]
        finished = run(["-m", "jobs.embed", *flags])
        spans, said = spans_of(trace), json.loads(finished.stdout)
        yield {
            "what": "job",
            "dtype": dtype,
            "rows": rows,
            "seconds": finished.seconds,
            "texts_per_second": rows / finished.seconds,
            "start_apart_seconds": spans.seconds(),
            "start_apart_texts_per_second": rows / spans.seconds(),
            "encode_seconds": said["encode_seconds"],
            "tokens": computed(output),
            "peak_mb": finished.peak_mb,
            "shares": spans.shares(),
        }
        flags = ["--runner=DirectRunner", "--input", str(texts), "--output", str(Path(folder) / "free")]
        finished = run(["-m", "tests.benchmarks.free_job", *flags, "--model", given.model, "--json"])
        yield {"what": "job without an encoder", "rows": rows, "seconds": json.loads(finished.stdout)["seconds"]}
        few = Path(folder) / "few.txt"
        rows //= 10
        few.write_text("".join(f"{text}\n" for text in TEXTS["18"](rows)), encoding="utf-8")
        (Path(folder) / "plain").mkdir()
        script = ["tests/benchmarks/peers/plain_script.py", "--model", _folder(given.model), "--dtype", dtype]
        finished = run([*script, "--input", str(few), "--output", str(Path(folder) / "plain"), "--batch_size", "1024"])
        yield {"what": "plain script", "rows": rows, "seconds": finished.seconds}


def mine(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    import torch

    from tests.benchmarks import mine as bench

    vectors = bench.synthetic_vectors(size(given, "mine", "rows"))
    found = {}
    for device in dict.fromkeys(["cpu", given.device]):
        for turn in ("first", "again"):
            started = time.perf_counter()
            found[device], said = bench.mine_ours(vectors, MIN_SCORE, device)
            seconds = time.perf_counter() - started
            yield {"what": "mine", "device": device, "turn": turn, "rows": len(vectors), "seconds": seconds, **said}
    keys = {device: np.sort(rows * len(vectors) + cols) for device, (rows, cols) in found.items()}
    yield {"what": "mine", "pairs": len(keys["cpu"]), "equal": bool(np.array_equal(keys["cpu"], keys[given.device]))}

    from sentence_transformers.util import paraphrase_mining_embeddings

    there = torch.from_numpy(vectors).to(given.device)
    most = 10 * len(keys["cpu"]) + 1000
    chunks = {"query_chunk_size": 5000, "corpus_chunk_size": 100_000, "max_pairs": most}
    started = time.perf_counter()
    pairs = paraphrase_mining_embeddings(there, **chunks)
    seconds = time.perf_counter() - started
    reached = sum(score >= MIN_SCORE for score, *_ in pairs)
    yield {"what": "mine, peer", "rows": len(vectors), "seconds": seconds, "pairs": reached}


def join(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    import torch
    from sentence_transformers.util import semantic_search

    from tests.benchmarks import join as bench
    from tests.benchmarks.mine import synthetic_vectors

    queries, rows, top_k = (size(given, "join", name) for name in ("queries", "rows", "top_k"))
    vectors = synthetic_vectors(queries + rows)
    left, right = vectors[:queries], vectors[queries:]
    found = {}
    for device in dict.fromkeys(["cpu", given.device]):
        for turn in ("first", "again"):
            started = time.perf_counter()
            (_, found[device]), said = bench.ours_top_k(left, right, top_k, device)
            seconds = time.perf_counter() - started
            yield {"what": "join", "device": device, "turn": turn, "rows": rows, "seconds": seconds, **said}
    yield {
        "what": "join",
        "matches": len(found["cpu"]),
        "equal": bool(np.array_equal(found["cpu"], found[given.device])),
    }
    there = [torch.from_numpy(side).to(given.device) for side in (left, right)]
    semantic_search(there[0][:100], there[1], top_k=top_k)
    _synchronize()
    started = time.perf_counter()
    semantic_search(*there, top_k=top_k)
    yield {"what": "join, peer", "rows": rows, "seconds": time.perf_counter() - started}


SECTIONS: dict[str, Callable[[argparse.Namespace], Iterator[dict[str, Any]]]] = {
    section.__name__: section for section in (rates, encoder, peer, job, mine, join)
}


def report(results: list[dict[str, Any]]) -> str:
    """One table: what, how, rows, seconds, texts a second."""
    table = [["what", "how", "rows", "seconds", "rows/s", "tokens/s", "max diff", "min cosine"]]
    for found in results:
        if "seconds" not in found:
            continue
        how = " ".join(str(found[k]) for k in ("dtype", "texts", "way", "batch", "device", "turn") if k in found)
        tokens = f"{found['tokens_per_second']:,.0f}" if "tokens_per_second" in found else ""
        cells = [found["what"], how, f"{found['rows']:,}", f"{found['seconds']:.2f}"]
        cells += [f"{found['rows'] / found['seconds']:,.0f}", tokens]
        cells += [
            f"{found[k]:{f}}" if k in found else "" for k, f in (("max_difference", ".1e"), ("min_cosine", ".5f"))
        ]
        table.append(cells)
    others = [json.dumps(found) for found in results if "seconds" not in found or found["what"] == "job"]
    return "\n".join([markdown(table), "", *others, f"goals on an H100, rows/s: {GOALS}", machine()])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where all that was measured goes")
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help=f"a {QUICK}th of the rows")
    parser.add_argument("--dtypes", default="float16,bfloat16,float32", help="the first is the job's")
    parser.add_argument("--texts", default=",".join(TEXTS), help="for encoder and peer")
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.section:
        for found in SECTIONS[given.section](given):
            sys.stdout.write(json.dumps(found) + "\n")
            sys.stdout.flush()
        return 0
    results: list[dict[str, Any]] = []
    flags = [
        "--model",
        given.model,
        "--device",
        given.device,
        "--dtypes",
        given.dtypes,
        "--texts",
        given.texts,
        *(["--quick"] if given.quick else []),
    ]
    for name in given.sections.split(","):
        started = time.perf_counter()
        command = [sys.executable, "-m", __spec__.name, "--section", name, *flags]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                results.append(json.loads(line))
                if given.json:  # at once: what was measured is worth having also if this is ended
                    given.json.write_text(json.dumps({"results": results, "machine": machine()}, indent=1))
        if process.returncode:
            results.append({"what": name, "failed": f"exit status {process.returncode}; see stderr"})
        sys.stderr.write(f"{name}: {time.perf_counter() - started:.0f} s\n")
    sys.stdout.write(report(results) + "\n")
    return 1 if any("failed" in found for found in results) else 0


if __name__ == "__main__":
    sys.exit(main())
