"""How fast 2stcn trains: a step against PyPI's pytorch-tcn, and an epoch of a set like VFAP.

The rival is 2stcn with its two temporal networks taken from the package pytorch-tcn (as many
levels, channels and taps, weight norm, the same dropout, centred as ours are): projections,
attention, head, loss, optimiser and average are the same code for both. It is spared the masks,
which the package does not have: it reads the padding as frames. Both take whole training steps
(forward, backward, clipping, AdamW, average) on the same batches in turns, now one first and now
the other; medians, and the median of the ratios of neighbours.

Then whole epochs of ``pipeline fit`` with its defaults on a store of 1,430 clips of 314 frames,
made as in benchmarks/load.py: the first one reads the store, the second finds it in memory.

Ends with one line of JSON; leaves with 1 where our step is the slower one or an epoch takes more
than a minute. Torch has one thread, as in `pipeline fit`.

    python benchmarks/step.py [--clips 1430] [--rounds 40] [--out benchmarks/results/NAME.json]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_tcn
from load import VFAP_CLIPS, make_inputs
from machine import judge, tell, training_machine
from torch import Tensor, nn

import store
from stages.fit import models
from stages.fit.batches import Batch
from stages.fit.config import TrainConfig
from stages.fit.learner import Learner
from stages.fit.loader import ClipLoader
from stages.fit.models.two_stream_tcn import TwoStreamTCN
from stages.fit.reproducible import reproducible
from stages.fit.spans import clip_spans

BATCHES = 8
FLOORS = {"rival_over_ours": 1.0}
CEILINGS = {"epoch_s": 60.0}
VERSIONS = ("facepipe", "torch", "numpy", "pytorch-tcn")
CONFIG = TrainConfig()


class PlainTCN(nn.Module):
    """The package's network in the place of ours."""

    def __init__(self, channels: int, kernel_size: int, levels: int, dropout: float) -> None:
        super().__init__()
        self.net = pytorch_tcn.TCN(
            channels, [channels] * levels, kernel_size, dropout=dropout, causal=False
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, C, T), mask (B, 1, T) float -> (B, C, T)."""
        y: Tensor = self.net(x)
        return y * mask


def rival_of(options: dict[str, Any]) -> TwoStreamTCN:
    """Build 2stcn of these options around the package's networks."""
    model = TwoStreamTCN(**options)
    arguments = options["channels"], options["kernel_size"], model.levels, options["dropout"]
    model.tcn = nn.ModuleList(PlainTCN(*arguments) for _ in range(2))
    return model


def learner_of(model: models.TemporalModel, clips: ClipLoader) -> Learner:
    """Return it ready for a step in the middle of a training."""
    model.set_statistics(clips.statistics())
    model.train()
    learner = Learner(model, CONFIG)
    learner.epoch = CONFIG.warmup
    return learner


def seconds_of_a_step(learner: Learner, batch: Batch) -> float:
    """Take one step; return seconds."""
    begin = time.perf_counter()
    learner.step(batch)
    return time.perf_counter() - begin


def measure_steps(clips: ClipLoader, rounds: int) -> dict[str, list[float]]:
    """Return seconds of each step, ours and the rival's in turn."""
    with reproducible(0):
        options = models.complete("2stcn", {}, clips.longest())
        ours = models.create("2stcn", **options)
        learners = {
            "ours": learner_of(ours, clips),
            "rival": learner_of(rival_of(options), clips),
        }
        drawn = clips.batches(CONFIG.batch_size, shuffle=True, epoch=1, bucket=CONFIG.bucket)
        batches = list(islice(drawn, BATCHES))
        seconds: dict[str, list[float]] = {name: [] for name in learners}
        for turn in range(-BATCHES, rounds):
            names = sorted(learners, reverse=bool(turn % 2))
            for name in names:
                spent = seconds_of_a_step(learners[name], batches[turn % BATCHES])
                if turn >= 0:
                    seconds[name].append(spent)
    return seconds


def measure_epochs(clips: ClipLoader) -> list[float]:
    """Return seconds of the first epoch, which reads the store, and of the second."""
    with reproducible(0):
        model = models.create("2stcn", max_frames=clips.longest())
        learner = Learner(model, CONFIG)
        seconds = []
        for _ in range(2):
            begin = time.perf_counter()
            learner.run_epoch(clips, seed=0)
            seconds.append(time.perf_counter() - begin)
    return seconds


def main() -> int:
    """Run it all, print the figures and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--clips", type=int, default=VFAP_CLIPS)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument(
        "--scratch", type=Path, help="where 1.2 GB can be written; a tempdir if not given"
    )
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    about = training_machine(VERSIONS)
    with tempfile.TemporaryDirectory(dir=given.scratch, prefix="facepipe-step-") as scratch:
        path, _ = make_inputs(Path(scratch), given.clips, npz=False)
        source = store.open(path)
        spans = list(clip_spans(source).values())
        scores = np.random.default_rng(1).normal(size=len(spans)).tolist()
        labelled = {span.clip: score for span, score in zip(spans, scores, strict=True)}
        epochs = measure_epochs(ClipLoader(source, spans, labelled))
        few = ClipLoader(source, spans[: 4 * BATCHES * CONFIG.batch_size], labelled)
        steps = measure_steps(few, given.rounds)
    pairs = zip(steps["rival"], steps["ours"], strict=True)
    figures = {
        "ours_ms": 1e3 * statistics.median(steps["ours"]),
        "rival_ms": 1e3 * statistics.median(steps["rival"]),
        "rival_over_ours": statistics.median(rival / ours for rival, ours in pairs),
        "epoch_s": max(epochs),
        "second_epoch_s": epochs[1],
    }
    short = judge(figures, FLOORS, CEILINGS)
    told = {
        "benchmark": "step",
        **about,
        "clips": given.clips,
        "batch_size": CONFIG.batch_size,
        "seconds": {name: [round(s, 4) for s in values] for name, values in steps.items()},
        "epochs": [round(s, 2) for s in epochs],
        "figures": {name: round(value, 4) for name, value in figures.items()},
        "short_of": short,
    }
    tell(told, given.out)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
