import pytest

from alphanet_zoo.space.cost import count_macs
from alphanet_zoo.space.presets import ALPHANET_TINY as TINY
from alphanet_zoo.train.attentive import attentive_archs, candidate_archs
from alphanet_zoo.train.config import SandwichConfig

WINDOW = 1e5


def config(sampling="best_up"):
    return SandwichConfig(sampling=sampling, candidates=4, window=WINDOW, random_subnets=3)


def test_the_candidates_of_a_subnet_cost_alike_and_depend_on_seed_and_step():
    groups = candidate_archs(TINY, config(), seed=1, step=2)
    assert [len(group) for group in groups] == [4, 4, 4]
    for group in groups:
        assert len({count_macs(arch, TINY) // WINDOW for arch in group}) == 1
    assert groups == candidate_archs(TINY, config(), seed=1, step=2) != candidate_archs(TINY, config(), seed=1, step=3)


def test_windows_come_as_often_as_uniform_archs():
    low = [count_macs(candidate_archs(TINY, config(), 0, step)[0][0], TINY) < 1e6 for step in range(300)]
    import numpy as np

    rng = np.random.default_rng(0)
    uniform = [count_macs(TINY.sample(rng), TINY) < 1e6 for _ in range(2000)]
    assert sum(low) / 300 == pytest.approx(sum(uniform) / 2000, abs=0.1)


@pytest.mark.parametrize(("sampling", "pick"), [("best_up", min), ("worst_up", max)])
def test_the_best_or_the_worst_candidate_is_visited(sampling, pick):
    def losses_of(archs):
        return [float(count_macs(arch, TINY)) for arch in archs]

    archs = attentive_archs(TINY, config(sampling), 0, 5, losses_of)
    assert list(archs) == ["largest", "random-1", "random-2", "random-3", "smallest"]
    for i, group in enumerate(candidate_archs(TINY, config(sampling), 0, 5)):
        assert archs[f"random-{i + 1}"] == pick(group, key=lambda arch: count_macs(arch, TINY))
