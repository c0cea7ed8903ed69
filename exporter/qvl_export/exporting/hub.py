"""Finds a checkpoint by path or Hugging Face id; only the files that an export needs are downloaded."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from pathlib import Path

from qvl_runtime.common.log import timed
from qvl_runtime.errors import QvlError
from qvl_runtime.printable import first_line

from .. import families
from ..checkpoint import foreign_formats as foreign
from ..checkpoint.directory import INDEX, WHOLE, Checkpoint
from ..common.log import log
from ..errors import CheckpointError, HubError

NEEDED = [
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "qwen.tiktoken",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "quantize_config.json",
    "adapter_config.json",
    INDEX,
    "pytorch_model.bin.index.json",  # shows that weights exist, but pickled
]
"""Files that are downloaded first; the single weights file, or the shards in the index, follow."""
_REPO_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def locate(name: str, revision: str | None) -> tuple[Checkpoint, str | None]:
    """Returns the checkpoint and, if it is from the hub, the commit that it resolved to.

    A directory is used as it is; `org/model` is downloaded into the Hugging Face cache (`HF_HUB_OFFLINE` and
    `HF_ENDPOINT` are honored). Raises CheckpointError or HubError.
    """
    path = Path(name)
    if not name.strip():
        raise CheckpointError("the checkpoint's name is empty", fix="give a directory or a Hugging Face id")
    if path.is_dir():
        if revision is not None:
            raise CheckpointError(
                "is a local directory, which has no revisions", where=name, fix="leave --revision out"
            )
        return Checkpoint(path), None
    if path.exists() and path.suffix == ".gguf":
        raise CheckpointError("is a GGUF file, the format of llama.cpp", where=name, fix=foreign.GGUF)
    if path.exists() or not _REPO_ID.fullmatch(name):
        raise CheckpointError("is neither a checkpoint directory nor a Hugging Face id (org/model)", where=name)
    with timed(log, "downloaded: %s, revision %s", name, revision):
        directory = _download(name, revision)
    _check_weights(name, directory)
    return Checkpoint(directory), directory.name


def _download(repo_id: str, revision: str | None) -> Path:
    """Downloads a snapshot and returns its directory, whose name is the commit; raises HubError if that fails."""
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return _snapshot(repo_id, revision)
    except QvlError:  # from reading the configuration or the index
        raise
    except LocalEntryNotFoundError as error:
        raise HubError(
            "is not a local directory, not in the Hugging Face cache, and the hub cannot be reached",
            where=repo_id,
            fix="check the path, the network, and HF_HUB_OFFLINE",
        ) from error
    except RevisionNotFoundError as error:
        raise HubError(f"has no revision {revision}", where=repo_id, fix="check --revision") from error
    except RepositoryNotFoundError as error:  # gated repositories too
        raise HubError(
            "is neither a local directory nor a repository that you may read on the hub",
            where=repo_id,
            fix="check the name; for a private or gated one run `hf auth login`",
        ) from error
    except Exception as error:  # huggingface_hub does not wrap errors of its HTTP library, which varies by version
        raise HubError(f"cannot be downloaded: {first_line(error)}", where=repo_id) from error


def _snapshot(repo_id: str, revision: str | None) -> Path:
    """Downloads the files that an export needs, weights last; raises the exceptions of `huggingface_hub`."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        disable_progress_bars()
    directory = Path(snapshot_download(repo_id, revision=revision, allow_patterns=NEEDED))
    if (directory / "config.json").is_file():
        families.model_type(Checkpoint(directory))  # refuses unknown families before gigabytes are downloaded
    snapshot_download(repo_id, revision=directory.name, allow_patterns=[WHOLE])
    if (shards := Checkpoint(directory).shards) != [WHOLE]:
        snapshot_download(repo_id, revision=directory.name, allow_patterns=shards)
    return directory


def _check_weights(repo_id: str, directory: Path) -> None:
    """Raises CheckpointError if the repository has only weights in other formats, which were not downloaded."""
    from huggingface_hub import list_repo_files

    names = {path.name for path in directory.iterdir()}
    if not names.isdisjoint((WHOLE, INDEX, "adapter_config.json")):
        return
    with contextlib.suppress(Exception):  # offline: only the downloaded files are known
        names |= set(list_repo_files(repo_id, revision=directory.name))
    what, fix = foreign.why_no_weights(names)
    if what:
        raise CheckpointError(f"{WHOLE} is missing{what}", where=repo_id, fix=fix)
