# SPDX-License-Identifier: Apache-2.0
"""Which boxes are refined, and which of the refined ones become the target's box.

Paper: Danelljan et al., "ATOM", CVPR 2019 (https://arxiv.org/abs/1811.07628), section 3.4.
Official code: https://github.com/594422814/TransformerTrack (MIT),
`pytracking/tracker/trdimp/trdimp.py` for the behaviour; written anew. What refines them is
`box_refinement.py`.
"""

from __future__ import annotations

import numpy as np

from tracker_ros.models.trdimp.config import TrackingParameters

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
