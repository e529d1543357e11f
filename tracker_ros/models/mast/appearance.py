# SPDX-License-Identifier: Apache-2.0
"""Tell whether a mask still shows the object that it began with.

MAST copies labels from the most similar places of earlier frames, and there is always a most
similar one: after the object has left, texture where it was last goes on as its mask, for good and
with a high score. So cells of a mask are compared with the whole first frame. While the object is
there, most of them look most like cells of the object; when it has gone, like the background.
This is the package's own: the paper's tracker reports no absence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracker_ros.arrays import Array, library_of, select, to_numpy

LEAST_AGREEMENT = 0.25
"""Share of a mask's cells that must look like the object; below, the object is not found.

On public sequences, true masks reach 0.39 or more; on drawn scenes, what goes on after the object
has gone rarely reaches more than 0.25.
"""
LEAST_OF_USUAL = 0.5
"""The same as a part of the usual share.

In five public sequences of 40 frames, 7 of 227 right boxes of `mast_tiny` fall below one of both.
"""
_MAX_CELLS = 256
_CELLS_IN_DOUBT = 3
_ADAPTATION = 0.1


@dataclass(frozen=True)
class Appearance:
    """The cells of a frame, and which of them show an object.

    Attributes:
        cells: (C, n) float32, features of all cells, of length 1.
        target: (n,) bool.
    """

    cells: Array
    target: Array

    @staticmethod
    def of(features: Array, labels: Array, number: int) -> Appearance:
        """Return the appearance of an object by its mask.

        Args:
            features: (1, C, h, w) float32.
            labels: (1, V, h, w) float32, one-hot.
            number: The object's class.
        """
        cells = features[0].reshape(features.shape[1], -1)
        length = library_of(cells).clip((cells * cells).sum(0) ** 0.5, 1e-12, None)
        return Appearance(cells / length, labels[0, number].reshape(-1) > 0)

    def agreement(self, first: Appearance) -> float:
        """Return the share of the object's cells that look most like the object in another frame.

        At most 256 cells, evenly spread over the object, are compared with all cells of the other
        frame. The share is 0 if the object has no cell.
        """
        places = np.flatnonzero(to_numpy(self.target))
        if len(places) == 0:
            return 0.0
        places = places[:: -(-len(places) // _MAX_CELLS)]
        likeness = select(self.cells, places, 1).T @ first.cells
        library = library_of(likeness)
        inside = library.amax(library.where(first.target, likeness, -1.0), 1)
        beside = library.amax(library.where(first.target, -1.0, likeness), 1)
        # Equal where the object fills the first frame, so that there is nothing beside it.
        return float(to_numpy(inside >= beside).mean())


class Presence:
    """Judges, frame by frame, whether an object's mask still shows the object.

    Args:
        first: The object in the first frame.
    """

    def __init__(self, first: Appearance) -> None:
        self._first = first
        self._usual: float | None = None

    def judge(self, now: Appearance) -> tuple[bool, float]:
        """Return whether the object is there, and the share of its cells that look like it.

        Three more cells are counted as unlike, so that one or two cells prove nothing.
        """
        cells = min(int(to_numpy(now.target).sum()), _MAX_CELLS)
        share = now.agreement(self._first) * cells / (cells + _CELLS_IN_DOUBT)
        usual = share if self._usual is None else self._usual
        if share < max(LEAST_AGREEMENT, LEAST_OF_USUAL * usual):
            return False, share
        self._usual = usual + _ADAPTATION * (share - usual)
        return True, share
