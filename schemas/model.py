"""Which model made a dataset: the record in every part's footer, checked by every reader before it computes."""

import dataclasses
import json
from collections.abc import Collection

from schemas.splits import SCHEMA_VERSION, digest

ASKED_OF = ("prompt", "long_texts")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFingerprint:
    """All that a vector depends on but its text. Datasets can be compared where all but `ASKED_OF` are equal."""

    name: str  # as asked for; informative, not compared
    weights_sha256: str  # over every file of the model folder that counts
    max_seq_length: int
    pooling: str  # mean, cls, max, …; the modules' names where there is no one pooling module
    normalized: bool
    prompt: str
    dim: int
    dtype: str  # float32, bfloat16, float16
    backend: str  # torch, openvino
    similarity: str  # cosine, dot, …
    long_texts: str  # truncate, chunk, reject
    schema_version: int = SCHEMA_VERSION

    @property
    def digest(self) -> str:
        """32 hex digits over all but the name: the part of a part's name that says which model made it."""
        return digest({k: v for k, v in dataclasses.asdict(self).items() if k != "name"})

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> "ModelFingerprint":
        return cls(**json.loads(text))

    def differences(self, other: "ModelFingerprint", but: Collection[str] = ()) -> list[str]:
        """Why the two make different vectors, a phrase a field; empty when they make the same.

        but: fields that may differ. `ASKED_OF` are those that say how a text is put to the model: a query and a passage
        may have a prompt each, and their vectors are made to be compared.
        """
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        named = [k for k in mine if k != "name" and k not in but]
        return [f"{k}: {theirs[k]!r} -> {mine[k]!r}" for k in named if mine[k] != theirs[k]]
