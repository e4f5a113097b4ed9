from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from alphanet_export.placing import output_files
from alphanet_zoo.cli.export import main
from alphanet_zoo.errors import UsageError
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import build_supernet
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.zoo.files import save_net


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with archs, supernets of three provenances, damaged files and training images."""
    root = tmp_path_factory.mktemp("inputs")
    supernet = fill_live(build_supernet(ALPHANET_TINY, 10))
    for name, calibration in (("published", "checkpoint"), ("trained", None), ("random", "random")):
        supernet.calibration = calibration  # type: ignore[assignment]
        save_net(supernet, root / f"{name}.safetensors")
    content = (root / "published.safetensors").read_bytes()
    (root / "truncated.safetensors").write_bytes(content[: len(content) // 2])
    (root / "small.json").write_text(json.dumps(ALPHANET_TINY.smallest.to_dict()))
    (root / "outside.json").write_text(json.dumps(ALPHANET_TINY.smallest.to_dict() | {"resolution": 13}))
    (root / "broken.json").write_text("{")
    for index in range(6):
        folder = root / "images" / str(index % 2)
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    (root / "empty").mkdir()
    return root


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, and no organisation on the Hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALPHANET_HUB_ORG", raising=False)
    yield tmp_path


def subnet(inputs: Path, supernet: str = "published", arch: str = "small") -> list[str]:
    return ["--arch", str(inputs / f"{arch}.json"), "--supernet", str(inputs / f"{supernet}.safetensors")]


def metadata(path: Path) -> dict[str, object]:
    return {p.key.removeprefix("alphanet."): json.loads(p.value) for p in onnx.load(path).metadata_props}


def test_a0_with_random_weights(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--flops", "203M", "--onnx", "--weights", "random", "--img-size", "224"]) == 0
    out, err = capsys.readouterr()
    assert sorted(path.name for path in workdir.iterdir()) == ["alphanet_a0.onnx", "alphanet_a0.verify.json"]
    assert "alphanet_a0: 203.39 M MACs" in out and "resized to 192 in the graph" in out and "parity:" in out
    assert "published" not in out and "random" in err
    facts = metadata(workdir / "alphanet_a0.onnx")
    assert (facts["weights"], facts["calibration"], facts["num_classes"]) == ("random", "random", 1000)
    proto = onnx.load(workdir / "alphanet_a0.onnx")
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("Resize") == 1 and kinds.count("GlobalAveragePool") == 10 + 1
    assert set(kinds) == {"Conv", "Sigmoid", "Mul", "Relu", "HardSigmoid", "GlobalAveragePool", "AveragePool", "Add",
                          "Flatten", "Resize"}  # fmt: skip
    session = onnxruntime.InferenceSession(workdir / "alphanet_a0.onnx", providers=["CPUExecutionProvider"])
    assert session.run(["logits"], {"pixel_values": np.zeros((1, 3, 224, 224), np.float32)})[0].shape == (1, 1000)


def test_subnet_of_the_published_checkpoint_says_that_it_is_not_calibrated(
    inputs: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*subnet(inputs), "--onnx", "--pt2", "--dynamic-batch", "-o", "new/"]) == 0
    assert sorted(path.name for path in (workdir / "new").iterdir()) == [
        "README.md", "labels.txt", "predict.py", "predict_pt2.py", "preprocessing.json", "small.onnx",
        "small.pt2", "small.pt2.verify.json", "small.verify.json",
    ]  # fmt: skip
    assert "--calib-data" in capsys.readouterr().err
    assert metadata(workdir / "new" / "small.onnx")["calibration"] == "sliced"
    session = onnxruntime.InferenceSession(workdir / "new" / "small.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 5):
        images = np.zeros((count, 3, 12, 12), np.float32)
        assert session.run(["logits"], {"pixel_values": images})[0].shape == (count, 10)


@pytest.mark.parametrize("supernet", ["trained", "random"])
def test_subnet_of_a_supernet_trained_here_wants_calibration(
    supernet: str, inputs: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(subnet(inputs, supernet)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "statistics" in err and "--calib-data" in err
    assert not list(workdir.iterdir())
    calibrated = [*subnet(inputs, supernet), "--calib-data", str(inputs / "images"), "--skip-verify"]
    assert main([*calibrated, "-o", "net.onnx"]) == 0
    record = metadata(workdir / "net.onnx")["calibration"]
    assert isinstance(record, dict) and (record["images"], record["batches"]) == (6, 1)
    assert "not measured" in capsys.readouterr().out


BAD_WORDS = [
    [],
    ["--onnx"],
    ["--flops", "0"],
    ["--flops", "-1"],
    ["--flops=-1"],
    ["--flops", "nan"],
    ["--flops", "inf"],
    ["--flops", ""],
    ["--flops", "444MB"],
    ["--flops", "444M", "--family", "none"],
    ["--flops", "444M", "--model", "alphanet_a4"],
    ["--model", "alphanet_a4", "--family", "imagenet"],
    ["--model", "alphanet_a4", "--calib-images", "8"],
    ["--model", "alphanet_a4", "--no-calib-augment"],
    ["--model", "alphanet_a4", "--calib-data", "none"],
    ["--model", "alphanet_a4", "--num-classes", "0"],
    ["--model", "alphanet_a4", "--num-classes", "ten"],
    ["--model", "alphanet_a4", "--img-size", "0"],
    ["--model", "alphanet_a4", "--img-size", "22400"],
    ["--model", "alphanet_a4", "--opset", "17"],
    ["--model", "alphanet_a4", "--format", ""],
    ["--model", "alphanet_a4", "--format", "onnx,tflite"],
    ["--model", "alphanet_a4", "--format", "openvino", "--opset", "18"],
    ["--model", "alphanet_a4", "--pt2", "--opset", "18"],
    ["--model", "alphanet_a4", "--format", "onnx,executorch", "--dynamic-batch"],
    ["--model", "alphanet_a4", "--format", "openvino", "-o", "net.onnx"],
    ["--model", "alphanet_a4", "--seed", "-1"],
    ["--model", "alphanet_a4", "--embed-preprocessing", "--web", "page/"],
    ["--model", "alphanet_a4", "--embed-preprocessing", "--model-repository", "models/"],
    ["--model", "alphanet_a4", "-o", ""],
    ["--model", "alphanet_a4", "-o", "net.tflite"],
    ["--model", "alphanet_a4", "-o", "net"],
    ["--model", "alphanet_a4", "--pt2", "-o", "net.onnx"],
    ["--model", "alphanet_a4", "--supernet", "none"],
    ["--model", "alphanet_a4", "surplus"],
    ["--arch", "none.json", "--supernet", "none.safetensors"],
    ["--mod", "alphanet_a4"],
]


@pytest.mark.parametrize("words", BAD_WORDS, ids=" ".join)
def test_bad_words_end_with_2_before_anything_is_loaded(
    words: list[str], workdir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "alphanet_export.build", None)  # Importing it now fails, with exit code 1.
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("alphanet-export: error: ")
    assert not list(workdir.iterdir())


def test_bad_contents(inputs: Path, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", "alphanet_a0"]
    cases = [
        (5, ["--flops", "1M"], "alphanet_a0 with 203.39 M MACs"),
        (2, ["--model", "alphanet_a9"], "alphanet_a"),
        (1, model, "not published yet"),
        (2, [*model, "--weights", "none.safetensors"], "none.safetensors"),
        (1, [*model, "--weights", str(inputs / "truncated.safetensors")], "truncated.safetensors"),
        (1, [*model, "--weights", str(inputs / "published.safetensors")], "published.safetensors"),
        (2, [*model, "--weights", "random", "--calib-data", str(inputs / "images")], "leave --calib-data out"),
        (2, subnet(inputs)[:2], "--supernet"),
        (2, [*subnet(inputs), "--weights", "random"], "--weights"),
        (2, [*subnet(inputs), "--num-classes", "11"], "10 classes"),
        (2, [*subnet(inputs), "--calib-data", str(inputs / "empty")], "no images"),
        (2, [*subnet(inputs), "--calib-data", str(inputs / "small.json")], "not a folder"),
        (2, [*subnet(inputs), "-o", str(inputs / "small.json" / "net.onnx")], "is a file"),
        (2, subnet(inputs, arch="outside"), "resolution is 13"),
        (1, subnet(inputs, arch="broken"), "broken.json"),
        (1, subnet(inputs, "truncated"), "truncated.safetensors"),
    ]
    for code, words, told in cases:
        assert main(words) == code, words
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and told in err, (words, err)
    assert not list(workdir.iterdir())


def test_output_paths(tmp_path: Path) -> None:
    def names(output: str | None, *formats: str) -> list[Path]:
        return list(output_files(output, "alphanet_a5.1", formats).values())

    assert names(None, "onnx") == [Path("alphanet_a5.1.onnx")]
    assert names(None, "pt2", "aoti") == [Path("alphanet_a5.1.pt2"), Path("alphanet_a5.1.aoti.pt2")]
    assert names(str(tmp_path), "openvino") == [tmp_path / "alphanet_a5.1.xml"]
    assert names("new/", "onnx", "executorch") == [Path("new/alphanet_a5.1.onnx"), Path("new/alphanet_a5.1.pte")]
    assert names("b.2.onnx", "onnx", "pt2") == [Path("b.2.onnx"), Path("b.2.pt2")]
    assert names("b.PT2", "onnx", "pt2") == [Path("b.onnx"), Path("b.pt2")]
    assert names("b.aoti.pt2", "pt2", "aoti") == [Path("b.pt2"), Path("b.aoti.pt2")]
    (tmp_path / "c.mlpackage").mkdir()
    assert names(str(tmp_path / "c.mlpackage"), "coreml") == [tmp_path / "c.mlpackage"]
    for wrong, format_name in (("b.bin", "onnx"), ("b.pt2", "aoti")):
        with pytest.raises(UsageError, match=r"does not end in \.(onnx|aoti\.pt2)"):
            names(wrong, format_name)


def test_format_writes_what_it_names(inputs: Path, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*subnet(inputs), "--format", "pt2,openvino", "--onnx", "-o", "out/"]) == 0
    out, err = capsys.readouterr()
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "README.md", "labels.txt", "predict.py", "predict_openvino.py", "predict_pt2.py", "preprocessing.json",
        "small.bin", "small.onnx", "small.pt2", "small.pt2.verify.json", "small.verify.json", "small.xml",
        "small.xml.json", "small.xml.verify.json",
    ]  # fmt: skip
    (line,) = [line for line in out.splitlines() if line.startswith("parity:")]
    for runtime in ("ONNX Runtime", "OpenVINO", "PyTorch ExportedProgram"):
        assert f" in {runtime}" in line
    assert out.count("wrote:") == 14 and err.count("\n") == 1


def test_missing_package_ends_with_6(inputs: Path, capsys: pytest.CaptureFixture[str],
                                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    for name, package in (("openvino", "openvino"), ("executorch", "executorch"), ("coreml", "coremltools")):
        monkeypatch.setitem(sys.modules, package, None)
        assert main([*subnet(inputs), "--format", f"onnx,{name}"]) == 6
        assert f"{package} is not installed; add it with: pip install 'alphanet-zoo[{name}]'" in capsys.readouterr().err
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main([*subnet(inputs), "--format", "aoti"]) == 6
    assert "C++ compiler no-such-compiler is not installed" in capsys.readouterr().err


def test_img_size_that_core_ml_cannot_honour(inputs: Path, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("coremltools")
    assert main([*subnet(inputs), "--format", "coreml", "--img-size", "14"]) == 2
    assert "--format coreml does not support --img-size" in capsys.readouterr().err
    assert not list(workdir.iterdir())


def test_help_is_quick_and_loads_no_torch() -> None:
    script = "import sys; from alphanet_zoo.cli.export import main\ntry: main(['--help'])\nfinally: print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    text, _, modules = ran.stdout.strip().rpartition("\n")
    assert "MACs" in text and "--calib-data" in text
    assert not {"torch", "onnx", "onnxruntime", "torchvision", "openvino"} & set(modules.split())
