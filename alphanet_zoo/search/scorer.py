"""Scores the subnets of a supernet: calibration, validation, and stopping early if a subnet is clearly behind."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch

from alphanet_zoo.data.sources import ImageSource, subset
from alphanet_zoo.errors import AlphaNetError, UsageError, one_line
from alphanet_zoo.evaluate.evaluator import Evaluator, input_of, predictor
from alphanet_zoo.evaluate.statistics import mcnemar_p_value
from alphanet_zoo.nn.family import Network
from alphanet_zoo.space.family import Arch

NetScore = Callable[[Network], float]
"""The user's own score: of a calibrated static network in eval mode; larger is better."""

SHARES = (0.125, 0.25, 0.5)
"""Shares of the validation images after which a subnet is compared."""
FEWEST = 128
"""Fewest images to compare subnets on."""
SIGNIFICANCE = 0.01
"""A subnet is behind if McNemar's exact test has a p-value below this, and it has fewer correct images."""


@dataclass(frozen=True, eq=False)
class Reference:
    """A fully scored subnet that another one is compared with.

    Args:
        right: Whether each validation image is classified correctly, ``(N,)`` bool, in the order of scoring.
    """

    right: np.ndarray[Any, np.dtype[np.bool_]]


class Scorer:
    """Scores subnets by top-1 accuracy, or by the user's function.

    Args:
        supernet: A trained supernet; it is not changed.
        evaluator: The evaluator. Its validation images should be in a mixed order, see `mixed`.
        score: The user's score; None is the accuracy.
        halving: Stop scoring a subnet that is clearly behind.

    Attributes:
        seconds: Time spent on calibration and on validation.

    Raises:
        UsageError: The classes of the validation images are not the supernet's.
    """

    def __init__(
        self, supernet: Network, evaluator: Evaluator, *, score: NetScore | None = None, halving: bool = True
    ) -> None:
        """Reads no image."""
        if score is None:
            evaluator.outputs(supernet.num_classes, supernet.pretrained_cfg.get("label_names"))
        self.supernet, self.evaluator, self._score, self._halving = supernet, evaluator, score, halving
        self.seconds = {"calibration": 0.0, "validation": 0.0}

    def __call__(self, arch: Arch, reference: Reference | None = None) -> dict[str, Any]:
        """The figures of a subnet, ready for JSON.

        Args:
            arch: The subnet.
            reference: A subnet that is at most as expensive; None never stops early.

        Returns:
            ``score``, ``complete`` and ``seconds``; for the accuracy also ``correct``, ``images`` and ``right``. If
            the subnet is not scored to the end, the score is the reference's accuracy plus the difference on the
            images that both have seen.
        """
        began = time.perf_counter()
        net = self.evaluator.calibrated(self.supernet, arch)
        calibrated = time.perf_counter()
        self.seconds["calibration"] += calibrated - began
        figures = self._accuracy(net, reference) if self._score is None else self._own(net, self._score)
        ended = time.perf_counter()
        self.seconds["validation"] += ended - calibrated
        return {**figures, "seconds": round(ended - began, 3)}

    def _own(self, net: Network, score: NetScore) -> dict[str, Any]:
        """The user's score."""
        try:
            with torch.no_grad():
                value = float(score(net))
        except AlphaNetError:
            raise
        except Exception as error:
            name = getattr(score, "__qualname__", type(score).__name__)
            raise UsageError(f"the score {name} fails: {one_line(error)}; it must return a number") from error
        if not np.isfinite(value):
            raise UsageError(f"the score of a subnet is {value}; the function must return a finite number")
        return {"score": value, "complete": True}

    def _accuracy(self, net: Network, reference: Reference | None) -> dict[str, Any]:
        """Top-1 accuracy on the validation images, or its estimate."""
        assert self.evaluator.validation is not None
        outputs = self.evaluator.outputs(net.num_classes, net.pretrained_cfg.get("label_names"))
        predict, total = predictor(net), len(self.evaluator.validation)
        checks = [share * total for share in SHARES if self._halving and share * total >= FEWEST]
        parts: list[torch.Tensor] = []
        for pixels, truth in self.evaluator.batches(input_of(net, net.arch.resolution)):
            parts.append(predict(pixels).argmax(dim=1).cpu() == outputs[truth])
            seen = sum(map(len, parts))
            if reference is None or not checks or seen < checks[0]:
                continue
            checks = [check for check in checks if check > seen]
            right = torch.cat(parts).numpy()
            if seen < len(reference.right) and is_behind(right, reference.right[:seen]):
                estimate = reference.right.mean() + right.mean() - reference.right[:seen].mean()
                return {"score": float(estimate), "complete": False, **counts(right)}
        right = torch.cat(parts).numpy()
        return {"score": float(right.mean()), "complete": True, **counts(right)}


def counts(right: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, Any]:
    """The number of correct and of all images, and which are correct as bits in base64."""
    bits = base64.b64encode(np.packbits(right).tobytes()).decode()
    return {"correct": int(right.sum()), "images": len(right), "right": bits}


def reference_of(figures: Mapping[str, Any]) -> Reference | None:
    """The reference with these figures; None if they have no image by image results."""
    if "right" not in figures or not figures["complete"]:
        return None
    bits = np.frombuffer(base64.b64decode(figures["right"]), dtype=np.uint8)
    return Reference(np.unpackbits(bits)[: figures["images"]].astype(bool))


def is_behind(right: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    """Whether a classifier is less accurate than another one on the same images, by McNemar's exact test.

    Args:
        right: Whether the classifier is correct on each image, ``(N,)``.
        other: The same of the other classifier.
    """
    alone, missed = int((right & ~other).sum()), int((other & ~right).sum())
    return alone < missed and mcnemar_p_value(alone, missed) < SIGNIFICANCE


def mixed(source: ImageSource) -> ImageSource:
    """The images of a source in a fixed random order in which every leading part is balanced by class."""
    labels = source.labels.numpy()
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(source))
    if labels.ndim == 1:
        place = np.zeros(len(order), dtype=np.int64)
        for label in np.unique(labels):
            own = labels[order] == label
            place[own] = np.arange(own.sum())
        order = order[np.argsort(place, kind="stable")]
    return subset(source, order)


def digest_of_net(net: Network) -> str:
    """SHA-256 of the weights of a network, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def digest_of_images(source: ImageSource) -> str:
    """SHA-256 of the classes, labels and up to 64 decoded images, which identifies a source by its content."""
    digest = hashlib.sha256(repr((source.classes, len(source))).encode())
    digest.update(source.labels.contiguous().numpy().tobytes())
    for index in np.unique(np.linspace(0, len(source) - 1, 64).astype(int)):
        try:
            image = source.load(int(index))
        except AlphaNetError:  # A broken image, which the evaluation leaves out.
            continue
        digest.update(repr(tuple(image.shape)).encode() + image.contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_score(name: str) -> NetScore:
    """The user's score function.

    Args:
        name: ``package.module:function``; a callable of a network that returns a number.

    Raises:
        UsageError: The function does not exist.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function) if module and function else None
    except (ImportError, AttributeError) as error:
        raise UsageError(f"cannot load the score {name!r}: {error}; pass package.module:function of an installed "
                         "module, or set PYTHONPATH=. for a file in this folder") from error  # fmt: skip
    if not callable(found):
        raise UsageError(f"the score {name!r} is not a function; pass package.module:function")
    score: NetScore = found
    return score
