import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
import time

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
from alphanet_zoo.train.config import load_config
from alphanet_zoo.zoo.archs import read_front
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
    front = read_front(tmp_path / "front.json")
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
    # The fitted classifier has huge weights, so that rounding errors alone exceed the tolerance of parity.
    assert (
        alphanet([*export[:-1], str(tmp_path / "model.onnx"), "--skip-verify"]) == 0
        and (tmp_path / "model.onnx").is_file()
    )


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
    front = read_front(tmp_path / "one.json")
    rows = list(csv.DictReader((tmp_path / "three.csv").read_text().splitlines()))
    assert [(int(row["macs"]), json.loads(row["arch"])) for row in rows] == [(e["macs"], e["arch"]) for e in front]


def test_a_window_is_kept_and_a_picture_drawn(folder, tmp_path):
    window = ["--min-flops", "0.5M", "--max-flops", "0.7M", "--plot", str(tmp_path / "front.png")]
    assert main(arguments(folder, tmp_path / "front.json", *window)) == 0
    assert all(0.5e6 <= entry["macs"] <= 0.7e6 for entry in read_front(tmp_path / "front.json"))
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
    assert {entry["images"] for entry in read_front(tmp_path / "front.json")} == {10}
    assert main(argv) == 2


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_folder_gets_all_results_and_no_subnet_is_scored_twice(folder, tmp_path):
    output = tmp_path / "out"
    argv = ["--supernet", str(folder / "supernet.safetensors"), "--data", str(folder / "train"), "--hold-out", "20",
            "--strategy", "random", "-o", str(output)]  # fmt: skip
    assert main([*argv, "--evaluations", "4"]) == 0
    settings, *scores = lines_of(output / "scores.jsonl")
    assert settings["settings"]["validation"]["held_out"] == 20 and len(scores) == 4
    content = json.loads((output / "front.json").read_text())
    assert content["provenance"]["supernet_sha256"] == settings["settings"]["supernet_sha256"]
    for entry in content["front"]:
        assert entry["interval"][0] < entry["accuracy"] <= entry["interval"][1]
    page = (output / "front.html").read_text()
    assert page.count("<circle") == 4 and "<title>top-1 (%)" in page and (output / "front.png").is_file()
    before = (output / "scores.jsonl").read_bytes()
    with open(output / "scores.jsonl", "ab") as file:
        file.write(b'{"id": "another", "arch": {}}\n{"id": "cut o')
    assert main([*argv, "--evaluations", "4"]) == 0
    assert (output / "scores.jsonl").read_bytes().startswith(before)
    assert len((output / "scores.jsonl").read_bytes().splitlines()) == 7
    assert json.loads((output / "front.json").read_text()) == content


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_that_is_killed_again_and_again_ends_with_the_same_front(folder, tmp_path):
    argv = [sys.executable, "-m", "alphanet_zoo.cli.search", *arguments(folder, tmp_path / "killed")]
    assert main(arguments(folder, tmp_path / "whole")) == 0
    scores, kills = tmp_path / "killed" / "scores.jsonl", 0
    while kills < 10:
        process = subprocess.Popen(argv, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wanted = min(2 + kills, 8)
        while process.poll() is None and (not scores.exists() or scores.read_bytes().count(b"\n") < wanted):
            time.sleep(0.02)
        process.kill()
        process.wait()
        kills += 1
    two = [subprocess.Popen(argv, env={**os.environ, "RANK": rank, "WORLD_SIZE": "2"}, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL) for rank in "01"]  # fmt: skip
    assert [process.wait() for process in two] == [0, 0]
    for name in ("front.json", "front.html"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    archs = [json.dumps(entry["arch"]) for entry in lines_of(scores)[1:]]
    assert len(archs) == len(set(archs)) == 8


def test_costs_are_printed_before_anything_is_scored(folder, tmp_path, capsys):
    supernet = ["--supernet", str(folder / "supernet.safetensors"), "--profile"]
    assert main([*supernet, "--macs", "20%:60%", "--params", "50K"]) == 0
    printed = capsys.readouterr().out
    assert f"{count_macs(TINY.largest, TINY, 2) / 1e6:.4g} M" in printed and "the limits can be met" in printed
    assert main([*supernet, "--params", "1K"]) == 5 and "cannot be met" in capsys.readouterr().out
    assert main([*supernet, "--latency-ms", "5"]) == 2 and "--latency-ms requires --device" in capsys.readouterr().err
    assert main([*supernet, "--axis", "latency_ms"]) == 2 and "--axis latency_ms req" in capsys.readouterr().err
    for text in ("600M", "0", "-3", "nan"):
        assert main([*supernet, "--latency-ms", text]) == 2 and "maximum in milliseconds" in capsys.readouterr().err
    assert main([*supernet, "--macs", "300"]) == 5 and "at most 300" in capsys.readouterr().out


def test_images_named_test_cause_a_warning_that_is_recorded(folder, tmp_path, capsys):
    shutil.copytree(folder / "val", tmp_path / "test")
    argv = arguments(folder, tmp_path / "front.json", "--time", "1h")
    argv[argv.index("--data") + 1] = str(tmp_path / "test")
    argv[argv.index("--evaluations") + 1] = "1"
    assert main(argv) == 0
    assert "is named test" in capsys.readouterr().err
    assert json.loads((tmp_path / "front.json").read_text())["provenance"]["test_images"] is True


def test_subnets_of_earlier_searches_count_for_the_front(folder, tmp_path, capsys):
    """Another strategy in the same folder never loses what was found; limits apply to earlier subnets too."""
    assert main(arguments(folder, tmp_path / "out")) == 0
    before = read_front(tmp_path / "out" / "front.json")
    capsys.readouterr()
    argv = arguments(folder, tmp_path / "out", "--strategy", "random", "--seed", "5")
    argv[argv.index("--evaluations") + 1] = "3"
    assert main(argv) == 0
    assert "earlier searches evaluated" in capsys.readouterr().err
    after = read_front(tmp_path / "out" / "front.json")
    for entry in before:
        assert any(e["macs"] <= entry["macs"] and e["accuracy"] >= entry["accuracy"] for e in after)
    assert main([*argv, "--macs", str(before[-1]["macs"] - 1)]) == 0
    assert all(e["macs"] < before[-1]["macs"] for e in read_front(tmp_path / "out" / "front.json"))


def test_images_that_were_trained_on_cause_a_warning(folder, tmp_path, capsys):
    argv = arguments(folder, tmp_path / "front.json")
    argv[argv.index("--evaluations") + 1] = "1"
    argv[argv.index("--data") + 1] = str(folder / "train")
    assert main(argv) == 0
    assert "is also the folder of the training images" in capsys.readouterr().err
    run = tmp_path / "run"
    (run / "final").mkdir(parents=True)
    shutil.copy(folder / "supernet.safetensors", run / "final" / "model.safetensors")
    argv = arguments(folder, tmp_path / "front.json", "--hold-out", "10", supernet=run)
    place = argv.index("--data")
    argv[argv.index("--evaluations") + 1] = "1"
    for held_out, warned in ((0, True), (4, True), (10, False)):
        config = load_config("digits", [f"output={run}", f"data.hold_out={held_out}"])
        (run / "config.yaml").write_text(config.to_yaml())
        assert main(argv[:place] + argv[place + 2 :]) == 0
        error = capsys.readouterr().err
        assert (f"data.hold_out={held_out}, so some or all of the 10" in error) == warned, error
        assert ("pass --hold-out 4, or" in error) == (held_out == 4)


def test_a_front_of_another_supernet_is_not_exported(folder, tmp_path, capsys):
    save_net(fill_live(build_supernet(TINY, 2)), tmp_path / "searched.safetensors")
    assert main(arguments(folder, tmp_path / "out", supernet=tmp_path / "searched.safetensors")) == 0
    capsys.readouterr()
    words = ["--front", str(tmp_path / "out"), "--flops", "10M", "--calib-data", str(folder / "train")]
    supernet = str(folder / "supernet.safetensors")
    assert alphanet(["export", supernet, *words, "-o", str(tmp_path / "net.onnx")]) == 2
    error = capsys.readouterr().err
    assert "a search with other weights" in error and error.count("\n") == 1 and not (tmp_path / "net.onnx").exists()
    searched = str(tmp_path / "searched.safetensors")
    assert alphanet(["export", searched, *words, "-o", str(tmp_path / "net.onnx")]) == 0
    (tmp_path / "net.onnx").unlink()
    capsys.readouterr()
    assert alphanet(["export", supernet, "--flops", "1K", "-o", str(tmp_path / "net.onnx")]) == 5
    assert "pass --front FILE" in capsys.readouterr().err
    assert alphanet(["export", str(tmp_path / "out"), "--flops", "1M", "-o", str(tmp_path / "net.onnx")]) == 2
    assert "is a folder of alphanet search" in capsys.readouterr().err


def test_a_score_of_ones_own(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "own_score.py").write_text(
        "import torch\nfrom alphanet_zoo.evaluate.multilabel import average_precision\n"
        "def mean_average_precision(net):\n"
        "    rng = torch.Generator().manual_seed(0)\n"
        "    images = torch.randn(16, 3, net.arch.resolution, net.arch.resolution, generator=rng)\n"
        "    labels = torch.rand(16, 2, generator=rng) < 0.5\n"
        "    with torch.inference_mode():\n"
        "        return float(average_precision(net(images), labels).mean())\n"
        "def failing(net):\n"
        "    return 1 / 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    argv = arguments(folder, tmp_path / "front.json", "--score", "own_score:mean_average_precision")
    argv[argv.index("--evaluations") + 1] = "3"
    assert main(argv) == 0
    content = json.loads((tmp_path / "front.json").read_text())
    assert content["provenance"]["score"] == "own_score:mean_average_precision"
    assert all(0 < entry["score"] < 1 and "accuracy" not in entry for entry in content["front"])
    assert main(arguments(folder, tmp_path / "other.json", "--score", "own_score:nothing")) == 2
    assert "PYTHONPATH=." in capsys.readouterr().err
    assert main(arguments(folder, tmp_path / "other.json", "--score", "own_score:failing")) == 2
    assert "the score failing fails: ZeroDivisionError" in capsys.readouterr().err
