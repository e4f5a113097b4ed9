"""Fixtures that the tests of several packages share."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MAKE_CHECKPOINT = Path(__file__).parent / "fixtures" / "upstream" / "make_checkpoint.py"


@pytest.fixture(scope="session")
def upstream_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the published checkpoint's layout with the weights that the golden figures are from (97 MB)."""
    path = tmp_path_factory.mktemp("upstream") / "checkpoint.pth.tar"
    subprocess.run([sys.executable, str(MAKE_CHECKPOINT), str(path)], check=True, timeout=200)
    return path


@pytest.fixture(autouse=True, scope="session")
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The models in the cache of the user who runs the tests are not seen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALPHANET_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True)
def logging_stays_on() -> Iterator[None]:
    """No test, and so no library that it runs, may switch off the warnings of the process."""
    levels = [(handler, handler.level) for handler in logging.root.handlers]
    yield
    assert logging.getLogger("alphanet_zoo").isEnabledFor(logging.WARNING)
    assert [(handler, handler.level) for handler, _ in levels] == levels
