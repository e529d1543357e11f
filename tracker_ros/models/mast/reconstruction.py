# SPDX-License-Identifier: Apache-2.0
"""What MAST is trained on: reconstruct a frame's colour from an earlier frame, without labels.

Paper: Lai, Lu, Xie, CVPR 2020, sections 3.1 and 4.1; see `network.py`. One of the two colour
channels is hidden from the network in all images; it must be copied from the reference by
features of the other channels alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from tracker_ros.models.mast.labels import cell_labels, spread_cells
from tracker_ros.models.mast.network import MASTNetwork

COLOUR_CHANNELS = (1, 2)  # of Lab
LOSS_SCALE = 20.0
BLOCK = 8
"""Side of the squares of cells that `copy_colours` works on."""


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

    The same as `local_attention`, which is made for inference. Here the cells of a block are
    compared with everything that any of them looks at, in one product of matrices, and what is
    outside a cell's own window is left out of its softmax.

    Args:
        query: (B, C, h, w) features of the frame.
        keys: Of each reference, (B, C, h, w).
        values: Of each reference, (B, V, h, w).
        radius: Cells on each side of the middle one.

    Returns:
        (B, V, h, w).
    """
    batch, _, height, width = query.shape
    down, right = -height % BLOCK, -width % BLOCK
    cells = _blocks(query, (0, right, 0, down), BLOCK).transpose(2, 3)
    border, side = (radius, radius + right, radius, radius + down), BLOCK + 2 * radius
    outside = ~_windows(radius, query.device)
    scores = [
        (cells @ _blocks(key, border, side)).masked_fill(outside, -torch.inf) for key in keys
    ]
    weights = torch.cat(scores, dim=3).softmax(dim=3)
    copied = weights @ torch.cat([_blocks(value, border, side) for value in values], 3).mT
    rows, columns = (height + down) // BLOCK, (width + right) // BLOCK
    copied = copied.view(batch, rows, columns, BLOCK, BLOCK, -1).permute(0, 5, 1, 3, 2, 4)
    return copied.reshape(batch, -1, height + down, width + right)[..., :height, :width]


def _blocks(maps: Tensor, border: tuple[int, int, int, int], side: int) -> Tensor:
    """(B, C, h, w) with a border, cut into overlapping squares: (B, blocks, C, side * side)."""
    squares = F.pad(maps, border).unfold(2, side, BLOCK).unfold(3, side, BLOCK)
    return squares.permute(0, 2, 3, 1, 4, 5).flatten(4).flatten(1, 2)


def _windows(radius: int, device: torch.device) -> Tensor:
    """Which places around a block each of its cells looks at, (BLOCK**2, side**2) bool."""
    cell = torch.arange(BLOCK, device=device)[:, None] + radius
    place = torch.arange(BLOCK + 2 * radius, device=device)
    near = (cell - place).abs() <= radius
    return (near[:, None, :, None] & near[None, :, None, :]).flatten(2).flatten(0, 1)


def reconstruction_loss(colours: Tensor, target: Tensor, *, aligned: bool = False) -> Tensor:
    """Mean Huber loss of 20 times the colours, interpolated to pixels.

    Args:
        colours: (B, 1, h, w) as reconstructed.
        target: (B, 1, H, W) the hidden channel, before it was dropped.
        aligned: As in `spread_cells`; officially not.
    """
    size = (int(target.shape[2]), int(target.shape[3]))
    pixels = spread_cells(colours, size, size, aligned=aligned)
    return F.smooth_l1_loss(LOSS_SCALE * pixels, LOSS_SCALE * target)


def reconstruct(
    network: MASTNetwork,
    references: Sequence[Tensor],
    target: Tensor,
    channel: int,
    half: AbstractContextManager | None = None,
) -> Tensor:
    """A frame's hidden channel, from one or more references.

    Args:
        network: In training mode to train it.
        references: Images (B, 3, H, W), normalised Lab.
        target: The frame, likewise. Batch norms see every frame's images apart, as officially.
        channel: Which colour channel to hide.
        half: What the network runs in, for example at half precision; the rest does not.

    Returns:
        (B, 1, h, w) of cells.
    """
    with half or nullcontext():
        features = [network(drop_channel(image, channel)) for image in (*references, target)]
    *keys, query = (each.to(target.dtype).contiguous() for each in features)
    values = [cell_labels(image[:, channel : channel + 1]) for image in references]
    return copy_colours(query, keys, values, network.config.radius_training)
