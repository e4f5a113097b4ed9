"""Every command line in the README and in docs/ works: it is run, or listed here with the reason why it is not."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path

import onnx
import pytest

from alphanet_export.metadata import open_onnx
from alphanet_zoo.cli.export_options import check_arguments
from alphanet_zoo.cli.main import COMMANDS, main
from alphanet_zoo.space.presets import IMAGENET_FAMILY
from alphanet_zoo.train.config import load_config
from alphanet_zoo.zoo.convert import load_upstream
from alphanet_zoo.zoo.families import shipped_family
from alphanet_zoo.zoo.files import save_net
from alphanet_zoo.zoo.shipped import load_member
from tests.export.exported import write_images

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]

PARSED_ONLY = {
    "alphanet train slimmable_cifar10": "downloads weights; tests/slim/test_commands.py trains another network",
    "alphanet search --supernet runs/slim": "requires that run; tests/slim/test_commands.py searches its own",
    "alphanet export runs/slim": "requires that run; tests/slim/test_commands.py exports its own",
    "alphanet train finetune finetune.weights=runs/slim": "tests/slim/test_finetune.py trains its own",
    "alphanet export runs/small": "requires that run; see the line above",
    "alphanet verify small.onnx --reference runs/slim": "requires that run; see the line above",
    "alphanet publish --network runs/": "requires that run; tests/cli/test_publish.py publishes its own",
    "alphanet models --verify --public-key": "requires that key; tests/zoo/test_signing.py checks signatures",
    "alphanet compare": "measures many networks of timm, for tens of minutes",
    "alphanet verify-server": "requires a running model server; tests/cli/test_verify_server.py starts one",
    "alphanet train alphanet_imagenet": "requires ImageNet",
    "alphanet train alphanet_cifar10": "requires CIFAR-10",
    "alphanet export alphanet_c10_m --web": "requires onnxruntime-web from npm",
    "alphanet verify c10_$size.onnx": "requires the test images of CIFAR-10",
}
"""Beginnings of ``alphanet`` command lines that are parsed but not run, and why."""

OTHER_PROGRAMS = {
    "make": "runs the commands below in a new environment; CI runs `make lint test`",
    "pip install": "installs packages",
    "torchrun": "starts several processes; tests/train/test_distributed.py and tests/cli/test_search.py do. Its "
    "arguments are checked here",
    "tritonserver": "is NVIDIA's server; tests/export/verify/measure/test_triton.py runs it if it is installed",
    "trtexec": "is NVIDIA's TensorRT, which requires a GPU",
    "python page/serve.py": "serves until it is stopped; tests/export/writers/test_web_page.py runs it",
    "python benchmarks/cifar_supernet.py": "trains on a GPU; tests/e2e/test_cifar_supernet.py runs it on few images",
    "python benchmarks/loss_study.py": "trains for hours; tests/e2e/test_cifar_supernet.py runs it on few images",
    "python benchmarks/train_step.py": "measures on a GPU",
    "python benchmarks/runtimes.py": "measures for minutes",
    "python -m venv litert": "installs another PyTorch version",
    "litert/bin/": "runs in that environment",
    "python -m model_signing": "requires the extra sign; tests/zoo/test_signing.py checks signatures",
    "python build/predict.py": "is written by an export; tests/export/test_bundle.py runs it",
    "cd CLONE": "is the user's own folder",
    "for size in": "is a loop over the commands that follow",
    "done": "ends that loop",
    "export ": "sets a variable of the shell",
}
"""Beginnings of other command lines, and why no test here runs them."""

QUICK = {
    "train": ["max_steps=2", "device=cpu", "validation.every_epochs=0", "log.progress=false", "data.batch_size=16"],
    "search": ["--evaluations", "3", "--limit", "20", "--calib-images", "256"],
    "publish": ["--calib-images", "64"],
    "verify": ["--seconds", "0.1", "--repeats", "2", "--starts", "1", "--any-graph"],
}
"""Arguments that are added to a command line to shorten it."""

EXIT_CODES = {"--min-top1": (0, 4), "--max-latency-ms": (0, 5), "--max-ratio": (0, 5), "--quantize": (0, 4)}
"""Exit codes of options that judge the accuracy or time of the network, which has random weights here."""

HEAVY = ("alphanet_a", "a4", "a5", "weights.safetensors", "supernet.safetensors --", "--flops", ".pth.tar",
         "best.onnx", "new.onnx", "other.onnx", "executorch", "--quantize", "--embed-preprocessing",
         "--model-repository")  # fmt: skip
"""Parts of command lines that use a network of the ImageNet space, or whose export takes long."""


@dataclass(frozen=True)
class Line:
    """A command line of a document."""

    page: str
    text: str

    @property
    def words(self) -> list[str]:
        """The words of an ``alphanet`` command line after ``alphanet``, without the redirection."""
        return shlex.split(self.text.replace("$size", "s"), comments=True)[1:]

    @property
    def arguments(self) -> list[str]:
        words = self.words
        return words[: words.index(">")] if ">" in words else words

    @property
    def redirect(self) -> str | None:
        return self.words[-1] if ">" in self.words else None

    @property
    def parsed_only(self) -> bool:
        return self.text.startswith(tuple(PARSED_ONLY))

    @property
    def heavy(self) -> bool:
        small = self.words[0] == "arch" or any(part in self.text for part in ("cifar10", "runs/digits"))
        return not small and any(part in self.text for part in HEAVY)


def lines_of(page: Path) -> Iterator[Line]:
    """The command lines in the blocks of a document without a language or with ``sh``."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        if language not in ("", "sh"):
            continue
        joined = re.sub(r"\\\n\s*", " ", block)
        for line in joined.splitlines():
            if re.match(rf"\s*(?:{'|'.join(map(re.escape, PROGRAMS))})", line):
                yield Line(page.name, line.strip())


