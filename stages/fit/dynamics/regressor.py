"""`mdr` among other models: ridge on what generators say of a clip, both from training clips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.preprocessing import StandardScaler

from stages.fit.batches import Batch, ClipData, collate, draw
from stages.fit.dynamics.config import MdrConfig
from stages.fit.dynamics.generator import Generator
from stages.fit.dynamics.training import frame_features, learn, mean_accuracy, new_generator
from stages.fit.grouped_choice import has_groups, ridge_alpha
from stages.fit.grouping import deal_persons
from stages.fit.models.base import ModelError
from stages.fit.plain import Arrays, Linear, Plain, plain
from stages.fit.pooled_base import INNER_FOLDS, PooledModel, Sample, refuse_unknown
from stages.fit.reproducible import one_thread, reproducible
from stages.fit.summaries import FloatArray

ALPHAS = np.logspace(-2, 6, 17)
CHOOSING = 5  # one of so many parts of the persons chooses the epoch
LENGTHS = 4  # batches' worth of clips from which one of like lengths is drawn


class HeldClips:
    """Clips in memory, given out as a ClipLoader gives them."""

    def __init__(self, clips: Sequence[ClipData]) -> None:
        self._clips = list(clips)

    def iter_clips(self) -> Iterator[ClipData]:
        """Every clip once."""
        return iter(self._clips)

    def batches(
        self, batch_size: int, *, shuffle: bool = False, seed: int = 0, epoch: int = 0
    ) -> Iterator[Batch]:
        """Every clip once, in batches of like lengths; the same for the same (seed, epoch)."""
        rng = np.random.default_rng((seed, epoch))
        held = list(self._clips)
        while held:
            drawn = draw(held, batch_size, LENGTHS, rng) if shuffle else range(batch_size)
            places = set(drawn)
            yield collate([held[k] for k in sorted(places) if k < len(held)], {})
            held = [clip for k, clip in enumerate(held) if k not in places]


class MdrRegressor(PooledModel):
    """Ridge on the mean and the deviation over time of a clip's MDR.

    The generators learn from the order of the training clips' frames, without labels; a fifth of
    their persons chooses the epoch. Then every clip is the time average and deviation of d_t at all
    scales, and ridge, its strength chosen with whole persons left out, learns the score. The
    training clips are held in memory.

    Parameters
    ----------
    name, seed
    windows, gamma, theta, components, hidden, dropout, epochs, patience, targets, batch_size, lr,
    weight_decay
        As of MdrConfig.

    Raises
    ------
    ModelError
        An option that it does not take, or an impossible value.
    """

    options = (
        "windows", "gamma", "theta", "components", "hidden", "dropout", "epochs", "patience",
        "targets", "batch_size", "lr", "weight_decay",
    )  # fmt: skip

    def __init__(self, name: str = "mdr", seed: int = 0, **options: Any) -> None:
        super().__init__(name, seed)
        refuse_unknown(name, options, self.options)
        try:
            self._config = MdrConfig.model_validate({**options, "seed": seed % 2**31})
        except ValidationError as error:
            first = error.errors()[0]
            raise ModelError(
                f"{first['loc'][0]} of model '{name}': {first['msg'].lower()}, "
                f"found {first['input']!r}"
            ) from None
        self._generator: Generator | None = None
        self._mean = self._scale = np.zeros(0)
        self._value: Plain = Linear(np.zeros(0), np.zeros(1))

    def fit(
        self,
        clips: Iterable[ClipData],
        score: npt.ArrayLike,
        attribute: Sequence[str] | None = None,
        group: Sequence[str] | None = None,
    ) -> Self:
        """Learn the generators, then the score; see PooledModel.fit."""
        held = list(clips)
        names = [clip.clip for clip in held] if group is None else list(group)
        shown = [k for k, clip in enumerate(held) if clip.valid.any()]
        if len(shown) >= INNER_FOLDS:  # else fitting says so
            self._learn([held[k] for k in shown], [names[k] for k in shown])
        return super().fit(held, score, attribute, group)

    def _learn(self, clips: Sequence[ClipData], group: Sequence[str]) -> None:
        config = self._config
        chooses: set[int] = set()
        if (persons := len(set(group))) > 1:
            chooses = set(deal_persons(group, min(CHOOSING, persons))[0].tolist())
        train = HeldClips([clip for k, clip in enumerate(clips) if k not in chooses])
        others = HeldClips([clips[k] for k in sorted(chooses)])
        with reproducible(config.seed), one_thread():
            self._generator = generator = new_generator(train, config)
            judge = (lambda g: mean_accuracy(g, others, config)) if chooses else None
            learn(generator, train, config, config.epochs, config.seed, judge)

    @torch.no_grad()
    def _summarise(self, clip: ClipData) -> list[FloatArray]:
        generator = self._generator
        if generator is None:
            return [np.full(1, np.nan)]
        if not clip.valid.any():
            width = 2 * len(generator.windows) * generator.psi.matrix.shape[1]
            return [np.full(width, np.nan)]
        x = frame_features(clip)[torch.from_numpy(clip.valid)]
        d = generator(x).flatten(1).double()  # (v, scales K)
        return [d.mean(dim=0).numpy(), d.std(dim=0, correction=0).numpy()]

    def _fit(self, sample: Sample) -> None:
        scaler = StandardScaler().fit(sample.x)
        self._mean = np.asarray(scaler.mean_, np.float64)
        self._scale = np.asarray(scaler.scale_, np.float64)
        x = (sample.x - self._mean) / self._scale
        group, y = sample.group, sample.target
        if has_groups(group):
            alpha = ridge_alpha(x, y, group, ALPHAS)
        else:
            alpha = float(RidgeCV(ALPHAS).fit(x, y).alpha_)
        self._value = plain(Ridge(alpha).fit(x, y))
        self.strength = {"alpha": alpha}

    def _predict(self, x: FloatArray) -> FloatArray:
        return self._value((x - self._mean) / self._scale)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return the generators, the scaling and the weights."""
        assert self._generator is not None
        tensors = self._generator.state_dict()
        arrays: Arrays = {f"generator.{name}": t.numpy() for name, t in tensors.items()}
        arrays |= {"mean": self._mean, "scale": self._scale}
        arrays |= self._value.arrays()
        return {"channels": int(self._generator.psi.matrix.shape[0])}, arrays

    def restore(self, told: Mapping[str, Any], arrays: Arrays) -> None:
        """Become the fitted model that ``state`` described."""
        config, channels = self._config, int(told["channels"])
        components = min(config.components, channels)
        generator = Generator(channels, config.windows, components, config.hidden, config.dropout)
        prefix = "generator."
        generator.load_state_dict(
            {
                name.removeprefix(prefix): torch.from_numpy(array)
                for name, array in arrays.items()
                if name.startswith(prefix)
            }
        )
        self._generator = generator.eval()
        self._mean, self._scale = arrays["mean"], arrays["scale"]
        self._value = Linear(arrays["weight"], arrays["constant"])
