# SPDX-License-Identifier: Apache-2.0
"""Count the arithmetic of a frame while torch computes it.

A multiply-add counts as two operations. Norms, activations and softmax are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count


def counted_gflop(function: Callable[[], object]) -> float:
    """Return the GFLOP of one call in torch, counted while it runs."""
    ops = torch.ops
    named: list[tuple[Any, str, Callable[..., int]]] = [
        (ops.aten, "_scaled_dot_product_flash_attention_for_cpu", _attention_flop),
        (ops.mkldnn, "_linear_pointwise", _linear_flop),
        (ops.mkldnn, "_convolution_pointwise", _convolution_flop),
        (ops.tracker_ros, "local_attention", _local_attention_flop),
        (ops.tracker_ros, "expected_offset", _expected_offset_flop),
    ]
    # Builds of torch without oneDNN, such as those for Jetson, lack some.
    formulas = {getattr(of, name): flop for of, name, flop in named if hasattr(of, name)}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        function()
    return counter.get_total_flops() * 1e-9


def _attention_flop(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    batch, heads, rows, depth = query
    return 2 * batch * heads * rows * key[2] * (depth + value[3])


def _linear_flop(tokens: Any, weight: Any, *args: Any, **kwargs: Any) -> int:
    return 2 * torch.Size(tokens).numel() * weight[0]


def _convolution_flop(image: Any, weight: Any, *args: Any, out_shape: Any, **kwargs: Any) -> int:
    return conv_flop_count(image, weight, out_shape)


def _local_attention_flop(query: Any, keys: Any, values: Any, *args: Any, **kwargs: Any) -> int:
    batch, channels, height, width = query
    pixels, window = batch * height * width, (2 * args[1] + 1) ** 2
    return 2 * pixels * keys[1] * window * (channels + values[2])


def _expected_offset_flop(query: Any, key: Any, radius: int, *args: Any, **kwargs: Any) -> int:
    batch, channels, height, width = query
    return 2 * batch * height * width * (2 * radius + 1) ** 2 * (channels + 2)
