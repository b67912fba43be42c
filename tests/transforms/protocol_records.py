"""What the model of the protocol is about: a store, processes, and the rules that they go by."""

import dataclasses
from typing import Any, NamedTuple

TODAYS, NEW = "today's", "new"


class Version(NamedTuple):
    run: str
    parts: frozenset[tuple[str, str]]  # (name, content); content is who wrote the file
    lineage: tuple[str, ...]


class Store(NamedTuple):
    files: frozenset[tuple[str, str]]  # (name, content)
    versions: frozenset[tuple[int, Version | None]]  # None: an empty file in the place of a version
    records: frozenset[tuple[str, int, frozenset[str]]]  # (process, version, names)
    intents: frozenset[tuple[str, int]]  # (process, or run under today's rules; version)
    leases: frozenset[tuple[str, int]]  # (run, base version)
    ever: frozenset[str] = frozenset()  # names that some version listed, for the promises alone

    def version(self, number: int) -> Version | None:
        return dict(self.versions).get(number)

    @property
    def newest(self) -> int:
        return max((n for n, v in self.versions if v), default=0)

    def content(self, name: str) -> str | None:
        return dict(self.files).get(name)


@dataclasses.dataclass(frozen=True)
class Process:
    """One attempt of a run. `step` is the next; "" when it has ended, one way or the other."""

    name: str
    run: str
    wants: tuple[str, ...]  # digests that its input comes to
    step: str = "plan"
    ended: str = ""  # published, failed, killed
    base: int = 0
    parts: tuple[tuple[str, str], ...] = ()
    removed: frozenset[str] = frozenset()
    published: bool = False  # it created the version
    known: tuple[int, ...] = ()
    seen: frozenset[Any] = frozenset()  # files, then what of them is to go
    gone: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()
    wanted: frozenset[int] = frozenset()

    def to(self, step: str, **changes: Any) -> "Process":
        return dataclasses.replace(self, step=step, **changes)

    def end(self, how: str) -> "Process":
        return dataclasses.replace(
            self, step="", ended=how, known=(), seen=frozenset(), gone=frozenset(), others=frozenset(),
            wanted=frozenset(), removed=frozenset(),
        )  # fmt: skip


BEFORE = ("plan", "finish", "lease", "check base", "read records", "write")
"""Steps before a run publishes."""


class World(NamedTuple):
    store: Store
    processes: tuple[Process, ...]
    kills: int  # that may still happen
    retries: int
    others: tuple[tuple[str, ...], ...] = ()  # what further runs want, each of which may do all of its steps at once
    broken: str = ""  # the promise that the last step broke


@dataclasses.dataclass(frozen=True)
class Rules:
    name: str
    leases_run_out: bool = False
    """Whether a run that is alive may be taken for dead: one that stalled for longer than its lease."""
    death_is_certain: bool = True
    """Whether it can be found out that a killed process is over. If not, its files in the store stay for ever."""
