"""Small versions of benchmarks/planted.py: what a model can see and what it cannot."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.planted_truths import APPEARANCE_DIM, Planted, plant
from stages.fit import models
from stages.fit.config import TrainConfig
from stages.fit.metrics import spearman
from stages.fit.pooled import PooledRegressor
from stages.fit.trainer import LabelScale, predict, refit, reproducible

LEARN, TEST = np.arange(96), np.arange(96, 160)


def pooled_src(kind: str, world: Planted) -> float:
    model = PooledRegressor(kind).fit(world.loader(LEARN).iter_clips(), world.score[LEARN])
    return spearman(model.predict(world.loader(TEST).iter_clips()), world.score[TEST])


def network_src(name: str, world: Planted, epochs: int) -> float:
    label = LabelScale.of(world.score[LEARN].tolist())
    loader = world.loader(LEARN, (world.score - label.mean) / label.sd)
    with reproducible(0):
        options = {"appearance_dim": APPEARANCE_DIM, "channels": 8}
        model = models.create(name, **models.complete(name, options, loader.longest()))
        model.set_statistics(loader.statistics())
        refit(model, loader, epochs, TrainConfig(epochs=epochs, lr=1e-2), 0)
    found = predict(model, world.loader(TEST), 64)[1].double().numpy()
    return spearman(found, world.score[TEST])


def test_the_time_average_is_blind_to_frequency_and_the_networks_and_statistics_are_not() -> None:
    world = plant("b", 160, 0, frames=50)
    # Three standard errors of SRC over 64 clips.
    assert abs(pooled_src("meanpool", world)) < 3 / 63**0.5
    assert pooled_src("statpool", world) > 0.8
    assert network_src("2stcn", world, 40) > 0.6  # after 20, half of the seeds have not found it


@pytest.mark.parametrize("kind", ["meanpool", "statpool"])
def test_who_it_is_shows_in_a_time_average_and_chance_does_not(kind: str) -> None:
    assert pooled_src(kind, plant("a", 160, 0, frames=10)) > 0.7
    assert abs(pooled_src(kind, plant("e", 160, 0, frames=10))) < 3 / 63**0.5


def test_channel_offsets_reverse_the_pooled_order_of_f() -> None:
    world = plant("f", 160, 0, frames=5)
    x = np.stack([clip.appearance[clip.valid].mean(axis=0) for clip in _clips(world)])
    direction = np.linalg.lstsq(
        np.column_stack([x, np.eye(4)[world.channel]]), world.score, rcond=None
    )[0][:-4]
    along = x @ direction
    assert spearman(along, world.score) < -0.3
    for channel in range(4):
        here = world.channel == channel
        assert spearman(along[here], world.score[here]) > 0.8


def test_shuffling_keeps_the_frames_and_loses_their_order() -> None:
    world = plant("c", 4, 0)
    mixed = world.shuffled(1)
    for a, b in zip(_clips(world), _clips(mixed), strict=True):
        assert not np.array_equal(a.landmark, b.landmark)
        np.testing.assert_array_equal(a.timestamp, b.timestamp)
        np.testing.assert_array_equal(
            np.sort(a.appearance[a.valid], axis=0), np.sort(b.appearance[b.valid], axis=0)
        )


def test_worlds_are_seeded_and_people_of_g_have_one_label() -> None:
    first, second = plant("g", 24, 3), plant("g", 24, 3)
    np.testing.assert_array_equal(first.arrays["landmark"], second.arrays["landmark"])
    assert not np.array_equal(first.score, plant("g", 24, 4).score)
    assert [len(set(first.score[first.person == p])) for p in range(6)] == [1] * 6
    assert len(set(first.score)) == 6


def _clips(world: Planted) -> list:  # type: ignore[type-arg]
    return list(world.loader(range(len(world.score))).iter_clips())
