from __future__ import annotations

import io
import json
from pathlib import Path

import onnx
import pytest
import torch

from alphanet_export.freeze import FrozenNet, freeze
from alphanet_export.parity import synthetic_images
from alphanet_export.source import Source
from alphanet_export.to_pt2 import check_program, program_bytes
from alphanet_export.write import write_export
from alphanet_zoo.errors import ParityError
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.presets import ALPHANET_TINY


@pytest.fixture(scope="module")
def frozen() -> FrozenNet:
    return freeze(fill_live(AlphaNet(ALPHANET_TINY.smallest, ALPHANET_TINY, 10)).eval())


def test_both_files_are_written_with_their_metadata(frozen: FrozenNet, tmp_path: Path) -> None:
    onnx_path, pt2_path = tmp_path / "new" / "net.onnx", tmp_path / "new" / "net.pt2"
    written = write_export(frozen, Source(frozen.net, "tiny"), onnx=onnx_path, pt2=pt2_path)
    assert sorted(path.name for path in onnx_path.parent.iterdir()) == ["net.onnx", "net.pt2"]
    assert written.sizes == {path: path.stat().st_size for path in (onnx_path, pt2_path)}
    assert written.parity is not None and written.parity.images == 8 and written.parity.max_relative_error < 1e-5
    assert written.program_error is not None and written.program_error < 1e-5
    props = {p.key: json.loads(p.value) for p in onnx.load(onnx_path).metadata_props}
    assert props["alphanet.name"] == "tiny"
    extra = {"alphanet.name": "", "alphanet.arch": ""}
    program = torch.export.load(pt2_path, extra_files=extra)
    assert json.loads(extra["alphanet.arch"]) == props["alphanet.arch"] == frozen.net.arch.to_dict()
    assert program.module()(synthetic_images(1, 12)).shape == (1, 10)


def test_program_file_has_no_paths_of_this_machine(frozen: FrozenNet) -> None:
    content = program_bytes(frozen)
    assert str(Path(torch.__file__).parent).encode() not in content
    assert str(Path(__file__).parent.parent.parent).encode() not in content
    torch.export.load(io.BytesIO(content))


def test_broken_parity_leaves_nothing(frozen: FrozenNet, tmp_path: Path) -> None:
    wrong = FrozenNet(fill_live(AlphaNet(frozen.net.arch, ALPHANET_TINY, 10), seed=1).eval(), frozen.program,
                      frozen.preprocessing, frozen.dynamic_batch)  # fmt: skip
    for kinds in ({"onnx": tmp_path / "out" / "a.onnx"}, {"pt2": tmp_path / "out" / "a.pt2"}):
        with pytest.raises(ParityError) as caught:
            write_export(wrong, **kinds)
        assert caught.value.exit_code == 3
    assert not list(tmp_path.iterdir())
    unchecked = write_export(wrong, onnx=tmp_path / "a.onnx", verify=False)
    assert unchecked.parity is None and (tmp_path / "a.onnx").exists()


def test_a_file_that_cannot_be_written_leaves_none(frozen: FrozenNet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError):
        write_export(frozen, onnx=tmp_path / "a.onnx", pt2=tmp_path / "file" / "a.pt2", verify=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_nothing_to_write_is_refused(frozen: FrozenNet) -> None:
    with pytest.raises(ValueError, match="give onnx or pt2"):
        write_export(frozen)


def test_program_that_is_not_finite_breaks_parity(frozen: FrozenNet) -> None:
    images = synthetic_images(1, 12)
    images[0, 0, 0, 0] = torch.nan
    with pytest.raises(ParityError):
        check_program(program_bytes(frozen), frozen, images)
