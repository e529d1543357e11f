# SPDX-License-Identifier: Apache-2.0
"""Seeded random draws on one device."""

from __future__ import annotations

import torch
from torch import Tensor


class Draw:
    """Random numbers of one batch, in the order they are asked for.

    Args:
        device: Where the numbers are made.
        seed: The same seed gives the same numbers on the same kind of device.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        self.device = device
        self._generator = torch.Generator(device).manual_seed(seed)

    def normal(self, shape: int | tuple[int, ...], deviation: float) -> Tensor:
        """Normal numbers around zero, float32."""
        size = (shape,) if isinstance(shape, int) else shape
        draws = torch.randn(size, generator=self._generator, device=self.device)
        return draws.mul_(deviation)

    def uniform(self, shape: int | tuple[int, ...], low: float, high: float) -> Tensor:
        """Numbers in [low, high), float32."""
        size = (shape,) if isinstance(shape, int) else shape
        draws = torch.rand(size, generator=self._generator, device=self.device)
        return low + (high - low) * draws

    def chance(self, count: int, probability: float) -> Tensor:
        """(count,) bool, each True with ``probability``."""
        return self.uniform(count, 0, 1) < probability

    def index(self, count: int, limit: int) -> Tensor:
        """(count,) int64 in [0, limit)."""
        return torch.randint(limit, (count,), generator=self._generator, device=self.device)
