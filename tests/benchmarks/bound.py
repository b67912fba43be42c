"""What the matrix products of all-MiniLM-L6-v2 alone would allow on this machine: tokens a second.

    python -m tests.benchmarks.bound cpu|cuda float32|bfloat16|float16

21.3 MFLOP a token, at the rate that the device multiplies matrices of the model's shapes: on a CPU one thread a core,
each with the rows of a batch that stays in its cache; on a GPU as many rows as it likes.
"""

import sys
import threading
import time

from transforms.device import cpu_threads

MFLOP_A_TOKEN = 21.3
SHAPES = [(384, 384)] * 4 + [(384, 1536), (1536, 384)]  # of one layer
SECONDS = 2.0
ROWS = {"cpu": 1024, "cuda": 65_536}
ROUNDS_A_WAIT = 10
"""Of a layer's products, between two looks at the clock."""


def tokens_per_second(device: str, dtype: str) -> float:
    """Of all cores of a CPU together, or of one GPU."""
    rates: list[float] = []

    def multiply() -> None:
        rates.append(_flop_per_second(device, dtype))

    threads = [threading.Thread(target=multiply) for _ in range(cpu_threads() if device == "cpu" else 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates) / (MFLOP_A_TOKEN * 1e6)


def _flop_per_second(device: str, dtype: str) -> float:
    import torch

    if device == "cpu":
        torch.set_num_threads(1)
    of = {"dtype": getattr(torch, dtype), "device": device}
    rows = ROWS[device]
    matrices = [torch.randn(n, k, **of) for k, n in SHAPES]
    inputs = {k: torch.randn(rows, k, **of) for k in (384, 1536)}

    def rounds() -> None:
        with torch.inference_mode():
            for matrix in matrices * ROUNDS_A_WAIT:
                torch.nn.functional.linear(inputs[matrix.shape[1]], matrix)
        if device == "cuda":
            torch.cuda.synchronize()

    rounds()
    made, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        rounds()
        made += ROUNDS_A_WAIT
    return made * sum(2 * rows * k * n for k, n in SHAPES) / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.stdout.write(f"{tokens_per_second(*sys.argv[1:3])}\n")
