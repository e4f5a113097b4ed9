"""The specification has the figures of the code."""

from __future__ import annotations

from pathlib import Path

import alphanet_zoo as az
from alphanet_zoo.space.presets import ALIASES, ALPHANET, IMAGENET_FAMILY

TEXT = (Path(__file__).parents[1] / "docs" / "specification.md").read_text("utf-8")
ROWS = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line[:1] == "|"]


def ints(cell: str) -> tuple[int, ...]:
    return tuple(map(int, cell.split()))


def test_the_search_space() -> None:
    rows = {row[0].partition(" ")[0]: row[1:] for row in ROWS}
    for stage in ALPHANET.stages:
        choices = (stage.width, stage.depth, stage.kernel_size, stage.expand_ratio, (stage.stride,))
        assert (*map(ints, rows[stage.name][:5]), rows[stage.name][5]) == (*choices, "yes" if stage.se else "no")
    assert ints(rows["stem"][0]) == ALPHANET.stem_width and ints(rows["stem"][4]) == (ALPHANET.stem_stride,)
    assert ints(rows["head"][0]) == ALPHANET.head_width
    assert f"{', '.join(map(str, ALPHANET.resolution[:-1]))} and {ALPHANET.resolution[-1]} pixels" in TEXT


def test_the_family() -> None:
    rows = [row for row in ROWS if row[0].startswith("alphanet_a")]
    assert [row[0] for row in rows] == [member.name for member in IMAGENET_FAMILY]
    for row, member in zip(rows, IMAGENET_FAMILY, strict=True):
        width, kernel_size, expand_ratio, depth = map(ints, row[4:])
        assert az.ArchSpec(int(row[3]), width, depth, kernel_size, expand_ratio) == member.arch
        assert row[1:3] == [f"{az.count_macs(member.arch) / 1e6:.2f}", f"{member.top1:.2f}"]
    assert all(f"`{alias}` is another name of `{name}`" in TEXT for alias, name in ALIASES.items())
    assert f"{az.count_macs(ALPHANET.largest) / 1e6:.2f} M MACs" in TEXT


def test_the_public_names_exist() -> None:
    section = TEXT.partition("## 8.")[2].partition("Commands:")[0]
    names = [
        line.partition("`")[2].partition("`")[0].partition("(")[0] for line in section.splitlines()[4:] if "| `" in line
    ]
    assert len(names) >= 12
    for name in names:
        value = az
        for part in name.split("."):
            value = getattr(value, part)
