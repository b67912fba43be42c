"""The zoo's table: how far each kind of model is from `SentenceTransformer.encode`, in every precision and backend.

python -m tests.benchmarks.zoo [NAME ...]

In float32 the largest difference of a value, as a share of the largest; else the least fidelity (a cosine, less what a
difference in length costs), or why the model is refused.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import InputError, RunFailed
from tests import zoo
from transforms.encoder import Encoder
from transforms.fidelity import fidelity
from transforms.model import EncodeOptions, resolve_model

CONTENDERS = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
    "OpenVINO": {"backend": "openvino"},
    "OpenVINO bfloat16": {"backend": "openvino", "dtype": "bfloat16"},
}


def measure(folder: str, animal: zoo.Animal, options: dict[str, Any], wanted: np.ndarray) -> str:
    """A cell of the table."""
    chosen = EncodeOptions(model=folder, device="cpu", **options | animal.options)
    try:
        found = Encoder(resolve_model(chosen), chosen, 2).encode(zoo.TEXTS)
    except (InputError, RunFailed) as error:
        return f"refused: {str(error).removeprefix('--model: ')[:60]}…"
    zero = {failure.row for failure in found.failures}
    missing = [row for row in zero if wanted[row].any()]
    if missing:
        return f"REJECTS {len(missing)}"
    if chosen.backend == "torch" and chosen.dtype == "float32":
        return f"{np.abs(found.vectors - wanted).max() / max(1, np.abs(wanted).max()):.1e}"
    near = [fidelity(*pair) for n, pair in enumerate(zip(wanted, found.vectors, strict=True)) if n not in zero]
    return f"{min(near):.5f}"


def main(names: list[str]) -> None:
    from tests.transforms.test_encoder import expected

    put = sys.stdout.write
    put(f"| model | pooling | tokenizer | {' | '.join(CONTENDERS)} |\n{'| --- ' * (3 + len(CONTENDERS))}|\n")
    for name in names or zoo.ANIMALS:
        animal = zoo.ANIMALS[name]
        with tempfile.TemporaryDirectory() as place:
            folder = zoo.build(name, Path(place) / "model")
            wanted = np.zeros(0) if animal.refused else expected(folder, zoo.TEXTS, **animal.encode)
            cells = [measure(folder, animal, options, wanted) for options in CONTENDERS.values()]
        pooling = "" if animal.make else animal.pooling
        put(f"| {name} | {pooling} | {'' if animal.make else animal.tokenizer} | {' | '.join(cells)} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
