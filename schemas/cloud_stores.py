"""S3, Google Cloud Storage and Azure Blob Storage: timeouts and retries of their libraries, conditional reads and puts.

Each reads on the condition that the object is still the one that was listed, so that no split mixes two versions and
no object is looked at a second time; and creates on the condition that nothing is there.
"""

import logging
import re
from collections.abc import Iterable
from typing import Any

from fsspec.utils import glob_translate

from schemas.splits import FileInfo
from schemas.store_faults import Changed, status_of
from schemas.stores import Entry, Store

CONNECT_SECONDS, SILENCE_SECONDS = 10, 30
"""A server that says nothing for so long is given up, and asked again."""
LIBRARY_ATTEMPTS = 3
SINGLE_PUT_BYTES = 256 << 20
"""Objects go up in one request where that is possible: whole or not, on one condition, and with no pieces left behind
by a killed process. (s3fs takes several requests from twice this size, gcsfs and adlfs from this size on; the last of
them carries the condition.)"""
BULK_KEYS = 1000
"""Most keys that S3 deletes in one request."""


class S3(Store):
    checks_reads = True

    def connect(self) -> Any:
        import s3fs

        retries = {"mode": "standard", "total_max_attempts": LIBRARY_ATTEMPTS}
        timeouts = {"connect_timeout": CONNECT_SECONDS, "read_timeout": SILENCE_SECONDS}
        fs = s3fs.S3FileSystem(
            config_kwargs={"retries": retries, **timeouts}, skip_instance_cache=True, use_listings_cache=False
        )
        fs.retries = LIBRARY_ATTEMPTS  # its own, around botocore's: they cover the body too
        return fs

    def fetch(self, path: str, file: FileInfo, start: int, stop: int) -> bytes:
        return self.run(self._get, path, file.etag, start, stop, moves=stop - start)

    async def _get(self, path: str, etag: str, start: int, stop: int) -> bytes:
        bucket, key, _ = self.fs.split_path(path)
        condition = {"IfMatch": f'"{etag}"'} if etag else {}
        try:
            answer = await self.fs._call_s3(
                "get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}", **condition, **self.fs.req_kw
            )
        except OSError as error:
            if status_of(error) == 412:
                raise Changed from error
            raise
        async with answer["Body"] as body:
            return await body.read()

    def create(self, path: str, data: bytes) -> None:
        self.call("pipe_file", path, data, mode="create", chunksize=SINGLE_PUT_BYTES, moves=len(data))

    def replace(self, path: str, data: bytes) -> None:
        self.call("pipe_file", path, data, mode="overwrite", chunksize=SINGLE_PUT_BYTES, moves=len(data))

    def remove(self, paths: list[str]) -> None:
        for start in range(0, len(paths), BULK_KEYS):
            some = [self.fs.split_path(path)[:2] for path in paths[start : start + BULK_KEYS]]
            keys = [{"Key": key} for _, key in some]
            answer = self.call("call_s3", "delete_objects", Bucket=some[0][0], Delete={"Objects": keys, "Quiet": True})
            for error in answer.get("Errors", ()):  # fsspec's own bulk removal passes over them
                kind = PermissionError if error.get("Code") == "AccessDenied" else OSError
                raise kind(f"{error.get('Key')}: {error.get('Code')}: {error.get('Message')}")


class Gcs(Store):
    checks_reads = True

    def connect(self) -> Any:
        import aiohttp
        from gcsfs.core import GCSFileSystem  # gcsfs' default adds gRPC calls for zonal buckets, which emulators lack

        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs what it raises, with a traceback
        silence = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        return GCSFileSystem(requests_timeout=silence, skip_instance_cache=True, use_listings_cache=False)

    def fetch(self, path: str, file: FileInfo, start: int, stop: int) -> bytes:
        return self.run(self._get, path, file.etag, start, stop, moves=stop - start)

    async def _get(self, path: str, generation: str, start: int, stop: int) -> bytes:
        condition = {"ifGenerationMatch": generation} if generation else {}
        wanted = {"Range": f"bytes={start}-{stop - 1}"}
        try:
            said, data = await self.fs._call("GET", self.fs.url(path), headers=wanted, **condition)
        except FileExistsError as error:  # what gcsfs calls any condition that does not hold
            raise Changed from error
        if generation and said.get("X-Goog-Generation", generation) != generation:  # emulators overlook the condition
            raise Changed
        return data

    def create(self, path: str, data: bytes) -> None:
        self.call("pipe_file", path, data, mode="create", chunksize=SINGLE_PUT_BYTES, moves=len(data))

    def replace(self, path: str, data: bytes) -> None:
        self.call("pipe_file", path, data, mode="overwrite", chunksize=SINGLE_PUT_BYTES, moves=len(data))


