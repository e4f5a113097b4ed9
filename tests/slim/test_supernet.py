"""Small networks made slimmable: what is found, what runs, and what is extracted."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import alphanet_zoo as az
from alphanet_zoo.slim.supernet import Slimmable
from alphanet_zoo.train.sandwich import draw_archs

SIZE = (3, 32, 32)


def conv(channels: int, out: int, kernel_size: int = 3, groups: int = 1, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(channels, out, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out), nn.ReLU())


class Body(nn.Module):
    """A stem, something in the middle, and a classifier."""

    def __init__(self, middle: nn.Module, channels: int = 32, out: int = 32) -> None:
        super().__init__()
        self.stem, self.middle, self.head = conv(3, channels, stride=2), middle, nn.Linear(out, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.stem(x)).mean((2, 3)))


class Branches(nn.Module):
    """Concatenates three branches, one of which is the input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.join = conv(32, 24), conv(32, 40, 1), conv(96, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat([self.a(x), x, self.b(x)], 1))


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(32, 16, 1), nn.Conv2d(16, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()


class Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class SplitByAttribute(nn.Module):
    """Splits channels at a number that it stores, as CSP networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.expand_chs, self.expand, self.body = 64, conv(32, 64, 1), conv(32, 32)
        self.join = conv(64, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.expand(x).split(self.expand_chs // 2, dim=1)
        return self.join(torch.cat([self.body(a), b], 1))


class GatedUnit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.expand, self.project = nn.Conv2d(32, 64, 1), nn.Conv2d(32, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.expand(x).chunk(2, 1)
        return self.project(value * gate.sigmoid())


class Norms(nn.Module):
    """Layer norm over channels, group norm, layer scale, and global response normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix, self.groups = nn.LayerNorm(32), nn.Linear(32, 64), nn.GroupNorm(8, 64)
        self.gamma, self.beta = nn.Parameter(torch.rand(1, 1, 1, 64)), nn.Parameter(torch.rand(1, 1, 1, 64))
        self.project, self.scale = nn.Linear(64, 32), nn.Parameter(torch.rand(32))

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.mix(self.norm(x.permute(0, 2, 3, 1))))
        size = y.norm(p=2, dim=(1, 2), keepdim=True)
        y = y + self.gamma * (y * size / (size.mean(-1, keepdim=True) + 1e-6)) + self.beta
        y = self.groups(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + (self.scale * self.project(y)).permute(0, 3, 1, 2)


class Shuffle(nn.Module):
    """Channel shuffle between grouped convolutions, with a number of groups that stays."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(32, 32, 1, groups=4), conv(32, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return self.b(self.a(x).view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w))


class Flattened(nn.Module):
    """A classifier on a flattened map, as in VGG, with a one-dimensional batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, stride=4)
        self.head = nn.Sequential(nn.Linear(16 * 64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).flatten(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "plain": (lambda: Body(conv(32, 32)), 1.0),
    "residual": (lambda: Body(nn.Sequential(Residual(conv(32, 32)), Residual(conv(32, 32)))), 1.0),
    "depthwise": (lambda: Body(nn.Sequential(conv(32, 64, 1), conv(64, 64, 5, groups=64), conv(64, 32, 1))), 1.0),
    "grouped": (lambda: Body(nn.Sequential(conv(32, 64, 1), conv(64, 64, 3, groups=8), conv(64, 32, 1))), 1.0),
    "branches": (lambda: Body(Branches()), 1.0),
    "squeeze-excite": (lambda: Body(SqueezeExcite()), 1.0),
    "split by attribute": (lambda: Body(SplitByAttribute()), 1.0),
    "gated": (lambda: Body(GatedUnit()), 1.0),
    "norms": (lambda: Body(Norms()), 1.0),
    "flattened": (Flattened, 1.0),
    "transposed": (lambda: Body(nn.Sequential(nn.ConvTranspose2d(32, 48, 2, 2), conv(48, 32))), 1.0),
    "shuffle": (lambda: Body(Shuffle()), 0.0),
}
"""Networks, and the least share of their channels that must be found."""


def randomised(net: nn.Module) -> nn.Module:
    """The network with random batch norms, so that their statistics and weights matter."""
    torch.manual_seed(1)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for tensor in (module.weight, module.running_mean, module.running_var):
                    tensor.copy_(0.5 + torch.rand_like(tensor))
    return net


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomised(NETWORKS[name][0]())


def outputs(supernet: nn.Module, *args: object) -> Tensor:
    with torch.no_grad():
        torch.manual_seed(0)
        result: Tensor = supernet(*args)
        return result


@pytest.mark.parametrize("name", NETWORKS)
def test_small_networks(name: str) -> None:
    net, images = built(name), torch.randn(2, *SIZE)
    supernet = az.slimmable(net, SIZE, tie=None, importance=None)
    assert supernet.report.share >= NETWORKS[name][1], str(supernet.report)
    assert torch.equal(outputs(supernet.eval(), images), outputs(net.eval(), images))
    supernet.reorder("norm")
    torch.testing.assert_close(outputs(supernet, images), outputs(net, images), rtol=1e-5, atol=1e-5)
    rng, space = np.random.default_rng(0), supernet.space
    for arch in (space.largest, space.smallest, *(space.sample(rng) for _ in range(3))):
        static = supernet.train().extract(arch)
        torch.testing.assert_close(outputs(supernet, images, arch), outputs(static, images), rtol=1e-5, atol=1e-5)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            static.eval()(images[:1])
        assert space.count_macs(arch) == counter.get_total_flops() // 2
        assert space.count_params(arch) == sum(p.numel() for p in static.parameters())


@pytest.mark.parametrize("name", ["plain", "residual", "depthwise", "grouped", "squeeze-excite", "transposed"])
def test_an_extracted_network_is_the_full_one_without_the_removed_channels(name: str) -> None:
    """Hooks on the full network set the channels to 0 that the extracted one does not have."""
    net, images = built(name).eval(), torch.randn(2, *SIZE)
    supernet = az.slimmable(net, SIZE, tie=None, importance=None)
    space, rng = supernet.space, np.random.default_rng(0)
    arch = next(a for a in iter(lambda: space.sample(rng), None) if space.largest.width[0] not in a.width)
    static = supernet.eval().extract(arch)
    kept = {}
    for module_name, module in static.named_modules():
        module.register_forward_hook(lambda _, args, out, n=module_name: kept.update({n: out.shape[1]}))
    narrow = outputs(static, images)
    for module_name, module in net.named_modules():
        if module_name:
            module.register_forward_hook(
                lambda _, args, out, n=module_name: torch.cat([out[:, : kept[n]], 0 * out[:, kept[n] :]], 1)
            )
    torch.testing.assert_close(outputs(net, images), narrow, rtol=1e-5, atol=1e-5)
    assert kept["stem"] < 32


def test_concatenated_branches_are_narrowed_one_by_one() -> None:
    net = built("branches")
    supernet = az.slimmable(net, SIZE, tie=None, importance=None)
    space = supernet.space
    widths = {"stem.0": 16, "middle.a.0": 8, "middle.b.0": 24, "middle.join.0": 16}
    arch = type(space.largest)(32, tuple(widths[group.name] for group in space.groups))
    weight = supernet.extract(arch).middle.join[0].weight
    expected = net.middle.join[0].weight[:16, [*range(8), *range(24, 40), *range(56, 80)]]
    assert torch.equal(weight, expected)


def test_a_split_by_an_attribute_follows_the_width() -> None:
    supernet = az.slimmable(built("split by attribute"), SIZE)
    assert supernet.extract(supernet.space.at(0.5)).middle.expand_chs == 32


def test_a_shuffle_that_cannot_be_narrowed_is_fixed_with_its_reason() -> None:
    supernet = az.slimmable(built("shuffle"), SIZE, tie=None)
    fixed = [f for f in supernet.report.fixed if f.layer == "middle.a.0"]
    assert len(fixed) == 1 and "middle" in fixed[0].reason
    assert "middle.a.0: 32 of 32 channels are fixed" in str(supernet.report)


ACTIVATIONS = (
    "ReLU ReLU6 Hardtanh Hardswish Hardsigmoid SiLU Mish ELU CELU SELU LeakyReLU GELU Softplus PReLU"
).split()  # fmt: skip


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("inplace", [False, True])
def test_channels_pass_through_activations(kind: str, inplace: bool) -> None:
    options = {"inplace": True} if inplace and kind not in ("GELU", "Softplus", "PReLU") else {}
    layers = [nn.Conv2d(3, 16, 3), getattr(nn, kind)(**options), nn.Conv2d(16, 16, 1), nn.AdaptiveAvgPool2d(1)]
    supernet = az.slimmable(nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 4)), (3, 8, 8))
    assert supernet.report.share == 1.0


