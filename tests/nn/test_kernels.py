"""The compiled CPU operators: results, gradients, registration, building."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alphanet_zoo.errors import AlphaNetError, MissingProgramError
from alphanet_zoo.nn.cpu_kernels import library
from alphanet_zoo.nn.cpu_kernels.operators import depthwise_conv, fits, norm_swish
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet, build_supernet
from alphanet_zoo.space.presets import ALPHANET_TINY as TINY


def gradients(result, leaves):
    """The gradients of a weighted sum of ``result``, with weights of no pattern."""
    weights = torch.linspace(-1.0, 2.0, result.numel(), dtype=result.dtype).sin().reshape(result.shape)
    return torch.autograd.grad((result * weights).sum(), leaves)


def assert_near(ours, exact, tolerance):
    for mine, theirs in zip(ours, exact, strict=True):
        assert (mine.double() - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(("shape", "mean", "deviation"), [
    ((2, 8, 1, 3), 0.0, 1.0), ((3, 16, 7, 5), 30.0, 1.0), ((4, 40, 12, 12), -2.0, 1e3), ((2, 24, 9, 9), 0.0, 1e-4),
])  # fmt: skip
def test_norm_swish_is_the_composition_of_both(shape, mean, deviation, layout):
    torch.manual_seed(0)
    x = (torch.randn(shape) * deviation + mean).contiguous(memory_format=layout).requires_grad_()
    weight, bias = (torch.randn(shape[1], requires_grad=True) for _ in range(2))
    exact_leaves = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    exact = F.silu(F.batch_norm(exact_leaves[0], None, None, *exact_leaves[1:], training=True, eps=1e-5))
    ours = norm_swish(x, weight, bias, 1e-5)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert_near([ours.detach()], [exact.detach()], 1e-5)
    assert_near(gradients(ours, (x, weight, bias)), gradients(exact, exact_leaves), 2e-5)


def test_a_lone_spike_spoils_no_statistics():
    x = torch.full((1, 8, 40, 40), 3.0)
    x[0, :, 0, 0] = 1e4
    weight, bias = torch.ones(8), torch.zeros(8)
    ours = norm_swish(x, weight, bias, 1e-5)
    exact = F.silu(F.batch_norm(x.double(), None, None, weight.double(), bias.double(), training=True, eps=1e-5))
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_stay_so(bad):
    x = torch.randn(2, 8, 4, 4)
    x[1, 3, 2, 2] = bad
    ours = norm_swish(x, torch.ones(8), torch.zeros(8), 1e-5)
    assert ours[:, 3].isnan().all()
    assert ours[:, :3].isfinite().all() and ours[:, 4:].isfinite().all()


@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), [
    ((2, 8, 6, 6), 3, 1, 1), ((2, 16, 7, 9), 3, 2, 1), ((3, 24, 11, 11), 5, 1, 2), ((1, 8, 9, 8), 5, 2, 2),
    ((2, 8, 2, 3), 5, 1, 2), ((2, 8, 10, 10), 7, 1, 3), ((8, 200, 14, 14), 5, 1, 2), ((2, 16, 9, 9), 3, 2, 0),
    ((2, 8, 7, 8), 5, 1, 0),
])  # fmt: skip
def test_depthwise_conv_has_the_gradients_of_torchs(size, kernel, stride, padding):
    torch.manual_seed(0)
    x, channels = torch.randn(size, requires_grad=True), size[1]
    whole = torch.randn(channels + 8, 1, kernel + 2, kernel + 2, requires_grad=True)
    weight = whole[:channels, :, 1:-1, 1:-1]
    exact_x, exact_weight = x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    exact = F.conv2d(exact_x, exact_weight, None, stride, padding, 1, channels)
    ours = depthwise_conv(x, weight, stride, padding)
    assert_near([ours.detach()], [exact.detach()], 1e-5)
    assert_near(gradients(ours, (x, weight)), gradients(exact, (exact_x, exact_weight)), 1e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_the_operators_are_registered_as_torch_wants_them():
    """Schema, meta implementation, autograd formula and tracing with symbolic sizes."""
    x = torch.randn(2, 8, 7, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, bias = (torch.randn(8, requires_grad=True) for _ in range(2))
    torch.library.opcheck(torch.ops.alphanet.norm_swish.default, (x, weight, bias, 1e-5))
    _, kept = torch.ops.alphanet.norm_swish(x, weight, bias, 1e-5)
    plain = x.detach()
    torch.library.opcheck(torch.ops.alphanet.norm_swish_backward.default, (torch.randn_like(plain), plain, kept))
    taps = torch.randn(8, 1, 3, 3, requires_grad=True)
    for stride in (1, 2):
        torch.library.opcheck(torch.ops.alphanet.depthwise_conv.default, (x, taps, stride, 1))
        gradient = torch.ones_like(depthwise_conv(plain, taps, stride, 1)).detach()
        torch.library.opcheck(torch.ops.alphanet.depthwise_weight_gradient.default, (gradient, plain, 3, stride, 1))


def step(net, images, arch=None):
    """Logits and gradients of one subnet."""
    net.zero_grad()
    logits = net(images, arch)
    F.cross_entropy(logits, torch.arange(len(images)) % 10).backward()
    return logits.detach(), {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def batch():
    return torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("arch", [TINY.largest, TINY.smallest])
def test_a_subnet_computes_the_same_with_them_twice_to_the_bit(arch):
    net = fill_live(build_supernet(TINY, 10)).train().to(memory_format=torch.channels_last)
    logits, expected = step(net, batch(), arch)
    net.kernels = "compiled"
    ours, found = step(net, batch(), arch)
    again, twice = step(net, batch(), arch)
    torch.testing.assert_close(ours, logits, rtol=1e-4, atol=1e-5)
    assert not torch.equal(ours, logits), "the operators were not used"
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5, msg=name)
    assert torch.equal(ours, again) and all(torch.equal(found[name], twice[name]) for name in found)
    net.kernels = "torch"
    assert torch.equal(step(net, batch(), arch)[0], logits)


def test_two_nets_choose_for_themselves():
    net = fill_live(build_supernet(TINY, 10)).train()
    other = copy.deepcopy(net)
    expected = net(batch())
    other.kernels = "compiled"
    assert (net.kernels, other.kernels, copy.deepcopy(other).kernels) == ("torch", "compiled", "compiled")
    assert torch.equal(net(batch()), expected) and not torch.equal(other(batch()), expected)
    assert other.extract(TINY.smallest).kernels == "torch"
    with pytest.raises(ValueError, match="kernels is 'fast'"):
        net.kernels = "fast"  # type: ignore[assignment]


def test_a_static_net_gets_its_plain_layers_back():
    net = fill_live(AlphaNet(TINY.smallest, TINY, 10)).train()
    reference, fired = copy.deepcopy(net), []
    net.blocks[0][0].conv_dw.register_forward_hook(lambda *_: fired.append(1))
    logits, expected = step(reference, batch())
    net.kernels = "compiled"
    ours, found = step(net, batch())
    assert fired and list(net.state_dict()) == list(reference.state_dict())
    torch.testing.assert_close(ours, logits, rtol=1e-4, atol=1e-5)
    name = "blocks.0.0.conv_dw.weight"
    assert not torch.equal(found[name], expected[name]), "the operators were not used"
    torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5)
    net.kernels = "torch"
    assert type(net.blocks[0][0].conv_dw) is nn.Conv2d and "compiled" not in vars(net.blocks[0][0].conv_dw)


def test_they_are_for_training_alone():
    net = fill_live(build_supernet(TINY, 10)).eval()
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        expected = net(images)
        net.kernels = "compiled"
        assert torch.equal(net(images), expected)


def test_half_precision_and_odd_channels_are_left_to_torch():
    assert fits(torch.randn(1, 8, 2, 2))
    assert not fits(torch.randn(1, 12, 2, 2))
    assert not fits(torch.randn(1, 8, 2, 2, dtype=torch.bfloat16))


def test_torch_compile_sees_them():
    def both(x, weight, bias, taps):
        return norm_swish(depthwise_conv(x, taps, 1, 1), weight, bias, 1e-5)

    torch.manual_seed(0)
    x, taps = torch.randn(2, 8, 6, 6), torch.randn(8, 1, 3, 3, requires_grad=True)
    weight, bias = torch.randn(8, requires_grad=True), torch.randn(8, requires_grad=True)
    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
    expected, ours = both(x, weight, bias, taps), compiled(x, weight, bias, taps)
    torch.testing.assert_close(ours, expected)
    leaves = (weight, bias, taps)
    for mine, theirs in zip(gradients(ours, leaves), gradients(expected, leaves), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call")
def test_a_compiled_subnet_uses_them():
    torch.manual_seed(0)
    net = fill_live(build_supernet(TINY, 10)).train()
    net.kernels = "compiled"
    subnet, images = partial(net, arch=TINY.smallest), torch.randn(4, 3, 12, 12)
    used = []

    def backend(graph, inputs):
        used.extend(str(node.target) for node in graph.graph.nodes if "alphanet" in str(node.target))
        return graph.forward

    compiled = torch.compile(subnet, backend=backend, dynamic=False)
    expected, found = subnet(images), compiled(images)
    torch.testing.assert_close(found, expected)
    assert used, "the graph has no custom operator"
    leaves = [parameter for parameter in net.parameters() if parameter.requires_grad]
    pairs = zip(
        torch.autograd.grad(found.square().mean(), leaves, allow_unused=True),
        torch.autograd.grad(expected.square().mean(), leaves, allow_unused=True),
        strict=True,
    )
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs)


def test_the_library_is_built_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "new"))
    path = library.build()
    written = path.stat().st_mtime_ns
    assert path.parent == tmp_path / "new" and [path] == list(path.parent.iterdir())
    assert library.build() == path and path.stat().st_mtime_ns == written
    library.Library(path)


def test_a_missing_compiler_one_that_fails_and_a_folder_that_cannot_be_made_are_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "file"))
    with pytest.raises(AlphaNetError, match="set TORCH_EXTENSIONS_DIR to a folder"):
        library.build()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingProgramError, match="no-such-compiler"):
        library.build()
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(AlphaNetError, match="false cannot compile"):
        library.build()
