# SPDX-License-Identifier: Apache-2.0
"""Count the arithmetic of a frame: ours while it runs, the official network's by formula.

A multiply-add counts as two operations. Norms, activations and softmax are left out on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from tracker_ros.models.one_stream.config import GRMConfig, OSTrackConfig

Config = OSTrackConfig | GRMConfig


class Product(NamedTuple):
    """One matrix product: (rows, inner) times (inner, columns)."""

    rows: int
    inner: int
    columns: int

    @property
    def gflop(self) -> float:
        """Operations, in units of 1e9."""
        return 2e-9 * self.rows * self.inner * self.columns


def search_tokens(config: Config) -> list[tuple[int, int]]:
    """Return for each block how many search tokens enter it and how many its MLP runs on."""
    if isinstance(config, GRMConfig):
        return [(config.search_grid**2, config.search_grid**2)] * config.depth
    kept = config.kept_tokens()
    level = [sum(c < layer for c in config.ce_layers) for layer in range(config.depth + 1)]
    return [(kept[level[i]], kept[level[i + 1]]) for i in range(config.depth)]


def official_products(config: Config) -> list[Product]:
    """Return the linear layers of the official network's blocks, in order.

    An elimination layer projects all its tokens and runs its MLP on those it keeps. A dividing
    layer also runs its division on every search token.
    """
    width, hidden = config.embed_dim, int(config.embed_dim * config.mlp_ratio)
    template, products = config.template_grid**2, []
    for layer, (entering, kept) in enumerate(search_tokens(config)):
        if isinstance(config, GRMConfig) and layer > 0:
            widths = (2 * width, *config.division_widths, 2)
            products += [Product(entering, widths[i], widths[i + 1]) for i in range(3)]
        tokens = template + entering
        products += [Product(tokens, width, 3 * width), Product(tokens, width, width)]
        tokens = template + kept
        products += [Product(tokens, width, hidden), Product(tokens, hidden, width)]
    return products


def official_gflop(config: Config) -> float:
    """Return the GFLOP per frame of the official code, which embeds the template in each frame.

    Raises:
        ValueError: The model has no official counterpart.
    """
    if config.stem != "patch":
        raise ValueError(f"stem {config.stem!r} has no official counterpart")
    width, template = config.embed_dim, config.template_grid**2
    total = sum(product.gflop for product in official_products(config))
    total += Product(template + config.search_grid**2, 3 * config.stride**2, width).gflop
    for entering, _ in search_tokens(config):
        tokens = template + entering
        total += 2 * Product(tokens, width, tokens).gflop
    return total + official_head_gflop(config)


def official_head_gflop(config: Config) -> float:
    """Return the GFLOP of the three branches, each of four 3 x 3 convolutions and a 1 x 1."""
    widths = [config.embed_dim, *(config.head_channels // 2**i for i in range(4))]
    cells = config.search_grid**2
    branch = sum(Product(cells, 9 * widths[i], widths[i + 1]).gflop for i in range(4))
    return 3 * branch + Product(cells, widths[4], 1 + 2 + 2).gflop


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
