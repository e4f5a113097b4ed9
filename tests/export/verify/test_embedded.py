"""Files with their preprocessing inside, exported and verified by the commands from JPEG files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from alphanet_export.formats import FORMATS
from alphanet_export.metadata import open_exported, open_onnx
from alphanet_export.onnx_model import sealed
from alphanet_zoo.cli.export import main as export
from alphanet_zoo.cli.verify import main as verify
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import build_supernet
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.zoo.files import save_net

QUICK = ["--threads", "1", "--repeats", "2", "--seconds", "0.01", "--starts", "1"]
SIZES = [(60, 80), (80, 60), (33, 33), (14, 18), (9, 30), (120, 90)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet, an arch, and JPEG files of different sizes in class folders."""
    root = tmp_path_factory.mktemp("embedded")
    supernet = fill_live(build_supernet(ALPHANET_TINY, 10))
    supernet.calibration = "checkpoint"
    supernet.pretrained_cfg["label_names"] = tuple(map(str, range(10)))
    save_net(supernet, root / "supernet.safetensors")
    (root / "small.json").write_text(json.dumps(ALPHANET_TINY.smallest.to_dict()))
    rng = np.random.default_rng(0)
    for label in range(10):
        (root / "photographs" / str(label)).mkdir(parents=True)
        for number, (height, width) in enumerate(SIZES):
            coarse = rng.integers(0, 256, (height // 3 + 1, width // 3 + 1, 3), np.uint8)
            image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            image.save(root / "photographs" / str(label) / f"{number}.jpg", quality=90)
    return root


def exported(inputs: Path, path: Path, *words: str) -> Path:
    """A file that the command wrote."""
    source = ["--arch", str(inputs / "small.json"), "--supernet", str(inputs / "supernet.safetensors")]
    assert export([*source, "-o", str(path), *words]) == 0
    return path


def report_of(inputs: Path, path: Path, *words: str, code: int = 0) -> dict[str, object]:
    """The JSON report of the command on the JPEG files."""
    data = ["--data", str(inputs / "photographs"), "--reference", str(inputs / "supernet.safetensors")]
    target = path.with_suffix(".report.json")
    assert verify([str(path), *data, *QUICK, "--json", str(target), *words]) == code
    report: dict[str, object] = json.loads(target.read_text())
    return report


@pytest.fixture(scope="module")
def files(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with embedded.* and plain.* in every format that can include the preprocessing."""
    folder = tmp_path_factory.mktemp("files")
    formats = ["--format", ",".join(name for name, form in FORMATS.items() if form.embeds)]
    exported(inputs, folder / "embedded.onnx", *formats, "--embed-preprocessing", "--softmax")
    exported(inputs, folder / "plain.onnx", *formats, "--skip-verify")
    return folder


@pytest.mark.parametrize(
    "name", ["onnx", pytest.param("ort", marks=pytest.mark.slow), pytest.param("openvino", marks=pytest.mark.slow)]
)
def test_from_jpeg_files_to_the_same_answers(name: str, inputs: Path, files: Path) -> None:
    path, plain = (FORMATS[name].path(files / base) for base in ("embedded", "plain"))
    model = open_exported(path)
    assert model.embedded and model.embedding is not None and model.embedding.probabilities
    assert model.metadata["input"] == {
        "name": "image", "dtype": "uint8", "layout": "NHWC", "channels": "RGB", "preprocessing": "embedded"
    }  # fmt: skip
    assert model.metadata["output"] == "probabilities" and model.preprocessing == open_exported(plain).preprocessing
    inside, outside = report_of(inputs, path), report_of(inputs, plain)
    assert inside["accuracy"] == outside["accuracy"] and inside["accuracy"]["images"] == 60  # type: ignore[index]
    parity = inside["parity"]
    assert isinstance(parity, dict) and parity["holds"] and parity["images"] == 60 and not parity["synthetic"]
    assert parity["max_relative_error"] < (2e-5 if name != "openvino" else 1e-3)
    assert inside["mcnemar"]["p_value"] == 1.0  # type: ignore[index]
    assert inside["input"]["embedded_preprocessing"] and not outside["input"]["embedded_preprocessing"]  # type: ignore[index]
    assert (inside["input"]["output"], outside["input"]["output"]) == ("probabilities", "logits")  # type: ignore[index]
    assert inside["latency"]["median_ms"] > 0 and inside["memory"]["peak_mb"] > 0  # type: ignore[index]
    if name == "onnx":  # The softmax is the only node that is added to the network.
        assert inside["graph_health"]["nodes"] == outside["graph_health"]["nodes"] + 1  # type: ignore[index]
        assert inside["graph_rules"] == outside["graph_rules"]


def test_another_mean_in_the_graph_breaks_parity(inputs: Path, files: Path, tmp_path: Path) -> None:
    model = onnx.load(files / "embedded.onnx")
    stored = [tensor for tensor in model.graph.initializer if tensor.name.startswith("preprocessing/")]
    scale = next(tensor for tensor in stored if list(tensor.dims) == [1, 3, 1, 1])
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.01), scale.name))
    (tmp_path / "net.onnx").write_bytes(sealed(model.SerializeToString()))
    assert report_of(inputs, tmp_path / "net.onnx", code=3)["parity"]["holds"] is False  # type: ignore[index]


@pytest.mark.slow
def test_without_a_reference_or_images(files: Path, tmp_path: Path) -> None:
    words = [str(files / "embedded.onnx"), *QUICK, "--vs", str(files / "plain.onnx")]
    assert verify([*words, "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["consistency"]["images"] == 8 and report["consistency"]["synthetic"]
    assert report["timing_ratio"]["ratio"] > 1


def test_metadata_that_does_not_fit_the_graph(files: Path, tmp_path: Path) -> None:
    model = onnx.load(files / "embedded.onnx")
    kept = [entry for entry in model.metadata_props if entry.key != "alphanet.input"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    (tmp_path / "net.onnx").write_bytes(sealed(model.SerializeToString()))
    with pytest.raises(AlphaNetError, match=r"its input is not that of its metadata alphanet\.input"):
        open_exported(tmp_path / "net.onnx")


def test_what_takes_normalised_pixels_refuses_the_file(files: Path) -> None:
    with pytest.raises(UsageError, match="includes its preprocessing"):
        open_onnx(files / "embedded.onnx")


def test_the_summary_describes_input_and_output(inputs: Path, tmp_path: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    exported(inputs, tmp_path / "net.onnx", "--embed-preprocessing", "--skip-verify")
    out = capsys.readouterr().out
    assert "input:     image (1, H, W, 3), uint8 RGB; in the graph: short side 13, centre crop 12" in out
    assert "output:    logits" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--softmax"], "--softmax requires --embed-preprocessing"),
        (["--embed-preprocessing", "--dynamic-batch"], "does not support --dynamic-batch"),
        (["--embed-preprocessing", "--pt2"], "supports --format onnx and ort and openvino, not pt2"),
        (["--embed-preprocessing", "--model-repository", "models"], "does not support --embed-preprocessing"),
    ],
)
def test_options_that_do_not_fit(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(["--model", "alphanet_a0", "--weights", "random", *words]) == 2
    assert told in capsys.readouterr().err
