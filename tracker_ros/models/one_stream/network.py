# SPDX-License-Identifier: Apache-2.0
"""What the one-stream networks (OSTrack, GRM) share: embedding, blocks, head.

Papers: Ye et al., ECCV 2022 (https://arxiv.org/abs/2203.11991); Gao et al., CVPR 2023
(https://arxiv.org/abs/2303.16580). Official code: https://github.com/botaoye/OSTrack and
https://github.com/Little-Podi/GRM (both MIT); written anew with the official state-dict keys.

What differs on purpose: for the compact members that are trained here, `stem="conv"` replaces the
patch projection by convolutions (`ConvStem`), and `mark_target` adds to each template token a mark
in proportion to how much of it the target's box covers: the crop alone tells the box's area but
not its shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker_ros.models.layers.center_head import CenterHead, HeadMaps, decode_box
from tracker_ros.models.layers.vit import Block, ConvStem, PatchEmbed
from tracker_ros.models.one_stream.config import OneStreamConfig

_PRETRAINED_GRID = 14


def resample_position_embedding(pos_embed: Tensor, grid: int) -> Tensor:
    """Return the position embedding that fine-tuning starts from, as official `finetune_track`.

    (1, 1 + n * n, C) of the pretrained classifier, whose first position is its class token's ->
    (1, grid * grid, C), bicubic without antialiasing.
    """
    return interpolate_positions(pos_embed[:, 1:], grid)


def is_added_to_classifier(key: str) -> bool:
    """Tell whether a tracker's tensor is none of the pretrained classifier it starts from."""
    own = key in ("backbone.pos_embed_z", "backbone.pos_embed_x") or ".divide_predict." in key
    return own or not key.startswith("backbone.")


def interpolate_positions(positions: Tensor, grid: int) -> Tensor:
    """(1, n * n, C) positions -> (1, grid * grid, C), bicubic without antialiasing."""
    side = round(positions.shape[1] ** 0.5)
    image = positions.transpose(1, 2).reshape(1, -1, side, side)
    image = F.interpolate(image, size=(grid, grid), mode="bicubic", align_corners=False)
    return image.flatten(2).transpose(1, 2)


def resample_positions(
    state: Mapping[str, Tensor], trained: OneStreamConfig, wanted: OneStreamConfig
) -> dict[str, Tensor]:
    """Return a network's tensors with the position embeddings of crops of other sizes.

    Args:
        state: Tensors by name, for the sizes of `trained`; other positions are left as they are.
        trained: What the weights were trained with.
        wanted: What they shall be run with.
    """
    changed = dict(state)
    for name, before, after in (
        ("backbone.pos_embed_z", trained.template_grid, wanted.template_grid),
        ("backbone.pos_embed_x", trained.search_grid, wanted.search_grid),
    ):
        if before != after and name in state and state[name].shape[1] == before**2:
            changed[name] = interpolate_positions(state[name], after)
    return changed


def target_coverage(boxes_xywh: Tensor, grid: int) -> Tensor:
    """Return how much of each template token a box covers.

    (B, 4) xywh as fractions of the template crop -> (B, grid * grid) fractions in [0, 1], raster
    order.
    """
    starts = torch.arange(grid, device=boxes_xywh.device) / grid
    low, high = boxes_xywh[:, :2, None], (boxes_xywh[:, :2] + boxes_xywh[:, 2:])[..., None]
    overlap = torch.minimum(high, starts + 1 / grid) - torch.maximum(low, starts)
    columns, rows = (overlap.clamp(min=0) * grid).unbind(1)
    return (rows[:, :, None] * columns[:, None, :]).flatten(1)


class TemplateEmbedding(nn.Module):
    """Embeds templates."""

    config: OneStreamConfig  # shapes
    patch_embed: nn.Module  # the stem
    pos_embed_z: nn.Parameter  # (1, Nz, C) positions
    # (2, C) added where the box is and where it is not; with `mark_target` only
    target_mark: nn.Parameter

    def template_positions(self, boxes_xywh: Tensor | None) -> Tensor:
        """Return what is added to template tokens, (1 or B, Nz, C): positions and maybe a mark.

        The mark needs the (B, 4) target boxes as fractions of the template crop, and raises
        ValueError without them.
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


class OneStreamBackbone(TemplateEmbedding):
    """Embedding, blocks and last norm; a family adds the forward pass through the blocks.

    Args:
        config: Shapes.
        kinds: Class of each block, or what else makes one from `Block`'s arguments.
        drop_path_rate: Stochastic depth of the last block while training, rising from 0.
    """

    def __init__(
        self, config: OneStreamConfig, kinds: Sequence[Callable[..., Block]], drop_path_rate: float
    ) -> None:
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
            self.patch_embed = ConvStem(config.stem_channels, width)
        if config.mark_target:
            self.target_mark = nn.Parameter(torch.zeros(2, width))
        self.pos_embed_z = nn.Parameter(torch.zeros(1, config.template_grid**2, width))
        self.pos_embed_x = nn.Parameter(torch.zeros(1, config.search_grid**2, width))
        rates = [drop_path_rate * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(
            kind(width, config.num_heads, config.mlp_ratio, config.layer_norm_eps, rate)
            for kind, rate in zip(kinds, rates, strict=True)
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

        Raises ValueError if the stem is not "patch", so that there is no classifier to start from.
        """
        if self.config.stem != "patch":
            raise ValueError(f"stem {self.config.stem!r} has no pretrained position embedding")
        with torch.no_grad():
            for positions, grid in (
                (self.pos_embed_z, self.config.template_grid),
                (self.pos_embed_x, self.config.search_grid),
            ):
                positions.copy_(resample_position_embedding(self.pos_embed, grid))

    def embed_search(self, search: Tensor) -> Tensor:
        """(B, 3, S, S) normalised search region -> (B, Nx, C) tokens with their positions.

        A smaller one than the configuration's counts as its middle.
        """
        embedded = self.patch_embed(search)
        grid = self.config.search_grid
        edge = (grid - embedded.shape[-1]) // 2
        positions = self.pos_embed_x
        if edge:
            inner = slice(edge, grid - edge)
            positions = positions.unflatten(1, (grid, grid))[:, inner, inner].flatten(1, 2)
        return embedded.flatten(2).transpose(1, 2) + positions


class OneStreamNetwork(nn.Module):
    """Backbone and centre head; a family adds the forward pass."""

    def __init__(self, config: OneStreamConfig, backbone: OneStreamBackbone) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.box_head = CenterHead(config.embed_dim, config.head_channels)

    def maps(self, raster: Tensor) -> HeadMaps:
        """Return the maps of all search tokens, (B, n * n, C) in raster order."""
        n = math.isqrt(raster.shape[1])
        maps: HeadMaps = self.box_head(raster.transpose(1, 2).unflatten(2, (n, n)))
        if n == self.config.search_grid:
            return maps
        # The head tells sizes as fractions of the search region that it was trained with.
        return maps._replace(size=maps.size * (self.config.search_grid / n))


def as_prediction(maps: HeadMaps) -> dict[str, Tensor]:
    """Return a head's maps as the forward pass of a network does.

    score_map (B, 1, n, n), size_map (B, 2, n, n), offset_map (B, 2, n, n), and pred_boxes (B, 1,
    4) cxcywh as fractions of the search crop, decoded from the plain score map.
    """
    return {
        "score_map": maps.score,
        "size_map": maps.size,
        "offset_map": maps.offset,
        "pred_boxes": decode_box(maps.score, maps).unsqueeze(1),
    }
