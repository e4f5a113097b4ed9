"""Models in the cache of this user: ``alphanet publish --to local`` writes them, and every command finds them by name.

A model is a folder ``<ALPHANET_HOME>/models/<name>``. Its `MANIFEST`, which is written last, has the SHA-256 of every
other file. Importing this module loads no torch.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alphanet_zoo.errors import AlphaNetError
from alphanet_zoo.files import LONGEST_NAME, replacing, sha256_of

HOME_VARIABLE = "ALPHANET_HOME"
"""Environment variable: the folder of the cache; ``~/.cache/alphanet_zoo`` if it is not set."""
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class LocalModel:
    """A published folder.

    Attributes:
        name: Name of the model.
        folder: The folder.
        sha256: SHA-256 of each file, by name.
        facts: What the folder was made from and how, and its accuracy if it was measured.
    """

    name: str
    folder: Path
    sha256: dict[str, str]
    facts: dict[str, Any]

    def damaged(self) -> list[str]:
        """The files that are missing or have another SHA-256 than when they were written."""
        found = []
        for name, digest in self.sha256.items():
            path = self.folder / name
            if not path.is_file() or sha256_of(path) != digest:
                found.append(name)
        return found

    def check(self) -> LocalModel:
        """Returns itself.

        Raises:
            AlphaNetError: A file is missing or damaged; names them.
        """
        damaged = self.damaged()
        if damaged:
            raise AlphaNetError(
                f"{self.folder} is damaged ({', '.join(damaged)} missing or changed); remove the folder and run "
                "alphanet publish again"
            )
        return self


def models_folder() -> Path:
    """The folder of the models in this user's cache, which need not exist."""
    home = os.environ.get(HOME_VARIABLE, "").strip()
    return (Path(home) if home else Path.home() / ".cache" / "alphanet_zoo") / "models"


def local_model(name: str) -> LocalModel | None:
    """A model in the cache; None if it is not there.

    Raises:
        AlphaNetError: Its manifest cannot be read.
    """
    if not name or name in (".", "..") or Path(name).name != name:
        return None
    return published_folder(models_folder() / name)


def local_models() -> list[LocalModel]:
    """The models in the cache by name.

    Raises:
        AlphaNetError: A manifest cannot be read.
    """
    folder = models_folder()
    found = map(published_folder, sorted(folder.iterdir())) if folder.is_dir() else iter(())
    return [model for model in found if model is not None]


def published_folder(folder: Path) -> LocalModel | None:
    """The model in a folder of ``alphanet publish``; None if the folder has no manifest.

    Raises:
        AlphaNetError: The manifest cannot be read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
        files = {str(name): str(digest) for name, digest in content["files"].items()}
        facts = dict(content["facts"])
        if any(not name or Path(name).name != name or len(os.fsencode(name)) > LONGEST_NAME for name in files):
            raise ValueError("a name in it is not that of a file in this folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AlphaNetError(f"{path} is damaged ({error}); remove the folder and run alphanet publish again") from error
    return LocalModel(folder.name, folder, files, facts)


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Writes the manifest of the files in a folder."""
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    with replacing(folder / MANIFEST) as temporary:
        text = json.dumps({"files": files, "facts": facts}, indent=1, sort_keys=True, allow_nan=False)
        temporary.write_text(text + "\n", "utf-8")
