from __future__ import annotations

import pytest

from alphanet_zoo.units import counted, duration, file_size, parse_count


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"), (0.44, "0.4 s"), (9.96, "10 s"), (12.4, "12 s"), (59.7, "1 min"), (72, "1 min 12 s"),
        (3599, "59 min 59 s"), (3600, "1 h"), (11_100, "3 h 5 min"), (187_200, "2 d 4 h"),
    ],
)  # fmt: skip
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_counts_have_suffixes() -> None:
    assert [parse_count(text) for text in ("60M", "0.5G", "7k", " 12 ")] == [60e6, 0.5e9, 7e3, 12.0]
    for text in ("", "M", "-1", "nan", "1e6", "0"):
        with pytest.raises(ValueError, match="not a positive number"):
            parse_count(text)


def test_numbers_have_nouns_and_files_sizes() -> None:
    assert [counted(1, "image"), counted(2000, "image"), counted(2, "class", "classes")] == [
        "1 image", "2,000 images", "2 classes",
    ]  # fmt: skip
    assert [file_size(size) for size in (1, 25, 8100, 35_790_000)] == ["1 byte", "25 bytes", "8.1 kB", "35.79 MB"]
