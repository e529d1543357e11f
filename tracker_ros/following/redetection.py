# SPDX-License-Identifier: Apache-2.0
"""Finding a lost target again: where to look in each frame, and when to believe what is found.

A tracker searches around the last box. A target that comes back elsewhere is never in that window.
So while a target is lost, each frame's search is spent on another place: on what a detector
proposes, on the place where the target was lost, and on windows that cover the image one after the
other, the nearest first. A lost target costs about as much as a followed one.

Much in an image resembles a target a little, so what is seen is a candidate at first, which nobody
is told of. It is followed for some frames. It becomes the target if it is found in all of them, at
a steady place, and surely enough; and if the tracker, asked the other way round, finds the target
in the first image when it takes the candidate for a template (`Tracker.look_back`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tracker_ros.calibration import log_odds
from tracker_ros.geometry import Box, iou
from tracker_ros.tracker import TrackResult, Verdict

_OVERLAP = 0.5
_ZOOMS = (2.0, 3.2, 1.25)
"""Sides of windows, over the tracker's own: a target is found in 98, 97, 80 and 100 of 100 windows
that are 1.6, 2.2, 3 and 1 times as large as its own."""
_TURNS = 4
_STEADY_IOU = 0.4
_MAX_SIZE_CHANGE = 2.5
_PATIENCE = 10
_REJECTED_S = 1.0
_REJECTED_IOU = 0.3


@dataclass(frozen=True)
class RedetectionSettings:
    """How lost targets are looked for."""

    # seconds between two looks elsewhere; 0 looks elsewhere in every frame
    interval_s: float = 0.0
    candidate: float = 0.2  # score in [0, 1] from which something is looked at again
    confirmations: int = 3  # frames in a row in which it must be found
    certainty: float = 0.97  # how sure score and look back must be together, in [0, 1]
    certainty_alone: float = 0.9  # the same for the score of trackers that cannot look back
    certainty_raw: float = 0.7  # the same for scores that are no probabilities


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
    # The first size covers the image fast and finds what is half as large or twice as large.
    first, larger, smaller = rounds
    others = itertools.cycle([*larger, *smaller])
    for place in itertools.cycle(first):
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
        settings: How to look.
        calibrated: Whether scores are probabilities.

    Attributes:
        box: The same box.
    """

    def __init__(self, box: Box, settings: RedetectionSettings, calibrated: bool = True) -> None:
        self.box = box
        self._calibrated = calibrated
        self._settings = settings
        self._places: Iterator[Box] | None = None
        self._window_side = 4.0 * math.sqrt(_area(box))
        self._candidate: Box | None = None
        self._followed = 0
        self._odds: list[float] = []
        self._rejected: Box | None = None
        self._rejected_s = -math.inf
        self._frames = 0
        self._time_s = 0.0
        self._looked_s = -math.inf

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
        self._time_s = time_s
        if self._candidate is not None:
            return self._candidate
        turn = self._frames % _TURNS
        self._frames += 1
        if proposals and turn % 2:
            return proposals[(self._frames // 2 - 1) % len(proposals)]
        if turn == 0 or 0.0 <= time_s - self._looked_s < self._settings.interval_s:
            return self.box
        self._looked_s = time_s
        if self._places is None:
            self._places = search_places(self.box, self._window_side, height, width)
        return next(self._places)

    def judge(
        self,
        result: TrackResult,
        score: float,
        score_found: float,
        look_back: Callable[[Box], float | None],
    ) -> bool:
        """Take the result of that search into account.

        Args:
            result: The tracker's.
            score: How far to trust it, in [0, 1].
            score_found: From which score on something is found.
            look_back: Returns `Tracker.look_back` for a box in the image.

        Returns:
            Whether it is the target.
        """
        if self._frames == 1 and self._candidate is None:  # it was looked for at `box`
            self._window_side = result.search_region[2]
        seen = result.verdict in (None, Verdict.NORMAL, Verdict.HARD_NEGATIVE)
        change = abs(math.log(_area(result.box) / _area(self.box))) / 2.0
        plausible = seen and change <= math.log(_MAX_SIZE_CHANGE)
        if not plausible or score < self._settings.candidate or self._is_rejected(result.box):
            self._drop()
            return False
        if self._candidate is None:
            self._candidate = result.box
            return False
        steady = iou(self._candidate, result.box) >= _STEADY_IOU
        self._candidate = result.box
        self._followed += 1
        confirmed = steady and score >= score_found
        self._odds = [*self._odds, log_odds(score)] if confirmed else []
        if len(self._odds) >= self._settings.confirmations:
            if self._is_sure(result.box, look_back):
                return True
            self._odds = []
        if self._followed >= _PATIENCE:
            self._rejected, self._rejected_s = result.box, self._time_s
            self._drop()
        return False

    def _is_sure(self, box: Box, look_back: Callable[[Box], float | None]) -> bool:
        odds, settings = sum(self._odds) / len(self._odds), self._settings
        if not self._calibrated:
            return odds >= log_odds(settings.certainty_raw)
        back = look_back(box)
        if back is None:
            return odds >= log_odds(settings.certainty_alone)
        return odds + log_odds(back) >= log_odds(settings.certainty)

    def _is_rejected(self, box: Box) -> bool:
        recent = 0.0 <= self._time_s - self._rejected_s < _REJECTED_S
        return self._rejected is not None and recent and iou(self._rejected, box) > _REJECTED_IOU

    def _drop(self) -> None:
        self._candidate, self._followed, self._odds = None, 0, []


def _area(box: Box) -> float:
    return max(box[2] * box[3], 1e-6)
