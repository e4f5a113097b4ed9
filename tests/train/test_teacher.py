"""Teachers of every kind: networks of libraries, functions, exported files and networks of this package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import alphanet_zoo as az
from alphanet_zoo.cli.main import main
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.train.config import load_config
from alphanet_zoo.train.teacher import Teacher, open_teacher
from alphanet_zoo.zoo.files import save_net
from tests.hub_server import HubClient, HubServer
from tests.slim.own import current_folder

DIGITS = tuple(map(str, range(10)))
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
MODULE = """
from torch import nn


def plain(num_classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, num_classes))


def described(num_classes):
    net = plain(num_classes)
    net.pretrained_cfg = {"label_names": ["b", "a", "c"], "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.5, 0.5)}
    return net


def resizing(num_classes):
    net = plain(num_classes)
    net.pretrained_cfg = {"fixed_input_size": True, "input_size": (3, 8, 8)}
    return net


def failing(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(5, num_classes))


def maps(num_classes):
    return nn.Conv2d(3, num_classes, 1)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder, with a module of the user's."""
    with current_folder(tmp_path_factory.mktemp("teachers"), "own_teachers", MODULE) as path:
        yield path


def opened(name: str | Path, classes: tuple[str, ...], weights: Path | None = None, size: int = 16) -> Teacher:
    given = None if weights is None else str(weights)
    return open_teacher(str(name), classes, weights=given, size=size, device=torch.device("cpu"), **IMAGENET)


def saved(net: nn.Module, path: Path) -> Path:
    torch.save(net.state_dict(), path)
    return path


def images(size: int = 16) -> torch.Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(5))


def test_a_function_with_weights(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without names the order is that of the images, with a warning; the network is in evaluation without gradients."""
    import own_teachers  # type: ignore[import-not-found]

    net = own_teachers.plain(3)
    teacher = opened("own_teachers:plain", ("a", "b", "c"), saved(net, folder / "plain.pth"))
    assert "does not name its classes; its outputs are taken to be, in this order: a, b, c" in caplog.text
    logits = teacher(images())
    torch.testing.assert_close(logits, net(images()).detach())
    assert not logits.requires_grad and not teacher.runs_a_file


def test_names_and_normalisation_of_a_network_are_followed(folder: Path) -> None:
    import own_teachers

    net = own_teachers.described(3)
    teacher = opened("own_teachers:described", ("a", "b", "c"), saved(net, folder / "described.pth"))
    mean, std = (torch.tensor(IMAGENET[key]).view(3, 1, 1) for key in ("mean", "std"))
    pixels = images() * std + mean
    own = (pixels - 0.5) / torch.tensor((0.25, 0.5, 0.5)).view(3, 1, 1)
    torch.testing.assert_close(teacher(images()), net(own).detach()[:, [1, 0, 2]], rtol=1e-5, atol=1e-5)


def test_a_network_with_a_fixed_input_size_gets_it(folder: Path) -> None:
    import own_teachers

    net = own_teachers.resizing(3)
    teacher = opened("own_teachers:resizing", ("a", "b", "c"), saved(net, folder / "resizing.pth"))
    small = nn.functional.interpolate(images(), size=(8, 8), mode="bicubic")
    torch.testing.assert_close(teacher(images()), net(small).detach())


@pytest.fixture(scope="module")
def static(folder: Path) -> Path:
    """The file of a calibrated network with the classes of the digits, in reverse order."""
    torch.manual_seed(0)
    net = fill_live(az.build_supernet(ALPHANET_TINY, 10)).extract(ALPHANET_TINY.smallest)
    net.pretrained_cfg |= {"label_names": DIGITS[::-1], "mean": (0.5, 0.5, 0.5)}
    az.calibrate(net, [torch.randn(8, 3, 16, 16)])
    save_net(net, folder / "static.safetensors")
    return folder / "static.safetensors"


@pytest.mark.parametrize(
    "ending", [".onnx", pytest.param(".pt2", marks=pytest.mark.slow), pytest.param(".ort", marks=pytest.mark.slow)]
)
def test_an_exported_file_equals_its_network(static: Path, ending: str) -> None:
    file = static.with_name(f"teacher{ending}")
    az.export(static, file, dynamic_batch=ending == ".onnx")
    teacher, network = opened(file, DIGITS), opened(static, DIGITS)
    assert teacher.runs_a_file and not network.runs_a_file
    size = ALPHANET_TINY.smallest.resolution
    torch.testing.assert_close(teacher(images(size)), network(images(size)), rtol=1e-4, atol=1e-4)
    backwards = opened(file, DIGITS[::-1])
    assert torch.equal(backwards(images(size)), teacher(images(size)).flip(1))
    assert teacher(images(20)).shape == (3, 10), "images are resized to the input of the file"


def test_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published weights, from torch's cache; the classes are torchvision's names, or the WordNet ids of ImageNet."""
    from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

    pytest.importorskip("timm")
    weights = SqueezeNet1_1_Weights.DEFAULT
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    net = squeezenet1_1()
    saved(net, tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2])
    categories = tuple(weights.meta["categories"])
    expected = net.eval()(images(32)).detach()
    reversed_ = opened("torchvision/squeezenet1_1", categories[::-1], size=32)
    torch.testing.assert_close(reversed_(images(32)), expected.flip(1))
    from timm.data.imagenet_info import ImageNetInfo

    ids = tuple(ImageNetInfo("imagenet-1k").label_names())
    torch.testing.assert_close(opened("torchvision/squeezenet1_1", ids, size=32)(images(32)), expected)
    with pytest.raises(UsageError, match="the classes of the teacher .* differ .*: the images have no tench"):
        opened("torchvision/squeezenet1_1", categories[1:], size=32)
    with pytest.raises(UsageError, match="differ .*: the teacher has no 0, 1, 2, "):
        opened("torchvision/squeezenet1_1", DIGITS, size=32)


