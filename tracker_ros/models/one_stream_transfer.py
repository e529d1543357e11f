# SPDX-License-Identifier: Apache-2.0
"""What passes between tracker and network in every frame: crops one way, maps the other.

A transfer to or from a GPU costs more for being one of several than for its bytes, so there is one
each way, and crops travel as the bytes that they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from tracker_ros.crop import IMAGENET_MEAN, IMAGENET_STD, normalise
from tracker_ros.models.center_head import HeadMaps


def crops_to(device: torch.device, crops: Sequence[np.ndarray]) -> Tensor:
    """Crops as a network takes them.

    Args:
        device: Where it runs.
        crops: (S, S, 3) RGB uint8 each.

    Returns:
        (B, 3, S, S) float32 on `device`, ImageNet mean and deviation.
    """
    if device.type == "cpu":
        return torch.from_numpy(normalise(*crops))
    # Torch gives the memory to nobody else before it has been read.
    staged = torch.empty((len(crops), *crops[0].shape), dtype=torch.uint8, pin_memory=True)
    np.stack(crops, out=staged.numpy())
    return normalise_there(staged.to(device, non_blocking=True))


def normalise_there(crops: Tensor) -> Tensor:
    """(B, S, S, 3) uint8 -> (B, 3, S, S) float32 on the same device, as `normalise` does."""
    scale, shift = _scale_and_shift(crops.device)
    return (crops * scale + shift).permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _scale_and_shift(device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = torch.tensor([IMAGENET_MEAN, IMAGENET_STD], dtype=torch.float64)
    return (1 / (255 * std)).float().to(device), (-mean / std).float().to(device)


def maps_from(maps: HeadMaps) -> np.ndarray:
    """(B, 5, n, n) float32 on the host: score, width, height, x and y."""
    return torch.cat(maps, dim=1).float().cpu().numpy()
