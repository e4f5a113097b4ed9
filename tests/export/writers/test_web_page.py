"""The page in a real browser: Chromium, driven by Playwright, with the onnxruntime-web that npm fetches."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alphanet_export.build import open_source
from alphanet_export.freeze import freeze
from alphanet_export.metadata import describe
from alphanet_export.quantize.writing import write_int8
from alphanet_export.writers.ort_web import ort_web_package
from alphanet_export.writers.to_onnx import onnx_bytes
from alphanet_export.writers.to_web import write_web
from alphanet_zoo.data.calibration import calibration_batches
from alphanet_zoo.data.digits import write_digits
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.images import read_image
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.evaluate.evaluator import input_of
from alphanet_zoo.nn.calibration import calibrate
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.predict.classifier import Classifier
from alphanet_zoo.space.presets import ALPHANET_TINY
from tests.export.exported import tiny_onnx

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install '.[browser]'")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed to fetch onnxruntime-web"),
]

FLAGS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream",
         "--use-fake-ui-for-media-stream", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]  # fmt: skip
"""A browser without DNS, with a synthetic camera, and with WebGPU in software if the build supports it."""


@dataclass(frozen=True)
class Exported:
    """A page, and what it must compute."""

    folder: Path
    net: AlphaNet
    preprocessing: Preprocessing

    def logits(self, image: Path) -> np.ndarray:
        """PyTorch's logits of an image."""
        with torch.inference_mode():
            return self.net(self.preprocessing(read_image(image))[None])[0].numpy()


@pytest.fixture(scope="module")
def package() -> Iterator[Path]:
    """onnxruntime-web, fetched once."""
    with ort_web_package() as folder:
        yield folder


