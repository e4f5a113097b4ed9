"""The convolutions for GPUs, run on the CPU by Triton's interpreter in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import itertools
import torch
from torch.nn import functional as F
from alphanet_zoo.nn.gpu_kernels.operators import depthwise_conv, fits, pointwise_conv

def check(ours, exact):
    for mine, theirs in zip(ours, exact, strict=True):
        assert mine.shape == theirs.shape
        assert (mine - theirs).norm() <= 1e-6 * theirs.norm()

def with_gradients(result, leaves):
    weights = torch.linspace(-1.0, 2.0, result.numel()).sin().reshape(result.shape)
    return result, *torch.autograd.grad((result * weights).sum(), leaves)

torch.manual_seed(0)
for (count, channels, height, width), side, stride, same in itertools.product(
    [(2, 8, 7, 7), (1, 40, 8, 9)], (3, 5, 7), (1, 2), (True, False)
):
    padding = side // 2 if same else 0
    x = torch.randn(count, channels, height, width, requires_grad=True)
    weight = torch.randn(channels, 1, side, side, requires_grad=True)
    assert fits(x, side) and not fits(x.double(), side)
    exact = F.conv2d(x, weight, None, stride, padding, 1, channels)
    check(with_gradients(depthwise_conv(x, weight, stride, padding), (x, weight)), with_gradients(exact, (x, weight)))
weight, bias = torch.randn(12, 40, 1, 1, requires_grad=True), torch.randn(12, requires_grad=True)
leaves = (x, weight, bias)
check(with_gradients(pointwise_conv(*leaves), leaves), with_gradients(F.conv2d(*leaves), leaves))
with torch.autocast("cpu", torch.bfloat16):
    assert depthwise_conv(x, torch.randn(40, 1, 3, 3), 1, 1).dtype == torch.bfloat16
print("equal")
"""


def test_convolutions_and_gradients_equal_those_of_torch():
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr
