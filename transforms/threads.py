"""Threads that share a machine's cores without fighting for them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def in_threads(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """`map(function, items)` on some threads, results in order, two a thread at most in memory.

    torch runs one-threaded in each, so that they do not fight for cores; the caller's own setting stays.
    """
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def on_one_thread(function: Callable[[], R]) -> R:
    """`function()` where torch runs one-threaded. Threads that torch starts go on spinning for some 0.2 s after an
    operation, in case of another, and whoever comes next shares the cores with them."""
    return next(in_threads(lambda _: function(), [None], 1))
