"""Every setting of stage two, its default, and how `--set key=value` changes it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from stages.fit import models
from stages.fit.grouping import GroupBy
from stages.fit.landmarks import LandmarkMode
from stages.fit.loader import DEFAULT_BUDGET
from stages.fit.losses import RankForm
from stages.fit.pooled_models import POOLED_MODELS, create, default_stream, option_names
from stages.fit.spans import Stream
from stages.fit.targets import Normalise
from store.errors import FacepipeError

SettingsT = TypeVar("SettingsT", bound=BaseModel)
MEASURED = ("max_frames", "extra_dim")  # options of models that the data settles


class ConfigError(FacepipeError, ValueError):
    """A setting that does not exist, or a value that it cannot take."""


class SplitConfig(BaseModel):
    """Shares of the labelled clips that choose the epoch, and that test."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    val: float = Field(default=0.15, gt=0, lt=1)
    test: float = Field(default=0.2, gt=0, lt=1)


class TrainConfig(BaseModel):
    """How a network is trained. The paper states none of these values; all defaults are ours."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(
        default=150, ge=1, description="At most this many passes over the training clips"
    )
    patience: int = Field(
        default=100, ge=1, description="Stop after so many epochs without one worth keeping"
    )
    batch_size: int = Field(
        default=16, ge=2, description="Clips; the ranking loss compares within a batch"
    )
    bucket: int = Field(
        default=4, ge=1, description="A batch is clips of like length among so many batches; 1: any"
    )
    lr: float = Field(
        default=2e-3, gt=0, description="Highest learning rate: warm-up, then cosine to 0"
    )
    warmup: int = Field(default=5, ge=1, description="Epochs over which the learning rate rises")
    weight_decay: float = Field(default=1e-2, ge=0, description="AdamW's")
    clip_norm: float = Field(
        default=1.0, gt=0, description="Gradients are scaled down to this norm"
    )
    alpha: float = Field(default=1.0, ge=0, description="Weight of the margin ranking loss")
    delta: float = Field(
        default=0.5, ge=0, description="Its margin, in standard deviations of the label"
    )
    loss: RankForm = Field(
        default="normalised", description="Form of the ranking loss, see losses.py"
    )
    plcc: float = Field(
        default=0.0, ge=0, description="Weight of the linear-correlation loss, see losses.py"
    )
    refit: bool = Field(
        default=True, description="Train again on train and val together, for the epochs chosen"
    )
    ema: float = Field(
        default=0.97, ge=0, lt=1, description="Decay of the averaged weights; 0: none"
    )
    device: Literal["cpu", "cuda"] = Field(
        default="cpu", description="Where networks are trained; results are the same only on one"
    )
    amp: bool = Field(
        default=False, description="Mixed precision: bfloat16 where it is safe; with cuda only"
    )
    compile: bool = Field(
        default=False, description="torch.compile: a minute to begin with, then faster steps"
    )
    tensorboard: bool = Field(
        default=False, description="Log to tensorboard/ in the run's folder, beside epochs.csv"
    )

    @model_validator(mode="after")
    def _amp_is_for_cuda(self) -> TrainConfig:
        if self.amp and self.device != "cuda":
            raise ValueError("amp=true needs train.device=cuda")
        return self


class FitConfig(BaseModel):
    """All settings of one fit.

    ``model_options`` are the model's own constructor arguments; ``model.channels=32`` sets one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: str = "2stcn"
    model_options: dict[str, Any] = Field(default_factory=dict)
    stream: Stream = Field(
        default="appearance",
        pattern=r"^[\w.-]+( *\+ *[\w.-]+)*$",
        description="The array that the appearance stream reads; several with + between",
    )
    landmarks: LandmarkMode = Field(default="clip", description="Normalisation, see landmarks.py")
    normalise: Normalise = Field(
        default="none", description="Predict the score relative to its subset, see targets.py"
    )
    features: str | None = Field(
        default=None, description="Folder of an array beside the store, read as a third stream"
    )
    fps: float | None = Field(
        default=None, gt=0, description="Common frame rate; none: as recorded"
    )
    max_frames: int | None = Field(
        default=None, ge=1, description="Longer clips: their middle; none: all"
    )
    budget: int = Field(
        default=DEFAULT_BUDGET,
        ge=0,
        description="Bytes of features kept in memory, beside some 300 MB at work",
    )
    group: GroupBy = Field(
        default="auto",
        description="Kept on one side: person, by name; clip, each by itself; auto, those and the "
        "persons that the embeddings show",
    )
    seed: int = Field(
        default=0, ge=0, description="Of the split, the weights, the order and the bootstrap"
    )
    bootstrap: int = Field(default=2000, ge=100, description="Draws behind each interval")
    split: SplitConfig = SplitConfig()
    train: TrainConfig = TrainConfig()

    @field_validator("normalise", mode="before")
    @classmethod
    def _none_is_a_word(cls, value: object) -> object:
        return "none" if value is None else value


