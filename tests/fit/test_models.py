from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from stages.fit import models
from stages.fit.models.base import register
from stages.fit.models.layers import FrameGate, Standardise
from stages.fit.models.pooling import AffinePooling, LastPooling, MaxPooling
from stages.fit.models.tcn import TemporalConvNet, levels_to_cover, receptive_field
from stages.fit.models.two_stream_tcn import TwoStreamTCN

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def small(**options: object) -> TwoStreamTCN:
    torch.manual_seed(0)
    model = models.create("2stcn", **{"channels": 6, "levels": 2, "appearance_dim": 5, **options})
    assert isinstance(model, TwoStreamTCN)
    with torch.no_grad():  # weights as after training: the first scores are nearly 0
        for head in model.head:
            head.weight.normal_()  # type: ignore[union-attr, operator]
    return model


def inputs(b: int = 3, t: int = 11, seed: int = 1) -> Inputs:
    g = torch.Generator().manual_seed(seed)
    mask = torch.ones(b, t, dtype=torch.bool)
    mask[0, 3:5] = False
    mask[1, 7:] = False
    mask[2, :2] = False
    app, lmk = torch.randn(b, t, 5, generator=g), torch.randn(b, t, 136, generator=g)
    return app * mask[..., None], lmk * mask[..., None], mask


COMBINATIONS = [
    *(
        {"attention": False, "modality_fusion": m, "temporal_fusion": t}
        for m, t in itertools.product(("feature", "decision", "score"), ("last", "affine", "max"))
    ),
    *(
        {"direction": d, "gate": g, "residual": r, "modality_fusion": m}
        for d, g, r, m in itertools.product(
            ("l2a", "a2l", "both"),
            ("sigmoid", "softmax"),
            (True, False),
            ("feature", "decision", "score"),
        )
    ),
    *(
        {"streams": s, "temporal_fusion": t, "causal": c}
        for s, t, c in itertools.product(
            ("appearance", "landmarks"), ("last", "affine", "max"), (True, False)
        )
    ),
]


@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda o: "-".join(map(str, o.values())))
def test_every_switch_trains_and_ignores_padding(options: dict[str, object]) -> None:
    model = small(appearance_dropout=0, landmark_dropout=0, dropout=0, **options)
    app, lmk, mask = inputs()
    out = model(app, lmk, mask)
    assert out.score.shape == (3,) and out.frame_score.shape == (3, 11)
    out.score.square().sum().backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(grads) == len(list(model.parameters()))
    assert all(bool(torch.isfinite(g).all()) for g in grads)
    assert any(bool(g.abs().max() > 0) for g in grads)

    # Each clip alone, cut behind its last valid frame, has the score it had in the batch.
    batch = model.predict(app, lmk, mask)
    for b in range(3):
        n = int(mask[b].nonzero().max()) + 1
        alone = model.predict(app[b : b + 1, :n], lmk[b : b + 1, :n], mask[b : b + 1, :n])
        torch.testing.assert_close(alone.score[0], batch.score[b], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            alone.frame_score[0], batch.frame_score[b, :n], rtol=1e-4, atol=1e-5
        )
    if batch.attention is not None:
        assert batch.attention.shape == (3, 11)
        assert bool((batch.attention[~mask] == 0).all())
        assert bool((batch.attention[mask] > 0).all())


def test_what_lies_in_masked_frames_cannot_matter() -> None:
    app, lmk, mask = inputs()
    for options in COMBINATIONS:
        model = small(**options)
        clean = model.predict(app, lmk, mask)
        noise = 1e3 * (~mask)[..., None]
        dirty = model.predict(app + noise, lmk - noise, mask)
        torch.testing.assert_close(clean.score, dirty.score, rtol=1e-4, atol=1e-5)


def test_a_clip_without_a_valid_frame_scores_0_and_gives_finite_gradients() -> None:
    app, lmk, mask = inputs()
    mask[1] = False
    for gate, fusion in itertools.product(("sigmoid", "softmax"), ("last", "affine", "max")):
        model = small(gate=gate, temporal_fusion=fusion)
        out = model(app, lmk, mask)
        assert out.score[1] == 0
        out.score.sum().backward()
        assert all(
            bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None
        )


def test_receptive_field_is_the_formula_of_papers_md() -> None:
    assert [receptive_field(3, level) for level in (4, 5, 6, 7)] == [61, 125, 253, 509]
    assert [levels_to_cover(n, 3) for n in (1, 5, 6, 61, 62, 323)] == [1, 1, 2, 4, 5, 7]
    assert small(levels=None, max_frames=323, kernel_size=3).receptive_field == 509


