from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.fit.losses import correlation_loss, margin_ranking_loss, total_loss


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def printed_by_hand(p: list[float], g: list[float], delta: float) -> float:
    total = 0.0
    for i in range(len(p)):
        for j in range(i + 1, len(p)):
            sign = (g[j] > g[i]) - (g[j] < g[i])
            total += max((p[i] - p[j]) * sign + delta, 0)
    return total


def test_printed_form_on_four_clips_with_a_tie() -> None:
    p, g = [0.2, 0.9, 0.4, 0.1], [1.0, 2.0, 2.0, 0.5]
    # (1,2): -.7+.5 -> 0   (1,3): -.2+.5 = .3   (1,4): -(.1)+.5 = .4
    # (2,3): tied, .5      (2,4): -.8+.5 -> 0   (3,4): -.3+.5 = .2        sum 1.4
    loss = margin_ranking_loss(tensor(*p), tensor(*g), 0.5, "printed")
    assert loss.item() == pytest.approx(1.4, abs=1e-12)
    assert loss.item() == pytest.approx(printed_by_hand(p, g, 0.5), abs=1e-12)


def test_normalised_form_on_the_same_clips() -> None:
    # Five pairs are not tied; margins min(.5, |dg|) = .5 .5 .5 .5 .5 but (1,4) has |dg| = .5 too.
    # .3 + .4 + .2 = .9 over 5 pairs.
    loss = margin_ranking_loss(tensor(0.2, 0.9, 0.4, 0.1), tensor(1, 2, 2, 0.5), 0.5)
    assert loss.item() == pytest.approx(0.9 / 5, abs=1e-12)


def test_adaptive_margin_is_no_wider_than_the_labels() -> None:
    p, g = tensor(0.0, 0.1), tensor(0.0, 0.1)
    assert margin_ranking_loss(p, g, 0.5).item() == pytest.approx(0, abs=1e-12)
    fixed = margin_ranking_loss(p, g, 0.5, "normalised", adaptive=False)
    assert fixed.item() == pytest.approx(0.4, abs=1e-12)


def test_a_tied_pair_adds_delta_and_no_gradient_when_printed() -> None:
    p = tensor(0.3, 0.9).requires_grad_()
    loss = margin_ranking_loss(p, tensor(1, 1), 0.25, "printed")
    loss.backward()
    assert loss.item() == 0.25
    assert p.grad is not None and torch.equal(p.grad, torch.zeros(2, dtype=torch.float64))
    assert margin_ranking_loss(p, tensor(1, 1), 0.25).item() == 0


def test_printed_grows_with_pairs_and_normalised_does_not() -> None:
    p, g = torch.zeros(32), torch.arange(32.0)
    assert margin_ranking_loss(p, g, 1.0, "printed").item() == 496
    assert margin_ranking_loss(p, g, 1.0).item() == pytest.approx(1.0)


def test_collapsed_predictions_have_a_gradient_when_delta_is_positive() -> None:
    p = torch.zeros(4, requires_grad=True)
    margin_ranking_loss(p, torch.arange(4.0), 0.1).backward()
    assert p.grad is not None
    assert (
        p.grad[0] > 0 > p.grad[-1]
    )  # down the gradient: the lowest label falls, the highest rises


def test_one_clip_gives_zero_that_can_be_trained_on() -> None:
    p = torch.zeros(1, requires_grad=True)
    loss = margin_ranking_loss(p, torch.ones(1), 0.5)
    loss.backward()
    assert loss.item() == 0 and p.grad is not None and p.grad.item() == 0


def test_total_is_mse_plus_alpha_rank() -> None:
    p, g = tensor(0.2, 0.9, 0.4, 0.1), tensor(1, 2, 2, 0.5)
    mse = (0.8**2 + 1.1**2 + 1.6**2 + 0.4**2) / 4
    assert total_loss(p, g, 3.0, 0.5).item() == pytest.approx(mse + 3 * 0.18, abs=1e-12)


@pytest.mark.parametrize("form", ["sum", ""])
def test_unknown_form_is_refused(form: str) -> None:
    with pytest.raises(ValueError, match="printed"):
        margin_ranking_loss(torch.zeros(2), torch.zeros(2), 0.1, form)  # type: ignore[arg-type]


scores = st.lists(
    st.tuples(st.floats(-3, 3), st.sampled_from([0.0, 0.5, 1.0, 2.0])), min_size=2, max_size=8
)


@given(scores, st.floats(0, 2))
def test_printed_form_agrees_with_the_formula(pairs: list[tuple[float, float]], d: float) -> None:
    p, g = [a for a, _ in pairs], [b for _, b in pairs]
    loss = margin_ranking_loss(tensor(*p), tensor(*g), d, "printed").item()
    assert math.isclose(loss, printed_by_hand(p, g, d), abs_tol=1e-9)


@given(scores, st.floats(0, 2), st.randoms(use_true_random=False))
def test_order_of_clips_does_not_matter(pairs, d, random) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(pairs)
    random.shuffle(shuffled)
    a, b = (
        margin_ranking_loss(tensor(*(x for x, _ in q)), tensor(*(y for _, y in q)), d).item()
        for q in (pairs, shuffled)
    )
    assert math.isclose(a, b, abs_tol=1e-9)


def test_correlation_loss_is_pearsons_and_knows_where_there_is_none() -> None:
    rng = np.random.default_rng(0)
    p, g = rng.normal(size=9), rng.normal(size=9)
    r = float(np.corrcoef(p, g)[0, 1])
    found = correlation_loss(torch.tensor(p), torch.tensor(g))
    assert found.item() == pytest.approx((1 - r) / 2, abs=1e-12)
    assert correlation_loss(3 * torch.tensor(p) + 7, torch.tensor(g)).item() == pytest.approx(
        found.item()
    )
    flat = torch.zeros(9, requires_grad=True)
    loss = correlation_loss(flat, torch.tensor(g, dtype=torch.float32))
    loss.backward()
    assert loss.item() == 0.5 and flat.grad is not None and bool((flat.grad == 0).all())


def test_total_loss_adds_the_correlation_loss_by_its_weight() -> None:
    p, g = torch.tensor([1.0, 3.0, 2.0, 0.0]), torch.tensor([1.0, 2.0, 4.0, 0.5])
    plain = total_loss(p, g, 1.0, 0.5)
    want = plain + 0.7 * correlation_loss(p, g)
    torch.testing.assert_close(total_loss(p, g, 1.0, 0.5, plcc=0.7), want)
