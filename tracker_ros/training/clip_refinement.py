# SPDX-License-Identifier: Apache-2.0
"""Box refinement for validation: autograd, one start per crop, a whole batch at once.

The tracker's own (`models/trdimp/box_refinement.py`) refines many starts in one crop.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tracker_ros.boxes import cxcywh_to_xywh, xywh_to_cxcywh
from tracker_ros.models.trdimp.iou_net import IoUFeatures, IoUNet, Modulation

STEPS, STEP_LENGTH = 10, 0.02


def climb(branch: IoUNet, modulation: Modulation, features: IoUFeatures, boxes: Tensor) -> Tensor:
    """Move boxes up the predicted overlap.

    Steps are taken in centre over size and the logarithm of the size.

    Args:
        branch: In eval mode.
        modulation: Of N targets.
        features: Of N crops.
        boxes: (N, 4) xywh to start from.

    Returns:
        (N, 4) xywh.
    """
    size = boxes[:, 2:]
    place = torch.cat([xywh_to_cxcywh(boxes)[:, :2] / size, size.log()], 1)
    for _ in range(STEPS):
        with torch.enable_grad():
            place = place.detach().requires_grad_(True)
            current = cxcywh_to_xywh(torch.cat([place[:, :2] * size, place[:, 2:].exp()], 1))
            predicted = branch.predict(modulation, features, current[:, None])
            (slope,) = torch.autograd.grad(predicted.sum(), place)
        place = place.detach() + STEP_LENGTH * slope
    return cxcywh_to_xywh(torch.cat([place[:, :2] * size, place[:, 2:].exp()], 1))
