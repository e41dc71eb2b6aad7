"""What holds for every registered model, and the equations of the rivals by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.fit import models, pooled
from stages.fit.config import FitConfig, apply_overrides
from stages.fit.models.attention import Attention, TimeEncoding
from stages.fit.models.cam_tcn import ActivationMapTCN
from stages.fit.models.gcn import face_graph
from stages.fit.models.gru import memory_pooling
from stages.fit.models.pooling import SoftMaxPooling
from stages.fit.run import fit, load_run
from tests.fit.test_models import inputs

PICTURES = ("alexnet", "resnet18", "resnext50")  # tests/fit/test_hmtnet.py
NAMES = [name for name in models.names() if name not in PICTURES]
TIME = torch.arange(11, dtype=torch.float64).expand(3, 11) / 25
SMALL = {"channels": 6, "appearance_dim": 5, "levels": 2, "heads": 2, "hidden": 8, "tau": 3}
REGULAR = ("dropout", "appearance_dropout", "landmark_dropout", "static_dropout", "clip_noise")


def small(name: str, **options: object) -> models.TemporalModel:
    """A little network without chance in it, and with weights as after training."""
    torch.manual_seed(0)
    valid = models.options(name)
    chosen = {**SMALL, **dict.fromkeys(REGULAR, 0.0), **options}
    model = models.create(name, **{k: v for k, v in chosen.items() if k in valid})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def test_all_that_were_built_are_registered() -> None:
    assert set(models.names()) == {
        *("2stcn", "2stcn-plus", "cam-tcn", "gcn", "gdlt", "gru", "siamese", "tcn", "transformer"),
        *("hmtnet", *PICTURES),
    }
    assert not set(NAMES) & set(pooled.POOLED)


@pytest.mark.parametrize("name", NAMES)
def test_padding_never_changes_a_score(name: str) -> None:
    model = small(name)
    app, lmk, mask = inputs()
    batch = model.predict(app, lmk, mask, TIME)
    assert batch.score.shape == (3,) and batch.frame_score.shape == (3, 11)
    assert float(batch.score.std()) > 1e-3
    assert bool((batch.frame_score[~mask] == 0).all())
    if batch.attention is not None:
        assert batch.attention.shape == (3, 11)
        assert bool((batch.attention[~mask] == 0).all())
        assert bool((batch.attention[mask] > 0).all())
    for b in range(3):
        n = int(mask[b].nonzero().max()) + 1
        one = slice(b, b + 1)
        alone = model.predict(app[one, :n], lmk[one, :n], mask[one, :n], TIME[one, :n])
        torch.testing.assert_close(alone.score[0], batch.score[b], rtol=1e-4, atol=1e-5)
        frames = batch.frame_score[b, :n]
        torch.testing.assert_close(alone.frame_score[0], frames, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_what_lies_in_masked_frames_cannot_matter(name: str) -> None:
    app, lmk, mask = inputs()
    noise = 1e3 * (~mask)[..., None]
    model = small(name)
    clean = model.predict(app, lmk, mask, TIME)
    dirty = model.predict(app + noise, lmk - noise, mask, TIME)
    torch.testing.assert_close(clean.score, dirty.score, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(clean.frame_score, dirty.frame_score, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_without_a_face_scores_0_and_every_weight_gets_a_finite_gradient(name: str) -> None:
    model = small(name)
    app, lmk, mask = inputs()
    mask[1] = False
    out = model(app * mask[..., None], lmk * mask[..., None], mask, TIME)
    assert out.score[1] == 0
    out.score.square().sum().backward()
    grads = {key: p.grad for key, p in model.named_parameters()}
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in grads.values()), [
        key for key, g in grads.items() if g is None
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_still_has_a_score(name: str) -> None:
    app, lmk, _ = inputs()
    found = small(name).predict(app[:, 5:6], lmk[:, 5:6], torch.ones(3, 1, dtype=torch.bool))
    assert found.score.shape == (3,) and bool(torch.isfinite(found.score).all())
    assert float(found.score.std()) > 0


@pytest.mark.parametrize("name", NAMES)
def test_streams_are_standardised_by_the_training_frames(name: str) -> None:
    """Features in other units, with statistics in those units, give the same scores."""
    app, lmk, mask = inputs()
    model = small(name)
    one = [torch.zeros(5), torch.ones(5), torch.ones(5)]
    two = [torch.zeros(136), torch.ones(136), torch.ones(136)]
    model.set_statistics(models.StreamStatistics(*one, *two))
    first = model.predict(app, lmk, mask, TIME).score
    wide = [torch.full((5,), v) for v in (7.0, 4.0, 4.0)]
    far = [torch.full((136,), v) for v in (-3.0, 10.0, 10.0)]
    model.set_statistics(models.StreamStatistics(*wide, *far))
    again = model.predict(4 * app + 7, 10 * lmk - 3, mask, TIME).score
    torch.testing.assert_close(first, again, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "2stcn"])
def test_every_model_can_be_fitted_saved_and_loaded(
    name: str, made: tuple[Path, Path], tmp_path: Path
) -> None:
    config = apply_overrides(FitConfig(model=name, bootstrap=100), ["epochs=1", "batch_size=8"])
    result = fit(*made, tmp_path / "run", config)
    assert math.isfinite(result.test.mae)
    found = load_run(tmp_path / "run").predict(made[0])
    assert len(found) == 36 and np.isfinite(found["score"]).all()


def test_each_model_says_what_it_is_and_where_it_comes_from() -> None:
    for told in [*map(models.describe, models.names()), *map(pooled.describe, pooled.POOLED)]:
        assert told.summary.endswith((".", "?")) and len(told.summary) > 20, told
        assert len(told.source) > 40, told.name


def test_options_are_completed_by_the_longest_clip_where_they_depend_on_it() -> None:
    assert models.complete("tcn", {}, 77)["max_frames"] == 77
    assert models.complete("tcn", {"max_frames": 5}, 77)["max_frames"] == 5
    assert "max_frames" not in models.complete("gru", {"tau": 3}, 77)
    assert models.complete("gru", {"tau": 3}, 77)["tau"] == 3


def test_memory_pooling_by_hand() -> None:
    q = torch.tensor([[3.0, 1.0, 2.0, 9.0]])
    mask = torch.tensor([[True, True, True, False]])
    found = memory_pooling(q, mask, tau=2, beta=0.25)[0]

    def soft(*values: float) -> float:
        weights = [math.exp(-v) for v in values]
        return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)

    past = [3, 1, 1]
    ahead = [soft(3, 1), soft(1, 2), 2.0]
    want = [0.25 * a + 0.75 * p for a, p in zip(ahead, past, strict=True)]
    torch.testing.assert_close(found, torch.tensor([*want, 0.0]))


def test_soft_max_pooling_lies_between_mean_and_maximum() -> None:
    score = torch.tensor([[1.0, 4.0, -2.0, 50.0]])
    mask = torch.tensor([[True, True, True, False]])
    even = torch.full((1, 4), 0.7)
    assert SoftMaxPooling(1e-3)(score, mask, even).item() == pytest.approx(1.0, abs=5e-3)
    assert SoftMaxPooling(1e3)(score, mask, even).item() == pytest.approx(4.0, abs=5e-3)
    b, weight = 2.0, torch.tensor([[0.1, 0.3, 0.6, 9.0]])
    want = math.log(0.1 * math.exp(2) + 0.3 * math.exp(8) + 0.6 * math.exp(-4)) / b
    assert SoftMaxPooling(b)(score, mask, weight).item() == pytest.approx(want, rel=1e-5)
    assert SoftMaxPooling(b)(score, mask & False, even).item() == 0


def test_the_time_code_is_of_seconds_since_the_first_face() -> None:
    code = TimeEncoding(8)
    mask = torch.tensor([[False, True, True, True]])
    time = torch.tensor([[0.0, 0.5, 1.0, 1.7]], dtype=torch.float64)
    found = code(time, mask)
    torch.testing.assert_close(found, code(time + 123.0, mask))
    assert bool((found[0, 0] == 0).all())
    period = np.geomspace(0.1, 60, 4)
    since = 1.2
    want = [*np.sin(2 * np.pi * since / period), *np.cos(2 * np.pi * since / period)]
    np.testing.assert_allclose(found[0, 3], want, atol=1e-5)
    even = torch.arange(4, dtype=torch.float64).unsqueeze(0) / 25
    torch.testing.assert_close(code(None, mask), code(even, mask), rtol=1e-4, atol=1e-4)


def test_attention_weights_sum_to_1_over_valid_frames() -> None:
    torch.manual_seed(0)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    y, weight = Attention(8, 2, 0.0)(torch.randn(2, 4, 8), torch.randn(2, 3, 8), mask)
    assert y.shape == (2, 4, 8) and weight.shape == (2, 4, 3)
    torch.testing.assert_close(weight[0].sum(dim=1), torch.ones(4))
    assert bool((weight[0, :, 2] == 0).all()) and bool((weight[1] == 0).all())


def _orders(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    app, lmk, _ = inputs()
    mask = torch.ones(3, 11, dtype=torch.bool)
    model = small(name)
    there = model.predict(app, lmk, mask, TIME).score
    return there, model.predict(app.flip(1), lmk.flip(1), mask, TIME).score


def test_some_models_do_not_see_order_and_the_others_do() -> None:
    for name in NAMES:
        there, back = _orders(name)
        seen = float((there - back).abs().max())
        blind = name == "gdlt" or not models.get(name).sees_order
        assert (seen < 1e-4) if blind else (seen > 1e-3), (name, seen)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("tcn", {"stream": "both"}, "landmarks, appearance"),
        ("tcn", {"temporal_fusion": "mean"}, "last, affine, max"),
        ("gru", {"tau": 0}, "tau must be at least 1"),
        ("gru", {"beta": 1.5}, "beta must be at least 0"),
        ("transformer", {"channels": 5, "heads": 4}, "multiple of heads"),
        ("gdlt", {"grades": 1}, "grades must be at least 2"),
        ("gdlt", {"hidden": 9, "heads": 3}, "even"),
        ("2stcn-plus", {"sharpness": 0.0}, "sharpness"),
        ("2stcn-plus", {"static_dropout": 1.0}, "below 1"),
    ],
)
def test_impossible_options_are_named(name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(models.ModelError, match=said):
        models.create(name, **options)


def test_the_face_graph_is_connected_symmetric_and_has_no_strangers() -> None:
    graph = face_graph()
    assert graph.shape == (68, 68) and torch.equal(graph, graph.T)
    reached = torch.linalg.matrix_power((graph > 0).double(), 68)
    assert bool((reached > 0).all())
    assert bool(graph[36, 41] > 0) and bool(graph[36, 37] > 0) and graph[36, 60] == 0


def test_the_activation_map_adds_up_to_the_score() -> None:
    model = small("cam-tcn")
    assert isinstance(model, ActivationMapTCN)
    app, lmk, mask = inputs()
    with torch.no_grad():
        found = model.eval().activation_map(lmk, mask)
    told = model.predict(app, lmk, mask)
    assert found.shape == (3, 11, 68)
    torch.testing.assert_close(found.mean(dim=2), told.frame_score)
    for b in range(3):
        torch.testing.assert_close(found[b][mask[b]].mean(), told.score[b])
    # One point's trajectory changes that point's row of the map alone, within the clip.
    moved = lmk.clone()
    moved[0, :, 40] += torch.randn(11) * mask[0]
    with torch.no_grad():
        changed = (model.activation_map(moved, mask) - found).abs().amax(dim=1) > 1e-6
    assert changed[0].nonzero().flatten().tolist() == [20] and not bool(changed[1:].any())


def test_siamese_pairs_by_hand() -> None:
    """Two channels that rise and fall: the ascents' weight alone tells the mean ascent."""
    model = small("siamese", streams="landmarks", hidden=1)
    app, _, _ = inputs()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.project["landmark"].weight[0, 0] = 1  # type: ignore[index, union-attr]
        model.project["landmark"].bias[0] = 50  # keeps the ReLU open  # type: ignore[index, union-attr]
        model.shared[2].weight[0, 0] = 1  # type: ignore[index, union-attr]
        model.head.weight[0, 1] = 1  # ascents of the first lag  # type: ignore[index, union-attr]
    lmk = torch.zeros(1, 6, 136)
    lmk[0, :, 0] = torch.tensor([0.0, 0.4, 0.1, 9.0, 0.3, 0.5])
    mask = torch.tensor([[True, True, True, False, True, True]])
    found = model.predict(app[:1, :6], lmk, mask)
    gain = 136 / 136  # of Standardise; the level's mean falls out of every difference
    want = (math.tanh(0.4 * gain) + 0 + math.tanh(0.2 * gain)) / 3
    assert found.score.item() == pytest.approx(want, abs=1e-5)
    assert found.frame_score[0, 1].item() == pytest.approx(0, abs=1e-6)
