# SPDX-License-Identifier: Apache-2.0
"""Frames of several cameras whose targets are tracked by one network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from tracker_ros.following.follower import Follower, Step
from tracker_ros.following.frames import Frame, FrameReport
from tracker_ros.following.target_set import usable

T = TypeVar("T")
R = TypeVar("R")


def handle_together(
    waiting: Sequence[tuple[Follower[T], Frame[T]]],
    failed: Callable[[Follower[T], Exception], None],
) -> None:
    """Track the targets of several cameras, each in its camera's newest frame.

    If the network can, all targets take one pass. Otherwise the cameras take turns, since each
    would only wait for the others.

    Args:
        waiting: One follower and its frame for each camera, at least one. Their trackers are forks
            of one tracker.
        failed: Called with what a camera's follower raised; the other cameras go on.
    """

    def attempt(follower: Follower[T], work: Callable[[], R]) -> R | None:
        try:
            return work()
        except Exception as error:  # one camera's failure is not the others'
            failed(follower, error)
            return None

    if len(waiting) == 1 or not waiting[0][0].shares_passes:
        for follower, frame in waiting:
            attempt(follower, partial(follower.handle, frame))
        return
    begun = [(f, attempt(f, partial(f.begin, frame))) for f, frame in waiting]
    steps = [(follower, step) for follower, step in begun if isinstance(step, Step)]
    places = [(step.image, target.tracker) for _, step in steps for target in step.targets]
    outcomes = None
    if len(steps) > 1:
        (_, first), *others = places
        try:
            found = first.track_images([t for _, t in others], [image for image, _ in places])
            pairs = zip(found, places, strict=True)
            outcomes = iter([usable(outcome, image) for outcome, (image, _) in pairs])
        except Exception:  # whatever they have in common failed: each gets its own outcome
            outcomes = None
    if outcomes is None:
        for follower, step in steps:
            attempt(follower, partial(follower.complete, step))
        return
    reports: list[tuple[Follower[T], Step[T], FrameReport[T] | None]] = []
    for follower, step in steps:
        own = [next(outcomes) for _ in step.targets]
        reports.append((follower, step, attempt(follower, partial(follower.finish, step, own))))
    for follower, step, report in reports:
        if report is not None:
            attempt(follower, partial(follower.update_models, step, report))