@pytest.fixture(scope="module")
def exported(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A0 with random weights at the published input size, and test images of several kinds beside the page."""
    root = tmp_path_factory.mktemp("a0")
    source = open_source("random", "alphanet_a0")
    frozen = freeze(source.net, img_size=224)
    (root / "a0.onnx").write_bytes(onnx_bytes(frozen, describe(frozen, source)))
    write_web(root / "a0.onnx", root / "page", package)
    import sklearn.datasets

    images = Path(sklearn.datasets.__file__).parent / "images"
    for name in ("china.jpg", "flower.jpg"):
        shutil.copy(images / name, root / "page" / name)
    photo = Image.open(images / "china.jpg")
    photo.crop((3, 0, 324, 427)).save(root / "page" / "tall.png")
    photo.resize((101, 63)).save(root / "page" / "small.png")
    photo.convert("L").resize((1201, 256)).save(root / "page" / "grey.png")
    return Exported(root / "page", frozen.net, frozen.preprocessing)


@pytest.fixture(scope="module")
def int8(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of an int8 file, with digits beside it."""
    root = tmp_path_factory.mktemp("int8")
    digits = FolderSource(write_digits(root / "digits") / "val")
    net = fill_live(AlphaNet(ALPHANET_TINY.largest, ALPHANET_TINY, 10), 0)
    net.pretrained_cfg["label_names"] = tuple(digits.classes)
    calibrate(net, calibration_batches(digits, input_of(net, net.arch.resolution)))
    write_int8(freeze(net), digits, onnx=root / "net.int8.onnx", max_drop=100.0)
    write_web(root / "net.int8.onnx", root / "page", package)
    for index in range(0, 300, 50):
        shutil.copy(digits.path(index), root / "page" / f"{index}.png")
    return root / "page"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, folder: Path, words: list[str] | None = None) -> Iterator[Any]:
    """The page, ready, from its own server or another; it must log no error and ask no other host."""
    words = words or [sys.executable, "-u", "serve.py", "--port", "0"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=folder)
    assert server.stdout is not None
    problems: list[str] = []
    try:
        line = server.stdout.readline()
        url = next(word for word in line.replace("(", " ").replace(")", " ").split() if word.startswith("http://"))
        url = url.replace("0.0.0.0", "127.0.0.1")
        page = browser.new_page()
        page.on("request", lambda r: None if r.url.startswith((url, "blob:", "data:")) else problems.append(r.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto(url)
        page.wait_for_selector("#file:not([disabled])", timeout=120_000)
        yield page
        page.close()
    finally:
        server.terminate()
        server.communicate(timeout=20)
    assert not problems


def classify(page: Any, picture: Path) -> list[int]:
    """Chooses a picture as a user does; the classes shown."""
    page.set_input_files("#file", picture)
    page.get_by_text(f"Classified {picture.name}.", exact=True).wait_for(timeout=120_000)
    return [int(item.get_attribute("data-index")) for item in page.query_selector_all("#top li")]


LOGITS = """async (name) => {
  const { classifyImage } = await import('/app.js');
  return Array.from(await classifyImage(await (await fetch(name)).blob()));
}"""

PIXELS = """async (name) => {
  const { normalise, readPixels, resizeAndCrop } = await import('/app.js');
  const spec = (await (await fetch('model.json')).json()).preprocessing;
  const image = await readPixels(await (await fetch(name)).blob());
  return Array.from(normalise(resizeAndCrop(image, spec), spec));
}"""


def test_prediction_is_that_of_pytorch_with_one_thread_and_with_two(browser: Any, exported: Exported) -> None:
    with opened(browser, exported.folder) as page:
        assert page.evaluate("crossOriginIsolated") and page.evaluate("navigator.hardwareConcurrency") >= 2
        for device in ("wasm-1", "wasm-2"):
            page.select_option("#device", device)
            page.wait_for_selector(f"body[data-device={device}]", timeout=120_000)
            for name in ("china.jpg", "flower.jpg"):
                expected = exported.logits(exported.folder / name)
                best = np.argsort(-expected)[:5].tolist()
                assert classify(page, exported.folder / name) == best
                logits = np.array(page.evaluate(LOGITS, name), np.float32)
                assert np.abs(logits - expected).max() <= 2e-5 * np.abs(expected).max()
        shares = page.locator("#top .share").all_inner_texts()
        chances = np.exp(expected) / np.exp(expected).sum()
        assert shares == [f"{100 * chances[index]:.1f} %" for index in best]
        assert "203.39 M multiply-accumulates" in page.inner_text("#facts")
        assert "random weights" in page.inner_text("#caution")


def test_pixels_are_those_of_pillow_and_torchvision_to_the_bit(browser: Any, exported: Exported) -> None:
    with opened(browser, exported.folder) as page:
        for name in ("china.jpg", "flower.jpg", "tall.png", "small.png", "grey.png"):
            pixels = np.array(page.evaluate(PIXELS, name), np.float32).reshape(3, 224, 224)
            assert np.array_equal(pixels, exported.preprocessing(read_image(exported.folder / name)).numpy()), name


def test_an_int8_file_computes_what_it_computes_in_onnx_runtime(browser: Any, int8: Path) -> None:
    classifier = Classifier.load(int8 / "model.onnx", threads=1)
    pictures = sorted(int8.glob("*.png"))
    expected = np.stack([result.logits for result in classifier.predict(pictures)])
    assert len(pictures) == 6
    with opened(browser, int8) as page:
        assert "int8" in page.inner_text("#facts")
        logits = np.array([page.evaluate(LOGITS, picture.name) for picture in pictures], np.float32)
        for picture, row in zip(pictures, logits, strict=True):
            assert classify(page, picture) == np.argsort(-row, kind="stable")[:5].tolist()
    assert np.abs(logits - expected).max() <= 2e-5 * np.abs(expected).max()


@pytest.fixture(scope="module")
def tiny(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a tiny model."""
    root = tmp_path_factory.mktemp("tiny")
    (root / "tiny.onnx").write_bytes(tiny_onnx())
    write_web(root / "tiny.onnx", root / "page", package)
    Image.new("RGB", (30, 20), (200, 30, 90)).save(root / "page" / "red.png")
    return root / "page"


def test_measures_what_there_is(browser: Any, tiny: Path) -> None:
    with opened(browser, tiny) as page:
        page.click("#measure")
        page.get_by_text("Measured.", exact=True).wait_for(timeout=200_000)
        for key in ("wasm-1", "wasm-2"):
            cells = page.locator(f"#speed tr[data-key={key}] td")
            assert float(cells.nth(0).get_attribute("data-ms")) > 0
            assert float(cells.nth(3).get_attribute("data-difference")) < 1e-5
        gpu = page.locator("#speed tr[data-key=webgpu] td")
        if gpu.count() == 1:
            assert "no GPU" in gpu.inner_text() or "no WebGPU" in gpu.inner_text()
        else:
            assert float(gpu.nth(3).get_attribute("data-difference")) < 1e-4


def test_without_isolation_the_page_says_one_thread(browser: Any, tiny: Path) -> None:
    plain = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with opened(browser, tiny, plain) as page:
        assert not page.evaluate("crossOriginIsolated")
        assert "One thread only" in page.inner_text("#threads")
        assert page.locator("#device option[value=wasm-2]").get_attribute("disabled") is not None
        assert "not isolated" in page.inner_text("#speed tr[data-key=wasm-2]")
        assert len(classify(page, tiny / "red.png")) == 5


def test_a_picture_is_dropped(browser: Any, tiny: Path) -> None:
    with opened(browser, tiny) as page:
        page.evaluate("""async () => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([await (await fetch('red.png')).blob()], 'red.png', { type: 'image/png' }));
          document.getElementById('drop').dispatchEvent(new DragEvent('drop', { dataTransfer: transfer }));
        }""")
        page.get_by_text("Classified red.png.", exact=True).wait_for()
        assert page.locator("#top li").count() == 5
        assert page.locator("#image").get_attribute("alt") == "red.png"


def test_the_camera_is_classified_until_it_is_stopped(browser: Any, tiny: Path) -> None:
    with opened(browser, tiny) as page:
        page.click("#camera")
        page.wait_for_selector("#top li")
        assert page.inner_text("#camera") == "Stop camera" and page.is_visible("#video")
        page.click("#camera")
        assert page.inner_text("#camera") == "Camera" and not page.is_visible("#video")
        assert len(classify(page, tiny / "red.png")) == 5


def test_what_is_no_picture_is_refused(browser: Any, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "words.jpg").write_text("words")
    with opened(browser, tiny) as page:
        page.set_input_files("#file", tmp_path / "words.jpg")
        page.get_by_text("Cannot classify words.jpg").wait_for()
        assert page.locator("#top li").count() == 0 and page.is_visible("#invitation")
        assert len(classify(page, tiny / "red.png")) == 5
