# SPDX-License-Identifier: Apache-2.0
"""Boxes climb the predicted IoU, by a gradient that is written out.

Paper: Danelljan et al., ATOM, CVPR 2019 (https://arxiv.org/abs/1811.07628); "relative" space:
Danelljan, Van Gool, Timofte, "Probabilistic Regression for Visual Tracking", CVPR 2020.
Official code: https://github.com/594422814/TransformerTrack (MIT, built on pytracking),
`pytracking/tracker/trdimp/trdimp.py`, `optimize_boxes_relative` and `optimize_boxes_default`;
written anew. Autograd through `iou_net.py` is the oracle of its tests.

What differs is the work that is left out, not the result. On a CPU the convolutions of the IoU
branch run only where the boxes are (`PartialMap`). Batch norms are folded into the layers before
them. The prediction is a sum over both layers, and so is its gradient: a layer's share of both is
computed at once, nothing is recorded.

Which boxes are refined, and which of the refined ones become the target's box.

Paper: Danelljan et al., "ATOM", CVPR 2019 (https://arxiv.org/abs/1811.07628), section 3.4.
Official code: https://github.com/594422814/TransformerTrack (MIT),
`pytracking/tracker/trdimp/trdimp.py` for the behaviour; written anew. What refines them is
`box_refinement.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from tracker_ros.cuda.prroi_pool import AxisWeights, pooling_weights_with_derivatives
from tracker_ros.geometry import xywh_to_xyxy
from tracker_ros.models.layers.packed import InferenceLinear, for_inference
from tracker_ros.models.trdimp.config import TrackingParameters
from tracker_ros.models.trdimp.network import (
    LAYER2_POOL,
    LAYER2_STRIDE,
    LAYER3_POOL,
    LAYER3_STRIDE,
    BackboneFeatures,
    IoUNet,
    LinearBlock,
    Modulation,
)

MARGIN_PX = 16
"""What is computed around the first boxes, for the way that they will go."""
_REACH = 2  # cells that two 3 x 3 convolutions look beyond their output
_SIDE_STEP = 4  # sides of parts are multiples of it: each new shape costs oneDNN a new plan


def part_of_axis(low: int, high: int, margin: int, size: int) -> tuple[int, int]:
    """Cells to convolve so that the results in [low - margin, high + margin) are right.

    Args:
        low: First cell that is needed.
        high: Cell after the last one.
        margin: Cells around them.
        size: Cells of the axis.

    Returns:
        First cell and the one after the last, all of the axis if it is not longer than that.
    """
    needed = high - low + 2 * (margin + _REACH)
    side = math.ceil(needed / _SIDE_STEP) * _SIDE_STEP
    if side >= size:
        return 0, size
    start = low - margin - _REACH - (side - needed) // 2
    start = min(max(start, 0), size - side)
    return start, start + side


class PartialMap:
    """One layer's IoU features of one picture, modulated, computed where boxes are.

    Args:
        convs: The layer's two convolutions.
        layer: (1, inputs, H, W) of the backbone.
        modulation: (1, C, 1, 1).
        stride: Crop pixels per cell.
        partial: False computes everything at once, without looking where the boxes are; a GPU
            would have to be waited for.
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
        """Features that hold everything that boxes are pooled from.

        Args:
            boxes: (P, 4) x0, y0, x1, y1 in cells.

        Returns:
            (h, w, C), and the row and column of the map where they begin.
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

    def _touched(self, boxes: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns with any weight in the pooling of boxes; one at least."""
        height, width = self.layer.shape[-2:]
        last = boxes.new_tensor([width - 1, height - 1])
        # fmin and fmax pass over nan, as a box may be that has left all bounds: then everything.
        low = torch.fmax(boxes[:, :2].amin(0).floor(), last * 0).minimum(last)
        high = torch.fmin(boxes[:, 2:].amax(0).ceil(), last).maximum(low)
        (left, top), (right, bottom) = low.int().tolist(), high.int().tolist()
        return (top, bottom + 1), (left, right + 1)

    def _compute(self, rows: tuple[int, int], columns: tuple[int, int]) -> None:
        height, width = self.layer.shape[-2:]
        part = self.layer[..., slice(*rows), slice(*columns)]
        part = self.convs(part.contiguous(memory_format=torch.channels_last))
        # Zero padding is right at the borders of the picture only.
        top, bottom = _inner(rows, height)
        left, right = _inner(columns, width)
        part = part[..., top - rows[0] : bottom - rows[0], left - columns[0] : right - columns[0]]
        self.rows, self.columns = (top, bottom), (left, right)
        self.cells = (part * self.modulation)[0].permute(1, 2, 0).contiguous()


