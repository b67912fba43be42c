"""One call of the encoder: the batches that its texts make, what a worker does with each, and what comes of all."""

import concurrent.futures
import heapq
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from schemas.rejects import Reason
from transforms.trace import TRACE

if TYPE_CHECKING:
    from transforms.encoder import BusyClock, Seats

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
    seconds: float = 0.0  # that the encoder was busy, but for those that a call which ended earlier has for its own


class Job:
    """One call's texts, each once, tokenized when it is made.

    Batches are a function of the texts alone until memory does not suffice. Rows below are of the distinct texts;
    workers write to rows of `_vectors` that no other has.
    """

    def __init__(
        self, texts: Sequence[str], model: Any, seats: "Seats", skip_truncated: bool, on_batch: OnBatch | None
    ) -> None:
        self._texts = list(dict.fromkeys(texts))
        self._inverse = _inverse(texts, self._texts)
        self._copies = np.bincount(self._inverse, minlength=len(self._texts))
        with TRACE.span("tokenize", texts=len(self._texts)):
            self._tokens = model.tokenize(self._texts)
        self._lengths = self._tokens.lengths
        self._widths = model.widths(self._lengths)
        self._truncated = self._tokens.counts > model.tokenizer.limit
        self._wanted = np.flatnonzero(~self._truncated) if skip_truncated else np.arange(len(self._texts))
        self._is_reference, self._most_padding = model.is_reference, model.most_padding
        self._seats, self._on_batch = seats, on_batch
        self._vectors = np.zeros((len(self._texts), model.dim), np.float32)
        self._references: dict[int, Any] = {}  # row -> its vector in float32; in the sample's order
        self._failures: list[Failure] = []
        self._tasks: list[concurrent.futures.Future[None]] = []
        self._lock, self._ended, self._seconds = threading.Lock(), threading.Event(), 0.0

    def start(self, workers: concurrent.futures.Executor, batch_tokens: int, clock: "BusyClock") -> None:
        """Queues the batches, then the rows that are measured against float32."""
        cut = batches(self._widths, self._wanted, batch_tokens, self._most_padding)
        calls: list[tuple[Callable[[Any], None], Any]] = [(self._compute, rows) for rows in cut]
        self._references = dict.fromkeys([] if self._is_reference else self._sample())
        measured = np.array(list(self._references), np.int64)
        # Alone, nothing is padded. On a GPU eight calls would take as long as computing the block does.
        calls += [(self._measure, rows) for rows in (measured[:, None] if self._most_padding is None else [measured])]
        self._left, self._clock = len(calls), clock
        if not calls:
            self._end()
        self._tasks = [workers.submit(function, item) for function, item in calls]
        for task in self._tasks:
            task.add_done_callback(self._task_ended)

    def cancel(self) -> None:
        """Drops what is not computed yet."""
        for task in self._tasks:
            task.cancel()

    def result(self) -> Encoded:
        """Waits for the vectors. Raises what no row is to blame for."""
        self._ended.wait()
        tasks, self._tasks = self._tasks, []  # they know this job: it would wait for the garbage collector
        for task in sorted(tasks, key=lambda task: task.cancelled()):  # the error first, then what it cancelled
            task.result()
        if self._on_batch and len(self._wanted) < len(self._texts):
            self._on_batch(int(self._copies.sum() - self._copies[self._wanted].sum()), 0)
        failed = {failure.row for failure in self._failures}
        failed |= {failure.row for failure in self._bad_vectors(failed)}
        cosines = [_cosine(exact, self._vectors[row]) for row, exact in self._references.items() if row not in failed]
        distinct = len(self._texts) == len(self._inverse)
        return Encoded(
            self._vectors if distinct else self._vectors[self._inverse],
            self._tokens.counts[self._inverse],
            self._truncated[self._inverse],
            self._failures_of_all(),
            tuple(cosines),
            self._seconds,
        )

    def _task_ended(self, task: "concurrent.futures.Future[None]") -> None:
        if not task.cancelled() and task.exception():
            self.cancel()
        with self._lock:
            self._left -= 1
            if self._left:
                return
        self._end()

    def _end(self) -> None:
        self._seconds = self._clock.end()
        self._ended.set()

    def _compute(self, rows: np.ndarray) -> None:
        self._run(rows, self._seats.model)
        if self._on_batch:
            self._on_batch(int(self._copies[rows].sum()), int(self._lengths[rows].sum()))

    def _run(self, rows: np.ndarray, model: Any) -> None:
        """Computes a batch; halves it where memory does not suffice, or to find the row that fails it."""
        width = int(self._widths[rows].max())
        if len(rows) > 1 and len(rows) * width > model.batch_tokens:
            return self._halves(rows, model)
        try:
            with TRACE.span("compute", texts=len(rows), width=width):
                self._vectors[rows] = model(self._tokens, rows)
        except Exception as error:
            if len(rows) == 1:
                message = f"{type(error).__name__}: {error}"
                self._failures.append(Failure(int(rows[0]), Reason.ENCODE_ERROR, message))
                return None
            if model.ran_out_of_memory(error):  # nor will it suffice later: the device keeps to less from now on
                model.batch_tokens = min(model.batch_tokens, len(rows) * width // 2)
        else:
            return None
        return self._halves(rows, model)

    def _halves(self, rows: np.ndarray, model: Any) -> None:
        for half in np.array_split(rows, 2):
            self._run(half, model)

    def _measure(self, rows: np.ndarray) -> None:
        if len(rows):
            with TRACE.span("measure fidelity"):
                vectors = self._seats.model.reference(self._tokens, rows).copy()
            self._references.update(zip(rows.tolist(), vectors, strict=True))

    def _sample(self) -> list[int]:
        """Those whose texts hash smallest: the same wherever these texts are met."""

        rows = self._wanted.tolist()
        texts = [self._texts[row] for row in rows]
        hashes = (zlib.crc32(text.encode("utf-8", "replace")) for text in texts)
        return [row for *_, row in heapq.nsmallest(FIDELITY_ROWS, zip(hashes, texts, rows, strict=True))]

    def _bad_vectors(self, failed: set[int]) -> list[Failure]:
        """Adds rows that came out without a meaning to the failures; their vectors are set to zero."""
        finite = np.asarray(np.isfinite(self._vectors).all(axis=1))
        zero = ~np.asarray(self._vectors.any(axis=1))
        found = []
        for row in self._wanted[~finite[self._wanted] | zero[self._wanted]].tolist():
            if row in failed:
                continue
            if finite[row]:
                found.append(Failure(row, Reason.ZERO_VECTOR, "the model made a vector of zeros"))
            else:
                bad = int((~np.isfinite(self._vectors[row])).sum())
                message = f"{bad} of {self._vectors.shape[1]} values are NaN or infinite"
                found.append(Failure(row, Reason.NON_FINITE, message))
                self._vectors[row] = 0
        self._failures += found
        return found

    def _failures_of_all(self) -> list[Failure]:
        """For each text that was asked for, equal ones too."""
        failures = {failure.row: failure for failure in self._failures}
        rows = np.flatnonzero(np.isin(self._inverse, list(failures))).tolist() if failures else []
        return [failures[int(self._inverse[row])]._replace(row=row) for row in rows]


def _inverse(texts: Sequence[str], distinct: Sequence[str]) -> np.ndarray:
    """(n,) int64: of each text, its place among the distinct ones."""
    if len(distinct) == len(texts):
        return np.arange(len(texts))
    place = {text: number for number, text in enumerate(distinct)}
    return np.array([place[text] for text in texts], np.int64)


def batches(
    widths: np.ndarray, rows: np.ndarray, batch_tokens: int, most_padding: int | None = None
) -> Iterator[np.ndarray]:
    """`rows` in batches of at most `batch_tokens` tokens, `most_padding` of them padding; one row at least. The longest
    first, so that no worker is left alone with a long one at the end."""
    rows = rows[np.argsort(-widths[rows], kind="stable")]
    start = 0
    while start < len(rows):
        width = max(1, int(widths[rows[start]]))
        stop = start + max(1, batch_tokens // width)
        if most_padding is not None:
            padding = np.cumsum(width - widths[rows[start:stop]])
            stop = start + max(1, int(np.searchsorted(padding, most_padding, side="right")))
        yield rows[start:stop]
        start = stop


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-30))