def test_timm(tmp_path: Path) -> None:
    """Published weights, from a Hub; its classes are ImageNet's, and its mean and deviation are its own."""
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file
    from timm.data.imagenet_info import ImageNetInfo

    torch.manual_seed(0)
    net = timm.create_model("test_resnet").eval()
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "test_resnet", "num_classes": 1000, "pretrained_cfg": net.pretrained_cfg}
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    code = """
import torch
from alphanet_zoo.train.teacher import open_teacher
teacher = open_teacher("timm/test_resnet", classes, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), size=32,
                       device=torch.device("cpu"))
result = teacher(torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(5))).tolist()
"""
    with HubServer() as server, HubClient(server, tmp_path / "home", PYTHONWARNINGS="ignore") as client:
        server.publish("timm/test_resnet.r160_in1k", {
            name: (tmp_path / name).read_bytes() for name in ("model.safetensors", "config.json")
        })  # fmt: skip
        answer = client(code, classes=ImageNetInfo("imagenet-1k").label_names()[::-1])
        assert "value" in answer, answer
        assert server.count("GET", "model.safetensors") == 1
    mean, std = (torch.tensor(IMAGENET[key]).view(3, 1, 1) for key in ("mean", "std"))
    expected = net((images(32) * std + mean - 0.5) / 0.5).detach().flip(1)
    torch.testing.assert_close(torch.tensor(answer["value"]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("own_teachers:plain", None, "has no published weights; pass sandwich.teacher_weights=FILE"),
        ("own_teachers:plain", "four.pth", "does not contain the weights of the teacher .* with 3 classes"),
        ("own_teachers:plain", "absent.pth", "absent.pth are not a file"),
        ("own_teachers:described", "other.pth", "differ from those of the images: the teacher has no x"),
        ("own_teachers:failing", "failing.pth", r"fails on images of shape \(2, 3, 16, 16\): RuntimeError"),
        ("own_teachers:maps", "maps.pth", r"returns \(2, 3, 16, 16\); a classifier must return logits"),
        ("own_teachers:absent", "plain.pth", "has no function 'absent'"),
        ("torchvision/resnet0", None, "torchvision has no classifier 'resnet0'"),
        ("absent.onnx", None, "'absent.onnx' is not a file"),
        ("static.safetensors", "plain.pth", "teacher_weights is plain.pth, which requires sandwich.teacher=timm/NAME"),
        ("static.safetensors", None, "the teacher has no x, b, c"),
    ],
)
def test_bad_teachers(folder: Path, static: Path, name: str, weights: str | None, message: str) -> None:
    import own_teachers

    for kind, count in (("plain", 3), ("failing", 3), ("maps", 3)):
        saved(getattr(own_teachers, kind)(count), folder / f"{kind}.pth")
    saved(own_teachers.plain(4), folder / "four.pth")
    saved(own_teachers.plain(3), folder / "other.pth")
    with pytest.raises(UsageError, match=message) as caught:
        opened(name, ("x", "b", "c"), None if weights is None else Path(weights))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_file_with_its_preprocessing_is_refused(static: Path) -> None:
    file = static.with_name("embedded.onnx")
    az.export(static, file, embed_preprocessing=True)
    with pytest.raises(UsageError, match="includes its preprocessing"):
        opened(file, DIGITS)


def test_a_damaged_file_is_reported(folder: Path) -> None:
    (folder / "damaged.onnx").write_bytes(b"no graph")
    with pytest.raises(AlphaNetError, match=r"damaged\.onnx"):
        opened("damaged.onnx", DIGITS)


@pytest.mark.slow
def test_a_run_learns_from_an_exported_file(static: Path) -> None:
    """Half of the loss of the largest subnet is its divergence from the file."""
    az.export(static, static.with_name("run.onnx"), verify=False)
    settings = ["data.image_size=16", "data.workers=0", "optim.epochs=1", "max_steps=1", "log.every_steps=1",
                "log.progress=false", "validation.every_epochs=0", "optim.warmup_epochs=0"]  # fmt: skip
    losses = []
    for name, extra in (("with", ["sandwich.teacher=run.onnx"]), ("without", [])):
        assert main(["train", "digits", f"output={name}", *extra, *settings]) == 0
        log = [json.loads(line) for line in Path(f"{name}/log.jsonl").read_text("utf-8").splitlines()]
        losses += [line["subnets"]["largest"]["loss"] for line in log if "subnets" in line]
    assert len(losses) == 2 and abs(losses[0] - losses[1]) > 1e-3


def test_weights_without_a_teacher_are_refused() -> None:
    with pytest.raises(UsageError, match="teacher_weights has no effect without teacher"):
        load_config("digits", ["output=run", "sandwich.teacher_weights=a.pth"])
