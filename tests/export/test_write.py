from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch

from alphanet_export.build import Source
from alphanet_export.freeze import FrozenNet, freeze
from alphanet_export.verify.measure.parity import synthetic_images
from alphanet_export.write import write_export
from alphanet_export.writers.to_pt2 import write_program
from alphanet_zoo.errors import ParityError, UsageError
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.presets import ALPHANET_TINY


@pytest.fixture(scope="module")
def frozen() -> FrozenNet:
    return freeze(fill_live(AlphaNet(ALPHANET_TINY.smallest, ALPHANET_TINY, 10)).eval())


def test_both_files_are_written_with_their_metadata(frozen: FrozenNet, tmp_path: Path) -> None:
    onnx_path, pt2_path = tmp_path / "new" / "net.onnx", tmp_path / "new" / "net.pt2"
    written = write_export(frozen, Source(frozen.net, "tiny"), onnx=onnx_path, pt2=pt2_path)
    assert sorted(path.name for path in onnx_path.parent.iterdir()) == [
        "net.onnx", "net.pt2", "net.pt2.verify.json", "net.verify.json"
    ]  # fmt: skip
    assert written.sizes == {path: path.stat().st_size for path in onnx_path.parent.iterdir()}
    assert list(written.parities) == ["onnx", "pt2"] and written.unrun == ()
    assert all(parity.images == 8 and parity.max_relative_error < 1e-5 for parity in written.parities.values())
    props = {p.key: json.loads(p.value) for p in onnx.load(onnx_path).metadata_props}
    assert props["alphanet.name"] == "tiny"
    extra = {"alphanet.name": "", "alphanet.arch": ""}
    program = torch.export.load(pt2_path, extra_files=extra)
    assert json.loads(extra["alphanet.arch"]) == props["alphanet.arch"] == frozen.net.arch.to_dict()
    assert program.module()(synthetic_images(1, 12)).shape == (1, 10)


def test_program_file_has_no_paths_of_this_machine(frozen: FrozenNet, tmp_path: Path) -> None:
    write_program(frozen, tmp_path / "net.pt2")
    content = (tmp_path / "net.pt2").read_bytes()
    assert str(Path(torch.__file__).parent).encode() not in content
    assert str(Path(__file__).parent.parent.parent).encode() not in content
    torch.export.load(tmp_path / "net.pt2")


def test_broken_parity_leaves_nothing(frozen: FrozenNet, tmp_path: Path) -> None:
    wrong = FrozenNet(fill_live(AlphaNet(frozen.net.arch, ALPHANET_TINY, 10), seed=1).eval(), frozen.program,
                      frozen.preprocessing, frozen.dynamic_batch)  # fmt: skip
    out = tmp_path / "out"
    for kinds in ({"onnx": out / "a.onnx"}, {"pt2": out / "a.pt2"}, {"openvino": out / "a.xml"}):
        with pytest.raises(ParityError) as caught:
            write_export(wrong, **kinds)
        assert caught.value.exit_code == 3
    assert not list(tmp_path.iterdir())
    unchecked = write_export(wrong, onnx=tmp_path / "a.onnx", verify=False)
    assert not unchecked.parities and (tmp_path / "a.onnx").exists()


def test_a_file_that_cannot_be_written_leaves_none(frozen: FrozenNet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError):
        write_export(frozen, onnx=tmp_path / "a.onnx", pt2=tmp_path / "file" / "a.pt2", verify=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_nothing_to_write_is_refused(frozen: FrozenNet) -> None:
    with pytest.raises(ValueError, match="pass onnx or ort or openvino or"):
        write_export(frozen)


def test_formats_that_cannot_take_the_net_are_refused(tmp_path: Path) -> None:
    net = fill_live(AlphaNet(ALPHANET_TINY.smallest, ALPHANET_TINY, 10)).eval()
    resized, dynamic = freeze(net, img_size=14), freeze(net, dynamic_batch=True)
    for frozen, kinds, told in (
        (resized, {"coreml": tmp_path / "a.mlpackage"}, "--format coreml does not support --img-size"),
        (dynamic, {"coreml": tmp_path / "a.mlpackage"}, "--format coreml does not support --dynamic-batch"),
        (dynamic, {"executorch": tmp_path / "a.pte"}, "--format executorch does not support --dynamic-batch"),
    ):
        with pytest.raises(UsageError, match=told):
            write_export(frozen, onnx=tmp_path / "a.onnx", **kinds)
    assert not list(tmp_path.iterdir())
