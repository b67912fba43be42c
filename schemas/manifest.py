"""The record that publishes a dataset version: `OUT/_manifest/<version>.json`. The highest version is the dataset."""

import dataclasses
import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from schemas import storage
from schemas.errors import RunFailed
from schemas.model import ModelFingerprint
from schemas.rejects import BLANK_REASONS
from schemas.splits import FileInfo

FOLDER = "_manifest"
_NAME = re.compile(r"(\d{8})\.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """Rows of a split or of a dataset. Always `rows_in + chunks == rows_out + rejected`; `chunks` is 0 unless
    `--long_texts chunk` made several rows of one."""

    rows_in: int = 0
    rows_out: int = 0
    rejected: dict[str, int] = dataclasses.field(default_factory=dict)  # by reason
    blank_lines: int = 0
    truncated: int = 0
    tokens: int = 0
    chunks: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        both = {
            k: getattr(self, k) + getattr(other, k)
            for k in ("rows_in", "rows_out", "blank_lines", "truncated", "tokens", "chunks")
        }
        reasons = sorted({*self.rejected, *other.rejected})
        return Counts(**both, rejected={r: self.rejected.get(r, 0) + other.rejected.get(r, 0) for r in reasons})

    @property
    def rejected_rows(self) -> int:
        return sum(self.rejected.values())

    @property
    def broken_rows(self) -> int:
        """Rejected rows that speak against the input: all but those with nothing in their text field."""
        return sum(n for reason, n in self.rejected.items() if reason not in BLANK_REASONS)

    def check(self, what: str) -> None:
        """Raises RunFailed unless every row is accounted for."""
        if self.rows_in + self.chunks != self.rows_out + self.rejected_rows:
            raise RunFailed(
                f"{what}: {self.rows_in} rows in and {self.chunks} added by chunking, but {self.rows_out} out and "
                f"{self.rejected_rows} rejected: rows were lost or doubled, so nothing is published; please report this"
            )


class PartEntry(NamedTuple):
    """A file of the dataset, by its name below the output folder."""

    name: str
    rows: int
    size: int
    checksum: str


class SplitEntry(NamedTuple):
    """What one split became. A later run with the same split takes this over without reading its input."""

    id: str
    parts: tuple[str, ...]
    rejects: tuple[str, ...]
    counts: Counts
    cosines: tuple[float, float, int] | None  # least, sum, number: fidelity of a sample against float32
    bad_files: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """A published version. `parts` are in input order; a name may stand twice where two blocks are equal."""

    version: int
    parent: int  # version that this one was planned on; 0 for none
    run: str  # token of the run that published it
    kind: str  # embeddings, pairs, …
    created: str  # ISO 8601, UTC
    fingerprint: ModelFingerprint
    options: dict[str, Any]
    parts: tuple[PartEntry, ...]
    rejects: tuple[PartEntry, ...]
    splits: tuple[SplitEntry, ...]
    inputs: tuple[FileInfo, ...]
    counts: Counts
    fidelity: dict[str, float] | None  # rows, min_cosine, mean_cosine against float32; None for float32 itself
    timings: dict[str, float]
    reused: dict[str, int]  # splits, parts and rows that this run did not have to encode
    details: dict[str, Any] = dataclasses.field(default_factory=dict)  # what only this kind of dataset has to say
    extras: tuple[PartEntry, ...] = ()  # files in folders of their own that belong to the rows: groups, duplicates
    lineage: tuple[str, ...] = ()  # runs that published the versions before this one, oldest first, as far as known

    @property
    def files(self) -> tuple[PartEntry, ...]:
        """All that a kept version needs."""
        return (*self.parts, *self.rejects, *self.extras)

    @property
    def bad_files(self) -> list[tuple[str, str]]:
        return sorted({f for split in self.splits for f in split.bad_files})

    def includes(self, run: str) -> bool:
        """Whether this version, or one that it builds on, is what `run` published: however many came since."""
        return run == self.run or run in self.lineage

    def same_data(self, other: "Manifest") -> bool:
        """Whether the two publish the same rows, by the same rules, from the same input."""
        fields = ("kind", "fingerprint", "options", "parts", "rejects", "extras", "splits", "inputs", "counts")
        return all(getattr(self, f) == getattr(other, f) for f in fields)

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "Manifest":
        found = json.loads(text)
        found["fingerprint"] = ModelFingerprint(**found["fingerprint"])
        found["counts"] = Counts(**found["counts"])
        found["inputs"] = tuple(FileInfo(*i) for i in found["inputs"])
        found["splits"] = tuple(_split_entry(*s) for s in found["splits"])
        for key in ("parts", "rejects", "extras"):
            found[key] = tuple(PartEntry(*p) for p in found.get(key, ()))
        found["lineage"] = tuple(found.get("lineage", ()))
        return cls(**found)


def _split_entry(
    id_: str, parts: Iterable[str], rejects: Iterable[str], counts: Any, cosines: Any, bad: Any
) -> SplitEntry:
    least = tuple(cosines) if cosines is not None else None
    return SplitEntry(id_, tuple(parts), tuple(rejects), Counts(**counts), least, tuple(tuple(b) for b in bad))


def manifest_uri(output: str, version: int) -> str:
    return storage.join(output, FOLDER, f"{version:08d}.json")


def versions(output: str) -> list[int]:
    """Published versions of the dataset in `output`, oldest first."""
    files = storage.listing(storage.join(output, FOLDER))
    return sorted(int(m[1]) for name, file in files.items() if file.size and (m := _NAME.fullmatch(name)))


def read_manifest(output: str, version: int) -> Manifest:
    """A published version.

    Raises:
        FileNotFoundError: it is not there, or no longer: an older version's file may stay, empty, so that no run that
            stalled can publish under its number (see `transforms.clean_up`).
        RunFailed: what is there is no manifest.
    """
    uri = manifest_uri(output, version)
    text = storage.read_bytes(uri)
    if not text:
        raise FileNotFoundError(uri)
    try:
        return Manifest.from_json(text)
    except (ValueError, KeyError, TypeError) as error:
        raise RunFailed(
            f"{uri}: is no manifest that this release reads ({type(error).__name__}: {error}); was it damaged, or "
            "written by a newer release?"
        ) from None


def newest_manifest(output: str) -> Manifest | None:
    """The dataset's newest version, or None where nothing was ever published.

    Raises:
        FileNotFoundError: the newest is listed, and cannot be opened.
    """
    found = versions(output)
    while found:
        try:
            return read_manifest(output, found[-1])
        except FileNotFoundError:  # a newer one was published since it was listed, and this one removed
            listed, found = found, versions(output)
            if found == listed:
                raise
    return None
