"""Wrong command lines: each gives its exit code and one line that says why, and writes nothing."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import alphanet_zoo as az
from alphanet_zoo.cli.main import COMMANDS, main
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.zoo.files import save_net
from tests.export.exported import tiny_onnx, write_images


class Malicious:
    """A pickle of it runs a command where it is unpickled without care."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


def foreign_model() -> onnx.ModelProto:
    """A valid ONNX file that we did not write."""
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 8, 8])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [image], [result])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def write_archs(root: Path) -> None:
    """Arch files, good and bad."""
    tiny = ALPHANET_TINY.largest.to_dict()
    archs = {
        "arch": tiny,
        "outside": {**tiny, "width": [16, 99, 24, 32, 128]},
        "keys": {"resolution": 16},
        "types": {**tiny, "depth": [1.5, 1, 1]},
        "list": [1, 2, 3],
    }
    for name, arch in archs.items():
        (root / f"{name}.json").write_text(json.dumps(arch))
    (root / "broken.json").write_text("{resolution")
    (root / "binary.json").write_bytes(b"\xff\xfe\x00\x01")


def write_weights(root: Path) -> None:
    """Weights, good and bad."""
    supernet = fill_live(az.build_supernet(ALPHANET_TINY, 10))
    supernet.calibration = None
    save_net(supernet, root / "super.safetensors")
    static = supernet.extract(ALPHANET_TINY.largest)
    save_net(static, root / "static.safetensors")
    whole = (root / "super.safetensors").read_bytes()
    (root / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (root / "stub.safetensors").write_bytes(whole[:5])
    (root / "empty.safetensors").write_bytes(b"")
    (root / "noise.pth.tar").write_bytes(b"no checkpoint at all" * 50)
    with open(root / "evil.pth.tar", "wb") as file:
        pickle.dump({"state_dict": Malicious()}, file)


def write_models(root: Path) -> None:
    """ONNX files, good and bad."""
    (root / "tiny.onnx").write_bytes(tiny_onnx())
    whole = (root / "tiny.onnx").read_bytes()
    (root / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (root / "noise.onnx").write_bytes(b"no model at all" * 50)
    (root / "empty.onnx").write_bytes(b"")
    onnx.save(foreign_model(), root / "foreign.onnx")
    outside = onnx.load(root / "tiny.onnx")
    onnx.save(outside, root / "outside.onnx", save_as_external_data=True, location="outside.bin", size_threshold=0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad")
    write_archs(root)
    write_weights(root)
    write_models(root)
    write_images(root / "images")
    write_images(root / "twelve", classes=12)
    (root / "hollow").mkdir()
    damaged = write_images(root / "damaged")
    for name in ("3/0.png", "4/0.png"):  # One broken image is accepted.
        (damaged / name).write_bytes(b"no picture")
    (root / "recipe.yaml").write_text("a: [unclosed")
    (root / "text.yaml").write_text("just text")
    return root


@pytest.fixture(autouse=True)
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(place)
    for name in ("ALPHANET_HUB_ORG", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    yield


def everything(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file and folder below ``root``."""
    stats = {str(path): path.stat() for path in sorted(root.rglob("*"))}
    return {name: (stat.st_size if os.path.isfile(name) else 0, stat.st_mtime_ns) for name, stat in stats.items()}


SUBNET = "export --arch arch.json --supernet super.safetensors"
A4 = "export --model alphanet_a4"
VERIFY = "verify tiny.onnx --seconds 0.1 --repeats 2"
SEARCH = "search --supernet super.safetensors --data images --calib-data images"

WRONG = [
    ("export", 2, "nothing to export; pass SOURCE"),
    ("export --flops ''", 2, "not a budget of MACs"),
    ("export --flops 0 --onnx", 2, "not a budget of MACs"),
    ("export --flops -1 --onnx", 2, "--flops"),
    ("export --flops=-1 --onnx", 2, "not a budget of MACs"),
    ("export --flops nan --onnx", 2, "not a budget of MACs"),
    ("export --flops inf --onnx", 2, "not a budget of MACs"),
    ("export --flops 444X --onnx", 2, "not a budget of MACs"),
    ("export --flops 1M --onnx", 5, "alphanet_a0"),
    ("export --flops 203M --family nonesuch", 2, "nonesuch"),
    ("export --flops 444M --onnx", 1, "published"),
    (f"{A4} --onnx", 1, "alphanet convert"),
    (f"{A4} --flops 444M", 2, "not allowed with"),
    ("export --model alphanet_a9 --weights random", 2, "alphanet_a9"),
    ("export --model '' --weights random", 2, "unknown model"),
    (f"{A4} --weights missing.safetensors", 2, "missing.safetensors"),
    (f"{A4} --weights cut.safetensors", 1, "cut.safetensors"),
    (f"{A4} --weights stub.safetensors", 1, "stub.safetensors"),
    (f"{A4} --weights empty.safetensors", 1, "empty.safetensors"),
    (f"{A4} --weights static.safetensors", 1, "alphanet_tiny"),
    (f"{A4} --weights random --num-classes 0", 2, "positive"),
    (f"{A4} --weights random --img-size 0", 2, "positive"),
    (f"{A4} --weights random --img-size big", 2, "positive"),
    (f"{A4} --weights random --opset 17", 2, "opset 17"),
    (f"{A4} --weights random -o a4.txt", 2, "a4.txt"),
    (f"{A4} --weights random -o ''", 2, "empty"),
    (f"{A4} --weights random -o tiny.onnx/a4.onnx", 2, "tiny.onnx"),
    (f"{A4} --weights random --calib-data images", 2, "random"),
    (f"{A4} --weights random --no-such-flag", 2, "--no-such-flag"),
    ("export --arch arch.json", 2, "requires the weights"),
    (
        "export nothing",
        2,
        "'nothing' is neither a model's name nor an existing file or folder; alphanet models lists the models",
    ),
    ("export alphanet_a44", 2, "did you mean alphanet_a4?"),
    ("export alphanet_a4 --arch arch.json", 2, "--arch chooses another"),
    ("export super.safetensors", 2, "is a supernet; choose the subnet to export"),
    ("export super.safetensors --weights static.safetensors", 2, "both name the network"),
    ("export --weights static.safetensors --supernet super.safetensors", 2, "pass one of them"),
    ("export super.safetensors --arch arch.json#2", 2, "not a Pareto front"),
    ("export super.safetensors --model alphanet_a4 --calib-data images", 1, "not alphanet_a4"),
    ("export static.safetensors --name a/b", 2, "not a valid name"),
    ("export --weights random", 2, "requires a model's name"),
    ("arch", 2, "required"),
    ("arch nothing", 2, "no such file or model"),
    ("arch smallest", 2, "pass --space alphanet|alphanet_cifar|"),
    ("arch smallest --space nowhere", 2, "unknown space 'nowhere'"),
    ("arch broken.json", 1, "broken.json"),
    ("arch list.json", 2, "mapping"),
    ("arch super.safetensors", 2, "many archs"),
    ("export --arch missing.json --supernet super.safetensors", 2, "missing.json"),
    ("export --arch arch.json --supernet missing.safetensors", 2, "missing.safetensors"),
    ("export --arch outside.json --supernet super.safetensors --calib-data images", 2, "width[1] is 99"),
    ("export --arch keys.json --supernet super.safetensors --calib-data images", 2, "missing"),
    ("export --arch types.json --supernet super.safetensors --calib-data images", 2, "depth[0] is 1.5"),
    ("export --arch list.json --supernet super.safetensors --calib-data images", 2, "mapping"),
    ("export --arch broken.json --supernet super.safetensors --calib-data images", 1, "broken.json"),
    ("export --arch binary.json --supernet super.safetensors --calib-data images", 1, "binary.json"),
    ("export --arch arch.json --supernet cut.safetensors --calib-data images", 1, "cut.safetensors"),
    ("export --arch arch.json --supernet noise.pth.tar --calib-data images", 1, "noise.pth.tar"),
    ("export --arch arch.json --supernet evil.pth.tar --calib-data images", 1, "evil.pth.tar"),
    (SUBNET, 2, "--calib-data"),
    (f"{SUBNET} --calib-data missing", 2, "missing"),
    (f"{SUBNET} --calib-data hollow", 2, "hollow"),
    (f"{SUBNET} --calib-data arch.json", 2, "arch.json"),
    (f"{SUBNET} --calib-data damaged", 1, "0.png"),
    (f"{SUBNET} --weights random", 2, "--weights and --supernet both"),
    (f"{SUBNET} --calib-data images --num-classes 7", 2, "--num-classes is 7"),
    ("verify", 2, "required"),
    ("verify missing.onnx", 2, "missing.onnx"),
    ("verify images", 2, "folder"),
    ("verify noise.onnx", 1, "noise.onnx"),
    ("verify empty.onnx", 1, "empty.onnx"),
    ("verify cut.onnx", 1, "cut.onnx"),
    ("verify outside.onnx", 1, "another file"),
    ("verify foreign.onnx", 1, "alphanet export"),
    (f"{VERIFY} --min-top1 50", 2, "--data"),
    (f"{VERIFY} --min-top1 101 --data images", 2, "101"),
    (f"{VERIFY} --data missing", 2, "missing"),
    (f"{VERIFY} --data hollow", 2, "hollow"),
    (f"{VERIFY} --data twelve", 2, "12"),
    (f"{VERIFY} --data damaged", 1, "0.png"),
    (f"{VERIFY} --reference alphanet_a9", 2, "alphanet_a9"),
    (f"{VERIFY} --reference missing.safetensors", 2, "missing.safetensors"),
    (f"{VERIFY} --reference cut.safetensors", 1, "cut.safetensors"),
    (f"{VERIFY} --reference noise.pth.tar", 1, "noise.pth.tar"),
    (f"{VERIFY} --threads 0", 2, "positive"),
    (f"{VERIFY} --batch 2", 2, "batch"),
    (f"{VERIFY} --report out.pdf", 2, "out.pdf"),
    ("convert", 2, "required"),
    ("convert missing.pth.tar -o out.safetensors", 2, "missing.pth.tar"),
    ("convert noise.pth.tar -o out.safetensors", 1, "noise.pth.tar"),
    ("convert evil.pth.tar -o out.safetensors", 1, "evil.pth.tar"),
    ("convert images -o out.safetensors", 2, "folder"),
    ("convert noise.pth.tar -o out.bin", 2, "out.bin"),
    ("train", 2, "--config"),
    ("train --config nonesuch", 2, "nonesuch"),
    ("train --config recipe.yaml", 2, "recipe.yaml"),
    ("train --config text.yaml", 2, "text.yaml"),
    ("train --config digits optim.lrr=1", 2, "optim.lr"),
    ("train --config digits optim.lr=fast", 2, "optim.lr"),
    ("train --config digits seed=-1", 2, "seed"),
    ("train --config digits output", 2, "key=value"),
    ("train nonesuch", 2, "nonesuch"),
    ("train digits images", 2, "key=value"),
    ("train optim.lr=1", 2, "recipe is required"),
    ("resume images", 2, "config.yaml not found"),
    ("resume missing", 2, "missing"),
    ("recipes digit", 2, "did you mean digits?"),
    ("compare --runtimes tensorflow", 2, "tensorflow"),
    ("verify-server tiny.onnx", 2, "--server"),
    ("verify-data missing", 2, "missing"),
    ("verify-data images --threads -1", 2, "threads"),
    ("export-supernet images -o out.safetensors", 2, "images"),
    ("export-supernet missing -o out.safetensors", 2, "missing"),
    ("serch --data images", 2, "did you mean search?"),
    (f"{SEARCH}", 2, "--output"),
    (f"{SEARCH} -o front.txt", 2, "front.txt"),
    (f"{SEARCH} -o front.json --evaluations 0", 2, "'0'"),
    (f"{SEARCH} -o front.json --min-flops 2M --max-flops 1M", 2, "above"),
    (f"{SEARCH} -o front.json --max-flops 1k", 5, "nearest"),
    ("search --supernet missing.safetensors --data images --calib-data images -o front.json", 2, "missing"),
    ("search --supernet static.safetensors --data images --calib-data images -o front.json", 2, "supernet"),
    ("search --supernet super.safetensors --data twelve --calib-data images -o front.json", 2, "classes"),
    (
        "search --supernet super.safetensors --data images --calib-data images -o front.json --latency-ms 5",
        2,
        "--device",
    ),
    ("export --family cifar10", 2, "--family requires a budget"),
    ("export --family cifar10 --latency-ms 0", 2, "milliseconds"),
    ("export --family cifar10 --latency-ms 5 --arch smallest", 2, "leave --model and --arch out"),
    ("export --family cifar10 --latency-ms 5 --format coreml", 2, "not coreml"),
    ("export --family cifar10 --latency-ms 5 --quantize int8 --calib-data images", 2, "leave --quantize out"),
    ("export --family cifar10 --flops 40M --threads 2", 2, "--threads requires --latency-ms"),
    ("export static.safetensors --max-params 1M", 2, "pass --front"),
    ("export --family cifar10 --max-params 1k", 5, "the smallest is alphanet_c10_xs"),
    ("predict", 2, "required"),
    ("predict missing.png", 2, "missing.png"),
    ("predict images --model nonesuch", 2, "nonesuch"),
    ("predict images --model cut.safetensors", 1, "cut.safetensors"),
    ("predict images --file cut.onnx", 1, "cut.onnx"),
    ("predict images --topk 0", 2, "positive"),
    ("predict images -o images", 2, "images"),
    ("predict hollow", 2, "hollow"),
    ("profile", 2, "-o is required"),
    ("profile --space nowhere -o device.json", 2, "unknown space 'nowhere'"),
    ("profile --runtime abacus -o device.json", 2, "abacus"),
    ("profile --supernet cut.safetensors -o device.json", 1, "cut.safetensors"),
    ("profile --export-blocks blocks --import images -o device.json", 2, "cannot be used together"),
    ("profile -o images", 2, "images"),
    ("publish", 2, "required"),
    ("publish --to local", 2, "pass either --upstream FILE or --network NET"),
    ("publish --to local --upstream noise.pth.tar --calib-data images", 2, "--accept-license"),
    ("publish --to local --upstream noise.pth.tar --calib-data images --accept-license", 1, "noise.pth.tar"),
    ("publish --to local --upstream missing.pth.tar --accept-license", 2, "missing.pth.tar"),
    ("publish --to local --network cut.safetensors --name mine", 1, "cut.safetensors"),
    ("publish --to local --network static.safetensors --name ../mine", 2, "--name is '../mine'"),
    ("publish --to tiny.onnx/x --network static.safetensors --name mine", 2, "which is a file"),
    ("models nonesuch", 2, "nonesuch"),
    ("eval static.safetensors", 2, "--data"),
    ("eval tiny.onnx --data images", 2, "alphanet verify tiny.onnx"),
    ("eval cut.safetensors --data images", 1, "cut.safetensors"),
    ("eval static.safetensors --data images", 2, "statistics are not set"),
    ("verify alphanet_c10_m", 2, "alphanet eval alphanet_c10_m"),
    ("predict https://example.org/photo.jpg", 2, "is a URL"),
    ("models --verify --no-such-flag", 2, "--no-such-flag"),
    ("resume", 2, "required"),
    ("resume images --time-limit 0", 2, "--time-limit"),
    ("recipes nonesuch", 2, "nonesuch"),
    ("compare --threads 0", 2, "positive"),
    ("verify-server tiny.onnx --server nowhere", 2, "nowhere"),
    ("export-supernet", 2, "required"),
    ("verify-data tiny.onnx", 2, "tiny.onnx"),
]


def test_the_lines_cover_every_command_and_are_a_hundred_or_more() -> None:
    assert {line.split()[0] for line, _, _ in WRONG} >= COMMANDS.keys()
    assert len({line for line, _, _ in WRONG}) == len(WRONG) >= 100


@pytest.mark.parametrize(("line", "code", "words"), WRONG, ids=[line for line, _, _ in WRONG])
def test_wrong_command_line(
    line: str, code: int, words: str, place: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    command, *arguments = shlex.split(line)
    before = everything(place)
    assert main([command, *arguments]) == code
    captured = capsys.readouterr()
    prefix = f"alphanet {command}: error: " if command in COMMANDS else "alphanet: error: "
    errors = [text for text in captured.err.splitlines() if ": measuring " not in text]
    assert len(errors) == 1 and errors[0].startswith(prefix) and words in errors[0]
    assert captured.out == ""
    assert everything(place) == before
    assert not recwarn.list


def test_a_real_process_ends_alike(place: Path) -> None:
    before = everything(place)
    for line, code in ((f"{A4} --weights cut.safetensors", 1), ("export --flops 1M", 5), ("verify outside.onnx", 1)):
        command, *arguments = shlex.split(line)
        done = subprocess.run(
            [sys.executable, "-m", f"alphanet_zoo.cli.{command}", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == code and done.stdout == ""
        assert done.stderr.count("\n") == 1, done.stderr
    assert everything(place) == before


def test_a_mistyped_folder_is_not_only_called_a_repository(place: Path) -> None:
    command = [sys.executable, "-m", "alphanet_zoo", *shlex.split(A4), "--weights", "build/typo"]
    done = subprocess.run(
        command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "no local file or folder is called 'build/typo', so it is taken for a Hub repository" in done.stderr


def test_debug_adds_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--flops", "1M", "--debug"]) == 5
    error = capsys.readouterr().err
    assert error.startswith("Traceback") and error.splitlines()[-1].startswith("alphanet export: error: ")
