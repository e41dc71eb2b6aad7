"""How the network is computed is ours; what it computes is Bai et al.'s, here written out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, pad

from stages.fit.models.layers import Standardise
from stages.fit.models.tcn import MaskedDropout, TemporalConvNet


def masks(b: int, t: int) -> Tensor:
    mask = torch.ones(b, 1, t)
    mask[0, 0, t // 2 :] = 0
    mask[1, 0, 3:6] = 0
    return mask


def plainly(net: TemporalConvNet, x: Tensor, mask: Tensor, kernel: int, causal: bool) -> Tensor:
    for level, block in enumerate(net.blocks):
        reach = (kernel - 1) * 2**level
        around = (reach, 0) if causal else (reach // 2, reach - reach // 2)
        y = x
        for convolution in (block.first, block.second):
            c = convolution.conv  # type: ignore[union-attr]
            y = torch.relu(
                conv1d(pad(y * mask, around), c.weight, c.bias, dilation=2**level)  # type: ignore
            )
        x = torch.relu(y + block.residual(x))  # type: ignore[operator]
    return x * mask


@pytest.mark.parametrize("side_by_side", [True, False])
@pytest.mark.parametrize(("kernel", "causal"), [(3, False), (3, True), (2, False), (4, True)])
def test_it_is_the_plain_network(kernel: int, causal: bool, side_by_side: bool) -> None:
    torch.manual_seed(0)
    net = TemporalConvNet(3, 5, kernel, 3, 0.2, causal).double().eval()
    mask = masks(4, 23).double()
    x = torch.randn(4, 23, 3, dtype=torch.float64).transpose(1, 2)
    x = x if side_by_side else x.contiguous()
    other = copy.deepcopy(net)
    found, expected = net(x, mask), plainly(other, x, mask, kernel, causal)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    for (name, a), b in zip(net.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_dropout_keeps_its_share_and_the_mean_and_hides_masked_frames(share: float) -> None:
    torch.manual_seed(0)
    layer = MaskedDropout(share)
    mask = masks(8, 1001)
    x = torch.ones(8, 16, 1001)
    y = layer(x, mask)
    shown = y[(mask > 0).expand_as(y)]
    n = shown.numel()
    assert float((shown == 0).float().mean()) == pytest.approx(share, abs=4 / n**0.5)
    assert float(shown.mean()) == pytest.approx(1, abs=4 / n**0.5)
    assert shown.unique().tolist() == pytest.approx([0, 1 / (1 - share)], rel=1e-4)
    assert bool((y[(mask == 0).expand_as(y)] == 0).all())
    dropped = (y[2:] == 0).float()  # neighbours in memory share one draw
    pairs = torch.corrcoef(torch.stack([dropped[:, :-1].flatten(), dropped[:, 1:].flatten()]))
    assert abs(float(pairs[0, 1])) < 4 / n**0.5
    assert not torch.equal(y, layer(x, mask))
    assert torch.equal(layer.eval()(x, mask), x * mask)


def test_projecting_at_once_is_standardising_first() -> None:
    torch.manual_seed(0)
    layer = Standardise(7, level=0.3, noise=0.5).double()
    layer.set(torch.randn(7), torch.rand(7) + 0.5, torch.rand(7) + 0.1)
    project = nn.Linear(7, 3).double()
    mask = masks(4, 11).double().transpose(1, 2)
    mask[3] = 0
    x = torch.randn(4, 11, 7, dtype=torch.float64) + 5
    torch.manual_seed(1)
    y = layer(x, mask)
    torch.manual_seed(1)
    found, mean = layer.project(x, mask, project.weight, project.bias)
    torch.testing.assert_close(found, (project(y) * mask).transpose(1, 2))
    count = mask.sum(dim=1).clamp(min=1)
    torch.testing.assert_close(mean, y.sum(dim=1) / count)
