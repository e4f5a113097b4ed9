"""Fetching CIFAR-10, as torchvision does."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from pathlib import Path

from alphanet_zoo.errors import AlphaNetError

CIFAR_FOLDER = "cifar-10-batches-py"


def download_cifar(root: Path) -> None:
    """Fetches CIFAR-10 from its authors (170 MB), checks its digest, and puts ``cifar-10-batches-py`` into ``root``.

    It appears whole or not at all. The files are not unpickled here: `CifarSource` takes nothing but arrays from them.

    Args:
        root: The folder; it is made where it is missing.

    Raises:
        AlphaNetError: It cannot be fetched, is not what torchvision expects, or cannot be written.
    """
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_url

    try:
        root.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".cifar-10.", dir=root))
        try:
            download_url(CIFAR10.url, temporary, CIFAR10.filename, CIFAR10.tgz_md5)
            with tarfile.open(temporary / CIFAR10.filename) as archive:
                archive.extractall(temporary, filter="data")
            if not (root / CIFAR_FOLDER).exists():  # another machine may have been faster
                (temporary / CIFAR_FOLDER).rename(root / CIFAR_FOLDER)
        finally:
            shutil.rmtree(temporary)
    except (OSError, RuntimeError, tarfile.TarError) as error:
        raise AlphaNetError(
            f"cannot fetch CIFAR-10 from {CIFAR10.url}: {error}; copy its {CIFAR_FOLDER} into {root} instead"
        ) from error
