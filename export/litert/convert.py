"""Converts a ``.pt2`` file of ``alphanet export`` to LiteRT (``.tflite``), and compares the two.

It runs in an environment of its own, because litert-torch pins versions of other packages; this package is not needed:

    python -m venv litert
    litert/bin/pip install litert-torch ai-edge-litert
    litert/bin/python export/litert/convert.py alphanet_a4.pt2 alphanet_a4.tflite

The file takes normalised pixels ``(1, 3, S, S)``, as the ``.pt2`` file does. Its metadata is written to
``<output>.json``. Exit codes: 0 success, 3 if the outputs differ by more than the tolerance; then nothing is written.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import zipfile
from pathlib import Path

TOLERANCE = 2e-5
"""Largest difference of a logit, relative to the largest logit of its image."""
IMAGES = 4


def main() -> int:
    """Converts, compares and writes; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path, help="a .pt2 file, exported without --dynamic-batch")
    parser.add_argument("output", type=Path, help="the .tflite file to write")
    args = parser.parse_args()

    import litert_torch
    import numpy as np
    import torch
    from ai_edge_litert.interpreter import Interpreter

    loaded = torch.export.load(args.program)
    (name,) = loaded.graph_signature.user_inputs
    shape = tuple(next(node.meta["val"].shape for node in loaded.graph.nodes if node.name == name))
    program = loaded.module()
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder) / "model.tflite"
        litert_torch.convert(program, (torch.zeros(shape),)).export(str(staged))
        interpreter = Interpreter(str(staged))
        interpreter.allocate_tensors()
        (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
        worst = 0.0
        for seed in range(IMAGES):
            image = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            interpreter.set_tensor(given["index"], image.numpy())
            interpreter.invoke()
            with torch.inference_mode():
                expected = program(image).numpy()
            difference = np.abs(interpreter.get_tensor(result["index"]) - expected).max() / np.abs(expected).max()
            worst = max(worst, float(difference))
        print(f"largest relative error {worst:.1e} on {IMAGES} random images")
        if not worst <= TOLERANCE:
            print(f"error: the error is above {TOLERANCE:.0e}; {args.output} is not written", file=sys.stderr)
            return 3
        args.output.write_bytes(staged.read_bytes())
    metadata = {key: json.loads(text) for key, text in _entries(args.program).items()}
    Path(f"{args.output}.json").write_text(json.dumps(metadata, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"wrote {args.output} and {args.output}.json")
    return 0


def _entries(path: Path) -> dict[str, str]:
    """The metadata of a ``.pt2`` file, which is a ZIP archive: ``alphanet.<key>`` to JSON."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if "/extra/alphanet." in name]
        return {name.rpartition("/")[2]: archive.read(name).decode("utf-8") for name in names}


if __name__ == "__main__":
    sys.exit(main())
