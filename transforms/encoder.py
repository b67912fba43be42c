"""Texts -> (n, dim) float32, as `SentenceTransformer.encode` makes them, only faster. No Beam.

On a CPU: sorted by tokens, cut into batches that stay in a core's cache, and computed by one single-threaded worker a
core, which needs no barrier inside an operation. Importing this module imports neither torch nor sentence_transformers:
that takes five seconds, spent when the first Encoder is made.
"""

import concurrent.futures
import dataclasses
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from schemas.rejects import Reason
from transforms.device import DEFAULT_BATCH_TOKENS, choose_device, cpu_threads
from transforms.model import EncodeOptions, ResolvedModel
from transforms.trace import TRACE

FIDELITY_ROWS = 8
OnBatch = Callable[[int, int], None]


class Failure(NamedTuple):
    """A row without a vector."""

    row: int
    reason: Reason
    message: str


class Encoded(NamedTuple):
    """Vectors of n texts, in their order. The caller drops the rows of `failures`: they are zero."""

    vectors: np.ndarray  # (n, dim) float32, contiguous
    token_counts: np.ndarray  # (n,) int32, before truncation, with prompt and special tokens; see Tokens.counts
    truncated: np.ndarray  # (n,) bool. With long_texts="reject" these are not encoded, and zero
    failures: Sequence[Failure] = ()
    cosines: Sequence[float] = ()  # to float32, of a sample that depends on the texts alone; () where that is float32


class Encoder:
    """A loaded model that owns the process's compute. One a process; callers queue for it.

    Vectors depend on the texts and their order alone, to the bit, on one kind of machine with one number of threads.

    Raises:
        InputError: `--device` is not here, or the model has no transformer to run in a low precision.
    """

    def __init__(self, model: ResolvedModel, options: EncodeOptions, threads: int | None = None) -> None:
        from transforms.loaded_model import LoadedModel

        self.device = choose_device(options.device)
        self.batch_tokens = options.batch_tokens or DEFAULT_BATCH_TOKENS[self.device]
        self._model = LoadedModel(model, options, self.device)
        self._skip_truncated = options.long_texts == "reject"
        self._lock = threading.Lock()
        self._pool = concurrent.futures.ThreadPoolExecutor(
            max_workers=(threads or cpu_threads()) if self.device == "cpu" else 1,
            thread_name_prefix="encoder",
            initializer=self._model.one_thread,
        )

    @property
    def dim(self) -> int:
        return self._model.dim

    def encode(self, texts: Sequence[str], on_batch: OnBatch | None = None) -> Encoded:
        """Vectors of `texts`. `on_batch(rows, tokens)` is told, in this thread, what each batch added; the sums over
        a call are `len(texts)` and the sum of the tokens computed, duplicates counted once."""
        place: dict[str, int] = {}
        inverse = np.array([place.setdefault(text, len(place)) for text in texts], np.int64)
        with self._lock:
            unique = self._encode_unique(list(place), np.bincount(inverse, minlength=len(place)), on_batch)
        failures = {failure.row: failure for failure in unique.failures}
        return Encoded(
            unique.vectors[inverse],
            unique.token_counts[inverse],
            unique.truncated[inverse],
            [failures[u]._replace(row=i) for i, u in enumerate(inverse.tolist()) if u in failures] if failures else [],
            unique.cosines,
        )

    def chunk(self, texts: Sequence[str]) -> list[list[str]]:
        """Each text in pieces that the model takes whole, prompt and special tokens counted; `[text]` where it fits.

        A piece ends at a word's end, unless that one word is longer than the window. Joined, the pieces lose nothing
        but the whitespace between them.
        """
        with self._lock:
            return self._model.tokenizer.windows(texts)

    def _encode_unique(self, texts: list[str], copies: np.ndarray, on_batch: OnBatch | None) -> Encoded:
        with TRACE.span("tokenize", texts=len(texts)):
            tokens = self._model.tokenizer(texts)
        truncated = tokens.counts > self._model.tokenizer.limit
        vectors = np.zeros((len(texts), self.dim), np.float32)
        failures: list[Failure] = []
        wanted = np.flatnonzero(~truncated) if self._skip_truncated else np.arange(len(texts))
        job = _Job(self._model, tokens, vectors, failures, self.batch_tokens)
        futures = {
            self._pool.submit(job.run, rows): rows for rows in _batches(tokens.lengths, wanted, self.batch_tokens)
        }
        exact = {row: self._pool.submit(self._reference, tokens, row) for row in self._sample(texts, wanted)}
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
                if on_batch:
                    rows = futures[future]
                    on_batch(int(copies[rows].sum()), int(tokens.lengths[rows].sum()))
            if on_batch and len(wanted) < len(texts):
                on_batch(int(copies.sum() - copies[wanted].sum()), 0)
            self.batch_tokens = min(self.batch_tokens, job.batch_tokens)  # what did not fit will not fit next time
            failures += _bad_vectors(vectors, wanted, {failure.row for failure in failures})
            failed = {failure.row for failure in failures}
            cosines = tuple(
                _cosine(future.result(), vectors[row]) for row, future in exact.items() if row not in failed
            )
        finally:
            left: list[concurrent.futures.Future[Any]] = [*futures, *exact.values()]
            for task in left:
                task.cancel()
        return Encoded(vectors, tokens.counts, truncated, sorted(failures), cosines)

    def _sample(self, texts: list[str], rows: np.ndarray) -> list[int]:
        """Those whose texts hash smallest: the same wherever these texts are met. None where there is nothing to
        compare."""
        if self._model.is_reference:
            return []
        order = sorted(rows.tolist(), key=lambda row: (zlib.crc32(texts[row].encode("utf-8", "replace")), texts[row]))
        return order[:FIDELITY_ROWS]

    def _reference(self, tokens: Any, row: int) -> np.ndarray:
        """Alone: nothing is padded."""
        with TRACE.span("measure fidelity"):
            return self._model.reference(tokens, np.array([row]))[0]


