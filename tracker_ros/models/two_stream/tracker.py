# SPDX-License-Identifier: Apache-2.0
"""The tracking loop of the two-stream tracker: that of one-stream trackers, and a later template.

The first template stays. The second one is read anew from features of a search crop, which are
there anyway, where the target was surely found: with a high score, near where it was and hardly
changed in size. After frames in which the target was not found, the search reaches further.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from tracker_ros.arrays import Array, on_device
from tracker_ros.crops import box_in_crop
from tracker_ros.geometry import Box
from tracker_ros.models.one_stream.tracker import OneStreamModel, OneStreamTracker, Target, _View
from tracker_ros.tracker import TrackResult, View


class Templates(NamedTuple):
    """Templates of a target, (1, m * m, C + K) each."""

    first: Array
    later: Array


class TwoStreamModel(OneStreamModel, Protocol):
    """A network that compares two templates with search regions."""

    def read_template(self, sample: int, box_xywh: Array) -> Array:
        """Read a template from a sample of the last pass, at a box (1, 4) as fractions of it."""


@dataclass(frozen=True)
class Policy:
    """When to refresh the second template, and how far sizes are smoothed."""

    refresh_score: float = 0.6  # least score of a frame whose template is taken
    refresh_interval: int = 5  # frames between two templates, at least
    refresh_jump: float = 0.4  # largest way of the target in a frame, in box sides
    refresh_growth: float = 0.2  # largest change of the logarithm of the box's size in a frame
    inertia: float = 0.3  # share of the last size in the next; 0 takes sizes as they are found


@dataclass(frozen=True)
class FollowedTarget(Target):
    """The target, and how many frames old its second template is."""

    age: int = 0


class TwoStreamTracker(OneStreamTracker):
    """Follows one target with the template of the first image and a later one.

    Args:
        model: The network.
        policy: When to take a later template, and how to search.
    """

    model: TwoStreamModel

    def __init__(self, model: TwoStreamModel, policy: Policy = Policy()) -> None:  # noqa: B008
        super().__init__(model)
        self.policy = policy
        self._later_view: View | None = None

    def initialize(self, image: np.ndarray, box: Sequence[float]) -> None:
        """See `Tracker.initialize`; both templates are the first."""
        super().initialize(image, box)
        self._later_view = None
        started = cast(Target, self.target)
        self.target = FollowedTarget(
            started.template, started.box, started.image_size, started.first
        )

    def _encode(self, image: np.ndarray, box: Box) -> tuple[Templates, View]:
        template, view = super()._encode(image, box)
        return Templates(template, template), view

    def _remember(self, view: _View, result: TrackResult) -> TrackResult:
        target = cast(FollowedTarget, view.target)
        if result.verdict is not None:
            self.target = replace(target, missed=target.missed + 1, age=target.age + 1)
            return result
        box = smoothed(target.box, result.box, self.policy.inertia)
        templates, age = target.template, target.age + 1
        if self._is_sure(target, result, age):
            templates = Templates(templates.first, self._read(view, box))
            age = 0
        self.target = replace(target, template=templates, box=box, missed=0, age=age)
        return replace(result, box=box)

    def _more_views(self, view: _View) -> list[View]:
        similarity = getattr(self.model, "similarity", None)
        views = [] if self._later_view is None else [self._later_view]
        if similarity is not None:
            found = similarity(view.target.template, view.sample).numpy()
            names = ("like first template", "like later template")
            views += [View(n, view.crop, heat=m) for n, m in zip(names, found, strict=True)]
        return views

    def _is_sure(self, target: FollowedTarget, result: TrackResult, age: int) -> bool:
        policy = self.policy
        if age < policy.refresh_interval or result.score < policy.refresh_score or target.missed:
            return False
        jump, growth = change(target.box, result.box)
        return jump <= policy.refresh_jump and abs(growth) <= policy.refresh_growth

    def _read(self, view: _View, box: Box) -> Any:
        size = self.model.config.search_size
        place = box_in_crop(box, view.target.box, view.factor, size)
        if self.illustrate:
            x, y, w, h = (float(part) * size for part in place)
            self._later_view = View("later template", view.crop, boxes=(((x, y, w, h), ""),))
        given = on_device(np.array([place], np.float32), self.model.device)
        return self.model.read_template(view.sample, given)


def change(before: Box, after: Box) -> tuple[float, float]:
    """Return how far a box moved, in sides of the first, and the logarithm of its growth."""
    side = math.sqrt(before[2] * before[3])
    dx = after[0] + after[2] / 2 - before[0] - before[2] / 2
    dy = after[1] + after[3] / 2 - before[1] - before[3] / 2
    growth = 0.5 * math.log(max(after[2] * after[3], 1e-6) / (before[2] * before[3]))
    return math.hypot(dx, dy) / side, growth


def smoothed(before: Box, after: Box, inertia: float) -> Box:
    """Return the later box about its own centre, its size partly that of the earlier one."""
    width, height = (
        old**inertia * new ** (1 - inertia) for old, new in zip(before[2:], after[2:], strict=True)
    )
    x, y = after[0] + (after[2] - width) / 2, after[1] + (after[3] - height) / 2
    return (x, y, width, height)
