"""S3: moto's server. Conditional creates hold there, for single and for multipart puts."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3

from tests.servers.process import free_port, running
from tests.servers.store import Store


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Store]:
    """The server, with its log in `folder`."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-P", str(Path(__file__).with_name("moto_one_by_one.py")), str(port)]
    with running(command, port, folder / "moto.log"):
        s3 = client(url)

        def make_bucket(name: str) -> None:
            s3.create_bucket(Bucket=name)

        def put_object(bucket: str, key: str, data: bytes) -> None:
            s3.put_object(Bucket=bucket, Key=key, Body=data)

        yield Store("s3", url, variables(url), make_bucket, put_object)


def variables(url: str) -> dict[str, str]:
    """The environment of clients of a server at `url`, whatever the machine has configured."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def client(url: str) -> Any:
    """boto3's, which signs: moto lets nobody else overwrite."""
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=url, **keys)
