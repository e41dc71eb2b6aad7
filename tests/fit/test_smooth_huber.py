from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stages.fit.smooth_huber import SCORE_LOSSES, log_cosh, score_loss


def at(error: float, form: str, delta: float = 0.6) -> float:
    p, g = torch.tensor([0.0], dtype=torch.float64), torch.tensor([error], dtype=torch.float64)
    return float(score_loss(p, g, form, delta))  # type: ignore[arg-type]


# By hand, delta 0.6: log cosh 0.5 = 0.12011451, log cosh 0.6 = 0.17013529, log cosh 1 = 0.43378083.
@pytest.mark.parametrize(
    ("form", "error", "want"),
    [
        ("smooth-huber", 0.5, 0.12011451),
        ("smooth-huber", -0.5, 0.12011451),
        ("smooth-huber", 1.0, 0.17013529 + 0.6 * 0.4),
        ("smooth-huber", -2.0, 0.17013529 + 0.6 * 1.4),
        ("slide", 0.5, 0.12011451),
        ("slide", 1.0, 0.6 * 1.0 - 0.18),
        ("slide", -2.0, 1.02),
        ("repository", 0.5, 0.12011451),
        ("repository", 1.5, 1.5),
        ("mse", 1.5, 2.25),
        ("l1", -1.5, 1.5),
        ("smooth-l1", 0.5, 0.125),
        ("smooth-l1", 2.0, 1.5),
    ],
)
def test_at_points_worked_out_by_hand(form: str, error: float, want: float) -> None:
    assert at(error, form) == pytest.approx(want, abs=1e-8)


def test_the_repository_puts_the_mean_of_the_batch_for_large_errors() -> None:
    p, g = torch.zeros(3, dtype=torch.float64), torch.tensor([0.5, 1.0, -3.0]).double()
    want = (0.12011451 + 1.5 + 1.5) / 3
    assert float(score_loss(p, g, "repository")) == pytest.approx(want, abs=1e-8)


@pytest.mark.parametrize("delta", [0.05, 0.6, 1.0, 3.0])
def test_the_default_is_continuous_convex_and_rises_where_the_slide_jumps(delta: float) -> None:
    near = 1e-9
    for sign in (1, -1):
        below, above = (at(sign * (delta + e), "smooth-huber", delta) for e in (-near, near))
        assert above - below == pytest.approx(0, abs=1e-8)
    jump = at(delta + near, "slide", delta) - at(delta - near, "slide", delta)
    assert jump == pytest.approx(delta**2 / 2 - math.log(math.cosh(delta)), abs=1e-8)
    values = [at(e, "smooth-huber", delta) for e in np.linspace(-4, 4, 401)]
    slopes = [b - a for a, b in zip(values, values[1:], strict=False)]
    assert all(b >= a - 1e-12 for a, b in zip(slopes, slopes[1:], strict=False))


@pytest.mark.parametrize("form", SCORE_LOSSES)
def test_gradients_agree_with_differences(form: str) -> None:
    g = torch.tensor([0.0, 0.3, -0.2, 1.5, -2.5], dtype=torch.float64)
    p = torch.tensor([0.25, 0.1, 0.2, 0.05, -0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: score_loss(x, g, form), (p,))


def test_log_cosh_does_not_overflow() -> None:
    x = torch.tensor([-1000.0, 0.0, 1000.0])
    torch.testing.assert_close(log_cosh(x), torch.tensor([1.0, 0.0, 1.0]) * (1000 - math.log(2)))


def test_what_it_cannot_take_is_named() -> None:
    with pytest.raises(ValueError, match="smooth-huber, slide"):
        at(0.0, "huber")
    with pytest.raises(ValueError, match="above 0"):
        at(0.0, "slide", 0.0)
