"""``az.export`` and ``net.export``: results as objects, as ``alphanet export`` prints them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import alphanet_zoo as az
from alphanet_export.export import ExportResult
from alphanet_export.quantize.judge import judge
from alphanet_export.quantize.writing import write_int8
from alphanet_export.runtimes.runtime import open_runtime
from alphanet_zoo.cli.export import main
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import build_supernet
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.zoo.files import load_net, save_net
from tests.export.exported import tiny_net, write_images

SMALL = ALPHANET_TINY.smallest


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("export") / "images", each=4)


def test_a_network_is_exported_and_described_by_an_object(images: Path, tmp_path: Path) -> None:
    net = tiny_net()
    result = net.export(tmp_path / "model.onnx", data=images, name="mine")
    assert isinstance(result, ExportResult) and result.path == tmp_path / "model.onnx"
    assert (result.name, result.arch, result.num_classes) == ("mine", SMALL, 10)
    assert result.macs == az.count_macs(SMALL, ALPHANET_TINY, 10)
    (file,) = result.files
    assert file.size == result.path.stat().st_size and 0 < file.parity_error < 2e-5
    assert file.accuracy.images == 40 and file.top1 == 100 * file.accuracy.correct / 40
    assert set(result.sizes) == {result.path, tmp_path / "model.verify.json"}
    text = str(result)
    assert text.startswith("model:     mine: 0.20 M MACs (0.39 M FLOPs)") and f"wrote:     {result.path}" in text
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.name = "other"


def test_the_command_prints_the_result_of_the_function(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_net(tiny_net(), tmp_path / "net.safetensors")
    target = tmp_path / "net.onnx"
    assert main([str(tmp_path / "net.safetensors"), "--data", str(images), "-o", str(target)]) == 0
    printed = capsys.readouterr().out
    assert printed == f"{az.export(tmp_path / 'net.safetensors', target, data=images)}\n"


def test_a_subnet_is_calibrated_on_a_folder_or_on_batches(images: Path, tmp_path: Path) -> None:
    supernet = fill_live(build_supernet(ALPHANET_TINY, 10))
    with pytest.raises(UsageError, match="is a supernet; choose the subnet"):
        supernet.export(tmp_path / "net.onnx")
    folder = supernet.export(tmp_path / "net.safetensors", arch=SMALL, calibration=images, calibration_images=16)
    assert folder.calibration["images"] == 16 and folder.name == "alphanet"
    batches = [torch.randn(4, 3, 12, 12)]
    direct = supernet.export(tmp_path, arch="smallest", calibration=batches, format=["safetensors", "onnx"])
    assert [file.format for file in direct.files] == ["onnx", "safetensors"]
    assert direct.calibration["images"] == 4 and direct.file("onnx").path == tmp_path / "smallest.onnx"
    with pytest.raises(UsageError, match="requires labelled images"):
        supernet.export(tmp_path / "net.onnx", arch=SMALL, calibration=batches, quantize="int8")
    with pytest.raises(UsageError, match="output: .*is a folder|output .* does not end in"):
        supernet.export(tmp_path / "net.bin", arch=SMALL, calibration=images)


def test_weights_run_in_pytorch_with_their_name_and_preprocessing(tmp_path: Path) -> None:
    net = tiny_net()
    with pytest.raises(UsageError, match="safetensors does not support --img-size"):
        net.export(tmp_path / "w.safetensors", img_size=14)
    result = net.export(tmp_path / "w.safetensors", name="mine")
    assert load_net(result.path).pretrained_cfg["input_size"] == (3, 12, 12)
    pixels = torch.randn(2, 3, 12, 12)
    with open_runtime(result.path) as runtime, torch.inference_mode():
        torch.testing.assert_close(torch.from_numpy(runtime.infer(pixels.numpy())), net(pixels))
        assert runtime.metadata["alphanet.name"] == '"mine"'
    again = az.export(result.path, f"{tmp_path}/", format="pt2")
    assert again.name == "mine" and again.path.name == "mine.pt2"


def test_a_supernet_does_not_run(tmp_path: Path) -> None:
    save_net(build_supernet(ALPHANET_TINY, 10), tmp_path / "s.safetensors")
    with pytest.raises(UsageError, match="is a supernet, which has no outputs of its own"):
        open_runtime(tmp_path / "s.safetensors")


def test_an_openvino_file_without_its_weights_is_named(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    result = tiny_net().export(tmp_path / "net.xml")
    (tmp_path / "net.bin").unlink()
    with pytest.raises(AlphaNetError, match=r"net\.bin is missing; copy it beside net\.xml"):
        open_runtime(result.path)


def test_int8_options_are_checked(images: Path, tmp_path: Path) -> None:
    from alphanet_export.freeze import freeze

    with pytest.raises(UsageError, match="max_drop is -1; pass points of top-1, from 0 to 100"):
        write_int8(freeze(tiny_net()), FolderSource(images), onnx=tmp_path / "net.onnx", max_drop=-1)
    with pytest.raises(UsageError, match="quantize is 'int4'"):
        tiny_net().export(tmp_path / "net.onnx", quantize="int4")
    with pytest.raises(UsageError, match="requires calibration"):
        tiny_net().export(tmp_path / "net.onnx", quantize="int8")
    assert not list(tmp_path.iterdir())


def test_int8_files_do_not_take_the_float32_files_name(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_net(tiny_net(), tmp_path / "net.safetensors")
    common = [str(tmp_path / "net.safetensors"), "-o", f"{tmp_path}/out/"]
    assert main(common) == 0
    assert main([*common, "--quantize", "int8", "--calib-data", str(images), "--max-drop", "100"]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"net.onnx", "net.verify.json", "net.int8.onnx", "net.int8.verify.json"} <= names
    out, err = capsys.readouterr()
    assert "x as long (95 % interval" in err


def test_int8_near_chance_is_suspicious() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 10, generator=rng).numpy()
    guess = judge(logits, logits, torch.randint(10, (400,), generator=rng).numpy(), 0.5)
    assert "near chance (10.00 %)" in guess.suspicion and str(guess).startswith("top-1: int8 ")
    assert judge(logits, logits, logits.argmax(axis=1), 0.5).suspicion is None
    assert judge(logits, logits, None, 0.5).suspicion is None
