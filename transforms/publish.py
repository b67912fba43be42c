"""Parts, rejects and reads -> the manifest that publishes them: the pipeline's last step.

A dataset version is published by creating `_manifest/<version>.json`, which one run alone can do. Removing what no kept
version lists is the one step that could harm a run beside this one, which may have adopted such a part. So the two
sides look at each other: a publisher announces itself (`<version>.intent`) before it looks at what is being removed; a
remover says what it removes (`<version>.removing`) before it looks for announcements. Whoever comes second sees the
first: a publisher that needs a file on the list gives up, a remover that sees an announcement leaves it to that run.
"""

import dataclasses
import datetime
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam

from schemas import storage
from schemas.blocks import SplitRead
from schemas.embeddings import Part, PartStats, embeddings_schema, is_part_name
from schemas.errors import RunFailed
from schemas.manifest import (
    FOLDER,
    Counts,
    Manifest,
    PartEntry,
    SplitEntry,
    manifest_uri,
    read_manifest,
    versions,
)
from schemas.matches import UNMATCHED_FOLDER
from schemas.pairs import DUPLICATES_FOLDER, GROUPS_FOLDER
from schemas.rejects import BLANK_REASONS
from transforms.duplicates import check_ids
from transforms.gather import keyed_by
from transforms.plan import Plan, check_fidelity
from transforms.trace import TRACE
from transforms.write import REJECTS_FOLDER, EncodedBlock, RejectPart, write_part


@dataclasses.dataclass
class PublishDataset(beam.PTransform):
    """(plan, reads, parts, rejects): PCollections -> PCollection[int], the version that is the dataset now."""

    def expand(self, inputs: dict[str, beam.PCollection]) -> beam.PCollection:
        records = [pcoll | f"Key{name.capitalize()}" >> beam.Map(keyed_by, name) for name, pcoll in inputs.items()]
        return records | beam.Flatten() | "Gather" >> beam.GroupByKey() | "Publish" >> beam.Map(_publish_records)


def _publish_records(keyed: tuple[None, Iterable[tuple[str, Any]]]) -> int:
    found: dict[str, list[Any]] = defaultdict(list)
    for kind, record in keyed[1]:
        found[kind].append(record)
    (plan,) = found["plan"]
    with TRACE.span("publish"):
        return publish(plan, found["reads"], found["parts"], found["rejects"]).version


def publish(plan: Plan, reads: Sequence[SplitRead], parts: Sequence[Part], rejects: Sequence[RejectPart]) -> Manifest:
    """Checks that every row is accounted for and publishes; where nothing changed, the base version stays.

    Raises:
        RunFailed: rows are missing, too many are broken, ids are double, or another run published meanwhile.
    """
    base = read_manifest(plan.output, plan.base_version) if plan.base_version else None
    manifest = _draft(plan, base, reads, parts, rejects)
    _check_error_rate(plan, manifest.counts, rejects)
    check_fidelity(plan, manifest.fidelity)
    if base and manifest.same_data(base):
        manifest = base
    else:
        if not plan.unique_ids and plan.duplicate_ids == "error":
            check_ids(plan.output, manifest.parts)
        put_version(plan.output, manifest)
    storage.replace(storage.join(plan.output, "_SUCCESS"), b"")
    clean_up(plan.output, plan.keep_versions, plan.started)
    return manifest


def _draft(
    plan: Plan,
    base: Manifest | None,
    reads: Sequence[SplitRead],
    parts: Sequence[Part],
    rejects: Sequence[RejectPart],
) -> Manifest:
    """The manifest that these records make. The same split read twice, by an engine that retried, counts once."""
    files = {entry.name: entry for entry in (*(base.parts if base else ()), *(base.rejects if base else ()))}
    files |= {p.name: PartEntry(p.name, p.stats.rows_out, p.size, p.checksum) for p in parts}
    files |= {r.entry.name: r.entry for r in rejects}
    carried = plan.carried(base)
    new = _new_splits(reads, parts, rejects)
    missing = [i for i in plan.order if i not in carried and i not in new]
    if missing:
        raise RunFailed(f"{len(missing)} of {len(plan.order)} splits were never read; nothing is published, run again")
    splits = tuple(new.get(i) or carried[i] for i in plan.order)
    names = [name for split in splits for name in split.parts] or [_empty_part(plan, files)]
    counts = sum((split.counts for split in splits), Counts())
    counts.check(plan.output)
    adopted = [p for p in parts if p.adopted]
    old = [carried[i] for i in plan.order if i not in new]
    return Manifest(
        version=plan.base_version + 1,
        parent=plan.base_version,
        run=plan.run,
        kind="embeddings",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        fingerprint=plan.fingerprint,
        options=plan.options,
        parts=tuple(files[name] for name in names),
        rejects=tuple(files[name] for name in sorted({name for split in splits for name in split.rejects})),
        splits=splits,
        inputs=plan.inputs,
        counts=counts,
        fidelity=_fidelity(splits),
        timings={
            "wall_seconds": round(time.time() - plan.started, 3),
            "encode_seconds": sum(p.encode_msec for p in parts) / 1000,  # over all workers
            "encoded_tokens": sum(p.stats.tokens for p in parts if not p.adopted),
        },
        reused={
            "splits": len(old),
            "parts": sum(len(s.parts) for s in old) + len({p.name for p in adopted}),
            "rows": sum(s.counts.rows_out for s in old) + sum(p.stats.rows_out for p in adopted),
        },
    )


