from pathlib import Path

import pytest

from tests.zoo.saved import live_net


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `save_pretrained` writes for `live_net`; read only."""
    path = tmp_path_factory.mktemp("saved")
    live_net().save_pretrained(path)
    return path
