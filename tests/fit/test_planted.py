"""Small versions of benchmarks/planted.py: what a model can see and what it cannot."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from benchmarks.planted_truths import APPEARANCE_DIM, Planted, plant
from stages.fit import models
from stages.fit.config import TrainConfig
from stages.fit.metrics import spearman
from stages.fit.pooled import PooledRegressor
from stages.fit.pooled_models import POOLED_MODELS
from stages.fit.reproducible import reproducible
from stages.fit.trainer import LabelScale, predict, refit

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
    # After 20 epochs half of the seeds have not found it, after 40 it hangs on the processor.
    assert network_src("2stcn", world, 60) > 0.6


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


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/planted.py, which finds its neighbours beside it."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("planted")


def test_every_model_that_reads_features_can_be_measured(benchmark: ModuleType) -> None:
    names = benchmark.known()
    assert set(POOLED_MODELS) <= set(names) and {"2stcn", "tcn", "gdlt"} <= set(names)
    assert all(models.pictures(name, {}) for name in set(models.names()) - set(names))
    world = plant("a", 40, 0, frames=6)
    parts = [np.arange(24), np.arange(24, 32), np.array([39, 34, 36, 35, 33, 32, 37, 38])]
    for name in names:
        found = benchmark.fitted(name, world, parts, world.score, 1, 0)
        assert found.shape == (8,) and np.isfinite(found).all(), name


def test_intervals_hold_what_differs_between_worlds(benchmark: ModuleType) -> None:
    """Those of fits that were given had told .790 to .848 of worlds from .644 to .947."""
    told = benchmark.over_worlds([0.8443, 0.9466, 0.644, 0.8332, 0.8521])
    by_hand = stats.t.interval(0.95, 4, 0.82404, stats.sem([0.8443, 0.9466, 0.644, 0.8332, 0.8521]))
    np.testing.assert_allclose([told["low"], told["high"]], by_hand)
    assert benchmark.over_worlds([0.99, 1.0, 0.9])["high"] == 1


def test_slices_are_merged_into_one_map(benchmark: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "map.json"
    assert benchmark.earlier(out, {"seeds": 5}) == {}
    out.write_text(json.dumps({"seeds": 5, "table": {"tcn": {"b": 1, "a": 2}, "gru": {"a": 3}}}))
    held = benchmark.earlier(out, {"seeds": 5})
    found = benchmark.merged(held, {"tcn": {"a": 4, "e": 5}, "meanpool": {"a": 6}})
    assert found == {"tcn": {"a": 4, "b": 1, "e": 5}, "gru": {"a": 3}, "meanpool": {"a": 6}}
    assert list(found["tcn"]) == ["a", "b", "e"]
    with pytest.raises(SystemExit, match="other seeds"):
        benchmark.earlier(out, {"seeds": 2})


def _clips(world: Planted) -> list:  # type: ignore[type-arg]
    return list(world.loader(range(len(world.score))).iter_clips())
