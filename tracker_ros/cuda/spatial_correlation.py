# SPDX-License-Identifier: Apache-2.0
"""Products of every pixel of one map with a window of another, by compiled kernels.

Definition: Dosovitskiy et al., "FlowNet", ICCV 2015, section 3, with kernel 1 and stride 1, the
sum over channels not divided. Written anew from it. Importing this module registers the operators
`tracker_ros::spatial_correlation`, `::spatial_correlation_grad_first` and `::…_grad_second`. Where
kernels cannot be built, plain torch computes the same.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tracker_ros.cuda.library import kernels

_BLOCK = 16  # as in kernels/spatial_correlation.cuh
_NUMBERS = "SymInt window, SymInt dilation"


def spatial_correlation(first: Tensor, second: Tensor, window: int, dilation: int = 1) -> Tensor:
    """Products of every pixel with a window around its place; first derivatives only.

    Args:
        first: (B, C, H, W) float32 or float64.
        second: (B, C, H, W); what lies outside counts as 0.
        window: Side of the window, odd.
        dilation: Pixels between two of its places.

    Returns:
        (B, window, window, H, W): dy, then dx, from negative to positive.

    Raises:
        ValueError: Shapes do not fit, or the window has no middle.
    """
    if first.dim() != 4 or second.shape != first.shape:
        raise ValueError(
            f"maps have shapes {tuple(first.shape)} and {tuple(second.shape)}; expected twice the "
            "same (B, C, H, W)"
        )
    if window % 2 == 0 or dilation < 1:
        raise ValueError(
            f"window is {window} and dilation {dilation}; expected an odd number and at least 1"
        )
    return _correlate(first, second, window, dilation)


def correlate_padded(first: Tensor, padded: Tensor, window: int, dilation: int) -> Tensor:
    """Products with a map that already has a border of window // 2 * dilation pixels all round.

    Args:
        first: (B, C, H, W).
        padded: (B, C, H + 2 border, W + 2 border).
        window: Side of the window, odd.
        dilation: Pixels between two of its places.

    Returns:
        (B, window, window, H, W): dy, then dx, from negative to positive.
    """
    height, width = first.shape[2:]
    steps = range(0, window * dilation, dilation)
    rows = [
        torch.stack(
            [(first * padded[:, :, i : i + height, j : j + width]).sum(1) for j in steps], 1
        )
        for i in steps
    ]
    return torch.stack(rows, dim=1)


def spatial_correlation_reference(
    first: Tensor, second: Tensor, window: int, dilation: int
) -> Tensor:
    """`spatial_correlation` in plain torch."""
    border = window // 2 * dilation
    return correlate_padded(first, F.pad(second, [border] * 4), window, dilation)


def grad_first_reference(grad: Tensor, second: Tensor, dilation: int) -> Tensor:
    """Gradient of (B, C, H, W) by the first map, for that of the products."""
    _, window, _, height, width = grad.shape
    padded = F.pad(second, [window // 2 * dilation] * 4)
    total = torch.zeros_like(second)
    for i in range(window):
        for j in range(window):
            y, x = i * dilation, j * dilation
            total += grad[:, None, i, j] * padded[:, :, y : y + height, x : x + width]
    return total


def grad_second_reference(grad: Tensor, first: Tensor, dilation: int) -> Tensor:
    """Gradient of (B, C, H, W) by the second map, for that of the products."""
    _, window, _, height, width = grad.shape
    border = window // 2 * dilation
    total = F.pad(torch.zeros_like(first), [border] * 4)
    for i in range(window):
        for j in range(window):
            y, x = i * dilation, j * dilation
            total[:, :, y : y + height, x : x + width] += grad[:, None, i, j] * first
    return total[:, :, border : border + height, border : border + width].contiguous()


def _bordered(maps: Tensor, window: int, dilation: int) -> Tensor:
    """Maps (..., H, W) with a border and whole blocks of columns."""
    border = window // 2 * dilation
    return F.pad(maps, (border, border + -maps.shape[-1] % _BLOCK, border, border)).contiguous()


def _blocks(maps: Tensor) -> Tensor:
    """Maps (..., H, W) with whole blocks of columns."""
    return F.pad(maps, (0, -maps.shape[-1] % _BLOCK)).contiguous()


# Schemas are written out: PyTorch 2.4 cannot read annotations that are strings.
@torch.library.custom_op(
    "tracker_ros::spatial_correlation",
    mutates_args=(),
    schema=f"(Tensor first, Tensor second, {_NUMBERS}) -> Tensor",
)
def _correlate(first: Tensor, second: Tensor, window: int, dilation: int) -> Tensor:
    run = kernels("spatial_correlation", first.device)
    if run is None:
        return spatial_correlation_reference(first, second, window, dilation)
    batch, channels, height, width = first.shape
    out = first.new_empty(batch, window, window, height, width)
    first, second = _blocks(first), _bordered(second, window, dilation)
    sizes = channels, height, width, first.shape[3], *second.shape[2:], window, dilation
    count = batch * window**2 * height * (first.shape[3] // _BLOCK)
    run("spatial_correlation", count, out, first, second, *sizes)
    return out


@_correlate.register_fake
def _(first: Tensor, second: Tensor, window: int, dilation: int) -> Tensor:
    return first.new_empty(first.shape[0], window, window, *first.shape[2:])


@torch.library.custom_op(
    "tracker_ros::spatial_correlation_grad_first",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor second, {_NUMBERS}) -> Tensor",
)
def _grad_first(grad: Tensor, second: Tensor, window: int, dilation: int) -> Tensor:
    """Gradient by `first`, which it does not depend on."""
    run = kernels("spatial_correlation", grad.device)
    if run is None:
        return grad_first_reference(grad, second, dilation)
    return _run_gradient("first", _blocks(grad), second, grad.shape[4], window, dilation)


@torch.library.custom_op(
    "tracker_ros::spatial_correlation_grad_second",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor first, {_NUMBERS}) -> Tensor",
)
def _grad_second(grad: Tensor, first: Tensor, window: int, dilation: int) -> Tensor:
    """Gradient by `second`, which it does not depend on."""
    run = kernels("spatial_correlation", grad.device)
    if run is None:
        return grad_second_reference(grad, first, dilation)
    bordered = _bordered(grad, window, dilation)
    return _run_gradient("second", bordered, first, grad.shape[4], window, dilation)


def _run_gradient(
    by: str, grad: Tensor, other: Tensor, width: int, window: int, dilation: int
) -> Tensor:
    run = kernels("spatial_correlation", grad.device)
    assert run is not None
    out = torch.empty_like(other, memory_format=torch.contiguous_format)
    batch, channels, height, _ = other.shape
    bordered = _bordered(other, window, dilation)
    pitch = width + -width % _BLOCK
    sizes = channels, height, width, pitch, *bordered.shape[2:], window, dilation
    count = batch * channels * height * (pitch // _BLOCK)
    run(f"spatial_correlation_grad_{by}", count, out, grad, bordered, *sizes)
    return out


@_grad_first.register_fake
@_grad_second.register_fake
def _(grad: Tensor, other: Tensor, window: int, dilation: int) -> Tensor:
    return torch.empty_like(other, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    first, second, *ctx.numbers = inputs
    ctx.save_for_backward(first, second)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    first, second = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    return (
        _grad_first(grad, second, *ctx.numbers) if wanted[0] else None,
        _grad_second(grad, first, *ctx.numbers) if wanted[1] else None,
        None,
        None,
    )


_correlate.register_autograd(_backward, setup_context=_save)
