from __future__ import annotations

import json
from pathlib import Path

import pytest

from alphanet_export.build import Source
from alphanet_export.freeze import FrozenNet, freeze
from alphanet_export.write import write_export
from alphanet_export.writers.to_coreml import check_coreml, write_coreml
from alphanet_zoo.errors import ParityError, UsageError
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.presets import ALPHANET_TINY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def frozen() -> FrozenNet:
    return freeze(fill_live(AlphaNet(ALPHANET_TINY.smallest, ALPHANET_TINY, 10)).eval())


def test_a_package_is_written_checked_and_described(frozen: FrozenNet, tmp_path: Path) -> None:
    path = tmp_path / "net.mlpackage"
    written = write_export(frozen, Source(frozen.net, "tiny"), coreml=path)
    assert written.unrun == ("coreml",) and not written.parities and [*tmp_path.iterdir()] == [path]
    assert not list(path.glob("*debug*")) and sorted(entry.name for entry in path.iterdir()) == [
        "Data",
        "Manifest.json",
    ]
    import coremltools

    spec = coremltools.utils.load_spec(str(path))
    entries = spec.description.metadata.userDefined
    assert json.loads(entries["alphanet.name"]) == "tiny"
    assert json.loads(entries["alphanet.arch"]) == frozen.net.arch.to_dict()
    write_export(frozen, coreml=path)  # Takes the place of the one that is there.
    other = freeze(fill_live(AlphaNet(ALPHANET_TINY.largest, ALPHANET_TINY, 10)).eval())
    with pytest.raises(ParityError, match="conv"):
        check_coreml(path, other)


def test_what_core_ml_has_no_operator_for_is_refused(frozen: FrozenNet, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one image of the arch's resolution"):
        write_coreml(freeze(frozen.net, img_size=14), tmp_path / "net.mlpackage")
