"""What a space holds, how it draws, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.choices import Stage
from alphanet_zoo.space.presets import ALPHANET, ALPHANET_TINY, SPACES
from alphanet_zoo.space.space import SearchSpace

every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def with_scalar(arch: ArchSpec, column: int, value: int) -> ArchSpec:
    """``arch`` with one scalar replaced."""
    return ArchSpec.from_scalars([value if i == column else v for i, v in enumerate(arch.scalars)])


def test_the_space_of_the_paper_has_its_size() -> None:
    # Resolutions, widths (stem, mb1..mb7, head), depths, kernels, expansions.
    assert len(ALPHANET) == 4 * (2 * 2 * 2 * 2 * 2 * 3 * 4 * 2 * 2) * (2 * 3 * 4 * 4 * 6 * 6 * 2) * 2**7 * 3**4
    assert len(ALPHANET.entries) == 31


@every_space
def test_largest_and_smallest_are_the_ends_of_every_entry(space: SearchSpace) -> None:
    assert space.largest.scalars == tuple(max(choices) for _, choices in space.entries)
    assert space.smallest.scalars == tuple(min(choices) for _, choices in space.entries)
    assert space.largest in space and space.smallest in space


@every_space
def test_every_wrong_entry_is_refused_with_its_value_and_the_choices(space: SearchSpace) -> None:
    for column, (entry, choices) in enumerate(space.entries):
        wrong = with_scalar(space.largest, column, choices[-1] + 1)
        assert wrong not in space
        with pytest.raises(ValueError) as refused:
            space.validate(wrong)
        message = str(refused.value)
        assert f"arch entry {entry} is {choices[-1] + 1};" in message
        assert message.endswith(" ".join(map(str, choices)))


def test_what_is_no_arch_of_the_space_is_not_in_it() -> None:
    assert ALPHANET_TINY.largest not in ALPHANET
    assert "alphanet_a0" not in ALPHANET
    with pytest.raises(ValueError, match="has 3 stages; the space alphanet has 7"):
        ALPHANET.validate(ALPHANET_TINY.largest)


@every_space
def test_a_space_survives_json(space: SearchSpace) -> None:
    again = SearchSpace.from_dict(json.loads(json.dumps(space.to_dict())))
    assert again == space
    assert hash(again) == hash(space)


@pytest.mark.parametrize(
    ("entry", "value", "named"),
    [
        ("resolution", [], "resolution"),
        ("resolution", [256, 224], "ascending"),
        ("stem_width", [16, 16], "each once"),
        ("head_width", [0, 1792], "positive"),
        ("head_width", ["1792"], "positive"),
        ("stem_stride", 3, "stem_stride is 3"),
        ("head_expand", 0, "head_expand"),
        ("head_expand", [6], "head_expand"),
        ("stages", [], "has 0 stages; pass 1 to 64"),
        ("stages", [{"name": "mb1"}], "not a search space"),
        ("colour", "red", "not a search space"),
    ],
)
def test_a_wrong_space_is_refused(entry: str, value: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SearchSpace.from_dict({**ALPHANET.to_dict(), entry: value})


def test_a_space_without_stages_in_its_mapping_is_refused() -> None:
    with pytest.raises(ValueError, match="'stages'"):
        SearchSpace.from_dict({"name": "empty"})


@pytest.mark.parametrize(
    ("entry", "value", "named"),
    [
        ("kernel_size", (3, 4), "even kernel"),
        ("stride", 4, "stride is 4"),
        ("depth", (0, 1), "stage mb1: depth"),
        ("width", (24, 16), "stage mb1: width"),
        ("expand_ratio", (1.5,), "stage mb1: expand_ratio"),
    ],
)
def test_a_wrong_stage_is_refused(entry: str, value: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        replace(ALPHANET.stages[0], **{entry: value})


def test_sampling_is_uniform_in_every_entry() -> None:
    rng = np.random.default_rng(0)
    rows = ALPHANET.sample_array(20_000, rng)
    singles = np.array([ALPHANET.sample(rng).scalars for _ in range(2_000)])
    assert rows.shape == (20_000, 31)
    for drawn in (rows, singles):
        for column, (_, choices) in enumerate(ALPHANET.entries):
            values, counts = np.unique(drawn[:, column], return_counts=True)
            assert tuple(values) == choices
            share = 1 / len(choices)
            deviation = abs(counts / len(drawn) - share).max()
            assert deviation < 4.5 * np.sqrt(share * (1 - share) / len(drawn)) + 1e-12


@every_space
def test_draws_are_functions_of_the_generator(space: SearchSpace) -> None:
    def draws() -> list[Any]:
        rng = np.random.default_rng(7)
        a, b = space.sample(rng), space.sample(rng)
        return [a, b, space.mutate(a, 0.3, rng), space.crossover(a, b, rng), space.sample_array(5, rng).tolist()]

    assert draws() == draws()


@every_space
def test_mutation_changes_nothing_or_everything_at_its_ends(space: SearchSpace) -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        arch = space.sample(rng)
        assert space.mutate(arch, 0.0, rng) == arch
        mutant = space.mutate(arch, 1.0, rng)
        assert mutant in space
        for before, after, (_, choices) in zip(arch.scalars, mutant.scalars, space.entries, strict=True):
            assert (before != after) == (len(choices) > 1)


def test_mutation_redraws_each_scalar_with_its_probability_and_evenly() -> None:
    rng = np.random.default_rng(2)
    arch = ALPHANET.smallest
    mutants = np.array([ALPHANET.mutate(arch, 0.25, rng).scalars for _ in range(4000)])
    for column, (_, choices) in enumerate(ALPHANET.entries):
        for choice in choices[1:]:
            share = 0.25 / (len(choices) - 1)
            assert np.mean(mutants[:, column] == choice) == pytest.approx(share, abs=4.5 * np.sqrt(share / 4000))


def test_crossover_takes_each_scalar_from_either_parent_evenly() -> None:
    rng = np.random.default_rng(3)
    small, large = ALPHANET.smallest, ALPHANET.largest
    children = np.array([ALPHANET.crossover(small, large, rng).scalars for _ in range(4000)])
    for column, (_, choices) in enumerate(ALPHANET.entries):
        if len(choices) > 1:
            assert set(children[:, column]) == {choices[0], choices[-1]}
            assert np.mean(children[:, column] == choices[0]) == pytest.approx(0.5, abs=4.5 * 0.5 / np.sqrt(4000))
        else:
            assert set(children[:, column]) == {choices[0]}


@pytest.mark.parametrize("prob", [-0.1, 1.1, float("nan")])
def test_a_mutation_probability_out_of_its_domain_is_refused(prob: float) -> None:
    with pytest.raises(ValueError, match=f"probability is {prob}"):
        ALPHANET.mutate(ALPHANET.smallest, prob, np.random.default_rng(0))


def test_parents_of_another_space_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="3 stages"):
        ALPHANET.mutate(ALPHANET_TINY.largest, 0.5, rng)
    with pytest.raises(ValueError, match="3 stages"):
        ALPHANET.crossover(ALPHANET.largest, ALPHANET_TINY.largest, rng)


def test_a_space_too_large_for_len_is_still_a_space() -> None:
    stage = Stage("mb", tuple(range(8, 80, 8)), tuple(range(1, 9)), (3, 5, 7), (3, 4, 5, 6), 1, True)
    space = SearchSpace("huge", (32,), (16,), 1, (stage,) * 9, (64,))
    assert space
    assert space.largest in space
    assert space.sample(np.random.default_rng(0)) in space
