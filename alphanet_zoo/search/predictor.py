"""Predicts the score of an arch from the archs scored so far: ridge regression. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alphanet_zoo.search.chain import Chain, FloatArray, Rows
from alphanet_zoo.space.family import Space

PENALTIES = tuple(float(p) for p in np.logspace(-3, 3, 13))
"""Penalties that the fit chooses from by leave-one-out error."""
PAIR_SCALES = (0.15, 0.4, 1.0)
"""Scales of the features of pairs that the fit chooses from; small scales are penalised more."""
FOLDS = 5


@dataclass(frozen=True)
class Quality:
    """Agreement of predictions with the scores of archs that were not used for the fit.

    Args:
        kendall_tau: Kendall's rank correlation (tau-b), from -1 to 1.
        rmse: Root mean squared error, in units of the score.
        archs: Number of archs.
    """

    kendall_tau: float
    rmse: float
    archs: int


class Predictor:
    """Ridge regression on the entries of an arch, one-hot and as a trend, and on pairs of neighbouring entries.

    Such a function adds up along the chain of stages, so `alphanet_zoo.search.chain.best_within` finds its optimum
    within a budget exactly.

    Args:
        space: The search space.

    Attributes:
        chain: The chain of the space.
        rmse: Leave-one-out error of the fit, in units of the score.

    Source: Hoerl and Kennard, "Ridge regression", 1970; for the uncertainty Rasmussen and Williams, "Gaussian
    processes for machine learning", 2006, section 2.1.
    """

    def __init__(self, space: Space[Any]) -> None:
        """Fits nothing."""
        self.chain = Chain.of(space)
        varies = [len(choices) > 1 for choices in self.chain.choices]
        self._singles = [column for column, does in enumerate(varies) if does]
        self._pairs = [(a, b) for a, b in self.chain.pairs() if varies[a] and varies[b]]
        self.rmse = float("nan")

    def fit(self, rows: Rows, scores: Sequence[float] | FloatArray) -> Predictor:
        """Fits the weights; returns itself.

        Args:
            rows: The ``scalars`` of at least two archs, ``(n, scalars)``.
            scores: Their scores, ``(n,)``.

        Raises:
            ValueError: There are fewer than two archs.
        """
        y = np.asarray(scores, dtype=np.float64)
        if len(rows) < 2:
            raise ValueError(f"{len(rows)} archs: a predictor requires at least 2")
        self._mean = float(y.mean())
        best = np.inf
        for scale in PAIR_SCALES:
            x = self._features(rows, scale)
            centre = x.mean(axis=0)
            x = x - centre
            values, vectors = np.linalg.eigh(x.T @ x)
            values = np.maximum(values, 0.0)
            projected = x @ vectors
            target = projected.T @ (y - self._mean)
            for penalty in PENALTIES:
                shrunk = projected / (values + penalty)
                leverage = (shrunk * projected).sum(axis=1) + 1.0 / len(y)
                residual = (y - self._mean - shrunk @ target) / np.maximum(1.0 - leverage, 1e-6)
                error = float(np.sqrt(np.mean(residual**2)))
                if error < best:
                    best = error
                    self._scale, self._centre, self._penalty = scale, centre, penalty
                    self._values, self._vectors = values, vectors
                    self._weights = vectors @ (target / (values + penalty))
        self.rmse = best
        return self

    def predict(self, rows: Rows) -> FloatArray:
        """Predicted scores ``(n,)``."""
        predicted: FloatArray = (self._features(rows, self._scale) - self._centre) @ self._weights + self._mean
        return predicted

    def predict_with_error(self, rows: Rows) -> tuple[FloatArray, FloatArray]:
        """Predicted scores ``(n,)``, and the standard deviation of each prediction (without noise), ``(n,)``."""
        x = self._features(rows, self._scale) - self._centre
        along = x @ self._vectors
        variance = (along**2 / (self._values + self._penalty)).sum(axis=1)
        return x @ self._weights + self._mean, self.rmse * np.sqrt(variance)

    def quality(self, rows: Rows, scores: Sequence[float] | FloatArray) -> Quality:
        """The quality of the predictor on archs that are left out of the fit, in five parts.

        Raises:
            ValueError: There are fewer than ten archs.
        """
        y = np.asarray(scores, dtype=np.float64)
        if len(y) < 2 * FOLDS:
            raise ValueError(f"{len(y)} archs: the quality of a predictor requires at least {2 * FOLDS}")
        folds = np.random.Generator(np.random.PCG64(0)).permutation(len(y)) % FOLDS
        predicted = np.empty(len(y))
        for fold in range(FOLDS):
            other = Predictor.__new__(Predictor)
            other.__dict__.update(self.__dict__)
            predicted[folds == fold] = other.fit(rows[folds != fold], y[folds != fold]).predict(rows[folds == fold])
        from scipy.stats import kendalltau

        tau = float(kendalltau(predicted, y).statistic)
        return Quality(tau, float(np.sqrt(np.mean((predicted - y) ** 2))), len(y))

    def tables(self) -> list[FloatArray]:
        """The prediction as tables of the parts of the chain, see `alphanet_zoo.search.chain`."""
        chain = self.chain
        tables = [np.zeros(chain.sizes(part)) for part in range(len(chain.parts))]
        place = {column: (part, axis + 2) for part, columns in enumerate(chain.parts)
                 for axis, column in enumerate(columns)}  # fmt: skip
        tables[0] += self._mean - float(self._centre @ self._weights)
        start = 0
        for columns, width in self._groups():
            weights = self._weights[start : start + width]
            start += width
            shape = [len(self.chain.choices[column]) for column in columns]
            if len(columns) == 2:
                weights = self._scale * weights.reshape(shape)
            else:
                weights = weights[:-1] + weights[-1] * _trend(shape[0])
            part = max(place[column][0] for column in columns if column != 0) if any(columns) else 0
            axes = [0 if column == 0 else place[column][1] if place[column][0] == part else 1 for column in columns]
            full = np.ones(tables[part].ndim, dtype=int)
            full[axes] = shape
            ordered = weights if axes == sorted(axes) else weights.T
            tables[part] += ordered.reshape(full)
        return tables

    def _groups(self) -> list[tuple[tuple[int, ...], int]]:
        """The entries of each group of features, and the number of its features."""
        sizes = [len(choices) for choices in self.chain.choices]
        singles: list[tuple[tuple[int, ...], int]] = [((column,), sizes[column] + 1) for column in self._singles]
        return singles + [((a, b), sizes[a] * sizes[b]) for a, b in self._pairs]

    def _features(self, rows: Rows, scale: float) -> FloatArray:
        """The features ``(n, p)``."""
        indices = self.chain.indices(rows)
        groups = self._groups()
        x = np.zeros((len(rows), sum(width for _, width in groups)))
        start, every = 0, np.arange(len(rows))
        for columns, width in groups:
            if len(columns) == 1:
                index = indices[:, columns[0]]
                x[every, start + index] = 1.0
                x[:, start + width - 1] = _trend(width - 1)[index]
            else:
                a, b = columns
                x[every, start + indices[:, a] * len(self.chain.choices[b]) + indices[:, b]] = scale
            start += width
        return x


def _trend(choices: int) -> FloatArray:
    """Evenly spaced values from -1 to 1, one per choice."""
    return np.linspace(-1.0, 1.0, choices)
