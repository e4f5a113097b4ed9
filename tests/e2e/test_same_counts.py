"""The same subnet on the same images gets the same count from training, search, export, verification and evaluation."""

import json

import pytest

from alphanet_zoo.cli.main import main
from alphanet_zoo.data.digits import write_digits
from alphanet_zoo.space.presets import ALPHANET_TINY


def alphanet(capsys, *arguments):
    assert main(list(map(str, arguments))) == 0, capsys.readouterr().err


def test_five_commands_count_the_same_images(tmp_path, capsys):
    data, run, front = write_digits(tmp_path / "data"), tmp_path / "run", tmp_path / "front.json"
    alphanet(capsys, "train", "--config", "digits", f"data.root={data}", f"output={run}", "max_steps=30", "device=cpu",
             "validation.every_epochs=100", "validation.archs=smallest", "log.progress=false")  # fmt: skip
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    trained = next(line["validation"] for line in lines if "validation" in line)["smallest"]
    images = ["--data", data / "val", "--calib-data", data / "train"]
    alphanet(capsys, "search", "--supernet", run, *images, "--evaluations", 6, "-o", front)
    cheapest = json.loads(front.read_text())["front"][0]
    assert cheapest["arch"] == ALPHANET_TINY.smallest.to_dict()
    (tmp_path / "smallest.json").write_text(json.dumps(cheapest["arch"]))
    model = tmp_path / "smallest.onnx"
    alphanet(capsys, "export", "--supernet", run, "--arch", tmp_path / "smallest.json", *images, "-o", model)
    exported = json.loads((tmp_path / "smallest.verify.json").read_text())["accuracy"]
    alphanet(capsys, "verify", model, *images, "--reference", run, "--seconds", 0.2, "--repeats", 3, "--starts", 1,
             "--json", tmp_path / "verified.json")  # fmt: skip
    report = json.loads((tmp_path / "verified.json").read_text())
    verified = report["accuracy"]
    capsys.readouterr()
    alphanet(capsys, "eval", run, "--arch", "smallest", *images, "--json")
    evaluated = json.loads(capsys.readouterr().out)
    counts = {
        "train": (trained["correct"], trained["images"]),
        "search": (cheapest["correct"], cheapest["images"]),
        "export": (exported["correct"], exported["images"]),
        "verify": (verified["correct"], verified["images"]),
        "eval": (round(evaluated["top1"] * evaluated["images"] / 100), evaluated["images"]),
    }
    assert len(set(counts.values())) == 1 and 0 < counts["train"][0] < 300, counts
    assert report["parity"]["max_relative_error"] < 2e-5


@pytest.mark.slow
def test_a_reference_is_calibrated_as_the_export_was_whatever_the_seed(tmp_path, capsys):
    data, run, model = write_digits(tmp_path / "data"), tmp_path / "run", tmp_path / "net.onnx"
    alphanet(capsys, "train", "--config", "digits", f"data.root={data}", f"output={run}", "max_steps=10", "device=cpu",
             "validation.every_epochs=0", "log.progress=false")  # fmt: skip
    (tmp_path / "net.json").write_text(json.dumps(ALPHANET_TINY.smallest.to_dict()))
    calibration = ["--calib-data", data / "train"]
    alphanet(capsys, "export", "--supernet", run, "--arch", tmp_path / "net.json", *calibration, "--calib-images", 512,
             "--calib-augment", "--seed", 7, "-o", model)  # fmt: skip
    alphanet(capsys, "verify", model, "--reference", run, *calibration, "--seconds", 0.2, "--repeats", 3, "--starts", 1)
