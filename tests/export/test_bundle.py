"""The files that explain an export; ``predict.py`` runs where the package is not installed."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import onnx
import pytest
from packaging.requirements import Requirement

import alphanet_zoo as az
from alphanet_export.build import Source
from alphanet_export.bundle import MARKER, bundle_moves, check_bundle_folder, script_text
from alphanet_export.formats import FORMATS
from alphanet_export.freeze import FrozenNet, freeze
from alphanet_export.metadata import facts
from alphanet_export.verify.reference import read_preprocessing
from alphanet_export.write import write_export
from alphanet_zoo.data.images import read_image
from alphanet_zoo.errors import UsageError
from alphanet_zoo.nn.model import AlphaNet
from tests.predict.pictures import LABELS, labelled_net

SCRIPTS = {"onnx": "predict.py", "openvino": "predict_openvino.py", "pt2": "predict_pt2.py"}

RUN = """
import importlib.util, runpy, sys
sys.path.insert(0, sys.argv[1])
assert not [name for name in ("alphanet_zoo", "alphanet_export", "pytest") if importlib.util.find_spec(name)]
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert not [name for name in sys.modules if name.startswith("alphanet")]
"""
"""Runs a program with the packages of one folder and the standard library, and nothing else."""


@functools.cache
def freeze_once() -> FrozenNet:
    return freeze(labelled_net())


def write_bundle(net: AlphaNet, folder: Path, *formats: str, **options: bool) -> Path:
    targets = {name: FORMATS[name].path(folder / "tiny") for name in formats}
    write_export(freeze(net, **options), Source(net, "tiny"), verify=False, bundle=True, **targets)
    return folder


def installed(names: list[str]) -> dict[str, Path]:
    """What ``pip install`` puts into site-packages for some distributions and all that they require, by name."""
    entries: dict[str, Path] = {}
    waiting, seen = list(names), set()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:  # Not required by what is used here.
            continue
        requirements = map(Requirement, found.requires or [])
        waiting += [each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
        for file in found.files or []:
            if file.parts[0] not in ("..", "__pycache__"):
                entries[file.parts[0]] = Path(str(found.locate_file(file.parts[0])))
    return entries


@functools.cache
def bare_environment(folder: Path, *packages: str) -> Path:
    """A folder with links to exactly the packages of ``pip install PACKAGES``."""
    folder.mkdir()
    for name, place in installed(list(packages)).items():
        (folder / name).symlink_to(place)
    return folder


def run_bare(script: Path, folder: Path, *arguments: Path) -> list[str]:
    """The output of a script with only the packages that its own text asks for."""
    (packages,) = re.findall(r"^Requirements: pip install (.*)$", script.read_text(), re.MULTILINE)
    place = bare_environment(folder / packages.replace(" ", "-"), *packages.split())
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", RUN, str(place), str(script), *map(str, arguments)],
        capture_output=True, text=True, timeout=200, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_an_unreadable_file_is_one_line(net: AlphaNet, paths: list[Path], tmp_path: Path) -> None:
    script = write_bundle(net, tmp_path / "new", "onnx") / "predict.py"
    text = tmp_path / "notes.txt"
    text.write_text("not an image")
    for bad, message in ((text, "cannot identify image file"), (tmp_path / "absent.jpg", "No such file")):
        done = subprocess.run(
            [sys.executable, str(script), str(paths[0]), str(bad)], capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 1 and len(done.stdout.splitlines()) == 1
        assert message in done.stderr and done.stderr.count("\n") == 1


def assert_agrees(lines: list[str], model: Path, paths: list[Path]) -> None:
    """The same five classes as `Classifier`, and probabilities within 1e-4."""
    assert len(lines) == len(paths)
    for line, result in zip(lines, az.Classifier.load(model, threads=1).predict(paths), strict=True):
        path, _, classes = line.partition(": ")
        found = re.findall(r"(class \d, or \w) (\d+\.\d\d) %", classes)
        assert path == str(result.path) and [label for label, _ in found] == [each.label for each in result.top]
        assert classes.count("%") == 5
        probabilities = [float(text) / 100 for _, text in found]
        np.testing.assert_allclose(probabilities, [each.probability for each in result.top], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["onnx", "openvino", pytest.param("pt2", marks=pytest.mark.slow)])
def test_the_script_agrees_with_the_classifier(
    name: str, bundle: Path, paths: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = run_bare(bundle / SCRIPTS[name], tmp_path_factory.mktemp("bare"), *paths)
    assert_agrees(lines, FORMATS[name].path(bundle / "tiny"), paths)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["executorch", "aoti"])
def test_the_script_of_slow_formats_agrees_with_the_classifier(
    name: str, net: AlphaNet, paths: list[Path], tmp_path: Path
) -> None:
    folder = write_bundle(net, tmp_path / "new", name)
    assert_agrees(run_bare(folder / "predict.py", tmp_path, *paths), FORMATS[name].path(folder / "tiny"), paths)


def test_the_bare_environment_has_only_what_the_runtime_requires() -> None:
    names = installed(["onnxruntime", "numpy", "pillow"])
    assert {"onnxruntime", "numpy", "PIL"} <= set(names)
    assert not {"torch", "alphanet_zoo", "alphanet_export", "scipy", "pytest"} & set(names)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "safetensors"])
def test_scripts_are_short_programs(name: str, net: AlphaNet) -> None:
    for file in ("a b'\\.onnx", "plain.onnx"):
        text = script_text(name, file, facts(freeze_once(), Source(net)))
        lines = text.splitlines()
        assert len(lines) <= 40 and max(map(len, lines)) <= 120
        assert file in compile(text, "predict.py", "exec").co_consts
        imported = set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
        packages = {"onnxruntime", "openvino", "executorch", "coremltools", "torch"}
        assert len(imported - {"json", "sys", "pathlib", "numpy", "PIL", "torch"}) <= 1
        assert imported <= {"json", "sys", "pathlib", "numpy", "PIL", *packages}


def test_the_files(bundle: Path, net: AlphaNet, paths: list[Path]) -> None:
    assert sorted(path.name for path in bundle.iterdir()) == [
        "README.md", "labels.txt", "predict.py", "predict_openvino.py", "predict_pt2.py", "preprocessing.json",
        "tiny.bin", "tiny.onnx", "tiny.pt2", "tiny.xml", "tiny.xml.json",
    ]  # fmt: skip
    assert (bundle / "labels.txt").read_text().splitlines() == list(LABELS)
    preprocessing = read_preprocessing(bundle / "preprocessing.json")
    assert preprocessing == freeze_once().preprocessing
    text = (bundle / "README.md").read_text()
    assert text.startswith("# tiny\n") and MARKER in text and "{" not in text and "\n\n\n" not in text
    for word in (
        "10 classes: ", "python predict.py photo.jpg    # ONNX Runtime", "pip install openvino numpy pillow",
        "python predict_pt2.py", "| `tiny.verify.json`, `tiny.xml.verify.json`, `tiny.pt2.verify.json` | comparison",
        "| `tiny.xml`, `tiny.bin`, `tiny.xml.json` | the model for OpenVINO |",
        "(1, 3, 12, 12)", "short side to 13 pixels", "0.485, 0.456, 0.406", "(1, 10)", "softmax", "test-licence",
    ):  # fmt: skip
        assert word in text, word
    found = az.Classifier.load(bundle / "tiny.onnx", threads=1).predict(paths[0])
    assert found[0].label in LABELS


def test_networks_without_names_or_with_several_labels(paths: list[Path], tmp_path: Path) -> None:
    net = labelled_net()
    net.pretrained_cfg |= {"label_names": None, "multi_label": True, "license": None}
    folder = write_bundle(net, tmp_path / "new", "onnx", dynamic_batch=True)
    assert (folder / "labels.txt").read_text().split() == [str(index) for index in range(10)]
    text = (folder / "README.md").read_text()
    assert "no class names" in text and "sigmoid" in text and "softmax" not in text and "(N, 3, 12, 12)" in text
    assert "License" not in text
    (line,) = run_bare(folder / "predict.py", tmp_path, paths[0])
    (result,) = az.Classifier.load(folder / "tiny.onnx").predict(paths[0])
    found = [float(share) / 100 for share in re.findall(r"(\d+\.\d\d) %", line)]
    assert sum(found) > 1.5
    np.testing.assert_allclose(found, [each.probability for each in result.top], rtol=0, atol=1e-4)


def test_labels_stay_one_per_line(tmp_path: Path) -> None:
    net = labelled_net()
    net.pretrained_cfg["label_names"] = ("two\nlines", "a\x85b", "é", "", *map(str, range(6)))
    folder = write_bundle(net, tmp_path / "new", "pt2")
    labels = (folder / "labels.txt").read_text("utf-8").splitlines()
    assert labels == ["two lines", "a b", "é", "", *map(str, range(6))]


def test_files_of_others_are_kept(bundle: Path, net: AlphaNet, tmp_path: Path) -> None:
    check_bundle_folder(bundle, ["onnx"])
    check_bundle_folder(tmp_path / "missing", ["onnx"])
    for name in ("README.md", "labels.txt", "preprocessing.json", "predict.py"):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(UsageError, match=f"contains {re.escape(name)}, which .*--no-bundle"):
            check_bundle_folder(folder, ["onnx"])
    with pytest.raises(UsageError, match="must be in one folder"):
        write_export(freeze_once(), Source(net), verify=False, bundle=True, onnx=tmp_path / "a" / "x.onnx",
                     pt2=tmp_path / "b" / "x.pt2")  # fmt: skip
    assert not (tmp_path / "a").exists()


def test_the_preprocessing_is_pillows_for_every_filter(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pixels of ``predict.py`` are those of `Preprocessing`, whatever the picture and the filter."""
    monkeypatch.setattr(sys, "argv", ["predict.py"])
    for interpolation in ("bicubic", "bilinear", "nearest-exact", "lanczos"):
        net = labelled_net()
        net.pretrained_cfg["interpolation"] = interpolation
        frozen = freeze(net)
        text = script_text("onnx", "x.onnx", facts(frozen, Source(net)))
        folder = tmp_path / interpolation
        folder.mkdir()
        (folder / "preprocessing.json").write_text(json.dumps(frozen.preprocessing.to_dict()))
        (folder / "labels.txt").write_text("")
        values: dict[str, object] = {"__file__": str(folder / "predict.py")}
        with pytest.raises(SystemExit, match="Usage: python predict.py IMAGE"):  # Without arguments it prints its use.
            exec(compile(text.replace("MODEL = onnxruntime", "MODEL = 0 #"), "predict.py", "exec"), values)
        for path in paths:
            found = values["preprocess"](path)  # type: ignore[operator]
            expected = frozen.preprocessing(read_image(path))[None].numpy()
            assert found.shape == expected.shape and found.dtype == np.float32
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6, err_msg=f"{interpolation} {path.name}")


