# SPDX-License-Identifier: Apache-2.0
"""How much arithmetic a frame takes: the official network's by formula, ours by counting.

A multiply-add counts as two operations; norms, activations and softmax are left out on both sides.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from tracker_ros.models.grm.config import GRMConfig
from tracker_ros.models.one_stream_tracker import OneStreamModel
from tracker_ros.models.ostrack.config import OSTrackConfig

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
    """Search tokens that enter each block, and those that its MLP runs on."""
    if isinstance(config, GRMConfig):
        return [(config.search_grid**2, config.search_grid**2)] * config.depth
    kept = config.kept_tokens()
    level = [sum(c < layer for c in config.ce_layers) for layer in range(config.depth + 1)]
    return [(kept[level[i]], kept[level[i + 1]]) for i in range(config.depth)]


def official_products(config: Config) -> list[Product]:
    """The linear layers of the official network's blocks, in order.

    An elimination layer projects every token it is given and runs its MLP on those it keeps; a
    dividing layer also runs its division on every search token.
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
    """Operations per frame of the official code, which embeds the template anew in each frame.

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
    """Operations of the three branches: four 3 x 3 convolutions and a 1 x 1 each."""
    widths = [config.embed_dim, *(config.head_channels // 2**i for i in range(4))]
    cells = config.search_grid**2
    branch = sum(Product(cells, 9 * widths[i], widths[i + 1]).gflop for i in range(4))
    return 3 * branch + Product(cells, widths[4], 1 + 2 + 2).gflop


def counted_gflop(model: OneStreamModel, template: Any, search: torch.Tensor) -> float:
    """Operations of one `locate`, counted while it runs.

    Args:
        model: Made with `packed=False`: the counter does not know prepacked layers.
        template: The encoded template.
        search: (1, 3, S, S).
    """
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={attention: _attention_flop}) as counter:
        model.locate(template, search)
    return counter.get_total_flops() * 1e-9


def _attention_flop(
    query: torch.Size, key: torch.Size, value: torch.Size, *args: object, **kwargs: object
) -> int:
    batch, heads, rows, depth = query
    return 2 * batch * heads * rows * key[2] * (depth + value[3])
