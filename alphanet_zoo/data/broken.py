"""Images that cannot be decoded: one limit for training, calibration, search, quantization and verification."""

from __future__ import annotations

import functools
import logging

from alphanet_zoo.errors import AlphaNetError

BROKEN_SHARE = 1e-4
"""One broken image is tolerated, or this share of the images if that is more."""

_LOG = logging.getLogger(__name__)


@functools.cache
def warn_once(message: str) -> None:
    """Logs a warning the first time: images are opened and read several times."""
    _LOG.warning(message)


class BrokenImages:
    """The broken images of one source. Each is reported once per process by its path; too many are an error.

    Args:
        name: Name of the source, for the message.
        total: Number of images of the source.
        consequence: What happens to a broken image, for the warning, such as ``it is left out``.

    Attributes:
        messages: Error message of each broken image, by index.
    """

    def __init__(self, name: str, total: int, consequence: str) -> None:
        """Starts empty."""
        self.messages: dict[int, str] = {}
        self._name, self._total, self._consequence = name, total, consequence

    def check_some_left(self) -> None:
        """Checks that not every image is broken.

        Raises:
            AlphaNetError: Every image is broken; lists them.
        """
        if self._total and len(self.messages) == self._total:
            raise AlphaNetError("; ".join(self.messages.values()))

    def add(self, index: int, message: str) -> None:
        """Adds a broken image.

        Args:
            index: Its index in the source.
            message: Why it cannot be decoded; names the file.

        Raises:
            AlphaNetError: More than one image and more than `BROKEN_SHARE` of the images are broken; lists them.
        """
        if index in self.messages:
            return
        self.messages[index] = message
        warn_once(f"{message} ({self._consequence})")
        if len(self.messages) > max(1, BROKEN_SHARE * self._total):
            listed = "; ".join(text for _, text in sorted(self.messages.items()))
            raise AlphaNetError(
                f"{len(self.messages)} of the {self._total} images in {self._name} are broken, and 1 or "
                f"{BROKEN_SHARE:.2%} is accepted: {listed}. alphanet verify-data lists all broken images of a folder"
            )
