"""The settings of `pipeline fit --model au`, and what its regressors read of a clip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from stages.fit.batches import ClipData
from stages.fit.grouping import PersonsBy
from stages.fit.landmarks import LandmarkMode
from stages.fit.loader import DEFAULT_BUDGET, Budget, ClipLoader
from stages.fit.spans import (
    ClipSpan,
    MissingFeaturesError,
    Stream,
    arrays_of,
    check_arrays,
    third_stream,
)
from store.tracks import INTENSITIES


class AuConfig(BaseModel):
    """All settings of `pipeline fit --model au`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    regressor: Literal["ridge", "network"] = Field(
        default="ridge", description="ridge, its strength chosen on inner folds of persons; network"
    )
    columns: str = Field(default=INTENSITIES, description="Pattern of the columns that are labels")
    missing: float | None = Field(default=None, description="A number that means: not known")
    read: Literal["auto", "both", "landmarks", "appearance"] = Field(
        default="auto", description="auto: both, or the landmarks where the store lacks the others"
    )
    relative: bool = Field(
        default=True, description="Beside each channel its deviation from the clip's median"
    )
    features: str | None = Field(
        default=None, description="Folder of an array beside the store, read too (MDR)"
    )
    hidden: int = Field(default=64, ge=1, description="Hidden units of the network")
    epochs: int = Field(default=200, ge=1, description="Of the network")
    weight_decay: float = Field(default=1.0, ge=0, description="Of the network")
    frames: int = Field(default=200, ge=2, description="Of each clip that are learnt, at most")
    folds: int = Field(default=5, ge=2, description="Parts of the persons, each held out once")
    group: PersonsBy = Field(
        default="auto", description="auto: persons by clustering; person: a file; folder; clip"
    )
    persons: Path | None = Field(default=None, description="CSV with the columns clip, person")
    stream: Stream = Field(default="appearance", description="The array beside the landmarks")
    landmarks: LandmarkMode = Field(
        default="frame", description="Normalisation; frame: expression without head motion"
    )
    budget: int = Field(default=DEFAULT_BUDGET, ge=0, description="Bytes of features in memory")
    bootstrap: int = Field(default=2000, ge=100, description="Draws behind each interval")
    seed: int = Field(default=0, ge=0)


def frames_loader(source: Any, spans: list[ClipSpan], config: AuConfig) -> ClipLoader:
    """Return the loader of what regressors read; every clip is read once."""
    extra = None if config.features is None else third_stream(config.features, source, spans)
    return ClipLoader(
        source,
        spans,
        stream=config.stream,
        landmarks=config.landmarks,
        budget=Budget(0),
        extra=extra,
    )


def what_to_read(
    source: Any, spans: list[ClipSpan], config: AuConfig, echo: Callable[[str], None]
) -> str:
    """Return "both", "landmarks" or "appearance", by the settings and by what the store has.

    Raises
    ------
    MissingFeaturesError
    """
    stream = tuple(arrays_of(config.stream))
    names = {"landmarks": ("landmark",), "appearance": stream}
    try:
        check_arrays(source, spans, names.get(config.read, (*stream, "landmark")))
    except MissingFeaturesError:
        if config.read != "auto":
            raise
        check_arrays(source, spans, ("landmark",))
        echo(f"The landmarks alone are read: some clips have no {config.stream}.")
        return "landmarks"
    return "both" if config.read == "auto" else config.read


def frame_vectors(clip: ClipData, read: str, extra: int, relative: bool) -> npt.NDArray[np.float32]:
    """(n, C) of one clip: the arrays that are read, and their deviations from the clip's median."""
    own = clip.appearance.shape[1] - extra
    parts = [
        *([clip.appearance[:, :own]] if read != "landmarks" else []),
        *([clip.landmark] if read != "appearance" else []),
        *([clip.appearance[:, own:]] if extra else []),
    ]
    x = np.concatenate([part.astype(np.float32) for part in parts], axis=1)
    if not relative:
        return x
    return np.concatenate([x, x - np.median(x[clip.valid], axis=0)], axis=1)
