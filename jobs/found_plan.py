"""What jobs that compare datasets of embeddings check and settle alike, before they start."""

from typing import Any

from schemas.dataset import Dataset, open_dataset
from schemas.errors import InputError
from schemas.splits import digest
from transforms.bounds import MOST_DIMS

WORK_VERSION = 2
"""Raise it when files of work in progress change: a run never goes on with those of another version."""


def check_numbers(config: Any, *names: str) -> None:
    """Raises InputError naming a flag of these whose value is there and below 1."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}: must be 1 or more")


def check_min_score(min_score: float | None) -> None:
    if min_score is not None and not 0 < min_score <= 1:
        raise InputError(f"--min_score {min_score}: a cosine above 0 and up to 1")


def open_embeddings(flag: str, uri: str) -> Dataset:
    """The dataset at `uri`. Raises InputError unless its rows are compared by cosine, by a bound that is proven."""
    dataset = open_dataset(uri)
    manifest = dataset.manifest
    if manifest.kind != "embeddings":
        raise InputError(f"{flag} {uri}: is a dataset of {manifest.kind}; name one that jobs.embed published")
    model = manifest.fingerprint
    if model.similarity != "cosine" and not (model.similarity == "dot" and model.normalized):
        raise InputError(
            f"{flag} {uri}: its model {model.name} is compared by '{model.similarity}', and pairs are found by "
            "cosine; embed it with --normalize true"
        )
    if model.dim > MOST_DIMS:
        raise InputError(
            f"{flag} {uri}: its vectors have {model.dim:,} dimensions, and the bound that makes the search exact is "
            f"proven for up to {MOST_DIMS:,}; embed it with --truncate_dim"
        )
    return dataset


def rows_digest(dataset: Dataset) -> str:
    """Tells whether two datasets have the same rows in the same order."""
    parts = [[part.name, part.checksum] for part in dataset.manifest.parts]
    return digest(parts, dataset.manifest.fingerprint.digest)
