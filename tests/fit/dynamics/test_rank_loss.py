from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from stages.fit.dynamics.rank_loss import differences, rank_loss, ranked, sides


def by_hand(
    d: np.ndarray,
    frames: np.ndarray,
    seen: np.ndarray,
    gamma: float,
    epsilon: float,
    theta: float,
) -> tuple[float, int]:
    """The printed sums, one pair after the other; frame t is the middle one."""
    t = reach = len(frames) // 2
    total, pairs = 0.0, 0

    def hinge(a: int, b: int) -> None:
        nonlocal total, pairs
        if seen[a] and seen[b]:
            total += max(0.0, theta - (d @ frames[a] - d @ frames[b]))
            pairs += 1

    for b in range(t - reach, t):
        for a in range(b + 1, t + 1):
            hinge(a, b)
    for a in range(t, t + reach):
        for b in range(a + 1, t + reach + 1):
            hinge(a, b)
    return gamma * float(d @ d) - epsilon + total, pairs


def test_loss_at_points_worked_by_hand() -> None:
    # T = 1: pairs (t, t - 1) and (t, t + 1). S: t - 1 -> 1, t -> 3, t + 1 -> 2.5.
    d = torch.tensor([[1.0, 2.0]])
    window = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [0.5, 1.0]]])
    seen = torch.ones(1, 3, dtype=torch.bool)
    # delta 2 and 0.5, theta 1: hinges 0 and 0.5; ||d||^2 = 5.
    loss = rank_loss(d, window, seen, gamma=0.1, epsilon=0.25, theta=1.0, reduction="sum")
    assert loss.tolist() == pytest.approx([0.1 * 5 - 0.25 + 0.5])
    mean = rank_loss(d, window, seen, gamma=0.1, epsilon=0.25, theta=1.0, reduction="mean")
    assert mean.tolist() == pytest.approx([0.1 * 5 - 0.25 + 0.25])


@pytest.mark.parametrize("reach", [1, 2, 5])
@pytest.mark.parametrize("hidden", [0, 2])
def test_loss_is_the_printed_sum_with_the_limit_corrected(reach: int, hidden: int) -> None:
    rng = np.random.default_rng(reach)
    d, frames = rng.normal(size=3), rng.normal(size=(2 * reach + 1, 3))
    seen = np.ones(2 * reach + 1, bool)
    seen[rng.choice(2 * reach + 1, hidden, replace=False)] = False
    expected, pairs = by_hand(d, frames, seen, 0.3, 0.1, 0.7)
    if not hidden:
        assert pairs == reach * (reach + 1)
    args = (torch.from_numpy(x)[None] for x in (d, frames, seen))
    d_, frames_, seen_ = args
    given = {"gamma": 0.3, "epsilon": 0.1, "theta": 0.7}
    assert rank_loss(d_, frames_, seen_, reduction="sum", **given).item() == pytest.approx(expected)
    bare = 0.3 * float(d @ d) - 0.1
    mean = bare + (expected - bare) / max(pairs, 1)
    assert rank_loss(d_, frames_, seen_, reduction="mean", **given).item() == pytest.approx(mean)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_gradient_is_the_numerical_one(reduction: str) -> None:
    torch.manual_seed(0)
    window = torch.randn(2, 7, 4, dtype=torch.float64)
    seen = torch.ones(2, 7, dtype=torch.bool)
    seen[0, 1] = False
    d = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return rank_loss(x, window, seen, gamma=0.2, epsilon=0.5, theta=1.0, reduction=reduction)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(loss, (d,))


def test_epsilon_has_no_gradient_and_gamma_pulls_to_zero() -> None:
    d = torch.tensor([[3.0, 0.0]], requires_grad=True)
    window, seen = torch.zeros(1, 3, 2), torch.ones(1, 3, dtype=torch.bool)
    rank_loss(d, window, seen, gamma=0.5, epsilon=9.0, theta=1.0).sum().backward()
    assert d.grad is not None and d.grad.tolist() == [[3.0, 0.0]]  # 2 gamma d


def test_sides_are_ordered_by_distance() -> None:
    window = torch.arange(5)[None]
    assert sides(window).tolist() == [[[2, 1, 0], [2, 3, 4]]]


def test_accuracy_counts_the_definitions_pairs_alone() -> None:
    score = torch.tensor([[0.0, 2.0, -9.0, 1.0, 1.0]])  # t itself must not matter
    seen = torch.ones(1, 5, dtype=torch.bool)
    right, pairs = ranked(score, seen)
    assert (right.tolist(), pairs.tolist()) == ([1.5], [2.0])  # 2 > 0 right, 1 = 1 half
    for hidden in (0, 1):
        some = seen.clone()
        some[0, hidden] = False
        assert ranked(score, some)[1].tolist() == [1.0]


def test_every_admissible_pair_is_there() -> None:
    reach = 4
    _, pair = differences(torch.zeros(1, 2 * reach + 1), torch.ones(1, 2 * reach + 1).bool())
    found = {tuple(place) for place in torch.nonzero(pair[0]).tolist()}
    wanted = {
        (side, a, b) for side in (0, 1) for a, b in itertools.combinations(range(reach + 1), 2)
    }
    assert found == wanted
