# SPDX-License-Identifier: Apache-2.0
"""Labels between pixels and the cells of a feature map.

Paper: Lai, Lu, Xie, CVPR 2020, section 3.3; see `network.py`. A cell takes the label of one pixel,
the first of its four by four: averaging would blur class borders. On the way back the soft labels
of cells are interpolated. Officially a cell is then centred on its four pixels, one and a half
pixels from where it was read; here it is written back to the pixel that it was read from.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tracker_ros.models.mast.config import STRIDE


def cell_labels(labels: Tensor) -> Tensor:
    """(..., H, W) of pixels -> (..., ceil(H / 4), ceil(W / 4)) of cells."""
    return labels[..., ::STRIDE, ::STRIDE]


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Labels (H, W) from 0 to `classes` - 1 as (classes, H, W) float32."""
    every = torch.arange(classes, device=labels.device)[:, None, None]
    return (labels[None] == every).float()


def strongest(soft: Tensor) -> Tensor:
    """Soft labels (V, H, W) -> (H, W) uint8, the first of the highest.

    The same as `argmax`, which on a CPU takes ten times as long along the first axis.
    """
    labels = torch.zeros(soft.shape[1:], dtype=torch.uint8, device=soft.device)
    highest = soft[0]
    for label in range(1, len(soft)):
        labels.masked_fill_(soft[label] > highest, label)
        highest = torch.maximum(highest, soft[label])
    return labels


def spread_cells(
    soft: Tensor, working: tuple[int, int], size: tuple[int, int], *, aligned: bool
) -> Tensor:
    """Interpolate soft labels of cells at the pixels of an image.

    Args:
        soft: (1, V, h, w) float, cells of the working image.
        working: Height and width of the working image, in pixels.
        size: Height and width of the image to fill, which the working image was resized from.
        aligned: Cell k belongs to pixel 4 k of the working image; else it covers an h-th of it.

    Returns:
        (1, V, *size) float.
    """
    if not aligned:
        return F.interpolate(soft, size=size, mode="bilinear", align_corners=False)
    for axis in (0, 1):
        pixel = torch.arange(size[axis], dtype=torch.float32, device=soft.device)
        in_working = (pixel + 0.5) * (working[axis] / size[axis]) - 0.5
        last = soft.shape[2 + axis] - 1
        cell = (in_working / STRIDE).clamp(0, last)
        low = cell.floor().clamp(max=max(last - 1, 0))
        share = (cell - low).to(soft.dtype).view((-1, 1) if axis == 0 else (1, -1))
        before = soft.index_select(2 + axis, low.long())
        after = soft.index_select(2 + axis, (low.long() + 1).clamp(max=last))
        soft = torch.lerp(before, after, share)
    return soft