def test_gradients_reach_the_shared_weights() -> None:
    supernet = az.slimmable(built("branches"), SIZE).train()
    arch = supernet.space.at(0.5)
    supernet(torch.randn(2, *SIZE), arch).square().mean().backward()
    weight = supernet.net.stem[0].weight
    assert weight.grad is not None
    assert bool(weight.grad[:16].abs().sum() > 0) and not bool(weight.grad[16:].any())
    static = supernet.extract(arch)
    assert all(p.grad is None and p.requires_grad and p.is_leaf for p in static.parameters())


def test_training_keeps_no_statistics_and_an_extracted_network_does() -> None:
    supernet = az.slimmable(built("plain"), SIZE).train()
    before = copy.deepcopy(supernet.state_dict())
    for arch in (None, supernet.space.smallest):
        supernet(torch.randn(4, *SIZE), arch)
    assert all(torch.equal(before[key], value) for key, value in supernet.state_dict().items())
    static = supernet.extract(supernet.space.smallest)
    mean = static.stem[1].running_mean.clone()
    static(torch.randn(4, *SIZE))
    assert static.stem[1].track_running_stats and not torch.equal(static.stem[1].running_mean, mean)


def test_eval_mode_runs_at_the_largest_arch_only() -> None:
    supernet = az.slimmable(built("plain"), SIZE).eval()
    with pytest.raises(ValueError, match="extract and calibrate it"):
        supernet(torch.randn(2, *SIZE), supernet.space.smallest)
    with pytest.raises(ValueError, match=r"width\[0\] is 0.3333"):
        supernet.extract(type(supernet.arch)(32, (0.3333,)))