@pytest.mark.parametrize(
    ("kernel", "levels", "causal"), [(2, 3, True), (3, 3, True), (3, 2, False)]
)
def test_receptive_field_is_exact(kernel: int, levels: int, causal: bool) -> None:
    torch.manual_seed(0)
    net = TemporalConvNet(1, 4, kernel, levels, 0.0, causal).double().eval()
    field = receptive_field(kernel, levels)
    t = 2 * field + 3
    x = torch.randn(1, 1, t, dtype=torch.float64, requires_grad=True)
    centre = t // 2
    reached = torch.zeros(t, dtype=torch.bool)
    for _ in range(20):  # ReLUs may shut a path for one draw of the weights
        for p in net.parameters():
            torch.nn.init.normal_(p)
        (grad,) = torch.autograd.grad(net(x, torch.ones(1, 1, t))[0, :, centre].sum(), x)
        reached |= grad[0, 0] != 0
    seen = reached.nonzero().flatten()
    assert int(seen.max() - seen.min()) + 1 == field
    assert int(seen.max()) == (centre if causal else centre + field // 2)


def test_max_last_and_affine_pooling_by_hand() -> None:
    score = torch.tensor([[1.0, 9.0, 3.0, 2.0, 7.0]])
    mask = torch.tensor([[True, False, True, True, False]])
    assert MaxPooling()(score, mask).item() == 3
    assert LastPooling()(score, mask).item() == 2
    affine = AffinePooling(points=5)  # valid scores 1 3 2 at 0, .5, 1 -> 1 2 3 2.5 2
    assert affine(score, mask).item() == pytest.approx((1 + 2 + 3 + 2.5 + 2) / 5)
    with torch.no_grad():
        affine.weight.copy_(torch.tensor([0.0, 0, 0, 1, 0]))
        affine.bias.fill_(10)
    assert affine(score, mask).item() == pytest.approx(12.5)


def test_max_of_negative_scores_is_not_the_padding() -> None:
    score = torch.tensor([[-3.0, -2.0, 0.0, 0.0]])
    assert MaxPooling()(score, torch.tensor([[True, True, False, False]])).item() == -2


def test_softmax_gate_has_mean_weight_1_over_valid_frames() -> None:
    gate = FrameGate(4, "softmax")
    mask = torch.tensor([[[1.0, 1, 0, 1, 0, 0]]])
    weight = gate(torch.randn(1, 4, 6), mask)
    assert weight.sum().item() == pytest.approx(3, abs=1e-5)
    assert bool((weight[mask == 0] == 0).all())


def test_standardise_scales_motion_and_level_apart_and_keeps_both() -> None:
    layer = Standardise(136, level=0.5, noise=0.0)
    layer.set(torch.full((136,), 2.0), torch.full((136,), 4.0), torch.full((136,), 0.1))
    x = torch.full((1, 3, 136), 6.0)
    x[0, 0] += 0.2
    x[0, 1] -= 0.2
    mask = torch.ones(1, 3, 1)
    y = layer(x, mask)
    level = 0.5 * (6.0 - 2.0) / 4.0
    np.testing.assert_allclose(y[0, :, 0], [2 + level, -2 + level, level], rtol=1e-4)


def test_noise_and_stream_dropout_act_only_in_training() -> None:
    model = small(clip_noise=1.0)
    app, lmk, mask = inputs()
    model.train()
    assert not torch.equal(model(app, lmk, mask).score, model(app, lmk, mask).score)
    first = model.predict(app, lmk, mask).score
    assert model.training
    torch.testing.assert_close(first, model.predict(app, lmk, mask).score, rtol=0, atol=0)


def test_stream_dropout_never_hides_both() -> None:
    model = small(appearance_dropout=0.6, landmark_dropout=0.3)
    model.train()
    x = {"appearance": torch.ones(500, 2, 3), "landmark": torch.ones(500, 2, 3)}
    model._hide(x)
    app, lmk = x["appearance"][:, 0, 0] == 0, x["landmark"][:, 0, 0] == 0
    assert not bool((app & lmk).any())
    assert 0.5 < float(app.float().mean()) < 0.7
    assert 0.2 < float(lmk.float().mean()) < 0.4


def test_unknown_model_lists_the_known_ones() -> None:
    with pytest.raises(models.ModelError, match="no model named 'tcn9'") as caught:
        models.create("tcn9")
    assert "2stcn" in caught.value.hint
    assert "2stcn" in models.names()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"chanels": 3}, "did you mean 'channels'"),
        ({"channels": "many"}, "channels of model '2stcn'"),
        ({"channels": 0}, "at least 1"),
        ({"gate": "relu"}, "sigmoid, softmax"),
        ({"streams": "landmarks", "attention": True}, "two streams"),
        ({"dropout": 1.0}, "below 1"),
        ({"appearance_dropout": 0.6, "landmark_dropout": 0.6}, "below 1"),
        ({"level": -1.0}, "at least 0"),
        ({"temporal_fusion": "mean"}, "last, affine, max"),
    ],
)
def test_impossible_options_are_named(options: dict[str, object], said: str) -> None:
    with pytest.raises(models.ModelError, match=said):
        models.create("2stcn", **options)


def test_a_name_cannot_be_taken_twice() -> None:
    with pytest.raises(ValueError, match="taken by TwoStreamTCN"):
        register("2stcn")(TwoStreamTCN)
