# SPDX-License-Identifier: Apache-2.0
"""Where the target is in an image of the transformer's memory.

Paper: Wang et al., "Transformer Meets Tracker", CVPR 2021 (https://arxiv.org/abs/2103.11681),
section 3.2. Official code: https://github.com/594422814/TransformerTrack (MIT),
`ltr/data/processing_utils.py`; written anew.
"""

from __future__ import annotations

import numpy as np

from tracker_ros.arrays import Array, library_of, like

SIGMA_FACTOR = 0.1
"""Standard deviation over the side of the features."""


def gaussian_label(
    boxes_xywh: Array,
    feature_size: int,
    *,
    filter_size: int,
    stride: int,
    end_pad: bool = False,
) -> Array:
    """Draw Gaussians around the centres of boxes.

    Cell i lies at i - (feature_size - 1) / 2 from the middle of the features. As in the official
    code the centre is half a cell further right and down where the filter is even.

    Args:
        boxes_xywh: (..., 4) in crop pixels.
        feature_size: Cells along one side of the features.
        filter_size: Side of the filter, cells.
        stride: Crop pixels per cell.
        end_pad: Add a row and a column at the end where the filter is even, so that the label has
            the size of the filter's scores.

    Returns:
        (..., n, n), 1 at the very centre.
    """
    even = (filter_size + 1) % 2
    centre = (boxes_xywh[..., :2] + 0.5 * boxes_xywh[..., 2:]) / stride
    centre = centre - 0.5 * feature_size + 0.5 * even
    size = feature_size + even * end_pad
    cells = like(np.arange(size, dtype=np.float32), boxes_xywh)
    distance = (cells - 0.5 * (feature_size - 1)) - centre[..., None]
    profile = library_of(distance).exp(-0.5 * (distance / (SIGMA_FACTOR * feature_size)) ** 2)
    column, row = profile[..., 0, :], profile[..., 1, :]
    return row[..., :, None] * column[..., None, :]
