# SPDX-License-Identifier: Apache-2.0
"""Find a target in a crop by comparing the crop's features with those of one or two templates.

This package's own design, of known parts. Crops go through a pretrained MobileNetV2 (`layers/
mobilenet.py`) once each. A template is a grid of cells, read from the features of a crop at a box
and its surroundings; so a later template costs nothing but that reading. Search tokens see, beside
their own features, the cosine similarity of their cell with every cell of the templates
(pixel-wise correlation, as in Alpha-Refine, CVPR 2021, https://arxiv.org/abs/2007.02024, and
LightTrack, CVPR 2021, https://arxiv.org/abs/2104.14545). In the blocks they attend to the
templates and to each other, but the templates attend to nothing, so they need not be computed anew
for every frame (asymmetric attention as in MixFormer, CVPR 2022,
https://arxiv.org/abs/2203.11082; a second template as there and in FEAR, ECCV 2022,
https://arxiv.org/abs/2112.07957). The MLP of a block has a depthwise convolution, as in SegFormer.
The head is OSTrack's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker_ros.crops import IMAGENET_MEAN, IMAGENET_STD
from tracker_ros.models.layers.center_head import CenterHead, HeadMaps
from tracker_ros.models.layers.mobilenet import COARSE_CHANNELS, FINE_CHANNELS, MobileNetV2Body
from tracker_ros.models.two_stream.config import TwoStreamConfig

NORM_EPS = 1e-6


def sampling_weights(centre: Tensor, extent: Tensor, cells: int, grid: int) -> Tensor:
    """Return the share of each grid cell in each template cell along one axis.

    Args:
        centre: (B,) centre of the template as a fraction of the crop.
        extent: (B,) its width or height, likewise.
        cells: Of the template.
        grid: Cells of the crop.

    Returns:
        (B, cells, grid) bilinear weights; beyond the crop its edge is repeated.
    """
    steps = (torch.arange(cells, device=centre.device) + 0.5) / cells - 0.5
    place = (centre[:, None] + extent[:, None] * steps) * grid - 0.5
    place = place.clamp(0, grid - 1)[..., None]
    return (1 - (place - torch.arange(grid, device=centre.device)).abs()).clamp(min=0)


def unit_length(vectors: Tensor, dim: int) -> Tensor:
    """Return vectors along a dimension with a length of 1, or 0 if they are 0."""
    return vectors * (vectors.square().sum(dim, keepdim=True) + NORM_EPS).rsqrt()


class Block(nn.Module):
    """Search tokens attend to the templates and to each other; then an MLP with a 3 x 3 view."""

    def __init__(self, config: TwoStreamConfig) -> None:
        super().__init__()
        width, hidden = config.embed_dim, int(config.embed_dim * config.mlp_ratio)
        self.heads, self.grid = config.num_heads, config.search_grid
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.template_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.expand = nn.Linear(width, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.reduce = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor, templates: Tensor) -> Tensor:
        """(B, n * n, C) search tokens, (B, N, C) tokens of the templates -> (B, n * n, C)."""
        normed = self.norm1(tokens)
        memory = torch.cat([self.template_norm(templates), normed], 1)
        query = self.query(normed).unflatten(2, (self.heads, -1)).transpose(1, 2)
        packed = self.key_value(memory).unflatten(2, (2, self.heads, -1))
        key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.project(mixed.transpose(1, 2).flatten(2))
        hidden = self.expand(self.norm2(tokens))
        image = hidden.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        hidden = hidden + self.depthwise(image).flatten(2).transpose(1, 2)
        return tokens + self.reduce(F.gelu(hidden))


class TwoStreamNetwork(nn.Module):
    """Body, template reading, blocks and head.

    Features of a crop are one tensor (B, C + K, n, n): `embed_dim` channels that become tokens and
    `key_dim` channels, of unit length, by which cells are compared. A template is (B, m * m,
    C + K), the same of its cells with positions and marks added.
    """

    def __init__(self, config: TwoStreamConfig) -> None:
        super().__init__()
        self.config = config
        width, cells, grid = config.embed_dim, config.template_cells**2, config.search_grid
        raw = 4 * FINE_CHANNELS + COARSE_CHANNELS
        self.body = MobileNetV2Body()
        self.raw_norm: nn.Module = nn.BatchNorm2d(raw)
        self.embed = nn.Conv2d(raw, width, 1)
        self.compare = nn.Conv2d(raw, config.key_dim, 1, bias=False)
        self.template_position = nn.Parameter(torch.zeros(cells, width))
        self.target_mark = nn.Parameter(torch.zeros(2, width))
        self.shape_mark = nn.Linear(2, width)
        self.template_mark = nn.Parameter(torch.zeros(config.templates, 1, width))
        self.search_position = nn.Parameter(torch.zeros(grid**2, width))
        self.similarity = nn.Linear(config.templates * cells, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.box_head = CenterHead(width, config.head_channels)

    def body_features(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) normalised image -> (B, 224, n, n) features of the body alone."""
        mean, deviation = image.new_tensor([IMAGENET_MEAN, IMAGENET_STD])[..., None, None]
        fine, coarse = self.body(image * (2 * deviation) + (2 * mean - 1))
        return torch.cat([F.pixel_unshuffle(fine, 2), coarse], 1)

    @torch.no_grad()
    def fold_norm(self) -> None:
        """Let the convolutions after the batch norm do its work, in place; only for inference."""
        norm = self.raw_norm
        if not isinstance(norm, nn.BatchNorm2d):
            return
        assert norm.running_var is not None
        assert norm.running_mean is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        for layer in (self.embed, self.compare):
            moved = layer.weight[:, :, 0, 0] @ shift
            layer.bias = nn.Parameter(moved if layer.bias is None else layer.bias + moved)
            layer.weight *= scale[:, None, None]
        self.raw_norm = nn.Identity()

    def features(self, raw: Tensor) -> Tensor:
        """(B, 224, n, n) of the body -> (B, C + K, n, n)."""
        raw = self.raw_norm(raw)
        return torch.cat([self.embed(raw), unit_length(self.compare(raw), 1)], 1)

    def read_template(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Read templates from features of crops.

        Args:
            features: (B, C + K, n, n).
            boxes: (B, 4) xywh of the targets as fractions of the crops.

        Returns:
            (B, m * m, C + K).
        """
        config = self.config
        cells, width = config.template_cells, config.embed_dim
        extent = boxes[:, 2:].clamp(min=1e-3)
        centre = boxes[:, :2] + extent / 2
        region = extent + config.context * (extent[:, :1] * extent[:, 1:]).sqrt()
        grid = features.shape[-1]
        across = sampling_weights(centre[:, 0], region[:, 0], cells, grid)
        down = sampling_weights(centre[:, 1], region[:, 1], cells, grid)
        sampled = down[:, None] @ features @ across[:, None].transpose(2, 3)
        tokens, keys = sampled.flatten(2).transpose(1, 2).split([width, config.key_dim], 2)
        inside = self._inside(extent / region)
        marks = inside * self.target_mark[0] + (1 - inside) * self.target_mark[1]
        shape = self.shape_mark(torch.log(extent * config.search_factor))[:, None]
        tokens = tokens + self.template_position + marks + shape
        return torch.cat([tokens, unit_length(keys, 2)], 2)

    def _inside(self, share: Tensor) -> Tensor:
        """(B, 2) the box's share of a template's sides -> (B, m * m, 1) its share of each cell."""
        cells = self.config.template_cells
        starts = torch.arange(cells, device=share.device) / cells
        low, high = 0.5 - share[..., None] / 2, 0.5 + share[..., None] / 2
        covered = torch.minimum(high, starts + 1 / cells) - torch.maximum(low, starts)
        columns, rows = (covered.clamp(min=0) * cells).unbind(1)
        return (rows[:, :, None] * columns[:, None, :]).flatten(1)[..., None]

    def locate(self, templates: Tensor, features: Tensor) -> HeadMaps:
        """(B, 2, m * m, C + K) templates, (B, C + K, n, n) of search crops -> maps."""
        width, keys = self.config.embed_dim, self.config.key_dim
        tokens, compared = features.flatten(2).transpose(1, 2).split([width, keys], 2)
        memory, cells = templates.split([width, keys], 3)
        similarity = compared @ cells.flatten(1, 2).transpose(1, 2)
        tokens = tokens + self.search_position + self.similarity(similarity)
        memory = (memory + self.template_mark).flatten(1, 2)
        for block in self.blocks:
            tokens = block(tokens, memory)
        grid = self.config.search_grid
        return self.box_head(self.norm(tokens).transpose(1, 2).unflatten(2, (grid, grid)))