def _new_splits(
    reads: Sequence[SplitRead], parts: Sequence[Part], rejects: Sequence[RejectPart]
) -> dict[str, SplitEntry]:
    parts_of: dict[str, dict[int, Part]] = defaultdict(dict)
    for part in parts:
        parts_of[part.split_id][part.number] = part
    rejects_of: dict[str, dict[str, RejectPart]] = defaultdict(dict)
    for reject in rejects:
        rejects_of[reject.split_id][reject.entry.name] = reject
    return {r.split_id: _split_entry(r, parts_of[r.split_id], rejects_of[r.split_id]) for r in reads}


def _split_entry(read: SplitRead, parts: dict[int, Part], rejects: dict[str, RejectPart]) -> SplitEntry:
    if sorted(parts) != list(range(read.blocks)):
        raise RunFailed(
            f"split {read.split_id}: {read.blocks} blocks were read but {len(parts)} parts came; nothing is published, "
            "run again"
        )
    stats = [parts[n].stats for n in range(read.blocks)]
    rejected: dict[str, int] = defaultdict(int)
    for reason, number in itertools.chain.from_iterable(r.reasons for r in rejects.values()):
        rejected[reason] += number
    counts = Counts(
        rows_in=read.rows_in,
        rows_out=sum(s.rows_out for s in stats),
        rejected=dict(sorted(rejected.items())),
        blank_lines=read.blank_lines,
        truncated=sum(s.truncated for s in stats),
        tokens=sum(s.tokens for s in stats),
        chunks=sum(s.chunks for s in stats),
    )
    counts.check(f"split {read.split_id}")
    cosines = [c for s in stats for c in s.cosines]
    return SplitEntry(
        read.split_id,
        tuple(parts[n].name for n in range(read.blocks)),
        tuple(sorted(rejects)),
        counts,
        (min(cosines), sum(cosines), len(cosines)) if cosines else None,
        read.bad_files,
    )


def _fidelity(splits: Sequence[SplitEntry]) -> dict[str, float] | None:
    found = [split.cosines for split in splits if split.cosines]
    if not found:
        return None
    rows = sum(number for *_, number in found)
    return {
        "rows": rows,
        "min_cosine": min(least for least, *_ in found),
        "mean_cosine": sum(total for _, total, _ in found) / rows,
    }


def _empty_part(plan: Plan, files: dict[str, PartEntry]) -> str:
    """An empty dataset is one part without rows, so that every tool finds the schema."""
    table = embeddings_schema(plan.fingerprint, plan.kept).empty_table()
    stats = PartStats(rows_in=0, rows_out=0, tokens=0, truncated=0)
    name = f"part-{plan.fingerprint.digest}.parquet"
    part = write_part(plan.output, EncodedBlock("", 0, name, table, stats, 0), plan.fingerprint)
    files[name] = PartEntry(name, 0, part.size, part.checksum)
    return name


def _check_error_rate(plan: Plan, counts: Counts, rejects: Sequence[RejectPart]) -> None:
    if counts.broken_rows <= plan.max_error_rate * counts.rows_in:
        return
    examples = {reason: example for reject in rejects for reason, example in reject.examples}
    broken = [(reason, n) for reason, n in counts.rejected.items() if reason not in BLANK_REASONS]
    frequent = sorted(broken, key=lambda pair: -pair[1])[:3]
    reasons = "; ".join(f"{n} x {reason} (as {examples.get(reason, 'in an earlier run')})" for reason, n in frequent)
    raise RunFailed(
        f"{counts.broken_rows} of {counts.rows_in} rows are broken, more than --max_error_rate {plan.max_error_rate}: "
        f"{reasons}. Nothing is published; all of them are in {storage.join(plan.output, REJECTS_FOLDER)}"
    )


