import pytest
import torch
from torch.nn import functional as F

from alphanet_zoo.errors import AlphaNetError, MissingProgramError
from alphanet_zoo.nn import kernels
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet, build_supernet
from alphanet_zoo.space.presets import ALPHANET_TINY as TINY


@pytest.fixture(scope="module")
def compiled():
    return kernels.compile_kernels()


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
def test_norm_swish_is_the_composition_of_both(compiled, shape, mean, deviation, layout):
    torch.manual_seed(0)
    x = (torch.randn(shape) * deviation + mean).contiguous(memory_format=layout).requires_grad_()
    weight, bias = (torch.randn(shape[1], requires_grad=True) for _ in range(2))
    exact_leaves = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    exact = F.silu(F.batch_norm(exact_leaves[0], None, None, *exact_leaves[1:], training=True, eps=1e-5))
    with kernels.using(compiled):
        ours = kernels.norm_swish(x, weight, bias, 1e-5)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert_near([ours.detach()], [exact.detach()], 1e-5)
    assert_near(gradients(ours, (x, weight, bias)), gradients(exact, exact_leaves), 2e-5)


def test_a_lone_spike_spoils_no_statistics(compiled):
    x = torch.full((1, 8, 40, 40), 3.0)
    x[0, :, 0, 0] = 1e4
    weight, bias = torch.ones(8), torch.zeros(8)
    with kernels.using(compiled):
        ours = kernels.norm_swish(x, weight, bias, 1e-5)
    exact = F.silu(F.batch_norm(x.double(), None, None, weight.double(), bias.double(), training=True, eps=1e-5))
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(compiled, bad):
    x = torch.randn(2, 8, 4, 4)
    x[1, 3, 2, 2] = bad
    with kernels.using(compiled):
        ours = kernels.norm_swish(x, torch.ones(8), torch.zeros(8), 1e-5)
    assert ours[:, 3].isnan().all()
    assert ours[:, :3].isfinite().all() and ours[:, 4:].isfinite().all()


@pytest.mark.parametrize(("size", "kernel", "stride"), [
    ((2, 8, 6, 6), 3, 1), ((2, 16, 7, 9), 3, 2), ((3, 24, 11, 11), 5, 1), ((1, 8, 9, 8), 5, 2), ((2, 8, 2, 3), 5, 1),
    ((2, 8, 10, 10), 7, 1), ((8, 200, 14, 14), 5, 1),
])  # fmt: skip
def test_depthwise_conv_has_the_gradients_of_torchs(compiled, size, kernel, stride):
    torch.manual_seed(0)
    x, channels = torch.randn(size, requires_grad=True), size[1]
    whole = torch.randn(channels + 8, 1, kernel + 2, kernel + 2, requires_grad=True)
    weight = whole[:channels, :, 1:-1, 1:-1]
    exact_x, exact_weight = x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    exact = F.conv2d(exact_x, exact_weight, None, stride, kernel // 2, 1, channels)
    with kernels.using(compiled):
        ours = kernels.depthwise_conv(x, weight, stride)
    assert_near([ours.detach()], [exact.detach()], 1e-5)
    assert_near(gradients(ours, (x, weight)), gradients(exact, (exact_x, exact_weight)), 1e-5)


def step(net, images, arch, loops):
    """Logits and gradients of one subnet."""
    net.zero_grad()
    with kernels.using(loops):
        logits = net(images, arch)
    F.cross_entropy(logits, torch.arange(len(images)) % 10).backward()
    return logits.detach(), {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("arch", [TINY.largest, TINY.smallest])
def test_a_subnet_computes_the_same_with_them_twice_to_the_bit(compiled, arch):
    net = fill_live(AlphaNet(TINY.largest, TINY, 10, supernet=True)).train().to(memory_format=torch.channels_last)
    images = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    logits, expected = step(net, images, arch, None)
    ours, found = step(net, images, arch, compiled)
    again, twice = step(net, images, arch, compiled)
    torch.testing.assert_close(ours, logits, rtol=1e-4, atol=1e-5)
    assert not torch.equal(ours, logits), "the loops were not used"
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5, msg=name)
    assert torch.equal(ours, again) and all(torch.equal(found[name], twice[name]) for name in found)


def test_they_serve_training_alone(compiled):
    net = fill_live(build_supernet(TINY, 10)).eval()
    net.calibration = "checkpoint"
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        expected = net(images)
        with kernels.using(compiled):
            assert torch.equal(net(images), expected)


def test_half_precision_and_odd_channels_are_left_to_torch(compiled):
    with kernels.using(compiled):
        assert kernels.serve(torch.randn(1, 8, 2, 2))
        assert not kernels.serve(torch.randn(1, 12, 2, 2))
        assert not kernels.serve(torch.randn(1, 8, 2, 2, dtype=torch.bfloat16))
    assert not kernels.serve(torch.randn(1, 8, 2, 2))


def test_a_missing_compiler_and_one_that_fails_are_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingProgramError, match="no-such-compiler"):
        kernels.compile_kernels()
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(AlphaNetError, match="false cannot compile"):
        kernels.compile_kernels()
