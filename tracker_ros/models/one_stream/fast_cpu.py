# SPDX-License-Identifier: Apache-2.0
"""OSTrack as a tracker runs it, and the parts that GRM shares (`grm_fast_cpu.py`).

Paper and official code: see `ostrack.py`. Written for this package; the official codes run their
training modules. The numbers are those of `ostrack.py`, computed in a different order:

- A template is embedded once, not per frame. Attention is fused, batch norms are folded into the
  convolutions, and weights are laid out once for the matrix library, in the precision asked for
  (`layers/packed.py`). The last block computes queries, projection and MLP of search tokens only.
- An eliminating layer computes only the attention rows that rank the candidates, and ranks first,
  so that tokens it is about to drop get no query, projection or MLP. Tokens are picked and put
  back by index, in the order of their rank.
- After elimination the official head convolves a map in which every dropped token is zero. On a
  CPU its first convolution, by far the largest, is done instead as one matrix product over the
  remaining tokens, for all three branches and nine taps at once, followed by a sum of each product
  into its cell (`CandidateHead`): two thirds of that convolution were multiplications with zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker_ros.engines.half_precision import fold_norms
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
from tracker_ros.models.one_stream.config import OSTrackConfig
from tracker_ros.models.one_stream.network import OneStreamNetwork
from tracker_ros.models.one_stream.ostrack import OSTrackNetwork


class InferenceBlock:
    """A transformer block with fixed weights.

    `split_queries` projects queries apart from keys and values, because fewer of them are needed.
    """

    def __init__(self, block: Block, *, split_queries: bool, layers: Layers) -> None:
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.attend = layers.attend
        self.heads = block.attn.num_heads
        qkv, width = block.attn.qkv, block.attn.proj.in_features
        self.split_queries = split_queries
        if split_queries:
            self.to_q = layers.linear(qkv.weight[:width], qkv.bias[:width])
            self.to_kv = layers.linear(qkv.weight[width:], qkv.bias[width:])
        else:
            self.to_qkv = layers.linear(qkv.weight, qkv.bias)
        proj, fc1, fc2 = block.attn.proj, block.mlp.fc1, block.mlp.fc2
        self.proj = layers.linear(proj.weight, proj.bias)
        self.fc1 = layers.linear(fc1.weight, fc1.bias, gelu=True)
        self.fc2 = layers.linear(fc2.weight, fc2.bias)

    def _split(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, N, parts * C) -> `parts` tensors (B, heads, N, head_dim)."""
        split = projected.unflatten(2, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return split.unbind(0)

    def _finish(self, tokens: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Run attention and MLP for the (B, n, C) tokens that the queries belong to."""
        return self._project(tokens, self.attend(query, key, value).transpose(1, 2))

    def _project(self, tokens: Tensor, mixed: Tensor) -> Tensor:
        """Run what follows attention: (B, N, C) tokens, (B, N, heads, head_dim) mixed values."""
        tokens = tokens + self.proj(mixed.flatten(2))
        return tokens + self.fc2(self.fc1(self.norm2(tokens)))

    def __call__(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return self._finish(tokens, *self._split(self.to_qkv(self.norm1(tokens)), 3))

    def search_only(self, tokens: Tensor, num_template: int) -> Tensor:
        """(B, N, C) -> (B, N - num_template, C): template tokens serve as keys and values."""
        normed = self.norm1(tokens)
        key, value = self._split(self.to_kv(normed), 2)
        (query,) = self._split(self.to_q(normed[:, num_template:]), 1)
        return self._finish(tokens[:, num_template:], query, key, value)

    def eliminating(
        self, tokens: Tensor, num_template: int, rows: RankingRows, keep_rate: float
    ) -> tuple[Tensor, Tensor]:
        """Run the block, keeping only the search tokens that the template attends to most.

        Args:
            tokens: (B, N, C), template first.
            num_template: Number of template tokens.
            rows: The template tokens that rank.
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


class OneStreamInference:
    """The embedding, blocks and last norm of a trained network, prepared for tracking.

    Args:
        network: Loaded, in eval mode; its modules are taken over and changed.
        device: Device to run on.
        layers: Makes the layers.
        fix: Returns the fixed form of a block, given the block and its index.
    """

    def __init__(
        self,
        network: OneStreamNetwork,
        device: torch.device,
        layers: Layers,
        fix: Callable[[Block, int], InferenceBlock],
    ) -> None:
        self.config, self.device, self.precision = network.config, device, layers.precision
        backbone = network.eval().to(device).backbone
        backbone.patch_embed = layers.fix(backbone.patch_embed)
        self.embed_template, self.embed_search = backbone.embed_template, backbone.embed_search
        self.blocks: list[InferenceBlock] = []
        for layer, block in enumerate(backbone.blocks):
            self.blocks.append(fix(cast(Block, block), layer))
            # Releases the original weights, so that the network is never in memory twice.
            backbone.blocks[layer] = nn.Identity()
        self.norm = backbone.norm
        self._masks: list[Tensor] | None = None
        """Of the last `locate`: (B, n * n) bool for every layer that decides on tokens."""

    def token_mask(self) -> np.ndarray | None:
        """Return (B, layers, n, n) bool of the last `locate`; see `TrackResult.token_mask`.

        None without candidate elimination. Raises RuntimeError if `locate` was not called yet.
        """
        if self._masks is None:
            raise RuntimeError("token_mask() was called before locate()")
        if not self._masks:
            return None
        n = self.config.search_grid
        return torch.stack(self._masks, dim=1).unflatten(2, (n, n)).cpu().numpy()

    @property
    def runtime_info(self) -> dict[str, str]:
        """Back end, device and precision in use."""
        return {"backend": "torch", "device": str(self.device), "precision": self.precision}


class EncodedTemplate(NamedTuple):
    """The template as the tracker keeps it.

    Attributes:
        tokens: (B, Nz, C) embedded, with positions.
        rows: The tokens that rank search tokens; None without candidate elimination.
    """

    tokens: Tensor
    rows: RankingRows | None


class OSTrackInference(OneStreamInference):
    """A trained network, prepared for tracking.

    Args:
        network: Loaded, in eval mode; its modules are taken over and changed.
        device: Device to run on.
        packed: Use oneDNN's prepacked layers; None uses them where this build of torch has them.
        precision: See `Layers.on`.
    """

    config: OSTrackConfig

    def __init__(
        self,
        network: OSTrackNetwork,
        device: torch.device,
        packed: bool | None = None,
        precision: str = "fp32",
    ) -> None:
        config = network.config
        self.template_mask = network.template_mask
        layers = Layers.on(device, precision, packed)

        def fix(block: Block, layer: int) -> InferenceBlock:
            split = layer == config.depth - 1 or layer in config.ce_layers
            return InferenceBlock(block, split_queries=split, layers=layers)

        super().__init__(network, device, layers, fix)
        self.candidate_head: CandidateHead | None = None
        if config.ce_layers and device.type == "cpu":
            self.candidate_head = CandidateHead(network.box_head, config.search_grid, layers)
        else:
            self.head = layers.fix_head(network.box_head)

    @torch.inference_mode()
    @in_float32
    def encode_template(self, template: Tensor, box_xywh: Tensor) -> EncodedTemplate:
        """Embed a (1, 3, T, T) normalised template with its (1, 4) box as fractions of it."""
        tokens = self.embed_template(template.to(self.device), box_xywh.to(self.device))
        rows = None
        if self.config.ce_layers:
            mask = self.template_mask(box_xywh)
            rows = ranking_rows(mask, 1, tokens.shape[1], self.device)
        return EncodedTemplate(tokens, rows)

    @torch.inference_mode()
    @in_float32
    def locate(self, template: EncodedTemplate, search: Tensor) -> HeadMaps:
        """Return the maps of search regions (B, 3, S, S), normalised RGB, one per template."""
        num_template = template.tokens.shape[1]
        embedded = self.embed_search(search.to(self.device))
        tokens = torch.cat([template.tokens, embedded], dim=1)
        position: Tensor | None = None
        self._masks, n = [], self.config.search_grid
        last = self.config.depth - 1
        for layer, block in enumerate(self.blocks):
            if layer in self.config.ce_layers and template.rows is not None:
                tokens, kept = block.eliminating(
                    tokens, num_template, template.rows, self.config.ce_keep_ratio
                )
                position = kept if position is None else position.gather(1, kept)
                mask = position.new_zeros(len(position), n * n, dtype=torch.bool)
                self._masks.append(mask.scatter_(1, position, True))
            elif layer == last:
                tokens = block.search_only(tokens, num_template)
            else:
                tokens = block(tokens)
        search_tokens = self.norm(tokens[:, -(self.config.kept_tokens()[-1]) :])
        if position is not None and self.candidate_head is not None:
            return self.candidate_head(search_tokens, position)
        if position is not None:
            search_tokens = restore_raster(search_tokens, position, n * n)
        return self.head(search_tokens.transpose(1, 2).unflatten(2, (n, n)))

    @torch.inference_mode()
    def locate_batch(self, templates: Sequence[EncodedTemplate], searches: Tensor) -> HeadMaps:
        """Return the maps of one (3, S, S) search region per template, in one pass."""
        tokens = torch.cat([template.tokens for template in templates])
        rows = [template.rows for template in templates if template.rows is not None]
        return self.locate(EncodedTemplate(tokens, stack_rows(rows) if rows else None), searches)


class CandidateHead:
    """A `CenterHead` with fixed weights that takes tokens and their places instead of a map.

    The head's modules are taken over and changed; the map has `grid` x `grid` cells.
    """

    def __init__(self, head: CenterHead, grid: int, layers: Layers) -> None:
        fold_norms(head)
        first = [cast(nn.Conv2d, head.get_submodule(f"conv1_{branch}.0")) for branch in BRANCHES]
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
        # Where the product of a tap belongs, relative to its token, in a map with a border of one.
        self.landing = (2 - tap // 3) * (grid + 2) + 2 - tap % 3

    def __call__(self, tokens: Tensor, position: Tensor) -> HeadMaps:
        """Return the maps of the remaining (B, k, C) tokens with their (B, k) raster positions."""
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