PROGRAMS = ("alphanet ", "alphanet-", "python", "pip", "make ", "torchrun", "npm", "docker", "tritonserver", "trtexec",
            "litert/", "for ", "done", "export ", "cd ", "curl", "huggingface-cli", "hf ", "git ")  # fmt: skip
ALL = [line for page in PAGES for line in lines_of(page)]
OURS = [line for line in ALL if line.text.startswith("alphanet ")]
LIGHT_PAGES = sorted({line.page for line in OURS if not line.heavy and not line.parsed_only})
HEAVY_PAGES = sorted({line.page for line in OURS if line.heavy and not line.parsed_only})


def run(line: Line) -> None:
    """Runs a command line in the working directory, shortened, and checks its exit code."""
    command, *arguments = line.arguments
    if command == "train" and not any(flag in arguments for flag in ("--print-config", "--dry-run")):
        outputs = [word.partition("=")[2] for word in arguments if word.startswith("output=")]
        shutil.rmtree(outputs[0] if outputs else f"runs/{Path(arguments[0]).stem}", ignore_errors=True)
    expected = next((codes for flag, codes in EXIT_CODES.items() if flag in arguments), (0,))
    quick = QUICK.get(command, [])
    if "--dry-run" in arguments:
        arguments[arguments.index("--dry-run")] = "--dry-run=2"
        quick = [word for word in quick if not word.startswith("max_steps")]
    with redirect_stdout(StringIO()) as out:
        code = main([command, *arguments, *quick])
    assert code in expected, f"{line.page}: {line.text}: exit code {code}"
    if line.redirect is not None:
        Path(line.redirect).write_text(out.getvalue(), "utf-8")


def test_every_other_program_is_listed() -> None:
    unknown = [f"{line.page}: {line.text}" for line in ALL
               if line not in OURS and not line.text.startswith(tuple(OTHER_PROGRAMS))]  # fmt: skip
    assert not unknown, "run these command lines in this test, or list why they are not"


@pytest.mark.parametrize("listed", [*PARSED_ONLY, *OTHER_PROGRAMS])
def test_no_exception_is_out_of_date(listed: str) -> None:
    assert any(line.text.startswith(listed) for line in ALL)


