"""Find the files of a source, bring remote ones here, and give their records.

A source is a file, a glob, a directory, store:<ref>, s3://bucket/key or prefix, https://…, or hf://org/name[@revision][:split].
"""

import contextlib
import glob
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tunegate.errors import BadInput, Unavailable
from tunegate.ingest.readers import MAX_UNPACKED_BYTES, Record, form, read_file
from tunegate.store import MANIFEST, Store
from tunegate.store.s3 import download, explained, list_keys, s3_client, split_address

Opened = Iterator[tuple[str, Iterator[Record]]]
HTTP_SECONDS = 60.0


def open_source(source: str, store: Store | None, scratch: Path, max_unpacked: int = MAX_UNPACKED_BYTES) -> Opened:
    """Give (label, records) for each file of a source; a label names the file in rows and in errors."""
    if source.startswith("hf://"):
        yield source, read_hub(source)
    elif source.startswith("store:"):
        if store is None:
            raise BadInput(f"The source {source} is in a store. Run the recipe with `tunegate run`, which knows the store.")
        yield from _below(store.get(source.removeprefix("store:")), source, max_unpacked)
    elif source.startswith("s3://"):
        yield from _from_bucket(source, scratch, max_unpacked)
    elif source.startswith("https://"):
        yield source, _downloaded(source, scratch, max_unpacked)
    elif "://" in source:
        raise BadInput(f"The source {source} is of no known kind. Known are files, s3://, https:// and hf://.")
    else:
        yield from _local(source, max_unpacked)


def _local(source: str, max_unpacked: int) -> Opened:
    path = Path(source)
    if path.is_dir():
        yield from _below(path, source, max_unpacked)
    elif path.is_file():
        yield source, read_file(path, path.name, max_unpacked)
    elif glob.has_magic(source):
        files = sorted(found for found in glob.glob(source, recursive=True) if Path(found).is_file())
        if not files:
            raise BadInput(f"No file matches the source {source}. Paths in a recipe are relative to the recipe.")
        for found in files:
            yield found, read_file(Path(found), Path(found).name, max_unpacked)
    else:
        raise BadInput(f"The source {source} does not exist. Paths in a recipe are relative to the recipe.")


def _below(directory: Path, source: str, max_unpacked: int) -> Opened:
    """Give the files of a directory whose form is known, named by their path in it."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and form(path.name) and path.name != MANIFEST)
    if not files:
        raise BadInput(f"{source} holds no file of a known form, such as .jsonl or .parquet.")
    for path in files:
        yield path.relative_to(directory).as_posix(), read_file(path, path.name, max_unpacked)


def _from_bucket(source: str, scratch: Path, max_unpacked: int) -> Opened:
    bucket, start = split_address(source)
    with contextlib.closing(s3_client()) as client:
        with explained(source):
            keys = sorted(list_keys(client, bucket, start))
        # s3://bucket/data means what is under data/, not what is called data-old.
        exact = [key for key in keys if key == start]
        keys = exact or [key for key in keys if form(key) and (not start or key.startswith(f"{start.rstrip('/')}/"))]
        if not keys:
            raise BadInput(f"There is no file of a known form, such as .jsonl or .parquet, at {source}.")
        here = scratch / "object"
        for key in keys:
            label = f"s3://{bucket}/{key}"
            with explained(label):
                download(client, bucket, key, here)
            yield label, read_file(here, Path(key).name, max_unpacked)


def _downloaded(url: str, scratch: Path, max_unpacked: int) -> Iterator[Record]:
    import httpx

    here = scratch / "download"
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=HTTP_SECONDS) as reply:
            if reply.status_code >= 500 or reply.status_code == 429:
                raise Unavailable(f"{url} answered {reply.status_code}. Try again later.")
            if reply.status_code != 200:
                raise BadInput(f"{url} answered {reply.status_code}. Check the address, and that it needs no login.")
            with open(here, "wb") as file:
                for piece in reply.iter_bytes():
                    file.write(piece)
    except httpx.InvalidURL as error:
        raise BadInput(f"{url} is not an address: {error}.") from None
    except httpx.HTTPError as error:
        raise Unavailable(f"{url} cannot be read: {error or type(error).__name__}. Check the network, then try again.") from None
    yield from read_file(here, Path(unquote(urlsplit(url).path)).name, max_unpacked)


def read_hub(source: str) -> Iterator[Record]:
    """Read a data set of the Hugging Face hub, row by row; the split is `train` unless the source names another."""
    from datasets import disable_progress_bars, load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    name, revision, split = parse_hub(source)
    disable_progress_bars()  # they redraw one line, which a log does not
    try:
        rows = load_dataset(name, revision=revision, split=split)
        for number, value in enumerate(rows, 1):
            yield Record(number, value)
    except (DatasetsError, ValueError) as error:
        raise BadInput(f"{source} cannot be read as a data set: {_first_line(error)}") from None
    except (HfHubHTTPError, OSError) as error:
        raise Unavailable(f"{source} cannot be reached: {_first_line(error)} Check the network, HF_TOKEN and HF_HUB_OFFLINE.") from None


def parse_hub(source: str) -> tuple[str, str | None, str]:
    """Split hf://org/name[@revision][:split]."""
    address, _, split = source.removeprefix("hf://").partition(":")
    name, _, revision = address.partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise BadInput(f"'{source}' is not a data set of the hub. Write hf://org/name, hf://org/name@revision or hf://org/name:split.")
    return name, revision or None, split or "train"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".") + "."
