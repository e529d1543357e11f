# SPDX-License-Identifier: Apache-2.0
"""Choose among a detector's findings what to follow, and where to look for a lost target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from tracker_ros.following.selection import SelectionCode, SelectionRefused
from tracker_ros.geometry import Box
from tracker_ros.quoting import quote

_LISTED = 8


class DetectionRule(IntEnum):
    """Which of several detections, with the numbers of ``SelectFromDetections``."""

    BEST = 0
    LARGEST = 1
    NEAREST = 2


@dataclass(frozen=True)
class Detection:
    """A box with what it may be."""

    box: Box  # ``(x, y, w, h)``, pixels, top-left corner
    scores: dict[str, float]  # score of each class that it may be

    def score(self, class_id: str) -> float | None:
        """Return the score of a class, of the best one if it is empty; None without that class."""
        if not class_id:
            return max(self.scores.values(), default=0.0)
        return self.scores.get(class_id)

    @property
    def class_id(self) -> str:
        """The class with the highest score; empty without classes."""
        return max(self.scores, key=self.scores.__getitem__, default="")


def choose_detection(
    detections: Sequence[Detection],
    rule: int,
    class_id: str = "",
    min_score: float = 0.0,
    point: tuple[float, float] = (0.0, 0.0),
) -> int:
    """Return the index of the detection to follow.

    Args:
        detections: What was found in one image. Boxes that are not finite or empty are left out.
        rule: A `DetectionRule`.
        class_id: The class wanted; empty accepts any.
        min_score: Least score.
        point: Pixel for the rule NEAREST.

    Raises:
        SelectionRefused: None fits; its code is NO_DETECTION.
    """
    if rule not in list(DetectionRule):
        raise _none(f"rule is {rule}, expected one of {', '.join(_rule_names())}")
    if rule == DetectionRule.NEAREST and not all(map(math.isfinite, point)):
        raise _none(f"point is {point[0]:g} {point[1]:g}, expected a pixel of the image")
    fitting = [
        (index, detection, score)
        for index, detection in enumerate(detections)
        if _is_usable(detection.box)
        and (score := detection.score(class_id)) is not None
        and score >= min_score
    ]
    if not fitting:
        wanted = f"of class {quote(class_id)} " if class_id else ""
        raise _none(
            f"no detection {wanted}with a score of {min_score:g} or more among "
            f"{len(detections)} ({_listed(detections)}): ask again, or for less"
        )

    def rank(entry: tuple[int, Detection, float]) -> tuple[float, ...]:
        _, detection, score = entry
        if rule == DetectionRule.BEST:
            return (-score,)
        if rule == DetectionRule.LARGEST:
            return (-detection.box[2] * detection.box[3],)
        return _distances(detection.box, point)

    return min(fitting, key=rank)[0]


def likely_boxes(detections: Sequence[Detection], class_id: str = "") -> list[Box]:
    """Return the boxes in which a target may be, those with the highest scores first.

    Args:
        detections: What was found. Boxes that are not finite or empty are left out.
        class_id: What the target is; detections of other classes are left out. Empty if unknown.
    """
    scored = [
        (score, detection.box)
        for detection in detections
        if _is_usable(detection.box)
        and (score := detection.score(class_id if detection.scores else "")) is not None
    ]
    return [box for _, box in sorted(scored, key=lambda entry: -entry[0])]


def _distances(box: Box, point: tuple[float, float]) -> tuple[float, float]:
    """Return how far a point is from a box (0 inside) and from its centre, pixels."""
    x, y, w, h = box
    beside = max(x - point[0], point[0] - x - w, 0.0), max(y - point[1], point[1] - y - h, 0.0)
    return math.hypot(*beside), math.hypot(x + w / 2 - point[0], y + h / 2 - point[1])


def _is_usable(box: Box) -> bool:
    return all(map(math.isfinite, box)) and box[2] > 0 and box[3] > 0


def _listed(detections: Sequence[Detection]) -> str:
    """Return classes and scores in words."""
    words = [f"{quote(d.class_id)} {d.score('') or 0:.2f}" for d in detections[:_LISTED]]
    return ", ".join(words + ["..."] * (len(detections) > _LISTED)) or "none"


def _rule_names() -> list[str]:
    return [f"{rule.value} ({rule.name})" for rule in DetectionRule]


def _none(text: str) -> SelectionRefused:
    return SelectionRefused(SelectionCode.NO_DETECTION, text)
