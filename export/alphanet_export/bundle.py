"""The files that explain an export to its user: README.md, labels.txt, preprocessing.json and predict.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alphanet_export.formats import FORMATS
from alphanet_export.placing import Move
from alphanet_zoo.errors import UsageError

MARKER = "<!-- Written by alphanet export. Another export to this folder replaces this file. -->"
"""A line of the README, which tells it from one that somebody else wrote."""
README, LABELS, PREPROCESSING, SCRIPT = "README.md", "labels.txt", "preprocessing.json", "predict.py"


@dataclass(frozen=True)
class _Script:
    """What is special in the ``predict.py`` of one format.

    Args:
        packages: Distributions that it requires.
        imports: Modules that are imported beside NumPy and Pillow.
        load: Statement that loads the file; ``PATH`` stands for its path.
        run: Expression for the output ``(1, classes)`` for the image at ``path``; ``INPUT`` and ``OUTPUT`` stand for
            the names of the input and of the output.
    """

    packages: str
    imports: tuple[str, ...]
    load: str
    run: str


_TORCH_RUN = "MODEL(torch.from_numpy(preprocess(path))).detach().numpy()"
_ONNX_RUNTIME = _Script(
    "onnxruntime", ("import onnxruntime",), "MODEL = onnxruntime.InferenceSession(PATH)",
    "MODEL.run([OUTPUT], {INPUT: preprocess(path)})[0]",
)  # fmt: skip
_SCRIPTS = {
    "onnx": _ONNX_RUNTIME,
    "ort": _ONNX_RUNTIME,
    "openvino": _Script(
        "openvino", ("import openvino",),
        'MODEL = openvino.Core().compile_model(PATH, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})',
        "MODEL(preprocess(path))[OUTPUT]",
    ),
    "executorch": _Script(
        "executorch torch", ("import torch", "from executorch.runtime import Runtime"),
        'MODEL = (PROGRAM := Runtime.get().load_program(PATH)).load_method("forward")',
        "MODEL.execute([torch.from_numpy(preprocess(path))])[0].numpy()",
    ),
    "coreml": _Script(
        "coremltools", ("import coremltools",), "MODEL = coremltools.models.MLModel(PATH)",
        "MODEL.predict({INPUT: preprocess(path)})[OUTPUT]",
    ),
    "pt2": _Script("torch", ("import torch",), "MODEL = torch.export.load(PATH).module()", _TORCH_RUN),
    "aoti": _Script("torch", ("import torch",), "MODEL = torch._inductor.aoti_load_package(PATH)", _TORCH_RUN),
}  # fmt: skip


def script_names(formats: Sequence[str]) -> dict[str, str]:
    """The name of each format's script: ``predict.py`` for the first, ``predict_<format>.py`` for the others.

    Weights (``safetensors``) require this package, so they have no script.
    """
    scripted = [name for name in formats if name in _SCRIPTS]
    return {name: SCRIPT if i == 0 else f"predict_{name}.py" for i, name in enumerate(scripted)}


def check_bundle_folder(folder: Path, formats: Sequence[str]) -> None:
    """Checks that a folder has no file of somebody else's that a bundle would replace.

    Raises:
        UsageError: It has one.
    """
    try:
        own = MARKER in (folder / README).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        own = False
    scripts = script_names(formats)
    names = (README, LABELS, PREPROCESSING, *scripts.values()) if scripts else ()
    foreign = [name for name in names if (folder / name).exists()]
    if foreign and not own:
        raise UsageError(
            f"-o {folder} contains {foreign[0]}, which alphanet export did not write and would replace; pass another "
            "folder, or --no-bundle"
        )


def bundle_folder(targets: Mapping[str, Path]) -> Path:
    """The folder of an export's files.

    Raises:
        UsageError: They are in several folders.
    """
    folders = sorted({path.parent for path in targets.values()})
    if len(folders) > 1:
        raise UsageError(f"the files of a bundle must be in one folder, not in {', '.join(map(str, folders))}")
    return folders[0]


def bundle_moves(
    staged: Path,
    targets: Mapping[str, Path],
    metadata: Mapping[str, Any],
    *,
    dynamic_batch: bool = False,
    license: str | None = None,
    accuracies: Sequence[str] = (),
) -> list[Move]:
    """Writes the bundle of an export to a temporary folder; returns where each file belongs.

    Args:
        staged: The temporary folder.
        targets: Path of each exported file by its format, all in one folder (see `bundle_folder`).
        metadata: The decoded metadata of the files, see `alphanet_export.metadata.facts`.
        dynamic_batch: Whether the files take any number of images.
        license: License of the weights.
        accuracies: Lines about the measured accuracy.

    Returns:
        The files to move; none if every format is weights.
    """
    folder, scripts = bundle_folder(targets), script_names(tuple(targets))
    targets = {name: path for name, path in targets.items() if name in scripts}
    if not targets:
        return []
    from alphanet_export.metadata import top1_text  # These import torch or numpy, which parsing a command must not.
    from alphanet_zoo.zoo.archs import read_space

    labels = metadata["labels"] or [str(index) for index in range(metadata["num_classes"])]
    contents = {
        LABELS: "".join(f"{' '.join(str(label).splitlines())}\n" for label in labels),
        PREPROCESSING: json.dumps(metadata["preprocessing"], indent=1) + "\n",
    }
    for name, path in targets.items():
        contents[scripts[name]] = script_text(name, path.name, metadata, scripts[name])
    formats = [_described(name, path, scripts[name]) for name, path in targets.items()]
    accuracy = top1_text(read_space(metadata["space"]), metadata["published_top1"])
    contents[README] = _render(
        "README.md.jinja", marker=MARKER, formats=formats, spec=metadata["preprocessing"], dynamic_batch=dynamic_batch,
        accuracy=accuracy, int8="quantization" in metadata, license=license, accuracies=accuracies,
        **_interface(metadata), **{key: metadata[key] for key in _README_KEYS},
    )  # fmt: skip
    for file, text in contents.items():
        (staged / file).write_text(text, "utf-8", newline="\n")
    return [(staged / file, folder / file) for file in contents]


_README_KEYS = ("name", "num_classes", "macs", "params", "weights", "weights_sha256", "labels", "tools")


def script_text(name: str, file: str, metadata: Mapping[str, Any], script: str = SCRIPT) -> str:
    """A Python program of at most 40 lines that classifies images with an exported file.

    It requires the runtime, NumPy and Pillow, and ``labels.txt`` and ``preprocessing.json`` beside it.

    Args:
        name: The format, a key of `FORMATS`.
        file: Name of the exported file beside the program.
        metadata: See `bundle_moves`.
        script: Name of the program.
    """
    parts = _SCRIPTS[name]
    lines = sorted(("import numpy as np", *(each for each in parts.imports if each.startswith("import"))))
    lines += sorted(("from PIL import Image, ImageOps", *(each for each in parts.imports if each[0] == "f")))
    kind, interface = metadata["preprocessing"]["interpolation"].removesuffix("-exact").upper(), _interface(metadata)
    run = parts.run.replace("INPUT", f'"{interface["input"]}"').replace("OUTPUT", f'"{interface["output"]}"')
    return _render(
        "predict.py.jinja", packages=f"{parts.packages} numpy pillow", script=script, imports="\n".join(lines),
        load=parts.load.replace("PATH", f"str(HERE / {json.dumps(file)})"), run=run, resampling=kind, **interface,
    )  # fmt: skip


def _interface(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Names and kinds of the input and the output; a graph that includes its preprocessing has an entry ``input``."""
    taken = metadata.get("input", {})
    return {
        "input": taken.get("name", "pixel_values"),
        "output": metadata.get("output", "logits"),
        "embedded": taken.get("preprocessing") == "embedded",
        "multi_label": metadata.get("multi_label", False),
    }


def _described(name: str, path: Path, script: str) -> dict[str, Any]:
    """One format, for the README."""
    form = FORMATS[name]
    return {
        "title": form.title,
        "files": [file.name for file in form.files(path)],
        "packages": f"{_SCRIPTS[name].packages} numpy pillow",
        "script": script,
        "report": form.report_path(path).name,
        "compiled": form.compiles,
        "apple": not form.runs_here,
    }


def _render(template: str, **values: Any) -> str:
    """A template with its values."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("alphanet_export"), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    return environment.get_template(template).render(values)
