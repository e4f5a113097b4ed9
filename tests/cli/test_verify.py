from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from alphanet_export.build import Source
from alphanet_export.freeze import freeze
from alphanet_export.onnx_model import sealed
from alphanet_export.write import write_export
from alphanet_zoo.cli.verify import main
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.evaluate.evaluator import Evaluator
from alphanet_zoo.files import sha256_of
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import build_supernet
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.zoo.files import save_net
from tests.export.exported import corrupted, tiny_net, tiny_onnx, with_broken_fusion, write_images

PREPROCESSING = {"input_size": 12, "resize_size": 14, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.25] * 3}
FAST = ("--seconds", "0.05", "--repeats", "5", "--threads", "1", "--starts", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file, the net it came from, and images of which the net knows half."""
    folder = tmp_path_factory.mktemp("verify")
    (folder / "tiny.onnx").write_bytes(tiny_onnx())
    (folder / "corrupt.onnx").write_bytes(sealed(corrupted(tiny_onnx())))
    (folder / "any.onnx").write_bytes(tiny_onnx(dynamic_batch=True))
    save_net(tiny_net(), folder / "tiny.safetensors")
    write_images(folder / "images")
    return folder


def run(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command, without the lines that show its progress."""
    code = main([*map(str, argv), *FAST])
    captured = capsys.readouterr()
    return code, captured.out, without_progress(captured.err)


def without_progress(err: str) -> str:
    return "".join(line for line in err.splitlines(keepends=True) if ": measuring " not in line)


def test_progress_is_one_line_per_measurement_or_a_bar_on_a_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = [str(folder / "tiny.onnx"), "--data", str(folder / "images"), "--json", str(tmp_path / "r.json"), *FAST]
    assert main(words) == 0
    names = ["parity", "accuracy on 30 images", "latency", "throughput", "energy", "cold start and memory"]
    assert capsys.readouterr().err.splitlines() == [f"alphanet-verify: measuring {name}" for name in names]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(words) == 0
    shown = capsys.readouterr().err
    assert "cold start and memory" in shown and "\r" in shown and "measuring" not in shown


def test_a_sound_file_passes_and_leaves_its_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = folder / "out" / "report.html"
    code, out, err = run(capsys, folder / "tiny.onnx", "--reference", folder / "tiny.safetensors", "--report", page)
    assert (code, err) == (0, "")
    assert "PASSED" in out and "8 synthetic images" in out
    figures = json.loads((folder / "tiny.verify.json").read_text())
    assert 0 < figures["parity"]["max_relative_error"] < 2e-5
    assert figures["parity"]["top1_agreement"] == 1.0 and figures["parity"]["synthetic"] is True
    assert figures["accuracy"]["top1"] is None
    assert figures["latency"]["median_ms"] > 0 and figures["latency"]["threads"] == 1
    assert len(figures["graph_sha256"]) == 64 and len(figures["weights_sha256"]) == 64
    assert figures["memory"]["peak_mb"] > 0 and figures["graph_health"]["convolutions"] > 0
    assert page.read_text().startswith("<!doctype html>")


def test_images_give_parity_and_accuracy(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = folder / "real.json"
    argv = (folder / "any.onnx", "--reference", folder / "tiny.safetensors", "--data", folder / "images")
    code, out, _ = run(capsys, *argv, "--limit", "20", "--json", target, "--batch", "4", "--min-top1", "0")
    figures = json.loads(target.read_text())
    assert code == 0 and "folder images" in out
    assert figures["data"] == {"folder": "images", "images": 20, "synthetic": False}
    assert figures["parity"]["images"] == figures["accuracy"]["images"] == 20
    assert figures["parity"]["synthetic"] is False and 0 <= figures["accuracy"]["top1"] <= 100
    assert figures["latency"]["batch"] == 4
    assert figures["mcnemar"]["p_value"] == 1.0 and figures["mcnemar"]["only_file"] == 0
    right = figures["mcnemar"]["both_right"]
    assert right == round(figures["accuracy"]["top1"] / 5) and right + figures["mcnemar"]["both_wrong"] == 20
    assert [(point["threads"], point["batch"]) for point in figures["throughput"]] == [(1, 1), (1, 4), (1, 16)]
    assert figures["startup"]["repeats"] == 1 and figures["startup"]["total_ms"] > 0
    assert not (folder / "any.verify.json").exists()


def test_images_of_other_classes_serve_parity(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_images(tmp_path / "three" / "nested", classes=3)
    argv = (folder / "tiny.onnx", "--reference", folder / "tiny.safetensors", "--data", tmp_path / "three")
    code, out, _ = run(capsys, *argv, "--parity-only", "--json", tmp_path / "r.json")
    figures = json.loads((tmp_path / "r.json").read_text())
    assert code == 0 and "9 images of three" in out
    assert figures["parity"]["images"] == 9 and figures["accuracy"]["images"] is None


def test_a_corrupt_inner_convolution_exits_3(folder: Path) -> None:
    argv = [folder / "corrupt.onnx", "--reference", folder / "tiny.safetensors", "--data", folder / "images"]
    command = [sys.executable, "-m", "alphanet_zoo.cli.verify", *map(str, argv), "--min-top1", "100", *FAST]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3  # Accuracy is below its minimum too: parity is the graver.
    assert without_progress(done.stderr).count("\n") == 1 and "does not compute what PyTorch computes" in done.stderr
    figures = json.loads((folder / "corrupt.verify.json").read_text())
    assert figures["passed"] is False and figures["parity"]["holds"] is False
    assert len(figures["failures"]) == 3  # Parity, weights and accuracy.


def test_accuracy_under_its_floor_exits_4_and_is_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = folder / "floor.md"
    argv = (folder / "tiny.onnx", "--data", folder / "images", "--min-top1", "99", "--max-latency-ms", "1e-6")
    code, out, err = run(capsys, *argv, "--report", report)
    assert code == 4 and "minimum of 99 %" in err and err.count("\n") == 1
    assert "FAILED" in out and "FAILED" in report.read_text()


def test_latency_over_its_target_exits_5(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, folder / "tiny.onnx", "--max-latency-ms", "1e-6")
    assert code == 5 and "above the target" in err


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="no blocked layout on this CPU")
def test_a_lost_fusion_exits_5_unless_accepted(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "slow.onnx").write_bytes(sealed(with_broken_fusion(tiny_onnx())))
    argv = (tmp_path / "slow.onnx", "--reference", folder / "tiny.safetensors")
    code, out, err = run(capsys, *argv)
    assert code == 5 and "QuickGelu: 7 instead of 8" in err and err.count("\n") == 1 and "BROKEN" in out
    code, out, _ = run(capsys, *argv, "--any-graph")
    assert code == 0 and "BROKEN" in out and "fuses all" not in out


def test_two_files_are_timed_in_turns(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    argv = (folder / "tiny.onnx", "--vs", folder / "any.onnx", "--json", tmp_path / "r.json")
    code, out, err = run(capsys, *argv, "--max-ratio", "0.001", "--report", tmp_path / "r.html")
    ratio = json.loads((tmp_path / "r.json").read_text())["timing_ratio"]
    assert code == 5 and "above the target of 0.001" in err and "Compared with any.onnx" in out
    assert ratio["other"] == "any.onnx" and ratio["rounds"] >= 5 and ratio["ratio_interval"][0] <= ratio["ratio"]
    assert "Compared with any.onnx" in (tmp_path / "r.html").read_text()


def test_a_verification_is_stamped_once_it_passed(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.onnx"
    file.write_bytes(tiny_onnx())
    code, out, _ = run(capsys, file, "--stamp", "--max-latency-ms", "1e-6")
    assert code == 5 and file.read_bytes() == tiny_onnx()
    code, out, _ = run(capsys, file, "--stamp")
    assert code == 0 and "matches this graph and these weights" in out
    (entry,) = [entry for entry in onnx.load(file).metadata_props if entry.key == "alphanet.verification"]
    figures = json.loads((tmp_path / "mine.verify.json").read_text())
    assert json.loads(entry.value)["graph_sha256"] == figures["graph_sha256"]
    assert figures["file"]["sha256"] == sha256_of(file) and figures["stamp"]["matches"] is True


def test_without_a_reference_only_consistency_is_known(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, folder / "corrupt.onnx", "--json", folder / "alone.json")
    figures = json.loads((folder / "alone.json").read_text())
    assert code == 0 and "not measured" in out and "no --reference" in out
    assert figures["parity"]["max_relative_error"] is None
    assert figures["consistency"]["holds"] is True


def test_other_weights_break_parity(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save_net(tiny_net(seed=1), tmp_path / "other.safetensors")
    argv = (folder / "tiny.onnx", "--reference", tmp_path / "other.safetensors", "--json", tmp_path / "r.json")
    code, out, _ = run(capsys, *argv)
    assert code == 3 and "NOT the weights recorded" in out


def test_a_supernet_is_a_reference_once_calibrated_alike(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    supernet = fill_live(build_supernet(ALPHANET_TINY, 10)).eval()
    digest = save_net(supernet, tmp_path / "supernet.safetensors")
    images, arch = FolderSource(folder / "images"), ALPHANET_TINY.smallest
    net = Evaluator(None, images, images=20, seed=3).calibrated(supernet, arch)
    source = Source(supernet, "sub", "supernet.safetensors", digest, arch)
    write_export(freeze(net), source, onnx=tmp_path / "sub.onnx", verify=False)
    argv = (tmp_path / "sub.onnx", "--reference", tmp_path / "supernet.safetensors")
    code, _, err = run(capsys, *argv)
    assert code == 2 and "calibrated at export on 20 images" in err and "--calib-data" in err
    code, out, _ = run(capsys, *argv, "--calib-data", folder / "images")
    assert code == 0 and "the weights recorded in the file" in out
    write_images(tmp_path / "others", seed=1)
    code, _, err = run(capsys, *argv, "--calib-data", tmp_path / "others")
    assert code == 2 and "not those" in err


def test_a_folder_of_save_pretrained_is_a_reference(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tiny_net().save_pretrained(tmp_path / "saved")
    code, out, _ = run(capsys, folder / "tiny.onnx", "--reference", tmp_path / "saved", "--json", tmp_path / "r.json")
    assert code == 0 and "PASSED: outputs match the PyTorch reference" in out


@pytest.mark.parametrize("sealed", [True, False], ids=["of alphanet export", "of another program"])
def test_a_file_with_external_data_exits_1(sealed: bool, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    proto = onnx.load_model_from_string(tiny_onnx())
    if not sealed:
        del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "outside.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    code, _, err = run(capsys, tmp_path / "outside.onnx")
    assert code == 1 and "in another file" in err and err.count("\n") == 1
    assert ("export it again, as one file, with alphanet export" in err) is sealed
    assert (f'onnx.save(onnx.load({str(tmp_path / "outside.onnx")!r}), "one.onnx")' in err) is not sealed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside.onnx", "w.bin"]


@pytest.mark.parametrize("content", [b"", b"not ONNX", b"\x08\x07truncated"])
def test_a_corrupt_file_exits_1(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    code, _, err = run(capsys, tmp_path / "bad.onnx")
    assert code == 1 and "bad.onnx" in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bad.onnx"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "required: MODEL"),
        (("{none}",), "does not exist"),
        (("{images}",), "is a folder"),
        (("{tiny}", "--nonsense"), "--nonsense"),
        (("{tiny}", "--min-top1", "90"), "--min-top1 requires --data"),
        (("{tiny}", "--limit", "5"), "--limit requires --data"),
        (("{tiny}", "--parity-only"), "--parity-only requires --data"),
        (("{tiny}", "--data", "{images}", "--parity-only", "--min-top1", "9"), "cannot be used with --min-top1"),
        (("{tiny}", "--max-ratio", "1"), "--max-ratio requires --vs"),
        (("{tiny}", "--vs", "{none}"), "does not exist"),
        (("{tiny}", "--vs", "{images}"), "is a folder"),
        (("{tiny}", "--starts", "0"), "not a positive integer"),
        (("{tiny}", "--runtimes", "pytorch"), "unrecognized arguments: --runtimes"),
        (("{tiny}", "--repeats", "1"), "at least 2"),
        (("{tiny}", "--json", "same.json", "--report", "./same.json"), "--json and --report both name"),
        (("{tiny}", "--weights", "random"), "--weights requires --reference"),
        (("{tiny}", "--calib-data", "{images}"), "--calib-data requires --reference"),
        (("{tiny}", "--data", "{none}"), "is not a folder"),
        (("{tiny}", "--data", "{images}", "--min-top1", "101"), "not a percentage"),
        (("{tiny}", "--data", "{images}", "--min-top1", "nan"), "not a percentage"),
        (("{tiny}", "--data", "{images}", "--limit", "0"), "not a positive integer"),
        (("{tiny}", "--data", "{images}/0"), "contains images but no class folders"),
        (("{tiny}", "--threads", "-1"), "not a positive integer"),
        (("{tiny}", "--batch", "2"), "export it with --dynamic-batch"),
        (("{tiny}", "--tolerance", "0"), "not a positive number"),
        (("{tiny}", "--max-latency-ms", "inf"), "not a positive number"),
        (("{tiny}", "--report", "report.pdf"), "must end in"),
        (("{tiny}", "--report", "{images}.html"), "is a folder"),
        (("{tiny}", "--json", "report.txt"), "must end in"),
        (("{tiny}", "--json", "{tiny}/x.json"), "which is a file"),
        (("{tiny}", "--report", "{tiny}/x.html"), "which is a file"),
        (("{text}",), "unknown file type"),
        (("{xml}", "--stamp"), "--stamp requires an ONNX file"),
        (("{tiny}", "--preprocessing", "{prep}"), "--preprocessing requires --reference"),
        (("{tiny}", "--preprocessing", "{prep}", "--reference", "{net}"), "has its own metadata"),
        (("{tiny}", "--preprocessing", "{text}", "--reference", "{net}"), "pass a JSON file with input_size"),
        (("{tiny}", "--reference", "alphanet_a99"), "did you mean alphanet_a"),
        (("{tiny}", "--reference", "alphanet_a0", "--weights", "random"), "contains alphanet_a0 (201.62 M MACs"),
        (("{tiny}", "--reference", "none.safetensors"), "no such file"),
        (("{tiny}", "--reference", "{net}", "--weights", "random"), "requires a model's name"),
        (("{tiny}", "--reference", "{seven}"), "the reference has 7 classes"),
        (("{tiny}", "--data", "{twelve}"), "not labels of the model: 10, 11"),
    ],
)
def test_a_wrong_command_line_exits_2_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, argv: tuple[str, ...], message: str
) -> None:
    places = {"none": tmp_path / "none", "images": tmp_path / "images", "tiny": tmp_path / "tiny.onnx"}
    places |= {"net": folder / "tiny.safetensors", "seven": tmp_path / "seven.safetensors"}
    places |= {"twelve": tmp_path / "twelve", "xml": tmp_path / "tiny.xml"}
    write_images(places["images"], each=1)
    write_images(places["twelve"], classes=12, each=1)
    (tmp_path / "images.html").mkdir()
    places |= {"text": tmp_path / "tiny.txt", "prep": tmp_path / "prep.json"}
    places["xml"].touch()
    places["text"].touch()
    places["prep"].write_text(json.dumps(PREPROCESSING))
    places["tiny"].write_bytes((folder / "tiny.onnx").read_bytes())
    save_net(tiny_net(7), places["seven"])
    before = sorted(tmp_path.rglob("*"))
    code = main([text.format(**places) for text in argv])
    err = capsys.readouterr().err
    assert code == 2, err
    assert message in err and err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_help_and_bad_usage_load_no_torch() -> None:
    script = (
        "import sys; from alphanet_zoo.cli.verify import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert main(['x.onnx', '--batch', '0']) == main(['.', '--limit', '3']) == 2\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--reference" in done.stdout and "Exit codes" in done.stdout


def test_the_diagnostics_are_those_of_the_reference(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    argv = (folder / "tiny.onnx", "--data", folder / "images", "--limit", "20", "--json", tmp_path / "r.json")
    code, out, _ = run(capsys, *argv, "--report", page, "--thumbnails", "--corruptions")
    figures = json.loads((tmp_path / "r.json").read_text())
    found, accuracy = figures["diagnostics"], figures["accuracy"]
    assert code == 0 and "Robustness" in out and "Most confident mistakes" in out
    assert (
        sum(each["correct"] for each in found["per_class"])
        == sum(found["confusion_matrix"][index][index] for index in range(10))
        == accuracy["correct"]
    )
    assert [each["images"] for each in found["per_class"]] == [2] * 10 and sum(found["reliability"]["images"]) == 20
    evaluator = Evaluator(FolderSource(folder / "images"), batch_size=16)
    answers = evaluator.answers_of(tiny_net())
    chosen = [index * 30 // 20 for index in range(20)]
    assert found["negative_log_likelihood"] == pytest.approx(-answers.log_likelihood[chosen].mean().item(), rel=1e-4)
    wrong = [index for index in chosen if not answers.right[index]]
    worst = max(wrong, key=lambda index: float(answers.confidence[index]))
    mistake = found["mistakes"][0]
    assert mistake["file"] == f"{worst // 3}/{worst % 3}.png" and mistake["label"] == str(worst // 3)
    assert mistake["confidence"] == pytest.approx(answers.confidence[worst].item(), rel=1e-4)
    assert len(figures["robustness"]["corrupted"]) == 40 and figures["robustness"]["images"] == 20
    assert figures["robustness"]["clean_top1"] == accuracy["top1"]
    assert page.read_text().count("data:image/jpeg;base64,") == len(found["mistakes"]) == min(20, len(wrong))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--corruptions",), "--corruptions requires --data"),
        (("--corruptions", "--data", "{images}", "--parity-only"), "cannot be used with --parity-only"),
        (("--thumbnails", "--data", "{images}"), "--thumbnails requires an HTML report; pass --report FILE.html"),
        (("--thumbnails", "--data", "{images}", "--report", "r.md"), "--thumbnails requires an HTML report"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], message: str
) -> None:
    code, out, err = run(capsys, folder / "tiny.onnx", *(word.format(images=folder / "images") for word in argv))
    assert code == 2 and out == "" and message in err and err.count("\n") == 1