def test_resolutions_resize_and_cost() -> None:
    supernet = az.slimmable(built("plain"), SIZE, resolutions=(24, 32)).train()
    space, images = supernet.space, torch.randn(2, *SIZE)
    arch = space.at(0.5, resolution=24)
    small = F.interpolate(images, (24, 24), mode="bicubic", align_corners=False)
    static = supernet.extract(arch)
    torch.testing.assert_close(outputs(supernet, images, arch), outputs(static, small), rtol=1e-4, atol=1e-4)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        static.eval()(small[:1])
    assert space.count_macs(arch) == counter.get_total_flops() // 2 < space.count_macs(space.at(0.5))


def test_blocks_can_be_dropped() -> None:
    blocks = nn.Sequential(*(Residual(conv(32, 32)) for _ in range(4)))
    supernet = az.slimmable(randomised(Body(blocks)), SIZE, depth=True).train()
    assert supernet.report.droppable == tuple(f"middle.{i}" for i in range(4))
    assert dict(supernet.space.entries)["depth[0]"] == (2, 3, 4)
    arch = supernet.space.smallest
    assert len(supernet.extract(arch).middle) == 2
    images = torch.randn(2, *SIZE)
    torch.testing.assert_close(outputs(supernet, images, arch), outputs(supernet.extract(arch), images))


@pytest.fixture(scope="module")
def resnet() -> Slimmable:
    torch.manual_seed(0)
    net = torchvision.models.resnet18(num_classes=10)
    return az.slimmable(randomised(net), (3, 64, 64), depth=True)


def test_extraction_leaves_no_trace(resnet: Slimmable, tmp_path: Path) -> None:
    static, images = resnet.extract(resnet.space.at(0.5)).eval(), torch.randn(2, 3, 64, 64)
    assert type(static) is torchvision.models.ResNet
    assert not any("alphanet" in type(module).__module__ for module in static.modules())
    assert static.fc.in_features == 256 and static.layer1[0].conv1.out_channels == 32
    stream = io.BytesIO()
    torch.save(static, stream)
    assert b"alphanet" not in stream.getvalue()
    stream.seek(0)
    loaded = torch.load(stream, weights_only=False)
    wanted = outputs(static, images)
    program = torch.export.export(static, (images,))
    for net in (loaded, copy.deepcopy(static), program.module(), torch.fx.symbolic_trace(static)):
        torch.testing.assert_close(outputs(net, images), wanted, rtol=1e-4, atol=1e-4)
    torch.save(static.state_dict(), tmp_path / "weights.pt")
    static.load_state_dict(torch.load(tmp_path / "weights.pt"))


def test_a_copy_of_a_supernet_has_its_own_weights(resnet: Slimmable) -> None:
    arch, images = resnet.space.smallest, torch.randn(2, 3, 64, 64)
    wanted = outputs(resnet.train(), images, arch)
    twin = copy.deepcopy(resnet)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(outputs(resnet, images, arch), wanted)
    assert not torch.equal(outputs(twin, images, arch), wanted)


