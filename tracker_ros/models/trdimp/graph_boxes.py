# SPDX-License-Identifier: Apache-2.0
"""The IoU branch as graphs: modulation, features, one step of the refinement.

Paper and official code: see `iou_net.py` and `box_refinement.py`. Written for this package.
Features are modulated once per image, not once per step.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tracker_ros.boxes import xywh_to_xyxy
from tracker_ros.cuda.prroi_pool import AxisWeights, pooling_weights_with_derivatives
from tracker_ros.models.trdimp.box_refinement import climb_relative, pooled_overlap
from tracker_ros.models.trdimp.iou_net import (
    LAYER2_POOL,
    LAYER2_STRIDE,
    LAYER3_POOL,
    LAYER3_STRIDE,
    IoUNet,
    LinearBlock,
)
from tracker_ros.models.trdimp.resnet import Features


class ModulationPart(nn.Module):
    """What a target looks like to the IoU branch.

    Args:
        network: Loaded, batch norms folded; its modules are shared.
    """

    def __init__(self, network: IoUNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, layer2: Tensor, layer3: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """(1, C2, S / 8, S / 8), (1, C3, S / 16, S / 16), (1, 4) xywh -> see `Modulation`."""
        found = self.network.modulation(Features(layer2, layer3), boxes)
        return found.layer2, found.layer3


class IoUFeaturesPart(nn.Module):
    """What boxes are pooled from, channels innermost, modulated.

    Args:
        network: Loaded, batch norms folded; its modules are shared.
    """

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
    """One layer's share of the predicted IoU; see `LayerOverlap`.

    Args:
        block: Layer over pooled regions, batch norm folded.
        predictor: (outputs,) weights of its outputs in the prediction.
        pool: Bins along each axis.
        stride: Crop pixels per cell.
    """

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
            cells,
            x,
            y,
            lambda pooled: F.linear(pooled, self.weight, self.bias),
            lambda slope: slope @ self.weight,
            self.predictor,
        )
        return share, gradient / self.stride


class RefinePart(nn.Module):
    """One step of boxes that climb the predicted IoU.

    Args:
        network: Loaded, batch norms folded.
    """

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
        """See `BoxRefinement.refine`, in the space "relative".

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
