from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from alphanet_zoo.data.images import read_image
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.predict.images import decoded, single_images
from tests.predict.pictures import write_pictures


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def test_every_form_of_a_picture_gives_the_same_pixels(paths: list[Path]) -> None:
    for path in paths:
        expected = read_image(path)
        pixels, found = decoded(path)
        assert torch.equal(pixels, expected) and found == path
        assert torch.equal(decoded(str(path))[0], expected)
        with Image.open(path) as image:
            assert torch.equal(decoded(image)[0], expected), path
        forms = [
            expected.permute(1, 2, 0).numpy(), expected, expected / 255, (expected / 255).double().requires_grad_(),
            Image.fromarray(expected.permute(1, 2, 0).numpy()),
        ]  # fmt: skip
        for form in forms:
            pixels, found = decoded(form)
            assert pixels.dtype == torch.uint8 and torch.equal(pixels, expected) and found is None


def test_a_pillow_image_is_turned_upright_once(paths: list[Path]) -> None:
    path = paths[2]
    with Image.open(path) as image:
        assert image.size == (80, 50)
        turned = ImageOps.exif_transpose(image)
        assert decoded(image)[0].shape == decoded(turned)[0].shape == (3, 80, 50)
        assert torch.equal(decoded(image)[0], decoded(turned)[0])


def test_an_array_is_copied() -> None:
    array = np.zeros((4, 5, 3), dtype=np.uint8)
    pixels, _ = decoded(array[:, ::-1])
    array[:] = 9
    assert pixels.shape == (3, 4, 5) and not pixels.any()


def test_folders_and_patterns_are_their_images(paths: list[Path], tmp_path: Path) -> None:
    folder = paths[0].parent
    assert list(single_images(folder)) == list(single_images(str(folder))) == sorted(paths)
    assert list(single_images(f"{folder.parent}/{folder.name[:-1]}[{folder.name[-1]}]/0-*.jpg")) == [
        folder / "0-wide.jpg"
    ]
    assert list(single_images([folder, folder / "1*.jpg", "a.png"])) == [*sorted(paths), paths[1], Path("a.png")]
    named = tmp_path / "0[1].jpg"  # The file that exists is meant, not the pattern.
    for path in (named, tmp_path / "01.jpg"):
        path.write_bytes(paths[0].read_bytes())
    assert list(single_images(named)) == [named]
    (tmp_path / "empty").mkdir()
    for source, message in (("empty", "contains no images"), ("*.png", "does not exist and matches no image")):
        with pytest.raises(UsageError, match=message):
            list(single_images(tmp_path / source))


def test_one_several_and_batches() -> None:
    image, array, tensor = Image.new("RGB", (4, 4)), np.zeros((2, 4, 5, 3), np.uint8), torch.zeros(3, 3, 4, 5)
    assert list(single_images("a.png")) == [Path("a.png")] and list(single_images(Path("a"))) == [Path("a")]
    assert list(single_images(image)) == [image]
    assert [each.shape for each in single_images(array)] == [(4, 5, 3)] * 2
    assert [each.shape for each in single_images(array[0])] == [(4, 5, 3)]
    assert [each.shape for each in single_images(tensor)] == [(3, 4, 5)] * 3
    assert list(single_images(iter(["a", image]))) == [Path("a"), image]


NORMALISED = (torch.rand(3, 4, 4) - 0.5) / 0.2
REFUSED = {
    "channels last": (torch.zeros(4, 4, 3), r"shape \(4, 4, 3\); pass \(3, H, W\)"),
    "a grey tensor": (torch.zeros(1, 4, 4), r"shape \(1, 4, 4\)"),
    "no pixels": (torch.zeros(3, 0, 4), r"shape \(3, 0, 4\)"),
    "a normalised tensor": (NORMALISED, "that are not normalised"),
    "floats up to 255": (torch.full((3, 4, 4), 255.0), "values from 255 to 255"),
    "not a number": (torch.full((3, 4, 4), float("nan")), "values from nan to nan"),
    "another integer": (torch.zeros(3, 4, 4, dtype=torch.int64), "torch.int64; pass uint8"),
    "channels first": (np.zeros((3, 4, 4), np.uint8), r"shape \(3, 4, 4\); pass \(H, W, 3\)"),
    "a grey array": (np.zeros((4, 4), np.uint8), r"shape \(4, 4\)"),
    "four channels": (np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\)"),
    "a float array": (np.zeros((4, 4, 3), np.float32), "float32; pass uint8"),
    "a number": (3, "an image has the type int; pass a path"),
    "the content of a file": (b"\x89PNG", "an image has the type bytes; pass a path"),
    "a folder": (Path(__file__).parent, "is a folder; pass its files: .*list_images"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_layouts_types_and_ranges_are_refused(name: str) -> None:
    image, message = REFUSED[name]
    with pytest.raises(UsageError, match=message) as error:
        decoded(image)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_arguments_that_are_not_images_are_refused() -> None:
    for argument in (b"\x89PNG", 3, {"a.png": 1}, None):
        with pytest.raises(UsageError, match="pass a path"):
            list(single_images(argument))  # type: ignore[arg-type]


def test_a_pillow_image_without_a_fixed_range_is_refused() -> None:
    with pytest.raises(AlphaNetError, match=r"\(PIL image\).*mode F"):
        decoded(Image.new("F", (4, 4)))
    with pytest.raises(AlphaNetError, match="0 x 4 pixels"):
        decoded(Image.new("RGB", (0, 4)))


def test_a_picture_is_classified_without_importing_torchvision(tmp_path: Path) -> None:
    """Its import takes as long as that of torch; only its JPEG decoder is loaded."""
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(path)
    script = (
        "import sys; from alphanet_zoo.cli.main import main; from alphanet_zoo.data.images import _JPEG_OPERATOR; "
        f"assert main(['predict', {str(path)!r}, '--topk', '1']) == 0; "
        "assert _JPEG_OPERATOR is not None; print('torchvision' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "False", done.stderr
