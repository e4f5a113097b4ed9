from __future__ import annotations

from math import comb

import numpy as np
import pytest
import torch

from alphanet_export.verify.measure.mcnemar import McNemar, compare_right, mcnemar_p, recorded_classes
from tests.export.exported import tiny_net


# By hand: two-sided, n tosses of a fair coin, e.g. (1, 5): 2 (1 + 6) / 64.
@pytest.mark.parametrize(
    ("b", "c", "p"),
    [(0, 0, 1.0), (0, 1, 1.0), (0, 5, 2 / 32), (1, 5, 14 / 64), (3, 3, 1.0), (10, 2, 2 * (1 + 12 + 66) / 4096)],
)
def test_small_counts_by_hand(b: int, c: int, p: float) -> None:
    assert mcnemar_p(b, c) == mcnemar_p(c, b) == pytest.approx(p, rel=1e-12)


def test_it_is_the_exact_binomial_test() -> None:
    for b, c in np.random.default_rng(0).integers(0, 200, (40, 2)).tolist():
        ways = sum(comb(b + c, k) for k in range(b + c + 1) if comb(b + c, k) <= comb(b + c, b))
        assert mcnemar_p(b, c) == pytest.approx(ways / 2 ** (b + c), rel=1e-12)


def test_counts_of_a_whole_validation_set() -> None:
    assert mcnemar_p(12_000, 12_000) == 1.0
    assert 0 < mcnemar_p(5_000, 5_400) < 1e-4


def test_negative_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="b -1, c 2"):
        mcnemar_p(-1, 2)


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