@pytest.mark.parametrize("line", OURS, ids=lambda line: f"{line.page}: {line.text[:70]}")
def test_every_command_line_is_accepted(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser accepts it; the paths that it names exist, as the document assumes, but are empty."""
    monkeypatch.chdir(tmp_path)
    for word in line.arguments[1:]:
        path = Path(word.partition("#")[0])
        if re.search(r"\.(safetensors|onnx|xml|json|tar|pem)$", str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        elif not word.startswith("-") and "=" not in word and ("/" in word or word in ("images", "cifar10")):
            path.mkdir(parents=True, exist_ok=True)
    command, *arguments = line.arguments
    assert command in COMMANDS
    module = import_module(f"alphanet_zoo.cli.{command.replace('-', '_')}")
    parsed = module.make_parser(f"alphanet {command}").parse(arguments)
    if command == "export" and not line.parsed_only:
        check_arguments(parsed)
    if command == "train" and parsed.recipe in ("alphanet_imagenet", "alphanet_cifar10", "digits"):
        load_config(parsed.recipe, parsed.settings)


def test_settings_of_torchrun_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line.text for line in ALL if line.text.startswith("torchrun")]
    assert len(lines) >= 2
    for text in lines:
        words = shlex.split(text, comments=True)
        if "alphanet_zoo.cli.search" in words:
            module = import_module("alphanet_zoo.cli.search")
            arguments = words[words.index("alphanet_zoo.cli.search") + 1 :]
            monkeypatch.chdir(tmp_path)
            for folder in ("runs/digits", "runs/digits-data/val", "runs/digits-data/train"):
                (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            module.make_parser("alphanet search").parse(arguments)
            continue
        recipe, *settings = words[words.index("--config") + 1 :]
        load_config(recipe, settings)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the documents assume: a run, its front, and images by class or with several labels."""
    root = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run(Line("", "alphanet train digits"))
        run(Line("", "alphanet search --supernet runs/digits --data runs/digits-data/val --calib-data "
                     "runs/digits-data/train -o front.json --best best.json"))  # fmt: skip
        for file in ("runs/demo/digits.onnx", "net.safetensors"):
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            run(Line("", f"alphanet export runs/digits --arch best.json --calib-data runs/digits-data/train -o {file}"))
        for source, target in (
            ("digits-data/val", "data/test"),
            ("digits-data/train", "data/train"),
            ("digits", "training"),
        ):
            shutil.copytree(f"runs/{source}", f"runs/demo/{target}")
        shutil.copy("best.json", "runs/demo/digits.json")
    for name in ("images", "my_images/train", "my_images/val"):
        write_images(root / name)
    shutil.copytree(root / "images", root / "photos")
    family = shipped_family()
    assert family is not None
    for number, label in enumerate(load_member(family, family.members[0]).pretrained_cfg["label_names"]):
        for part in ("train", "val"):
            shutil.copytree(root / "images" / str(number), root / "cifar10" / part / label)
    shutil.copy(next((root / "images").rglob("*.png")), root / "photo.jpg")
    for part in ("train", "val"):
        rows = [f"{label}/{number}.png,{label % 2},1" for label in range(10) for number in range(3)]
        (root / "my_images" / f"{part}.csv").write_text("\n".join(["image,odd,picture", *rows]) + "\n")
    return root


@pytest.mark.parametrize("page", LIGHT_PAGES)
def test_command_lines_with_small_networks_run(
    page: str, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(digits, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for line in OURS:
        if line.page == page and not line.heavy and not line.parsed_only:
            run(line)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory, upstream_checkpoint: Path) -> Path:
    """What the documents assume: the checkpoint, a supernet of 10 of its classes, weights, exported files, images."""
    root = tmp_path_factory.mktemp("imagenet")
    for name in ("alphanet.pth.tar", "alphanet_pretrained.pth.tar"):
        (root / name).symlink_to(upstream_checkpoint)
    for name in ("train", "val", "imagenet/train", "imagenet/val"):
        write_images(root / name, each=6)
    supernet = load_upstream(upstream_checkpoint)
    head = supernet.classifier.state_dict()
    supernet.reset_classifier(10)
    supernet.classifier.load_state_dict({name: tensor[:10] for name, tensor in head.items()})
    save_net(supernet, root / "supernet.safetensors")
    (root / "arch.json").write_text(json.dumps(IMAGENET_FAMILY[0].arch.to_dict()))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run(
            Line("", "alphanet export alphanet_a4 --supernet supernet.safetensors --calib-data train -o a4.safetensors")
        )
        run(Line("", "alphanet export a4.safetensors --name alphanet_a4 --format onnx,openvino"))
    for name in ("weights", "best"):
        shutil.copy(root / "a4.safetensors", root / f"{name}.safetensors")
    for name in ("alphanet_a0", "best", "new", "old"):
        shutil.copy(root / "alphanet_a4.onnx", root / f"{name}.onnx")
    other = onnx.load(root / "alphanet_a4.onnx")
    del other.metadata_props[:]
    onnx.save(other, root / "other.onnx")
    preprocessing = open_onnx(root / "alphanet_a4.onnx").preprocessing
    (root / "preprocessing.json").write_text(json.dumps(preprocessing.to_dict()))
    return root


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", HEAVY_PAGES)
def test_command_lines_with_imagenet_networks_run(
    page: str, imagenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(imagenet, tmp_path, dirs_exist_ok=True, symlinks=True)
    monkeypatch.chdir(tmp_path)
    for line in OURS:
        if line.page == page and line.heavy and not line.parsed_only:
            run(line)
