# SPDX-License-Identifier: Apache-2.0
"""The parts of TrDiMP that become graphs, see `export.py`: fixed shapes, operators that export.

Paper and official code: see `network.py`. Written for this package; the official code has no
counterpart. Each module called a part takes tensors and returns a tuple of them. Norms sum in
float32 in half precision too.

The transformer's memory has a fixed size. The sums that `memory.py` keeps are kept by the caller:
a part only says what a new image and those of the memory mean to each other. Images that are not
there yet are masked.

Scores of the target filter are products of all cells with all taps, of which each cell of the map
gathers its own by a table, since `fold` and `unfold` do not export well. The sample memory has all
its places from the start: samples of weight 0 teach nothing. Features of the IoU branch are
modulated once per image, not once per step.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker_ros.cuda.prroi_pool import (
    AxisWeights,
    pool_by_weights,
    pooling_weights_with_derivatives,
)
from tracker_ros.engines.half_precision import fold_norms
from tracker_ros.geometry import xywh_to_xyxy
from tracker_ros.models.layers.resnet import Features
from tracker_ros.models.trdimp.boxes import climb_relative, pooled_overlap
from tracker_ros.models.trdimp.filter_fitting import maps_at, tables_of
from tracker_ros.models.trdimp.memory import mean_of
from tracker_ros.models.trdimp.memory_transformer import (
    TEMPERATURE,
    DecoderLayer,
    InstanceL2Norm,
    KeyAttention,
    KeyHead,
    MemoryTransformer,
)
from tracker_ros.models.trdimp.network import (
    LAYER2_POOL,
    LAYER2_STRIDE,
    LAYER3_POOL,
    LAYER3_STRIDE,
    IoUNet,
    LinearBlock,
    TrDiMPNetwork,
)
from tracker_ros.models.trdimp.target_filter import (
    MIN_STEP_DENOMINATOR,
    FilterInitializer,
    FilterOptimizer,
    activate,
    activation_slope,
    distances,
    score_size,
    target_centres,
)


def with_norm(tokens: Tensor, scale: float) -> Tensor:
    """(..., n, C) -> the same, every image of root mean square `scale`; see `InstanceL2Norm`."""
    norm, wide = InstanceL2Norm(scale), tokens.float()
    return norm(wide.unsqueeze(-3)).squeeze(-3).to(tokens.dtype)


def tokens_of(image: Tensor) -> Tensor:
    """(1, C, h, w) -> (n, C)."""
    return image[0].flatten(1).transpose(0, 1)


class PatchPart(nn.Module):
    """Features of patches, with batch norms folded; torch runs it too."""

    def __init__(self, network: TrDiMPNetwork) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(network.feature_extractor)
        for unread in ("layer4", "fc"):
            if hasattr(self.backbone, unread):
                delattr(self.backbone, unread)
        fold_norms(self.backbone)
        conv, norm = network.classifier.feature_extractor
        self.conv = copy.deepcopy(conv)
        self.scale = cast(InstanceL2Norm, norm).scale

    def forward(self, patch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, S, S) normalised RGB -> features; see `PatchFeatures`. Graphs have N = 1."""
        layer2, layer3 = self.backbone(patch)
        classification = self.conv(layer3)
        tokens = with_norm(classification.flatten(2), self.scale)
        return layer2, layer3, tokens.view_as(classification)


_SHORTEST = 1e-12
"""Keys of no length stay so."""
_ABSENT = 1e4
"""Taken off what an absent image is worth; half precision can hold it."""


def keys_of(projection: nn.Linear, tokens: Tensor) -> Tensor:
    """(..., n, C) -> (..., n, key_dim) of length 1."""
    keys = projection(tokens).float()
    squares = keys.square().sum(dim=-1, keepdim=True)
    return (keys / squares.sqrt().clamp(min=_SHORTEST)).to(tokens.dtype)


def _projection(attention: KeyAttention) -> nn.Linear:
    return copy.deepcopy(cast(KeyHead, attention.head[0]).WK)