def _within(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _inner(part: tuple[int, int], size: int) -> tuple[int, int]:
    """Where results are right, of a part that was convolved on its own."""
    low = part[0] + _REACH if part[0] > 0 else 0
    high = part[1] - _REACH if part[1] < size else size
    return low, high


class LayerOverlap:
    """One layer's share of the predicted IoU, and its gradient.

    Args:
        convs: The layer's two convolutions, prepared.
        block: Layer over pooled regions, with its batch norm folded in.
        predictor: (outputs,) weights of its outputs in the prediction.
        pool: Bins along each axis.
        stride: Crop pixels per cell.
        packed: Lay weights out for oneDNN.
    """

    def __init__(
        self,
        convs: nn.Module,
        block: LinearBlock,
        predictor: Tensor,
        pool: int,
        stride: int,
        *,
        packed: bool,
    ) -> None:
        self.convs = convs
        self.predictor = predictor.detach()
        self.pool = pool
        self.stride = stride
        weight = block.linear.weight.detach().unflatten(1, (-1, pool, pool))
        weight = weight.permute(0, 2, 3, 1).flatten(1)
        self.forward = InferenceLinear(weight, block.linear.bias, packed=packed)
        self.backward = InferenceLinear(weight.t(), None, packed=packed)

    def map(self, layer: Tensor, modulation: Tensor) -> PartialMap:
        """IoU features of one picture, to be computed as boxes ask for them."""
        partial = layer.device.type == "cpu"
        return PartialMap(self.convs, layer, modulation, self.stride, partial=partial)

    def __call__(self, features: PartialMap, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate boxes.

        Args:
            features: From `map`.
            boxes: (P, 4) xywh in crop pixels.

        Returns:
            (P,) share of the IoU, and (P, 4) its gradient by x, y, w, h.
        """
        edges = xywh_to_xyxy(boxes) / self.stride
        cells, (top, left) = features.around(edges)
        height, width = cells.shape[:2]
        x0, y0, x1, y1 = edges.unbind(1)
        y = pooling_weights_with_derivatives(y0 - top, y1 - top, self.pool, height)
        x = pooling_weights_with_derivatives(x0 - left, x1 - left, self.pool, width)
        share, gradient = pooled_overlap(cells, x, y, self.forward, self.backward, self.predictor)
        return share, gradient / self.stride


def pooled_overlap(
    cells: Tensor,
    x: AxisWeights,
    y: AxisWeights,
    forward: Callable[[Tensor], Tensor],
    backward: Callable[[Tensor], Tensor],
    predictor: Tensor,
) -> tuple[Tensor, Tensor]:
    """One layer's share of the predicted IoU, and its gradient written out.

    Args:
        cells: (h, w, C) modulated features.
        x: Of P boxes, (P, pool, w).
        y: Of P boxes, (P, pool, h).
        forward: (P, pool * pool * C) regions -> (P, outputs) before their ReLU.
        backward: The transpose of its matrix.
        predictor: (outputs,) weights of its outputs in the prediction.

    Returns:
        (P,) share, and (P, 4) its gradient by x, y, w, h, all in cells.
    """
    count, pool, height = y.weights.shape
    width, channels = cells.shape[1:]
    by_row = cells.view(height, -1)
    rows = y.weights.flatten(0, 1) @ by_row
    rows = rows.view(count, pool, width, channels)
    pooled = x.weights[:, None] @ rows
    hidden = forward(pooled.flatten(1))
    share = hidden.relu() @ predictor

    slope = backward((hidden > 0) * predictor).view(pooled.shape)
    by_columns = (slope @ rows.transpose(2, 3)).sum(1)
    spread = x.weights.transpose(1, 2)[:, None] @ slope
    by_rows = (spread.view(count * pool, -1) @ by_row.t()).view(count, pool, -1)
    gx0, gx1 = ((by_columns * d).sum((1, 2)) for d in (x.by_start, x.by_end))
    gy0, gy1 = ((by_rows * d).sum((1, 2)) for d in (y.by_start, y.by_end))
    return share, torch.stack([gx0 + gx1, gy0 + gy1, gx1, gy1], dim=1)


def climb_default(boxes: Tensor, gradient: Tensor, step: Tensor) -> Tensor:
    """One step in pixels, in proportion to the box's own size; all (P, 4), step (4,)."""
    return boxes + step * gradient * boxes[:, 2:].repeat(1, 2)


def climb_relative(boxes: Tensor, gradient: Tensor, step: Tensor, unit: Tensor) -> Tensor:
    """One step of the centre in units of a fixed size and of the logarithm of the size.

    Args:
        boxes: (P, 4) xywh.
        gradient: (P, 4) by x, y, w, h.
        step: (4,) length.
        unit: (2,) width and height that the centres are measured in.
    """
    corner, size = boxes[:, :2], boxes[:, 2:]
    by_centre, by_size = gradient[:, :2], gradient[:, 2:] - gradient[:, :2] / 2
    centre = corner + size / 2 + step[:2] * by_centre * unit**2
    size = size * (step[2:] * by_size * size).exp()
    return torch.cat([centre - size / 2, size], dim=1)


def ascend(
    climb_once: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    boxes: Tensor,
    settings: TrackingParameters,
) -> tuple[Tensor, Tensor]:
    """Let boxes climb.

    Args:
        climb_once: (P, 4) boxes and a (4,) step length -> boxes after the step, and the (P,)
            predicted IoU before it.
        boxes: (P, 4) xywh to start from.
        settings: What begins with `box_refinement_`.

    Returns:
        (P, 4) boxes, and (P,) predicted IoU of the boxes before the last step.

    Raises:
        ValueError: An unknown space, or no iterations.
    """
    space, iterations = settings.box_refinement_space, settings.box_refinement_iter
    if space not in ("relative", "default"):
        raise ValueError(f"box_refinement_space is {space!r}; expected 'relative' or 'default'")
    if iterations < 1:
        raise ValueError(f"box_refinement_iter is {iterations}; expected 1 or more")
    length = settings.box_refinement_step_length
    position, size = length if isinstance(length, tuple) else (length, length)
    # Filled where it is: on a GPU a copy would be waited for.
    step = torch.cat([boxes.new_full((2,), position), boxes.new_full((2,), size)])
    iou = boxes.new_empty(0)
    for _ in range(iterations):
        boxes, iou = climb_once(boxes, step)
        step = step * settings.box_refinement_step_decay
    return boxes, iou


class BoxRefinement:
    """The IoU branch of a trained network, prepared to refine boxes.

    Args:
        network: Loaded, in eval mode, on its device; its modules are taken over and changed.
        packed: Lay weights out for oneDNN.
    """

    def __init__(self, network: IoUNet, *, packed: bool) -> None:
        network = network.eval()
        for_inference(network, packed=packed)
        for2, for3 = network.iou_predictor.weight[0].chunk(2)
        self.layer2 = LayerOverlap(
            nn.Sequential(network.conv3_1t, network.conv3_2t),
            network.fc3_rt,
            for2,
            LAYER2_POOL,
            LAYER2_STRIDE,
            packed=packed,
        )
        self.layer3 = LayerOverlap(
            nn.Sequential(network.conv4_1t, network.conv4_2t),
            network.fc4_rt,
            for3,
            LAYER3_POOL,
            LAYER3_STRIDE,
            packed=packed,
        )
        self.bias = network.iou_predictor.bias.detach()
        self.modulation = network.modulation

    def maps(
        self, modulation: Modulation, features: BackboneFeatures
    ) -> tuple[PartialMap, PartialMap]:
        """IoU features of one picture, in which one target is sought."""
        return (
            self.layer2.map(features.layer2, modulation.layer2),
            self.layer3.map(features.layer3, modulation.layer3),
        )

    def overlap(self, maps: tuple[PartialMap, PartialMap], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate (P, 4) xywh boxes: (P,) predicted IoU, (P, 4) its gradient by x, y, w, h."""
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
        """Let boxes climb.

        Args:
            modulation: Of the target.
            features: Of the picture that is searched, one.
            boxes: (P, 4) xywh in crop pixels. The first one's size is the unit of "relative".
            settings: What begins with `box_refinement_`.

        Returns:
            (P, 4) boxes, and (P,) predicted IoU of the boxes before the last step.

        Raises:
            ValueError: An unknown space, or no iterations.
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


SMALLEST_SHARE = np.float32(1 / 3)
"""Least side of a start over the smaller side of the box that it was made of."""


def start_boxes(box: np.ndarray, random: np.ndarray, parameters: TrackingParameters) -> np.ndarray:
    """The box itself, and others around it.

    Args:
        box: (4,) float32 xywh, pixels of the patch.
        random: (n, 4) float32 in [0, 1): shifts of the centre, changes of the size.
        parameters: How far they go.

    Returns:
        (n + 1, 4) float32 xywh.
    """
    corner, size = box[:2], box[2:]
    mean_side = np.sqrt(size.prod())
    jitter = mean_side * np.repeat(
        np.asarray([parameters.box_jitter_pos, parameters.box_jitter_sz], dtype=np.float32), 2
    )
    change = (random - np.float32(0.5)) * jitter
    sizes = np.maximum(size + change[:, 2:], size.min() * SMALLEST_SHARE)
    centres = corner + size / np.float32(2.0) + change[:, :2]
    around = np.concatenate([centres - sizes / np.float32(2.0), sizes], axis=1)
    return np.concatenate([box[None], around])


def choose_box(
    boxes: np.ndarray, ious: np.ndarray, parameters: TrackingParameters
) -> np.ndarray | None:
    """The mean of the refined boxes that fit best.

    Args:
        boxes: (n, 4) float32 xywh, pixels of the patch; one that climbed beyond all bounds may not
            be finite.
        ious: (n,) predicted overlaps.
        parameters: How many are averaged, and what is too narrow.

    Returns:
        (4,) float32 xywh, or None if all are too narrow or not finite.
    """
    finite = np.isfinite(boxes).all(axis=1) & np.isfinite(ious)
    boxes, ious = boxes[finite], ious[finite]
    boxes = np.concatenate([boxes[:, :2], np.maximum(boxes[:, 2:], np.float32(1.0))], axis=1)
    aspect = boxes[:, 2] / boxes[:, 3]
    most = parameters.maximal_aspect_ratio
    shaped = (aspect < most) & (aspect > 1 / most)
    if not shaped.any():
        return None
    best = np.argsort(-ious[shaped], kind="stable")[: parameters.iounet_k]
    return boxes[shaped][best].mean(axis=0)


def remember_shape(box: np.ndarray, first_size: np.ndarray, share: float) -> np.ndarray:
    """Bring a box's aspect ratio back towards the first box's; centre and area stay.

    Args:
        box: (4,) float32 xywh.
        first_size: (2,) `(h, w)` of the first box, at any scale.
        share: How far, in logarithms: 0 not at all, 1 wholly.

    Returns:
        (4,) float32 xywh.
    """
    if share == 0:
        return box
    change = np.sqrt((first_size[1] / first_size[0]) / (box[2] / box[3])) ** np.float32(share)
    size = box[2:] * np.asarray([change, 1 / change], dtype=np.float32)
    return np.concatenate([box[:2] + (box[2:] - size) / 2, size])
