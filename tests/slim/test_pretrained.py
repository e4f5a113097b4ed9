"""Slimmable networks that start from published weights or a file, train in bfloat16, or on two processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import alphanet_zoo as az
from alphanet_zoo.cli.main import main
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.slim.named import named_slimmable
from alphanet_zoo.zoo.files import load_net
from tests.hub_server import HubClient, HubServer
from tests.slim.own import MODULE, SETTINGS, current_folder
from tests.train.pair import torchrun


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a network of the user's, which is the current one."""
    with current_folder(tmp_path_factory.mktemp("pretrained"), "own_network", MODULE) as path:
        yield path


@pytest.fixture
def torch_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's cache of downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    path = tmp_path / "hub" / "checkpoints"
    path.mkdir(parents=True)
    return path


def test_torchvision_weights(torch_cache: Path, tmp_path: Path) -> None:
    """The published weights become the shared ones, except for the classifier of other classes."""
    from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

    torch.manual_seed(0)
    net, file = squeezenet1_1(), torch_cache / SqueezeNet1_1_Weights.DEFAULT.url.rpartition("/")[2]
    torch.save(net.state_dict(), file)
    supernet = named_slimmable("torchvision/squeezenet1_1", 5, (3, 32, 32), weights="pretrained", importance=None)
    for name, tensor in supernet.net.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name]) == (not name.startswith("classifier")), name
    file.unlink()
    with pytest.raises(AlphaNetError, match="cannot get the published weights of torchvision/squeezenet1_1") as caught:
        named_slimmable("torchvision/squeezenet1_1", 5, (3, 32, 32), weights="pretrained", importance=None)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_timm_weights(tmp_path: Path) -> None:
    """Weights from a Hub: the reordered network computes what timm's does."""
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    net = timm.create_model("test_resnet").eval()
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "test_resnet", "num_classes": 1000, "pretrained_cfg": net.pretrained_cfg}
    code = """
import torch
from alphanet_zoo.slim.named import named_slimmable
supernet = named_slimmable("timm/test_resnet", 1000, (3, 32, 32), weights="pretrained").eval()
result = [supernet(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))).tolist(),
          list(supernet.pretrained_cfg["mean"])]
"""
    with HubServer() as server, HubClient(server, tmp_path / "home", PYTHONWARNINGS="ignore") as client:
        server.publish("timm/test_resnet.r160_in1k", {
            "model.safetensors": (tmp_path / "model.safetensors").read_bytes(),
            "config.json": json.dumps(config).encode(),
        })  # fmt: skip
        answer = client(code)
        assert server.count("GET", "model.safetensors") == 1, answer
        logits, mean = answer["value"]
        refused = client(
            "from alphanet_zoo.slim.named import build_network\n"
            "build_network('timm/test_efficientnet', None, pretrained=True)"
        )
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(torch.tensor(logits), net(images).detach(), rtol=1e-4, atol=1e-5)
    assert mean == list(net.pretrained_cfg["mean"]) == [0.5, 0.5, 0.5]
    assert refused["code"] == 1 and "cannot get the published weights of timm/test_efficientnet" in refused["message"]


def train(output: str, *settings: str) -> list[dict[str, Any]]:
    """The log of a run."""
    assert main(["train", "slimmable_cifar10", *SETTINGS, f"output={output}", *settings]) == 0
    return [json.loads(line) for line in (Path(output) / "log.jsonl").read_text("utf-8").splitlines()]


def test_a_run_starts_from_a_file(folder: Path) -> None:
    """The weights of a module of the user's; at a rate of nearly 0 they stay what they are, sorted."""
    import own_network  # type: ignore[import-not-found]

    torch.manual_seed(1)
    net = own_network.build(10)
    torch.save(net.state_dict(), folder / "net.pth")
    train("started", "net.weights=net.pth", "net.importance=l1", "max_steps=1", "optim.lr=1e-12")
    found = load_net(folder / "started" / "final" / "model.safetensors").net[0].weight
    order = net[0].weight.abs().flatten(1).sum(1).argsort(descending=True)
    torch.testing.assert_close(found, net[0].weight[order])


