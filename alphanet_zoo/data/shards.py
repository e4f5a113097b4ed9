"""WebDataset shards, on this machine or in object storage, as images by index.

Shards at a URL are downloaded whole, once, into a cache folder, through the `webdataset` package with its safe mode on:
no ``pipe:`` URLs, no rewriting of URLs by the environment, no unpickling. Local shards are read at any place, so that
a batch is a function of the step, as for every source.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from alphanet_zoo.data.folder import is_image_name, is_skipped
from alphanet_zoo.data.images import decode_image
from alphanet_zoo.errors import AlphaNetError, MissingDependencyError, MissingProgramError, UsageError
from alphanet_zoo.files import replacing
from alphanet_zoo.locks import locked_file

SCHEMES = ("https", "http", "gs", "hf")
"""Schemes of the URLs that shards can have; `webdataset` downloads with curl, and with gsutil for ``gs``."""

_FETCHES = 8


def webdataset_safely() -> ModuleType:
    """The `webdataset` package with its safe mode on, for this process and those it starts.

    Raises:
        MissingDependencyError: It is not installed.
    """
    os.environ["WDS_SECURE"] = "1"
    try:
        import webdataset
    except ImportError as error:
        raise MissingDependencyError("webdataset", "train") from error
    webdataset.utils.enforce_security = True
    package: ModuleType = webdataset
    return package


class ShardSource:
    """The samples of all shards, in the shards' order: an image (``0001.jpg``) and its class (``0001.cls``, a number).

    Args:
        root: A folder, or a URL such as ``https://host/folder``.
        pattern: Names of the shards in it, with braces: ``train-{0000..1280}.tar``.
        cache: Folder to download shards into; required if ``root`` is a URL.

    Raises:
        UsageError: A shard is missing, or its URL does not have one of `SCHEMES`.
        AlphaNetError: A shard is damaged, or cannot be downloaded.
        MissingProgramError: The program that downloads it, such as curl, is not installed.
        MissingDependencyError: webdataset is not installed.
    """

    def __init__(self, root: str, pattern: str, *, cache: str | None = None) -> None:
        """Downloads the shards that are not in the cache, and reads the tables of contents."""
        package = webdataset_safely()
        from braceexpand import braceexpand

        self.name = f"{root.rstrip('/')}/{pattern}"
        addresses = [f"{root.rstrip('/')}/{name}" for name in braceexpand(pattern)]
        with ThreadPoolExecutor(_FETCHES) as pool:
            self._shards = list(pool.map(lambda address: _local_shard(address, cache, package), addresses))
        rows = [(number, *row) for number, shard in enumerate(self._shards) for row in _contents(shard, package)]
        if not rows:
            raise UsageError(
                f"{self.name} contains no samples; each is an image and its class, such as 0001.jpg and 0001.cls"
            )
        self._places, self.labels = torch.tensor(rows)[:, :3], torch.tensor([row[3] for row in rows])
        self.classes = [str(number) for number in range(int(self.labels.max()) + 1)]

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    def load(self, index: int) -> Tensor:
        """See `ImageSource`."""
        number, offset, size = self._places[index].tolist()
        shard = self._shards[number]
        try:
            with open(shard, "rb", buffering=0) as file:
                file.seek(offset)
                content = bytearray(file.read(size))
        except OSError as error:
            raise AlphaNetError(f"cannot read the shard {shard}: {error.strerror or error}") from error
        return decode_image(content, f"{shard} (at byte {offset})")


def _local_shard(address: str, cache: str | None, package: ModuleType) -> str:
    """The local file of a shard; of several processes that need to download it, one does and the others wait."""
    scheme, colon, _ = address.partition("://")
    if not colon:
        if not Path(address).is_file():
            raise UsageError(f"no such shard: {address}; set data.train and data.val to names of shards in data.root")
        return address
    if scheme not in SCHEMES:
        raise UsageError(f"{address} is not a URL of a shard; use one that starts with {', '.join(SCHEMES)} and ://")
    if cache is None:
        raise UsageError(f"shards at a URL ({address}) are downloaded into a folder; set data.cache to it")
    target = Path(cache) / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}-{Path(address).name}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked_file(Path(f"{target}.lock"), wait=True):
        if not target.exists():
            _fetch(address, target, package)
    return str(target)


def _fetch(address: str, target: Path, package: ModuleType) -> None:
    """Downloads a shard; the file appears only if it is whole and its table of contents can be read."""
    try:
        with replacing(target) as temporary:
            with package.gopen(address, "rb") as stream, temporary.open("wb") as file:
                shutil.copyfileobj(stream, file, 2**20)
            for _ in _contents(str(temporary), package):
                pass
    except (OSError, ValueError, AlphaNetError) as error:
        program = error.filename if isinstance(error, FileNotFoundError) else None
        if isinstance(program, str) and os.sep not in program:  # webdataset runs it for the download.
            raise MissingProgramError(f"{program}, which downloads {address}, is not installed; install it") from error
        raise AlphaNetError(f"cannot download the shard {address}: {error}") from error


def _contents(shard: str, package: ModuleType) -> Iterator[tuple[int, int, int]]:
    """Offset, size and class of each sample's image, in the shard's order; samples are grouped as `webdataset` does."""
    sample: dict[str, tuple[int, int] | int] = {}
    current = None
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                key, ending = package.tariterators.base_plus_ext(member.name)
                if key is None or not member.isreg() or member.issparse() or _is_skipped(member.name):
                    continue
                if key != current:
                    yield from _finished(sample, current, shard)
                    sample, current = {}, key
                if is_image_name(f"x.{ending}"):
                    sample["image"] = (member.offset_data, member.size)
                elif ending.lower() == "cls":
                    text = archive.extractfile(member)
                    sample["class"] = int(text.read(20)) if text else -1
            yield from _finished(sample, current, shard)
    except (OSError, ValueError, tarfile.TarError, EOFError) as error:
        raise AlphaNetError(f"cannot read the shard {shard}: {error}; download it again") from error


def _is_skipped(name: str) -> bool:
    """Whether a member, or a folder that it is in, is hidden or belongs to the system, as in folders of images."""
    return any(is_skipped(part) for part in name.split("/") if part not in (".", ".."))


def _finished(sample: dict[str, tuple[int, int] | int], key: str | None, shard: str) -> Iterator[tuple[int, int, int]]:
    """One sample's row; none if it has neither an image nor a class."""
    image, label = sample.get("image"), sample.get("class")
    if not isinstance(image, tuple):
        if label is not None:
            raise ValueError(f"its sample {key} has a class but no image of an accepted format")
        return
    if not isinstance(label, int) or label < 0:
        raise ValueError(f"its sample {key} has no class (a file {key}.cls with a number from 0)")
    yield (*image, label)
