"""Tokenizing in processes of its own, for devices that compute faster than one process can tokenize. No Beam, no torch.

A text costs the process that feeds a GPU 4 microseconds under the GIL, to take the ids out of the Rust tokenizer's
objects and to free these: 110,000 texts a second at most, however many cores there are (measured on 16 cores beside an
H200, sentences of 33 tokens). A tokenizer process answers with arrays, which cost nearly nothing.
"""

import concurrent.futures
import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, BinaryIO

import numpy as np

from transforms.tokenize import Tokens

PIECE_TEXTS = 512
"""Of a call, for one process at a time."""
LEAST_CORES, CORES_LEFT = 8, 4
"""Below that many cores the processes would only compete with what feeds them; so many are left to it."""
Tokenizer = Callable[[Sequence[str]], Tokens]


class TokenizerProcesses:
    """Tokenizes as `tokenizer` does. A piece whose process has gone is tokenized here.

    tokenizer: one that can be pickled
    """

    def __init__(self, tokenizer: Tokenizer, processes: int) -> None:
        self._tokenizer = tokenizer
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._threads = concurrent.futures.ThreadPoolExecutor(processes, thread_name_prefix="tokenizer process")
        own = pickle.dumps(tokenizer)
        for process in [_start() for _ in range(processes)]:
            self._threads.submit(self._begin, process, own)

    def __call__(self, texts: Sequence[str]) -> Tokens:
        pieces = [texts[start : start + PIECE_TEXTS] for start in range(0, len(texts), PIECE_TEXTS)]
        return joined(self._threads.map(self._tokenize, pieces)) if len(pieces) > 1 else self._tokenizer(texts)

    def close(self) -> None:
        """Ends the processes. They also end when this one does, since their input ends."""
        self._threads.shutdown()
        with contextlib.suppress(queue.Empty):
            while True:
                process = self._idle.get_nowait()
                with contextlib.suppress(BrokenPipeError):  # it was killed with a request half sent
                    process.stdin.close()  # type: ignore[union-attr]
                process.wait()

    def _begin(self, process: "subprocess.Popen[bytes]", tokenizer: bytes) -> None:
        with contextlib.suppress(OSError):  # gone already: `_tokenize` finds out
            _send(process.stdin, tokenizer)
        self._idle.put(process)

    def _tokenize(self, texts: Sequence[str]) -> Tokens:
        process = self._idle.get()
        try:
            _send(process.stdin, pickle.dumps(list(texts), pickle.HIGHEST_PROTOCOL))
            answer = _receive(process.stdout)
        except OSError:  # a process that was killed, for want of memory perhaps
            answer = None
        finally:
            self._idle.put(process)
        return self._tokenizer(texts) if answer is None else Tokens(*pickle.loads(answer))


def processes_here(cores: int) -> int:
    """How many suit a machine of so many cores; 0 where this process had better tokenize by itself."""
    return cores - CORES_LEFT if cores >= LEAST_CORES else 0


def joined(parts: Iterable[Tokens]) -> Tokens:
    """Tokens of all texts, in order."""
    found = list(parts)
    lengths = np.concatenate([part.lengths for part in found])
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    ids, counts = (np.concatenate([getattr(part, name) for part in found]) for name in ("ids", "counts"))
    return Tokens(ids, starts, counts)


def _start() -> "subprocess.Popen[bytes]":
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )


def _send(file: Any, message: bytes) -> None:
    file.write(len(message).to_bytes(8, "little"))
    file.write(message)
    file.flush()


def _receive(file: Any) -> bytes | None:
    """None where the other side has gone."""
    head = file.read(8)
    size = int.from_bytes(head, "little")
    message = file.read(size) if len(head) == 8 else b""
    return message if len(head) == 8 and len(message) == size else None


def main(requests: BinaryIO, answers: BinaryIO) -> None:
    """A tokenizer process: first the tokenizer, then a list of texts a request, until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that this one serves
    own = _receive(requests)
    tokenizer: Tokenizer | None = pickle.loads(own) if own is not None else None
    with contextlib.suppress(BrokenPipeError):  # nobody waits for the answer any more
        while tokenizer and (request := _receive(requests)) is not None:
            _send(answers, pickle.dumps(tuple(tokenizer(pickle.loads(request))), pickle.HIGHEST_PROTOCOL))


if __name__ == "__main__":
    answers = sys.stdout.buffer
    sys.stdout = sys.stderr  # what a library prints is no answer
    main(sys.stdin.buffer, answers)
