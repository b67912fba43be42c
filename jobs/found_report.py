"""What jobs that compare datasets of embeddings say alike, while they run and at the end."""

from collections.abc import Iterable, Sequence

from transforms.progress import Progress
from transforms.publish_found import HISTOGRAM_BINS


def compared(done: Progress, seconds: float) -> tuple[int, str]:
    """How far the comparing is, for `cli.progress_bar`."""
    return done.pairs, f"{done.pairs / 1e6:,.0f} M pairs compared, {done.pairs / 1e6 / seconds:,.0f} M pairs/s"


def histogram(counts: Sequence[int]) -> dict[str, int]:
    """Pairs by score, best first; from the first bin that has some."""
    edges = [f"{i / HISTOGRAM_BINS:.2f}" for i in range(HISTOGRAM_BINS + 1)]
    named = [(f"{low}-{high}", n) for low, high, n in zip(edges, edges[1:], counts, strict=False)]
    first = next((i for i, n in enumerate(counts) if n), HISTOGRAM_BINS)
    return dict(reversed(named[first:]))


def histogram_lines(counts: dict[str, int]) -> list[str]:
    most = max(counts.values(), default=1)
    return [f"  {k}  {'#' * -(-30 * n // most):<30} {n:,}" for k, n in counts.items()]


def open_lines(output: str, folders: Iterable[str]) -> list[str]:
    """How to open what was written."""
    lines = [f"  open it: pandas.read_parquet({output!r})"]
    return lines + [f"           pandas.read_parquet({output + '/' + folder!r})" for folder in folders]
