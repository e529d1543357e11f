# SPDX-License-Identifier: Apache-2.0
"""Candidate elimination: drop the search tokens that the template attends to least.

Paper: Ye et al., "Joint Feature Learning and Relation Modeling for Tracking: A One-Stream
Framework", ECCV 2022, section 3.3 (https://arxiv.org/abs/2203.11991).
Official code: https://github.com/botaoye/OSTrack (MIT), `lib/models/layers/attn_blocks.py` and
`lib/utils/ce_utils.py`; written anew here.

What differs on purpose: attention is computed only for the template rows that rank (the official
code reads them out of the full matrix); a sample whose mask chooses nothing is ranked by all its
template tokens (officially the mean of nothing, NaN); samples of a batch may choose different
numbers of tokens (officially an error).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class RankingRows(NamedTuple):
    """The template tokens that rank, and how much each counts."""

    position: Tensor  # (B, m) int64, among the template tokens
    weight: Tensor  # (B, m) float32, summing to 1 per sample; 0 marks padding


class Elimination(NamedTuple):
    """What one elimination did; positions count within the search tokens that entered it."""

    rank: Tensor  # (B, n) the value each search token was ranked by
    kept: Tensor  # (B, k) int64 positions kept, descending rank
    removed: Tensor  # (B, n - k) int64 positions removed, descending rank


def template_token_mask(
    template_range: str, boxes_xywh: Tensor, template_size: int, stride: int = 16
) -> Tensor | None:
    """Return which template tokens rank the search tokens: (B, grid * grid) bool, or None for all.

    Args:
        template_range: "ALL", "CTR_POINT" (one token: the centre, or the one left above it),
            "CTR_REC" (the middle 2 x 2, or the centre where the grid is odd) or "GT_BOX" (tokens
            whose middle pixels the target box covers); others raise ValueError.
        boxes_xywh: (B, 4) target boxes as fractions of the template crop; "GT_BOX" reads them, for
            the others only their number counts.
        template_size: Side of the template crop, pixels.
        stride: Pixels per token.

    Source: official `generate_mask_cond`, which knows grids of 7, 8, 12 and 14; the centre ranges
    are given here for every grid by the same pattern.
    """
    grid = template_size // stride
    first, last = (grid - 1) // 2, grid // 2
    if template_range == "ALL":
        return None
    if template_range == "GT_BOX":
        return _tokens_under_boxes(boxes_xywh, template_size, stride).flatten(1)
    if template_range not in ("CTR_POINT", "CTR_REC"):
        raise ValueError(
            f"template range {template_range!r} is unknown; "
            "expected ALL, CTR_POINT, CTR_REC or GT_BOX"
        )
    end = (last if template_range == "CTR_REC" else first) + 1
    mask = torch.zeros(boxes_xywh.shape[0], grid, grid, dtype=torch.bool, device=boxes_xywh.device)
    mask[:, first:end, first:end] = True
    return mask.flatten(1)


def _tokens_under_boxes(boxes_xywh: Tensor, template_size: int, stride: int) -> Tensor:
    """Return (B, grid, grid) bool: tokens whose middle 2 x 2 pixels the box touches.

    Bilinear reduction by an even `stride` reads exactly those four pixels. As officially, a box
    that starts outside the crop, or covers no such pixel, gives an empty mask.
    """
    pixels = torch.zeros(boxes_xywh.shape[0], 1, template_size, template_size)
    for plane, box in zip(pixels, (boxes_xywh * template_size).tolist(), strict=True):
        x, y, w, h = box
        plane[:, int(y) : int(y + h - 1), int(x) : int(x + w - 1)] = 1.0
    tokens = F.interpolate(pixels, scale_factor=1.0 / stride, mode="bilinear", align_corners=False)
    return (tokens[:, 0] > 0).to(boxes_xywh.device)


def ranking_rows(
    template_mask: Tensor | None, batch: int, tokens: int, device: torch.device
) -> RankingRows:
    """Turn a template mask, (B, tokens) bool, into row indices and weights, once per template.

    A sample whose mask is empty uses all its tokens; so do all samples if the mask is None.
    """
    if template_mask is None:
        template_mask = torch.ones(batch, tokens, dtype=torch.bool)
    mask = template_mask.to("cpu")
    mask = mask | ~mask.any(dim=1, keepdim=True)
    counts = mask.sum(dim=1, keepdim=True)
    most = int(counts.max())
    index = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    weight = torch.gather(mask, 1, index) / counts
    return RankingRows(index.to(device), weight.float().to(device))


def stack_rows(rows: Sequence[RankingRows]) -> RankingRows:
    """Join the rows of several batches, padded to the largest m with rows that do not count."""
    most = max(each.position.shape[1] for each in rows)
    padded = [[F.pad(part, (0, most - part.shape[1])) for part in each] for each in rows]
    return RankingRows(*(torch.cat(parts) for parts in zip(*padded, strict=True)))


def row_attention(query: Tensor, key: Tensor) -> Tensor:
    """Return the attention weights of a few rows, summing to 1 along the last axis.

    (B, heads, m, head_dim) queries of those rows, (B, heads, N, head_dim) keys of all tokens ->
    (B, heads, m, N).
    """
    scaled = query * query.shape[-1] ** -0.5
    return (scaled @ key.transpose(-2, -1)).softmax(dim=-1)


def rank_search_tokens(attention: Tensor, row_weight: Tensor, num_template: int) -> Tensor:
    """Return how much attention each search token receives from the ranking template tokens.

    Attention is (B, heads, m, N), of the m ranking rows over all N tokens, template tokens first;
    the (B, m) weights of the rows sum to 1. Returns (B, N - num_template): the weighted mean over
    rows, then the mean over heads.
    """
    received = attention[..., num_template:]
    return (received * row_weight[:, None, :, None].to(received.dtype)).sum(dim=2).mean(dim=1)


def keep_count(tokens: int, keep_rate: float) -> int:
    """Return how many of `tokens` search tokens are kept: the ceiling of `keep_rate * tokens`."""
    return math.ceil(keep_rate * tokens)


def eliminate(rank: Tensor, keep: int) -> Elimination:
    """Split search tokens (B, n) at the `keep`-th largest rank."""
    order = rank.argsort(dim=1, descending=True)
    return Elimination(rank, order[:, :keep], order[:, keep:])


def restore_raster(tokens: Tensor, index: Tensor, count: int) -> Tensor:
    """Put search tokens back in their places, with zeros where tokens were removed.

    (B, k, C) remaining tokens and (B, k) original positions of `count` -> (B, count, C).
    """
    raster = tokens.new_zeros(tokens.shape[0], count, tokens.shape[2])
    return raster.scatter(1, index.unsqueeze(-1).expand_as(tokens), tokens)
