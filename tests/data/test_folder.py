"""What counts as a class and as an image, decided in one place."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from PIL import Image

from alphanet_zoo.data.folder import SYSTEM_NAMES, FolderSource, list_images
from alphanet_zoo.data.manifest import verify_images
from alphanet_zoo.errors import AlphaNetError, UsageError


def draw(path: Path, grey: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2), (grey, 0, 0)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes with four images, one of them deeper and one with its ending in upper case."""
    for index, name in enumerate(("cat/1.png", "cat/x/2.png", "dog/1.PNG", "dog/2.png")):
        draw(tmp_path / "images" / name, index)
    return tmp_path / "images"


def names_of(source: FolderSource) -> list[str]:
    return [source.path(index).relative_to(source.root).as_posix() for index in range(len(source))]


def test_classes_and_files_are_in_the_order_of_their_names(root: Path) -> None:
    draw(root / "cat-a" / "0.png")
    draw(root / "cat" / "x.png")
    (root / "cat" / "notes.txt").write_text("not an image")
    source = FolderSource(root)
    assert source.classes == ["cat", "cat-a", "dog"] and source.labels.tolist() == [0, 0, 0, 1, 2, 2]
    assert names_of(source) == ["cat/1.png", "cat/x/2.png", "cat/x.png", "cat-a/0.png", "dog/1.PNG", "dog/2.png"]
    assert source.load(5)[0].unique().tolist() == [3] and len(source) == 6


@pytest.mark.parametrize("name", [".ipynb_checkpoints", ".hidden", *sorted(SYSTEM_NAMES)])
def test_hidden_and_system_folders_are_no_classes_and_have_no_images(name: str, root: Path) -> None:
    expected = names_of(FolderSource(root))
    draw(root / name / "1-checkpoint.png")
    draw(root / "cat" / name / "1.png")
    (root / "cat" / "._1.png").write_bytes(b"\0\5\x16\7")
    source = FolderSource(root)
    assert source.classes == ["cat", "dog"] and names_of(source) == expected
    report = verify_images(root)  # the manifest uses the same rule
    assert [entry.path for entry in report.entries] == expected and not report.problems


def test_links_are_followed(root: Path, tmp_path: Path) -> None:
    draw(tmp_path / "elsewhere" / "9.png")
    (root / "bird").symlink_to(tmp_path / "elsewhere")
    (root / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (root / "dog" / "3.png").symlink_to(tmp_path / "elsewhere" / "9.png")
    source = FolderSource(root)
    assert source.classes == ["bird", "cat", "dog"] and len(source) == 7
    assert "cat/more/9.png" in names_of(source) and source.load(6).shape == (3, 2, 3)


def test_a_link_to_an_image_that_does_not_exist_is_a_broken_image(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "cat" / "3.png").symlink_to("/nowhere/3.png")
    with caplog.at_level(logging.WARNING):
        source = FolderSource(root)
        FolderSource(root)
    assert names_of(source)[1] == "cat/3.png" and len(source) == 5
    (record,) = caplog.records
    assert "links to images that do not exist: " in record.getMessage()
    with pytest.raises(AlphaNetError, match=r"3\.png: link to /nowhere/3\.png, which does not exist"):
        source.load(1)
    assert verify_images(root).problems[0].startswith("cat/3.png: damaged")


@pytest.mark.parametrize("place", ["bird", "cat/more"])
def test_a_link_that_may_have_been_a_folder_is_refused(place: str, root: Path) -> None:
    (root / place).symlink_to("/nowhere/images")
    with pytest.raises(UsageError, match="is a link to /nowhere/images, which does not exist; mount or fetch"):
        FolderSource(root)


def test_loops_of_links_are_refused(root: Path) -> None:
    (root / "cat" / "again").symlink_to(root / "cat")
    with pytest.raises(UsageError, match="again is a link to a folder above it"):
        FolderSource(root)
    (root / "cat" / "again").unlink()
    (root / "cat" / "self").symlink_to(root / "cat" / "self")
    with pytest.raises(AlphaNetError, match="cannot read the folder|does not exist"):
        FolderSource(root)


def test_empty_classes_are_refused_and_listed(root: Path) -> None:
    (root / "bird").mkdir()
    (root / "fish" / "deeper").mkdir(parents=True)
    (root / "fish" / "notes.txt").write_text("")
    with pytest.raises(UsageError, match="class folders without images: bird, fish; add images or remove"):
        FolderSource(root)


def test_what_is_left_out_is_said(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw(root / "loose.png")
    (root / "dog" / "9.HEIC").write_bytes(b"?")
    with caplog.at_level(logging.WARNING):
        assert len(FolderSource(root)) == 4
    messages = sorted(record.getMessage().replace(str(root), "R") for record in caplog.records)
    assert messages == [
        "R/dog: images left out because their format is not supported: R/dog/9.HEIC; convert them to JPEG or PNG",
        "R: images left out because they are not in a class folder: loose.png",
    ]


def test_missing_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        FolderSource(tmp_path / "missing")
    with pytest.raises(UsageError, match="contains no images"):
        FolderSource(tmp_path)
    (tmp_path / "class").mkdir()
    with pytest.raises(UsageError, match="contains no images"):
        FolderSource(tmp_path)
    assert list_images(tmp_path) == []


def test_the_message_names_the_folder_to_change(root: Path) -> None:
    with pytest.raises(UsageError, match=f"^no such folder: {root / 'nowhere'};"):
        FolderSource(root / "nowhere" / "train")
    with pytest.raises(
        UsageError, match=r"dog contains images but no class folders; pass .* the folder above this one$"
    ):
        FolderSource(root / "dog")
