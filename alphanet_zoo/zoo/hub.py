"""Networks on the Hugging Face Hub: ``config.json``, ``model.safetensors`` and a card, checked on every load.

timm and transformers read the same files after ``import alphanet_zoo.timm``.

The interface is that of ``huggingface_hub.PyTorchModelHubMixin``. Unlike the mixin, loading is strict: digests, names,
shapes and types must match.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import replacing
from alphanet_zoo.nn.family import Network
from alphanet_zoo.zoo.card import model_card
from alphanet_zoo.zoo.files import WEIGHTS_NAME, is_run, net_file, net_of, read_net_file, save_net, weights_file
from alphanet_zoo.zoo.hub_config import from_document, to_document
from alphanet_zoo.zoo.hub_download import (
    CONFIG_NAME,
    DigestError,
    VanishedError,
    download,
    hub_errors,
    lacks,
    read_checked,
    remove,
)
from alphanet_zoo.zoo.pins import pin_of

CARD_NAME = "README.md"
DIGEST_KEY = "weights_sha256"

HUB_PREFIX = "hf-hub:"
"""Marks the name of a Hub repository, as in timm; optional unless a local folder has the organisation's name."""
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_ATTEMPTS = 6
"""Attempts to read a repository's files that other processes may remove from the cache."""
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def save_pretrained(
    net: Network,
    save_directory: str | os.PathLike[str],
    *,
    repo_id: str | None = None,
    push_to_hub: bool = False,
    **push_to_hub_kwargs: Any,
) -> str | None:
    """Writes ``config.json``, with the digest of the weights, ``model.safetensors``, and ``README.md`` (a model card).

    A ``README.md`` that exists is not changed.

    Args:
        net: The network to write.
        save_directory: The folder; created if it does not exist.
        repo_id: Repository to upload to if ``push_to_hub``; None is the name of the folder.
        push_to_hub: Also upload the files.
        **push_to_hub_kwargs: Arguments of `push_to_hub`.

    Returns:
        URL of the commit if ``push_to_hub``, else None.

    Raises:
        UsageError: ``save_directory`` is a file, or an argument for the Hub is passed without ``push_to_hub``.
        AlphaNetError: The upload failed.
    """
    folder = Path(save_directory)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; pass a folder")
    if not push_to_hub and (repo_id is not None or push_to_hub_kwargs):
        given = ", ".join(["repo_id"] * (repo_id is not None) + sorted(push_to_hub_kwargs))
        raise UsageError(f"{given} requires push_to_hub=True")
    _write(net, folder, repo_id or folder.resolve().name)
    if not push_to_hub:
        return None
    return _push(net, repo_id or folder.resolve().name, **push_to_hub_kwargs)


def _write(net: Network, folder: Path, name: str) -> None:
    """Writes the three files; ``name`` is that of the repository in the examples of the card."""
    config = to_document(net) | {DIGEST_KEY: save_net(net, folder / WEIGHTS_NAME)}
    with replacing(folder / CONFIG_NAME) as temporary:
        temporary.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if not (folder / CARD_NAME).exists():
        with replacing(folder / CARD_NAME) as temporary:
            temporary.write_text(model_card(net, name), encoding="utf-8")


