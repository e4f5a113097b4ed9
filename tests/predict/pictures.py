"""Pictures of the kinds that people have, and a network to classify them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.presets import ALPHANET_TINY

LABELS = tuple(f"class {index}, or {chr(97 + index)}" for index in range(10))


def labelled_net(seed: int = 0) -> AlphaNet:
    """A static net with live weights and names of the classes, in eval mode."""
    net = fill_live(AlphaNet(ALPHANET_TINY.smallest, ALPHANET_TINY, 10), seed)
    net.pretrained_cfg |= {"label_names": LABELS, "license": "test-licence"}
    net.calibration = "training"
    return net.eval()


def write_pictures(folder: Path) -> list[Path]:
    """Smooth random pictures: JPEG in both orientations, lying on its side, grey, CMYK, 16 bits, palette, and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)

    def smooth(width: int, height: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((width, height))

    exif = Image.Exif()
    exif[0x0112] = 6
    smooth(90, 60).save(folder / "0-wide.jpg")
    smooth(41, 97).save(folder / "1-tall.jpg")
    smooth(80, 50).save(folder / "2-on-its-side.jpg", exif=exif)
    smooth(30, 30).convert("L").save(folder / "3-grey.jpg")
    smooth(50, 40).convert("CMYK").save(folder / "4-cmyk.jpg")
    smooth(64, 48).convert("P").save(folder / "5-palette.png", transparency=bytes(10))
    smooth(33, 47).convert("RGBA").save(folder / "6-alpha.webp")
    ramp = np.linspace(0, 65535, 60 * 44).reshape(60, 44).astype(np.uint16)
    Image.fromarray(ramp).save(folder / "7-sixteen-bits.png")
    smooth(9, 7).save(folder / "8-tiny.bmp")
    smooth(120, 20).save(folder / "9-panorama.png")
    return sorted(folder.iterdir())
