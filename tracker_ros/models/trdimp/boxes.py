# SPDX-License-Identifier: Apache-2.0
"""Refines boxes by gradient ascent on the predicted IoU, with the gradient written out.

Paper: Danelljan et al., ATOM, CVPR 2019 (https://arxiv.org/abs/1811.07628); "relative" space:
Danelljan, Van Gool, Timofte, "Probabilistic Regression for Visual Tracking", CVPR 2020. Official
code: https://github.com/594422814/TransformerTrack (MIT, built on pytracking),
`pytracking/tracker/trdimp/trdimp.py`, `optimize_boxes_relative` and `optimize_boxes_default`;
written anew. Tests compare the gradient with autograd through `network.py`.

What differs on purpose is the amount of work, not the result. On a CPU the convolutions of the IoU
branch run only where the boxes are (`PartialMap`). Batch norms are folded into the layers before
them. The prediction and its gradient are sums over two layers: each layer's share of both is
computed at once, and nothing is recorded. Boxes are pooled by matrix products or, on a GPU where
that is faster, by a compiled kernel (`fastest_prroi_pool`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tracker_ros.cuda.prroi_pool import MapPool, Pooled, pool_by_matrix
from tracker_ros.geometry import xywh_to_xyxy
from tracker_ros.models.layers.packed import InferenceLinear, for_inference
from tracker_ros.models.trdimp.config import TrackingParameters, TrDiMPConfig
from tracker_ros.models.trdimp.features import Modulation
from tracker_ros.models.trdimp.localisation import ascend
from tracker_ros.models.trdimp.network import (
    LAYER2_POOL,
    LAYER2_STRIDE,
    LAYER3_POOL,
    LAYER3_STRIDE,
    BackboneFeatures,
    IoUNet,
    LinearBlock,
)

MARGIN_PX = 16
"""Crop pixels that are computed around the first boxes, since boxes move."""
_REACH = 2  # cells that two 3 x 3 convolutions read beyond their output
_SIDE_STEP = 4  # sides of parts are multiples of it, since oneDNN plans anew for each new shape

Range = tuple[int, int]
"""First cell and the one after the last."""


def part_of_axis(low: int, high: int, margin: int, size: int) -> Range:
    """Return the cells to convolve so that results in [low - margin, high + margin) are right.

    An axis has `size` cells; a part that would not be shorter is extended to all of them.
    """
    needed = high - low + 2 * (margin + _REACH)
    side = math.ceil(needed / _SIDE_STEP) * _SIDE_STEP
    if side >= size:
        return 0, size
    start = low - margin - _REACH - (side - needed) // 2
    start = min(max(start, 0), size - side)
    return start, start + side


class PartialMap:
    """Modulated IoU features of one layer of one picture, computed only where boxes are.

    Args:
        convs: The layer's two convolutions.
        layer: (1, inputs, H, W) of the backbone.
        modulation: (1, C, 1, 1).
        stride: Crop pixels per cell.
        partial: False computes the whole map at once without looking at the boxes, as a GPU
            should: it would stall on their values.
    """

    def __init__(
        self, convs: nn.Module, layer: Tensor, modulation: Tensor, stride: int, *, partial: bool
    ) -> None:
        self.convs = convs
        self.layer = layer
        self.modulation = modulation
        self.stride = stride
        self.partial = partial
        self.cells: Tensor | None = None
        self.rows = self.columns = (0, 0)

    def around(self, boxes: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return features that contain all cells that boxes are pooled from.

        (P, 4) x0, y0, x1, y1 in cells -> (h, w, C), and the row and column of the map where they
        begin.
        """
        height, width = self.layer.shape[-2:]
        if self.partial:
            rows, columns = self._touched(boxes)
            if self.cells is None:
                margin = MARGIN_PX // self.stride
                self._compute(
                    part_of_axis(*rows, margin, height), part_of_axis(*columns, margin, width)
                )
            elif not (_within(rows, self.rows) and _within(columns, self.columns)):
                self._compute((0, height), (0, width))
        elif self.cells is None:
            self._compute((0, height), (0, width))
        assert self.cells is not None
        return self.cells, (self.rows[0], self.columns[0])

    def _touched(self, boxes: Tensor) -> tuple[Range, Range]:
        """Return the rows and columns that have weight in the pooling of boxes; at least one."""
        height, width = self.layer.shape[-2:]
        last = boxes.new_tensor([width - 1, height - 1])
        # fmin and fmax ignore nan, which a box may hold that has left all bounds: then take all.
        low = torch.fmax(boxes[:, :2].amin(0).floor(), last * 0).minimum(last)
        high = torch.fmin(boxes[:, 2:].amax(0).ceil(), last).maximum(low)
        (left, top), (right, bottom) = low.int().tolist(), high.int().tolist()
        return (top, bottom + 1), (left, right + 1)

    def _compute(self, rows: Range, columns: Range) -> None:
        height, width = self.layer.shape[-2:]
        part = self.layer[..., slice(*rows), slice(*columns)]
        part = self.convs(part.contiguous(memory_format=torch.channels_last))
        # Zero padding is right only at the borders of the picture.
        top, bottom = _inner(rows, height)
        left, right = _inner(columns, width)
        part = part[..., top - rows[0] : bottom - rows[0], left - columns[0] : right - columns[0]]
        self.rows, self.columns = (top, bottom), (left, right)
        self.cells = (part * self.modulation)[0].permute(1, 2, 0).contiguous()