def put_version(output: str, manifest: Manifest) -> None:
    """Publishes, if this run may: alone on this version, with every part in place."""
    version = manifest.version
    intent = _sign(output, version, f"{manifest.run}.intent")
    storage.replace(intent, b"")
    try:
        _check_files(output, manifest)
        if not storage.create(manifest_uri(output, version), manifest.to_json()):
            winner = read_manifest(output, version)
            if winner.run != manifest.run:  # else: a put of ours whose answer was lost
                raise RunFailed(
                    f"{output}: another run published version {version} while this one worked; nothing of it is "
                    "damaged. Run again to go on from there"
                )
    finally:
        storage.remove([intent])


def _check_files(output: str, manifest: Manifest) -> None:
    """Raises RunFailed unless every file that the manifest lists is there and stays. What is being removed has to be
    asked for before what is there: a remover takes its list away last."""
    doomed = {name for sign in _signs(output, ".removing") for name in _listed_in(sign)}
    damaged = damaged_files(output, manifest) | {entry.name for entry in manifest.files if entry.name in doomed}
    if damaged:
        raise RunFailed(
            f"{storage.join(output, min(damaged))}: is gone or other than written, as a run beside this one cleaned "
            "up; nothing is published, run again"
        )


def damaged_files(output: str, manifest: Manifest) -> set[str]:
    """Names of files that the manifest lists and that are gone, or of another size than written."""
    there = storage.listing(output)
    for folder in sorted({entry.name.split("/")[0] for entry in manifest.files if "/" in entry.name}):
        there |= {f"{folder}/{name}": info for name, info in storage.listing(storage.join(output, folder)).items()}
    sizes = {name: info.size for name, info in there.items()}
    return {entry.name for entry in manifest.files if sizes.get(entry.name) != entry.size}


def _sign(output: str, version: int, kind: str) -> str:
    return storage.join(output, FOLDER, f"{version:08d}.{kind}")


def _signs(output: str, ending: str) -> list[str]:
    folder = storage.join(output, FOLDER)
    return [storage.join(folder, name) for name in sorted(storage.listing(folder)) if name.endswith(ending)]


def _listed_in(sign: str) -> list[str]:
    try:
        return json.loads(storage.read_bytes(sign))
    except FileNotFoundError:  # its run has finished meanwhile
        return []


def clean_up(output: str, keep_versions: int, started: float) -> None:
    """Removes versions older than the newest `keep_versions`, and the files that no kept version lists.

    Files younger than this run are left: a run beside it may be writing them.
    """
    known = versions(output)
    storage.remove(manifest_uri(output, v) for v in known[:-keep_versions])
    kept = [read_manifest(output, v) for v in known[-keep_versions:]]
    listed = {entry.name for m in kept for entry in m.files}
    for folder in ("", REJECTS_FOLDER, GROUPS_FOLDER, DUPLICATES_FOLDER, UNMATCHED_FOLDER):
        place = storage.join(output, folder) if folder else output
        old = [f"{folder}/{n}" if folder else n for n in storage.names_before(place, started) if is_part_name(n)]
        _remove_unlisted(output, known[-1], [name for name in old if name not in listed])
        storage.remove_stale_temporaries(place)
    storage.remove_stale_temporaries(storage.join(output, FOLDER))
    storage.remove(s for s in _signs(output, ".intent") if s <= _sign(output, known[-1], "~"))


def _remove_unlisted(output: str, version: int, unlisted: list[str]) -> None:
    if unlisted:
        removing = _sign(output, version, "removing")
        storage.replace(removing, json.dumps(unlisted).encode())
        _remove_signed(output, version, removing)


def _remove_signed(output: str, version: int, removing: str) -> None:
    announced = [s for s in _signs(output, ".intent") if s > _sign(output, version, "~")]
    if not announced and versions(output)[-1] == version:
        storage.remove(storage.join(output, name) for name in _listed_in(removing))
    storage.remove([removing])


def finish_removals(output: str) -> None:
    """Ends what a run that was killed in its clean-up had begun, before this run relies on any of it."""
    known = versions(output)
    for removing in _signs(output, ".removing"):
        if known and removing == _sign(output, known[-1], "removing"):
            _remove_signed(output, known[-1], removing)
        else:  # of a version that was followed by another: that one's clean-up has done or will do it
            storage.remove([removing])
