from __future__ import annotations

import pytest
import torch

from alphanet_export.verify.measure.mcnemar import McNemar, compare_right, recorded_classes
from tests.export.exported import tiny_net


def test_images_are_counted_by_who_has_them_right() -> None:
    reference = torch.tensor([True, True, True, False, False, True])
    file = torch.tensor([True, False, True, True, False, False])
    result = compare_right(reference, file)
    assert result == McNemar(both_right=2, only_reference=2, only_file=1, both_wrong=1, p_value=1.0)
    assert result.images == 6 and result.difference == pytest.approx(-100 / 6)


def test_the_classes_of_a_net_are_recorded_while_the_block_runs() -> None:
    net, images = tiny_net(), torch.randn(5, 3, 12, 12)
    with torch.inference_mode(), recorded_classes(net) as classes:
        expected = torch.cat([net(images[:2]), net(images[2:])]).argmax(1)
    with torch.inference_mode():
        net(images)
    assert torch.cat(classes).equal(expected) and len(classes) == 2
    with recorded_classes(None) as none:
        pass
    assert none == []
