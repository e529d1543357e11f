# SPDX-License-Identifier: Apache-2.0
"""Finding a lost target again: where to look in each frame, and when to believe what is found.

A tracker searches around the last box. A target that comes back elsewhere is never in that window.
So while a target is lost, each frame's search is spent on another place: on what a detector
proposes, on the place where the target was lost, and on windows that cover the image one after the
other, the nearest first. A lost target costs no more than a followed one.

A single high score is not believed elsewhere: the tracker must find the target there in several
frames in a row, at a steady place and size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tracker_ros.geometry import Box, iou
from tracker_ros.tracker import TrackResult, Verdict

__all__ = ["Redetection", "RedetectionSettings", "search_places"]

_OVERLAP = 0.5
_ZOOMS = (1.0, 1.6, 0.65)
_HOME_EVERY = 4
_STEADY_IOU = 0.4
_MAX_SIZE_CHANGE = 2.5


@dataclass(frozen=True)
class RedetectionSettings:
    """How lost targets are looked for.

    Attributes:
        interval_s: Seconds between two looks elsewhere; 0 looks elsewhere in every frame.
        score: Score in [0, 1] from which something elsewhere may be the target.
        confirmations: Frames in a row in which it must be found there.
    """

    interval_s: float = 0.0
    score: float = 0.7
    confirmations: int = 3


def search_places(box: Box, window_side: float, height: int, width: int) -> Iterator[Box]:
    """Yield boxes to search around, for ever, so that their windows cover the image.

    The windows have three sizes; for each, the nearest come first.

    Args:
        box: `(x, y, w, h)` where the target was lost, pixels.
        window_side: Side of the square that the tracker searches around this box, pixels.
        height: Of the image, pixels.
        width: Of the image, pixels.
    """
    x, y, w, h = box
    rounds = []
    for zoom in _ZOOMS:
        side = min(zoom * window_side, 2.0 * max(height, width))
        centres = [(cx, cy) for cy in _centres(height, side) for cx in _centres(width, side)]
        centres.sort(key=lambda c: math.hypot(c[0] - x - w / 2, c[1] - y - h / 2))
        zw, zh = w * side / window_side, h * side / window_side
        rounds.append([(cx - zw / 2, cy - zh / 2, zw, zh) for cx, cy in centres])
    # The target's own size is the likeliest: every second window has it.
    own, larger, smaller = rounds
    others = itertools.cycle([*larger, *smaller])
    for place in itertools.cycle(own):
        yield place
        yield next(others)


def _centres(length: int, side: float) -> list[float]:
    """Return the centres of windows that cover a length and overlap by half."""
    count = max(1, math.ceil(length / (side * _OVERLAP)))
    return [(i + 0.5) * length / count for i in range(count)]


class Redetection:
    """The search for one lost target, from its loss until it is found.

    Args:
        box: `(x, y, w, h)` where the target was last seen, pixels.
        window_side: Side of the square that the tracker searched around it, pixels.
        settings: How to look.

    Attributes:
        box: The same box.
    """

    def __init__(self, box: Box, window_side: float, settings: RedetectionSettings) -> None:
        self.box = box
        self._window_side = window_side
        self._settings = settings
        self._places: Iterator[Box] | None = None
        self._candidate: Box | None = None
        self._confirmed = 0
        self._frames = 0
        self._looked_s = -math.inf
        self._elsewhere = False

    def next_place(
        self, time_s: float, height: int, width: int, proposals: Sequence[Box] = ()
    ) -> Box:
        """Return the box to search around in the next image.

        Args:
            time_s: Time of the image, seconds.
            height: Of the image, pixels.
            width: Of the image, pixels.
            proposals: Boxes `(x, y, w, h)` in which a detector sees something, the best first.
        """
        if self._candidate is not None:
            return self._candidate
        self._frames += 1
        waited = time_s - self._looked_s
        home = self._frames % _HOME_EVERY == 1 or 0.0 <= waited < self._settings.interval_s
        self._elsewhere = bool(proposals) or not home
        if not self._elsewhere:
            return self.box
        self._looked_s = time_s
        if proposals:
            return proposals[self._frames % len(proposals)]
        if self._places is None:
            self._places = search_places(self.box, self._window_side, height, width)
        return next(self._places)

    def judge(self, result: TrackResult, score: float, score_found: float) -> bool:
        """Take the result of that search into account.

        Args:
            result: The tracker's.
            score: How far to trust it, in [0, 1].
            score_found: From which score on something is found.

        Returns:
            Whether the target is found. Where it was lost, the tracker's own verdict or
            `score_found` decides at once.
        """
        found = result.verdict in (None, Verdict.NORMAL, Verdict.HARD_NEGATIVE)
        if not self._elsewhere:
            return found and (result.verdict is not None or score >= score_found)
        found = found and score >= max(self._settings.score, score_found)
        steady = self._candidate is None or iou(self._candidate, result.box) >= _STEADY_IOU
        change = abs(math.log(_area(result.box) / _area(self.box))) / 2.0
        if not (found and steady and change <= math.log(_MAX_SIZE_CHANGE)):
            self._candidate, self._confirmed = None, 0
            return False
        self._candidate = result.box
        self._confirmed += 1
        return self._confirmed >= self._settings.confirmations


def _area(box: Box) -> float:
    return max(box[2] * box[3], 1e-6)
