# SPDX-License-Identifier: Apache-2.0
"""Evidence for and against a tracker's result: its score, its way, its size and its look.

Most of it can be had from any tracker, and costs some 0.3 ms. To look back takes about two passes
of the network, so it is done in every twentieth frame; that tells as much as in every second. A
doubtful box is looked back from sooner.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import NamedTuple

import cv2
import numpy as np

from tracker_ros.calibration import log_odds
from tracker_ros.geometry import Box
from tracker_ros.tracker import TrackResult

_THUMBNAIL = 16
_LEVELS = 8
_LOOKS = 6
_LOOK_INTERVAL = 5
_SIZES = 15
_USUAL_STEP = 0.3
_EDGE = 2.0
_LOOK_BACK_INTERVAL, _LOOK_BACK_DOUBTED = 20, 4
_DOUBTFUL = 0.7
_LOOK_BACK_FIRST, _LOOK_BACK_UNKNOWN = 2.0, 0.0
_LEAST_SCORE = 0.02
_SURE_SCORE, _SURE_JUMP, _SURE_GROWTH = 0.6, 0.1, 0.3


class _Look(NamedTuple):
    """What a box shows."""

    pixels: np.ndarray  # (3 * 16 * 16,) float64 colours of a thumbnail, of mean 0 and length 1
    colours: np.ndarray  # (512,) float64 histogram, of sum 1


class EvidenceCollector:
    """Collects the evidence on one target, frame by frame.

    Args:
        image: The image in which it was selected, RGB uint8 (H, W, 3).
        box: `(x, y, w, h)` of the target in it, pixels.
    """

    def __init__(self, image: np.ndarray, box: Box) -> None:
        self._first = _look_at(image, box)
        self._looks = deque([self._first.pixels], _LOOKS)
        self._age = 0
        self._look_back = _LOOK_BACK_FIRST
        self._look_back_age = _LOOK_BACK_INTERVAL
        self._areas: deque[float] = deque(maxlen=_SIZES)
        self._aspects: deque[float] = deque(maxlen=_SIZES)
        self._note(box)

    def collect(self, image: np.ndarray, result: TrackResult) -> dict[str, float]:
        """Return the evidence on the result of the next image; see `calibration.EVIDENCE`."""
        look = _look_at(image, result.box)
        evidence = {**self._anywhere(image, result, look), **self._change(result.box)}
        evidence["look_back"] = self._look_back
        self._note(result.box)
        self._age += 1
        self._look_back_age += 1
        sure = (
            result.score >= _SURE_SCORE
            and evidence["jump"] < _SURE_JUMP
            and evidence["growth"] < _SURE_GROWTH
        )
        if sure and self._age >= _LOOK_INTERVAL:
            self._looks.append(look.pixels)
            self._age = 0
        return evidence

    def collect_elsewhere(self, image: np.ndarray, result: TrackResult) -> dict[str, float]:
        """Return the evidence on a result of which neither place nor size can be expected."""
        look = _look_at(image, result.box)
        usual = {"jump": 0.0, "growth": 0.0, "look_back": _LOOK_BACK_UNKNOWN}
        return {**self._anywhere(image, result, look), **usual}

    def wants_look_back(self, probability: float = 1.0) -> bool:
        """Tell whether it is time for `note_look_back`, if a box is right with a probability."""
        doubtful = probability < _DOUBTFUL
        return self._look_back_age >= (_LOOK_BACK_DOUBTED if doubtful else _LOOK_BACK_INTERVAL)

    def note_look_back(self, score: float | None) -> None:
        """Take into account what `Tracker.look_back` returned for the last box."""
        self._look_back_age = 0
        if score is not None:
            self._look_back = log_odds(score, _LEAST_SCORE)

    def move(self, box: Box) -> None:
        """Expect the target here, at this size: it was found again, and looked back from."""
        self._look_back, self._look_back_age = _LOOK_BACK_FIRST, 0
        self._areas.clear()
        self._aspects.clear()
        self._note(box)

    def _note(self, box: Box) -> None:
        """Remember the place of a box, and the logarithms of its area and of its shape."""
        self._last = box
        self._areas.append(math.log(box[2] * box[3]))
        self._aspects.append(math.log(box[2] / box[3]))

    def _anywhere(self, image: np.ndarray, result: TrackResult, look: _Look) -> dict[str, float]:
        x, y, w, h = result.box
        height, width = image.shape[:2]
        return {
            "score": log_odds(result.score, _LEAST_SCORE),
            "rival": rival_share(result),
            "aspect": min(abs(math.log(w / h) - statistics.median(self._aspects)), 2.0),
            "likeness_first": float(look.pixels @ self._first.pixels),
            "likeness": max(float(look.pixels @ known) for known in self._looks),
            "colour": float(np.sqrt(look.colours * self._first.colours).sum()),
            "edge": float(min(x, y, width - x - w, height - y - h) < _EDGE),
        }

    def _change(self, box: Box) -> dict[str, float]:
        x, y, w, h = box
        last = self._last
        way = math.hypot(x + w / 2 - last[0] - last[2] / 2, y + h / 2 - last[1] - last[3] / 2)
        jump = way / math.sqrt(last[2] * last[3]) - _USUAL_STEP
        growth = abs(math.log(w * h) - statistics.median(self._areas))
        return {"jump": min(max(jump, 0.0), 1.5), "growth": min(growth, 3.0)}


def rival_share(result: TrackResult) -> float:
    """Return the highest score outside the box over that of the target, at most 2."""
    scores = result.score_map
    if scores is None:
        return 0.0
    rows, columns = scores.shape
    left, top, width, height = result.search_region
    x, y, w, h = result.box
    across = _outside(columns, left, width, x, w)
    down = _outside(rows, top, height, y, h)
    others = scores[down[:, None] | across[None, :]]
    return min(float(others.max()) / max(result.score, 1e-3), 2.0) if others.size else 0.0


def _outside(cells: int, start: float, length: float, low: float, extent: float) -> np.ndarray:
    """Return which cells of a map's axis lie beyond a box, and beyond its peak's neighbours."""
    per_cell = length / cells
    centre = (low + extent / 2 - start) / per_cell
    return np.abs(np.arange(cells) + 0.5 - centre) > max(1.5, 0.5 * extent / per_cell)


def _look_at(image: np.ndarray, box: Box) -> _Look:
    """Return what a box shows; all zeros if it is outside the image."""
    height, width = image.shape[:2]
    x0, y0 = max(0, int(box[0])), max(0, int(box[1]))
    x1, y1 = min(width, math.ceil(box[0] + box[2])), min(height, math.ceil(box[1] + box[3]))
    if x1 <= x0 or y1 <= y0:
        return _Look(np.zeros(3 * _THUMBNAIL**2), np.zeros(_LEVELS**3))
    step = max(1, min(x1 - x0, y1 - y0) // (3 * _THUMBNAIL))
    patch = np.ascontiguousarray(image[y0:y1:step, x0:x1:step])
    small = cv2.resize(patch, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    pixels = small.reshape(-1, 3)
    centred = pixels - pixels.mean(0)
    vector = centred.ravel() / max(float(np.linalg.norm(centred)), 1e-6)
    bins = pixels // (256 // _LEVELS) @ np.array([_LEVELS**2, _LEVELS, 1])
    return _Look(vector, np.bincount(bins, minlength=_LEVELS**3) / len(bins))