def _within(inner: Range, outer: Range) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _inner(part: Range, size: int) -> Range:
    """Return the cells with right results, of a part that was convolved alone."""
    low = part[0] + _REACH if part[0] > 0 else 0
    high = part[1] - _REACH if part[1] < size else size
    return low, high


class LayerOverlap:
    """Computes one layer's share of the predicted IoU, and its gradient.

    Args:
        convs: The layer's two convolutions, prepared.
        block: Layer over pooled regions, with its batch norm folded in.
        predictor: (outputs,) weights of its outputs in the prediction.
        bins: Pooling bins along each axis.
        stride: Crop pixels per cell.
        packed: Lay weights out for oneDNN.
        pool: Pools boxes.
    """

    def __init__(
        self,
        convs: nn.Module,
        block: LinearBlock,
        predictor: Tensor,
        bins: int,
        stride: int,
        *,
        packed: bool,
        pool: MapPool,
    ) -> None:
        self.convs = convs
        self.predictor = predictor.detach()
        self.bins = bins
        self.stride = stride
        self.pool = pool
        weight = block.linear.weight.detach().unflatten(1, (-1, bins, bins))
        weight = weight.permute(0, 2, 3, 1).flatten(1)
        self.forward = InferenceLinear(weight, block.linear.bias, packed=packed)
        self.backward = InferenceLinear(weight.t(), None, packed=packed)

    def map(self, layer: Tensor, modulation: Tensor) -> PartialMap:
        """Return the IoU features of one picture, to be computed on demand."""
        partial = layer.device.type == "cpu"
        return PartialMap(self.convs, layer, modulation, self.stride, partial=partial)

    def __call__(self, features: PartialMap, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate (P, 4) xywh boxes in crop pixels on features from `map`.

        Returns the (P,) share of the IoU, and its (P, 4) gradient by x, y, w, h.
        """
        edges = xywh_to_xyxy(boxes) / self.stride
        cells, (top, left) = features.around(edges)
        if top or left:
            edges = edges - edges.new_tensor([left, top, left, top])
        pooled = self.pool(cells, edges, self.bins)
        share, gradient = pooled_overlap(pooled, self.forward, self.backward, self.predictor)
        return share, gradient / self.stride


def pooled_overlap(
    pooled: Pooled,
    forward: Callable[[Tensor], Tensor],
    backward: Callable[[Tensor], Tensor],
    predictor: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return one layer's share of the predicted IoU, and its gradient.

    Args:
        pooled: P boxes, pooled from modulated features.
        forward: (P, bins * bins * C) regions -> (P, outputs) before their ReLU.
        backward: The transpose of its matrix.
        predictor: (outputs,) weights of its outputs in the prediction.

    Returns:
        (P,) share, and (P, 4) its gradient by x, y, w, h, in cells.
    """
    hidden = forward(pooled.values.flatten(1))
    share = hidden.relu() @ predictor
    slope = backward((hidden > 0) * predictor).view(pooled.values.shape)
    x0, y0, x1, y1 = pooled.box_gradient(slope).unbind(1)
    return share, torch.stack([x0 + x1, y0 + y1, x1, y1], dim=1)


def climb_default(boxes: Tensor, gradient: Tensor, step: Tensor) -> Tensor:
    """Return (P, 4) boxes one step up, in proportion to their own size; `step` is (4,)."""
    return boxes + step * gradient * boxes[:, 2:].repeat(1, 2)


def climb_relative(boxes: Tensor, gradient: Tensor, step: Tensor, unit: Tensor) -> Tensor:
    """Return boxes one step up, by centre in a fixed unit and by the logarithm of the size.

    (P, 4) xywh boxes, their (P, 4) gradient by x, y, w, h, the (4,) step length, and the (2,)
    width and height that centres are measured in.
    """
    corner, size = boxes[:, :2], boxes[:, 2:]
    by_centre, by_size = gradient[:, :2], gradient[:, 2:] - gradient[:, :2] / 2
    centre = corner + size / 2 + step[:2] * by_centre * unit**2
    size = size * (step[2:] * by_size * size).exp()
    return torch.cat([centre - size / 2, size], dim=1)


def pooled_maps(
    config: TrDiMPConfig, parameters: TrackingParameters
) -> list[tuple[int, int, int, int]]:
    """Return height, width, channels and bins of the maps that boxes are pooled from."""
    side, channels = parameters.image_sample_size, config.iou_dim
    fine, coarse = side // LAYER2_STRIDE, side // LAYER3_STRIDE
    return [(fine, fine, channels, LAYER2_POOL), (coarse, coarse, channels, LAYER3_POOL)]


class BoxRefinement:
    """The IoU branch of a trained network, prepared to refine boxes.

    The network is in eval mode and on its device; its modules are taken over and changed. `packed`
    lays weights out for oneDNN.
    """

    def __init__(self, network: IoUNet, *, packed: bool, pool: MapPool = pool_by_matrix) -> None:
        for_inference(network.eval(), packed=packed)
        for2, for3 = network.iou_predictor.weight[0].chunk(2)
        self.layer2 = LayerOverlap(
            nn.Sequential(network.conv3_1t, network.conv3_2t),
            network.fc3_rt,
            for2,
            LAYER2_POOL,
            LAYER2_STRIDE,
            packed=packed,
            pool=pool,
        )
        self.layer3 = LayerOverlap(
            nn.Sequential(network.conv4_1t, network.conv4_2t),
            network.fc4_rt,
            for3,
            LAYER3_POOL,
            LAYER3_STRIDE,
            packed=packed,
            pool=pool,
        )
        self.bias = network.iou_predictor.bias.detach()
        self.modulation = network.modulation

    def maps(
        self, modulation: Modulation, features: BackboneFeatures
    ) -> tuple[PartialMap, PartialMap]:
        """Return the IoU features of one picture, in which one target is sought."""
        return (
            self.layer2.map(features.layer2, modulation.layer2),
            self.layer3.map(features.layer3, modulation.layer3),
        )

    def overlap(self, maps: tuple[PartialMap, PartialMap], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predicted IoU (P,) of (P, 4) xywh boxes, and its gradient (P, 4)."""
        share2, gradient2 = self.layer2(maps[0], boxes)
        share3, gradient3 = self.layer3(maps[1], boxes)
        return share2 + share3 + self.bias, gradient2 + gradient3

    def refine(
        self,
        modulation: Modulation,
        features: BackboneFeatures,
        boxes: Tensor,
        settings: TrackingParameters,
    ) -> tuple[Tensor, Tensor]:
        """Let (P, 4) xywh boxes climb in the picture that is searched; see `ascend`.

        The size of the first box is the unit of the space "relative".
        """
        relative = settings.box_refinement_space == "relative"
        unit = boxes[0, 2:]
        maps = self.maps(modulation, features)

        def climb_once(boxes: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
            iou, gradient = self.overlap(maps, boxes)
            if relative:
                return climb_relative(boxes, gradient, step, unit), iou
            return climb_default(boxes, gradient, step), iou

        return ascend(climb_once, boxes, settings)
