# SPDX-License-Identifier: Apache-2.0
"""The samples of a target that TrDiMP's filter learns from.

Paper: Bhat et al., "DiMP", ICCV 2019 (https://arxiv.org/abs/1904.07220), section 3.4. Official
code: https://github.com/594422814/TransformerTrack (MIT), `pytracking/tracker/trdimp/trdimp.py`
for the behaviour; written anew.
"""

from __future__ import annotations

import numpy as np

from tracker_ros.arrays import Array, contiguous, library_of, like, with_rows


class SampleWeights:
    """How much each sample counts; new ones grow, all others fade, the least one is replaced.

    Args:
        capacity: Maximum number of samples.
        initial: Samples of the first image, at the front; all count the same.
        least_initial: Minimum weight of all initial ones together; above 0 they are never
            replaced.

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
        """Make room for a sample whose weight over that of all others is the learning rate.

        Returns the index of the sample that it replaces.
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
        capacity: Maximum number of samples.
        least_initial: See `SampleWeights`.
    """

    def __init__(self, features: Array, boxes: Array, capacity: int, least_initial: float) -> None:
        # (N, h, w, C)
        self._cells = contiguous(library_of(features).moveaxis(features, 1, -1))
        self._boxes = boxes
        self._count = len(features)
        self.weights = SampleWeights(capacity, self._count, least_initial)

    def add(self, features: Array, box: Array, learning_rate: float) -> None:
        """Add a (1, C, h, w) sample with its (4,) xywh box, replacing the least one when full."""
        index = self.weights.add(learning_rate)
        if index == len(self._cells):
            room = min(2 * index, len(self.weights.values))
            self._cells = with_rows(self._cells, room)
            self._boxes = with_rows(self._boxes, room)
        self._cells[index] = library_of(features).moveaxis(features[0], 0, -1)
        self._boxes[index] = box
        self._count = max(self._count, index + 1)

    @property
    def features(self) -> Array:
        """(N, C, h, w) of the samples held."""
        return library_of(self._cells).moveaxis(self._cells[: self._count], -1, 1)

    @property
    def boxes(self) -> Array:
        """(N, 4) of the samples held."""
        return self._boxes[: self._count]

    @property
    def sample_weight(self) -> Array:
        """(N,) float32 of the samples held, where they are."""
        return like(self.weights.values[: self._count], self._boxes)


def as_cells(features: Array) -> Array:
    """(N, C, h, w) -> (N * h * w, C), a view if the channels are innermost."""
    return library_of(features).moveaxis(features, 1, -1).reshape(-1, features.shape[1])


def check_limit(limit: int) -> None:
    """Raise a ValueError for a memory without room."""
    if limit == 0:
        raise ValueError(
            "the transformer's memory is limited to 0 images; expected at least 1, or a "
            "negative number for no limit"
        )
