# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker_ros.engines.half_precision import HalfPrecision, fold_norms


class Steps(nn.Module):
    """Runs one function on its inputs."""

    def __init__(self, step: Callable[..., Tensor] | nn.Module) -> None:
        super().__init__()
        self.step = step

    def forward(self, *inputs: Tensor) -> tuple[Tensor]:
        return (self.step(*inputs),)


def values(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_it_is_called_in_single_and_computes_in_half() -> None:
    seen = []
    module = HalfPrecision(Steps(lambda x, i: seen.append((x.dtype, i.dtype)) or x[i] * 1.0001))
    (result,) = module(values(4), torch.tensor([1, 2]))
    assert seen == [(torch.float16, torch.int64)]
    assert result.dtype == torch.float32
    assert torch.equal(result, (values(4)[1:3].half() * 1.0001).float())


def norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, (64,), eps=1e-6)


def softmax(x: Tensor) -> Tensor:
    return x.softmax(dim=-1)


def log_softmax(x: Tensor) -> Tensor:
    return torch.log_softmax(x, dim=-1)


@pytest.mark.parametrize("step", [norm, softmax, log_softmax])
def test_norms_and_softmaxes_are_islands_of_single(step: Callable[[Tensor], Tensor]) -> None:
    given = values(2, 64)
    (found,) = HalfPrecision(Steps(step))(given)
    assert torch.equal(found, step(given.half().float()).half().float())


def test_an_island_takes_what_half_precision_cannot_hold() -> None:
    """Sums of squares leave its range at 256 x 16, exponentials at 11."""

    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(64, eps=1e-6)

        def forward(self, tokens: Tensor) -> tuple[Tensor]:
            return (self.norm(tokens * 1000),)

    (found,) = HalfPrecision(Norm())(values(2, 64))
    assert torch.allclose(found, norm(values(2, 64)), atol=5e-3)


def test_attention_sums_in_half_and_weighs_in_single() -> None:
    query, key, value = values(3, 1, 2, 7, 16).unbind(0)
    (found,) = HalfPrecision(Steps(F.scaled_dot_product_attention))(query, key, value)
    expected = F.scaled_dot_product_attention(query, key, value)
    assert torch.allclose(found, expected, atol=3e-3)
    scores = (query.half() * 0.25) @ key.half().transpose(-2, -1)
    weighted = scores.float().softmax(dim=-1).half() @ value.half()
    assert torch.equal(found, weighted.float())


def test_without_islands_torchs_own_kernels_compute() -> None:
    given = values(2, 64)
    (found,) = HalfPrecision(Steps(softmax), islands=False)(given)
    assert torch.equal(found, given.half().softmax(dim=-1).float())


def test_norms_are_folded_before_weights_are_rounded() -> None:
    torch.manual_seed(0)
    chain = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())).eval()
    norm = chain[0][1]
    nn.init.uniform_(norm.running_mean, -1, 1)
    nn.init.constant_(norm.running_var, 1e5)  # infinite in half precision
    image = values(1, 3, 8, 8)
    expected = chain(image)
    folded = HalfPrecision(Steps(chain))
    assert isinstance(chain[0][1], nn.BatchNorm2d), "the module that was given is changed"
    (found,) = folded(image)
    atol = float(expected.detach().abs().max()) * 2e-3
    assert torch.allclose(found, expected, rtol=1e-2, atol=atol)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fold_norms(chain).modules())
    assert torch.allclose(chain(image), expected, rtol=1e-4, atol=1e-3)
