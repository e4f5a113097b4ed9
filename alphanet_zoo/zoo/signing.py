"""Signatures of published folders, by Sigstore's model-signing (an optional dependency).

The signature ``model.sig`` covers every other file of a folder, the manifest included. ``model_signing verify`` reads
it too. Digests show damage; a signature also shows who published a folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from alphanet_zoo.errors import AlphaNetError, MissingDependencyError, UsageError
from alphanet_zoo.files import replacing

SIGNATURE = "model.sig"
"""The signature in a published folder."""


def sign_folder(folder: Path, private_key: str | os.PathLike[str]) -> Path:
    """Signs the files in a folder, and writes `SIGNATURE` into it; replaces an earlier one.

    Args:
        folder: A published folder.
        private_key: A PEM file with an elliptic-curve key without password.

    Raises:
        MissingDependencyError: model-signing is not installed.
        UsageError: The key cannot be used.
    """
    signing = _library("signing")
    _check_key(private_key)
    target = folder / SIGNATURE
    target.unlink(missing_ok=True)
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=private_key)
    except Exception as error:  # cryptography raises several types for a file that is not such a key.
        raise UsageError(f"{private_key} is not an elliptic-curve private key ({error}); pass a PEM file") from error
    with replacing(target) as temporary:
        config.set_hashing_config(_hashing([SIGNATURE, temporary.name])).sign(folder, temporary)
    return target


def check_signature(folder: Path, public_key: str | os.PathLike[str]) -> None:
    """Checks the signature of a folder.

    Args:
        folder: A published folder.
        public_key: The PEM file with the public key of the signer.

    Raises:
        MissingDependencyError: model-signing is not installed.
        UsageError: The key cannot be used.
        AlphaNetError: The folder has no signature, or a file is missing, new or changed, or another key signed it.
    """
    verifying = _library("verifying")
    _check_key(public_key)
    if not (folder / SIGNATURE).is_file():
        raise AlphaNetError(f"{folder} has no {SIGNATURE}; sign it with alphanet publish --sign-key KEY")
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except Exception as error:  # As in `sign_folder`.
        raise UsageError(f"{public_key} is not an elliptic-curve public key ({error}); pass a PEM file") from error
    try:
        config.set_hashing_config(_hashing([SIGNATURE])).verify(folder, folder / SIGNATURE)
    except Exception as error:  # Of cryptography, of JSON and of the package itself.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise AlphaNetError(
            f"the signature of {folder} is not valid ({reason:.300}); do not use these files"
        ) from error


def _hashing(ignored: list[str]) -> Any:
    """What is hashed: all files of a folder but ``ignored``."""
    hashing = _library("hashing")
    return hashing.Config().set_ignored_paths(paths=ignored, ignore_git_paths=False)


def _check_key(path: str | os.PathLike[str]) -> None:
    """Raises a `UsageError` if a key does not exist."""
    if not Path(path).is_file():
        raise UsageError(f"no such file: {os.fspath(path)}; pass the PEM file of a key")


def _library(module: str) -> Any:
    """A module of model-signing."""
    from importlib import import_module

    try:
        return import_module(f"model_signing.{module}")
    except ImportError as error:
        raise MissingDependencyError("model-signing", "sign") from error
