# SPDX-License-Identifier: Apache-2.0
"""Where the score map says the target is, and what to think of it.

Paper: Danelljan et al., "ATOM", CVPR 2019, and Bhat et al., "DiMP", ICCV 2019
(https://arxiv.org/abs/1904.07220). Official code: https://github.com/594422814/TransformerTrack
(MIT), `pytracking/tracker/trdimp/trdimp.py` for the behaviour; written anew.

Two peaks are compared, the highest and the highest away from it. Which of them is the target is
decided by how high the second is, and by how far both are from where the target was.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tracker_ros.models.trdimp.config import TrackingParameters
from tracker_ros.models.trdimp.patches import Placement
from tracker_ros.tracker import Verdict


class Sighting(NamedTuple):
    """What a score map says.

    Attributes:
        translation: (2,) float32 `(y, x)` from the patch's middle to the target, image pixels.
        flag: The judgement.
    """

    translation: np.ndarray
    flag: Verdict


class _Peak(NamedTuple):
    """Value and cell (2,) float32 `(y, x)` of a map's maximum."""

    value: np.float32
    cell: np.ndarray


def _highest(score: np.ndarray) -> _Peak:
    """Among equals the smaller column wins, then the smaller row."""
    column, row = divmod(int(score.T.argmax()), score.shape[0])
    return _Peak(score[row, column], np.array([row, column], dtype=np.float32))


def _without_surroundings(score: np.ndarray, cell: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """A copy of the map, 0 within `extent` (2,) cells around `cell`."""
    masked = score.copy()
    half = extent / np.float32(2.0)
    first = np.maximum(np.rint(cell - half), 0).astype(int)
    last = np.maximum(np.rint(cell + half + np.float32(1.0)), 0).astype(int)
    masked[first[0] : last[0], first[1] : last[1]] = 0.0
    return masked


def localise(
    score: np.ndarray,
    patch: Placement,
    position: np.ndarray,
    size: np.ndarray,
    parameters: TrackingParameters,
    window: np.ndarray | None = None,
) -> Sighting:
    """Find the target in a score map.

    Args:
        score: (n, n) float32, n - 1 the side of the features; its middle cell is the patch's.
        patch: Where the patch lies in the image.
        position: (2,) float32 `(y, x)` where the target was, image pixels.
        size: (2,) float32 `(h, w)` of the target, image pixels.
        parameters: Thresholds.
        window: (n, n) float32 weights for the first peak, or None. The second peak is sought on
            the plain map.
    """
    n = score.shape[0]
    pixels_per_cell = np.float32(patch.side / (n - 1)) * patch.scale
    middle = np.float32((n - 1) / 2)

    first = _highest(score if window is None else score * window)
    offset = first.cell - middle
    here = offset * pixels_per_cell
    if float(first.value) < parameters.target_not_found_threshold:
        return Sighting(here, Verdict.NOT_FOUND)

    extent = np.float32(parameters.target_neighborhood_scale) * (size / pixels_per_cell)
    second = _highest(_without_surroundings(score, first.cell, extent))
    other_offset = second.cell - middle

    if second.value > np.float32(parameters.distractor_threshold) * first.value:
        before = (position - patch.position) / pixels_per_cell
        far = parameters.displacement_scale * n / 2
        distance = float(np.linalg.norm(offset - before))
        other_distance = float(np.linalg.norm(other_offset - before))
        if distance < far < other_distance:
            return Sighting(here, Verdict.HARD_NEGATIVE)
        if other_distance < far < distance:
            return Sighting(other_offset * pixels_per_cell, Verdict.HARD_NEGATIVE)
        return Sighting(here, Verdict.UNCERTAIN)

    rival = second.value > np.float32(parameters.hard_negative_threshold) * first.value
    if rival and float(second.value) > parameters.target_not_found_threshold:
        return Sighting(here, Verdict.HARD_NEGATIVE)
    return Sighting(here, Verdict.NORMAL)


def keep_inside(
    position: np.ndarray, size: np.ndarray, image_shape: tuple[int, ...], inside_ratio: float
) -> np.ndarray:
    """Hold a target's middle near the image.

    Args:
        position: (2,) float32 `(y, x)`, pixels.
        size: (2,) float32 `(h, w)`, pixels.
        image_shape: Height and width of the image, further numbers are ignored.
        inside_ratio: 0.5 keeps the middle inside; less lets it leave by the rest of a target size.

    Returns:
        (2,) float32.
    """
    least = np.float32(inside_ratio - 0.5) * size
    most = np.asarray(image_shape[:2], dtype=np.float32) - least
    return np.maximum(np.minimum(position, most), least)
