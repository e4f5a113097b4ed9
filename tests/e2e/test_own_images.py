"""A user's own photographs, with a broken one, from a folder of classes to a verified file of a fine-tuned net."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from alphanet_zoo.cli.main import main
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.zoo.open import open_net

QUICK = ["log.progress=false", "device=cpu", "data.workers=0", "validation.calibration_batches=1"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """120 images of 40 x 44 pixels in two classes, not split; one is broken, and is not held out."""
    root, rng = tmp_path_factory.mktemp("own") / "my images", np.random.default_rng(0)
    for index in range(120):
        path = root / ("bright" if index % 2 else "dark") / f"{index:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 100, (40, 44, 3)) + 150 * (index % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    broken = root / "dark" / "004.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    return root


def alphanet(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


def printed_next(capsys):
    """The arguments of the command that a training run suggests."""
    program, *arguments = shlex.split(capsys.readouterr().out.split("next: ")[1])
    assert program == "alphanet"
    return arguments


def test_from_a_folder_to_a_fine_tuned_file(photographs, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(yaml.safe_dump(ALPHANET_TINY.to_dict() | {"name": "mine", "resolution": [16, 24]}))
    settings = ["space=mine.yaml", f"data.root={photographs}", "output=run", "data.batch_size=16", *QUICK]
    alphanet("train", "own_images", *settings, "max_steps=3")
    Path("mine.yaml").unlink()  # The space is stored in the run.
    search = printed_next(capsys)
    assert search[:2] == ["search", "--supernet"] and search[search.index("--hold-out") + 1] == "24"
    alphanet(*search, "--evaluations", "3")
    assert "24 validation images" in capsys.readouterr().out
    alphanet("resume", "run", "max_steps=4")
    assert open_net("run").net.space.name == "mine"
    alphanet("export", "--supernet", "run", "--arch", "best.json", "--calib-data", photographs, "--quantize", "int8",
             "-o", "small.onnx", "--max-drop", "100")  # fmt: skip
    capsys.readouterr()

    finetune = [f"data.root={photographs}", "finetune.weights=run", "finetune.arch=best.json", "output=tuned", *QUICK]
    alphanet("train", "finetune", *finetune, "optim.epochs=2", "optim.warmup_epochs=0")
    out = capsys.readouterr().out
    assert out.startswith("network: ") and "% of 24 validation images\n" in out
    program, *export = shlex.split(out.split("next: ")[1])
    assert program == "alphanet"
    alphanet(*export)
    alphanet("verify", "tuned/net.onnx", "--reference", "tuned/final/model.safetensors", "--data", photographs,
             "--seconds", "0.1")  # fmt: skip
    assert "119 images" in capsys.readouterr().out
    alphanet("export", "tuned", "-o", "measured.onnx", "--data", photographs)
    printed = capsys.readouterr().out
    assert " of 24) in ONNX Runtime" in printed, printed
    tuned = open_net("tuned").net
    assert not tuned.supernet and tuned.space.name == "mine" and tuned.num_classes == 2
    assert tuned.arch == ArchSpec.from_dict(yaml.safe_load(Path("best.json").read_text()))
    warnings = [record.getMessage() for record in caplog.records if "cannot read the image" in record.getMessage()]
    assert len(warnings) == 3  # In training, calibration and evaluation.
    assert all(str(photographs / "dark" / "004.jpg") in text and "BytesIO" not in text for text in warnings)
