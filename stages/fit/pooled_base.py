"""What all models have in common that see a clip as one vector and are no temporal network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from stages.fit.batches import ClipData
from stages.fit.bootstrap import group_codes
from stages.fit.models.base import ModelError
from stages.fit.plain import Arrays
from stages.fit.summaries import FloatArray

INNER_FOLDS = 3


@dataclass(frozen=True)
class Sample:
    """n clips as vectors, those that show a face.

    Attributes
    ----------
    x : (n, D) float64
    sizes : list of int
        Columns of each block of x.
    target : (n,) float64
        Labels of mean 0 and deviation 1.
    attribute : (n,) int64
        Places of each clip's word in ``values``; empty where none was given.
    values : tuple of str
    group : (n,) int64
        Codes of groups of clips; each clip its own where none were given.
    """

    x: FloatArray
    sizes: list[int]
    target: FloatArray
    attribute: npt.NDArray[np.int64]
    values: tuple[str, ...]
    group: npt.NDArray[np.int64]


class PooledModel(ABC):
    """Regression on one vector a clip; stills are clips of one frame.

    Parameters
    ----------
    seed : int

    Attributes
    ----------
    attribute : str
        Column of the labels that ``fit`` needs besides the score; empty if none.
    strength : dict
        What was chosen on the training clips. Empty before ``fit``.
    """

    options: ClassVar[tuple[str, ...]] = ()
    dtype: ClassVar[type[np.floating[Any]]] = np.float64  # of a clip's vector
    attribute: str = ""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.seed = seed
        self.strength: dict[str, Any] = {}
        self.values: tuple[str, ...] = ()
        self._label = (0.0, 1.0)
        self._width = -1

    @abstractmethod
    def _summarise(self, clip: ClipData) -> list[FloatArray]:
        """Return a clip as blocks of numbers, NaN without a valid frame."""

    @abstractmethod
    def _fit(self, sample: Sample) -> None:
        """Fit on clips that show a face."""

    @abstractmethod
    def _predict(self, x: FloatArray) -> FloatArray:
        """(n, D) -> (n,) in units of the standardised label."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return what ``restore`` needs, as JSON types and as arrays."""

    @abstractmethod
    def restore(self, told: Mapping[str, Any], arrays: Arrays) -> None:
        """Become the fitted model that ``state`` described."""

    def features(self, clips: Iterable[ClipData]) -> tuple[FloatArray, list[int]]:
        """(n, D), one row a clip, NaN for one without a valid frame; columns of each block."""
        rows: list[FloatArray] = []
        sizes: list[int] = []
        for clip in clips:
            blocks = self._summarise(clip)
            sizes = [len(block) for block in blocks]
            rows.append(np.concatenate(blocks).astype(self.dtype, copy=False))
        return np.stack(rows) if rows else np.zeros((0, 0)), sizes

    def fit(
        self,
        clips: Iterable[ClipData],
        score: npt.ArrayLike,
        attribute: Sequence[str] | None = None,
        group: Sequence[str] | None = None,
    ) -> Self:
        """Fit on n clips and their labels; clips without a valid frame are left out.

        Parameters
        ----------
        clips : n clips
        score : (n,) float, label units
        attribute : n words, optional
            Of the column ``self.attribute``; needed by models that name one.
        group : n words, optional
            Persons, or whatever may not stand on two sides of the folds in which a model chooses
            how strongly to regularise; left out, each clip by itself.

        Raises
        ------
        ValueError
            Other than n labels, a label that is not finite, or fewer than 3 clips with a face.
        ModelError
            The attribute has one value only, or an empty cell.
        """
        x, sizes = self.features(clips)
        y = np.asarray(score, np.float64)
        if y.shape != (len(x),):
            raise ValueError(f"score must be ({len(x)},) as there are so many clips, not {y.shape}")
        if not np.isfinite(y).all():
            raise ValueError("every label must be finite")
        seen = np.isfinite(x).all(axis=1)
        if seen.sum() < INNER_FOLDS:
            raise ValueError(
                f"at least {INNER_FOLDS} clips with a face are needed, not {seen.sum()}"
            )
        code = np.zeros(0, np.int64)
        if self.attribute:
            words = np.asarray(attribute, dtype=str)[seen]
            self.values = tuple(sorted(set(words.tolist())))
            if len(self.values) < 2 or "" in self.values:
                raise ModelError(
                    f"model {self.name!r} needs two values or more in the column "
                    f"'{self.attribute}' and no empty cell, found {', '.join(self.values)!r}",
                    "name another column with --set model.attribute=COLUMN",
                )
            code = np.searchsorted(np.asarray(self.values), words).astype(np.int64)
        x, y = x[seen], y[seen]
        self._label = (float(y.mean()), float(y.std()) or 1.0)
        self._width = x.shape[1]
        target = (y - self._label[0]) / self._label[1]
        names = np.arange(seen.size).astype(str) if group is None else np.asarray(group, str)
        groups = group_codes(names[seen].tolist()).astype(np.int64)
        self._fit(Sample(x, sizes, target, code, self.values, groups))
        return self

    def predict(self, clips: Iterable[ClipData]) -> FloatArray:
        """(n,) predictions in label units; the mean label for a clip without a valid frame.

        Raises
        ------
        RuntimeError
            Before ``fit``.
        """
        x, seen = self._seen(clips)
        result = np.zeros(len(x))
        if seen.any():
            result[seen] = self._predict(x[seen])
        return result * self._label[1] + self._label[0]

    def _seen(self, clips: Iterable[ClipData]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Vectors of clips, and which of them show a face."""
        if self._width < 0:
            raise RuntimeError(f"{self.name} must be fitted before it can predict")
        x, _ = self.features(clips)
        return x, np.asarray(np.isfinite(x).all(axis=1), np.bool_)

    def saved(self) -> tuple[dict[str, Any], Arrays]:
        """Return the fitted model whole, as JSON types and as arrays."""
        told, arrays = self.state()
        whole = {
            "label": list(self._label),
            "width": self._width,
            "values": list(self.values),
            "strength": self.strength,
            "model": told,
        }
        return whole, arrays

    def load(self, whole: Mapping[str, Any], arrays: Arrays) -> Self:
        """Become what ``saved`` returned; KeyError, TypeError or ValueError for anything else."""
        mean, sd = whole["label"]
        self._label = (float(mean), float(sd))
        self._width = int(whole["width"])
        self.values = tuple(map(str, whole["values"]))
        self.strength = dict(whole["strength"])
        self.restore(whole["model"], arrays)
        return self


def refuse_unknown(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise ModelError for an option that a model does not take."""
    names = sorted(known)
    for option in sorted(set(given) - set(names)):
        raise ModelError(
            f"model '{name}' has no option '{option}'", f"options of {name}: {', '.join(names)}"
        )


def number(name: str, option: str, value: Any, low: float, high: float = np.inf) -> float:
    """Read an option that is a number from low to high; ModelError for anything else."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = np.nan
    if not low <= found <= high:
        raise ModelError(
            f"{option} of model '{name}' must be a number from {low:g} to {high:g}, not {value!r}"
        )
    return found