def deceptive() -> torch.nn.Module:
    """The network of the module; the channels that are used come last by one measure in each of its first two groups.

    The next layer does not use the first half of the channels. Of the first group they have the larger weights of the
    batch norm, of the second the larger norms of the convolution's weights.
    """
    import own_network

    torch.manual_seed(1)
    net = own_network.build(10)
    with torch.no_grad():
        for first, large in ((0, 1), (3, 0)):
            half = net[first].out_channels // 2
            net[first + large].weight[:half] *= 4
            net[first + 1 - large].weight[half:] *= 4
            net[first + 3].weight[:, :half] = 0
    return net


def test_the_measure_of_each_group_is_chosen_by_data(folder: Path) -> None:
    net, images = deceptive(), torch.randn(64, 3, 16, 16)
    supernet = az.slimmable(net, (3, 16, 16), importance=None)
    assert supernet.choose_measures(images)[:2] == ("l1", "norm") and supernet.training
    supernet = az.slimmable(net, (3, 16, 16), importance="data", images=images)
    torch.testing.assert_close(supernet.eval()(images), net.eval()(images), rtol=1e-5, atol=1e-5)
    for first in (0, 3):
        unused = net[first].out_channels // 2
        used = supernet.net[first + 3].weight.abs().sum((0, 2, 3)) > 0  # type: ignore[index]
        assert used[:unused].all() and not used[unused:].any()
    with pytest.raises(UsageError, match="importance='data' requires images"):
        az.slimmable(net, (3, 16, 16), importance="data")


def test_a_run_orders_the_channels_of_a_file_by_its_images(folder: Path) -> None:
    torch.save(deceptive().state_dict(), folder / "deceptive.pth")
    train("ordered", "net.weights=deceptive.pth", "max_steps=1", "optim.lr=1e-12")
    net = load_net(folder / "ordered" / "final" / "model.safetensors").net
    for after, unused in ((3, 8), (6, 12)):
        used = net[after].weight.abs().sum((0, 2, 3)) > 1e-6
        assert used[:unused].all() and not used[unused:].any()


def test_bfloat16(folder: Path) -> None:
    """Losses differ from float32 by rounding, and the weights stay float32."""
    figures = []
    for kind in ("fp32", "bf16"):
        log = train(f"run-{kind}", f"optim.precision={kind}", "max_steps=1", "log.every_steps=1")
        figures += [line["subnets"] for line in log if "subnets" in line]
    for name, exact in figures[0].items():
        names = ["loss"] if name == "largest" else ["divergence_alpha_min", "divergence_alpha_max"]
        for key in names:  # The loss of the students is a surrogate that jumps where both divergences are equal.
            assert figures[1][name][key] == pytest.approx(exact[key], rel=0.05, abs=0.02), (name, key)
            assert figures[1][name][key] != exact[key]
    tensors = load_net(folder / "run-bf16" / "final" / "model.safetensors").state_dict().values()
    assert {tensor.dtype for tensor in tensors} == {torch.float32, torch.int64}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_processes_equal_one_that_accumulates_the_same_halves(folder: Path, precision: str) -> None:
    """All with one thread: the last bit of a bfloat16 gradient depends on the number of threads."""
    settings = [*SETTINGS, "max_steps=4", "log.every_steps=1", "device=cpu", f"optim.precision={precision}",
                "validation.every_epochs=4"]  # fmt: skip
    torchrun("-m", "alphanet_zoo.cli.train", "slimmable_cifar10", *settings, f"output={precision}-pair")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(["train", "slimmable_cifar10", *settings, f"output={precision}-alone", "optim.accumulate=2"]) == 0
    finally:
        torch.set_num_threads(threads)
    pair, alone = (
        load_net(folder / f"{precision}-{kind}" / "final" / "model.safetensors").state_dict()
        for kind in ("pair", "alone")
    )
    for name, tensor in pair.items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-4, atol=1e-5)
    lines = [json.loads(line) for line in (folder / f"{precision}-pair" / "log.jsonl").read_text("utf-8").splitlines()]
    assert {line["step"] for line in lines if "subnets" in line} == {1, 2, 3, 4}
