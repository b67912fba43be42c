"""The Hugging Face Hub: files of its repositories, `hf://datasets/owner/name@revision/folder/file`.

Its fsspec filesystem keeps what it once listed whatever it is told, and reads 5 MB ahead of each range: so what must be
true is asked of the Hub's API, and ranges are fetched as they are.
"""

import os
from collections.abc import Iterable
from typing import Any

from schemas.errors import InputError
from schemas.splits import FileInfo
from schemas.store_faults import Changed
from schemas.stores import Entry, ReadOnly, check_range

SILENCE_SECONDS = 30


class Hub(ReadOnly):
    def connect(self) -> Any:
        from huggingface_hub import HfFileSystem

        return HfFileSystem(endpoint=_endpoint(), skip_instance_cache=True)

    def entry(self, path: str) -> Entry:
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        place = self._place(path)
        name = place.unresolve()
        if not place.path_in_repo:
            return {"name": name, "size": 0, "type": "directory"}
        where = {"repo_type": place.repo_type, "revision": place.revision}
        for found in HfApi(_endpoint()).get_paths_info(place.repo_id, [place.path_in_repo], **where):
            if isinstance(found, RepoFile):
                return {"name": name, "size": found.size, "type": "file", "blob_id": found.blob_id}
            return {"name": name, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def list_folder(self, path: str) -> list[Entry]:
        self.fs.invalidate_cache()
        return super().list_folder(path)

    def below(self, path: str) -> Iterable[Entry]:
        self.fs.invalidate_cache()
        return super().below(path)

    def matching(self, pattern: str) -> Iterable[Entry]:
        self.fs.invalidate_cache()
        return super().matching(pattern)

    def fetch(self, path: str, file: FileInfo, start: int, stop: int) -> bytes:
        answer = self._get(path, {"Range": f"bytes={start}-{stop - 1}"})
        said = answer.headers.get("Content-Range", "")
        total = said.rpartition("/")[2]
        if total.isdigit() and int(total) != file.size:
            raise Changed
        check_range(said, start, stop)
        return answer.content

    def read(self, path: str) -> bytes:
        return self._get(path, {}).content

    def _get(self, path: str, headers: dict[str, str]) -> Any:
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        place = self._place(path)
        where = {"repo_type": place.repo_type, "revision": place.revision, "endpoint": _endpoint()}
        url = hf_hub_url(place.repo_id, place.path_in_repo, **where)
        answer = get_session().get(
            url, headers=build_hf_headers() | headers, timeout=SILENCE_SECONDS, follow_redirects=True
        )
        hf_raise_for_status(answer)
        return answer

    def _place(self, path: str) -> Any:
        """Repository, revision and path in it. Raises FileNotFoundError where there is no such repository."""
        if path.startswith("buckets/"):
            raise InputError(f"{self.uri(path)}: buckets of the Hub are not read, only its repositories")
        return self.fs.resolve_path(path)


def _endpoint() -> str | None:
    """Of the Hub, or of a mirror; huggingface_hub itself looks only when it is imported."""
    return os.environ.get("HF_ENDPOINT")
