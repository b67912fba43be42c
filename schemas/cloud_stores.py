"""S3, Google Cloud Storage and Azure Blob Storage: timeouts and retries of their libraries, conditional reads and puts.

Each reads on the condition that the object is still the one that was listed, so that no split mixes two versions and
no object is looked at a second time; and creates on the condition that nothing is there.
"""

import logging
import os
import random
from typing import Any

from schemas.object_store import Answer, ObjectStore, Page, answer_of, range_header
from schemas.store_faults import Changed, Passing, status_of
from schemas.stores import Entry

CONNECT_SECONDS, SILENCE_SECONDS = 10, 30
"""A server that says nothing for so long is given up, and asked again."""
LIBRARY_ATTEMPTS = 3
AZURE_ATTEMPTS, AZURE_PAUSE_SECONDS = 5, 0.5
"""Azure's library waits so long before it asks again, then three times as long, and on; by itself 15 s and more."""
SINGLE_PUT_BYTES = 256 << 20
"""Objects go up in one request where that is possible: whole or not, on one condition, and with no pieces left behind
by a killed process. (s3fs takes several requests from twice this size, gcsfs and adlfs from this size on; the last of
them carries the condition.)"""
BULK_KEYS = 1000
"""Most keys that S3 deletes in one request."""
_PASSING = ("InternalError", "SlowDown", "ServiceUnavailable", "OperationAborted", "RequestTimeout", "Throttling")
"""What S3 says of a key that it may well delete when it is asked again."""


class S3(ObjectStore):
    removed_at_once = BULK_KEYS

    def connect(self) -> Any:
        import s3fs

        retries = {"mode": "standard", "total_max_attempts": LIBRARY_ATTEMPTS}
        timeouts = {"connect_timeout": CONNECT_SECONDS, "read_timeout": SILENCE_SECONDS}
        fs = s3fs.S3FileSystem(
            config_kwargs={"retries": retries, **timeouts},
            requester_pays=os.environ.get("AWS_REQUEST_PAYER") == "requester",
            skip_instance_cache=True,
            use_listings_cache=False,
        )
        fs.retries = LIBRARY_ATTEMPTS  # its own, around botocore's: they cover the body too
        fs.split_path = lambda path: (*self.split(path), None)
        return fs

    async def get(self, bucket: str, key: str, etag: str, start: int, stop: int) -> Answer:
        condition = ({"IfMatch": f'"{etag}"'} if etag else {}) | range_header(start, stop)
        try:
            answer = await self.fs._call_s3("get_object", Bucket=bucket, Key=key, **condition)
        except OSError as error:
            if status_of(error) == 412:
                raise Changed from error
            raise
        async with answer["Body"] as body:
            said = {"ETag": answer.get("ETag"), "Content-Range": answer.get("ContentRange")}
            return answer_of(await body.read(), said)

    async def head(self, bucket: str, key: str) -> Entry:
        said = await self.fs._call_s3("head_object", Bucket=bucket, Key=key)
        tags = {name: said.get(name) for name in ("ETag", "LastModified")}
        return {"name": f"{bucket}/{key}", "size": said["ContentLength"], "type": "file", **tags}

    async def page(self, bucket: str, prefix: str, delimiter: str, after: Any, most: int) -> Page:
        going_on = {"ContinuationToken": after} if after else {}
        said = await self.fs._call_s3(
            "list_objects_v2", Bucket=bucket, Prefix=prefix, Delimiter=delimiter, MaxKeys=most, **going_on
        )
        objects = [
            {"name": f"{bucket}/{found['Key']}", "size": found["Size"], "type": "file", **found}
            for found in said.get("Contents", ())
        ]
        folders = [found["Prefix"] for found in said.get("CommonPrefixes", ())]
        return Page(objects, folders, said["NextContinuationToken"] if said.get("IsTruncated") else None)

    def create(self, path: str, data: bytes) -> None:
        self.call("pipe_file", path, data, mode="create", chunksize=SINGLE_PUT_BYTES, moves=len(data))

    def replace(self, path: str, data: bytes) -> None:
        self.call("pipe_file", path, data, mode="overwrite", chunksize=SINGLE_PUT_BYTES, moves=len(data))

    def remove_some(self, paths: list[str]) -> None:
        bucket = self.split(paths[0])[0]
        keys = {"Objects": [{"Key": self.split(path)[1]} for path in paths], "Quiet": True}
        answer = self.call("call_s3", "delete_objects", Bucket=bucket, Delete=keys)
        errors = [e for e in answer.get("Errors", ()) if e.get("Code") != "NoSuchKey"]
        for error in sorted(errors, key=lambda e: e.get("Code") in _PASSING):  # one that stays is told first
            code = error.get("Code")
            kind = PermissionError if code == "AccessDenied" else Passing if code in _PASSING else OSError
            raise kind(f"{error.get('Key')}: {code}: {error.get('Message')}")


