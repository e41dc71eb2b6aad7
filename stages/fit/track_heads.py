"""Regressors of label tracks as plain matrices, so that a run can keep and apply them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from stages.fit.run_files import RunError

FloatArray = npt.NDArray[np.float64]
HEADS = "heads.safetensors"
_ROWS = 65_536  # at a time


@dataclass(frozen=True)
class Head:
    """Some tracks of a frame from its features: affine maps with ReLU between them.

    Attributes
    ----------
    columns : (k,) int
        Which tracks.
    layers : pairs of (in, out) and (out,)
        Standardisation of both sides is within the first and the last.
    low, high : (k,) float64
        Ends of the labels, which no prediction leaves: intensities have ends.
    """

    columns: npt.NDArray[np.intp]
    layers: tuple[tuple[FloatArray, FloatArray], ...]
    low: FloatArray
    high: FloatArray

    def __call__(self, x: npt.NDArray[np.floating]) -> FloatArray:
        """(n, C) -> (n, k)."""
        found = np.empty((len(x), len(self.columns)))
        for begin in range(0, len(x), _ROWS):
            part = x[begin : begin + _ROWS].astype(np.float64)
            for depth, (weight, constant) in enumerate(self.layers):
                part = (np.maximum(part, 0) if depth else part) @ weight + constant
            found[begin : begin + _ROWS] = part
        return np.clip(found, self.low, self.high)


def head_of(model: Any, columns: npt.NDArray[np.intp], target: FloatArray) -> Head:
    """Return what a fitted pipeline predicts with.

    Parameters
    ----------
    model : Pipeline
        StandardScaler, then a TransformedTargetRegressor around ridge (or a search for its
        strength) or a ReLU network, with a StandardScaler of the labels.
    columns : (k,) int
    target : (n, k) float
        What it was fitted to.
    """
    scaler, scaled = model[0], model[1]
    inner = getattr(scaled.regressor_, "best_estimator_", scaled.regressor_)
    if hasattr(inner, "coefs_"):
        layers = list(zip(inner.coefs_, inner.intercepts_, strict=True))
    else:
        layers = [(np.atleast_2d(inner.coef_).T, np.atleast_1d(inner.intercept_))]
    layers = [(np.asarray(w, np.float64), np.asarray(c, np.float64)) for w, c in layers]
    weight, constant = layers[0]
    narrowed = weight / scaler.scale_[:, None]
    layers[0] = narrowed, constant - scaler.mean_ @ narrowed
    weight, constant = layers[-1]
    unit, centre = scaled.transformer_.scale_, scaled.transformer_.mean_
    layers[-1] = weight * unit, constant * unit + centre
    return Head(columns, tuple(layers), target.min(axis=0), target.max(axis=0))


def save_heads(folder: Path, heads: Sequence[Head]) -> None:
    """Write all of them into a folder."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for k, head in enumerate(heads):
        arrays |= {f"{k}.columns": head.columns, f"{k}.low": head.low, f"{k}.high": head.high}
        for depth, (weight, constant) in enumerate(head.layers):
            arrays |= {f"{k}.{depth}.weight": weight, f"{k}.{depth}.constant": constant}
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, folder / HEADS)


def load_heads(folder: Path) -> list[Head]:
    """Read what ``save_heads`` wrote.

    Raises
    ------
    RunError
        It is missing or damaged.
    """
    try:
        arrays = load_file(folder / HEADS)
        heads: list[Head] = []
        while f"{len(heads)}.columns" in arrays:
            k = len(heads)
            layers: list[tuple[FloatArray, FloatArray]] = []
            while (name := f"{k}.{len(layers)}") + ".weight" in arrays:
                layers.append((arrays[f"{name}.weight"], arrays[f"{name}.constant"]))
            ends = (arrays[f"{k}.low"], arrays[f"{k}.high"])
            heads.append(Head(arrays[f"{k}.columns"], tuple(layers), *ends))
    except (OSError, SafetensorError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError(
            f"{folder / HEADS}: cannot be read ({reason})",
            "the file is missing or damaged: copy the run folder again, or fit again",
        ) from None
    return heads
