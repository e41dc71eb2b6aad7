from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import store
from stages.fit import models
from stages.fit.config import TrainConfig
from stages.fit.guard import TrainingError
from stages.fit.learner import Average, learning_rate
from stages.fit.loader import ClipLoader
from stages.fit.reproducible import reproducible
from stages.fit.spans import clip_spans
from stages.fit.trainer import (
    EpochChoice,
    LabelScale,
    TrainResult,
    predict,
    refit,
    train,
)
from tests.fit.fit_clips import make_store

QUICK = TrainConfig(epochs=6, patience=3, batch_size=8, lr=5e-3)


def loaders(path: Path) -> tuple[ClipLoader, ClipLoader]:
    source = store.open(path)
    spans = list(clip_spans(source).values())
    scores = {s.clip: math.sin(k) for k, s in enumerate(spans)}
    return ClipLoader(source, spans[:20], scores), ClipLoader(source, spans[20:], scores)


def fit(
    path: Path, seed: int, config: TrainConfig = QUICK
) -> tuple[models.TemporalModel, TrainResult]:
    first, second = loaders(path)
    with reproducible(seed):
        model = models.create("2stcn", channels=4, levels=2)
        model.set_statistics(first.statistics())
        return model, train(model, first, second, config, seed)


def test_same_seed_same_result_bit_for_bit(made: tuple[Path, Path]) -> None:
    torch.manual_seed(123)
    (a, ra), _, (b, rb) = fit(made[0], 1), torch.rand(17), fit(made[0], 1)
    c, rc = fit(made[0], 2)
    assert ra.epochs == rb.epochs and ra.best_epoch == rb.best_epoch
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs)
    assert rc.epochs != ra.epochs


def test_seeding_leaves_the_callers_generator_alone() -> None:
    torch.manual_seed(5)
    with reproducible(1):
        torch.rand(3)
        assert torch.are_deterministic_algorithms_enabled()
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_model_ends_with_the_best_epoch_on_validation(made: tuple[Path, Path]) -> None:
    rows: list[dict[str, float]] = []
    first, second = loaders(made[0])
    config = QUICK.model_copy(update={"alpha": 0.0, "epochs": 8})
    with reproducible(3):
        model = models.create("2stcn", channels=4, levels=2)
        model.set_statistics(first.statistics())
        result = train(model, first, second, config, 3, rows.append)
    assert rows == result.epochs and [r["epoch"] for r in rows] == list(range(1, len(rows) + 1))
    _, p, g = predict(model, second)
    kept = rows[result.best_epoch - 1]["val_mse"]
    assert float(((p - g) ** 2).mean()) == pytest.approx(kept, rel=1e-5)


def test_refit_takes_the_steps_that_training_took(made: tuple[Path, Path]) -> None:
    """On the same clips it comes to the same weights, bit for bit."""
    first, second = loaders(made[0])
    config = QUICK.model_copy(update={"patience": 6})
    with reproducible(4):
        model = models.create("2stcn", channels=4, levels=2)
        model.set_statistics(first.statistics())
        result = train(model, first, second, config, 4)
    with reproducible(4):
        again = models.create("2stcn", channels=4, levels=2)
        again.set_statistics(first.statistics())
        refit(again, first, result.best_epoch, config, 4)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_last_epoch_within_one_standard_error_is_chosen() -> None:
    choice = EpochChoice()
    base = np.array([1.0, 2.0, 3.0, 2.0])
    assert choice.offer(1, base)
    assert choice.offer(2, base + [0.5, -0.4, 0.4, -0.3])  # +.05, standard error .23
    assert not choice.offer(3, base + 0.1)  # worse for every clip alike: no error to hide in
    assert not choice.offer(4, base + [0.9, 0.1, 0.8, 0.2])  # +.5, standard error .2
    assert not choice.offer(5, np.full(4, np.nan))
    assert choice.epoch == 2
    assert choice.offer(6, base - 0.5)
    assert not choice.offer(7, base)  # measured against the new best
    assert choice.epoch == 6


def test_stops_when_patience_is_out(made: tuple[Path, Path]) -> None:
    config = TrainConfig(epochs=40, patience=2, batch_size=8, lr=0.05, ema=0)
    _, result = fit(made[0], 0, config)
    assert len(result.epochs) == result.best_epoch + 2 < 40


def test_learns_a_motion_that_it_has_not_seen_before(tmp_path: Path) -> None:
    labels = make_store(tmp_path / "s.store", clips=120, persons=120, seed=4)
    source = store.open(tmp_path / "s.store")
    spans = list(clip_spans(source).values())
    scale = LabelScale.of([s for _, s, _ in labels[:80]])
    scores = {c: (s - scale.mean) / scale.sd for c, s, _ in labels}
    parts = [ClipLoader(source, spans[a:b], scores) for a, b in ((0, 80), (80, 96), (96, 120))]
    with reproducible(0):
        model = models.create("2stcn", channels=8, levels=3)
        model.set_statistics(parts[0].statistics())
        config = TrainConfig(epochs=40, batch_size=8, lr=5e-3)
        result = train(model, parts[0], parts[1], config, 0)
    assert result.epochs[-1]["train_loss"] < 0.5 * result.epochs[0]["train_loss"]
    _, p, g = predict(model, parts[2])
    assert float(torch.corrcoef(torch.stack([p, g]))[0, 1]) > 0.6


def test_a_score_that_is_not_finite_is_reported_with_its_clips(made: tuple[Path, Path]) -> None:
    first, second = loaders(made[0])
    first.scores[first.clips[3].clip] = math.inf
    model = models.create("2stcn", channels=4, levels=1)
    with pytest.raises(TrainingError, match=first.clips[3].clip):
        train(model, first, second, QUICK, 0)


def test_learning_rate_rises_then_falls() -> None:
    config = TrainConfig(epochs=100, warmup=5, lr=1.0)
    rates = [learning_rate(config, e) for e in range(1, 101)]
    assert rates[0] == pytest.approx(0.2) and rates.index(max(rates)) == 4
    assert rates[4:] == sorted(rates[4:], reverse=True) and 0 < rates[-1] < 1e-3


def test_average_without_decay_is_the_model_itself() -> None:
    model = models.create("2stcn", channels=2, levels=1)
    average = Average(model, 0.0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    average.update(model)
    for a, b in zip(average.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_label_scale_of_equal_labels() -> None:
    assert LabelScale.of([2.0, 2.0]) == LabelScale(2.0, 1.0)
    assert LabelScale.of([1.0, 3.0]) == LabelScale(2.0, 1.0)
