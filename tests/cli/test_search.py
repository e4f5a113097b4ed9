import csv
import json
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from alphanet_zoo.cli.main import main as alphanet
from alphanet_zoo.cli.search import main
from alphanet_zoo.data.batches import evaluation_batches
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.nn.calibration import calibrate
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet, build_supernet
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.cost import count_macs, count_params
from alphanet_zoo.space.presets import ALPHANET_TINY as TINY
from alphanet_zoo.zoo.files import save_net


@torch.no_grad()
def fitted_supernet(images):
    """A random supernet whose classifier fits the largest subnet's features, so that subnets differ in accuracy."""
    supernet = fill_live(build_supernet(TINY, 2))
    pixels, labels = next(evaluation_batches(images, Preprocessing.from_cfg(supernet.pretrained_cfg), len(images)))
    largest = calibrate(supernet.extract(TINY.largest), [pixels])
    features = largest.forward_head(largest.forward_features(pixels), pre_logits=True)
    centre = features.mean(0)
    weight = torch.linalg.pinv(features - centre) @ (2.0 * labels - 1.0)
    supernet.classifier.weight.copy_(torch.stack([-weight, weight]))
    supernet.classifier.bias.copy_(torch.stack([weight @ centre, -weight @ centre]))
    return supernet


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("search")
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 40)):
        for index in range(count):
            path = root / split / "ab"[index % 2] / f"{index:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pattern = rng.integers(0, 200, (16, 16)) + 50 * (index % 2)
            Image.fromarray(pattern.astype(np.uint8)).save(path)
    save_net(fitted_supernet(FolderSource(root / "train")), root / "supernet.safetensors")
    save_net(fill_live(AlphaNet(TINY.smallest, TINY, 2)), root / "static.safetensors")
    return root


def arguments(folder, output, *more, supernet="supernet.safetensors"):
    return [
        "--supernet", str(folder / supernet), "--data", str(folder / "val"), "--calib-data", str(folder / "train"),
        "--evaluations", "8", "-o", str(output), *more,
    ]  # fmt: skip


def test_the_front_is_written(folder, tmp_path, capsys):
    assert main(arguments(folder, tmp_path / "front.json", "--best", str(tmp_path / "best.json"))) == 0
    front = json.loads((tmp_path / "front.json").read_text())
    for entry in front:
        arch = ArchSpec.from_dict(entry["arch"])
        assert (entry["macs"], entry["params"]) == (count_macs(arch, TINY, 2), count_params(arch, TINY, 2))
        assert entry["images"] == 40 and entry["accuracy"] == entry["correct"] / 40
    pairs = [(entry["macs"], entry["accuracy"]) for entry in front]
    assert len(front) > 1 and pairs == sorted(pairs) and len({accuracy for _, accuracy in pairs}) == len(pairs)
    assert json.loads((tmp_path / "best.json").read_text()) == front[-1]["arch"]
    printed = capsys.readouterr()
    assert "of 8 evaluated subnets" in printed.out and "SUSPICIOUS" not in printed.err
    program, *export = shlex.split(printed.out.split("next: ")[1])
    assert program == "alphanet"
    assert alphanet([*export[:-1], str(tmp_path / "model.onnx")]) == 0 and (tmp_path / "model.onnx").is_file()


def test_accuracies_near_chance_are_suspicious(folder, tmp_path, capsys):
    save_net(fill_live(build_supernet(TINY, 10)), tmp_path / "ten.safetensors")
    images = {name: tmp_path / name for name in ("val", "train")}
    for name, root in images.items():
        for index in range(10):
            shutil.copytree(folder / name / "ab"[index % 2], root / str(index))
    flags = ["--supernet", str(tmp_path / "ten.safetensors"), "--data", str(images["val"]), "--calib-data",
             str(images["train"]), "--evaluations", "2", "-o", str(tmp_path / "front.json")]  # fmt: skip
    assert main(flags) == 0
    assert "SUSPICIOUS: top-1" in (err := capsys.readouterr().err) and "is near chance (10.00 %)" in err


def test_the_same_seed_gives_the_same_file_and_a_table_is_possible(folder, tmp_path):
    for name in ("one.json", "two.json", "three.csv"):
        assert main(arguments(folder, tmp_path / name, "--seed", "3")) == 0
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    front = json.loads((tmp_path / "one.json").read_text())
    rows = list(csv.DictReader((tmp_path / "three.csv").read_text().splitlines()))
    assert [(int(row["macs"]), json.loads(row["arch"])) for row in rows] == [(e["macs"], e["arch"]) for e in front]


def test_a_window_is_kept_and_a_picture_drawn(folder, tmp_path):
    window = ["--min-flops", "0.5M", "--max-flops", "0.7M", "--plot", str(tmp_path / "front.png")]
    assert main(arguments(folder, tmp_path / "front.json", *window)) == 0
    assert all(0.5e6 <= entry["macs"] <= 0.7e6 for entry in json.loads((tmp_path / "front.json").read_text()))
    with Image.open(tmp_path / "front.png") as image:
        assert image.format == "PNG" and np.asarray(image.convert("L")).std() > 5


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--min-flops", "2M", "--max-flops", "1M"], "above --max-flops"),
        (["--max-flops", "0"], "not a budget"),
        (["--evaluations", "0"], "not a positive integer"),
        (["--seed", "-1"], "--seed"),
        (["--data", "/nowhere"], "does not exist"),
        (["-o", "front.txt"], ".json or .csv"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(folder, tmp_path, more, named, capsys):
    assert main(arguments(folder, tmp_path / "front.json", *more)) == 2
    errors = capsys.readouterr().err
    assert named in errors and errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_empty_window_is_exit_code_5_and_says_what_is_near(folder, tmp_path, capsys):
    assert main(arguments(folder, tmp_path / "front.json", "--max-flops", "1K")) == 5
    assert f"nearest above costs {count_macs(TINY.smallest, TINY, 2)}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_run_stands_for_its_weights(folder, tmp_path, capsys):
    run = tmp_path / "run"
    (run / "final").mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 0\n")
    assert main(arguments(folder, tmp_path / "front.json", supernet=run)) == 2
    assert "has not ended" in capsys.readouterr().err
    (run / "final" / "model.safetensors").write_bytes((folder / "static.safetensors").read_bytes())
    assert main(arguments(folder, tmp_path / "front.json", supernet=run)) == 2
    assert "is a static network" in capsys.readouterr().err


def test_a_single_net_is_no_supernet(folder, tmp_path, capsys):
    assert main(arguments(folder, tmp_path / "front.json", supernet="static.safetensors")) == 2
    assert "is a static network" in capsys.readouterr().err


def test_help_loads_no_torch_and_says_what_flops_are():
    code = (
        "import sys; from alphanet_zoo.cli.search import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\nsys.exit('torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0 and "multiply-accumulates" in shown.stdout


def test_images_that_training_held_out_score_and_the_others_calibrate(folder, tmp_path):
    argv = arguments(folder, tmp_path / "front.json", "--hold-out", "10")
    place = argv.index("--data")
    assert main(argv[:place] + argv[place + 2 :]) == 0
    assert {entry["images"] for entry in json.loads((tmp_path / "front.json").read_text())} == {10}
    assert main(argv) == 2