def push_to_hub(
    net: Network,
    repo_id: str,
    *,
    commit_message: str = "Push a network",
    private: bool | None = None,
    token: str | bool | None = None,
    branch: str | None = None,
    create_pr: bool | None = None,
    allow_patterns: list[str] | str | None = None,
    ignore_patterns: list[str] | str | None = None,
    delete_patterns: list[str] | str | None = None,
) -> str:
    """Uploads the files of `save_pretrained`; creates the repository if it does not exist.

    A model card (``README.md``) in the repository is not replaced.

    Args:
        net: The network to upload.
        repo_id: ``organisation/name``, or a name under the token's account.
        commit_message: Message of the commit.
        private: Whether a new repository is private; None is the default of the organisation.
        token: Access token; None is ``HF_TOKEN`` or the stored one.
        branch: Branch to commit to; None is ``main``.
        create_pr: Open a pull request instead of committing.
        allow_patterns: Upload only files that match one.
        ignore_patterns: Do not upload files that match one.
        delete_patterns: Delete remote files that match one in the same commit.

    Returns:
        URL of the commit.

    Raises:
        AlphaNetError: The Hub cannot be reached or rejects the upload; the message names the repository.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder, hub_errors(repo_id, "upload to"):
        full_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        _write(net, Path(folder), full_id)
        if api.file_exists(full_id, CARD_NAME, revision=branch):
            (Path(folder) / CARD_NAME).unlink()
        commit = api.upload_folder(
            repo_id=full_id,
            folder_path=folder,
            commit_message=commit_message,
            revision=branch,
            create_pr=create_pr,
            allow_patterns=allow_patterns,
            ignore_patterns=ignore_patterns,
            delete_patterns=delete_patterns,
        )
    return str(commit.commit_url)


_push = push_to_hub  # `save_pretrained` has an argument of that name.


def from_pretrained(
    pretrained_model_name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    force_download: bool = False,
    token: str | bool | None = None,
    local_files_only: bool = False,
    sha256: str | None = None,
) -> Network:
    """Loads the network of a Hub repository, a folder that `save_pretrained` wrote, a training run or a file.

    The network is in eval mode. The SHA-256 of the weights is checked on every load: against ``sha256``, else the pin
    of the repository in `alphanet_zoo.zoo.pins`, else the digest in ``config.json`` (which shows that the weights are
    complete, not who made them). A training run and a ``.safetensors`` file have no such digest. If the digest differs,
    a download is deleted from the cache and downloaded once more; the files of a folder are not changed. Pickles are
    never read.

    Args:
        pretrained_model_name_or_path: ``organisation/name`` (or ``hf-hub:organisation/name``), a folder of
            `save_pretrained`, the output folder of ``alphanet train``, or a ``.safetensors`` file.
        revision: Branch, tag or commit; None is the pinned commit, or ``main``.
        cache_dir: The Hub cache; None is the default of huggingface_hub.
        force_download: Download files that are in the cache too.
        token: Access token; None is ``HF_TOKEN`` or the stored one.
        local_files_only: Use the cache only; send no request.
        sha256: Expected SHA-256 of the weights, in hexadecimal.

    Raises:
        UsageError: The argument is neither a folder nor a repository's name, or ``sha256`` is not a digest.
        AlphaNetError: The repository cannot be reached, does not exist or is gated; or a file is missing or corrupt,
            has another digest, or does not match the config.
    """
    source = os.fspath(pretrained_model_name_or_path)
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise UsageError(f"sha256 is {sha256!r}; pass 64 hexadecimal digits")
    if os.path.isdir(source) and not is_run(Path(source)):
        return _load_folder(Path(source), sha256)
    if os.path.isdir(source) or (source.endswith(".safetensors") and os.path.isfile(source)):
        return _load_file(weights_file(source), sha256)
    source = checked_repository(source)
    pin = pin_of(source, revision) if sha256 is None else None
    if pin is not None:
        revision, sha256 = pin.revision, pin.sha256
    request = {"revision": revision, "cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
    return _load_repository(source, sha256, force_download, request)


def _load_repository(source: str, sha256: str | None, force: bool, request: dict[str, Any]) -> Network:
    """The network of a repository. Damaged downloads are deleted and downloaded once more, whichever file it is."""
    mismatch: DigestError | None = None
    for _ in range(_ATTEMPTS):
        try:
            paths = [download(source, name, force_download=force, **request) for name in (CONFIG_NAME, WEIGHTS_NAME)]
        except AlphaNetError as error:
            if mismatch is None:
                raise
            raise AlphaNetError(f"{mismatch}; it was deleted, and downloading it again failed: {error}") from error
        try:
            return _load_files(paths[0], paths[1], sha256)
        except VanishedError:
            continue  # Another process found it damaged and removed it, and downloads it again.
        except DigestError as error:
            for path in paths:
                remove(path)
            if mismatch is not None:
                raise AlphaNetError(
                    f"{source}: {error}; it was downloaded twice and deleted; do not use this repository"
                ) from error
            mismatch, force = error, True
    raise AlphaNetError(f"the files of {source} were removed from the cache while they were read; load it again")


def checked_repository(source: str) -> str:
    """The name of a Hub repository, without ``hf-hub:``.

    Without that prefix, a name in an existing local folder is taken for a mistyped path, so that no request is sent.

    Raises:
        UsageError: ``source`` is not the full name of a repository, with its organisation.
    """
    name = source.removeprefix(HUB_PREFIX)
    if os.path.isfile(source):
        raise UsageError(f"{source} is a file; pass a folder, or load the file with weights={source!r}")
    if not _REPOSITORY.fullmatch(name):
        raise UsageError(f"{source!r} is neither an existing folder nor a Hub repository (organisation/name)")
    parent = os.path.dirname(source)
    if name == source and os.path.isdir(parent):
        near = difflib.get_close_matches(os.path.basename(source), os.listdir(parent), 1)
        hint = f"; did you mean {parent}/{near[0]}?" if near else "."
        raise UsageError(
            f"{source} does not exist in the local folder {parent}{hint} For a Hub repository of that name, pass "
            f"{HUB_PREFIX}{source}"
        )
    return name


def _load_folder(folder: Path, sha256: str | None) -> Network:
    """The network in a local folder, whose files are never deleted."""
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise AlphaNetError(lacks(str(folder), name))
    return _load_files(folder / CONFIG_NAME, folder / WEIGHTS_NAME, sha256)


def _load_file(file: Path, sha256: str | None) -> Network:
    """The network in a safetensors file with its config in the header."""
    content = read_net_file(file)
    if sha256 is not None and content.sha256 != sha256.lower():
        raise DigestError(f"the SHA-256 of {file} is {content.sha256}, but the expected one is {sha256.lower()}")
    return net_of(content)


def _load_files(config_path: Path, weights: Path, sha256: str | None) -> Network:
    """The network in two files, each read once, after checking digests, config and tensors."""
    document = _document(config_path)
    claimed = document.get(DIGEST_KEY)
    expected = sha256 or claimed
    if not isinstance(expected, str) or not _SHA256.fullmatch(expected):
        raise AlphaNetError(
            f"{config_path} has no valid {DIGEST_KEY}, so the weights cannot be checked; write it with save_pretrained"
        )
    content = read_checked(weights)
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected.lower():
        origin = "the pin" if sha256 else CONFIG_NAME
        raise DigestError(f"the SHA-256 of {weights} is {actual}, but that of {origin} is {expected.lower()}")
    file = net_file(weights, content)
    try:
        config = from_document(document)
    except ValueError as error:
        raise AlphaNetError(f"{config_path} does not describe a network: {error}") from error
    if file.config is None and sha256 is not None:
        raise AlphaNetError(f"{weights} has no config in its header, and the pin covers no other file")
    differing = [key for key, value in (file.config or {}).items() if config.get(key) != value]
    if differing:
        raise AlphaNetError(f"{config_path} and {weights.name} differ in {', '.join(differing)}")
    return net_of(file, config=config)


def _document(path: Path) -> dict[str, Any]:
    """The JSON object in a file, which is compared with its digest if it is in the Hub cache."""
    content = read_checked(path)
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DigestError(f"{path} is not JSON ({error}); download it again (force_download=True)") from error
    if not isinstance(config, dict):
        raise DigestError(f"{path} is not a JSON object; download it again (force_download=True)")
    return config