@dataclasses.dataclass
class _Job:
    """One call's batches. Workers write to rows of `vectors` that no other has."""

    model: Any
    tokens: Any
    vectors: np.ndarray
    failures: list[Failure]
    batch_tokens: int

    def run(self, rows: np.ndarray) -> None:
        """Computes a batch; halves it where memory does not suffice, or to find the row that fails it."""
        if len(rows) > 1 and len(rows) * int(self.tokens.lengths[rows].max()) > self.batch_tokens:
            return self._halves(rows)
        try:
            with TRACE.span("compute", texts=len(rows), width=int(self.tokens.lengths[rows].max())):
                self.vectors[rows] = self.model(self.tokens, rows)
        except Exception as error:
            if len(rows) == 1:
                message = f"{type(error).__name__}: {error}"
                self.failures.append(Failure(int(rows[0]), Reason.ENCODE_ERROR, message))
                return None
            if self.model.ran_out_of_memory(error):
                self.batch_tokens = max(1, self.batch_tokens // 2)
        else:
            return None
        return self._halves(rows)

    def _halves(self, rows: np.ndarray) -> None:
        for half in np.array_split(rows, 2):
            self.run(half)


def _batches(lengths: np.ndarray, rows: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """`rows` in batches of at most `batch_tokens` padded tokens, one row at least; the longest first, so that no
    worker is left alone with a long one at the end."""
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    start = 0
    while start < len(rows):
        stop = start + max(1, batch_tokens // max(1, int(lengths[rows[start]])))
        yield rows[start:stop]
        start = stop


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-30))


def _bad_vectors(vectors: np.ndarray, rows: np.ndarray, failed: set[int]) -> list[Failure]:
    """Rows that came out without a meaning; their vectors are set to zero."""
    finite = np.asarray(np.isfinite(vectors).all(axis=1))
    zero = ~np.asarray(vectors.any(axis=1))
    found = []
    for row in rows[~finite[rows] | zero[rows]].tolist():
        if row in failed:
            continue
        if finite[row]:
            found.append(Failure(row, Reason.ZERO_VECTOR, "the model made a vector of zeros"))
        else:
            bad = int((~np.isfinite(vectors[row])).sum())
            found.append(Failure(row, Reason.NON_FINITE, f"{bad} of {vectors.shape[1]} values are NaN or infinite"))
            vectors[row] = 0
    return found
