"""What a run would take on this machine (`--plan`), from rows all over its input that are encoded now."""

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jobs.embed_sample import Sample, bytes_of
from schemas.splits import Slice
from transforms.inputs import LINE_FORMATS
from transforms.model import EncodeOptions, ResolvedModel
from transforms.plan import Plan
from transforms.read import BlockOptions
from transforms.sources import BadFile, Row, beginnings, parquet_row_groups, read_rows

if TYPE_CHECKING:
    from transforms.encoder import Submitted

PROBES = 20
SAMPLE_ROWS = 1000
MEASURE_SECONDS, MEASURE_TURNS = 3.0, 5
"""How long, or how often, the sample is encoded: what else runs on a machine comes and goes within a second."""
RUNNER_SECONDS = 2.0
"""What it takes to build and start a pipeline in this process, to publish, and to end: measured on a few rows."""

STARTED_AT = 19
"""Field of /proc/self/stat after the program's name: clock ticks from the machine's start to the process's."""


class _Probe(NamedTuple):
    """Rows from one place of the input."""

    texts: list[str]
    rows: int  # the texts, and what was refused
    input_bytes: int  # that they stand for


def estimate(
    plan: Plan, options: BlockOptions, first: Sample, model: ResolvedModel, encode: EncodeOptions
) -> dict[str, Any]:
    """What the run would take. Reading, tokenizing and writing go on beside the encoder.

    first: the first rows; where they are all that is to do, there is nothing to guess
    """
    starting = seconds_since_start()  # as the run will need
    if first.input_bytes >= plan.input_bytes:
        probes = [_Probe(list(first.texts), len(first.texts), first.input_bytes)]
    else:
        probes = [probe for probe in _probes(plan, options) if probe.rows]
    texts = [text for probe in probes for text in probe.texts]
    measured = _measure(texts, model, encode) if texts else _Measured(np.zeros(0, np.int32), 0.0, 0.0)
    share = plan.input_bytes / max(1, len(probes))  # each probe stands for as many bytes
    rows = sum(share * len(probe.texts) / probe.input_bytes for probe in probes)
    starts = np.cumsum([0, *(len(probe.texts) for probe in probes)])
    of_probe = [int(measured.tokens[a:b].sum()) for a, b in itertools.pairwise(starts)]
    tokens = sum(share * n / probe.input_bytes for n, probe in zip(of_probe, probes, strict=True))
    working = measured.seconds * tokens / max(1, sum(of_probe))
    return {
        "splits": len(plan.todo),
        "input_bytes": plan.input_bytes,
        "rows": round(rows),
        "sample_rows": len(texts),
        "tokens": round(tokens),
        "tokens_per_second": round(sum(of_probe) / max(1e-9, measured.seconds)),
        "seconds_on_this_machine": round(starting + RUNNER_SECONDS + measured.load_seconds + working, 1),
    }


def seconds_since_start() -> float:
    """How old this process is, with what Python and Beam took to come up."""
    try:
        ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[STARTED_AT]
        return float(Path("/proc/uptime").read_text().split()[0]) - int(ticks) / os.sysconf("SC_CLK_TCK")
    except OSError:  # no Linux; until here it has mostly computed
        return time.process_time()


def _probes(plan: Plan, options: BlockOptions) -> Iterator[_Probe]:
    """Rows from places that are evenly spread over the bytes to do; a file that is read whole only from its start."""
    places = list(dict.fromkeys(_places(plan)))
    for piece, start in beginnings(places):
        texts: list[str] = []
        rows = last = 0
        try:
            for item in itertools.islice(read_rows(start, options.read), SAMPLE_ROWS // len(places)):
                rows, last = rows + 1, item.offset
                if isinstance(item, Row):
                    texts.append(item.text)
        except BadFile:
            continue  # of what is damaged the run will tell
        yield _Probe(texts, rows, max(1, bytes_of(piece, rows, last)))


def _places(plan: Plan) -> Iterator[Slice]:
    pieces = [piece for split in plan.todo for piece in split.slices]
    ends = np.cumsum([piece.size for piece in pieces])
    for place in (np.arange(PROBES) + 0.5) / PROBES * plan.input_bytes:
        number = int(np.searchsorted(ends, place, side="right"))
        piece = pieces[min(number, len(pieces) - 1)]
        yield _from_within(piece, 1 - (ends[min(number, len(pieces) - 1)] - place) / max(1, piece.size))


def _from_within(piece: Slice, share: float) -> Slice:
    """The piece from about there on, where its format can be entered there."""
    if piece.format == "parquet":
        groups = parquet_row_groups(piece.file)
        stop = len(groups) if piece.whole else piece.stop
        ends = np.cumsum([0, *(size for _, size in groups[piece.start : stop])])
        entered = int(np.searchsorted(ends, share * ends[-1], side="right")) - 1
        left = piece.size * (1 - ends[entered] / max(1, ends[-1]))
        return piece._replace(start=piece.start + entered, stop=stop, size=round(left))
    if piece.format in LINE_FORMATS and not piece.codec:
        ahead = int(share * piece.size)
        return piece._replace(start=piece.start + ahead, size=piece.size - ahead)
    return piece


class _Measured(NamedTuple):
    tokens: np.ndarray  # (n,) of the texts
    load_seconds: float
    seconds: float  # to encode the texts


def _measure(texts: Sequence[str], model: ResolvedModel, options: EncodeOptions) -> _Measured:
    from transforms.encode import Encoder  # imported late, with torch

    def submit() -> "Submitted":
        """As the run does: long texts are cut into chunks first, where that is asked for."""
        chunks = encoder.chunk(texts) if options.long_texts == "chunk" else [[text] for text in texts]
        numbers[:] = map(len, chunks)
        return encoder.submit([piece for pieces in chunks for piece in pieces])

    numbers: list[int] = []  # of chunks, text by text
    began = time.monotonic()
    encoder = Encoder(model, options)
    found = submit().result().token_counts  # the first batches of each shape pay for start-up too
    tokens = np.add.reduceat(found, np.cumsum([0, *numbers[:-1]]))
    loaded = time.monotonic()
    submit().result()
    turns = max(1, min(MEASURE_TURNS, int(MEASURE_SECONDS / max(1e-3, time.monotonic() - loaded))))
    measured = time.monotonic()
    for call in [submit() for _ in range(turns)]:  # one is tokenized while another computes, as in the run
        call.result()
    each = (time.monotonic() - measured) / turns
    return _Measured(tokens, max(0.0, loaded - began - each), each)
