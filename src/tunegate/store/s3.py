"""A store in an S3 bucket: AWS, or any server that speaks S3 and is named by AWS_ENDPOINT_URL."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from tunegate.digests import canonical_json
from tunegate.errors import BadInput, Refused, Unavailable
from tunegate.store.base import MANIFEST, Store, parse_manifest, verify
from tunegate.store.directory import DirectoryStore

ABSENT = {"NoSuchKey", "404", "NotFound"}
FORBIDDEN = {"AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
ALREADY_THERE = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}
NO_CONDITIONS = {"NotImplemented", "501"}


class S3Store(Store):
    """Objects are read through a local cache: TUNEGATE_CACHE, or ~/.cache/tunegate."""

    def __init__(self, uri: str):
        super().__init__(uri)
        self.bucket, prefix = split_address(uri)
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.cache = DirectoryStore(os.environ.get("TUNEGATE_CACHE", "~/.cache/tunegate"))

    @cached_property
    def client(self):
        return s3_client()

    def key(self, path: str) -> str:
        return self.prefix + path

    def has(self, ref: str) -> bool:
        with explained(self.uri, ABSENT):
            self.client.head_object(Bucket=self.bucket, Key=self.key(f"objects/{ref}/{MANIFEST}"))
            return True
        return False

    def list(self, folder: str) -> list[str]:
        start = self.key(f"{folder.strip('/')}/" if folder.strip("/") else "")
        with explained(self.uri):
            return sorted(key.removeprefix(self.prefix) for key in list_keys(self.client, self.bucket, start))

    def _publish(self, ref: str, directory: Path, manifest: dict) -> None:
        for relative in manifest["files"]:
            with explained(self.uri), open(directory / relative, "rb") as file:
                self.client.upload_fileobj(file, self.bucket, self.key(f"objects/{ref}/{relative}"))
        where = {"Bucket": self.bucket, "Key": self.key(f"objects/{ref}/{MANIFEST}"), "Body": canonical_json(manifest)}
        with explained(self.uri, ALREADY_THERE | NO_CONDITIONS):
            self.client.put_object(**where, IfNoneMatch="*")
        if not self.has(ref):  # the server knows no conditional writes; another writer's bytes would be the same
            with explained(self.uri):
                self.client.put_object(**where)

    def _fetch(self, ref: str) -> Path:
        if self.cache.has(ref):
            try:
                return self.cache.get(ref)
            except Refused:
                shutil.rmtree(self.cache.place(ref))  # only a copy: bring it again
        data = self._read(f"objects/{ref}/{MANIFEST}")
        if data is None:
            raise BadInput(f"The store {self.uri} has no object {ref}. It was removed, or it is in another store.")
        manifest = parse_manifest(data, ref, f"{self.uri}/objects/{ref}/{MANIFEST}")
        with self.cache.new_object(ref, manifest) as partial:
            for relative in manifest["files"]:
                with explained(self.uri, ABSENT):  # what is absent, `verify` names
                    download(self.client, self.bucket, self.key(f"objects/{ref}/{relative}"), partial / relative)
            verify(partial, manifest, f"{self.uri}/objects/{ref}")
        return self.cache.place(ref)

    def _remove(self, ref: str) -> None:
        with explained(self.uri):
            self.client.delete_object(Bucket=self.bucket, Key=self.key(f"objects/{ref}/{MANIFEST}"))
            for key in list_keys(self.client, self.bucket, self.key(f"objects/{ref}/")):
                self.client.delete_object(Bucket=self.bucket, Key=key)
        self.cache.remove(ref)

    def _read(self, path: str) -> bytes | None:
        with explained(self.uri, ABSENT):
            with self.client.get_object(Bucket=self.bucket, Key=self.key(path))["Body"] as body:
                return body.read()
        return None

    def _write(self, path: str, data: bytes) -> None:
        with explained(self.uri):
            self.client.put_object(Bucket=self.bucket, Key=self.key(path), Body=data)

    def _create(self, path: str, data: bytes) -> bool:
        with explained(self.uri, ALREADY_THERE | NO_CONDITIONS) as codes:
            self.client.put_object(Bucket=self.bucket, Key=self.key(path), Body=data, IfNoneMatch="*")
            return True
        if codes[0] in ALREADY_THERE or self._read(path) is not None:
            return False
        self._write(path, data)  # the server knows no conditional writes: two writers at the same moment may both be told True
        return True


def split_address(uri: str) -> tuple[str, str]:
    """Split s3://bucket/key into bucket and key."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise BadInput(f"'{uri}' names no bucket. Write s3://bucket/prefix.")
    return bucket, key


def s3_client():
    """Make a client that also gets on with MinIO, SeaweedFS and Ceph."""
    import boto3
    from botocore.config import Config

    own_endpoint = bool(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))
    return boto3.client("s3", config=Config(
        retries={"total_max_attempts": 4, "mode": "standard"}, connect_timeout=10, read_timeout=60,
        # Servers other than AWS often reject the checksum trailers that botocore sends by default since 1.36.
        request_checksum_calculation="when_required", response_checksum_validation="when_required",
        # A server of one's own rarely has a DNS name for each bucket.
        s3={"addressing_style": "path" if own_endpoint else "auto"},
    ))  # fmt: skip


def list_keys(client, bucket: str, start: str) -> Iterator[str]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=start):
        yield from (entry["Key"] for entry in page.get("Contents", []))


def download(client, bucket: str, key: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    client.download_file(bucket, key, str(path))


@contextlib.contextmanager
def explained(uri: str, silent: set[str] = frozenset()) -> Iterator[list[str]]:
    """Turn what boto3 raises into our sentences; the error codes in `silent` only end the block, and are added to the list it gives."""
    from boto3.exceptions import Boto3Error
    from botocore import exceptions as botocore

    codes: list[str] = []
    try:
        yield codes
    except botocore.ClientError as error:
        code = str(error.response["Error"]["Code"])
        if code in silent:
            codes.append(code)
            return
        if code == "NoSuchBucket":
            raise BadInput(f"The bucket of {uri} does not exist. Create it, or mend the address.") from None
        if code in ABSENT:
            raise BadInput(f"There is nothing at {uri}.") from None
        if code in FORBIDDEN:
            raise BadInput(f"{uri} refused these credentials ({code}). Check the AWS_ variables, or the role, and its policy.") from None
        raise Unavailable(f"{uri} did not do what was asked: {code}, {error.response['Error'].get('Message', '')}. Try again.") from None
    except (botocore.NoCredentialsError, botocore.PartialCredentialsError, botocore.ProfileNotFound) as error:
        raise BadInput(f"{uri} needs credentials: {error}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role.") from None
    except botocore.ParamValidationError as error:
        raise BadInput(f"{uri} is not an S3 address: {' '.join(str(error).split())}") from None
    except (botocore.BotoCoreError, Boto3Error) as error:
        raise Unavailable(f"{uri} cannot be reached: {error}. Check AWS_ENDPOINT_URL and the network, then try again.") from None
