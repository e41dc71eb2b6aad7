"""Settings of `pipeline fit --model mdr`. The slides state none of the values; all are ours."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from stages.fit.dynamics.rank_loss import Reduction
from stages.fit.grouping import PersonsBy
from stages.fit.landmarks import LandmarkMode
from stages.fit.loader import DEFAULT_BUDGET
from stages.fit.spans import Stream

Form = Literal["store", "pixel"]


class MdrConfig(BaseModel):
    """All settings of one fit of MDR."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: Form = Field(
        default="store", description="store: from a frame's features; pixel: from its crop"
    )
    windows: tuple[int, ...] = Field(
        default=(4, 8, 16, 32),
        description="T of every scale: frames (pixel: crops) to either side; 4 in the slides",
    )
    gamma: float = Field(default=1e-3, ge=0, description="Weight of ||d_t||^2")
    epsilon: float = Field(default=0.0, description="The constant of the loss; it has no gradient")
    theta: float = Field(default=1.0, gt=0, description="Margin of the ranking")
    reduction: Reduction = Field(
        default="mean", description="mean: pairs count 1 together, whatever T is; sum: as printed"
    )
    components: int = Field(
        default=128, ge=1, description="Width K of d_t: principal components within clips"
    )
    hidden: int = Field(default=256, ge=1, description="Hidden units; pixel: 32 times the channels")
    dropout: float = Field(default=0.2, ge=0, lt=1)
    size: int = Field(
        default=64, ge=8, description="pixel: side of a crop, larger ones are averaged"
    )
    epochs: int = Field(default=30, ge=0, description="At most; which is chosen on other persons")
    patience: int = Field(
        default=5, ge=1, description="Stop after so many epochs that rank other persons no better"
    )
    targets: int = Field(default=32, ge=1, description="Frames t drawn of each clip in an epoch")
    batch_size: int = Field(default=8, ge=1, description="Clips")
    lr: float = Field(default=3e-4, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    folds: int = Field(default=5, ge=2, description="Parts of the persons, each held out once")
    held_out: float = Field(
        default=0.3, gt=0, lt=1, description="pixel: last share of each clip's crops, held out"
    )
    tested: int = Field(
        default=256, ge=1, description="Frames t of a clip that are tested, at most"
    )
    bound: int = Field(
        default=12, ge=0, description="Of these, frames t that a RankSVM is fitted to"
    )
    group: PersonsBy = Field(
        default="auto", description="auto: persons by clustering; person: labels; folder; clip"
    )
    stream: Stream = Field(default="appearance", description="The array beside the landmarks")
    landmarks: LandmarkMode = Field(default="clip", description="Normalisation, see landmarks.py")
    out: Path | None = Field(
        default=None, description="Folder of the features; none: beside the store, STORE.mdr"
    )
    budget: int = Field(default=DEFAULT_BUDGET, ge=0, description="Bytes of features in memory")
    bootstrap: int = Field(default=2000, ge=100, description="Draws behind each interval")
    seed: int = Field(default=0, ge=0)

    @field_validator("windows", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """Take ``4,8,16`` and ``8`` as they come from the command line."""
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return [value] if isinstance(value, int) else value

    @field_validator("windows")
    @classmethod
    def _rankable(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or min(value) < 2 or len(set(value)) < len(value):
            raise ValueError("windows must be different numbers of at least 2 frames")
        return value
