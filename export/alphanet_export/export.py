"""``az.export`` and ``net.export``: from a network to files for deployment, as ``alphanet export`` writes them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from alphanet_export.build import Source, open_source
from alphanet_export.bundle import check_bundle_folder
from alphanet_export.embedding import Embedding
from alphanet_export.formats import FORMATS, check_formats, format_by_ending, parse_formats
from alphanet_export.freeze import FrozenNet, freeze
from alphanet_export.metadata import facts, top1_text
from alphanet_export.placing import is_folder, output_files
from alphanet_export.quantize.log import QuantizationLog
from alphanet_export.quantize.writing import write_int8
from alphanet_export.verify.measure.accuracy import Accuracy
from alphanet_export.verify.measure.parity import Parity
from alphanet_export.write import write_export
from alphanet_zoo.data.calibration import PUBLISHED_IMAGES
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.data.sources import ImageSource
from alphanet_zoo.errors import UsageError
from alphanet_zoo.evaluate.evaluator import Evaluator
from alphanet_zoo.nn.config import Calibration
from alphanet_zoo.nn.family import Network
from alphanet_zoo.space.cost import macs_text
from alphanet_zoo.space.family import Arch, Space
from alphanet_zoo.units import file_size

Images = ImageSource | str | os.PathLike[str]
"""Images by class: a folder with one folder per class, or another source."""


@dataclass(frozen=True)
class ExportedFile:
    """One exported file.

    Args:
        format: Key of `alphanet_export.formats.FORMATS`.
        path: The file.
        size: Its size in bytes, with the files that the runtime opens with it.
        parity: How far its outputs are from the network's; None if it was not measured.
        accuracy: Its accuracy, if there were labelled images.
        quantization: How it was quantized and what that costs; None for float32.
        structure_only: Whether only its structure was checked, because it does not run on this system.
    """

    format: str
    path: Path
    size: int
    parity: Parity | None = None
    accuracy: Accuracy | None = None
    quantization: QuantizationLog | None = None
    structure_only: bool = False

    @property
    def parity_error(self) -> float | None:
        """Largest relative error of its logits; None if it was not measured."""
        return None if self.parity is None else self.parity.max_relative_error

    @property
    def top1(self) -> float | None:
        """Top-1 in percent, of int8 on the images held out from its calibration; None if it was not measured."""
        if self.quantization is not None:
            return self.quantization.verdict.top1
        return None if self.accuracy is None else self.accuracy.top1


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote. ``print(result)`` is the summary that ``alphanet export`` prints.

    Args:
        name: Name of the model, as in the metadata of every file.
        arch: Its arch.
        space: The search space of ``arch``.
        macs: Multiply-accumulates per image.
        params: Number of parameters.
        num_classes: Number of classes.
        weights: Origin of the weights: a file name, a Hub repository, a model's name, 'random' or 'memory'.
        calibration: Origin of the batch-norm statistics.
        preprocessing: How an image becomes the input.
        dynamic_batch: Whether the input has any number of images; otherwise one.
        embedding: The preprocessing inside the files, and their output; None if their input is preprocessed.
        published_top1: Known top-1 in percent; None if it is not known for these weights and this input.
        files: The exported files, one per format.
        sizes: Size in bytes of every file written, including sidecars and reports.
        float_parity: For int8: parity of the float32 graph that was quantized; None if it was not measured.
        notes: Remarks for the user, such as that the weights are random.
    """

    name: str
    arch: Arch
    space: Space[Any]
    macs: int
    params: int
    num_classes: int
    weights: str
    calibration: Calibration
    preprocessing: Preprocessing
    dynamic_batch: bool
    embedding: Embedding | None
    published_top1: float | None
    files: tuple[ExportedFile, ...]
    sizes: Mapping[Path, int] = field(repr=False)
    float_parity: Parity | None = None
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The first file."""
        return self.files[0].path

    def file(self, format: str) -> ExportedFile:
        """The file of a format.

        Raises:
            KeyError: The format was not exported.
        """
        return {each.format: each for each in self.files}[format]

    def __str__(self) -> str:
        """The summary."""
        return self.summary(self.sizes)

    def summary(self, sizes: Mapping[Path, int]) -> str:
        """The summary as text, with the files and folders of ``sizes``."""
        resolution, size = self.arch.resolution, self.preprocessing.input_size
        inside = f", resized to {resolution} in the graph" if size != resolution else ""
        if size >= 2 * resolution:
            inside += " without antialiasing, which can lower the accuracy (measure it with --data)"
        rows = {
            "model": f"{self.name}: {macs_text(self.macs, flops=True)}, {self.params / 1e6:.2f} M parameters, "
                     f"{self.num_classes} classes",
            "weights": self.weights,
            "input": f"pixel_values ({'N' if self.dynamic_batch else 1}, 3, {size}, {size}){inside}; short side "
                     f"{self.preprocessing.resize_size}, centre crop {size}",
        }  # fmt: skip
        if self.embedding is not None:
            short = self.preprocessing.resize_size
            rows["input"] = (
                f"image (1, H, W, 3), uint8 RGB; in the graph: short side {short}, centre crop {size}{inside}"
            )
            rows["output"] = "probabilities" if self.embedding.probabilities else "logits"
        if (known := top1_text(self.space, self.published_top1)) is not None:
            rows["accuracy"] = known
        rows |= _int8_rows(self) if self.files[0].quantization else {"parity": _parity(self.files)} | _top1(self.files)
        lines = [f"{key + ':':<11}{value}" for key, value in rows.items()]
        return "\n".join(lines + [f"wrote:     {path} ({file_size(size)})" for path, size in sizes.items()])


def export(
    network: Network | str | os.PathLike[str] | None,
    output: str | os.PathLike[str] | None = None,
    *,
    arch: Arch | str | os.PathLike[str] | None = None,
    name: str | None = None,
    format: str | Sequence[str] | None = None,
    num_classes: int | None = None,
    **options: Any,
) -> ExportResult:
    """Writes a network to files for deployment, after comparing each file with PyTorch.

    Args:
        network: A network; or a model's name, a ``.safetensors`` file, a folder of ``save_pretrained``, a training run
            or a Hub repository. It may be a supernet that contains ``arch``.
        output: A file, or a folder that exists or ends in ``/``. None: the current folder.
        arch: The arch to export: a value, a model's name, or a file, see `alphanet_zoo.zoo.archs.find_arch`. None: that
            of a static network.
        name: Name of the model in the metadata, and of the files in a folder. None: that of the model or file.
        format: Keys of `alphanet_export.formats.FORMATS`, also as a comma-separated list. None: by the ending of
            ``output``, else ONNX.
        num_classes: Number of classes that the weights must have.
        **options: See `export_source`. ``bundle`` is True by default if ``output`` is a folder.

    Returns:
        The files with their parity, accuracy and size.

    Raises:
        UsageError: An argument is not valid, a file does not exist, or batch-norm statistics are not set.
        AlphaNetError: Weights are not published or cannot be read.
        ParityError: A file does not compute what the network computes; nothing is written.
        AccuracyError: int8 loses too much accuracy; nothing is written.
        MissingDependencyError: A package that a format requires is missing.
    """
    formats = _formats(output, format)
    check_formats(formats, dynamic_batch=bool(options.get("dynamic_batch")))
    source = open_source(network, arch, num_classes=num_classes, name=name)
    files = output_files(output, source.name, formats, int8=options.get("quantize") is not None, flag="output")
    options.setdefault("bundle", output is not None and is_folder(output, formats))
    if options["bundle"]:
        check_bundle_folder(next(iter(files.values())).parent, tuple(files))
    return export_source(source, files, **options)


def export_source(
    source: Source,
    files: Mapping[str, Path],
    *,
    calibration: Images | Iterable[Tensor] | None = None,
    calibration_images: int | None = None,
    calibration_augment: bool | None = None,
    data: Images | None = None,
    labels_by_position: bool = False,
    img_size: int | None = None,
    dynamic_batch: bool = False,
    opset: int = 18,
    embed_preprocessing: bool = False,
    probabilities: bool = False,
    verify: bool = True,
    seed: int = 0,
    quantize: Literal["int8"] | None = None,
    max_drop: float = 0.5,
    reduce_range: bool | None = None,
    bundle: bool = False,
) -> ExportResult:
    """Calibrates, freezes and writes a network.

    Args:
        source: The network and its origin.
        files: Path of each file, by format.
        calibration: Training images to compute batch-norm statistics from: a folder, a source, or batches ``(N, 3, H,
            W)`` of normalised images. None keeps the network's statistics, which must be set.
        calibration_images: Maximum number of these images. None: 16,384, as published.
        calibration_augment: Augment them as in the published training. None: only in the ImageNet space.
        data: Labelled images to measure the accuracy of each file on. If the network is from a run that trained on
            this folder, only the images that the run held out are used.
        labels_by_position: Class i of ``data`` and ``calibration`` is output i of the network, whatever their names.
        img_size: Side of the input in pixels. None: the arch's resolution.
        dynamic_batch: Accept any number of images; otherwise one.
        opset: Version of ONNX's standard operators, 18 to 24.
        embed_preprocessing: Include the preprocessing in the files, which then take uint8 RGB images ``(1, H, W, 3)``
            of any size.
        probabilities: The output is the softmax of the logits; requires ``embed_preprocessing``.
        verify: Compare each file with PyTorch before it is written.
        seed: Seed of the calibration images and of the synthetic images that parity is measured on.
        quantize: 'int8' writes int8, judged on ``calibration``, which must be a folder or a source. Batch-norm
            statistics that the network has from training or from an earlier calibration are kept.
        max_drop: Points of top-1 that int8 may lose.
        reduce_range: 7-bit weights, for CPUs without VNNI. None: as this CPU needs.
        bundle: Also write README.md, labels.txt, preprocessing.json and predict.py; see `alphanet_export.bundle`.

    Raises:
        UsageError: See `export`.
        AlphaNetError: See `export`.
    """
    if quantize not in (None, "int8"):
        raise UsageError(f"quantize is {quantize!r}; pass 'int8' or None")
    if quantize is not None and (data is not None or calibration is None):
        raise UsageError("quantize='int8' requires calibration=FOLDER, and cannot be used with data=")
    resolution = (source.arch or source.net.arch).resolution
    resizes = img_size not in (None, resolution)
    check_formats(files, dynamic_batch=dynamic_batch, resizes=resizes, embeds=embed_preprocessing)
    images = None if calibration is None else _source_of(calibration)
    kept = quantize is not None and (calibration_images, calibration_augment) == (None, None) and _calibrated(source)
    if images is None or kept or not _is_source(images):
        batches = None if kept else images
        frozen = freeze(source.net, batches, arch=source.arch, img_size=img_size, dynamic_batch=dynamic_batch)
    else:
        evaluator = Evaluator(None, images, images=calibration_images or PUBLISHED_IMAGES, seed=seed,
                              augment=calibration_augment)  # fmt: skip
        net = evaluator.calibrated(source.net, source.arch, input_size=img_size)
        frozen = freeze(net, img_size=img_size, dynamic_batch=dynamic_batch)
    embedding = Embedding(frozen.preprocessing, probabilities) if embed_preprocessing else None
    common: dict[str, Any] = {
        "opset": opset, "embed_preprocessing": embed_preprocessing, "probabilities": probabilities, "verify": verify,
        "seed": seed, "labels_by_position": labels_by_position, "bundle": bundle, **files,
    }  # fmt: skip
    if quantize is None:
        found = None if data is None else _images_of(source, data)
        written = write_export(frozen, source, **common, data=found)
        exported = tuple(
            ExportedFile(
                each,
                path,
                _size(each, path),
                written.parities.get(each),
                written.accuracies.get(each),
                structure_only=each in written.unrun,
            )
            for each, path in files.items()
        )
        return _result(frozen, source, exported, written.sizes, embedding)
    if images is None or not _is_source(images):
        raise UsageError("quantize='int8' requires labelled images; pass a folder or an ImageSource as calibration")
    int8 = write_int8(frozen, images, source, **common, max_drop=max_drop, reduce_range=reduce_range)
    exported = tuple(
        ExportedFile(each, path, _size(each, path), int8.parities.get(each), quantization=int8.logs[each])
        for each, path in files.items()
    )
    return _result(frozen, source, exported, int8.sizes, embedding, int8.parity)


def _formats(output: str | os.PathLike[str] | None, format: str | Sequence[str] | None) -> tuple[str, ...]:
    """The formats asked for, by name or by the ending of the output."""
    if format is None:
        return (format_by_ending(output) or "onnx",)
    return parse_formats(format if isinstance(format, str) else ",".join(format))


def _source_of(images: Any) -> Any:
    """A folder as a source; other sources and batches as they are."""
    return FolderSource(images) if isinstance(images, str | os.PathLike) else images


def _images_of(source: Source, data: Any) -> Any:
    """As `_source_of`, without the images of a folder that the network was trained on."""
    if source.run is None or not isinstance(data, str | os.PathLike):
        return _source_of(data)
    from alphanet_zoo.train.folder import evaluation_images  # Only here, because it imports the trainer.

    return evaluation_images(source.run, Path(data))


def _calibrated(source: Source) -> bool:
    """Whether the source is a static network with statistics of its own, from training or an earlier calibration."""
    net = source.net
    whole = not net.supernet and source.arch in (None, net.arch)
    return whole and (net.calibration == "training" or isinstance(net.calibration, Mapping))


def _is_source(images: Any) -> bool:
    """Whether ``images`` is an `ImageSource`, not batches."""
    return hasattr(images, "load") and hasattr(images, "classes")


def _size(format: str, path: Path) -> int:
    """Size in bytes of a file, or of all files in a folder, with the files that belong to it."""
    weights = FORMATS[format].weight_files(path)
    files = [each for file in weights for each in (file.rglob("*") if file.is_dir() else [file]) if each.is_file()]
    return sum(file.stat().st_size for file in files)


def _result(
    frozen: FrozenNet,
    source: Source,
    files: tuple[ExportedFile, ...],
    sizes: Mapping[Path, int],
    embedding: Embedding | None,
    float_parity: Parity | None = None,
) -> ExportResult:
    """The result of an export."""
    values = facts(frozen, source)
    notes = _remarks(frozen)
    for each in files:
        if each.quantization is not None:
            notes += [f"{each.format}: {text}" for text in each.quantization.notes()[1:]]
    return ExportResult(
        name=source.name,
        arch=frozen.net.arch,
        space=frozen.net.space,
        macs=values["macs"],
        params=values["params"],
        num_classes=values["num_classes"],
        weights=source.weights,
        calibration=frozen.net.calibration,
        preprocessing=frozen.preprocessing,
        dynamic_batch=frozen.dynamic_batch,
        embedding=embedding,
        published_top1=values["published_top1"],
        files=files,
        sizes=sizes,
        float_parity=float_parity,
        notes=tuple(notes),
    )


def _remarks(frozen: FrozenNet) -> list[str]:
    """Notes on the network's statistics."""
    if frozen.net.calibration == "random":
        return ["the weights are random, for measuring time; the results for images are meaningless"]
    if frozen.net.calibration in ("checkpoint", "sliced"):
        return ["the batch-norm statistics are those of the published checkpoint; the published accuracy was measured "
                "after calibration, which --calib-data FOLDER (calibration=) does"]  # fmt: skip
    return []


