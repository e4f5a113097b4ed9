"""Everything that takes a float32 ONNX file takes an int8 one: web page, model repository, ORT format, embedding."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from alphanet_export.freeze import freeze
from alphanet_export.metadata import open_exported
from alphanet_export.quantize.writing import write_int8
from alphanet_export.runtimes.runtime import open_runtime
from alphanet_export.writers.ort_web import ORT_WEB_FILES
from alphanet_zoo.cli.export import main
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.zoo.files import save_net


def is_int8(path: Path) -> bool:
    """Whether an ONNX file quantises."""
    return any(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node)


def test_a_web_page_and_a_model_repository(net: AlphaNet, digits: FolderSource, tmp_path: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    package = tmp_path / "onnxruntime-web"
    (package / "dist").mkdir(parents=True)
    for name in ORT_WEB_FILES:
        (package / "dist" / name).write_text(name)
    (package / "package.json").write_text(json.dumps({"name": "onnxruntime-web", "version": "9.8.7"}))
    net.supernet = False
    save_net(net, tmp_path / "net.safetensors")
    (tmp_path / "arch.json").write_text(json.dumps(net.arch.to_dict()))
    words = ["--arch", str(tmp_path / "arch.json"), "--supernet", str(tmp_path / "net.safetensors"),
             "--quantize", "int8", "--calib-data", str(digits.root), "--max-drop", "100",
             "--web", str(tmp_path / "page"), "--ort-web", str(package),
             "--model-repository", str(tmp_path / "models")]  # fmt: skip
    assert main(words) == 0
    assert "wrote:" in capsys.readouterr().out
    page, entry = tmp_path / "page" / "model.onnx", tmp_path / "models" / "arch"
    assert is_int8(page) and page.read_bytes() == (entry / "1" / "model.onnx").read_bytes()
    assert (entry / "config.pbtxt").is_file()
    assert json.loads((tmp_path / "page" / "model.json").read_text())["precision"] == "int8"
    assert not list(Path.cwd().glob("arch*"))


def test_a_trained_network_keeps_its_statistics(net: AlphaNet, digits: FolderSource, tmp_path: Path) -> None:
    trained = copy.deepcopy(net)
    trained.calibration = "training"
    result = trained.export(tmp_path / "net.onnx", quantize="int8", calibration=digits, max_drop=100)
    assert open_exported(tmp_path / "net.onnx").metadata["calibration"] == "training" == result.calibration
    trained.calibration = None
    trained.export(tmp_path / "net.onnx", quantize="int8", calibration=digits, max_drop=100)
    assert open_exported(tmp_path / "net.onnx").metadata["calibration"]["images"] == len(digits)


def test_ort_format_and_embedded_preprocessing(net: AlphaNet, digits: FolderSource, tmp_path: Path) -> None:
    pictures = [digits.load(index).permute(1, 2, 0)[None].numpy() for index in range(40)]
    written = write_int8(
        freeze(net), digits, onnx=tmp_path / "net.onnx", ort=tmp_path / "net.ort", max_drop=100.0,
        embed_preprocessing=True, probabilities=True,
    )  # fmt: skip
    assert is_int8(tmp_path / "net.onnx") and set(written.logs) == {"onnx", "ort"}
    answers = []
    for name in ("net.onnx", "net.ort"):
        model = open_exported(tmp_path / name)
        assert model.embedded and model.metadata["quantization"]
        with open_runtime(tmp_path / name, threads=1) as runtime:
            answers.append(np.concatenate([runtime.infer(picture) for picture in pictures]))
        np.testing.assert_allclose(np.exp(answers[-1]).sum(1), 1, rtol=1e-5)
    assert (answers[0].argmax(1) == answers[1].argmax(1)).mean() > 0.9
    right = answers[0].argmax(1) == digits.labels[:40].numpy()
    assert right.mean() > 0.5
