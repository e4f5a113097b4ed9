import numpy as np

from alphanet_zoo.data.draws import generator, torch_seed


def test_a_draw_is_a_function_of_seed_purpose_and_counters():
    def numbers(*key):
        return tuple(generator(*key).integers(0, 2**62, 4))

    keys = [(0, "archs", 0), (0, "archs", 1), (1, "archs", 0), (0, "order", 0), (0, "order", 0, 1), (0, "order", 1, 0)]
    assert all(numbers(*key) == numbers(*key) for key in keys)
    assert len({numbers(*key) for key in keys}) == len(keys)
    assert len({torch_seed(*key) for key in keys}) == len(keys)


def test_torch_seeds_fit_torch():
    seeds = [torch_seed(2**63 - 1, "dropout", step) for step in range(200)]
    assert 0 <= min(seeds) and max(seeds) < 2**63
    assert np.mean(np.array(seeds, dtype=float) > 2**62) > 0.3