def _parity(files: Sequence[ExportedFile]) -> str:
    """Whether the files compute what the network computes, as text."""
    parts = []
    measured = [each for each in files if each.parity is not None]
    if measured:
        errors = [f"{each.parity_error:.1e} in {FORMATS[each.format].title}" for each in measured]
        assert measured[0].parity is not None
        parts = [f"largest relative error {', '.join(errors)}, on {measured[0].parity.images} synthetic images"]
    parts += [f"{FORMATS[each.format].title} was not run (it requires macOS); its graph was checked"
              for each in files if each.structure_only]  # fmt: skip
    return "; ".join(parts) or "not measured (--skip-verify)"


def _top1(files: Sequence[ExportedFile]) -> dict[str, str]:
    """The accuracy of the files, as a line of the summary; none if it was not measured."""
    found = []
    for each in files:
        if each.accuracy is None:
            continue
        accuracy, title = each.accuracy, FORMATS[each.format].title
        text = f"{accuracy.top1:.2f} % ({accuracy.correct} of {accuracy.images}) in {title}"
        found.append(f"{text}; SUSPICIOUS: {accuracy.suspicion}" if accuracy.suspicion else text)
    return {"top-1": ", ".join(found)} if found else {}


def _int8_rows(result: ExportResult) -> dict[str, str]:
    """The accuracy of int8, and the parity of the float32 graph, as lines of the summary."""
    rows = {"parity": "not measured (--skip-verify)"}
    if result.float_parity is not None:
        error = result.float_parity.max_relative_error
        rows["parity"] = f"largest relative error {error:.1e} before int8, in ONNX Runtime"
    return rows | {each.format: each.quantization.notes()[0] for each in result.files if each.quantization is not None}
