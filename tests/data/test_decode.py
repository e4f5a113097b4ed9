import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from alphanet_zoo.data.decode import decode_file, decode_image, read_header
from alphanet_zoo.errors import AlphaNetError

RNG = np.random.default_rng(0)
SMOOTH = np.asarray(Image.fromarray(RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((70, 50)))


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pillow(content):
    return torch.from_numpy(np.array(Image.open(io.BytesIO(content)).convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"exif": b"Exif\0\0" + bytes(3000)}]
)
def test_a_jpeg_gives_pillows_pixels_in_channels_last_memory(options):
    content = encoded(Image.fromarray(SMOOTH), "JPEG", **options)
    image = decode_image(content, "x.jpg")
    assert read_header(content, "x.jpg").plain_jpeg
    assert image.dtype == torch.uint8 and image.shape == (3, 50, 70) and image.stride() == (1, 210, 3)
    assert torch.equal(image, pillow(content))


def test_pillow_decodes_where_torchvision_has_no_decoder(monkeypatch):
    content = encoded(Image.fromarray(SMOOTH), "JPEG")
    expected = decode_image(content, "x.jpg")
    monkeypatch.setattr("alphanet_zoo.data.decode._JPEG_OPERATOR", None)
    assert torch.equal(decode_image(content, "x.jpg"), expected)


@pytest.mark.parametrize(
    ("mode", "form"),
    [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("1", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP"), ("RGB", "BMP")],
)
def test_other_modes_and_formats_give_pillows_pixels(mode, form):
    content = encoded(Image.fromarray(SMOOTH).convert(mode), form)
    assert torch.equal(decode_image(content, "x"), pillow(content))
    header = read_header(content, "x")
    assert (header.width, header.height, header.plain_jpeg) == (70, 50, mode == "L")


def test_a_palette_with_transparency_is_taken_without_a_warning():
    content = encoded(Image.fromarray(SMOOTH).convert("P"), "PNG", transparency=bytes(10))
    expected = Image.open(io.BytesIO(content)).convert("RGBA").convert("RGB")
    assert np.array_equal(decode_image(content, "x").permute(1, 2, 0), np.asarray(expected))


def test_sixteen_bits_keep_their_upper_eight():
    grey = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = decode_image(encoded(Image.fromarray(grey), "PNG"), "x")
    assert np.array_equal(image[0], grey >> 8) and torch.equal(image[0], image[2])


def test_a_png_that_is_named_jpeg_is_read(tmp_path):
    path = tmp_path / "x.JPEG"
    path.write_bytes(encoded(Image.fromarray(SMOOTH), "PNG"))
    assert np.array_equal(decode_file(path).permute(1, 2, 0), SMOOTH)


def cut_short(content):
    return content[: len(content) // 2]


def scrambled(content):
    middle = len(content) // 2
    return content[:middle] + b"\xff" * 200 + content[middle + 200 :]


@pytest.mark.parametrize(
    "damage", [cut_short, scrambled, lambda c: c[:2], lambda c: c[:20], lambda c: b"", lambda c: b"no"]
)
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_damage_is_refused_by_name(form, damage, tmp_path):
    path = tmp_path / "broken.img"
    path.write_bytes(damage(encoded(Image.fromarray(RNG.integers(0, 256, (60, 60, 3), dtype=np.uint8)), form)))
    with pytest.raises(AlphaNetError, match=r"cannot read the image .*broken\.img"):
        decode_file(path)


def test_what_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(AlphaNetError, match=r"cannot read the image .*none\.jpg: No such file"):
        decode_file(tmp_path / "none.jpg")
    with pytest.raises(AlphaNetError, match=r"cannot read the image .*: Is a directory"):
        decode_file(tmp_path)


def bomb(form):
    """A whole small file whose header says 60,000 by 60,000."""
    content = bytearray(encoded(Image.fromarray(SMOOTH), form))
    if form == "JPEG":
        place = content.index(b"\xff\xc0") + 5
        content[place : place + 4] = struct.pack(">HH", 60_000, 60_000)
    else:
        import zlib

        content[16:24] = struct.pack(">II", 60_000, 60_000)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_bomb_is_refused_from_its_header(form, monkeypatch):
    def allocates(*_, **__):
        raise AssertionError("it was decoded")

    content = bomb(form)
    monkeypatch.setattr("alphanet_zoo.data.decode._JPEG_OPERATOR", allocates)
    monkeypatch.setattr(Image.Image, "load", allocates)
    complaint = "60000 x 60000 pixels, more than 89,478,485" if form == "JPEG" else "3600000000 pixels"
    with pytest.raises(AlphaNetError, match=rf"x\.jpg.*{complaint}"):
        decode_image(content, "x.jpg")


def test_the_limit_is_on_pixels():
    content = encoded(Image.fromarray(SMOOTH), "JPEG")
    assert decode_image(content, "x", pixel_limit=3500).shape == (3, 50, 70)
    with pytest.raises(AlphaNetError, match="more than 3,499"):
        decode_image(content, "x", pixel_limit=3499)


def test_samples_without_a_range_are_refused():
    content = encoded(Image.fromarray(RNG.random((4, 4)).astype(np.float32)), "TIFF")
    with pytest.raises(AlphaNetError, match="mode F"):
        decode_image(content, "x.tif")