@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_a_graph_that_includes_its_preprocessing(output: str, net: AlphaNet, paths: list[Path], tmp_path: Path) -> None:
    """The script decodes, and passes the whole image on: here to a graph that returns the means of its channels."""
    helper, kinds, constant = onnx.helper, onnx.TensorProto, onnx.numpy_helper.from_array
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["x"], to=kinds.FLOAT),
            helper.make_node("ReduceMean", ["x", "axes"], ["means"], keepdims=0),
            helper.make_node("Div", ["means", "scale"], [output]),
        ],
        "means",
        [helper.make_tensor_value_info("image", kinds.UINT8, (1, "h", "w", 3))],
        [helper.make_tensor_value_info(output, kinds.FLOAT, (1, 3))],
        [constant(np.array([1, 2]), "axes"), constant(np.float32(255), "scale")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "x.onnx")
    taken = {"name": "image", "dtype": "uint8", "layout": "NHWC", "channels": "RGB", "preprocessing": "embedded"}
    metadata = {**facts(freeze_once(), Source(net)), "labels": list(LABELS[:3]), "input": taken, "output": output}
    for staged, target in bundle_moves(tmp_path, {"onnx": tmp_path / "x.onnx"}, metadata):
        assert staged == target
    text = (tmp_path / "README.md").read_text()
    assert "`image`, uint8 of shape `(1, H, W, 3)`" in text and f"`{output}`, float32" in text and "\n\n\n" not in text
    assert len((tmp_path / "predict.py").read_text().splitlines()) <= 40
    lines = run_bare(tmp_path / "predict.py", tmp_path, *paths)
    for line, path in zip(lines, paths, strict=True):
        means = read_image(path).double().mean(dim=(1, 2)) / 255
        expected = means if output == "probabilities" else means.softmax(0)
        found = {label: float(share) / 100 for label, share in re.findall(r"(class \d, or \w) (\d+\.\d\d) %", line)}
        np.testing.assert_allclose([found[label] for label in LABELS[:3]], expected, rtol=0, atol=1e-4)
