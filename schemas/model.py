"""Which model made a dataset: the record in every part's footer, checked by every reader before it computes."""

import dataclasses
import json

from schemas.splits import SCHEMA_VERSION, digest


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFingerprint:
    """All that a vector depends on but its text. Datasets can be compared only where these are equal (`same_space`)."""

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

    def differences(self, other: "ModelFingerprint") -> list[str]:
        """Why the two make different vectors, a phrase a field; empty when they make the same."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return [f"{k}: {theirs[k]!r} -> {mine[k]!r}" for k in mine if k != "name" and mine[k] != theirs[k]]
