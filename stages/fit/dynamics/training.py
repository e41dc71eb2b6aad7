"""Learning the store form from clips of a store, and testing it on others."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stages.fit.batches import Batch, ClipData
from stages.fit.dynamics.config import MdrConfig
from stages.fit.dynamics.generator import Generator
from stages.fit.dynamics.rank_loss import rank_loss
from stages.fit.dynamics.ranking import accuracy, rank_svm
from stages.fit.dynamics.windows import around, spread
from stages.fit.guard import TrainingError

FloatArray = npt.NDArray[np.float64]
EpochDone = Callable[[dict[str, float]], None]


class Clips(Protocol):
    """Clips that can be read more than once; a ClipLoader reads them from a store."""

    def iter_clips(self) -> Iterator[ClipData]:
        """Every clip once."""

    def batches(
        self, batch_size: int, *, shuffle: bool = False, seed: int = 0, epoch: int = 0
    ) -> Iterator[Batch]:
        """Every clip once, in padded batches; shuffled, by (seed, epoch)."""


def frame_features(clip: ClipData) -> Tensor:
    """(n, C) float32 of one clip: appearance, then landmarks; 0 where no face is seen."""
    parts = [clip.appearance.astype(np.float32), clip.landmark.astype(np.float32)]
    return torch.from_numpy(np.concatenate(parts, axis=1))


def new_generator(clips: Clips, config: MdrConfig) -> Generator:
    """Make a generator with the statistics of those clips; it has learnt nothing yet."""
    count = 0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0
    within: Tensor | float = 0.0
    for clip in clips.iter_clips():
        x = frame_features(clip)[torch.from_numpy(clip.valid)].double()  # (v, C)
        apart = x - x.mean(dim=0)
        count += len(x)
        total = total + x.sum(dim=0)
        squares = squares + x.square().sum(dim=0)
        within = within + apart.T @ apart
    assert isinstance(total, Tensor) and isinstance(squares, Tensor) and isinstance(within, Tensor)
    mean = total / count
    covariance = within / count
    # Where nothing moves there is nothing to rank: such a channel keeps its units.
    sd = (squares / count - mean.square()).clamp(min=0).sqrt()
    inside = covariance.diagonal().sqrt()
    channels = len(mean)
    components = min(config.components, channels)
    generator = Generator(channels, config.windows, components, config.hidden, config.dropout)
    generator.set_statistics(
        mean.float(),
        torch.where(sd < 1e-6, 1.0, sd).float(),
        torch.where(inside < 1e-6, 1.0, inside).float(),
        covariance.float(),
    )
    return generator


def learn(
    generator: Generator,
    clips: Clips,
    config: MdrConfig,
    epochs: int,
    seed: int,
    judge: Callable[[Generator], float] | None = None,
    progress: EpochDone | None = None,
) -> int:
    """Minimise the rank loss of all scales together, in place.

    Parameters
    ----------
    generator : Generator
        From ``new_generator``.
    clips : Clips
    config : MdrConfig
    epochs : int
    seed : int
    judge : callable, optional
        Accuracy on other clips; the generator ends as it was when that was highest, and learning
        stops ``config.patience`` epochs after. Left out, it ends as it is after the last epoch.
    progress : callable, optional
        Gets epoch, loss and accuracy of every epoch.

    Returns
    -------
    int
        The epoch that was kept; 0: nothing that was learnt ranks better than the still itself.

    Raises
    ------
    TrainingError
        A loss that is not finite.
    """
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(
        generator.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    best, kept = (judge(generator) if judge else math.nan), 0
    state = copy.deepcopy(generator.state_dict())
    for epoch in range(1, epochs + 1):
        losses = []
        generator.train()
        for batch in clips.batches(config.batch_size, shuffle=True, seed=seed, epoch=epoch):
            loss = _loss(generator, batch, config, rng)
            if loss is None:
                continue
            if not bool(torch.isfinite(loss)):
                raise TrainingError(f"the rank loss is not finite in epoch {epoch}", "lower lr")
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(float(loss.detach()))
        generator.eval()
        found = judge(generator) if judge else math.nan
        if progress is not None:
            loss_now = float(np.mean(losses)) if losses else math.nan
            progress({"epoch": epoch, "loss": loss_now, "accuracy": found})
        if judge is None or found > best:
            best, kept = found, epoch
            if judge is not None:
                state = copy.deepcopy(generator.state_dict())
        elif epoch - kept >= config.patience:
            break
    if judge is not None:
        generator.load_state_dict(state)
    generator.eval()
    return kept


def _loss(
    generator: Generator, batch: Batch, config: MdrConfig, rng: np.random.Generator
) -> Tensor | None:
    """Mean of the loss over targets drawn from a batch and over the scales; None without a face."""
    x = torch.cat([batch.appearance, batch.landmark], dim=2)  # (B, T, C)
    frames = generator.psi(x)  # (B, T, K)
    chosen: list[tuple[Tensor, int]] = []
    for row, mask in enumerate(batch.mask):
        shown = torch.nonzero(mask).flatten().numpy()
        if len(shown):
            some = rng.choice(shown, min(config.targets, len(shown)), replace=False)
            chosen.append((torch.from_numpy(some), row))
    if not chosen:
        return None
    d = generator(torch.cat([x[row][places] for places, row in chosen]))  # (N, scales, K)
    losses = []
    for k, reach in enumerate(generator.windows):
        window, seen = [], []
        for places, row in chosen:
            rows, there = around(places, x.shape[1], reach)
            window.append(frames[row][rows])  # (n, 2T + 1, K)
            seen.append(there & batch.mask[row][rows])
        losses.append(scale_loss(d[:, k], torch.cat(window), torch.cat(seen), config))
    return torch.stack(losses).mean()


def scale_loss(d: Tensor, window: Tensor, seen: Tensor, config: MdrConfig) -> Tensor:
    """Mean rank loss of one scale by the settings; see rank_loss for the shapes."""
    return rank_loss(
        d,
        window,
        seen,
        gamma=config.gamma,
        epsilon=config.epsilon,
        theta=config.theta,
        reduction=config.reduction,
    ).mean()


@torch.no_grad()
def accuracies(
    generator: Generator,
    clips: Iterable[ClipData],
    config: MdrConfig,
    *,
    rivals: bool = False,
) -> dict[str, dict[str, list[float]]]:
    """Ranking accuracy by clip id, of every scale: ``mdr``; with ``rivals`` those that stand by it.

    At most ``config.tested`` targets of a clip, evenly spaced; RankSVMs at ``config.bound``.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for clip in clips:
        x, seen = frame_features(clip), torch.from_numpy(clip.valid)
        frames = generator.psi(x)  # (n, K)
        places = spread(torch.nonzero(seen).flatten(), config.tested)
        d = generator(x[places])  # (B, scales, K)
        of: dict[str, list[float]] = {"mdr": []}
        for k, reach in enumerate(generator.windows):
            of["mdr"].append(accuracy(d[:, k], places, frames, seen, reach))
            if rivals:
                alone = accuracy(frames[places], places, frames, seen, reach)
                bound = rank_svm(spread(places, config.bound), frames, seen, reach)
                of.setdefault("still", []).append(alone)
                of.setdefault("rank_svm", []).append(bound)
        found[clip.clip] = of
    return found


def mean_accuracy(generator: Generator, clips: Clips, config: MdrConfig) -> float:
    """Mean over clips and scales; NaN without a pair of frames."""
    found = accuracies(generator, clips.iter_clips(), config)
    values = np.asarray([of["mdr"] for of in found.values()])
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan
