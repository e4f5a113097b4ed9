"""A static net is an ordinary module tree: tools that expect one work on it."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize, prune
from torchvision.models.feature_extraction import create_feature_extractor

import alphanet_zoo as az
from alphanet_export.freeze import freeze
from alphanet_zoo.nn.features import FeatureExtractor
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.layers import SlicedBatchNorm2d, SlicedConv2d, SlicedLinear
from alphanet_zoo.space.presets import ALPHANET_CIFAR
from alphanet_zoo.space.presets import ALPHANET_TINY as TINY
from alphanet_zoo.zoo.files import load_net, save_net

PLAIN = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)


def images(n: int = 2, size: int = 12) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def static_net(arch: az.ArchSpec = TINY.smallest, space: az.SearchSpace = TINY) -> az.AlphaNet:
    return fill_live(az.AlphaNet(arch, space, 10)).eval()


def layers_of(net: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in net.named_modules() if isinstance(module, PLAIN)}


def test_a_static_net_has_torchs_layers_and_a_supernet_sliced_ones() -> None:
    supernet = fill_live(az.build_supernet(TINY, 10))
    assert {type(m) for m in layers_of(supernet).values()} == {SlicedConv2d, SlicedBatchNorm2d, SlicedLinear}
    for net in (supernet.extract(TINY.smallest), supernet.extract(TINY.largest), static_net()):
        assert {type(module) for module in layers_of(net).values()} == set(PLAIN)
    assert list(supernet.state_dict()) == list(az.build_supernet(TINY, 10).state_dict())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["static", "supernet"])
def test_every_layer_is_called_once(kind: str, training: bool) -> None:
    net = static_net() if kind == "static" else fill_live(az.build_supernet(TINY, 10))
    fired: list[str] = []
    expected = [*layers_of(net), *(f"blocks.{i}" for i in range(len(TINY.stages)))]
    if kind == "supernet":  # The shortcut of the second stage, for archs in which the channels do not change.
        expected = [name for name in expected if "shortcut" not in name]
    for name in expected:
        net.get_submodule(name).register_forward_hook(lambda *_, name=name: fired.append(name))
    net.train(training)(images())
    assert sorted(fired) == sorted(expected)
    assert {level["module"] for level in net.feature_info} <= set(fired)


@pytest.mark.parametrize(("arch", "space"), [(TINY.smallest, TINY), (ALPHANET_CIFAR.largest, ALPHANET_CIFAR)])
def test_a_counter_by_hooks_sees_the_macs_of_the_cost_model(arch: az.ArchSpec, space: az.SearchSpace) -> None:
    net, counted = static_net(arch, space), 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal counted
        weight = module.weight
        assert isinstance(weight, Tensor)
        counted += output[0].numel() * (weight[0].numel() if isinstance(module, nn.Conv2d) else weight.shape[1])

    for layer in layers_of(net).values():
        if not isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_hook(count)
    net(images(1, arch.resolution))
    assert counted == az.count_macs(arch, space, 10)


class Cosine(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 20 * F.normalize(x) @ F.normalize(self.weight).T


HEADS = {
    "smaller": lambda width: nn.Linear(width, 5),
    "larger without a bias": lambda width: nn.Linear(width, 20, bias=False),
    "sequential": lambda width: nn.Sequential(nn.Dropout(0.5), nn.Linear(width, 5)),
    "cosine": lambda width: Cosine(width, 10),
    "identity": lambda width: nn.Identity(),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("supernet", [False, True])
def test_a_replaced_head_is_called_copied_and_frozen(name: str, supernet: bool) -> None:
    net = fill_live(az.build_supernet(TINY, 10)).eval() if supernet else static_net()
    net.pretrained_cfg["label_names"] = tuple("0123456789")
    hidden = net.forward_head(net.forward_features(images()), pre_logits=True)
    net.classifier = HEADS[name](net.head_hidden_size).eval()
    expected = net.classifier(hidden)
    assert torch.equal(net(images()), expected)
    assert net.num_classes == (0 if name == "identity" else expected.shape[1])
    assert net.pretrained_cfg["label_names"] is None and net.pretrained_cfg["num_classes"] == net.num_classes
    copied = net.extract(net.arch)
    torch.testing.assert_close(copied(images()), expected)
    assert copied.classifier is not net.classifier
    if net.num_classes and not supernet:
        frozen = freeze(net)
        one = images(1)
        torch.testing.assert_close(frozen.program.module()(one), net(one), rtol=1e-4, atol=1e-4)


def test_only_a_linear_head_has_slices() -> None:
    supernet = fill_live(az.build_supernet(TINY, 10)).train()
    supernet.classifier = nn.Linear(supernet.head_hidden_size, 3, bias=False)
    assert supernet(images(), TINY.smallest).shape == (2, 3)
    small = supernet.extract(TINY.smallest)
    assert small.num_classes == 3 and small.classifier.bias is None and small(images()).shape == (2, 3)
    for head in (Cosine(supernet.head_hidden_size, 3), nn.Sequential(nn.Linear(supernet.head_hidden_size, 3))):
        supernet.classifier = head
        with pytest.raises(ValueError, match=f"the classifier is a {type(head).__name__}"):
            supernet(images(), TINY.smallest)
        with pytest.raises(ValueError, match=f"the classifier is a {type(head).__name__}"):
            supernet.extract(TINY.smallest)


def test_files_take_linear_heads_of_any_size_and_refuse_others(tmp_path) -> None:
    net, path = static_net(), tmp_path / "net.safetensors"
    net.classifier = nn.Linear(net.head_hidden_size, 5)
    save_net(net, path)
    assert torch.equal(load_net(path)(images()), net(images()))
    for head in (Cosine(net.head_hidden_size, 10), nn.Sequential(nn.Linear(net.head_hidden_size, 5))):
        net.classifier = head
        with pytest.raises(ValueError, match="which a config cannot describe"):
            save_net(net, tmp_path / "other.safetensors")
    net.classifier = nn.Linear(net.head_hidden_size, 5, bias=False)
    with pytest.raises(ValueError, match="classifier.bias"):
        save_net(net, tmp_path / "other.safetensors")


def test_pruning_takes_effect_and_is_copied() -> None:
    net = static_net()
    before = net(images())
    layers = [(m, "weight") for m in layers_of(net).values() if isinstance(m, nn.Conv2d)]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=0.5)
    pruned = net(images())
    assert not torch.allclose(pruned, before)
    zeros = sum(int((m.weight == 0).sum()) for m, _ in layers)
    assert zeros == pytest.approx(sum(m.weight.numel() for m, _ in layers) / 2, abs=1)
    with pytest.raises(ValueError, match=r"weight_mask.*net.extract\(net.arch\)"):
        save_net(net, "unused.safetensors")
    plain = net.extract(net.arch)
    assert list(plain.state_dict()) == list(static_net().state_dict())
    torch.testing.assert_close(plain(images()), pruned)
    one = images(1)
    torch.testing.assert_close(freeze(net).program.module()(one), net(one), rtol=1e-4, atol=1e-4)


def test_parametrisations_take_effect_and_are_copied() -> None:
    class Half(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight / 2

    net = static_net()
    before = net(images())
    for name in ("conv_stem", "classifier", "blocks.1.0.conv_dw"):
        parametrize.register_parametrization(net.get_submodule(name), "weight", Half())
    halved = net(images())
    assert not torch.allclose(halved, before)
    plain = net.extract(net.arch)
    assert type(plain.conv_stem) is nn.Conv2d
    torch.testing.assert_close(plain(images()), halved)


def test_a_layer_that_is_not_plain_is_called_and_not_copied() -> None:
    class LowRank(nn.Module):
        def __init__(self, base: nn.Conv2d) -> None:
            super().__init__()
            self.base, self.scale = base, nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) * (1 + self.scale)

    net = static_net()
    before = net(images())
    net.conv_final = LowRank(net.conv_final)  # type: ignore[assignment]
    assert not torch.allclose(net(images()), before)
    with pytest.raises(ValueError, match="conv_final is a LowRank"):
        net.extract(net.arch)


def test_dynamic_quantisation_swaps_the_classifier() -> None:
    net = static_net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao.quantization is deprecated
        quantised = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
    assert not isinstance(quantised.classifier, nn.Linear)
    difference = (quantised(images()) - net(images())).abs().max()
    assert 0 < difference < 0.05 * net(images()).abs().max()


@pytest.mark.parametrize("side", [12, 15])
def test_torch_fx_traces_it(side: int) -> None:
    net = static_net()
    extractor = create_feature_extractor(net, {"bn2": "map", "blocks.1": "middle", "classifier": "logits"})
    found = extractor(images(2, side))
    torch.testing.assert_close(found["logits"], net(images(2, side)))
    assert found["middle"].shape[1] == net.feature_info[1]["num_chs"]
    graph = torch.fx.symbolic_trace(FeatureExtractor(net))
    for mine, theirs in zip(graph(images(1, side)), FeatureExtractor(net)(images(1, side)), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_an_arch_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match="pass an ArchSpec"):
        static_net()(images(), TINY.smallest.to_dict())  # type: ignore[arg-type]


def test_torch_export_with_sizes_that_vary() -> None:
    pyramid, dynamic = FeatureExtractor(static_net()), torch.export.Dim.DYNAMIC
    program = torch.export.export(pyramid, (torch.randn(1, 3, 32, 48),), dynamic_shapes=({2: dynamic, 3: dynamic},))
    for height, width in ((32, 48), (33, 51), (45, 30), (17, 64)):
        x = torch.randn(1, 3, height, width)
        for mine, theirs in zip(program.module()(x), pyramid(x), strict=True):
            torch.testing.assert_close(mine, theirs)
    net = static_net()
    program = torch.export.export(net, (torch.randn(1, 3, 20, 24),), dynamic_shapes=({2: dynamic, 3: dynamic},))
    for height, width in ((20, 24), (12, 12), (31, 7)):
        x = torch.randn(1, 3, height, width)
        torch.testing.assert_close(program.module()(x), net(x))


def test_torch_compile_has_no_breaks() -> None:
    net = static_net()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images()), net(images()))


def test_a_static_net_in_training_runs_at_what_it_contains() -> None:
    net = static_net(TINY.largest).train()
    shallow = az.ArchSpec.from_dict({**TINY.largest.to_dict(), "depth": [1, 1, 1], "kernel_size": [3, 3, 3]})
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    expected = net.extract(shallow)(images(2, 16))
    torch.testing.assert_close(net(images(2, 16), shallow), expected, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
