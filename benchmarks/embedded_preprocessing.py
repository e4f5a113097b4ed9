"""Claim: with the preprocessing in the graph, logits differ by at most 2e-5, in at most 1.1 of the time.

For each photograph, the file with the preprocessing inside and the plain file after the package's own preprocessing
(Pillow and torch) run once per round in random order, on one thread, timed by the CPU time of the process, which other
programs hardly affect. Decoding is not timed: both start from the same decoded image. The errors are relative to
PyTorch after Pillow. ``--operator`` compares ONNX Runtime's operator ``Resize`` with Pillow instead.

Run: ``python benchmarks/embedded_preprocessing.py FOLDER --weights a4.safetensors``. FOLDER has one folder of images
per class. Without ``--weights``, the weights are random and calibrated on the photographs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper
from PIL import Image
from torch import Tensor

from alphanet_export.embedding import Embedding
from alphanet_export.freeze import FrozenNet, freeze
from alphanet_export.onnx_model import open_session
from alphanet_export.runtimes.runtime import open_runtime
from alphanet_export.verify.environment import cpu_name
from alphanet_export.verify.measure.ab import CPU_TIME, interleave
from alphanet_export.verify.measure.parity import measure_parity
from alphanet_export.write import write_export
from alphanet_zoo.data.batches import decoded_images, evaluation_batches
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.data.sources import spread
from alphanet_zoo.evaluate.statistics import median_ratio_interval
from alphanet_zoo.nn.calibration import calibrate
from alphanet_zoo.zoo.registry import create_model, open_model


def frozen_net(name: str, weights: str | None, source: FolderSource) -> FrozenNet:
    """The network to export."""
    if weights is not None:
        return freeze(open_model(name, pretrained=False, weights=weights).net.eval())
    torch.manual_seed(0)
    net = create_model(name, num_classes=1000)
    preprocessing = freeze(_named(net)).preprocessing
    calibrate(net, [pixels for pixels, _ in evaluation_batches(spread(source, 64), preprocessing, 32)])
    return freeze(_named(net))


def _named(net: torch.nn.Module) -> torch.nn.Module:
    net.calibration = "random"
    return net.eval()


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--model", default="alphanet_a4")
    parser.add_argument("--weights")
    parser.add_argument("--formats", default="onnx,openvino")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--operator", action="store_true")
    args = parser.parse_args()
    source = FolderSource(args.folder)
    if args.operator:
        compare_operator([image for image, _ in decoded_images(spread(source, args.images))])
        return
    frozen = frozen_net(args.model, args.weights, source)
    photographs = [image for image, _ in decoded_images(spread(source, args.images))]
    embedding = Embedding(frozen.preprocessing)
    print(f"{args.model}, {len(photographs)} photographs, {cpu_name()}, onnxruntime {onnxruntime.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.formats.split(","):
            ending = {"onnx": ".onnx", "openvino": ".xml", "ort": ".ort"}[name]
            plain, inside = Path(folder) / f"plain{ending}", Path(folder) / f"inside{ending}"
            write_export(frozen, **{name: plain}, verify=False)
            write_export(frozen, **{name: inside}, embed_preprocessing=True, verify=False)
            parity = measure_parity(inside, frozen.net, photographs, tolerance=1.0, embedding=embedding)
            print(f"{name}: largest relative error {parity.max_relative_error:.2e}, top-1 agreement "
                  f"{parity.top1_agreement:.4f}")  # fmt: skip
            print(f"{name}: {_times(inside, plain, frozen.preprocessing, photographs, args.rounds)}")


def compare_operator(photographs: list[Tensor], short: int = 293) -> None:
    """Prints how far ``Resize`` with antialiasing is from Pillow: grey levels, and CPU time on one thread."""
    for mode, resample in (("linear", Image.Resampling.BILINEAR), ("cubic", Image.Resampling.BICUBIC)):
        session = open_session(_resize_model(mode), threads=1)
        worst, differing, pixels, times = 0, 0, 0, ([], [])
        for photograph in photographs:
            image = photograph[0].numpy()
            height, width = image.shape[:2]
            scale = short / min(height, width)
            new = (int(width * scale + 1e-9), int(height * scale + 1e-9))
            start = time.process_time()
            expected = np.asarray(Image.fromarray(image).resize(new, resample)).astype(int)
            times[0].append(time.process_time() - start)
            sizes = np.array([1, new[1], new[0], 3])
            start = time.process_time()
            found = session.run(None, {"image": image[None], "sizes": sizes})[0][0]
            times[1].append(time.process_time() - start)
            difference = np.abs(found - expected)
            worst, differing = max(worst, int(difference.max())), differing + int((difference > 0).sum())
            pixels += difference.size
        pillow, operator = (1e3 * float(np.median(each)) for each in times)
        share = 100 * differing / pixels
        print(f"Resize {mode}: {share:.3f} % of the values differ, by up to {worst}; {operator:.2f} ms, "
              f"Pillow {pillow:.2f} ms")  # fmt: skip


def _resize_model(mode: str) -> bytes:
    """A model of one ``Resize`` with Pillow's filter."""
    extra = {"cubic_coeff_a": -0.5} if mode == "cubic" else {}
    node = helper.make_node(
        "Resize", ["image", "", "", "sizes"], ["resized"], mode=mode, antialias=1, exclude_outside=1, **extra
    )
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, "h", "w", 3])
    sizes = helper.make_tensor_value_info("sizes", TensorProto.INT64, [4])
    resized = helper.make_tensor_value_info("resized", TensorProto.UINT8, [1, None, None, 3])
    graph = helper.make_graph([node], "resize", [image, sizes], [resized])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


def _times(inside: Path, plain: Path, preprocessing: Preprocessing, photographs: list[Tensor], rounds: int) -> str:
    """Time of the file with its preprocessing over that of the plain file and the package's preprocessing."""
    torch.set_num_threads(1)
    ours, theirs = [], []
    with open_runtime(inside, threads=1) as embedded, open_runtime(plain, threads=1) as bare:
        for image in photographs:
            runs = {
                "inside": partial(embedded.infer, image.numpy()),
                "outside": partial(_outside, bare.infer, preprocessing, image),
            }
            times = interleave(runs, rounds=rounds, clock=CPU_TIME)
            ours.append(float(np.median(times["inside"])))
            theirs.append(float(np.median(times["outside"])))
    inner, outer = np.array(ours), np.array(theirs)
    low, high = median_ratio_interval(inner, outer)
    return (f"{np.median(inner):.2f} ms inside, {np.median(outer):.2f} ms outside, ratio of medians "
            f"{np.median(inner) / np.median(outer):.3f} (95 % interval {low:.3f} to {high:.3f})")  # fmt: skip


def _outside(infer, preprocessing: Preprocessing, image: Tensor) -> None:
    """Preprocesses with the package, then runs the plain file."""
    infer(preprocessing(image[0].permute(2, 0, 1))[None].numpy())


if __name__ == "__main__":
    main()
