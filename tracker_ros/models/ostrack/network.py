# SPDX-License-Identifier: Apache-2.0
"""OSTrack: joint feature extraction and relation modelling in one transformer.

Paper: Ye, Chang, Ma, Shan, Chen, "Joint Feature Learning and Relation Modeling for Tracking: A
One-Stream Framework", ECCV 2022 (https://arxiv.org/abs/2203.11991).
Official code: https://github.com/botaoye/OSTrack (MIT). Written anew; with `stem="patch"` the
state-dict keys and shapes are the official ones, so official checkpoints load strictly.

What differs on purpose: see `vit.py` and `candidate_elimination.py`. In the last block only the
search tokens are carried on, unless the template's are asked for; kept tokens are not sorted back
between blocks. For the compact members that are trained here, `stem="conv"` replaces the patch
projection by convolutions (`conv_stem.py`), and `mark_target` adds to each template token a mark
in proportion to how much of it the target's box covers: the crop alone tells the box's area but
not its shape.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker_ros.models.center_head import CenterHead, HeadMaps, decode_box
from tracker_ros.models.ostrack.candidate_elimination import (
    Elimination,
    RankingRows,
    ranking_rows,
    restore_raster,
    template_token_mask,
)
from tracker_ros.models.ostrack.config import OSTrackConfig
from tracker_ros.models.vit import Block, PatchEmbed

_PRETRAINED_GRID = 14


class BackboneOutput(NamedTuple):
    """Tokens after the last norm.

    Attributes:
        search: (B, k, C) remaining search tokens.
        position: (B, k) original raster position of each.
        template: (B, Nz, C), or None if it was not asked for.
        eliminations: One per elimination layer that removed something; positions are original
            raster positions.
    """

    search: Tensor
    position: Tensor
    template: Tensor | None
    eliminations: dict[int, Elimination]


def resample_position_embedding(pos_embed: Tensor, grid: int) -> Tensor:
    """Position embedding that fine-tuning starts from.

    Args:
        pos_embed: (1, 1 + n * n, C) of the pretrained classifier; the first is its class position.
        grid: Wanted side.

    Returns:
        (1, grid * grid, C), bicubic without antialiasing.

    Source: official `lib/models/ostrack/base_backbone.py`, `finetune_track`.
    """
    places = pos_embed[:, 1:]
    side = round(places.shape[1] ** 0.5)
    image = places.transpose(1, 2).reshape(1, -1, side, side)
    image = F.interpolate(image, size=(grid, grid), mode="bicubic", align_corners=False)
    return image.flatten(2).transpose(1, 2)


def target_coverage(boxes_xywh: Tensor, grid: int) -> Tensor:
    """How much of each template token a box covers.

    Args:
        boxes_xywh: (B, 4) as fractions of the template crop.
        grid: Tokens along one side.

    Returns:
        (B, grid * grid) fractions in [0, 1], raster order.
    """
    starts = torch.arange(grid, device=boxes_xywh.device) / grid
    low, high = boxes_xywh[:, :2, None], (boxes_xywh[:, :2] + boxes_xywh[:, 2:])[..., None]
    overlap = torch.minimum(high, starts + 1 / grid) - torch.maximum(low, starts)
    columns, rows = (overlap.clamp(min=0) * grid).unbind(1)
    return (rows[:, :, None] * columns[:, None, :]).flatten(1)


class OSTrackBackbone(nn.Module):
    """The transformer over template and search tokens; made as `OSTrackNetwork` is."""

    def __init__(self, config: OSTrackConfig, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.config = config
        width = config.embed_dim
        if config.stem == "patch":
            self.patch_embed: nn.Module = PatchEmbed(config.stride, width)
            # In official checkpoints, from the classifier they start from; never read.
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + _PRETRAINED_GRID**2, width))
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        else:
            from tracker_ros.models.ostrack.conv_stem import ConvStem

            self.patch_embed = ConvStem(config.stem_channels, width)
        if config.mark_target:
            # Added where the box is, and where it is not.
            self.target_mark = nn.Parameter(torch.zeros(2, width))
        self.pos_embed_z = nn.Parameter(torch.zeros(1, config.template_grid**2, width))
        self.pos_embed_x = nn.Parameter(torch.zeros(1, config.search_grid**2, width))
        rates = [drop_path_rate * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(
            Block(width, config.num_heads, config.mlp_ratio, config.layer_norm_eps, rate)
            for rate in rates
        )
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        nn.init.trunc_normal_(self.pos_embed_z, std=0.02)
        nn.init.trunc_normal_(self.pos_embed_x, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def start_positions_from_classifier(self) -> None:
        """Set both position embeddings from `pos_embed`, before fine-tuning a classifier.

        Raises:
            ValueError: The stem is not "patch", so there is no classifier to start from.
        """
        if self.config.stem != "patch":
            raise ValueError(f"stem {self.config.stem!r} has no pretrained position embedding")
        with torch.no_grad():
            for positions, grid in (
                (self.pos_embed_z, self.config.template_grid),
                (self.pos_embed_x, self.config.search_grid),
            ):
                positions.copy_(resample_position_embedding(self.pos_embed, grid))

    def template_positions(self, boxes_xywh: Tensor | None) -> Tensor:
        """What is added to template tokens: positions and, if configured, the target's mark.

        Args:
            boxes_xywh: (B, 4) target boxes as fractions of the template crop; without
                `mark_target` they are not read.

        Returns:
            (1 or B, Nz, C).

        Raises:
            ValueError: The configuration marks the target and there are no boxes.
        """
        if not self.config.mark_target:
            return self.pos_embed_z
        if boxes_xywh is None:
            raise ValueError("this network marks the target: give it template_boxes")
        coverage = target_coverage(boxes_xywh, self.config.template_grid)[..., None]
        inside, outside = self.target_mark
        return self.pos_embed_z + coverage * inside + (1 - coverage) * outside

    def embed_template(self, template: Tensor, boxes_xywh: Tensor | None = None) -> Tensor:
        """(B, 3, T, T) normalised template, (B, 4) boxes in it -> (B, Nz, C) placed tokens."""
        embedded = self.patch_embed(template).flatten(2).transpose(1, 2)
        return embedded + self.template_positions(boxes_xywh)

    def embed_search(self, search: Tensor) -> Tensor:
        """(B, 3, S, S) normalised search region -> (B, Nx, C) tokens with their positions."""
        return self.patch_embed(search).flatten(2).transpose(1, 2) + self.pos_embed_x

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
            if layer in self.config.ce_layers and rate < 1.0:
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


class OSTrackNetwork(nn.Module):
    """Backbone and centre head.

    Args:
        config: Shapes.
        drop_path_rate: Stochastic depth of the last block while training, rising from 0.
    """

    def __init__(self, config: OSTrackConfig, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.backbone = OSTrackBackbone(config, drop_path_rate)
        self.box_head = CenterHead(config.embed_dim, config.head_channels)

    def template_mask(self, boxes_xywh: Tensor) -> Tensor | None:
        """(B, 4) target boxes as fractions of the template crop -> the configuration's mask."""
        config = self.config
        return template_token_mask(
            config.ce_template_range, boxes_xywh, config.template_size, config.stride
        )

    def head(self, output: BackboneOutput) -> HeadMaps:
        """Maps (B, ., n, n) of what the backbone returned."""
        n = self.config.search_grid
        raster = output.search
        if output.eliminations:
            raster = restore_raster(output.search, output.position, n * n)
        return self.box_head(raster.transpose(1, 2).unflatten(2, (n, n)))

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
            score_map (B, 1, n, n), size_map (B, 2, n, n), offset_map (B, 2, n, n), and pred_boxes
            (B, 1, 4) cxcywh as fractions of the search crop, decoded from the plain score map.
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
        maps = self.head(output)
        return {
            "score_map": maps.score,
            "size_map": maps.size,
            "offset_map": maps.offset,
            "pred_boxes": decode_box(maps.score, maps).unsqueeze(1),
        }
