"""What every model of stage two is: its input, its output, and the registry that knows its name."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from stages.fit.batches import Batch
from stages.fit.losses import total_loss
from stages.fit.pictures import Pictures
from stages.fit.tasks import Attributes
from store.errors import FacepipeError

if TYPE_CHECKING:
    from stages.fit.config import TrainConfig


class ModelError(FacepipeError, ValueError):
    """No model of that name, or an option that the model does not take."""


@dataclass(frozen=True)
class Prediction:
    """What a model says about a batch of B clips of at most T frames.

    Attributes
    ----------
    score : (B,) float32
        One number a clip, in standardised label units. 0 (the mean training label) for a clip
        without a single valid frame.
    frame_score : (B, T) float32
        Score of every frame before temporal fusion; 0 where the mask is False.
    attention : (B, T) float32 or None
        Weight that the attentive enhancement gave to each frame of the appearance stream (of the
        landmark stream when the direction is ``a2l``); in models without that enhancement the
        attention of their pooling, times the clip's frames, so that 1 is the mean; None in models
        without attention; 0 where the mask is False. One weight a frame: no model here has a gate
        a channel, and one that had would give the mean over its channels.
    attention_landmark : (B, T) float32 or None
        Weight given to the landmark stream; only with direction ``a2l`` or ``both``.
    won : (B, T) float32 or None
        How much of ``score`` was taken from each frame: the weight of its frame score in the
        temporal fusion, without a graph. The frame that won has 1 under ``max`` and ``last``; all
        frames have 1 / n under a mean; they sum to 1, but for ``affine``, whose learned weights may
        have any sign and sum. 0 where the mask is False; None in models that cannot tell.
    classes : dict of (B, C) float32
        By task, the logarithm of each class's probability; empty in models of the score alone.
    """

    score: Tensor
    frame_score: Tensor
    attention: Tensor | None = None
    attention_landmark: Tensor | None = None
    won: Tensor | None = None
    classes: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class StreamStatistics:
    """Per-channel mean and standard deviation of the training frames of both streams.

    ``_mean`` and ``_sd`` over all frames, ``_within`` the deviation of frames from the mean of
    their own clip; (Da,) and (136,) float32. A deviation of 0 is given as 1.
    """

    appearance_mean: Tensor
    appearance_sd: Tensor
    appearance_within: Tensor
    landmark_mean: Tensor
    landmark_sd: Tensor
    landmark_within: Tensor


class TemporalModel(nn.Module, ABC):
    """A network from two streams of frames, or from pictures of some, to one score a clip."""

    sees_order: ClassVar[bool] = True
    """Whether frames in another order can give another score."""
    has_tasks: ClassVar[bool] = False
    """Whether it can learn classes from other columns of the labels."""

    @classmethod
    def pictures(cls, options: Mapping[str, Any]) -> Pictures | None:
        """Return which pictures a model of these options reads in place of features, if any."""
        return None

    @classmethod
    def settle(cls, options: Mapping[str, Any], attributes: Attributes) -> dict[str, Any]:
        """Return the options with what follows from the training clips' other labels."""
        return dict(options)

    def start(self) -> None:
        """Take initial weights from where the options say; called before training alone."""

    def tasks(self) -> Mapping[str, list[str]]:
        """Return the classes of each task beside the score, as in ``Prediction.classes``."""
        return {}

    def loss(self, prediction: Prediction, batch: Batch, config: TrainConfig) -> Tensor:
        """Return what training makes small: () float; of the score alone unless overridden."""
        return total_loss(
            prediction.score,
            batch.score,
            config.alpha,
            config.delta,
            config.loss,
            plcc=config.plcc,
        )

    @abstractmethod
    def forward(
        self, appearance: Tensor, landmark: Tensor, mask: Tensor, timestamp: Tensor | None = None
    ) -> Prediction:
        """Score a padded batch.

        Parameters
        ----------
        appearance : (B, T, Da) float32, or (B, T, S, S, 3) uint8 of models that read pictures
        landmark : (B, T, 136) float32, normalised
        mask : (B, T) bool, False for padding and for frames without a face
        timestamp : (B, T) float64 seconds, optional
        """

    @abstractmethod
    def set_statistics(self, statistics: StreamStatistics) -> None:
        """Take the training frames' statistics, by which the streams are standardised."""

    def predict(
        self, appearance: Tensor, landmark: Tensor, mask: Tensor, timestamp: Tensor | None = None
    ) -> Prediction:
        """``forward`` without dropout and without a graph; the mode is put back afterwards."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                result: Prediction = self(appearance, landmark, mask, timestamp)
        finally:
            self.train(training)
        return result


ModelT = TypeVar("ModelT", bound=type[TemporalModel])
_REGISTRY: dict[str, type[TemporalModel]] = {}


def register(name: str) -> Callable[[ModelT], ModelT]:
    """Make a model known by ``name``; a name that is taken is a programming error."""

    def decorate(model: ModelT) -> ModelT:
        if name in _REGISTRY:
            raise ValueError(f"the model name '{name}' is taken by {_REGISTRY[name].__name__}")
        _REGISTRY[name] = model
        return model

    return decorate


def names() -> list[str]:
    """Names of all registered models, sorted."""
    return sorted(_REGISTRY)


def get(name: str) -> type[TemporalModel]:
    """Return the class registered as ``name``; ModelError that lists the names otherwise."""
    try:
        return _REGISTRY[name]
    except KeyError:
        raise unknown(name, names()) from None


def unknown(name: str, known: Sequence[str]) -> ModelError:
    """Return the error for a name that is none of those; names the nearest."""
    near = get_close_matches(name, known, n=1, cutoff=0.4)
    return ModelError(
        f"there is no model named '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""),
        f"known models: {', '.join(known)}",
    )


def options(name: str) -> dict[str, Any]:
    """Return the constructor arguments of a model and their defaults, in order."""
    parameters = inspect.signature(get(name)).parameters.values()
    return {p.name: p.default for p in parameters}


def check_options(name: str, given: dict[str, Any]) -> None:
    """Raise ModelError for an option that the model lacks, or a value of the wrong type."""
    hints = get_type_hints(get(name).__init__)
    valid = options(name)
    for key, value in given.items():
        if key not in valid:
            near = get_close_matches(key, valid, n=1, cutoff=0.4)
            raise ModelError(
                f"model '{name}' has no option '{key}'"
                + (f"; did you mean '{near[0]}'?" if near else ""),
                f"options of {name}: {', '.join(valid)}",
            )
        try:
            TypeAdapter(hints[key]).validate_python(value, strict=True)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise ModelError(f"{key} of model '{name}': {reason}, found {value!r}") from None


def pictures(name: str, given: Mapping[str, Any]) -> Pictures | None:
    """Return which pictures a model reads with options as given; None: features.

    Also None for a name that is not registered: models that pool over time read features.
    """
    if name not in _REGISTRY:
        return None
    return get(name).pictures({**options(name), **given})


def has_tasks(name: str) -> bool:
    """Whether a model can learn classes beside the score; False for one that is not registered."""
    return name in _REGISTRY and get(name).has_tasks


def complete(name: str, given: dict[str, Any], longest: int, extra: int = 0) -> dict[str, Any]:
    """Every option of a model: what is given, else its default, for clips of ``longest`` frames.

    ``max_frames`` is ``longest`` unless given, where the model has it: a convolutional network's
    depth follows from it, others have no use for it. ``extra`` is the width of a third stream.
    """
    valid = options(name)
    fitted = {"max_frames": longest} if "max_frames" in valid else {}
    third = {"extra_dim": extra} if extra else {}
    return {**valid, **fitted, **given, **third}


def check_third_stream(name: str) -> None:
    """Raise ModelError if a model takes no stream beside appearance and landmarks."""
    if "extra_dim" not in options(name):
        raise ModelError(
            f"model '{name}' takes no further features",
            "leave out features, or choose another model",
        )


@dataclass(frozen=True)
class Description:
    """What a model is: one line, and where it comes from."""

    name: str
    summary: str
    source: str


def describe(name: str) -> Description:
    """First line of a model's docstring, and the "Source:" paragraph of its module's."""
    model = get(name)
    summary = (inspect.getdoc(model) or "").split("\n", 1)[0]
    return Description(name, summary, source_of(inspect.getdoc(inspect.getmodule(model)) or ""))


def source_of(docstring: str) -> str:
    """Return the "Source:" paragraph of a docstring as one line, without that word."""
    for paragraph in docstring.split("\n\n"):
        if paragraph.startswith("Source: "):
            return " ".join(paragraph.removeprefix("Source: ").split())
    return ""


def create(name: str, **kwargs: Any) -> TemporalModel:
    """Build a registered model.

    Raises
    ------
    ModelError
        Unknown name (the message's hint lists the names), unknown option or impossible value.
    """
    model = get(name)
    check_options(name, kwargs)
    return model(**kwargs)


def choose(option: str, value: str, allowed: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of ``allowed``; ModelError otherwise."""
    if value not in allowed:
        raise ModelError(f"{option} must be one of {', '.join(allowed)}, not {value!r}")
    return value