class Gcs(ObjectStore):
    def connect(self) -> Any:
        import aiohttp
        from gcsfs.core import GCSFileSystem  # gcsfs' default adds gRPC calls for zonal buckets, which emulators lack

        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs what it raises, with a traceback
        silence = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        return GCSFileSystem(
            requests_timeout=silence,
            requester_pays=os.environ.get("GS_USER_PROJECT") or False,
            session_kwargs={"auto_decompress": False, "headers": {"Accept-Encoding": "identity"}},
            skip_instance_cache=True,
            use_listings_cache=False,
        )

    async def get(self, bucket: str, key: str, etag: str, start: int, stop: int) -> Answer:
        condition = {"ifGenerationMatch": etag} if etag else {}
        # Who does not take gzip gets an object that is stored so decompressed, and whole whatever the range.
        headers = {"Accept-Encoding": "gzip"} | range_header(start, stop)
        try:
            said, data = await self.fs._call("GET", self.fs.url(f"{bucket}/{key}"), headers=headers, **condition)
        except FileExistsError as error:  # what gcsfs calls any condition that does not hold
            raise Changed from error
        return answer_of(data, said, "X-Goog-Generation")

    async def head(self, bucket: str, key: str) -> Entry:
        return self.fs._process_object(bucket, await self.fs._call("GET", "b/{}/o/{}", bucket, key, json_out=True))

    async def page(self, bucket: str, prefix: str, delimiter: str, after: Any, most: int) -> Page:
        options = {"prefix": prefix or None, "delimiter": delimiter or None, "pageToken": after, "maxResults": most}
        said = await self.fs._call("GET", "b/{}/o", bucket, json_out=True, **options)
        objects = [self.fs._process_object(bucket, found) for found in said.get("items", ())]
        return Page(objects, said.get("prefixes", []), said.get("nextPageToken"))

    def create(self, path: str, data: bytes) -> None:
        self.call("pipe_file", path, data, mode="create", chunksize=SINGLE_PUT_BYTES, moves=len(data))

    def replace(self, path: str, data: bytes) -> None:
        self.call("pipe_file", path, data, mode="overwrite", chunksize=SINGLE_PUT_BYTES, moves=len(data))


class Azure(ObjectStore):
    """`az://container/…`, with the account from the environment, or `abfs://container@account.dfs.core.windows.net/…`."""

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
        fs.split_path = lambda path, *_, **__: (*self.split(path), None)
        _set_up(fs.service_client)
        return fs

    def path(self, uri: str) -> str:
        path = super().path(uri)
        return path.replace(f"@{self.authority}", "", 1) if self.authority else path

    def uri(self, path: str) -> str:
        if not self.authority:
            return super().uri(path)
        container, _, name = path.partition("/")
        return f"{self.scheme}://{container}@{self.authority}/{name}"

    async def get(self, bucket: str, key: str, etag: str, start: int, stop: int) -> Answer:
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceModifiedError

        condition = {"etag": f'"{etag}"', "match_condition": MatchConditions.IfNotModified} if etag else {}
        wanted = {"offset": start, "length": stop - start} if stop else {}
        said: dict[str, str] = {}
        async with self.fs.service_client.get_blob_client(bucket, key) as blob:
            try:
                body = await blob.download_blob(
                    decompress=False,
                    raw_response_hook=lambda answer: said.update(answer.http_response.headers),
                    **condition,
                    **wanted,
                )
                data = await body.readall()
                # The library forgets the hook where it has asked again by itself; its own Content-Range is made up.
                content_range = next((said[name] for name in said if name.lower() == "content-range"), None)
                return answer_of(data, {"ETag": body.properties.etag, "Content-Range": content_range})
            except ResourceModifiedError as error:
                raise Changed from error

    async def head(self, bucket: str, key: str) -> Entry:
        async with self.fs.service_client.get_blob_client(bucket, key) as blob:
            found = await blob.get_blob_properties()
        return (await self.fs._details([found]))[0]

    async def page(self, bucket: str, prefix: str, delimiter: str, after: Any, most: int) -> Page:
        from azure.storage.blob.aio import BlobPrefix

        options = {"name_starts_with": prefix or None, "include": ["metadata"], "results_per_page": most}
        async with self.fs.service_client.get_container_client(bucket) as place:
            list_ = place.walk_blobs if delimiter else place.list_blobs
            pages = list_(**options).by_page(after)
            found = [item async for item in await anext(pages)]
        folders = [item.name for item in found if isinstance(item, BlobPrefix)]
        blobs = [item for item in found if not isinstance(item, BlobPrefix)]
        objects = [
            # adlfs takes the slash away from markers of folders, and what is left looks like an empty file.
            entry | {"name": f"{bucket}/{blob.name}"}
            for entry, blob in zip(await self.fs._details(blobs), blobs, strict=True)
        ]
        return Page(objects, folders, pages.continuation_token or None)


def _set_up(client: Any) -> None:
    """What adlfs hands no options on for."""
    client._config.max_single_put_size = client._config.max_single_get_size = SINGLE_PUT_BYTES
    limits = client._pipeline._transport.connection_config
    limits.timeout, limits.read_timeout = CONNECT_SECONDS, SILENCE_SECONDS
    for policy in client._pipeline._impl_policies:
        if hasattr(policy, "get_backoff_time"):
            policy.get_backoff_time = _azure_pause
            policy.total_retries = AZURE_ATTEMPTS - 1


def _azure_pause(tried: dict[str, Any]) -> float:
    return AZURE_PAUSE_SECONDS * 3 ** tried["count"] * random.uniform(0.5, 1)