OF_FRAMES = ("mdr", "au")  # which `pipeline fit` takes too, each with settings of its own


def _keys() -> list[str]:
    plain = [k for k in FitConfig.model_fields if k not in ("split", "train", "model_options")]
    split = [f"split.{k}" for k in SplitConfig.model_fields]
    return plain + split + [f"train.{k}" for k in TrainConfig.model_fields]


def keys(model: str = "2stcn") -> list[str]:
    """Every key that can be set, the options of ``model`` among them."""
    own = option_names(model) if model in POOLED_MODELS else models.options(model)
    return _keys() + [f"model.{k}" for k in own if k not in MEASURED]


def parse_value(text: str) -> Any:
    """Read a value as JSON where it is (numbers, true, null); otherwise it is a word."""
    lowered = text.strip()
    if lowered.lower() in ("none", "true", "false", "null"):
        lowered = {"none": "null"}.get(lowered.lower(), lowered.lower())
    try:
        return json.loads(lowered)
    except ValueError:
        return text.strip()


def apply_overrides(config: FitConfig, overrides: Iterable[str]) -> FitConfig:
    """Return the configuration with settings of the form ``key=value`` changed.

    Training settings may leave out their ``train.``: ``lr=0.001`` is ``train.lr=0.001``.

    Raises
    ------
    ConfigError
        Not key=value, a key that does not exist (names the nearest), or an impossible value.
    ModelError
        An unknown model.
    """
    data = config.model_dump()
    pairs: list[tuple[str, str]] = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"'{text}' is not of the form key=value", "for example seed=1")
        pairs.append((key.strip(), value))
    for key, value in pairs:  # first, since it decides which options there are
        if key == "model":
            data["model"] = value.strip()
    if data["model"] not in (*models.names(), *POOLED_MODELS):
        raise models.unknown(data["model"], [*models.names(), *POOLED_MODELS, *OF_FRAMES])
    if data["model"] in POOLED_MODELS and config.stream == FitConfig.model_fields["stream"].default:
        data["stream"] = default_stream(data["model"])
    valid = keys(data["model"])
    for key, value in pairs:
        name = f"train.{key}" if key in TrainConfig.model_fields else key
        if name not in valid:
            short = {k.removeprefix("train."): k for k in valid}
            near = get_close_matches(key, [*valid, *short], n=1, cutoff=0.4)
            raise ConfigError(
                f"there is no setting '{key}'" + (f"; did you mean '{near[0]}'?" if near else ""),
                f"settings: {', '.join(valid)}",
            )
        section, _, leaf = name.rpartition(".")
        if section == "model":
            data["model_options"][leaf] = parse_value(value)
        elif section:
            data[section][leaf] = parse_value(value)
        elif name != "model":
            data[name] = parse_value(value)
    return validate(data)


def read_settings(kind: type[SettingsT], overrides: Iterable[str]) -> SettingsT:
    """Build flat settings from texts of the form ``key=value``.

    Raises
    ------
    ConfigError
        Not key=value, a key that does not exist (names the nearest), or an impossible value.
    """
    data: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key:
            raise ConfigError(f"'{text}' is not of the form key=value", "for example seed=1")
        if key not in kind.model_fields:
            near = get_close_matches(key, kind.model_fields, n=1, cutoff=0.4)
            raise ConfigError(
                f"there is no setting '{key}'" + (f"; did you mean '{near[0]}'?" if near else ""),
                f"settings: {', '.join(kind.model_fields)}",
            )
        data[key] = parse_value(value)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise _impossible(error) from None


def _impossible(error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return ConfigError(
        f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}, found {first['input']!r}",
        "settings are given as --set key=value",
    )


def validate(data: dict[str, Any]) -> FitConfig:
    """Build a configuration from plain data; ConfigError names the first bad setting."""
    try:
        config = FitConfig.model_validate(data)
    except ValidationError as error:
        raise _impossible(error) from None
    check_options(config)
    return config


def check_options(config: FitConfig) -> None:
    """Raise ModelError for an unknown model, an option that it lacks, or an impossible value.

    ConfigError for further features that the model would not look at.
    """
    if config.model not in POOLED_MODELS:
        models.check_options(config.model, config.model_options)
        if config.features is not None:
            models.check_third_stream(config.model)
        return
    create(config.model, **config.model_options)
    if config.features is not None and config.model_options.get("streams") == "landmarks":
        raise ConfigError(
            f"{config.model} on the landmarks alone would not read {config.features}",
            "leave out model.streams=landmarks, or features",
        )
