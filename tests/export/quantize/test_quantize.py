from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from alphanet_export.freeze import freeze
from alphanet_export.metadata import open_exported
from alphanet_export.onnx_model import INPUT_NAME, open_session, run_logits
from alphanet_export.quantize.images import FEWEST_LABELLED, QuantImages, quant_images
from alphanet_export.quantize.onnx_qdq import find_layers, nodes_of, quantize_onnx, saturates, share_of_macs
from alphanet_export.quantize.writing import write_int8
from alphanet_export.verify.measure.parity import INT8_LEAST_DB, TOLERANCE, measure_parity, sqnr_db, synthetic_images
from alphanet_export.verify.verification import Settings, verify_model
from alphanet_export.writers.to_onnx import onnx_bytes
from alphanet_zoo.cli.export import main
from alphanet_zoo.cli.verify import main as verify
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.errors import AccuracyError, ParityError, UsageError
from alphanet_zoo.files import sha256_of
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.cost import count_macs
from alphanet_zoo.zoo.files import save_net

POINTWISE = ("conv_pw", "conv_pwl", "shortcut", "conv_final", "conv_head")


@pytest.fixture(scope="module")
def exported(net: AlphaNet, digits: FolderSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "digits.onnx"
    write_int8(freeze(net), digits, onnx=path, max_drop=100.0, bundle=True)
    return path


def test_the_readme_of_an_int8_file(exported: Path) -> None:
    text = (exported.parent / "README.md").read_text()
    assert "10 classes, quantized to int8: " in text and "\n- ONNX Runtime: int8 (" in text
    assert "digits.onnx" in (exported.parent / "predict.py").read_text()


def test_layers_are_the_network_without_squeeze_and_excite(content: bytes, net: AlphaNet) -> None:
    proto = onnx.load_model_from_string(content)
    layers = find_layers(proto)
    names = [name.removesuffix(".weight") for name, tensor in net.named_parameters() if tensor.ndim in (2, 4)]
    assert sorted(layer.name for layer in layers) == sorted(name for name in names if ".se." not in name)
    gates = sum(t.numel() for n, t in net.named_parameters() if ".se." in n and n.endswith("weight"))
    assert sum(layer.macs for layer in layers) == count_macs(net.arch, net.space, 10) - gates
    nodes = nodes_of(layers, [layer.name for layer in layers])
    kinds = Counter(name.partition("_")[0] for name in nodes)
    assert len(nodes) == len(set(nodes)) and kinds["Sigmoid"] == sum(n.op_type == "Sigmoid" for n in proto.graph.node)
    assert share_of_macs(layers, [layers[0].name]) == layers[0].macs / sum(layer.macs for layer in layers)


def test_the_file_has_integer_weights_and_float_gates(exported: Path) -> None:
    proto = onnx.load(exported)
    onnx.checker.check_model(proto, full_check=True)
    producers = {name: node for node in proto.graph.node for name in node.output}
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    inputs = {tensor.name for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    quantised = 0
    for node in proto.graph.node:
        if node.op_type != "Conv":
            continue
        weight = node.input[1]
        if ".se." in weight:
            assert weight in inputs
            continue
        dequantise = producers[weight]
        values = numpy_helper.to_array(stored[dequantise.input[0]])
        scales = numpy_helper.to_array(stored[dequantise.input[1]])
        assert values.dtype == np.int8 and scales.shape == (values.shape[0],)
        assert not saturates() or np.abs(values.astype(int)).max() <= 64
        zero = producers[node.input[0]].input[2]
        assert stored[zero].data_type == onnx.TensorProto.UINT8
        quantised += 1
    assert quantised == 14


def test_its_report_lies_beside_it(exported: Path) -> None:
    report = json.loads(exported.with_name("digits.verify.json").read_text())
    assert report["passed"] and report["parity"]["images"] == 64 and not report["data"]["synthetic"]
    assert report["file"]["sha256"] == sha256_of(exported) and report["parity"]["signal_to_noise_db"] > INT8_LEAST_DB


def test_the_file_says_how_it_was_made(exported: Path) -> None:
    summary = open_exported(exported).metadata["quantization"]
    log = json.loads(exported.with_name("digits.onnx.quantization.json").read_text())
    assert summary["precision"] == "int8" and summary["verdict"] == log["verdict"]
    assert log["drops"] == [log["verdict"]["drop"]] and log["sensitivity_db"] == {} and log["float_layers"] == []
    assert summary["toolchain"].startswith("ONNX Runtime") and summary["int8_share"] == 1.0
    assert summary["slower_than_float32"] == (summary["speed"]["ratio_interval"][0] > 1)
    assert summary["verdict"]["images"] == summary["held_out_images"] == 150 and summary["calibration_images"] == 128
    assert summary["verdict"]["float_top1"] > 60 and summary["verdict"]["drop"] < 5


def test_activations_span_what_the_calibration_images_need(content: bytes, images: QuantImages) -> None:
    made, _ = quantize_onnx(content, images, max_drop=100.0, time_it=False)
    graph = onnx.load_model_from_string(made).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == INPUT_NAME)
    low, high = min(0.0, float(images.calibration.min())), max(0.0, float(images.calibration.max()))
    assert stored[first.input[1]] == pytest.approx((high - low) / 255, rel=1e-5)
    assert stored[first.input[2]] == round(-low / (high - low) * 255)


def test_seven_bits_if_asked_for(content: bytes, images: QuantImages) -> None:
    for reduce_range, largest in ((True, 64), (False, 127)):
        made, log = quantize_onnx(content, images, max_drop=100.0, reduce_range=reduce_range, time_it=False)
        tensors = onnx.load_model_from_string(made).graph.initializer
        weights = [
            numpy_helper.to_array(t) for t in tensors if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1
        ]
        assert max(np.abs(weight.astype(int)).max() for weight in weights) == largest
        assert log.reduced_range == reduce_range and any("7 bits" in note for note in log.notes()) == reduce_range
        told = sum("may have been trained on these images" in note for note in log.notes())
        assert log.verdict.top1 is not None and told == 1


@pytest.mark.skipif(not saturates(), reason="this CPU multiplies uint8 by int8 without saturation")
def test_eight_bits_saturate_where_the_probe_says_so(content: bytes, images: QuantImages) -> None:
    expected = run_logits(open_session(content), images.held_out)
    noise = []
    for reduce_range in (False, True):
        made, _ = quantize_onnx(content, images, max_drop=100.0, reduce_range=reduce_range, time_it=False)
        noise.append(sqnr_db(expected, run_logits(open_session(made), images.held_out)))
    assert noise[0] + 3 < noise[1]


@pytest.mark.parametrize("labels", [True, False])
def test_the_layer_that_int8_destroys_goes_back_to_float(
    labels: bool, spoiled: Callable[..., AlphaNet], images: QuantImages
) -> None:
    bad = "conv_head"
    judged = images if labels else dataclasses.replace(images, classes=None, why_unlabelled="no labels")
    made, log = quantize_onnx(onnx_bytes(freeze(spoiled(bad))), judged, max_drop=30.0, time_it=False)
    assert len(log.sensitivity_db) == 14 and min(log.sensitivity_db, key=lambda name: log.sensitivity_db[name]) == bad
    assert log.float_layers[0] == bad and len(log.drops) == len(log.float_layers) + 1
    assert log.drops[0] > 50 and log.verdict.drop == log.drops[-1] <= 30 and 0.5 <= log.int8_share < 1
    tensors = {tensor.name: tensor.data_type for tensor in onnx.load_model_from_string(made).graph.initializer}
    assert tensors[f"{bad}.weight"] == onnx.TensorProto.FLOAT
    assert (log.verdict.top1 is not None) == labels


def test_a_drop_that_cannot_be_met_is_an_error(spoiled: Callable[..., AlphaNet], images: QuantImages) -> None:
    with pytest.raises(AccuracyError, match="int8 loses more than 1 points unless more than 50 %"):
        quantize_onnx(onnx_bytes(freeze(spoiled(*POINTWISE))), images, max_drop=1.0, time_it=False)


@pytest.mark.parametrize("reference", [False, True])
def test_its_verification_is_of_noise_and_not_of_bits(
    reference: bool, exported: Path, net: AlphaNet, digits: FolderSource
) -> None:
    settings = Settings(repeats=2, seconds=0.0, starts=1)
    report = verify_model(exported, reference=net if reference else None, data=digits.root, settings=settings)
    parity = report.check().parity or report.consistency
    assert parity is not None and parity.tolerance is None and parity.max_relative_error > TOLERANCE
    assert parity.signal_to_noise_db > INT8_LEAST_DB + 3
    assert "at least 10 dB required for int8" in report.to_text()
    stricter = dataclasses.replace(settings, tolerance=1e-3, parity_only=True)
    with pytest.raises(ParityError, match=r"relative error .* \(tolerance 1e-03\)"):
        verify_model(exported, data=digits.root, settings=stricter).check()


def test_integers_that_compute_something_else_break_parity(exported: Path, net: AlphaNet) -> None:
    other = fill_live(copy.deepcopy(net), seed=5).eval()
    with pytest.raises(ParityError, match=r"signal to noise .* dB \(int8 must reach 10\)"):
        measure_parity(exported, other, synthetic_images(8, open_exported(exported).input_size), tolerance=None).check()


@pytest.mark.slow
def test_any_batch_and_a_newer_opset_go_with_int8(net: AlphaNet, digits: FolderSource, tmp_path: Path) -> None:
    arguments = [*export_arguments(net, tmp_path, digits), "--quantize", "int8", "--max-drop", "100"]
    path = tmp_path / "any.onnx"
    assert main([*arguments, "--dynamic-batch", "--opset", "21", "-o", str(path)]) == 0
    assert onnx.load(path).opset_import[0].version == 21 and open_exported(path).batch is None
    assert verify([str(path), "--data", str(digits.root), "--repeats", "3", "--seconds", "0.01"]) == 0


def test_images_of_other_classes_judge_by_agreement(exported: Path, digits: FolderSource, tmp_path: Path) -> None:
    model = open_exported(exported)
    for name in ("0", "1"):
        shutil.copytree(digits.root / name, tmp_path / f"x{name}")
    few = quant_images(model, FolderSource(tmp_path))
    assert few.classes is None and few.why_unlabelled == "only 30 images are held out, fewer than 100"
    for number in range(4):
        shutil.copytree(digits.root / "2", tmp_path / f"x{number + 2}")
        shutil.copytree(digits.root / "3", tmp_path / f"y{number + 2}")
    some = quant_images(model, FolderSource(tmp_path), calibration=8)
    assert some.classes is None and len(some.held_out) >= FEWEST_LABELLED and len(some.calibration) == 8
    assert "no class of" in some.why_unlabelled and "--labels-by-position" in some.why_unlabelled
    by_position = quant_images(model, FolderSource(tmp_path), calibration=8, labels_by_position=True)
    assert by_position.classes is not None and set(by_position.classes) == set(range(10))


def test_classes_of_which_only_some_are_the_models_are_refused(
    exported: Path, digits: FolderSource, tmp_path: Path
) -> None:
    shutil.copytree(digits.root, tmp_path / "images")
    (tmp_path / "images" / "0").rename(tmp_path / "images" / "ten")
    with pytest.raises(UsageError, match="not labels of the model: ten. .*--labels-by-position"):
        quant_images(open_exported(exported), FolderSource(tmp_path / "images"))


def test_too_few_images_are_refused(exported: Path, digits: FolderSource, tmp_path: Path) -> None:
    model = open_exported(exported)
    with pytest.raises(UsageError, match="too few to quantise with"):
        few = tmp_path / "few"
        shutil.copytree(digits.root / "4", few / "4")
        quant_images(model, FolderSource(few))


def export_arguments(net: AlphaNet, folder: Path, digits: FolderSource) -> list[str]:
    weights = folder / "net.safetensors"
    save_net(net, weights)
    arch = folder / "arch.json"
    arch.write_text(json.dumps(net.arch.to_dict()))
    return ["--arch", str(arch), "--supernet", str(weights), "--calib-data", str(digits.root)]


def test_command_refuses_before_it_works(capsys: pytest.CaptureFixture[str], digits: FolderSource) -> None:
    model = ["--model", "alphanet_a0", "--weights", "a0.safetensors"]
    calibrated = [*model, "--quantize", "int8", "--calib-data", str(digits.root)]
    for argv, words in (
        ([*model, "--quantize", "int8"], "pass --calib-data FOLDER"),
        ([*model, "--max-drop", "1"], "go with --quantize int8"),
        ([*calibrated, "--format", "onnx,pt2"], "not pt2"),
        ([*calibrated, "--max-drop", "-1"], "not a percentage"),
    ):
        assert main(argv) == 2
        assert words.split()[-1] in capsys.readouterr().err


@pytest.mark.slow
def test_command_writes_nothing_where_the_accuracy_is_lost(
    spoiled: Callable[..., AlphaNet], digits: FolderSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = export_arguments(spoiled(*POINTWISE), tmp_path, digits)
    out = tmp_path / "out"
    assert main([*argv, "--quantize", "int8", "--max-drop", "1", "-o", f"{out}/"]) == 4
    assert "int8 loses more than 1 points" in capsys.readouterr().err and not out.exists()
