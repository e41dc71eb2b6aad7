"""Which clip it was, when a loss or a gradient is not finite."""

from __future__ import annotations

import torch

from stages.fit.batches import Batch
from stages.fit.models import TemporalModel
from store.errors import FacepipeError


class TrainingError(FacepipeError, ArithmeticError):
    """Training came to no finite result."""


def not_finite(what: str, epoch: int, model: TemporalModel, batch: Batch) -> TrainingError:
    """Return the error for a batch whose ``what`` ("loss", "gradient") is not finite."""
    found = culprits(model, batch)
    clips = ", ".join(found or batch.clips)
    told = f"because of {clips}" if found else f"on the clips {clips}"
    return TrainingError(
        f"the {what} is not finite in epoch {epoch} {told}",
        "look at the scores and features of these clips, or leave them out; else lower lr",
    )


def culprits(model: TemporalModel, batch: Batch) -> list[str]:
    """Clips of a batch that are to blame, each tried by itself; none if all, or no one, are.

    A clip is to blame whose label or features are not finite, or with which alone the squared error
    or its gradient is not. If that holds for every clip, the weights are to blame.
    """
    found = [
        clip
        for k, clip in enumerate(batch.clips)
        if not all(
            bool(torch.isfinite(x[k]).all())
            for x in (batch.score, batch.appearance, batch.landmark)
        )
    ]
    if not found:
        found = [clip for k, clip in enumerate(batch.clips) if not _fits(model, batch, k)]
    return found if len(found) < len(batch.clips) else []


def _fits(model: TemporalModel, batch: Batch, k: int) -> bool:
    """Whether clip ``k`` alone has a finite error and gradient."""
    one = slice(k, k + 1)
    model.zero_grad()
    with torch.enable_grad():
        p = model(
            batch.appearance[one], batch.landmark[one], batch.mask[one], batch.timestamp[one]
        ).score
        loss = ((p - batch.score[one]) ** 2).sum()
        loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    finite = all(bool(torch.isfinite(x).all()) for x in (loss, *gradients))
    model.zero_grad()
    return finite
