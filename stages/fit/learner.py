"""A network in training: weights, their average, the optimiser, and one epoch after the other."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from stages.fit.batches import Batch
from stages.fit.checkpoint import CheckpointError, Snapshot, equal, named
from stages.fit.config import ConfigError, TrainConfig
from stages.fit.guard import not_finite
from stages.fit.loader import ClipLoader
from stages.fit.models import Prediction, TemporalModel

EpochRow = dict[str, float]


class Average:
    """Exponential moving average of the weights: what is validated, kept and used.

    With few clips one step moves the validation loss as much as ten epochs do; the average makes
    the choice of an epoch less of a lottery. Ours. ``decay`` 0 is the weights themselves.
    """

    def __init__(self, model: TemporalModel, decay: float) -> None:
        self.model = copy.deepcopy(model)
        self.decay = decay
        self.steps = 0

    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights after one more step."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 9))  # young averages forget sooner
        with torch.no_grad():
            torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
            now = running(model)
            for name, kept in running(self.model).items():
                kept.copy_(now[name])


def running(model: nn.Module) -> dict[str, Tensor]:
    """Return the statistics that batch normalisation keeps while training: averages already."""
    return {
        f"{prefix}.{name}": buffer
        for prefix, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for name, buffer in module.named_buffers(recurse=False)
    }


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """Linear warm-up, then a half cosine towards 0 at the end; ``epoch`` from 1."""
    rise = min(1.0, epoch / config.warmup)
    return config.lr * rise * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / config.epochs))


def device_of(config: TrainConfig) -> torch.device:
    """Return the device that a configuration asks for.

    Raises
    ------
    ConfigError
        CUDA is asked for and torch has none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"train.device=cuda: PyTorch {torch.__version__} has no CUDA device here",
            "install a CUDA build of PyTorch and see `pipeline doctor`, or leave train.device out",
        )
    return torch.device(config.device)


class Learner:
    """Trains a network in place, on the device that ``config`` names; ``close`` takes it back.

    Attributes
    ----------
    model : TemporalModel
    average : Average
        Of its weights.
    epoch : int
        Epochs that are done.
    """

    def __init__(self, model: TemporalModel, config: TrainConfig) -> None:
        self.device = device_of(config)
        self.config = config
        self.model = model.to(self.device)
        self.average = Average(model, config.ema)
        self.epoch = 0
        self._optimiser = torch.optim.AdamW(
            model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self._network: Callable[..., Prediction] = self.model
        if config.compile:
            self._network = torch.compile(model, dynamic=True)

    def run_epoch(self, clips: ClipLoader, seed: int) -> EpochRow:
        """Train on every clip once; returns the epoch's number, mean loss, gradient norm and lr.

        Raises
        ------
        TrainingError
            A loss or a gradient that is not finite; names the clips.
        """
        config = self.config
        self.epoch += 1
        rate = learning_rate(config, self.epoch)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self.model.train()
        total, norms, steps, count = 0.0, 0.0, 0, 0
        for batch in clips.batches(
            config.batch_size, shuffle=True, seed=seed, epoch=self.epoch, bucket=config.bucket
        ):
            loss, norm = self.step(batch.to(self.device))
            total += loss * len(batch.clips)
            norms += norm
            count += len(batch.clips)
            steps += 1
        return {
            "epoch": self.epoch,
            "train_loss": total / count,
            "grad_norm": norms / steps,
            "lr": rate,
        }

    def step(self, batch: Batch) -> tuple[float, float]:
        """Take one step on a batch; returns its loss and the gradient's norm before clipping."""
        config = self.config
        self._optimiser.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.amp):
            told = self._network(batch.appearance, batch.landmark, batch.mask, batch.timestamp)
        classes = {task: values.float() for task, values in told.classes.items()}
        told = replace(told, score=told.score.float(), classes=classes)
        loss = self.model.loss(told, batch, config)
        if not bool(torch.isfinite(loss)):
            raise not_finite("loss", self.epoch, self.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        if not bool(torch.isfinite(norm)):
            raise not_finite("gradient", self.epoch, self.model, batch)
        self._optimiser.step()
        self.average.update(self.model)
        return float(loss.detach()), float(norm)

    def snapshot(self) -> Snapshot:
        """Return all that the next epoch hangs on, beside data and configuration."""
        tensors = named("model", self.model.state_dict())
        tensors |= named("average", self.average.model.state_dict())
        for index, state in self._optimiser.state_dict()["state"].items():
            tensors |= named(f"optimiser.{index}", state)
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        return Snapshot(tensors, {"epoch": self.epoch, "steps": self.average.steps})

    def restore(self, saved: Snapshot) -> None:
        """Go back to where ``snapshot`` was taken.

        Raises
        ------
        CheckpointError
            It was taken with features of other statistics, or of another network.
        """
        moving = running(self.model)
        buffers = {n: b.cpu() for n, b in self.model.named_buffers() if n not in moving}
        weights = saved.part("model")
        if not equal(
            {n: b for n, b in buffers.items() if n in weights},
            {n: w for n, w in weights.items() if n in buffers},
        ):
            raise CheckpointError(
                "the unfinished fit was begun on other features of these clips",
                "give the store that it was begun with, another --run, or remove the run's folder",
            )
        self.model.load_state_dict(weights)
        self.average.model.load_state_dict(saved.part("average"))
        self.average.steps = int(saved.facts["steps"])
        self.epoch = int(saved.facts["epoch"])
        state = self._optimiser.state_dict()
        count = sum(len(group["params"]) for group in state["param_groups"])
        kept = {index: saved.part(f"optimiser.{index}") for index in range(count)}
        state["state"] = {index: values for index, values in kept.items() if values}
        self._optimiser.load_state_dict(state)
        torch.set_rng_state(saved.tensors["random.cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(saved.tensors["random.cuda"], self.device)

    def close(self, weights: dict[str, Tensor]) -> None:
        """Leave the model with these weights, on the CPU."""
        self.model.load_state_dict(weights)
        self.model.cpu()
