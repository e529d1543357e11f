# SPDX-License-Identifier: Apache-2.0
"""OSTrack: joint feature extraction and relation modelling in one transformer.

Paper: Ye, Chang, Ma, Shan, Chen, "Joint Feature Learning and Relation Modeling for Tracking: A
One-Stream Framework", ECCV 2022 (https://arxiv.org/abs/2203.11991). Official code:
https://github.com/botaoye/OSTrack (MIT). Written anew; with `stem="patch"` the state-dict keys and
shapes are the official ones, so official checkpoints load strictly.

What differs on purpose: see `network.py`, `vit.py` and `candidate_elimination.py`. In the last
block only the search tokens are carried on, unless the template's are asked for; kept tokens are
not sorted back between blocks.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from tracker_ros.models.layers.center_head import HeadMaps
from tracker_ros.models.layers.vit import Block, gather_tokens
from tracker_ros.models.one_stream.candidate_elimination import (
    Elimination,
    RankingRows,
    eliminate,
    keep_count,
    rank_search_tokens,
    ranking_rows,
    restore_raster,
    row_attention,
    template_token_mask,
)
from tracker_ros.models.one_stream.config import OSTrackConfig
from tracker_ros.models.one_stream.network import (
    OneStreamBackbone,
    OneStreamNetwork,
    as_prediction,
)


class BackboneOutput(NamedTuple):
    """Tokens after the last norm."""

    search: Tensor  # (B, k, C) remaining search tokens
    position: Tensor  # (B, k) original raster position of each
    template: Tensor | None  # (B, Nz, C), or None if it was not asked for
    # one per elimination layer that removed something; positions are original raster positions
    eliminations: dict[int, Elimination]


class EliminatingBlock(Block):
    """A block that drops search tokens on the way, between the attention and the MLP residual.

    The rank depends on the ranking template rows alone, so it is found first; queries of tokens
    that are about to be removed are never computed.
    """

    def forward_eliminating(
        self, tokens: Tensor, num_template: int, rows: RankingRows, keep_rate: float
    ) -> tuple[Tensor, Elimination]:
        """Run attention, elimination and MLP.

        Args:
            tokens: (B, N, C), the first `num_template` of the template.
            num_template: Number of template tokens; they are never removed.
            rows: The template tokens that rank.
            keep_rate: Fraction of the search tokens to keep.

        Returns:
            (B, num_template + kept, C) and the elimination.
        """
        normed = self.norm1(tokens)
        key, value = self.attn.keys_values(normed)
        with torch.no_grad():
            ranking = self.attn.queries(gather_tokens(normed, rows.position))
            # In half precision or bfloat16, rounding would decide between close ranks.
            attention = row_attention(ranking.float(), key.float())
            rank = rank_search_tokens(attention, rows.weight, num_template)
            keep = keep_count(rank.shape[1], keep_rate)
            elimination = eliminate(rank, keep)
            template = torch.arange(num_template, device=tokens.device)
            template = template.expand(tokens.shape[0], -1)
            left = torch.cat([template, elimination.kept + num_template], dim=1)
        query = self.attn.queries(gather_tokens(normed, left))
        tokens = gather_tokens(tokens, left) + self.drop_path(self.attn.attend(query, key, value))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens))), elimination


class OSTrackBackbone(OneStreamBackbone):
    """The transformer over template and search tokens."""

    config: OSTrackConfig

    def __init__(self, config: OSTrackConfig, drop_path_rate: float = 0.0) -> None:
        kinds = [
            EliminatingBlock if layer in config.ce_layers else Block
            for layer in range(config.depth)
        ]
        super().__init__(config, kinds, drop_path_rate)

    def forward(
        self,
        template_tokens: Tensor,
        search_tokens: Tensor,
        rows: RankingRows | None = None,
        keep_rate: float | None = None,
        with_template: bool = False,
    ) -> BackboneOutput:
        """Run the blocks.

        Args:
            template_tokens: (B, Nz, C) from `embed_template`.
            search_tokens: (B, Nx, C) from `embed_search`.
            rows: Template tokens that rank the search tokens; None uses all.
            keep_rate: Fraction that every elimination keeps; None takes the configuration's, and
                1 or more removes nothing.
            with_template: Also carry the template tokens through the last block.
        """
        batch, num_template, _ = template_tokens.shape
        num_search = search_tokens.shape[1]
        device = search_tokens.device
        tokens = torch.cat([template_tokens, search_tokens], dim=1)
        position = torch.arange(num_search, device=device).expand(batch, -1)
        rate = self.config.ce_keep_ratio if keep_rate is None else keep_rate
        eliminations: dict[int, Elimination] = {}
        last = len(self.blocks) - 1
        for layer, module in enumerate(self.blocks):
            block = cast(Block, module)
            if isinstance(block, EliminatingBlock) and rate < 1.0:
                if rows is None:
                    rows = ranking_rows(None, batch, num_template, device)
                tokens, step = block.forward_eliminating(tokens, num_template, rows, rate)
                eliminations[layer] = Elimination(
                    step.rank, position.gather(1, step.kept), position.gather(1, step.removed)
                )
                position = eliminations[layer].kept
            elif layer == last and not with_template:
                tokens = block(tokens, first=num_template)
            else:
                tokens = block(tokens)
        tokens = self.norm(tokens)
        found = tokens[:, tokens.shape[1] - position.shape[1] :]
        template = tokens[:, :num_template] if with_template else None
        return BackboneOutput(found, position, template, eliminations)


class OSTrackNetwork(OneStreamNetwork):
    """Backbone and centre head.

    `drop_path_rate` is the stochastic depth of the last block while training, rising from 0.
    """

    config: OSTrackConfig
    backbone: OSTrackBackbone

    def __init__(self, config: OSTrackConfig, drop_path_rate: float = 0.0) -> None:
        super().__init__(config, OSTrackBackbone(config, drop_path_rate))

    def template_mask(self, boxes_xywh: Tensor) -> Tensor | None:
        """Return which template tokens rank, given (B, 4) boxes as fractions of the crop."""
        config = self.config
        return template_token_mask(
            config.ce_template_range, boxes_xywh, config.template_size, config.stride
        )

    def head(self, output: BackboneOutput) -> HeadMaps:
        """Return the maps of what the backbone returned."""
        raster = output.search
        if output.eliminations:
            removed = sum(step.removed.shape[1] for step in output.eliminations.values())
            tokens = output.position.shape[1] + removed
            raster = restore_raster(output.search, output.position, tokens)
        return self.maps(raster)

    def forward(
        self,
        template: Tensor,
        search: Tensor,
        template_mask: Tensor | None = None,
        keep_rate: float | None = None,
        template_boxes: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Locate the template's target in the search region; used for training and testing alike.

        Args:
            template: (B, 3, T, T) normalised RGB.
            search: (B, 3, S, S) normalised RGB.
            template_mask: (B, Nz) bool, template tokens that rank the search tokens (see
                `template_mask()`); None uses all.
            keep_rate: Overrides the configuration's keep ratio; 1 removes nothing.
            template_boxes: (B, 4) xywh of the target as fractions of the template crop; needed
                where the configuration has `mark_target`.

        Returns:
            See `as_prediction`.
        """
        rows = None
        if self.config.ce_layers:
            tokens = self.config.template_grid**2
            rows = ranking_rows(template_mask, template.shape[0], tokens, template.device)
        output = self.backbone(
            self.backbone.embed_template(template, template_boxes),
            self.backbone.embed_search(search),
            rows,
            keep_rate,
        )
        return as_prediction(self.head(output))
