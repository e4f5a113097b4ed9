import io
import os
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from alphanet_zoo.data.images import FORMATS, IMAGE_ENDINGS, decode_image, read_header, read_image
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
    monkeypatch.setattr("alphanet_zoo.data.images._JPEG_OPERATOR", None)
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
    assert np.array_equal(read_image(path).permute(1, 2, 0), SMOOTH)


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
        read_image(path)


def test_what_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(AlphaNetError, match=r"cannot read the image .*none\.jpg: No such file"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(AlphaNetError, match=r"cannot read the image .*: Is a directory"):
        read_image(tmp_path)


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
    monkeypatch.setattr("alphanet_zoo.data.images._JPEG_OPERATOR", allocates)
    monkeypatch.setattr(Image.Image, "load", allocates)
    complaint = "60000 x 60000 pixels, more than 89,478,485" if form == "JPEG" else "3600000000 pixels"
    with pytest.raises(AlphaNetError, match=rf"x\.jpg.*{complaint}"):
        decode_image(content, "x.jpg")


def test_a_marker_of_unknown_length_before_the_frame_is_refused():
    """Decoders differ in where the next segment begins, and so in the size that they read."""
    plain = io.BytesIO()
    Image.new("RGB", (16, 16)).save(plain, "JPEG")
    content = plain.getvalue()
    frame = content.index(b"\xff\xc0")
    with pytest.raises(AlphaNetError, match="marker FF01 before the frame"):
        decode_image(content[:frame] + b"\xff\x01" + content[frame:], "x.jpg")


def test_the_limit_is_on_pixels():
    content = encoded(Image.fromarray(SMOOTH), "JPEG")
    assert decode_image(content, "x", pixel_limit=3500).shape == (3, 50, 70)
    with pytest.raises(AlphaNetError, match="more than 3,499"):
        decode_image(content, "x", pixel_limit=3499)


def test_samples_without_a_range_are_refused():
    content = encoded(Image.fromarray(RNG.random((4, 4)).astype(np.float32)), "TIFF")
    with pytest.raises(AlphaNetError, match="mode F"):
        decode_image(content, "x.tif")


# How the stored rows and columns come from the upright ones, by the tag: the EXIF standard says which side of the
# picture the first row and the first column are (1: top, left; 6: right, top; 8: left, bottom ...).
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[:, ::-1],
}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_the_exif_orientation_is_followed(orientation, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(form, {})
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](SMOOTH)))
    content = encoded(stored, form, exif=exif.tobytes() if form != "TIFF" else exif, **options)
    image = decode_image(content, "x")
    assert image.shape == (3, 50, 70)
    assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - SMOOTH).max() <= (6 if form == "JPEG" else 0)
    header = read_header(content, "x")
    assert (header.width, header.height) == (70, 50)


def test_damaged_metadata_does_not_make_an_image_broken():
    content = encoded(Image.fromarray(SMOOTH), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12")
    assert np.array_equal(decode_image(content, "x").permute(1, 2, 0), SMOOTH)


@pytest.mark.parametrize(("name", "kind"), [("x.png", "PNG"), ("x.tif", "TIFF"), ("x.pgm", "PPM")])
def test_sixteen_bits_are_the_same_in_every_format(name, kind):
    grey = np.linspace(0, 65535, 4096).reshape(64, 64).astype(np.uint16)
    if kind == "PPM":
        content = b"P5\n64 64\n65535\n" + grey.astype(">u2").tobytes()
    else:
        content = encoded(Image.fromarray(grey), kind)
    image = decode_image(content, name)
    assert np.array_equal(image[0], grey >> 8) and torch.equal(image[0], image[1])


def test_32_bit_integers_are_refused():
    content = encoded(Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF")
    with pytest.raises(AlphaNetError, match="mode I"):
        decode_image(content, "x.tif")


@pytest.mark.parametrize("form", ["ICO", "ICNS", "PDF", "EPS", "TGA"])
def test_containers_and_other_formats_are_refused_whatever_their_name(form):
    content = encoded(Image.fromarray(SMOOTH).resize((64, 64)), form)
    with pytest.raises(AlphaNetError, match=r"cannot read the image x\.png: .*supported format \(JPEG, PNG"):
        decode_image(content, "x.png")


def test_any_exception_of_a_decoder_names_the_image(monkeypatch):
    def fails(self):
        raise struct.error("unpack requires a buffer of 4 bytes")

    content = encoded(Image.fromarray(SMOOTH), "PNG")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fails)
    with pytest.raises(AlphaNetError, match=r"cannot read the image a/b\.png: unpack requires"):
        decode_image(content, "a/b.png")


def test_pipes_do_not_block_and_dangling_links_say_where_they_lead(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(AlphaNetError, match=r"pipe\.png: not a regular file"):
        read_image(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("/nowhere/0.png")
    with pytest.raises(AlphaNetError, match=r"link\.png: link to /nowhere/0\.png, which does not exist"):
        read_image(tmp_path / "link.png")


def test_every_accepted_ending_is_of_an_accepted_format():
    Image.init()
    assert {Image.EXTENSION[ending] for ending in IMAGE_ENDINGS - {".jfif", ".jpe"}} <= set(FORMATS)
