"""Parity of a running inference server with an exported file."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from alphanet_export.metadata import ExportedModel, open_onnx
from alphanet_export.onnx_model import INPUT_NAME, OUTPUT_NAME, FloatArray, open_session, run_logits
from alphanet_export.verify.measure.kserve import KServeClient, ServerFacts
from alphanet_export.verify.measure.parity import (
    SYNTHETIC_IMAGES,
    TOLERANCE,
    LevelParity,
    level_parity,
    synthetic_images,
)
from alphanet_zoo.data.batches import evaluation_batches
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.sources import spread
from alphanet_zoo.errors import AlphaNetError, ParityError
from alphanet_zoo.files import replacing


@dataclass(frozen=True)
class Encoding:
    """Parity with one encoding of the tensors.

    Args:
        parity: The figures; ``level`` is the encoding, ``json`` or ``binary``.
        median_ms: Median round-trip time of a request with one image, in milliseconds.
    """

    parity: LevelParity
    median_ms: float


@dataclass(frozen=True)
class ServerReport:
    """Difference between a server and a file.

    Args:
        url: Address of the server.
        server: Metadata of the server.
        model: Metadata of the model on the server: ``name``, ``platform``, ``versions``, ``inputs``, ``outputs``.
        file: Name of the file that it is compared with.
        file_sha256: SHA-256 of that file.
        images: Number of images sent, one per request.
        synthetic: Whether they are synthetic, see `alphanet_export.verify.measure.parity.synthetic_images`.
        tolerance: Largest relative error allowed.
        encodings: JSON, and binary if the server supports it.
    """

    url: str
    server: ServerFacts
    model: dict[str, Any]
    file: str
    file_sha256: str
    images: int
    synthetic: bool
    tolerance: float
    encodings: tuple[Encoding, ...]

    @property
    def holds(self) -> bool:
        """Whether the error is within the tolerance and all predicted classes agree, in every encoding."""
        errors = (encoding.parity for encoding in self.encodings)
        return all(p.max_relative_error <= self.tolerance and p.top1_agreement == 1.0 for p in errors)

    def check(self) -> ServerReport:
        """Returns itself.

        Raises:
            ParityError: It does not hold.
        """
        if not self.holds:
            worst = max((e.parity for e in self.encodings), key=lambda parity: parity.max_relative_error)
            raise ParityError(
                f"{self.url} does not compute what {self.file} computes: relative error "
                f"{worst.max_relative_error:.2e} (tolerance {self.tolerance:.0e}) in {worst.level}, top-1 agreement "
                f"{100 * worst.top1_agreement:.1f} % of {self.images} images; load this file into the "
                "server, with float32 arithmetic"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"holds": self.holds}

    def to_text(self) -> str:
        """A table for the terminal."""
        served, kind = self.model, "synthetic images" if self.synthetic else "images of the data"
        rows = {
            "server": f"{self.url}: {self.server.name} {self.server.version}",
            "model": f"{served.get('name')} ({served.get('platform') or 'platform not reported'}), "
            f"versions {', '.join(map(str, served.get('versions') or ['not reported']))}",
            "file": f"{self.file}, SHA-256 {self.file_sha256}",
        }
        for encoding in self.encodings:
            parity = encoding.parity
            rows[parity.level] = (
                f"largest relative error {parity.max_relative_error:.1e}, top-1 agreement "
                f"{100 * parity.top1_agreement:.1f} % of {self.images} {kind}, "
                f"{encoding.median_ms:.1f} ms per request"
            )
        rows.setdefault("binary", "not measured: the server does not report the extension binary_tensor_data")
        rows["verdict"] = "holds" if self.holds else f"broken (tolerance {self.tolerance:.0e})"
        return "".join(f"{key + ':':<9}{value}\n" for key, value in rows.items())

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the report as JSON.

        Raises:
            OSError: The disk is full or not writable; nothing is written.
        """
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", "utf-8")


def verify_server(
    model_path: str | os.PathLike[str],
    url: str,
    name: str | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    tolerance: float = TOLERANCE,
) -> ServerReport:
    """Compares the logits of a server with those of a file in ONNX Runtime on this machine, on the same pixels.

    Args:
        model_path: A file that ``alphanet export`` wrote.
        url: Address of the server, ``http://host:port``.
        name: Name of the model on the server. None: the name in the file.
        data: A folder with one folder of images per class. None: 8 synthetic images.
        limit: Number of images of the data to use, spread evenly over it; None is all.
        tolerance: Largest relative error for `ServerReport.check`.

    Raises:
        UsageError: A file or folder does not exist, or ``url`` is not an address.
        ParityError: The model on the server has other inputs or outputs.
        AlphaNetError: The file is corrupt; the server cannot be reached, is not ready, or does not have the model.
    """
    model = open_onnx(model_path)
    folder = None if data is None else FolderSource(data)
    client = KServeClient(url)
    client.check_ready()
    server = client.server_facts()
    name = name or str(model.metadata.get("name") or model.path.stem)
    served = client.model_facts(name)
    check_served(served, model)
    batches: Iterable[Tensor] = (
        [synthetic_images(SYNTHETIC_IMAGES, model.input_size)]
        if folder is None
        else (images for images, _ in evaluation_batches(spread(folder, limit), model.preprocessing, 16))
    )
    pixels = [image for batch in batches for image in batch.numpy()[:, None]]
    session = open_session(model.path)
    expected = np.concatenate([run_logits(session, image) for image in pixels])
    encodings = tuple(
        _encoding(client, name, pixels, expected, binary, tolerance)
        for binary in ((False, True) if server.takes_binary else (False,))
    )
    return ServerReport(
        client.url,
        server,
        served,
        model.path.name,
        model.file_sha256,
        len(pixels),
        folder is None,
        tolerance,
        encodings,
    )


def check_served(served: dict[str, Any], model: ExportedModel) -> None:
    """Checks that a model on a server has the inputs and outputs of the file, as far as the server reports them.

    Raises:
        ParityError: An input or output differs.
        AlphaNetError: The metadata of the server violates the protocol.
    """
    size = model.input_size
    expected = {"inputs": (INPUT_NAME, [3, size, size]), "outputs": (OUTPUT_NAME, [model.num_classes])}
    for side, (name, shape) in expected.items():
        try:
            reported = {t["name"]: (t["datatype"], [int(n) for n in t["shape"]][1:]) for t in served.get(side) or []}
        except (KeyError, TypeError, ValueError) as error:
            raise AlphaNetError(
                f"the metadata of the server is not valid: its {side} are {served[side]!r}; check --server"
            ) from error
        datatype, sizes = reported.get(name, ("nothing", []))
        fits = datatype == "FP32" and len(sizes) == len(shape) and all(
            a in (-1, b) for a, b in zip(sizes, shape, strict=True)
        )  # fmt: skip
        if reported and not fits:
            raise ParityError(
                f"the model {served.get('name')} on the server has the {side} {served[side]}, but {model.path.name} "
                f"has {name!r}, FP32, {shape} per image; load this file into the server, or pass --server-model"
            )


def _encoding(
    client: KServeClient, name: str, pixels: list[FloatArray], expected: FloatArray, binary: bool, tolerance: float
) -> Encoding:
    """Sends every image in one encoding, and compares the logits."""
    logits, times = [], []
    for image in pixels:
        started = time.perf_counter()
        logits.append(client.logits(name, image, binary=binary))
        times.append(1e3 * (time.perf_counter() - started))
    parity = level_parity("binary" if binary else "json", np.concatenate(logits), expected, tolerance)
    return Encoding(parity, statistics.median(times))
