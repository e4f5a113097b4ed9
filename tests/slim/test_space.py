"""The search space of a slimmable network: choices, sampling, cost."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import alphanet_zoo as az
from alphanet_zoo.errors import TargetError
from alphanet_zoo.search.costs import make_problem
from alphanet_zoo.search.limits import MACS, Limit
from alphanet_zoo.search.strategies import Evolution, run_strategy
from alphanet_zoo.slim.choices import atom_choices, atoms_at, width_choices
from alphanet_zoo.slim.space import SlimSpace


def network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    channels = 3
    for out, stride in ((16, 2), (32, 1), (48, 2), (64, 1), (64, 2)):
        layers += [nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


def made(**options: object) -> SlimSpace:
    return az.slimmable(network(), (3, 32, 32), **options).space  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def uniform() -> SlimSpace:
    return made()


@pytest.fixture(scope="module")
def free() -> SlimSpace:
    return made(tie=None, resolutions=(24, 32))


def test_numbers_of_channels_are_those_of_mobilenets() -> None:
    assert [atoms_at(32, 1, width, 8) for width in (0.25, 0.35, 0.5, 0.75, 1.0)] == [8, 16, 16, 24, 32]
    assert [atoms_at(144, 1, width, 8) for width in (0.35, 0.5, 1.0)] == [48, 72, 144]
    assert atoms_at(20, 1, 1.0, 8) == 20
    assert atom_choices(32, 1, 0.25, 1.0, 8) == (8, 16, 24, 32)
    assert atom_choices(20, 1, 0.5, 1.0, 8) == (16, 20)  # 10 would be 8, less than 90 % of it
    assert atom_choices(6, 8, 0.25, 0.5, 8) == (2, 3)  # six groups of eight channels
    assert width_choices((0.25, 0.5, 1.0)) == (0.25, 0.5, 1.0)
    assert width_choices((0.35, 0.45)) == (0.35, 0.375, 0.4, 0.425, 0.45)
    assert len(width_choices((0.25, 1.0))) == 31


def test_ties(uniform: SlimSpace, free: SlimSpace) -> None:
    assert [name for name, _ in uniform.entries] == ["resolution", "width[0]"]
    assert 0.5 in uniform.entries[1][1] and len(uniform) == len({uniform.at(w) for w in uniform.widths}) == 11
    assert uniform.largest.width == (1.0,) and uniform.smallest.width == (0.25,)
    assert [name for name, _ in free.entries] == ["resolution", *(f"width[{i}]" for i in range(5))]
    assert free.largest.width == (16, 32, 48, 64, 64) and free.smallest.width == (8, 8, 16, 16, 16)
    assert len(free) == 2 * 2 * 4 * 5 * 7 * 7
    stages = made(tie="stage")
    assert [members for _, _, members in stages.variables] == [(0, 1), (2, 3), (4,)]
    assert stages.kept_atoms(az.SlimArch(32, (0.5, 0.25, 1.0))) == (8, 16, 16, 16, 64)
    for space in (uniform, stages):  # Widths that keep the same channels are one choice.
        for _, widths, members in space.variables:
            kept = [space.atoms_of(members, width) for width in widths]
            assert len(set(kept)) == len(kept) and set(kept) == {space.atoms_of(members, w) for w in space.widths}
    assert made(widths=(0.5, 0.75, 1.0)).entries[1][1] == (0.5, 0.75, 1.0)


def test_an_arch_is_a_value(free: SlimSpace, uniform: SlimSpace) -> None:
    arch = free.sample(np.random.default_rng(0))
    again = az.SlimArch.from_dict(json.loads(json.dumps(arch.to_dict())))
    assert again == arch and hash(again) == hash(arch) and again in free
    assert all(type(value) is int for value in arch.scalars)
    assert uniform.at(0.5) == az.SlimArch(32, (0.5,)) and uniform.at(0.51) == uniform.at(0.5)
    assert free.at(0.5, resolution=24) == az.SlimArch(24, (8, 16, 24, 32, 32))
    described = json.loads(json.dumps(free.to_dict()))
    first = {"name": "0", "channels": 16, "unit": 1, "stage": 0, "choices": list(free.groups[0].choices)}
    assert described["groups"][0] == first
    with pytest.raises(ValueError, match="exactly resolution, width and depth"):
        az.SlimArch.from_dict({"resolution": 32})
    with pytest.raises(ValueError, match=r"width\[1\] is 'x'"):
        az.SlimArch(32, (8, "x"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"arch entry width\[0\] is 9; the space Sequential has the choices 8 16"):
        free.validate(az.SlimArch(32, (9, 16, 24, 32, 32)))
    with pytest.raises(ValueError, match="width has 1 values; the space Sequential has 5"):
        free.validate(uniform.largest)
    with pytest.raises(ValueError, match="width 0.2 is outside 0.25 to 1.0"):
        uniform.at(0.2)


def test_draws_are_seeded_and_uniform(free: SlimSpace) -> None:
    draws = [free.sample(np.random.default_rng(7)) for _ in range(2)]
    assert draws[0] == draws[1]
    rows = free.sample_array(20000, np.random.default_rng(0))
    assert rows.shape == (20000, 6)
    for column, (_, choices) in zip(rows.T, free.entries, strict=True):
        counts = np.array([Counter(column.tolist())[choice] for choice in choices])
        assert counts.sum() == 20000 and (abs(counts * len(choices) / 20000 - 1) < 0.08).all()


def test_mutation_and_crossover(free: SlimSpace) -> None:
    rng = np.random.default_rng(0)
    arch = free.sample(rng)
    assert free.mutate(arch, 0.0, rng) == arch
    changed = free.mutate(arch, 1.0, rng)
    assert changed in free and all(a != b for a, b in zip(arch.scalars, changed.scalars, strict=True))
    child = free.crossover(free.smallest, free.largest, rng)
    pairs = zip(child.scalars, free.smallest.scalars, free.largest.scalars, strict=True)
    assert child in free and all(c in (a, b) for c, a, b in pairs)
    with pytest.raises(ValueError, match="mutation probability is 2"):
        free.mutate(arch, 2, rng)


def test_costs_by_hand(uniform: SlimSpace) -> None:
    arch = uniform.at(0.5)
    widths = (3, 8, 16, 24, 32, 32)
    sides = (16, 16, 8, 8, 4)
    macs = sum(9 * a * b * s**2 for a, b, s in zip(widths, widths[1:], sides, strict=False)) + 32 * 5
    params = sum(9 * a * b + 2 * b for a, b in zip(widths, widths[1:], strict=False)) + 32 * 5 + 5
    assert uniform.count_macs(arch) == macs and uniform.count_params(arch) == params
    assert uniform.count_macs(arch, 5) == macs
    with pytest.raises(ValueError, match="num_classes is 7; the network Sequential has 5"):
        uniform.count_macs(arch, 7)


def test_many_archs_are_counted_like_one(free: SlimSpace) -> None:
    rows = free.sample_array(200, np.random.default_rng(1))
    archs = [az.SlimArch(int(row[0]), tuple(int(v) for v in row[1:])) for row in rows]
    assert free.count_macs(rows).tolist() == [free.count_macs(arch) for arch in archs]
    assert free.count_params(rows).tolist() == [free.count_params(arch) for arch in archs]
    rows[3, 2] = 9
    with pytest.raises(ValueError, match=r"row 3: arch entry width\[1\] is 9"):
        free.count_macs(rows)


def test_sampling_within_a_window_is_uniform(free: SlimSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    low, high = 0.45 * free.count_macs(free.largest), 0.5 * free.count_macs(free.largest)
    grid = np.meshgrid(*(np.array(choices) for _, choices in free.entries), indexing="ij")
    macs = free.count_macs(np.stack([axis.ravel() for axis in grid], axis=1))
    inside = int(((macs >= low) & (macs <= high)).sum())
    assert free.count_within(low, high) == inside > 50
    for limit in (2**20, 0):
        monkeypatch.setattr("alphanet_zoo.slim.space._ENUMERATED", limit)
        space = replace(free)
        assert (space.count_within(low, high) is None) == (limit == 0)
        drawn = space.sample_within(low, high, 40 * inside, np.random.default_rng(0))
        assert all(low <= cost <= high for cost in map(free.count_macs, drawn[:50]))
        counts = np.array(list(Counter(drawn).values()))
        assert len(counts) == inside
        chi = ((counts - 40) ** 2 / 40).sum()
        assert abs(chi - inside) < 5 * np.sqrt(2 * inside)


def test_windows_without_archs(uniform: SlimSpace, free: SlimSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    costs = sorted({uniform.count_macs(uniform.at(w)) for w in uniform.widths})
    with pytest.raises(TargetError, match=f"the nearest cost {costs[0] / 1e6} and {costs[1] / 1e6} M"):
        uniform.sample_within(costs[0] + 1, costs[1] - 1, 1, rng)
    with pytest.raises(TargetError, match=f"its archs cost {costs[0] / 1e6} to {costs[-1] / 1e6} M"):
        uniform.sample_within(0, 10, 1, rng)
    with pytest.raises(ValueError, match="the lower one first"):
        uniform.sample_within(2, 1, 1, rng)
    monkeypatch.setattr("alphanet_zoo.slim.space._ENUMERATED", 0)
    monkeypatch.setattr("alphanet_zoo.slim.space._DRAWS", 2**17)
    least = free.count_macs(free.smallest)
    with pytest.raises(TargetError, match=r"of 131072 random archs .* \(acceptance"):
        replace(free).sample_within(least, least, 1000, rng)


@pytest.mark.parametrize("tie", ["uniform", None])
def test_the_search_runs_on_a_slimmable_space(tie: str | None) -> None:
    """The strategies of `alphanet_zoo.search` take any space; the score prefers wide layers at the end."""
    space = made(tie=tie, divisor=4)
    problem = make_problem(space, {MACS: Limit(0.2, 0.9, relative=True)}, num_classes=5)

    def score(arch: az.SlimArch) -> float:
        return float(np.dot(space.kept_atoms(arch), [1, 1, 1, 2, 3]))

    found = run_strategy(problem, Evolution.sized(20), lambda archs, _: ((score(a), True) for a in archs),
                         evaluations=20, seed=0)  # fmt: skip
    assert len({c.arch for c in found}) == len(found) > 10
    low, high = problem.limits[MACS]
    assert all(low <= c.cost <= high and c.cost == space.count_macs(c.arch) for c in found)
    assert max(c.score for c in found) >= max(c.score for c in found if c.round == 0)
