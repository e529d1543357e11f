# SPDX-License-Identifier: Apache-2.0
"""The samples that the target filter learns from, and how much each counts.

Paper: Bhat et al., "DiMP", ICCV 2019 (https://arxiv.org/abs/1904.07220), section 3.4.
Official code: https://github.com/594422814/TransformerTrack (MIT),
`pytracking/tracker/trdimp/trdimp.py` for the behaviour; written anew.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class SampleWeights:
    """How much each sample counts; new ones grow, all others fade, the least one is replaced.

    Args:
        capacity: Most samples.
        initial: Samples of the first image, at the front; all count the same.
        least_initial: Least weight of all initial ones together; where it is above 0 they are
            never replaced.

    Attributes:
        values: (capacity,) float32, of sum 1; a little more once the initial ones are held up.
        seen: Samples that were ever added.
    """

    def __init__(self, capacity: int, initial: int, least_initial: float) -> None:
        if not 0 < initial < capacity:
            raise ValueError(
                f"{initial} first samples do not fit a memory of {capacity}; expected at least "
                "one, and room for one more (raise sample_memory_size or augment less)"
            )
        self.values = np.zeros(capacity, dtype=np.float32)
        self.values[:initial] = 1.0 / initial
        self.seen = initial
        self._initial = initial
        self._least_initial = np.float32(least_initial)
        self._last: int | None = None

    def add(self, learning_rate: float) -> int:
        """Make room for a sample and weigh it.

        Args:
            learning_rate: Its weight over that of all others.

        Returns:
            Which sample it replaces.
        """
        values, initial = self.values, self._initial
        kept = np.float32(1.0 - learning_rate)
        protected = self._least_initial > 0.0
        index = self.seen
        if index >= len(values):
            first = initial if protected else 0
            index = first + int(values[first:].argmin())
        if self._last is None:
            values /= kept
            values[index] = learning_rate
        else:
            values[index] = values[self._last] / kept
        values /= values.sum()
        if protected and values[:initial].sum() < self._least_initial:
            values /= self._least_initial + values[initial:].sum()
            values[:initial] = self._least_initial / np.float32(initial)
        self._last = index
        self.seen += 1
        return index


class SampleMemory:
    """Samples, their target boxes and weights. Room for them is taken as they come.

    Features are held with the channels innermost, as the filter's optimiser reads them.

    Args:
        features: (N, C, h, w) float32 of the first image.
        boxes: (N, 4) float32 xywh, pixels of the patch.
        capacity: Most samples.
        least_initial: See `SampleWeights`.
    """

    def __init__(
        self, features: Tensor, boxes: Tensor, capacity: int, least_initial: float
    ) -> None:
        self._features = features.contiguous(memory_format=torch.channels_last)
        self._boxes = boxes
        self._count = len(features)
        self.weights = SampleWeights(capacity, self._count, least_initial)

    def add(self, features: Tensor, box: Tensor, learning_rate: float) -> None:
        """Add a sample, in place of the least one when full.

        Args:
            features: (1, C, h, w).
            box: (4,) xywh, pixels of the patch.
            learning_rate: Its weight over that of all others.
        """
        index = self.weights.add(learning_rate)
        if index == len(self._features):
            room = min(2 * index, len(self.weights.values))
            self._features = _with_room(self._features, room, torch.channels_last)
            self._boxes = _with_room(self._boxes, room, torch.contiguous_format)
        self._features[index].copy_(features[0])
        self._boxes[index].copy_(box)
        self._count = max(self._count, index + 1)

    @property
    def features(self) -> Tensor:
        """(N, C, h, w) of the samples held."""
        return self._features[: self._count]

    @property
    def boxes(self) -> Tensor:
        """(N, 4) of the samples held."""
        return self._boxes[: self._count]

    @property
    def sample_weight(self) -> Tensor:
        """(N,) float32 of the samples held, where they are."""
        return torch.from_numpy(self.weights.values[: self._count]).to(self._boxes.device)


def _with_room(rows: Tensor, room: int, layout: torch.memory_format) -> Tensor:
    larger = torch.empty(
        (room, *rows.shape[1:]), dtype=rows.dtype, device=rows.device, memory_format=layout
    )
    larger[: len(rows)].copy_(rows)
    return larger
