from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from alphanet_zoo.errors import UsageError
from alphanet_zoo.space.cost import count_macs
from alphanet_zoo.space.custom import find_space, fitted_space
from alphanet_zoo.space.presets import ALPHANET_TINY


def spec(**changes: object) -> dict[str, object]:
    return ALPHANET_TINY.to_dict() | {"name": "mine"} | changes


def write(path: Path, tree: object) -> str:
    path.write_text(yaml.safe_dump(tree))
    return str(path)


def test_a_space_comes_from_a_name_a_file_or_its_choices(tmp_path: Path) -> None:
    assert find_space("alphanet_tiny") is ALPHANET_TINY
    space = find_space(write(tmp_path / "mine.yaml", spec(resolution=[10, 20])))
    assert (space.name, space.resolution, space.stages) == ("mine", (10, 20), ALPHANET_TINY.stages)
    assert find_space(space.to_dict()) == space
    assert find_space(write(tmp_path / "tiny.yaml", ALPHANET_TINY.to_dict())) == ALPHANET_TINY


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ([1], "does not contain a mapping"),
        (spec(name="alphanet_tiny", resolution=[10]), "name of another search space"),
        (spec(name=3), "pass a text"),
        (spec(resolution=[20, 10]), "list them in ascending order"),
        (spec(stages=[]), "has 0 stages; pass 1 to 64"),
        (spec(depths=[1]), "not a search space"),
        ({"name": "mine"}, "not a search space"),
        (spec(stages=[{"name": "a", "width": [8]}]), "missing"),
        (spec(stages=[3]), "not a search space"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tree: object, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", tree)
    with pytest.raises(UsageError, match=reason) as error:
        find_space(path)
    assert path in str(error.value)


def test_a_space_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown search space 'mine'; pass one of alphanet, .*YAML file"):
        find_space("mine")
    with pytest.raises(UsageError, match="no such file"):
        find_space(str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").write_text("a: [1\n")
    with pytest.raises(UsageError, match="is not valid YAML"):
        find_space(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize("side", [8, 16, 32, 64, 100, 224, 480, 4000])
@pytest.mark.parametrize("budget", [3e6, 60e6, 150e6, 600e6, 3e9])
def test_a_fitted_space_uses_the_budget_and_does_not_exceed_it(side: int, budget: float) -> None:
    space = fitted_space(side, budget, 10)
    assert count_macs(space.largest, space, 10) <= budget
    assert max(space.resolution) <= max(side, 16) and max(space.resolution) <= 288
    assert find_space(space.to_dict()) == space


def test_more_pixels_and_a_larger_budget_give_larger_spaces() -> None:
    chosen = [fitted_space(side, budget, 10) for side, budget in ((16, 150e6), (32, 150e6), (224, 150e6), (224, 2e9))]
    assert [max(space.resolution) for space in chosen] == [16, 32, 96, 224]
    assert [len(space.stages) for space in chosen] == [3, 6, 6, 7]


def test_a_budget_that_is_too_small_is_refused_with_the_least_one() -> None:
    with pytest.raises(UsageError, match=r"budget is 1 M MACs.*pass at least budget=2.6M"):
        fitted_space(224, 1e6, 10)
    assert fitted_space(224, 2.6e6, 10).resolution[-1] == 16
