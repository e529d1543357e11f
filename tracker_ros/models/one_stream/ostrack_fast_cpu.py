# SPDX-License-Identifier: Apache-2.0
"""OSTrack as a tracker runs it: the numbers of `network.py`, nothing computed twice or unread.

Paper and official code: see `network.py`. Written for this package; what differs from the official
forward pass is the order of the work, not its result:

- What every one-stream tracker gets: see `one_stream_inference.py`.
- An elimination layer computes the attention rows that rank and no others.
- Elimination ranks first, so tokens that are about to go get no query, projection or MLP.
- Tokens are picked and put back by index, in the order the ranking gave.
- Where tokens were removed, the head's first convolution is not done on the zeros they leave
  (`candidate_head.py`).

Centre head over the candidates that elimination left, for inference on a CPU.

The official head runs dense convolutions over a map in which every removed token is zero. Its
first convolution, by far the largest, is done here as one matrix product over the tokens that are
left, for all three branches and nine taps at once, followed by a sum of each product into the cell
it belongs to. The numbers are the same; two thirds of that convolution's work was with zeros.

Paper and official code of the head: see `center_head.py`. The rearrangement is this package's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tracker_ros.models.layers.center_head import BRANCHES, CenterHead, HeadMaps
from tracker_ros.models.layers.packed import Layers, in_float32
from tracker_ros.models.layers.vit import Block, gather_tokens
from tracker_ros.models.one_stream.candidate_elimination import (
    RankingRows,
    eliminate,
    keep_count,
    rank_search_tokens,
    ranking_rows,
    restore_raster,
    row_attention,
    stack_rows,
)
from tracker_ros.models.one_stream.fast_cpu import InferenceBlock, OneStreamInference
from tracker_ros.models.one_stream.ostrack import OSTrackNetwork


class EncodedTemplate(NamedTuple):
    """What is kept of a template.

    Attributes:
        tokens: (B, Nz, C) embedded, with positions.
        rows: The tokens that rank search tokens; None where nothing is eliminated.
    """

    tokens: Tensor
    rows: RankingRows | None


def stack_templates(templates: Sequence[EncodedTemplate]) -> EncodedTemplate:
    """Templates of several targets, or batches of them, as one batch."""
    rows = [template.rows for template in templates if template.rows is not None]
    return EncodedTemplate(
        torch.cat([template.tokens for template in templates]),
        stack_rows(rows) if rows else None,
    )


class EliminatingInferenceBlock(InferenceBlock):
    """One block with fixed weights that can drop search tokens on the way."""

    def eliminating(
        self, tokens: Tensor, num_template: int, rows: RankingRows, keep_rate: float
    ) -> tuple[Tensor, Tensor]:
        """Keep the search tokens that the template attends to most.

        Args:
            tokens: (B, N, C), template first.
            num_template: Template tokens.
            rows: Those of them that rank.
            keep_rate: Fraction of the search tokens to keep.

        Returns:
            (B, num_template + k, C), and (B, k) positions kept among the search tokens.
        """
        normed = self.norm1(tokens)
        key, value = self._split(self.to_kv(normed), 2)
        (row_query,) = self._split(self.to_q(gather_tokens(normed, rows.position)), 1)
        attention = row_attention(row_query.float(), key.float())
        rank = rank_search_tokens(attention, rows.weight, num_template)
        kept = eliminate(rank, keep_count(rank.shape[1], keep_rate)).kept
        template = torch.arange(num_template, device=tokens.device).expand(len(tokens), -1)
        left = torch.cat([template, kept + num_template], dim=1)
        (query,) = self._split(self.to_q(gather_tokens(normed, left)), 1)
        return self._finish(gather_tokens(tokens, left), query, key, value), kept


class OSTrackInference(OneStreamInference[EliminatingInferenceBlock]):
    """A trained network, prepared to follow targets.

    Args:
        network: Loaded, in eval mode; its modules are taken over and changed.
        device: Where it runs.
        packed: Use oneDNN's prepacked layers; None decides by what this build of torch has.
        precision: See `Layers.on`.
    """

    def __init__(
        self,
        network: OSTrackNetwork,
        device: torch.device,
        packed: bool | None = None,
        precision: str = "fp32",
    ) -> None:
        self.config = config = network.config
        self.template_mask = network.template_mask
        layers = Layers.on(device, precision, packed)

        def fix(block: Block, layer: int) -> EliminatingInferenceBlock:
            split = layer == config.depth - 1 or layer in config.ce_layers
            return EliminatingInferenceBlock(block, split_queries=split, layers=layers)

        super().__init__(network, device, layers, fix)
        self._kept: list[Tensor] = []
        self.candidate_head: CandidateHead | None = None
        if config.ce_layers and device.type == "cpu":
            self.candidate_head = CandidateHead(network.box_head, config.search_grid, layers)
        else:
            self.head = layers.fix_head(network.box_head)

    @torch.inference_mode()
    @in_float32
    def encode_template(self, template: Tensor, box_xywh: Tensor) -> EncodedTemplate:
        """Embed a template.

        Args:
            template: (1, 3, T, T) normalised RGB.
            box_xywh: (1, 4) target box as fractions of the template crop.
        """
        tokens = self.embed_template(template.to(self.device), box_xywh.to(self.device))
        rows = None
        if self.config.ce_layers:
            mask = self.template_mask(box_xywh)
            rows = ranking_rows(mask, 1, tokens.shape[1], self.device)
        return EncodedTemplate(tokens, rows)

    @torch.inference_mode()
    @in_float32
    def locate(self, template: EncodedTemplate, search: Tensor) -> HeadMaps:
        """Maps of search regions (B, 3, S, S), normalised RGB, one per template."""
        num_template = template.tokens.shape[1]
        embedded = self.embed_search(search.to(self.device))
        tokens = torch.cat([template.tokens, embedded], dim=1)
        position: Tensor | None = None
        self._kept = []
        last = self.config.depth - 1
        for layer, block in enumerate(self.blocks):
            if layer in self.config.ce_layers and template.rows is not None:
                tokens, kept = block.eliminating(
                    tokens, num_template, template.rows, self.config.ce_keep_ratio
                )
                position = kept if position is None else position.gather(1, kept)
                self._kept.append(position)
            elif layer == last:
                tokens = block.search_only(tokens, num_template)
            else:
                tokens = block(tokens)
        search_tokens = self.norm(tokens[:, -(self.config.kept_tokens()[-1]) :])
        n = self.config.search_grid
        if position is not None and self.candidate_head is not None:
            return self.candidate_head(search_tokens, position)
        if position is not None:
            search_tokens = restore_raster(search_tokens, position, n * n)
        return self.head(search_tokens.transpose(1, 2).unflatten(2, (n, n)))

    @torch.inference_mode()
    def locate_batch(self, templates: Sequence[EncodedTemplate], searches: Tensor) -> HeadMaps:
        """Maps of one search region per target (B, 3, S, S), normalised RGB, in one pass."""
        return self.locate(stack_templates(templates), searches)

    def token_mask(self) -> np.ndarray | None:
        """Return which search tokens the last `locate` kept.

        Returns:
            (B, layers, n, n) bool, rows from top to bottom, for every layer that eliminates
            candidates: False on those that it or an earlier one eliminated. None without
            candidate elimination.

        Raises:
            RuntimeError: `locate` was not called yet.
        """
        if not self.config.ce_layers:
            return None
        if not self._kept:
            raise RuntimeError("token_mask() was called before locate()")
        n = self.config.search_grid
        masks = []
        for kept in self._kept:
            mask = torch.zeros(len(kept), n * n, dtype=torch.bool, device=kept.device)
            masks.append(mask.scatter_(1, kept, True).unflatten(1, (n, n)))
        return torch.stack(masks, dim=1).cpu().numpy()


def _folded(layer: nn.Module) -> nn.Conv2d:
    """The convolution of a `conv, norm, ReLU` chain with its norm folded in."""
    conv, norm, _ = cast(Any, layer)
    return fuse_conv_bn_eval(conv, norm)


class CandidateHead:
    """`CenterHead` with fixed weights, given tokens and their places instead of a map.

    Args:
        head: Loaded, in eval mode; its modules are taken over and changed.
        grid: n, cells along one side.
        layers: Makes its layers.
    """

    def __init__(self, head: CenterHead, grid: int, layers: Layers) -> None:
        first = [_folded(head.get_submodule(f"conv1_{branch}")) for branch in BRANCHES]
        weight = torch.cat([conv.weight for conv in first])  # (outputs, inputs, 3, 3)
        outputs, inputs = weight.shape[:2]
        by_tap = weight.permute(2, 3, 0, 1).reshape(9 * outputs, inputs)
        self.first = layers.linear(by_tap, None)
        self.first_bias = torch.cat([cast(Tensor, conv.bias) for conv in first]).detach()
        for branch in BRANCHES:
            setattr(head, f"conv1_{branch}", nn.Identity())
        layers.fix_head(head)
        self.rest = head
        self.grid = grid
        tap = torch.arange(9)
        # Where a tap's product lands, relative to its token, in a map with a border of one cell.
        self.landing = (2 - tap // 3) * (grid + 2) + 2 - tap % 3

    def __call__(self, tokens: Tensor, position: Tensor) -> HeadMaps:
        """Maps of the tokens that are left.

        Args:
            tokens: (B, k, C), after the last norm.
            position: (B, k) their raster positions.
        """
        n, batch = self.grid, len(tokens)
        outputs = len(self.first_bias)
        products = self.first(tokens.flatten(0, 1)).float().view(-1, outputs)
        corner = torch.div(position, n, rounding_mode="floor") * (n + 2) + position % n
        corner = corner + torch.arange(batch)[:, None] * (n + 2) ** 2
        cell = (corner[..., None] + self.landing).flatten()
        bordered = products.new_zeros(batch * (n + 2) ** 2, outputs).index_add_(0, cell, products)
        summed = bordered.view(batch, n + 2, n + 2, outputs)[:, 1:-1, 1:-1] + self.first_bias
        features = F.relu(summed).permute(0, 3, 1, 2)
        ctr, offset, size = features.chunk(len(BRANCHES), dim=1)
        return self.rest.maps(ctr, offset, size)
