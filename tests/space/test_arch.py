"""An arch is a value: normalised, checked, hashable, and the same after a round trip."""

from __future__ import annotations

import json
import pickle
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.presets import ALPHANET

A0 = ALPHANET.smallest
POSITIVE = st.integers(1, 4096)


@st.composite
def archs(draw: st.DrawFn) -> ArchSpec:
    """An arch of any number of stages with any positive entries."""
    stages = draw(st.integers(1, 9))

    def some(n: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(POSITIVE, min_size=n, max_size=n)))

    return ArchSpec(draw(POSITIVE), some(stages + 2), some(stages), some(stages), some(stages))


@given(archs())
def test_round_trips(arch: ArchSpec) -> None:
    assert ArchSpec.from_dict(arch.to_dict()) == arch
    assert ArchSpec.from_dict(json.loads(json.dumps(arch.to_dict()))) == arch
    assert ArchSpec.from_scalars(arch.scalars) == arch
    assert ArchSpec.from_scalars(list(np.array(arch.scalars))) == arch
    assert pickle.loads(pickle.dumps(arch)) == arch
    assert eval(repr(arch)) == arch


def test_entries_are_plain_ints_and_tuples_whatever_they_were_given_as() -> None:
    arch = ArchSpec(np.int64(16), np.array([8, 8, 16]), [np.int32(2)], (3,), iter([1]))  # type: ignore[arg-type]
    assert arch == ArchSpec(16, (8, 8, 16), (2,), (3,), (1,))
    assert hash(arch) == hash(ArchSpec(16, (8, 8, 16), (2,), (3,), (1,)))
    assert {type(value) for value in arch.scalars} == {int}


def test_an_arch_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        A0.resolution = 224  # type: ignore[misc]
    larger = replace(A0, resolution=224)
    assert larger.resolution == 224
    assert larger != A0
    assert len({A0, larger, replace(larger, resolution=192)}) == 2


@pytest.mark.parametrize(
    ("entry", "value", "named"),
    [
        ("resolution", 0, "resolution is 0"),
        ("resolution", -192, "resolution is -192"),
        ("resolution", 192.0, "resolution is 192.0"),
        ("resolution", True, "resolution is True"),
        ("resolution", "192", "resolution is '192'"),
        ("resolution", None, "resolution is None"),
        ("depth", 3, "depth is 3"),
        ("depth", "1333331", "depth is '1333331'"),
        ("kernel_size", {3: 3}, "kernel_size is {3: 3}"),
        ("width", (16, 16, 24, 32, 64, 112, 192, 216, 0), r"width\[8\] is 0"),
        ("width", (16, 16, 24, 32.5, 64, 112, 192, 216, 1792), r"width\[3\] is 32.5"),
        ("width", (16, 24), "width has 2 values; 9"),
        ("kernel_size", (3, 3), "kernel_size has 2 values; 7"),
        ("expand_ratio", (1, 4, 4, 4, 4, 6, 6, 6), "expand_ratio has 8 values; 7"),
    ],
)
def test_a_wrong_entry_is_named_with_its_value(entry: str, value: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ArchSpec.from_dict({**A0.to_dict(), entry: value})


def test_wrong_keys_are_named() -> None:
    spec = A0.to_dict()
    with pytest.raises(ValueError, match=r"missing: \['depth'\]"):
        ArchSpec.from_dict({key: value for key, value in spec.items() if key != "depth"})
    with pytest.raises(ValueError, match=r"unknown: \['groups'\]"):
        ArchSpec.from_dict({**spec, "groups": 1})
    with pytest.raises(ValueError, match="got list"):
        ArchSpec.from_dict([1, 2])  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [0, 3, 6, 8, 30, 32])
def test_a_row_of_another_length_is_no_arch(length: int) -> None:
    with pytest.raises(ValueError, match=f"row of {length} scalars"):
        ArchSpec.from_scalars([3] * length)
