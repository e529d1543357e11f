# SPDX-License-Identifier: Apache-2.0
"""GRM: a one-stream transformer in which each search token may or may not meet the template.

Paper: Gao, Zhou, Zhang, "Generalized Relation Modeling for Transformer Tracking", CVPR 2023
(https://arxiv.org/abs/2303.16580), sections 3.2 and 3.3. Official code:
https://github.com/Little-Podi/GRM (MIT), `lib/models/grm/`; written anew with the official
state-dict keys and shapes, so official checkpoints load strictly.

In every block but the first a small network divides the search tokens into two categories:
template tokens attend to themselves and to the second category, the first category to itself and
the second, the second to everything. Attention is computed densely, as officially.

What differs on purpose: the noise of the training can be given; see also `network.py`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker_ros.models.layers.vit import Attention, Block
from tracker_ros.models.one_stream.config import GRMConfig
from tracker_ros.models.one_stream.network import (
    OneStreamBackbone,
    OneStreamNetwork,
    as_prediction,
)

EPSILON = 1e-6  # of the masked softmax


class Division(NamedTuple):
    """What one block decided on each search token."""

    log_prob: Tensor  # (B, Nx, 2) log-probability of either category
    # (B, Nx, 2) one-hot; the second category meets the template. Its gradient is that of the soft
    # decision while training.
    category: Tensor


def template_tokens_in_box(boxes_xywh: Tensor, grid: int) -> Tensor:
    """Return which template tokens a box touches, far edges included.

    (B, 4) xywh as fractions of the template crop -> (B, grid * grid) float32 in raster order, 0 or
    1.
    """
    boxes = boxes_xywh.double()
    first, last = boxes[:, :2] * grid, (boxes[:, :2] + boxes[:, 2:]) * grid
    cells = torch.arange(grid, device=boxes.device)
    inside = (cells >= first.floor()[..., None]) & (cells <= last.floor()[..., None])
    columns, rows = inside.unbind(1)
    return (rows[:, :, None] & columns[:, None, :]).flatten(1).float()


def summarise_template(tokens: Tensor, target_type: str, mask: Tensor | None) -> Tensor:
    """Summarise the (B, Nz, C) normed tokens of a template in one vector, (B, 1, C).

    "roi" types read the (B, Nz) mask of `template_tokens_in_box`, and raise ValueError without it.
    The zeros outside the box take part, as officially.
    """
    if target_type.startswith("roi"):
        if mask is None:
            raise ValueError(f"target type {target_type!r} reads the box: give template_boxes")
        tokens = tokens * mask[..., None]
    if target_type.endswith("max"):
        return tokens.amax(dim=1, keepdim=True)
    return tokens.mean(dim=1, keepdim=True)


def decide(log_prob: Tensor, threshold: float) -> Tensor:
    """(..., Nx, 2) log-probabilities -> (..., Nx) bool, True for the second category."""
    if threshold > 0.0:
        return log_prob[..., 0].exp() < threshold
    return log_prob[..., 1] > log_prob[..., 0]


def decide_with_noise(log_prob: Tensor, noise: Tensor | None) -> Tensor:
    """Draw one-hot categories by Gumbel-softmax at temperature 1, straight through.

    (B, Nx, 2) log-probabilities, and noise of the same shape to add before the choice (None draws
    it) -> (B, Nx, 2) of 0 and 1, with the gradient of the softmax.
    """
    if noise is None:
        noise = -torch.empty_like(log_prob).exponential_().log()
    soft = (log_prob + noise).softmax(dim=-1)
    hard = F.one_hot(soft.argmax(dim=-1), 2).to(soft.dtype)
    return hard - soft.detach() + soft


def attention_mask(category: Tensor, num_template: int) -> Tensor:
    """Return which token may attend to which, (B, N, N) of 0 and 1 with queries along rows.

    The template tokens stand first, then those whose (B, Nx, 2) one-hot category is given. Every
    token attends to itself, whatever the gradient says.
    """
    template = F.pad(category.new_ones(category.shape[0], num_template), (0, category.shape[1]))
    first, second = F.pad(category, (0, 0, num_template, 0)).unbind(-1)
    near, far = template + second, first + second
    mask = _outer(near) + _outer(far) - _outer(second)
    same = torch.eye(mask.shape[-1], dtype=mask.dtype, device=mask.device)
    return mask + (1.0 - mask) * same


def _outer(member: Tensor) -> Tensor:
    return member[:, :, None] * member[:, None, :]


def mix_masked(scores: Tensor, mask: Tensor, value: Tensor) -> Tensor:
    """Return the means of values, weighted by a softmax over the pairs that may attend.

    Masked pairs keep a trace of weight, as officially. It is added to the means, and these are
    divided, not the weights: there are fewer of them.

    Args:
        scores: (B, heads, N, N) float32.
        mask: (B, N, N) of 0 and 1.
        value: (B, heads, N, d).

    Returns:
        (B, heads, N, d) of the values' type.
    """
    weight = (scores - scores.amax(dim=-1, keepdim=True)).exp_() * mask[:, None]
    trace = EPSILON / scores.shape[-1] * value.float().sum(dim=-2, keepdim=True)
    mixed = (weight.to(value.dtype) @ value).float() + trace
    return (mixed / (weight.sum(dim=-1, keepdim=True) + EPSILON)).to(value.dtype)


class DividingAttention(Attention):
    """Attention under a division of the search tokens, and the network that divides them."""

    def __init__(
        self, embed_dim: int, num_heads: int, division_widths: tuple[int, int] = (384, 192)
    ) -> None:
        super().__init__(embed_dim, num_heads)
        wide, narrow = division_widths
        self.divide_predict = nn.Sequential(
            nn.Linear(2 * embed_dim, wide),
            nn.GELU(),
            nn.Linear(wide, narrow),
            nn.GELU(),
            nn.Linear(narrow, 2),
        )

    def log_prob(self, search: Tensor, summary: Tensor) -> Tensor:
        """(B, Nx, C) normed search tokens, (B, 1, C) summary -> (B, Nx, 2) log-probabilities."""
        first, *others = cast(Any, self.divide_predict)
        # The first layer sees the summary once, not beside each search token.
        width = search.shape[-1]
        hidden = F.linear(summary, first.weight[:, width:], first.bias)
        hidden = hidden + F.linear(search, first.weight[:, :width])
        for layer in others:
            hidden = layer(hidden)
        log_prob: Tensor = hidden.log_softmax(dim=-1)
        return log_prob

    def forward_divided(self, tokens: Tensor, category: Tensor) -> Tensor:
        """(B, N, C) tokens, template first, and (B, Nx, 2) one-hot categories -> (B, N, C)."""
        batch, count, _ = tokens.shape
        packed = self.qkv(tokens).view(batch, count, 3, self.num_heads, self.head_dim)
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (query * self.head_dim**-0.5) @ key.transpose(-2, -1)
        mask = attention_mask(category, count - category.shape[1])
        mixed = mix_masked(scores.float(), mask, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class DividingBlock(Block):
    """A block that divides the search tokens by what its first norm returns."""

    attn: DividingAttention

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        mlp_ratio: float,
        layer_norm_eps: float,
        drop_path_rate: float = 0.0,
        division_widths: tuple[int, int] = (384, 192),
    ) -> None:
        super().__init__(embed_dim, num_heads, mlp_ratio, layer_norm_eps, drop_path_rate)
        self.attn = DividingAttention(embed_dim, num_heads, division_widths)

    def forward_divided(
        self,
        tokens: Tensor,
        num_template: int,
        target_type: str,
        template_mask: Tensor | None,
        threshold: float,
        noise: Tensor | None,
    ) -> tuple[Tensor, Division]:
        """Run division, attention and MLP; see `GRMBackbone.forward`."""
        normed = self.norm1(tokens)
        summary = summarise_template(normed[:, :num_template], target_type, template_mask)
        log_prob = self.attn.log_prob(normed[:, num_template:], summary)
        if self.training:
            category = decide_with_noise(log_prob, noise)
        else:
            category = F.one_hot(decide(log_prob, threshold).long(), 2).to(log_prob.dtype)
        tokens = tokens + self.drop_path(self.attn.forward_divided(normed, category))
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return tokens, Division(log_prob, category)


class GRMBackbone(OneStreamBackbone):
    """The transformer over template and search tokens."""

    config: GRMConfig

    def __init__(self, config: GRMConfig, drop_path_rate: float = 0.0) -> None:
        dividing = partial(DividingBlock, division_widths=config.division_widths)
        super().__init__(config, [Block] + [dividing] * (config.depth - 1), drop_path_rate)

    def forward(
        self,
        template_tokens: Tensor,
        search_tokens: Tensor,
        template_mask: Tensor | None = None,
        threshold: float = 0.0,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, list[Division]]:
        """Run the blocks.

        Args:
            template_tokens: (B, Nz, C) from `embed_template`.
            search_tokens: (B, Nx, C) from `embed_search`.
            template_mask: (B, Nz) from `template_tokens_in_box`, for the "roi" target types.
            threshold: Of the division, see `GRMConfig.threshold_of`; not read while training.
            noise: (B, blocks - 1, Nx, 2) Gumbel noise of the training's decisions; None draws it.

        Returns:
            (B, Nz + Nx, C) tokens after the last norm, and one division per block but the first.
        """
        num_template = template_tokens.shape[1]
        tokens = self.blocks[0](torch.cat([template_tokens, search_tokens], dim=1))
        divisions = []
        for i, block in enumerate(self.blocks[1:]):
            tokens, division = cast(DividingBlock, block).forward_divided(
                tokens,
                num_template,
                self.config.target_type,
                template_mask,
                threshold,
                None if noise is None else noise[:, i],
            )
            divisions.append(division)
        return self.norm(tokens), divisions


class GRMNetwork(OneStreamNetwork):
    """Backbone and centre head.

    `drop_path_rate` is the stochastic depth of the last block while training, rising from 0.
    """

    config: GRMConfig
    backbone: GRMBackbone

    def __init__(self, config: GRMConfig, drop_path_rate: float = 0.0) -> None:
        super().__init__(config, GRMBackbone(config, drop_path_rate))

    def forward(
        self,
        template: Tensor,
        search: Tensor,
        template_boxes: Tensor | None = None,
        threshold: float = 0.0,
        noise: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Locate the template's target in the search region; used for training and testing alike.

        Args:
            template: (B, 3, T, T) normalised RGB.
            search: (B, 3, S, S) normalised RGB.
            template_boxes: (B, 4) xywh of the target as fractions of the template crop; needed
                where the configuration has `mark_target` or a "roi" target type.
            threshold: See `GRMBackbone.forward`.
            noise: See `GRMBackbone.forward`.

        Returns:
            See `as_prediction`; and log_prob (B, blocks - 1, Nx, 2), the log-probabilities of the
            categories.
        """
        mask = None
        if template_boxes is not None:
            mask = template_tokens_in_box(template_boxes, self.config.template_grid)
        tokens, divisions = self.backbone(
            self.backbone.embed_template(template, template_boxes),
            self.backbone.embed_search(search),
            mask,
            threshold,
            noise,
        )
        prediction = as_prediction(self.maps(tokens[:, self.config.template_grid**2 :]))
        prediction["log_prob"] = torch.stack([each.log_prob for each in divisions], dim=1)
        return prediction