class Azure(Store):
    """`az://container/…`, with the account from the environment, or `abfs://container@account.dfs.core.windows.net/…`.

    The SDK's own retries stay as they are: three, 15 s and more apart.
    """

    checks_reads = True

    def connect(self) -> Any:
        import adlfs

        logging.getLogger("azure").setLevel(logging.CRITICAL)  # it logs what it tries again
        account = {"account_name": self.authority.split(".")[0]} if self.authority else {}
        fs = adlfs.AzureBlobFileSystem(
            connection_timeout=CONNECT_SECONDS,
            read_timeout=SILENCE_SECONDS,
            skip_instance_cache=True,
            use_listings_cache=False,
            **account,
        )
        fs.service_client._config.max_single_put_size = SINGLE_PUT_BYTES  # adlfs hands no such option on
        return fs

    def uri(self, path: str) -> str:
        if not self.authority:
            return super().uri(path)
        container, _, name = path.partition("/")
        return f"{self.scheme}://{container}@{self.authority}/{name}"

    def list_folder(self, path: str) -> list[Entry]:
        return self.run(self._list, path)

    async def _list(self, path: str) -> list[Entry]:
        """adlfs would list all that begins like the folder's name, and loses folders that hold only markers."""
        from azure.storage.blob.aio import BlobPrefix

        container, name, _ = self.fs.split_path(path)
        prefix = f"{name.rstrip('/')}/" if name else ""
        async with self.fs.service_client.get_container_client(container) as place:
            found = [blob async for blob in place.walk_blobs(name_starts_with=prefix, include=["metadata"])]
        folders = [b for b in found if isinstance(b, BlobPrefix)]
        files = await self.fs._details([b for b in found if not isinstance(b, BlobPrefix)])
        return [*files, *({"name": f"{container}/{b.name}", "size": 0, "type": "directory"} for b in folders)]

    def below(self, path: str) -> Iterable[Entry]:
        return self.run(self._below, path)

    async def _below(self, path: str) -> list[Entry]:
        """adlfs takes the slash away from markers of folders, and what is left looks like an empty file."""
        container, name, _ = self.fs.split_path(path)
        prefix = f"{name.rstrip('/')}/" if name else ""
        async with self.fs.service_client.get_container_client(container) as place:
            found = [blob async for blob in place.list_blobs(name_starts_with=prefix, include=["metadata"])]
        return await self.fs._details([blob for blob in found if not blob.name.endswith("/")])

    def matching(self, pattern: str) -> Iterable[Entry]:
        fixed = re.split(r"[*?[]", pattern, maxsplit=1)[0].rpartition("/")[0]
        wanted = re.compile(glob_translate(pattern))
        return [entry for entry in self.below(fixed) if wanted.match(entry["name"])]

    def fetch(self, path: str, file: FileInfo, start: int, stop: int) -> bytes:
        return self.run(self._get, path, file.etag, start, stop, moves=stop - start)

    async def _get(self, path: str, etag: str, start: int, stop: int) -> bytes:
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceModifiedError

        container, name, _ = self.fs.split_path(path)
        condition = {"etag": f'"{etag}"', "match_condition": MatchConditions.IfNotModified} if etag else {}
        async with self.fs.service_client.get_blob_client(container, name) as blob:
            try:
                body = await blob.download_blob(
                    offset=start, length=stop - start, **condition, **self.fs._timeout_kwargs
                )
                return await body.readall()
            except ResourceModifiedError as error:
                raise Changed from error
