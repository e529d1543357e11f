# SPDX-License-Identifier: Apache-2.0
"""What MAST is trained on: reconstruct a frame's colour from an earlier frame, without labels.

Paper: Lai, Lu, Xie, CVPR 2020, sections 3.1 and 4.1; see `network.py`. One of the two colour
channels is hidden from the network in all images; it must be copied from the reference by
features of the other channels alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tracker_ros.cuda.spatial_correlation import spatial_correlation
from tracker_ros.models.mast.labels import cell_labels
from tracker_ros.models.mast.network import MASTNetwork

COLOUR_CHANNELS = (1, 2)  # of Lab
LOSS_SCALE = 20.0


def drop_channel(images: Tensor, channel: int) -> Tensor:
    """Hide one channel of (B, 3, H, W) and raise the other two to the same total, times 3 / 2.

    Args:
        images: Normalised Lab.
        channel: 1 or 2; officially, and in every batch anew, either with equal chance.
    """
    kept = torch.ones(3, dtype=images.dtype, device=images.device)
    kept[channel] = 0.0
    return images * (1.5 * kept)[:, None, None]


def copy_colours(
    query: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], radius: int
) -> Tensor:
    """Colours of a frame, from windows of its references; made for gradients.

    The same as `local_attention`, which is made for inference, but it keeps the scores.

    Args:
        query: (B, C, h, w) features of the frame.
        keys: Of each reference, (B, C, h, w).
        values: Of each reference, (B, V, h, w).
        radius: Cells on each side of the middle one.

    Returns:
        (B, V, h, w).
    """
    side = 2 * radius + 1
    scores = [spatial_correlation(query, key, side).flatten(1, 2) for key in keys]
    weights = torch.cat(scores, dim=1).softmax(dim=1).chunk(len(keys), dim=1)
    copied = []
    for weight, value in zip(weights, values, strict=True):
        padded = F.pad(value, (radius, radius, radius, radius))
        windows = padded.unfold(2, side, 1).unfold(3, side, 1).flatten(4)
        copied.append(torch.einsum("bkhw,bvhwk->bvhw", weight, windows))
    return torch.stack(copied).sum(0)


def reconstruction_loss(colours: Tensor, target: Tensor) -> Tensor:
    """Mean Huber loss of 20 times the colours, interpolated to pixels.

    Args:
        colours: (B, 1, h, w) as reconstructed.
        target: (B, 1, H, W) the hidden channel, before it was dropped.
    """
    size = (int(target.shape[2]), int(target.shape[3]))
    pixels = F.interpolate(colours, size=size, mode="bilinear", align_corners=False)
    return F.smooth_l1_loss(LOSS_SCALE * pixels, LOSS_SCALE * target)


def reconstruct(
    network: MASTNetwork, references: Sequence[Tensor], target: Tensor, channel: int
) -> Tensor:
    """A frame's hidden channel, from one or more references.

    Args:
        network: In training mode to train it.
        references: Images (B, 3, H, W), normalised Lab.
        target: The frame, likewise. Batch norms see every frame's images apart, as officially.
        channel: Which colour channel to hide.

    Returns:
        (B, 1, h, w) of cells.
    """
    *keys, query = (network(drop_channel(image, channel)) for image in (*references, target))
    values = [cell_labels(image[:, channel : channel + 1]) for image in references]
    return copy_colours(query, keys, values, network.config.radius_training)