class MeetPart(nn.Module):
    """The encoder's attention between a new image, itself, and the images of the memory."""

    def __init__(self, transformer: MemoryTransformer) -> None:
        super().__init__()
        layer = cast(DecoderLayer, transformer.decoder.layers[0])
        self.projection = _projection(layer.self_attn)

    def forward(
        self, classification: Tensor, tokens: Tensor, keys: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Add up weighted tokens, and weights; see `AttendedTokens`.

        Args:
            classification: (1, C, h, w) of the new image.
            tokens: (M, n, C) of the memory.
            keys: (M, n, key_dim) of the memory.

        Returns:
            (n, key_dim) keys of the new image, its (n, C + 1) sums over itself, the (M, n, C + 1)
            sums of each image of the memory over it, and its own over each of those.
        """
        new = tokens_of(classification)
        key = keys_of(self.projection, new)
        itself = torch.exp(TEMPERATURE * (key @ key.t()) - TEMPERATURE)
        met = torch.exp(TEMPERATURE * (keys @ key.t()) - TEMPERATURE)
        columns = _with_ones(new)
        return (
            key,
            itself @ columns,
            met @ columns,
            met.transpose(1, 2) @ _with_ones(tokens),
        )


def _with_ones(tokens: Tensor) -> Tensor:
    return torch.cat([tokens, torch.ones_like(tokens[..., :1])], dim=-1)


class EncodePart(nn.Module):
    """The end of the encoder, and what the decoder attends to."""

    def __init__(self, transformer: MemoryTransformer) -> None:
        super().__init__()
        layer = cast(DecoderLayer, transformer.decoder.layers[0])
        self.projection = _projection(layer.cross_attn)
        self.scale = layer.norm.scale

    def forward(self, tokens: Tensor, sums: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode all M images, also those that are not there.

        Args:
            tokens: (M, n, C).
            sums: (M, n, C + 1) over the whole memory.
            labels: (M, n, 1) where the target is.

        Returns:
            (M, n, key_dim) keys of the decoder, and (M, n, C + 1) values: encoded features times
            the label, and the label.
        """
        encoded = with_norm(tokens + mean_of(sums), self.scale)
        values = torch.cat([encoded * labels, labels], dim=-1)
        return keys_of(self.projection, encoded), values


class DecodePart(nn.Module):
    """The decoder, of one image."""

    def __init__(self, transformer: MemoryTransformer) -> None:
        super().__init__()
        layer = cast(DecoderLayer, transformer.decoder.layers[0])
        self.self_projection = _projection(layer.self_attn)
        self.cross_projection = _projection(layer.cross_attn)
        self.scale = layer.norm.scale

    def forward(
        self, classification: Tensor, keys: Tensor, values: Tensor, present: Tensor
    ) -> tuple[Tensor]:
        """See `MemoryTransformer.decode`.

        Keys and values are those of `EncodePart`; `present` (M, 1) is 1 where there is an image,
        else 0. The features are (1, C, h, w) before and after.
        """
        tokens = tokens_of(classification)
        own = keys_of(self.self_projection, tokens)
        itself = torch.softmax(TEMPERATURE * own @ own.t(), dim=-1)
        tokens = with_norm(tokens + itself @ tokens, self.scale)
        asked = TEMPERATURE * keys_of(self.cross_projection, tokens)
        fit = (asked @ keys.flatten(0, 1).t()).view(-1, *keys.shape[:2])
        fit = fit + _ABSENT * (present - 1)
        attended = torch.softmax(fit.flatten(1), dim=-1) @ values.flatten(0, 1)
        target, mask = attended[:, :-1], attended[:, -1:]
        both = with_norm(tokens * mask, self.scale) + with_norm(tokens + target, self.scale)
        return (with_norm(both, self.scale).t().reshape(classification.shape),)


class FirstFilterPart(nn.Module):
    """The first filter."""

    def __init__(self, initializer: FilterInitializer) -> None:
        super().__init__()
        self.initializer = copy.deepcopy(initializer)

    def forward(self, features: Tensor, boxes: Tensor) -> tuple[Tensor]:
        """(N, C, h, w), (N, 4) xywh -> (C, k, k); see `FilterInitializer`."""
        return (self.initializer(features, boxes),)


class ScorePart(nn.Module):
    """The scores of a filter of size k on features of (height, width) cells."""

    patch_table: Tensor
    score_table: Tensor

    def __init__(self, size: tuple[int, int], filter_size: int) -> None:
        super().__init__()
        k, cells = filter_size, size[0] * size[1]
        self.size = score_size(size[0], k), score_size(size[1], k)
        # 1 + the score that each cell and tap has a part in, 0 where that leaves the map.
        count = self.size[0] * self.size[1]
        numbers = torch.arange(1.0, count + 1).view(1, 1, *self.size)
        patches = F.unfold(numbers, k, padding=k - 1 - k // 2)[0].flip(0).long()
        own = 1 + torch.arange(cells) * k**2 + torch.arange(k**2)[:, None]
        scores = torch.zeros(k**2, count + 1, dtype=torch.long).scatter_(1, patches, own)
        self.register_buffer("patch_table", patches.t().contiguous())
        self.register_buffer("score_table", scores[:, 1:].t().contiguous())

    def scores(self, taps: Tensor, cells: Tensor) -> Tensor:
        """(C, k * k) filter, (N, n, C) features -> (N, h' * w')."""
        products = F.pad((cells @ taps).flatten(1), (1, 0))
        return _gathered(products, self.score_table).sum(-1)

    def gradient(self, residuals: Tensor, cells: Tensor) -> Tensor:
        """(N, h' * w') by the scores, (N, n, C) features -> (C, k * k) by the filter."""
        patches = _gathered(F.pad(residuals, (1, 0)), self.patch_table)
        return cells.flatten(0, 1).t() @ patches.flatten(0, 1)

    def forward(self, target_filter: Tensor, decoded: Tensor) -> tuple[Tensor]:
        """(C, k, k), (1, C, h, w) -> (h', w')."""
        scores = self.scores(target_filter.flatten(1), tokens_of(decoded)[None])
        return (scores.view(self.size),)


def _gathered(rows: Tensor, table: Tensor) -> Tensor:
    """(N, m), (a, b) of numbers below m -> (N, a, b)."""
    return rows.index_select(1, table.flatten()).unflatten(1, (table.shape[0], table.shape[1]))


class FitPart(ScorePart):
    """One step of the filter's optimiser."""

    tables: Tensor
    step_length: Tensor
    regularisation: Tensor

    def __init__(
        self, optimizer: FilterOptimizer, size: tuple[int, int], filter_size: int
    ) -> None:
        super().__init__(size, filter_size)
        self.stride = optimizer.stride
        self.displacement = optimizer.displacement
        self.register_buffer("tables", tables_of(optimizer))
        self.register_buffer("step_length", optimizer.step_length.detach().clone())
        self.register_buffer("regularisation", optimizer.regularisation.detach().clone())

    def forward(  # type: ignore[override]
        self, target_filter: Tensor, cells: Tensor, boxes: Tensor, sample_weight: Tensor
    ) -> tuple[Tensor]:
        """Improve a (C, k, k) filter; see `FilterFitting.fit`.

        Args:
            target_filter: (C, k, k).
            cells: (N, n, C) features, a row per cell.
            boxes: (N, 4) xywh in crop pixels.
            sample_weight: (N,), 0 where there is no sample.
        """
        taps = target_filter.flatten(1)
        centres = target_centres(boxes, self.stride, target_filter.shape[-1])
        maps = maps_at(distances(centres, self.size) / self.displacement, self.tables)
        label, mask = maps.label.flatten(1), maps.mask.flatten(1)
        weight = maps.weight.flatten(1) * sample_weight.sqrt()[:, None]

        scores = self.scores(taps, cells)
        slope = weight * activation_slope(scores, mask)
        residuals = slope * weight * (activate(scores, mask) - label)
        gradient = self.gradient(residuals, cells) + self.regularisation * taps
        change = self.scores(gradient, cells)
        squared = gradient.square().sum()
        curvature = (slope * change).square().sum() + self.regularisation * squared
        step = self.step_length * squared / curvature.clamp(min=MIN_STEP_DENOMINATOR)
        return ((taps - step * gradient).view(target_filter.shape),)


class ModulationPart(nn.Module):
    """What a target looks like to the IoU branch, a loaded network with its batch norms folded."""

    def __init__(self, network: IoUNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, layer2: Tensor, layer3: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """(1, C2, S / 8, S / 8), (1, C3, S / 16, S / 16), (1, 4) xywh -> see `Modulation`."""
        found = self.network.modulation(Features(layer2, layer3), boxes)
        return found.layer2, found.layer3


class IoUFeaturesPart(nn.Module):
    """What boxes are pooled from, channels innermost, modulated."""

    def __init__(self, network: IoUNet) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, layer2: Tensor, layer3: Tensor, modulation2: Tensor, modulation3: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features of a patch, factors (1, iou_dim, 1, 1) -> (h, w, iou_dim) by layer."""
        found = self.network.test_features(Features(layer2, layer3))
        cells2 = (found.layer2 * modulation2)[0].permute(1, 2, 0).contiguous()
        return cells2, (found.layer3 * modulation3)[0].permute(1, 2, 0).contiguous()


class OverlapPart(nn.Module):
    """One layer's share of the predicted IoU; see `LayerOverlap`."""

    weight: Tensor
    bias: Tensor
    predictor: Tensor

    def __init__(self, block: LinearBlock, predictor: Tensor, pool: int, stride: int) -> None:
        super().__init__()
        self.pool = pool
        self.stride = stride
        weight = block.linear.weight.detach().unflatten(1, (-1, pool, pool))
        self.register_buffer("weight", weight.permute(0, 2, 3, 1).flatten(1).contiguous())
        self.register_buffer("bias", block.linear.bias.detach().clone())
        self.register_buffer("predictor", predictor.detach().clone())

    def forward(self, cells: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """(h, w, C), (P, 4) xywh -> (P,) share and (P, 4) its gradient by the boxes."""
        # The map is square: both axes at once.
        starts, ends = (xywh_to_xyxy(boxes) / self.stride).t().unflatten(0, (2, 2))
        axes = pooling_weights_with_derivatives(starts, ends, self.pool, cells.shape[0])
        x, y = (AxisWeights(*(values[axis] for values in axes)) for axis in (0, 1))
        share, gradient = pooled_overlap(
            pool_by_weights(cells, x, y),
            lambda pooled: F.linear(pooled, self.weight, self.bias),
            lambda slope: slope @ self.weight,
            self.predictor,
        )
        return share, gradient / self.stride


class RefinePart(nn.Module):
    """One step of boxes that climb the predicted IoU; see `BoxRefinement.refine`."""

    bias: Tensor

    def __init__(self, network: IoUNet) -> None:
        super().__init__()
        for2, for3 = network.iou_predictor.weight[0].chunk(2)
        self.layer2 = OverlapPart(network.fc3_rt, for2, LAYER2_POOL, LAYER2_STRIDE)
        self.layer3 = OverlapPart(network.fc4_rt, for3, LAYER3_POOL, LAYER3_STRIDE)
        self.register_buffer("bias", network.iou_predictor.bias.detach().clone())

    def forward(
        self, boxes: Tensor, cells2: Tensor, cells3: Tensor, unit: Tensor, step: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Let (P, 4) xywh boxes climb by one step in the space "relative".

        Args:
            boxes: (P, 4) xywh in crop pixels.
            cells2: (S / 8, S / 8, iou_dim) from `IoUFeaturesPart`.
            cells3: (S / 16, S / 16, iou_dim) likewise.
            unit: (2,) width and height that centres are measured in.
            step: (4,) length of the step.

        Returns:
            (P, 4) boxes, and (P,) predicted IoU of the boxes before the step.
        """
        share2, gradient2 = self.layer2(cells2, boxes)
        share3, gradient3 = self.layer3(cells3, boxes)
        climbed = climb_relative(boxes, gradient2 + gradient3, step, unit)
        return climbed, share2 + share3 + self.bias
