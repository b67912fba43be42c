"""Parts, rejects and reads -> the manifest that publishes them: the pipeline's last step.

A dataset version is published by creating `_manifest/<version>.json`, which one run alone can do. From then on the run
has published: whatever fails after it is a warning, and the step, tried again, finds it done. What keeps runs beside
this one from harm is told in `transforms.clean_up`.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import itertools
import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import apache_beam as beam

from schemas import storage
from schemas.blocks import SplitRead
from schemas.embeddings import Part, PartStats, embeddings_schema
from schemas.errors import RunFailed
from schemas.manifest import Counts, Manifest, PartEntry, SplitEntry, manifest_uri, newest_manifest
from schemas.pairs import WORK_FOLDER
from schemas.rejects import BLANK_REASONS
from schemas.removals import removals
from schemas.splits import FileInfo
from transforms import leases
from transforms.clean_up import clean_up, put_intent
from transforms.duplicates import check_ids
from transforms.gather import keyed_by
from transforms.plan import Plan, check_fidelity
from transforms.trace import TRACE
from transforms.write import REJECTS_FOLDER, EncodedBlock, RejectPart, write_part

_LOGGER = logging.getLogger(__name__)


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
    newest = newest_manifest(plan.output)
    if newest and newest.includes(plan.run):  # this step, tried again
        manifest = newest
    else:
        check_base(plan.output, plan.base_version, newest)
        manifest = _publish(plan, newest, reads, parts, rejects)
    wind_up(plan.output, plan.run, plan.keep_versions)
    return manifest


def check_base(output: str, base_version: int, newest: Manifest | None) -> None:
    """Raises RunFailed if another run published since this one was planned."""
    version = newest.version if newest else 0
    if version != base_version:
        raise RunFailed(
            f"{output}: another run published version {version} while this one worked; nothing of it is damaged. Run "
            "again to go on from there"
        )


def _publish(
    plan: Plan, base: Manifest | None, reads: Sequence[SplitRead], parts: Sequence[Part], rejects: Sequence[RejectPart]
) -> Manifest:
    manifest = _draft(plan, base, reads, parts, rejects)
    _check_error_rate(plan, manifest.counts, rejects)
    check_fidelity(plan, manifest.fidelity)
    if base and manifest.same_data(base):
        return base
    if not plan.unique_ids and plan.duplicate_ids == "error":
        check_ids(plan.output, manifest.parts)
    put_version(plan.output, manifest, {p.name: p.etag for p in parts})
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
    carried = {split.id: split for split in base.splits} if base and not plan.fresh else {}
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
        lineage=lineage_of(base),
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
    part = write_part(plan.output, plan.run, EncodedBlock("", 0, name, table, stats, 0), plan.fingerprint)
    files[part.name] = PartEntry(part.name, 0, part.size, part.checksum)
    return part.name


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


def lineage_of(base: Manifest | None) -> tuple[str, ...]:
    """Runs that published what a version on top of `base` builds on."""
    return (*base.lineage, base.run) if base else ()


def put_version(output: str, manifest: Manifest, etags: Mapping[str, str] = MappingProxyType({})) -> None:
    """Publishes, if this run may: alone on this version, with every file in place.

    etags: of files that this run wrote or found, as their store told them then

    Raises:
        RunFailed: another run published this version, or files are gone; nothing is published.
    """
    intent = put_intent(output, manifest.version, f"{manifest.run}-{secrets.token_hex(4)}")
    try:
        _put(output, manifest, etags)
    except RunFailed:
        newest = newest_manifest(output)
        if not (newest and newest.includes(manifest.run)):
            raise
        # Else another attempt of this step was faster, or a put of ours did arrive and its answer did not.
    finally:
        with contextlib.suppress(Exception):  # it means nothing once the version is published
            storage.remove([intent])


def _put(output: str, manifest: Manifest, etags: Mapping[str, str]) -> None:
    check_base(output, manifest.parent, newest_manifest(output))
    _check_files(output, manifest, etags)
    uri = manifest_uri(output, manifest.version)
    if not storage.create(uri, manifest.to_json()):
        check_base(output, manifest.parent, newest_manifest(output))
        raise RunFailed(f"{uri}: is there, and is no version; if no job is running, remove it and run again")


def _check_files(output: str, manifest: Manifest, etags: Mapping[str, str]) -> None:
    """Raises RunFailed unless every file that the manifest lists is there and stays. What may be being removed has to
    be asked for before what is there: a clean-up takes its record away last."""
    doomed = {name for record in removals(output) if not record.is_over for name in record.names}
    damaged = damaged_files(output, manifest, etags) | {entry.name for entry in manifest.files if entry.name in doomed}
    if damaged:
        raise RunFailed(
            f"{storage.join(output, min(damaged))}: is gone or other than written, as a run beside this one cleaned "
            "up; nothing is published, run again"
        )


def damaged_files(output: str, manifest: Manifest, etags: Mapping[str, str] = MappingProxyType({})) -> set[str]:
    """Names of files that the manifest lists and that are gone, or not as they were written: of another size, or with
    another tag than the manifest says or `etags`."""
    there = storage.listing(output)
    for folder in sorted({entry.name.split("/")[0] for entry in manifest.files if "/" in entry.name}):
        there |= {f"{folder}/{name}": info for name, info in storage.listing(storage.join(output, folder)).items()}
    local = storage.is_local(output)
    return {e.name for e in manifest.files if not _is_as_written(e, there.get(e.name), etags.get(e.name, ""), local)}


def _is_as_written(entry: PartEntry, file: FileInfo | None, etag: str, local: bool) -> bool:
    """Whether a file is the one that a manifest lists, by what a listing tells. On a disk, one with another tag than
    `etag` is read: a backup may have touched it."""
    if file is None or file.size != entry.size:
        return False
    kind, _, digest = entry.checksum.partition(":")
    if kind == "etag" and not local:
        return digest == file.etag
    if local and kind == "sha256" and etag and etag != file.etag:
        return hashlib.sha256(storage.read_bytes(file.uri)).hexdigest() == digest
    return True


def wind_up(
    output: str, run: str, keep_versions: int, work: str = "", last: Callable[[], object] = lambda: None
) -> None:
    """What follows a publish: marks it, removes what is no longer needed, and releases the run's lease. Does no harm
    twice. A fault in it is a warning, since the run has published; the next run's does what is left.

    work: of a job with work in progress, the run's own folder of it
    last: what else is to be cleaned up where no other run is under way
    """
    try:
        storage.replace(storage.join(output, "_SUCCESS"), b"")
        alone = clean_up(output, keep_versions, run)
        if work:
            storage.remove_folder(storage.join(output, WORK_FOLDER) if alone else work)
        if alone:
            last()
    except Exception as error:  # whatever it is, exit status 1 would say that nothing was published
        _LOGGER.warning(
            "%s: published, but the clean-up after it failed: %s; the next run's does it",
            *map(storage.blanked, (output, str(error) or type(error).__name__)),
        )
    leases.release(output, run)
