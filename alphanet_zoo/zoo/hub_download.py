"""Files of Hugging Face Hub repositories: downloaded with retries, compared with the names that the cache gives them.

The Hub cache names a file by its ETag, which is the SHA-256 of a large file and the Git hash of a small one. Both are
checked on every load, so a file that changed on the way or on the disk is found, whatever its size.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.zoo.files import WEIGHTS_NAME

CONFIG_NAME = "config.json"
"""The description of a network beside its weights."""

_WAITS = (0.5, 2.0)
"""Seconds before the second and the third attempt of a request that failed for a transient reason."""
_HEX = re.compile(r"[0-9a-f]+")
_T = TypeVar("_T")


class DigestError(AlphaNetError):
    """The digest of a file is not the expected one, or the file is damaged (exit 1)."""


class VanishedError(AlphaNetError):
    """Another process removed a file from the cache while it was being read (exit 1)."""


def download(repository: str, name: str, **request: Any) -> Path:
    """The path of a repository's file in the cache; arguments are those of ``hf_hub_download``.

    A dropped connection, a timeout and the answers 429 and 5xx are retried twice. What an interrupted download of the
    same file left in the cache is removed.

    Raises:
        UsageError: ``repository`` is not the name of a repository.
        AlphaNetError: The file cannot be downloaded; the message says why.
    """
    from huggingface_hub import hf_hub_download

    with hub_errors(repository, f"get {name} of", name):
        path = Path(_retried(lambda: hf_hub_download(repository, name, **request)))
    blob = _blob(path)
    if blob is not None:
        for leftover in blob.parent.glob(f"{blob.name}*.incomplete"):
            with suppress(OSError):
                leftover.unlink()
    return path


def read_checked(path: Path) -> bytes:
    """The content of a file in the cache, compared with the digest that its name in the cache is.

    Raises:
        DigestError: They differ.
        VanishedError: The file is gone.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise VanishedError(f"{path} was removed by another process; load it again") from error
    check_blob(path, content)
    return content


def check_blob(path: Path, content: bytes) -> None:
    """Compares a content with the digest that is the name of ``path`` in the cache, if it is a digest.

    Raises:
        DigestError: They differ.
    """
    blob = _blob(path)
    if blob is None or not _HEX.fullmatch(blob.name):
        return
    kind, found = "SHA-256", ""
    if len(blob.name) == 64:
        found = hashlib.sha256(content).hexdigest()
    elif len(blob.name) == 40:
        kind = "Git hash"
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    if found and found != blob.name:
        raise DigestError(f"the {kind} of {path} is {found}, but that of the Hub is {blob.name}")


def remove(pointer: Path) -> None:
    """Removes a file from the Hub cache: the entry of the snapshot and, if that is a link, its target.

    Raises:
        AlphaNetError: It cannot be removed.
    """
    cache = pointer.parents[3]  # <cache>/models--organisation--name/snapshots/<commit>/<file>
    entry: Path | None = pointer
    try:
        while entry is not None and cache in entry.parents:
            target = None
            with suppress(FileNotFoundError):
                target = Path(os.path.normpath(entry.parent / entry.readlink())) if entry.is_symlink() else None
            entry.unlink(missing_ok=True)
            entry = target
    except OSError as error:
        raise AlphaNetError(
            f"{pointer} has another SHA-256 than expected and cannot be deleted ({error}); delete it"
        ) from error


def lacks(source: str, name: str) -> str:
    """The message for a repository or folder without one of the two files."""
    return (
        f"{source} has no {name}; a network consists of {CONFIG_NAME} and {WEIGHTS_NAME} (see save_pretrained), "
        "and pickles such as pytorch_model.bin are never read"
    )


def _blob(pointer: Path) -> Path | None:
    """The file that an entry of a snapshot links to; None if it is not a link."""
    try:
        return Path(os.path.normpath(pointer.parent / pointer.readlink()))
    except OSError:
        return None


def _retried(request: Callable[[], _T]) -> _T:
    """The result of a request, which is repeated after a transient error."""
    for wait in _WAITS:
        try:
            return request()
        except Exception as error:
            if not _transient(error):
                raise
        time.sleep(wait)
    return request()


def _transient(error: BaseException | None) -> bool:
    """Whether a request that failed with this error may succeed if it is repeated."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status == 429 or status >= 500
        if type(error).__name__ in ("ReadError", "ReadTimeout", "RemoteProtocolError", "ChunkedEncodingError"):
            return True
        if isinstance(error, FileNotFoundError | ConnectionResetError) and getattr(error, "errno", None) is not None:
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def hub_errors(repository: str, action: str, name: str = "") -> Iterator[None]:
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
        raise AlphaNetError(lacks(repository, name)) from error
    except Exception as error:  # HTTP, TLS, proxy, Xet and disk errors have no common base class.
        cause = error.__cause__ or error
        message = f"cannot {action} {repository}: {type(cause).__name__}: {cause}"
        raise AlphaNetError(f"{_not_local(repository, action)}{message}") from error


def _not_local(repository: str, action: str) -> str:
    """Explains why a name is looked up on the Hub: a mistyped folder looks like a repository."""
    if action.startswith("upload"):
        return ""
    return f"no local file or folder is called {repository!r}, so it is taken for a Hub repository: "
