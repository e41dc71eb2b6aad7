"""What a run folder's files are called, and its model as a file: read without unpickling."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as numpy_load
from safetensors.numpy import save_file as numpy_save
from safetensors.torch import load_file, save_file

from stages.fit import models
from stages.fit.config import FitConfig
from stages.fit.pooled_base import PooledModel
from stages.fit.pooled_models import POOLED_MODELS, create
from stages.fit.trainer import LabelScale
from store.durable import write_file
from store.errors import FacepipeError

RUN_FORMAT = 1
WEIGHTS, CONFIG, PROVENANCE, METRICS = (
    "model.safetensors",
    "config.json",
    "provenance.json",
    "metrics.json",
)
LABELS, SPLIT, PREDICTIONS = "labels.csv", "split.csv", "predictions.csv"
CHECKPOINT, FEATURES = "checkpoint", "features"
MDR_RESULT, AU_RESULT = "mdr.json", "au.json"


class RunError(FacepipeError, ValueError):
    """A folder that is no run, or whose files do not fit together."""


class RunWriteError(RunError):
    """The disk is full or refused a write."""

    exit_code = 1


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write one object, readable and with a stable order of keys; whole or not at all."""
    write_file(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def save_model(
    folder: Path,
    model: models.TemporalModel,
    config: FitConfig,
    options: Mapping[str, Any],
    label: LabelScale,
    best_epoch: int,
    version: str,
) -> None:
    """Write weights, and then the configuration that rebuilds the model around them."""
    tensors = {k: v.detach().contiguous().clone() for k, v in model.state_dict().items()}
    save_file(tensors, folder / WEIGHTS)
    write_json(
        folder / CONFIG,
        {
            "format": RUN_FORMAT,
            "facepipe": version,
            "model": {"name": config.model, "options": dict(options)},
            "label": {"mean": label.mean, "sd": label.sd},
            "best_epoch": best_epoch,
            "config": config.model_dump(mode="json"),
        },
    )


def save_pooled(folder: Path, model: PooledModel, config: FitConfig, version: str) -> None:
    """Write a pooled model's arrays and the configuration that rebuilds it around them."""
    told, arrays = model.saved()
    numpy_save({k: np.ascontiguousarray(v) for k, v in arrays.items()}, folder / WEIGHTS)
    write_json(
        folder / CONFIG,
        {
            "format": RUN_FORMAT,
            "facepipe": version,
            "model": {"name": config.model, "options": dict(config.model_options)},
            "label": {"mean": told["label"][0], "sd": told["label"][1]},
            "best_epoch": 0,
            "pooled": told,
            "config": config.model_dump(mode="json"),
        },
    )


def load_model(
    folder: Path, name: str, options: dict[str, Any], meta: Mapping[str, Any]
) -> models.TemporalModel | PooledModel:
    """Read the weights of a run into the model that its configuration names.

    Raises
    ------
    RunError
        They are missing, damaged, or of another model.
    """
    if name in POOLED_MODELS:
        return _load_pooled(folder, name, options, meta)
    model = models.create(name, **options)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(
            f"{folder / WEIGHTS}: not the weights of this {name} ({reason})",
            "the file is missing or damaged: copy the run folder again, or fit again",
        ) from None
    if not all(bool(torch.isfinite(t).all()) for t in model.state_dict().values()):
        raise RunError(f"{folder / WEIGHTS} holds weights that are not finite", "fit again")
    model.eval()
    return model


def _load_pooled(
    folder: Path, name: str, options: dict[str, Any], meta: Mapping[str, Any]
) -> PooledModel:
    try:
        arrays = numpy_load(folder / WEIGHTS)
        model = create(name, **options).load(meta["pooled"], arrays)
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(
            f"{folder / WEIGHTS}: not the arrays of this {name} ({reason})",
            "the file is missing or damaged: copy the run folder again, or fit again",
        ) from None
    if not all(np.isfinite(a).all() for a in arrays.values()):
        raise RunError(f"{folder / WEIGHTS} holds values that are not finite", "fit again")
    return model


def read_json(path: Path) -> dict[str, Any]:
    """Read one object.

    Raises
    ------
    RunError
        It is missing or no object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error})", "fit again") from None
    if not isinstance(value, dict):
        raise RunError(f"{path}: an object expected, found {type(value).__name__}", "fit again")
    return value
