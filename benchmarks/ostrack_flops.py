# SPDX-License-Identifier: Apache-2.0
"""How much arithmetic a frame takes: the official network's by formula, ours by counting.

A multiply-add counts as two operations; norms, activations and softmax are left out on both sides.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from tracker_ros.models.ostrack.config import OSTrackConfig
from tracker_ros.models.ostrack.inference import EncodedTemplate, OSTrackInference


class Product(NamedTuple):
    """One matrix product: (rows, inner) times (inner, columns)."""

    rows: int
    inner: int
    columns: int

    @property
    def gflop(self) -> float:
        """Operations, in units of 1e9."""
        return 2e-9 * self.rows * self.inner * self.columns


def official_products(config: OSTrackConfig) -> list[Product]:
    """The linear layers of the official network's blocks, in order.

    An elimination layer projects every token it is given and runs its MLP on those it keeps.
    """
    width, hidden = config.embed_dim, int(config.embed_dim * config.mlp_ratio)
    template, kept = config.template_grid**2, config.kept_tokens()
    products, level = [], 0
    for layer in range(config.depth):
        tokens = template + kept[level]
        products += [Product(tokens, width, 3 * width), Product(tokens, width, width)]
        level += layer in config.ce_layers
        tokens = template + kept[level]
        products += [Product(tokens, width, hidden), Product(tokens, hidden, width)]
    return products


def official_gflop(config: OSTrackConfig) -> float:
    """Operations per frame of the official code, which embeds the template anew in each frame.

    Raises:
        ValueError: The model has no official counterpart.
    """
    if config.stem != "patch":
        raise ValueError(f"stem {config.stem!r} has no official counterpart")
    width, template, kept = config.embed_dim, config.template_grid**2, config.kept_tokens()
    total = sum(product.gflop for product in official_products(config))
    total += Product(template + kept[0], 3 * config.stride**2, width).gflop
    level = 0
    for layer in range(config.depth):
        tokens = template + kept[level]
        total += 2 * Product(tokens, width, tokens).gflop
        level += layer in config.ce_layers
    return total + official_head_gflop(config)


def official_head_gflop(config: OSTrackConfig) -> float:
    """Operations of the three branches: four 3 x 3 convolutions and a 1 x 1 each."""
    widths = [config.embed_dim, *(config.head_channels // 2**i for i in range(4))]
    cells = config.search_grid**2
    branch = sum(Product(cells, 9 * widths[i], widths[i + 1]).gflop for i in range(4))
    return 3 * branch + Product(cells, widths[4], 1 + 2 + 2).gflop


def counted_gflop(
    model: OSTrackInference, template: EncodedTemplate, search: torch.Tensor
) -> float:
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
