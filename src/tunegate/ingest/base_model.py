"""Bring the base model into the store once, and refuse one that cannot be fine-tuned for chat."""

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from tunegate.errors import BadInput, Unavailable
from tunegate.predict.unsuited import refuse_quantised
from tunegate.store import Store
from tunegate.store.s3 import download, explained, list_keys, s3_client, split_address

# What a model directory is made of. Pickles (.bin, .pt) are left out: reading one runs whatever code it holds.
PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.jinja", "*.model")


def mirror(address: str, store: Store) -> str:
    """Give the reference of the base model at `address`: store:<ref>, a directory, s3://prefix or hf://org/name@revision.

    Raises:
        BadInput: there is no such model, or it has no configuration, safetensors, tokenizer or chat template.
        Unavailable: it could not be reached.
    """
    if address.startswith("store:"):
        ref = address.removeprefix("store:")
        check(store.get(ref), address)
        return ref
    with tempfile.TemporaryDirectory(prefix="tunegate-base-", dir=os.environ.get("TUNEGATE_SCRATCH")) as scratch:
        here = Path(scratch) / "model"
        here.mkdir()
        if address.startswith("s3://"):
            _from_bucket(address, here)
        elif address.startswith("hf://"):
            _from_hub(address, here)
        elif "://" in address:
            raise BadInput(f"The base model {address} is of no known kind. Give a directory, s3://bucket/prefix or hf://org/name@revision.")
        else:
            for file in model_files(Path(address)):
                (here / file.name).symlink_to(file.absolute())
        check(here, address)
        files = Path(scratch) / "files"
        files.mkdir()
        for file in model_files(here):  # without the hub client's own notes
            (files / file.name).symlink_to(file)
        return store.put("base", files)


def copy_tokenizer(base: Path, output: Path) -> None:
    """Copy all of a model but its weights: what renders and counts tokens is small, and steps that need no more take this."""
    output.mkdir(parents=True)
    for file in model_files(base):
        if file.suffix != ".safetensors":
            shutil.copyfile(file, output / file.name)


def model_files(directory: Path) -> list[Path]:
    """List the files at the top of a directory that a model is made of."""
    if not directory.is_dir():
        raise BadInput(f"The base model {directory} is not a directory. Give one in Hugging Face form.")
    found = sorted({file for pattern in PATTERNS for file in directory.glob(pattern) if file.name != "MANIFEST.json"})
    if not any(file.suffix == ".safetensors" for file in found):
        _refuse_without_safetensors(directory, str(directory))
    return found


def check(directory: Path, address: str) -> None:
    """Refuse a directory that is not a whole model with a chat template."""
    if not (directory / "config.json").is_file():
        raise BadInput(f"The base model {address} has no config.json. Give a model in Hugging Face form.")
    try:
        refuse_quantised(json.loads((directory / "config.json").read_text(encoding="utf-8")), address)
    except (ValueError, AttributeError):
        raise BadInput(f"The config.json of the base model {address} is not a JSON object. Save the model again.") from None
    if not any(directory.glob("*.safetensors")):
        _refuse_without_safetensors(directory, address)
    settings = directory / "tokenizer_config.json"
    if not settings.is_file():
        raise BadInput(f"The base model {address} has no tokenizer_config.json. Save its tokenizer beside the weights.")
    try:
        in_settings = bool(json.loads(settings.read_text(encoding="utf-8")).get("chat_template"))
    except (ValueError, AttributeError):
        raise BadInput(f"The tokenizer_config.json of the base model {address} is not a JSON object. Save the tokenizer again.") from None
    if not in_settings and not (directory / "chat_template.jinja").is_file():
        raise BadInput(
            f"The base model {address} has no chat template, so it cannot tell a question from an answer. "
            "Use its instruct version, or put a chat_template.jinja beside its weights."
        )


def _refuse_without_safetensors(directory: Path, address: str) -> None:
    pickles = sorted(file.name for suffix in ("bin", "pt", "pth") for file in directory.glob(f"*.{suffix}"))
    also = f" (but {pickles[0]}, a pickle, which is not read because it can run code)" if pickles else ""
    raise BadInput(f"The base model {address} has no .safetensors file{also}. Save it again with save_pretrained.")


def _from_bucket(address: str, here: Path) -> None:
    bucket, prefix = split_address(address)
    start = f"{prefix.rstrip('/')}/" if prefix else ""
    with contextlib.closing(s3_client()) as client, explained(address):
        names = [key[len(start) :] for key in list_keys(client, bucket, start)]
        names = [name for name in names if "/" not in name and any(Path(name).match(pattern) for pattern in PATTERNS)]
        if not names:
            raise BadInput(f"There is no model at {address}.")
        for name in names:
            download(client, bucket, start + name, here / name)


def _from_hub(address: str, here: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # they redraw one line, which a log does not
    name, _, revision = address.removeprefix("hf://").partition("@")
    try:
        snapshot_download(name, revision=revision or None, local_dir=here, allow_patterns=list(PATTERNS), ignore_patterns=["*/*"])
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise BadInput(f"The base model {address} is not on the hub, or HF_TOKEN may not read it: {_first_line(error)}") from None
    except (HfHubHTTPError, OSError) as error:  # no connection, or HF_HUB_OFFLINE
        raise Unavailable(
            f"The base model {address} cannot be fetched: {_first_line(error)} Check the network and HF_HUB_OFFLINE, or give a directory."
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".") + "."
