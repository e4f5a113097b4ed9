"""The slicing rule."""

from __future__ import annotations

import pytest
import torch

from alphanet_zoo.nn.slicing import adding_to_gradients, slice_to


def test_leading_on_channels_centred_on_kernels() -> None:
    weight = torch.arange(4 * 3 * 5 * 5).reshape(4, 3, 5, 5)
    assert torch.equal(slice_to(weight, (2, 1, 3, 3)), weight[:2, :1, 1:4, 1:4])
    assert torch.equal(slice_to(torch.arange(8), (5,)), torch.arange(5))


def test_same_shape_is_the_tensor_itself() -> None:
    tensor = torch.zeros(4, 3)
    assert slice_to(tensor, (4, 3)) is tensor
    scalar = torch.tensor(7)
    assert slice_to(scalar, ()) is scalar


def test_a_slice_is_a_view() -> None:
    tensor = torch.zeros(4, 4)
    slice_to(tensor, (2, 2)).fill_(1.0)
    assert tensor.sum() == 4


@pytest.mark.parametrize("shape", [(5, 3, 3, 3), (4, 3, 4, 5), (4, 3), (4, 3, 7, 7)])
def test_impossible_slices_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no slice of shape"):
        slice_to(torch.zeros(4, 3, 5, 5), shape)


def test_slices_add_their_gradients_to_those_of_the_parameter() -> None:
    weight = torch.nn.Parameter(torch.randn(4, 3, 5, 5))
    x = torch.randn(2, 2, 6, 6)
    (torch.nn.functional.conv2d(x, slice_to(weight, (3, 2, 3, 3))) ** 2).sum().backward()
    expected = weight.grad
    weight.grad = buffer = torch.ones_like(weight)
    with adding_to_gradients():
        part = slice_to(weight, (3, 2, 3, 3))
    (torch.nn.functional.conv2d(x, part) ** 2).sum().backward()
    assert weight.grad is buffer and torch.equal(buffer, expected + 1.0)


def test_hooks_of_a_parameter_see_the_gradients_of_slices() -> None:
    weight, seen = torch.nn.Parameter(torch.randn(4, 3)), []
    weight.grad = torch.zeros_like(weight)
    weight.register_hook(seen.append)
    with adding_to_gradients():
        part = slice_to(weight, (2, 2))
    part.sum().backward()
    assert len(seen) == 1 and weight.grad.sum() == 4