def test_the_network_passed_is_not_changed() -> None:
    net = built("branches")
    before = copy.deepcopy(net.state_dict())
    supernet = az.slimmable(net, SIZE)
    supernet.train()(torch.randn(2, *SIZE), supernet.space.smallest).mean().backward()
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert all(m.track_running_stats for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(p.grad is None for p in net.parameters())


def test_the_most_important_channels_come_first() -> None:
    net = built("plain")
    for by, size in (("norm", lambda n: n.middle[1].weight), ("l1", lambda n: n.middle[0].weight.abs().sum((1, 2, 3)))):
        sizes = size(az.slimmable(net, SIZE, importance=by).net)
        assert bool((sizes[:-1] >= sizes[1:]).all()), by


def test_channels_whose_order_matters_stay_in_order() -> None:
    class Efficient(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            gate = self.conv(x.mean((2, 3)).unsqueeze(1)).sigmoid().view(x.shape[0], -1, 1, 1)
            return x * gate

    net = randomised(Body(nn.Sequential(conv(32, 32), Efficient())))
    supernet = az.slimmable(net, SIZE, tie=None, importance=None)
    assert supernet.reorder("norm") == ["middle.0.0"]
    gammas = supernet.net.stem[1].weight
    assert bool((gammas[:-1] >= gammas[1:]).all()) and torch.equal(
        supernet.net.middle[0][1].weight, net.middle[0][1].weight
    )
    images = torch.randn(2, *SIZE)
    torch.testing.assert_close(outputs(supernet.eval(), images), outputs(net.eval(), images), rtol=1e-5, atol=1e-5)


def test_methods_of_timm_work_on_an_extracted_network() -> None:
    timm = pytest.importorskip("timm")
    net = timm.create_model("mobilenetv3_small_050", num_classes=10)
    supernet = az.slimmable(net, (3, 64, 64))
    static, images = supernet.extract(supernet.space.at(0.5)).eval(), torch.randn(2, 3, 64, 64)
    features = outputs(static.forward_features, images)  # type: ignore[arg-type]
    assert static.num_features == features.shape[1] == 144 and net.num_features == 288
    seen = {}
    for info in static.feature_info:
        static.get_submodule(info["module"]).register_forward_hook(
            lambda _, args, out, name=info["module"]: seen.update({name: out.shape[1]})
        )
    outputs(static, images)
    assert [info["num_chs"] for info in static.feature_info] == [seen[info["module"]] for info in static.feature_info]
    assert [info["num_chs"] for info in net.feature_info] == [16, 8, 16, 24, 288] != list(seen.values())
    static.reset_classifier(5)
    assert outputs(static, images).shape == (2, 5)
    assert type(static) is type(net) and static.pretrained_cfg == net.pretrained_cfg


def test_layers_can_be_kept_at_full_width() -> None:
    """A kept layer has all of its channels in every subnet, with a reason in the report."""
    layers = [
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(16, 24, 3), nn.Conv2d(24, 32, 3)),
    ]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))
    supernet = az.slimmable(net, (3, 16, 16), keep=["0", "3.1"])
    small = supernet.extract(supernet.space.smallest)
    assert [small[0].out_channels, small[3][0].out_channels, small[3][1].out_channels] == [16, 8, 32]
    assert {line.layer: line.reason for line in supernet.report.fixed} == dict.fromkeys(
        ("0", "3.1"), "it is one of keep"
    )
    assert supernet.options.keep == ("0", "3.1")


@pytest.mark.parametrize("widths", [(0.25, 0.5), (0.5,)])
def test_the_largest_arch_may_be_narrower_than_the_network(widths: tuple[float, ...]) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)
    )
    supernet, images = az.slimmable(net, (3, 16, 16), widths=widths).train(), torch.randn(4, 3, 16, 16)
    largest = supernet.space.largest
    assert supernet.space.count_params(largest) == sum(p.numel() for p in supernet.extract(largest).parameters())
    torch.testing.assert_close(supernet(images), supernet.extract(largest)(images))
    assert set(draw_archs(supernet.space, 0, 0)) == {"largest"} | (
        {"random-1", "random-2", "smallest"} if len(widths) > 1 else set()
    )
    with pytest.raises(ValueError, match="at its full width only"):
        supernet.eval()(images)
