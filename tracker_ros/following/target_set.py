# SPDX-License-Identifier: Apache-2.0
"""The followed targets: one copy of the network, an id and a state for each target."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from tracker_ros.following.evidence import EvidenceCollector
from tracker_ros.following.redetection import Redetection, RedetectionSettings
from tracker_ros.following.selection import SelectionCode, SelectionRefused
from tracker_ros.following.target_state import (
    Doubt,
    StateLimits,
    TargetState,
    TargetStateMachine,
)
from tracker_ros.geometry import Box
from tracker_ros.tracker import Tracker, TrackResult, Verdict

MAX_TARGETS = 16
"""Maximum number of targets: each costs time and memory, and a program may add without end."""

_DOUBTS = {
    "score": Doubt.LOW_SCORE,
    "rival": Doubt.LOOK_ALIKE,
    "jump": Doubt.JUMP,
    "growth": Doubt.SIZE,
    "aspect": Doubt.SIZE,
    "likeness_first": Doubt.LOOK,
    "likeness": Doubt.LOOK,
    "colour": Doubt.LOOK,
    "edge": Doubt.LEFT_IMAGE,
    "look_back": Doubt.LOOK,
}
"""What to call each kind of `calibration.EVIDENCE` that speaks against a result."""


class FollowedTarget(TargetStateMachine):
    """A target: its id, its label, the tracker that follows it, its state, and its search if lost.

    Args:
        target_id: Its id.
        label: What it is.
        tracker: Follows it.
        time_s: When it was selected, seconds.
        limits: Thresholds of its state.
        redetection: How to look for it when it is lost; None looks where it was lost alone.

    Attributes:
        doubt: What speaks most against the last result; NONE while that is found.
    """

    def __init__(
        self,
        target_id: str,
        label: str,
        tracker: Tracker,
        time_s: float,
        limits: StateLimits,
        redetection: RedetectionSettings | None = None,
    ) -> None:
        super().__init__(time_s, limits)
        self.target_id = target_id
        self.label = label
        self.tracker = tracker
        self.redetection = redetection
        self.doubt = Doubt.NONE
        self._evidence: EvidenceCollector | None = None
        self._seen: TrackResult | None = None
        self._search: Redetection | None = None
        self._missed = False

    def start(self, image: np.ndarray, box: Box) -> None:
        """Remember how the target looks in the image in which it was selected.

        Args:
            image: RGB uint8 (H, W, 3).
            box: `(x, y, w, h)`, pixels.
        """
        if self.tracker.calibration is not None:
            self._evidence = EvidenceCollector(image, box)

    def aim(self, time_s: float, height: int, width: int, proposals: Sequence[Box] = ()) -> None:
        """Choose where the tracker searches the next image, if the target is lost.

        Args:
            time_s: Time of the image, seconds.
            height: Of the image, pixels.
            width: Of the image, pixels.
            proposals: Boxes `(x, y, w, h)` in which a detector sees something, the best first.
        """
        # A target that was lost because no images came is expected where it was.
        lost = self.state is TargetState.LOST and self._missed and self._seen is not None
        if not lost or self.redetection is None:
            self._search = None
            return
        if self._search is None:
            assert self._seen is not None
            self._search = Redetection(
                self._seen.box, self.redetection, calibrated=self._evidence is not None
            )
        place = self._search.next_place(time_s, height, width, proposals)
        if not self.tracker.search_around(place):
            self._search = None

    def take(self, result: TrackResult, time_s: float, image: np.ndarray) -> TrackResult:
        """Take the tracker's result on an image, RGB uint8 (H, W, 3), into account.

        Returns:
            The result; while the target is looked for, with the box where it was last seen.
        """
        search = self._search
        score, doubt = self._judge(image, result, elsewhere=search is not None)
        if search is not None and not search.judge(
            result,
            score,
            self.limits.score_found,
            lambda box: self.tracker.look_back(image, box),
        ):
            self.doubt, self._missed = doubt, True
            # A candidate's score is not that of the box, where nothing was seen.
            self.update(min(score, self.limits.score_lost), time_s, Verdict.NOT_FOUND)
            return replace(result, box=search.box, verdict=Verdict.NOT_FOUND)
        verdict = result.verdict
        if self._evidence is not None:
            if search is not None:
                self._evidence.move(result.box)
            if verdict in (Verdict.NORMAL, Verdict.HARD_NEGATIVE):
                # The tracker believes it; the evidence has the last word.
                verdict = None
        self.update(score, time_s, verdict)
        found = self.state is TargetState.TRACKING
        self._missed = not found
        alike = result.verdict is Verdict.HARD_NEGATIVE
        self.doubt = (Doubt.LOOK_ALIKE if alike else Doubt.NONE) if found else doubt
        if found:
            self._seen = result
        return result

    def update_model(
        self, image: np.ndarray, result: TrackResult, may_look_back: bool = True
    ) -> bool:
        """Let the tracker learn from its result on an image, and look back now and then.

        Call it when the result is out: it takes time. If it may not look back when that is due, it
        will in the next frame in which it may. Returns whether it has.
        """
        self.tracker.update_model()
        calibration, evidence = self.tracker.calibration, self._evidence
        if evidence is None or calibration is None or not calibration.weights.get("look_back"):
            return False
        if not (may_look_back and evidence.wants_look_back(self.score)):
            return False
        evidence.note_look_back(self.tracker.look_back(image, result.box))
        return True

    def _judge(
        self, image: np.ndarray, result: TrackResult, elsewhere: bool
    ) -> tuple[float, Doubt]:
        """Return the score of a result, and what speaks most against it."""
        calibration = self.tracker.calibration
        if self._evidence is None or calibration is None:
            return result.score, Doubt.LOW_SCORE
        collect = self._evidence.collect_elsewhere if elsewhere else self._evidence.collect
        evidence = collect(image, result)
        against = calibration.strongest_against(evidence)
        return calibration.probability(evidence), _DOUBTS[against]


class TargetSet:
    """The followed targets in the order of their selection.

    Args:
        limits: Thresholds of the targets' states.
        ids: Numbers to name targets by. Sets that share them never give the same id twice.
        tracker: As the attribute.
        redetection: As the attribute.

    Attributes:
        redetection: How lost targets are looked for; None looks where they were lost alone.
        tracker: Follows the first target; further targets get forks of it. None without a model.
        state: State of the set while it has no target: IDLE or LOADING.
    """

    def __init__(
        self,
        limits: StateLimits | None = None,
        ids: Iterator[int] | None = None,
        tracker: Tracker | None = None,
        redetection: RedetectionSettings | None = None,
    ) -> None:
        self._limits = limits or StateLimits()
        self._ids = itertools.count(1) if ids is None else ids
        self._targets: list[FollowedTarget] = []
        self.tracker = tracker
        self.redetection = redetection
        self.state = TargetState.IDLE

    def __len__(self) -> int:
        return len(self._targets)

    def __iter__(self) -> Iterator[FollowedTarget]:
        """Iterate over the targets; those present at the start, whatever changes meanwhile."""
        return iter(tuple(self._targets))

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all targets."""
        return tuple(target.target_id for target in self._targets)

    def unload(self) -> None:
        """Drop the targets and the model."""
        self._targets.clear()
        self.tracker = None

    def set_limits(
        self, limits: StateLimits, redetection: RedetectionSettings | None = None
    ) -> None:
        """Change thresholds and the search for lost targets, of present and future targets."""
        self._limits, self.redetection = limits, redetection
        for target in self._targets:
            target.limits, target.redetection = limits, redetection

    def select(
        self,
        start: Callable[[Tracker], None],
        time_s: float,
        label: str = "",
        append: bool = False,
    ) -> FollowedTarget:
        """Follow a target, instead of all others or beside them, and return it.

        Args:
            start: Initialises the tracker that it is given. If it raises, nothing has changed:
                see `Tracker.initialize`.
            time_s: Time of the frame, seconds.
            label: What the target is.
            append: Whether the others are still followed.

        Raises:
            SelectionRefused: `MAX_TARGETS` are followed already.
            RuntimeError: There is no model.
        """
        if self.tracker is None:
            raise RuntimeError("select() was called without a model: set tracker first")
        if append and len(self._targets) >= MAX_TARGETS:
            raise SelectionRefused(
                SelectionCode.TOO_MANY_TARGETS,
                f"{MAX_TARGETS} targets are followed already, the maximum: remove one first",
            )
        in_use = [target.tracker for target in self._targets]
        if in_use and not append:
            tracker = in_use[0]
        else:
            tracker = self.tracker.fork() if self.tracker in in_use else self.tracker
        start(tracker)
        target = FollowedTarget(
            str(next(self._ids)), label, tracker, time_s, self._limits, self.redetection
        )
        self._targets = [*self._targets, target] if append else [target]
        return target

    def remove(self, target_id: str) -> bool:
        """Stop following a target. Returns False if the id is unknown."""
        kept = [target for target in self._targets if target.target_id != target_id]
        found = len(kept) < len(self._targets)
        self._targets = kept
        return found

    def clear(self) -> None:
        """Stop following all targets."""
        self._targets.clear()

    def trim(self) -> None:
        """Free what the model would make again when needed; see `Tracker.trim`."""
        if self.tracker is not None:
            self.tracker.trim()

    def track(
        self, image: np.ndarray, targets: Sequence[FollowedTarget]
    ) -> list[TrackResult | Exception]:
        """Find some of the targets, at least one, in the next image; see `Tracker.track_batch`.

        A result that nothing should act on, such as a box that is not finite, becomes an error.
        """
        first, *others = (target.tracker for target in targets)
        try:
            outcomes = first.track_batch(others, image)
        except Exception as error:  # what all targets have in common failed
            return [error] * len(targets)
        return [usable(outcome, image) for outcome in outcomes]


def usable(outcome: TrackResult | Exception, image: np.ndarray) -> TrackResult | Exception:
    """Return an outcome; an error for a result that nothing should act on."""
    return (isinstance(outcome, TrackResult) and _unusable(outcome, image)) or outcome


def _unusable(result: TrackResult, image: np.ndarray) -> RuntimeError | None:
    """Return what is wrong with a model's result; None if nothing is."""
    fault = ""
    if not np.isfinite(result.box).all() or min(result.box[2:]) <= 0:
        fault = (
            f"the box {tuple(map(float, result.box))}, expected finite numbers, w and h above 0"
        )
    elif not 0.0 <= result.score <= 1.0:
        fault = f"the score {float(result.score)}, expected a number in [0, 1]"
    elif result.mask is not None and result.mask.shape != image.shape[:2]:
        fault = f"a mask of shape {result.mask.shape}, expected the image's {image.shape[:2]}"
    remedy = "check the weights and the precision"
    return RuntimeError(f"the model returned {fault}: {remedy}") if fault else None
