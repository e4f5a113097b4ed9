from __future__ import annotations

import pytest

from alphanet_zoo.data.classes import match_classes, shortened
from alphanet_zoo.errors import UsageError

LABELS = ("cat", "dog", "bird")


def test_classes_are_matched_by_name_in_any_order_and_number() -> None:
    assert match_classes(["bird", "cat", "dog"], LABELS, 3, where="x").tolist() == [2, 0, 1]
    assert match_classes(["bird"], LABELS, 3, where="x").tolist() == [2]


def test_if_one_class_is_a_label_all_must_be() -> None:
    with pytest.raises(UsageError) as caught:
        match_classes(["cat", "doggy", "fish"], LABELS, 3, where="val")
    message = str(caught.value)
    assert "val has classes that are not labels of the model: doggy, fish" in message
    assert "Its classes: cat, doggy, fish." in message and "The model's labels: cat, dog, bird." in message
    assert "--labels-by-position" in message and "\n" not in message


def test_other_names_are_not_matched_by_position_unless_asked() -> None:
    with pytest.raises(UsageError, match="not labels of the model: a, b, c"):
        match_classes(["a", "b", "c"], LABELS, 3, where="x")
    assert match_classes(["a", "b", "c"], LABELS, 3, by_position=True, where="x").tolist() == [0, 1, 2]
    assert match_classes(["cat", "b", "dog"], LABELS, 3, by_position=True, where="x").tolist() == [0, 1, 2]


@pytest.mark.parametrize("labels", [None, ()])
def test_a_model_without_labels_is_matched_by_position(labels: tuple[str, ...] | None) -> None:
    assert match_classes(["a", "b"], labels, 2, where="x").tolist() == [0, 1]
    with pytest.raises(UsageError, match=r"x has 2 classes \(a, b\) and the model has 3"):
        match_classes(["a", "b"], labels, 3, where="x")


def test_by_position_the_numbers_must_be_equal() -> None:
    with pytest.raises(UsageError, match="x has 2 classes .*the model has 3"):
        match_classes(["cat", "dog"], LABELS, 3, by_position=True, where="x")


def test_labels_that_occur_twice_are_ambiguous_only_if_the_images_have_them() -> None:
    labels = ["crane", "cat", "crane"]
    assert match_classes(["cat"], labels, 3, where="x").tolist() == [1]
    with pytest.raises(UsageError, match="several outputs with the label crane"):
        match_classes(["cat", "crane"], labels, 3, where="x")


def test_long_lists_are_shortened() -> None:
    assert shortened("abc") == "a, b, c"
    assert shortened(str(i) for i in range(1000)) == "0, 1, 2, 3, 4, ... (1000 in all)"
