"""The spaces and the family, against the table of the paper."""

from __future__ import annotations

import pytest

from alphanet_zoo.space.cost import count_macs, count_params
from alphanet_zoo.space.presets import ALIASES, ALPHANET, ALPHANET_CIFAR, FAMILIES, IMAGENET_FAMILY, SPACES
from alphanet_zoo.space.space import SearchSpace

PUBLISHED = {
    "alphanet_a0": (203.39, 77.87),
    "alphanet_a1": (279.24, 78.94),
    "alphanet_a2": (316.73, 79.20),
    "alphanet_a3": (356.52, 79.41),
    "alphanet_a4": (443.53, 80.01),
    "alphanet_a5": (491.48, 80.29),
    "alphanet_a5_base": (594.79, 80.62),
    "alphanet_a6": (709.01, 80.78),
}


def test_the_family_has_the_published_macs_and_accuracy() -> None:
    found = {m.name: (round(count_macs(m.arch, m.space, m.num_classes) / 1e6, 2), m.top1) for m in IMAGENET_FAMILY}
    assert found == PUBLISHED
    assert list(found) == list(PUBLISHED), "in ascending cost"
    assert IMAGENET_FAMILY[0].arch == ALPHANET.smallest
    assert round(count_macs(ALPHANET.largest) / 1e6, 2) == 1939.34


def test_families_and_aliases_name_models_that_exist() -> None:
    names = [member.name for family in FAMILIES.values() for member in family]
    assert len(set(names)) == len(names)
    assert all(member.arch in member.space for family in FAMILIES.values() for member in family)
    assert set(ALIASES.values()) <= set(names)
    assert not set(ALIASES) & set(names)


@pytest.mark.parametrize("name", SPACES)
def test_spaces_are_known_by_their_names_and_have_widths_in_eights(name: str) -> None:
    space: SearchSpace = SPACES[name]
    assert space.name == name
    assert len({stage.name for stage in space.stages}) == len(space.stages)
    assert all(width % 8 == 0 for entry, choices in space.entries if entry.startswith("width") for width in choices)


def test_the_cifar_space_is_what_its_docstring_says() -> None:
    space = ALPHANET_CIFAR
    assert space.resolution == (24, 28, 32)
    assert space.stem_stride == 1
    assert [stage.stride for stage in space.stages].count(2) == 3
    assert 12e6 <= count_macs(space.smallest, space, 10) <= 14e6
    assert 58e6 <= count_macs(space.largest, space, 10) <= 62e6
    assert count_params(space.largest, space, 10) < 7e6
