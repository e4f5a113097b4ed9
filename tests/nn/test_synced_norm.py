import pytest
import torch
from torch import nn

from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import build_supernet
from alphanet_zoo.nn.synced_norm import SyncedBatchNorm2d, synchronise
from alphanet_zoo.space.presets import ALPHANET_TINY as TINY


def alone(tensor):
    return tensor


def maps(scale=1.0, shift=0.0):
    return (torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(0)) * scale + shift).requires_grad_()


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.1, 10.0)])
def test_of_one_process_it_is_a_plain_batch_norm(scale, shift):
    plain, synced = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
    for layer in (plain, synced):
        nn.init.uniform_(layer.weight, generator=torch.Generator().manual_seed(1))
        nn.init.uniform_(layer.bias, generator=torch.Generator().manual_seed(2))
    layers, inputs = (plain, SyncedBatchNorm2d(synced, alone, 1)), [maps(scale, shift) for _ in range(2)]
    outputs = [layer(x) for layer, x in zip(layers, inputs, strict=True)]
    for y in outputs:
        (y**3).sum().backward()
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-3, atol=1e-3)
    for name in ("weight", "bias"):
        torch.testing.assert_close(getattr(synced, name).grad, getattr(plain, name).grad, rtol=1e-4, atol=1e-3)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(getattr(synced, name), buffer)
    for layer in layers:
        layer.eval()
    torch.testing.assert_close(layers[1](inputs[0]), layers[0](inputs[0]))


def test_every_batch_norm_of_a_net_is_replaced_over_the_same_tensors():
    torch.manual_seed(0)
    net = fill_live(build_supernet(TINY, 10)).train()
    before, images = dict(net.named_parameters()), torch.randn(4, 3, 16, 16)
    expected = [net(images, arch) for arch in (TINY.largest, TINY.smallest)]
    keys, sent = list(net.state_dict()), []

    def count(tensor):
        sent.append(tensor.numel())
        return tensor

    synchronise(net, count, 1)
    assert not [m for m in net.modules() if isinstance(m, nn.BatchNorm2d) and not isinstance(m, SyncedBatchNorm2d)]
    assert list(net.state_dict()) == keys and all(p is before[name] for name, p in net.named_parameters())
    for arch, logits in zip((TINY.largest, TINY.smallest), expected, strict=True):
        torch.testing.assert_close(net(images, arch), logits, rtol=1e-4, atol=1e-4)
    assert len(sent) > 20
    static = net.extract(TINY.smallest)
    assert not any(isinstance(module, SyncedBatchNorm2d) for module in static.modules())
