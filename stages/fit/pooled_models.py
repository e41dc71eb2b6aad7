"""The models that see a clip as one vector, by name: what `evaluate`, `fit` and `models` know."""

from __future__ import annotations

import inspect
from typing import Any

import pandas as pd

from stages.fit import pooled
from stages.fit.blind import BlindRegressor
from stages.fit.deep import DeepRegressor
from stages.fit.dynamics import rank_loss
from stages.fit.dynamics.regressor import MdrRegressor
from stages.fit.models.base import Description, ModelError, source_of
from stages.fit.pooled_base import PooledModel
from stages.fit.selective import SelectiveSharing

_CLASSES: dict[str, type[PooledModel]] = {
    "deep": DeepRegressor,
    "blind": BlindRegressor,
    "selective": SelectiveSharing,
    "mdr": MdrRegressor,
}
POOLED_MODELS: tuple[str, ...] = (*pooled.POOLED, *_CLASSES)
# Time averages do not change when frames are shuffled.
WITHOUT_ORDER = ("meanpool", "deep", "blind", "selective")


def create(name: str, seed: int = 0, **options: Any) -> PooledModel:
    """Build one of them, not fitted yet.

    Raises
    ------
    ModelError
        No such model, an option that it does not take, an impossible value.
    """
    if name in _CLASSES:
        return _CLASSES[name](name, seed, **options)
    return pooled.PooledRegressor(name, seed, **options)


def option_names(name: str) -> tuple[str, ...]:
    """Return the options that one of them takes."""
    return _CLASSES[name].options if name in _CLASSES else pooled.option_names(name)


def default_stream(name: str) -> str:
    """Return the stream that one of them reads unless the user says."""
    wide = name in _CLASSES and name in WITHOUT_ORDER
    return "appearance+embedding" if wide else "appearance"


def describe(name: str) -> Description:
    """Return what one of them is, as models.describe does for the networks."""
    if name not in _CLASSES:
        return pooled.describe(name)
    if name == "mdr":
        return rank_loss.describe()
    kind = _CLASSES[name]
    summary = (inspect.getdoc(kind) or "").split("\n", 1)[0]
    return Description(name, summary, source_of(inspect.getdoc(inspect.getmodule(kind)) or ""))


def words(model: PooledModel, table: pd.DataFrame) -> list[str] | None:
    """Return the column of a label table that a model needs beside the score, if it does.

    Raises
    ------
    ModelError
        The table has no such column.
    """
    if not model.attribute:
        return None
    if model.attribute not in table.columns:
        raise ModelError(
            f"model '{model.name}' needs a column '{model.attribute}', which the labels lack",
            f"--set model.attribute=COLUMN names another; columns: {', '.join(table.columns)}",
        )
    return [str(word) for word in table[model.attribute]]
