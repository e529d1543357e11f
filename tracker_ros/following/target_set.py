# SPDX-License-Identifier: Apache-2.0
"""Several targets with one copy of the network, each with an id and a state of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tracker_ros.following.target_state import TargetStateMachine
from tracker_ros.tracker import Tracker, TrackResult

__all__ = ["MAX_TARGETS", "FollowedTarget", "TargetSet"]

MAX_TARGETS = 16
"""Each target costs time and memory; a loop that only ever adds targets has to end somewhere."""


@dataclass(frozen=True)
class FollowedTarget:
    """One target.

    Attributes:
        tracker: What follows it.
        machine: How it is doing.
    """

    tracker: Tracker
    machine: TargetStateMachine

    @property
    def target_id(self) -> str:
        """Its id."""
        return self.machine.target_id


class TargetSet:
    """The targets that are followed, in the order of their selection.

    It outlives models: no id is ever given twice.

    Args:
        score_found: As for `TargetStateMachine`.
        score_lost: Likewise.
        lost_after: Likewise.
        ids: Numbers to name targets by; where several objects share them, no id is given twice
            by any of them.

    Attributes:
        tracker: Follows the first target; further ones get copies of it. None without a model.

    Raises:
        ValueError: As for `TargetStateMachine`.
    """

    def __init__(
        self,
        score_found: float = 0.45,
        score_lost: float = 0.35,
        lost_after: float = 1.0,
        ids: Iterator[int] | None = None,
    ) -> None:
        self._ids = itertools.count(1) if ids is None else ids
        self._limits = (score_found, score_lost, lost_after)
        self._nobody = self._new_machine()
        self.tracker: Tracker | None = None
        self._targets: list[FollowedTarget] = []

    def __len__(self) -> int:
        return len(self._targets)

    @property
    def targets(self) -> tuple[FollowedTarget, ...]:
        """All of them, the first one selected first."""
        return tuple(self._targets)

    @property
    def machines(self) -> list[TargetStateMachine]:
        """The state of each target; where there is none, a single one that says so."""
        return [target.machine for target in self._targets] or [self._nobody]

    def loading(self) -> None:
        """A model is being loaded; the targets of an earlier one are forgotten."""
        self.unload()
        self._nobody.loading()

    def loaded(self) -> None:
        """Loading has ended, well or not: there is a `tracker` or there is none."""
        self._nobody.loaded()

    def unload(self) -> None:
        """Let go of targets and model."""
        self._targets.clear()
        self.tracker = None

    def set_limits(self, score_found: float, score_lost: float, lost_after: float) -> None:
        """Change the thresholds of all states.

        Raises:
            ValueError: As for `TargetStateMachine`; the old thresholds then stay.
        """
        self._nobody.set_limits(score_found, score_lost, lost_after)
        self._limits = (score_found, score_lost, lost_after)
        for target in self._targets:
            target.machine.set_limits(*self._limits)

    def select(
        self,
        start: Callable[[Tracker], None],
        time_s: float,
        label: str = "",
        append: bool = False,
    ) -> FollowedTarget:
        """Follow a target, in place of all others or as well.

        Args:
            start: Initialises the tracker that it is given. What it raises is passed on, and
                nothing has changed then: see `Tracker.initialize`.
            time_s: When the target was seen there.
            label: What it is.
            append: Follow the others on.

        Raises:
            ValueError: There are `MAX_TARGETS` already.
            RuntimeError: There is no model.
        """
        if self.tracker is None:
            raise RuntimeError("select() was called without a model: set tracker first")
        if append and len(self._targets) >= MAX_TARGETS:
            raise ValueError(
                f"{MAX_TARGETS} targets are followed already, which is the most: remove one first"
            )
        in_use = [target.tracker for target in self._targets]
        if in_use and not append:
            tracker = in_use[0]
        else:
            tracker = self.tracker.fork() if self.tracker in in_use else self.tracker
        start(tracker)
        machine = self._new_machine()
        machine.select(time_s, label)
        target = FollowedTarget(tracker, machine)
        self._targets = [*self._targets, target] if append else [target]
        return target

    def remove(self, target_id: str) -> bool:
        """Follow a target no longer; whether there was one of that id."""
        left = [target for target in self._targets if target.target_id != target_id]
        found = len(left) < len(self._targets)
        self._targets = left
        return found

    def clear(self) -> None:
        """Follow none."""
        self._targets.clear()

    def track(
        self, image: np.ndarray, targets: Sequence[FollowedTarget]
    ) -> list[TrackResult | Exception]:
        """Find some of the targets, at least one, in the next image: see `track_batch`."""
        first, *others = (target.tracker for target in targets)
        return first.track_batch(others, image)

    def _new_machine(self) -> TargetStateMachine:
        return TargetStateMachine(*self._limits, ids=self._ids)
