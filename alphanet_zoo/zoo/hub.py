"""Networks on the Hugging Face Hub: ``config.json``, ``model.safetensors`` and a card, checked on every load.

timm and transformers read the same files after ``import alphanet_zoo.timm``.

The interface is that of ``huggingface_hub.PyTorchModelHubMixin``. Unlike the mixin, loading is strict: digests, names,
shapes and types must match.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import replacing, sha256_of
from alphanet_zoo.nn.family import Network
from alphanet_zoo.zoo.card import model_card
from alphanet_zoo.zoo.files import WEIGHTS_NAME, find_config, is_run, load_net, save_net, weights_file
from alphanet_zoo.zoo.hub_config import from_document, to_document
from alphanet_zoo.zoo.pins import pin_of

CONFIG_NAME = "config.json"
CARD_NAME = "README.md"
DIGEST_KEY = "weights_sha256"

HUB_PREFIX = "hf-hub:"
"""Marks the name of a Hub repository, as in timm; optional unless a local folder has the organisation's name."""
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


class DigestError(AlphaNetError):
    """The SHA-256 of the weights is not the expected one (exit 1)."""


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
    with tempfile.TemporaryDirectory() as folder, _hub_errors(repo_id, "upload to"):
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
    config, weights = _download(source, force_download=force_download, **request)
    try:
        return _load_files(config, weights, sha256)
    except DigestError as mismatch:
        _remove_download(weights)
        try:
            config, weights = _download(source, force_download=True, **request)
        except AlphaNetError as error:
            raise AlphaNetError(f"{mismatch}; it was deleted, and downloading it again failed: {error}") from error
    try:
        return _load_files(config, weights, sha256)
    except DigestError as mismatch:
        _remove_download(weights)
        raise AlphaNetError(
            f"{source}: {mismatch}; it was downloaded twice and deleted; do not use this repository"
        ) from mismatch


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
            raise AlphaNetError(_lacks(str(folder), name))
    return _load_files(folder / CONFIG_NAME, folder / WEIGHTS_NAME, sha256)


def _load_file(file: Path, sha256: str | None) -> Network:
    """The network in a safetensors file with its config in the header."""
    if sha256 is not None and (actual := sha256_of(file)) != sha256.lower():
        raise DigestError(f"the SHA-256 of {file} is {actual}, but the expected one is {sha256.lower()}")
    return load_net(file)


def _load_files(config_path: Path, weights: Path, sha256: str | None) -> Network:
    """The network in two files, after checking digest, config and tensors."""
    document = _read_json(config_path)
    claimed = document.get(DIGEST_KEY)
    expected = sha256 or claimed
    if not isinstance(expected, str) or not _SHA256.fullmatch(expected):
        raise AlphaNetError(
            f"{config_path} has no valid {DIGEST_KEY}, so the weights cannot be checked; write it with save_pretrained"
        )
    actual = sha256_of(weights)
    if actual != expected.lower():
        origin = "the pin" if sha256 else CONFIG_NAME
        raise DigestError(f"the SHA-256 of {weights} is {actual}, but that of {origin} is {expected.lower()}")
    try:
        config = from_document(document)
    except ValueError as error:
        raise AlphaNetError(f"{config_path} does not describe a network: {error}") from error
    described = find_config(weights)
    if described is None and sha256 is not None:
        raise AlphaNetError(f"{weights} has no config in its header, and the pin covers no other file")
    differing = [key for key, value in (described or {}).items() if config.get(key) != value]
    if differing:
        raise AlphaNetError(f"{config_path} and {weights.name} differ in {', '.join(differing)}")
    return load_net(weights, config=config)


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise AlphaNetError(f"{path} is not JSON ({error}); download it again (force_download=True)") from error
    if not isinstance(config, dict):
        raise AlphaNetError(f"{path} is not a JSON object; download it again (force_download=True)")
    return config


def _download(repository: str, *, force_download: bool, **request: Any) -> tuple[Path, Path]:
    """Config and weights of a repository, in the cache."""
    from huggingface_hub import hf_hub_download

    paths = []
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        with _hub_errors(repository, f"get {name} of", name):
            paths.append(Path(hf_hub_download(repository, name, force_download=force_download, **request)))
    return paths[0], paths[1]


def _remove_download(pointer: Path) -> None:
    """Removes a file from the Hub cache: the entry of the snapshot and, if that is a link, its target."""
    cache = pointer.parents[3]  # <cache>/models--organisation--name/snapshots/<commit>/<file>
    entry: Path | None = pointer
    try:
        while entry is not None and cache in entry.parents:
            target = Path(os.path.normpath(entry.parent / entry.readlink())) if entry.is_symlink() else None
            entry.unlink(missing_ok=True)
            entry = target
    except OSError as error:
        raise AlphaNetError(
            f"{pointer} has another SHA-256 than expected and cannot be deleted ({error}); delete it"
        ) from error


def _lacks(source: str, name: str) -> str:
    """The message for a repository or folder without one of the two files."""
    return (
        f"{source} has no {name}; a network consists of {CONFIG_NAME} and {WEIGHTS_NAME} (see save_pretrained), "
        "and pickles such as pytorch_model.bin are never read"
    )


@contextmanager
def _hub_errors(repository: str, action: str, name: str = "") -> Iterator[None]:
    """Turns the exceptions of huggingface_hub into messages of one line that name the repository."""
    from huggingface_hub import errors

    try:
        yield
    except AlphaNetError:
        raise
    except errors.HFValidationError as error:
        raise UsageError(f"{repository!r} is not the name of a Hub repository: {error}") from error
    except errors.GatedRepoError as error:
        message = f"{repository} is gated: accept its conditions on the Hub, then pass token= or set HF_TOKEN"
        raise AlphaNetError(message) from error
    except errors.RepositoryNotFoundError as error:
        message = (
            f"{_not_local(repository, action)}{repository} does not exist on the Hub, or is private: check its name, "
            "pass token= or set HF_TOKEN"
        )
        raise AlphaNetError(message) from error
    except errors.RevisionNotFoundError as error:
        raise AlphaNetError(f"{repository} has no such revision on the Hub; pass another one") from error
    except errors.LocalEntryNotFoundError as error:
        reason = type(error.__cause__).__name__ if error.__cause__ else "offline"
        message = (
            f"{_not_local(repository, action)}cannot {action} {repository}: not in the cache, and the Hub cannot "
            f"be reached ({reason})"
        )
        raise AlphaNetError(message) from error
    except errors.EntryNotFoundError as error:
        raise AlphaNetError(_lacks(repository, name)) from error
    except Exception as error:  # HTTP, TLS, proxy, Xet and disk errors have no common base class.
        cause = error.__cause__ or error
        message = f"cannot {action} {repository}: {type(cause).__name__}: {cause}"
        raise AlphaNetError(f"{_not_local(repository, action)}{message}") from error


def _not_local(repository: str, action: str) -> str:
    """Explains why a name is looked up on the Hub: a mistyped folder looks like a repository."""
    if action.startswith("upload"):
        return ""
    return f"no local file or folder is called {repository!r}, so it is taken for a Hub repository: "
