"""Texts -> (n, dim) float32, as `SentenceTransformer.encode` makes them, only faster. No Beam.

Texts are tokenized in threads of their own, sorted by tokens, cut into batches and computed by workers. Several calls
are under way at once: while the workers are busy with one, the next is tokenized and its batches queue, so that no
worker waits at a call's end. On a CPU a batch stays in a core's cache, and a worker is a core, which needs no barrier
inside an operation. Importing this module imports neither torch nor sentence_transformers: that takes five seconds,
spent when the first Encoder is made.
"""

import concurrent.futures
import queue
import threading
import time
from collections.abc import Sequence
from typing import Any

from transforms.device import choose_device, cpu_threads, device_names
from transforms.encoder_job import Encoded, Job, OnBatch
from transforms.model import EncodeOptions, ResolvedModel
from transforms.tokenize import FastTokenizer
from transforms.tokenizer_processes import TokenizerProcesses, processes_here

WORKERS_A_GPU = 2
"""The copies and the Python of one's batch go on while the kernels of the other's run. MPS is for one thread alone."""
TOKENIZERS = {"cpu": 1, "cuda": 4, "mps": 1}
"""Calls that are tokenized at a time. One block has too few texts to keep all tokenizer processes of a GPU's machine
busy; where there are none, all cores tokenize a call's texts, but one alone takes the ids out."""


class Encoder:
    """A loaded model that owns the process's compute. One a process, for all of its threads.

    Vectors depend on the texts and their order alone, to the bit, on one kind of machine with one number of threads.

    calls: under way at a time keep it busy. One makes hundreds of a CPU's batches, and few of a GPU's

    Raises:
        InputError: `--device` is not here, or the model has no transformer to run in a low precision.
    """

    def __init__(self, model: ResolvedModel, options: EncodeOptions, threads: int | None = None) -> None:
        from transforms.loaded_model import LoadedModel

        self.device = choose_device(options.device)
        each = {"cpu": threads or cpu_threads(), "cuda": WORKERS_A_GPU, "mps": 1}[self.device]
        self._models = [LoadedModel(model, options, name, each) for name in device_names(self.device)]
        self._processes = self._tokenizer_processes(threads or cpu_threads())
        self._skip_truncated = options.long_texts == "reject"
        self._seats = Seats(self._models * each)
        self._clock = BusyClock()
        n_workers, n_tokenizers = len(self._models) * each, TOKENIZERS[self.device]
        self._tokenizer = concurrent.futures.ThreadPoolExecutor(n_tokenizers, thread_name_prefix="tokenizer")
        self._workers = concurrent.futures.ThreadPoolExecutor(
            n_workers, thread_name_prefix="encoder", initializer=self._seats.take
        )
        self.calls = n_tokenizers + (1 if self.device == "cpu" else n_workers)

    def _tokenizer_processes(self, cores: int) -> TokenizerProcesses | None:
        model, processes = self._models[0], processes_here(cores)
        if self.device != "cuda" or not processes or not isinstance(model.tokenizer, FastTokenizer):
            return None
        found = TokenizerProcesses(model.tokenizer, processes)
        model.tokenize = found
        return found

    @property
    def dim(self) -> int:
        return self._models[0].dim

    @property
    def batch_tokens(self) -> int:
        """The most padded tokens that a batch may have, as far as is known by now."""
        return max(model.batch_tokens for model in self._models)

    def submit(self, texts: Sequence[str], on_batch: OnBatch | None = None) -> "Submitted":
        """Has `texts` encoded, after what was submitted before. Returns at once.

        `on_batch(rows, tokens)` is told, in the encoder's threads, what each batch added; the sums over a call are
        `len(texts)` and the sum of the tokens computed, duplicates counted once.
        """
        return Submitted(self._tokenizer.submit(self._begin, texts, on_batch))

    def encode(self, texts: Sequence[str], on_batch: OnBatch | None = None) -> Encoded:
        """Vectors of `texts`."""
        return self.submit(texts, on_batch).result()

    def chunk(self, texts: Sequence[str]) -> list[list[str]]:
        """Each text in pieces that the model takes whole, prompt and special tokens counted; `[text]` where it fits.

        A piece ends at a word's end, unless that one word is longer than the window. Joined, the pieces lose nothing
        but the whitespace between them.
        """
        return self._tokenizer.submit(self._models[0].tokenizer.windows, texts).result()

    def _begin(self, texts: Sequence[str], on_batch: OnBatch | None) -> Job:
        """Tokenizes, and queues the batches behind those of earlier calls."""
        self._clock.begin()
        try:
            job = Job(texts, self._models[0], self._seats, self._skip_truncated, on_batch)
        except BaseException:
            self._clock.end()
            raise
        job.start(self._workers, self.batch_tokens, self._clock)
        return job


class Submitted:
    """Texts on their way through the encoder."""

    def __init__(self, begun: "concurrent.futures.Future[Job]") -> None:
        self._begun = begun

    def result(self) -> Encoded:
        """Waits for the vectors. Raises what no row is to blame for."""
        return self._begun.result().result()

    def cancel(self) -> None:
        """Drops what is not computed yet. Returns at once."""
        self._begun.cancel()
        self._begun.add_done_callback(_cancel)


def _cancel(begun: "concurrent.futures.Future[Job]") -> None:
    if not begun.cancelled() and not begun.exception():
        begun.result().cancel()


class Seats:
    """Which of the models, each on a device of its own, a worker computes with: it takes its seat once. Knows nothing
    of the workers' pool, or the two would keep each other in memory."""

    def __init__(self, models: Sequence[Any]) -> None:
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for model in models:
            self._free.put(model)
        self._of_thread = threading.local()

    def take(self) -> None:
        self._of_thread.model = self._free.get_nowait()

    @property
    def model(self) -> Any:
        """Of the worker that asks."""
        return self._of_thread.model


class BusyClock:
    """The time in which at least one call was under way. Where calls overlap it counts for the first that ends, so
    that their seconds add up to that time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self._counted = 0.0  # up to here, time.monotonic()

    def begin(self) -> None:
        with self._lock:
            if not self._calls:
                self._counted = time.monotonic()
            self._calls += 1

    def end(self) -> float:
        """The seconds of the call that ends."""
        with self._lock:
            before, self._counted = self._counted, time.monotonic()
            self._calls -= 1
            return self._counted - before
