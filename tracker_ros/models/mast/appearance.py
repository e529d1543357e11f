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

import torch.nn.functional as F
from torch import Tensor

LEAST_AGREEMENT = 0.25
"""Share of a mask's cells that must look like the object; below, the object is not found.

On four public sequences, true masks reach 0.43 or more; on drawn scenes, what goes on after the
object has gone reaches 0.21 at most.
"""
_MAX_CELLS = 256


@dataclass(frozen=True)
class Appearance:
    """The cells of a frame, and which of them show an object.

    Attributes:
        cells: (C, n) float32, features of all cells, of length 1.
        target: (n,) bool.
    """

    cells: Tensor
    target: Tensor

    @staticmethod
    def of(features: Tensor, labels: Tensor, number: int) -> Appearance:
        """Return the appearance of an object by its mask.

        Args:
            features: (1, C, h, w) float32.
            labels: (1, V, h, w) float32, one-hot.
            number: The object's class.
        """
        cells = F.normalize(features[0].flatten(1), dim=0)
        return Appearance(cells, labels[0, number].flatten() > 0)

    def agreement(self, first: Appearance) -> Tensor:
        """Return the share of the object's cells that look most like the object in another frame.

        At most 256 cells, evenly spread over the object, are compared with all cells of the other
        frame. The share is a tensor without dimensions; 0 if the object has no cell.
        """
        places = self.target.nonzero()[:, 0]
        if len(places) == 0:
            return self.cells.new_zeros(())
        places = places[:: -(-len(places) // _MAX_CELLS)]
        likeness = self.cells[:, places].T @ first.cells
        inside = likeness.masked_fill(~first.target, -1.0).amax(1)
        beside = likeness.masked_fill(first.target, -1.0).amax(1)
        # Equal where the object fills the first frame, so that there is nothing beside it.
        return (inside >= beside).float().mean()
