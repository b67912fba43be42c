"""One call of the encoder: the batches that its texts make, what a worker does with each, and what comes of all."""

import concurrent.futures
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from schemas.errors import RunFailed
from schemas.rejects import Reason
from transforms.fidelity import fidelity, sample
from transforms.trace import TRACE

if TYPE_CHECKING:
    from transforms.encoder import BusyClock, Seats

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
    cosines: Sequence[float] = ()  # fidelity to float32, of a sample of the texts (transforms.fidelity); () for float32
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
        self._is_reference = model.is_reference
        self._most_padding, self._boundaries = model.most_padding, model.boundaries
        self._seats, self._on_batch = seats, on_batch
        self._vectors = np.zeros((len(self._texts), model.dim), np.float32)
        self._references: dict[int, Any] = {}  # row -> its vector in float32; in the sample's order
        self._failures: list[Failure] = []
        self._tasks: list[concurrent.futures.Future[None]] = []
        self._lock, self._ended, self._seconds = threading.Lock(), threading.Event(), 0.0

    def start(self, workers: concurrent.futures.Executor, batch_tokens: int, clock: "BusyClock") -> None:
        """Queues the batches, then the rows that are measured against float32."""
        cut = list(batches(self._widths, self._wanted, batch_tokens, self._most_padding, self._boundaries))
        calls: list[tuple[Callable[[Any], None], Any]] = [(self._compute, rows) for rows in cut]
        self._references = dict.fromkeys([] if self._is_reference else sample(self._texts, self._lengths, cut))
        calls += [(self._measure, rows) for rows in self._measured_together()]
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
        failed = self._settle_failures()
        cosines = [fidelity(exact, self._vectors[row]) for row, exact in self._references.items() if row not in failed]
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
        """Computes a batch; halves it where memory does not suffice, or to find the row that fails it.

        Raises DeviceGone where the device is to blame.
        """
        width = int(self._widths[rows].max())
        if len(rows) > 1 and len(rows) * width > model.batch_tokens:
            return self._halves(rows, model)
        try:
            with TRACE.span("compute", texts=len(rows), width=width):
                found = model(self._tokens, rows)
        except RunFailed:
            raise
        except Exception as error:
            lacks_memory = model.lacks_memory(error)
        else:
            self._vectors[rows] = found
            alone = self._is_reference and len(rows) == 1
            for row in rows[_without_meaning(found)].tolist():
                self._put(row, self._vectors[row] if alone else self._reference(row, model))
            return None
        if lacks_memory:
            model.free_memory()
        if len(rows) == 1:
            return self._put(int(rows[0]), self._reference(int(rows[0]), model, on_cpu=lacks_memory))
        if lacks_memory:  # nor will it suffice later: the device keeps to less from now on
            model.batch_tokens = min(model.batch_tokens, len(rows) * width // 2)
        return self._halves(rows, model)

    def _halves(self, rows: np.ndarray, model: Any) -> None:
        for half in np.array_split(rows, 2):
            self._run(half, model)

    def _put(self, row: int, found: np.ndarray | None) -> None:
        """Takes what the last try for a row made, by torch in float32 and alone; None is a failure that was told."""
        if found is not None:
            self._vectors[row] = found
            if _without_meaning(found[None])[0]:
                self._failures.append(_failure(row, found))

    def _measured_together(self) -> list[list[int]]:
        """A row alone is not padded. On a GPU, eight calls would take as long as computing the block does; there all go
        together, where the model allows for padding at all."""
        rows = list(self._references)
        return [rows][: len(rows)] if self._most_padding else [[row] for row in rows]

    def _measure(self, rows: list[int]) -> None:
        """By torch in float32; one row after the other where they fail together."""
        model = self._seats.model
        with TRACE.span("measure fidelity"):
            if len(rows) > 1:
                try:
                    found = model.reference(self._tokens, np.array(rows)).copy()
                except RunFailed:
                    raise
                except Exception as error:
                    model.lacks_memory(error)  # raises where the device is gone
                else:
                    self._references.update(zip(rows, found, strict=True))
                    return
            for row in rows:
                self._references[row] = self._reference(row, model)

    def _reference(self, row: int, model: Any, on_cpu: bool = False) -> np.ndarray | None:
        """A row's vector by torch in float32, computed alone; on the CPU where the device has no memory for that. None
        for a row that fails even so, which is added to the failures. Raises DeviceGone."""
        try:
            return (model.on_cpu if on_cpu else model.reference)(self._tokens, np.array([row]))[0].copy()
        except RunFailed:
            raise
        except Exception as error:
            retry = model.lacks_memory(error) and not on_cpu
            if not retry:
                self._failures.append(Failure(row, Reason.ENCODE_ERROR, f"{type(error).__name__}: {error}"))
                return None
        model.free_memory()
        return self._reference(row, model, on_cpu=True)

    def _settle_failures(self) -> set[int]:
        """Rows without a vector, which is set to zero. What float32 makes no vector of is none in a low precision."""
        failed = {failure.row for failure in self._failures}
        for row, exact in self._references.items():
            if row not in failed and exact is not None and _without_meaning(exact[None])[0]:
                self._failures.append(_failure(row, exact))
                failed.add(row)
        self._vectors[sorted(failed)] = 0
        return failed

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


def _without_meaning(vectors: np.ndarray) -> np.ndarray:
    """(n,) bool: those that are zero, or not finite everywhere."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("nd,nd->n", vectors, vectors)  # in one pass; may overflow or vanish where values do not
    found = ~(np.isfinite(squares) & (squares > 0))
    found[found] = ~(np.isfinite(vectors[found]).all(axis=1) & vectors[found].any(axis=1))
    return found


def _failure(row: int, vector: np.ndarray) -> Failure:
    bad = int((~np.isfinite(vector)).sum())
    if not bad:
        return Failure(row, Reason.ZERO_VECTOR, "the model made a vector of zeros")
    return Failure(row, Reason.NON_FINITE, f"{bad} of {len(vector)} values are NaN or infinite")


def batches(
    widths: np.ndarray,
    rows: np.ndarray,
    batch_tokens: int,
    most_padding: int | None = None,
    boundaries: Sequence[int] = (),
) -> Iterator[np.ndarray]:
    """`rows` in batches of at most `batch_tokens` tokens, `most_padding` of them padding, and with widths on one side
    of each of the boundaries; one row at least. The longest first, so that no worker is left alone with a long one at
    the end."""
    rows = rows[np.argsort(-widths[rows], kind="stable")]
    start = 0
    while start < len(rows):
        width = max(1, int(widths[rows[start]]))
        stop = start + max(1, batch_tokens // width)
        if most_padding is not None:
            padding = np.cumsum(width - widths[rows[start:stop]])
            stop = start + max(1, int(np.searchsorted(padding, most_padding, side="right")))
        for boundary in boundaries:
            if width > boundary:
                stop = start + max(1, int((widths[rows[start:stop]] > boundary).sum()))
        yield rows[start:stop]
        start = stop
