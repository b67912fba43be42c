"""What follows a publish: removes older versions, and the files that no kept version lists.

Four kinds of small files in `_manifest` keep that harmless, whatever runs beside it, stalls or is killed:

- a run's lease says that it is alive, and which version it builds on (`transforms.leases`);
- a publisher's intent says that it is about to publish a version (`put_intent`);
- a clean-up's record says what it may delete (`schemas.removals`);
- a version's number is taken for ever: its file goes, or stays empty where somebody may still want to create it.

Each side first puts its own file and then looks for the others', so of two that meet at least one sees the other:

1. A publisher puts its intent, then looks for a newer version, for records, and whether its files are there, and then
   creates its version. A clean-up puts its record, then looks for leases, intents and a newer version, in this order,
   since a publisher takes its intent and its lease away after its version is there. If it finds a new one of these it
   deletes nothing. So what is deleted is never listed, neither by the newest version nor by one that is about to be it:
   a publisher that the clean-up did not see looks later, finds the record or misses the file, and gives up.
2. Deletes may be late by any time. Their names are in the record, and nobody uses a name of a record
   (`schemas.removals`).
3. An intent of version n means nothing once n is published, since creating it will fail: so a publisher that was killed
   holds nothing up for long, and none has to be taken for dead.
4. Files of a run that may be alive are left: of those that no version ever listed all, as nothing tells whose they are.
   Files of versions that are gone are left where a run builds on the newest version, and may have found them; one that
   builds on an older version cannot publish.
"""

import json
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from schemas import storage
from schemas.embeddings import is_part_name
from schemas.errors import RunFailed
from schemas.manifest import FOLDER, Manifest, manifest_uri, read_manifest, versions
from schemas.matches import UNMATCHED_FOLDER
from schemas.pairs import DUPLICATES_FOLDER, GROUPS_FOLDER
from schemas.processes import is_over, process_of, this_process
from schemas.removals import Removal, announce, close, removals
from transforms import leases
from transforms.leases import Others
from transforms.write import REJECTS_FOLDER

FOLDERS = ("", REJECTS_FOLDER, GROUPS_FOLDER, DUPLICATES_FOLDER, UNMATCHED_FOLDER)
INTENT = ".intent"
REMOVED_AT_ONCE, REMOVERS = 1000, 8
"""Files of a request where a store takes several, and requests at a time. Each is tried again by itself."""


def clean_up(output: str, keep_versions: int, run: str) -> bool:
    """Removes versions older than the newest `keep_versions`, and the files that no kept version lists.

    Leaves what a run beside this one may need, to the clean-up that follows that one's end. Does no harm twice, nor
    after it was killed. Returns whether no other run may be alive.
    """
    known = versions(output)
    older, version = known[:-keep_versions], known[-1]
    kept = known[-keep_versions:]
    listed = _listed(_read(output, kept, kept))
    unlisted = {name: moment for name, moment in _files(output).items() if name not in listed}
    records = removals(output)
    gone = _listed(_read(output, older)).union(*(record.names for record in records))
    others = leases.others(output, run, max((m for name, m in unlisted.items() if name not in gone), default=0.0))
    if any(lease.base_version >= version for lease in others.alive):
        return False
    doomed = {name for name in unlisted if name in gone or not others.alive}
    record = announce(output, version, doomed)
    if not _is_disturbed(output, run, version, others):
        _retire(output, older)
        _remove(output, doomed)
    close(record)
    _tidy(output, others, records)
    return not others.alive


def _read(output: str, wanted: Iterable[int], kept: Collection[int] = ()) -> list[Manifest]:
    found = []
    for version in wanted:
        try:
            found.append(read_manifest(output, version))
        except FileNotFoundError:  # a newer version was published meanwhile: `_is_disturbed` finds it
            continue
        except RunFailed:  # damaged; of a version that is kept nothing can be told apart
            if version in kept:
                raise
    return found


def _listed(manifests: Iterable[Manifest]) -> set[str]:
    return {entry.name for manifest in manifests for entry in manifest.files}


def _files(output: str) -> dict[str, float]:
    """All files of ours that a version could list, with the moment they came."""
    found: dict[str, float] = {}
    for folder in FOLDERS:
        place = storage.join(output, folder) if folder else output
        moments = storage.moments(place).items()
        found |= {f"{folder}/{name}" if folder else name: moment for name, moment in moments if is_part_name(name)}
    return found


def _is_disturbed(output: str, run: str, version: int, before: Others) -> bool:
    """Whether somebody came who may need what was announced. The newest version has to be asked for last."""
    if leases.others(output, run, 0.0).runs - before.runs:
        return True
    if any(of > version for of in _intended(output)):
        return True
    return versions(output)[-1] != version


def put_intent(output: str, version: int, token: str) -> str:
    """Says that this process is about to publish a version. Returns what to remove when it has, or has not.

    token: of this attempt; another attempt's intent must never be removed with it
    """
    uri = storage.join(output, FOLDER, f"{version:08d}-{token}{INTENT}")
    storage.replace(uri, json.dumps({"by": this_process()}).encode())
    return uri


def _intents(output: str) -> list[str]:
    names = storage.names(storage.join(output, FOLDER))
    return [storage.join(output, FOLDER, name) for name in names if name.endswith(INTENT) and name[:8].isdecimal()]


def _intended(output: str) -> set[int]:
    """Versions that somebody may be about to create."""
    return {int(uri.rpartition("/")[2][:8]) for uri in _intents(output) if not _is_over(uri)}


def _is_over(intent: str) -> bool:
    try:
        text = storage.read_bytes(intent)
        said: Any = json.loads(text) if text else {}
    except FileNotFoundError:
        return True
    except ValueError:
        return False
    return isinstance(said, dict) and is_over(process_of(said.get("by")))


def _retire(output: str, older: list[int]) -> None:
    """Removes old versions' manifests. Where somebody may be about to create one of that number, having stalled since
    it was the next, an empty file stays in its place and lets that fail."""
    wanted = _intended(output) if older else set()
    for version in wanted.intersection(older):
        storage.replace(manifest_uri(output, version), b"")
    storage.remove(manifest_uri(output, version) for version in older if version not in wanted)


def _remove(output: str, names: Iterable[str]) -> None:
    uris = [storage.join(output, name) for name in sorted(names)]
    some = [uris[start : start + REMOVED_AT_ONCE] for start in range(0, len(uris), REMOVED_AT_ONCE)]
    with ThreadPoolExecutor(REMOVERS) as pool:
        list(pool.map(storage.remove, some))


def _tidy(output: str, others: Others, records: Iterable[Removal]) -> None:
    """Removes what ended runs left of their small files, and empty versions that nobody can want to create any more."""
    for record in records:
        if record.is_over:
            close(record)
    leases.remove(output, others.ended)
    storage.remove(uri for uri in _intents(output) if _is_over(uri))
    files, wanted = storage.listing(storage.join(output, FOLDER)), _intended(output)
    empty = {name for name, file in files.items() if name.endswith(".json") and not file.size}
    storage.remove(storage.join(output, FOLDER, name) for name in empty if int(name[:8]) not in wanted)
    for folder in (*FOLDERS, FOLDER):
        storage.remove_stale_temporaries(storage.join(output, folder) if folder else output)
