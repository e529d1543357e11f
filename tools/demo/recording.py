# SPDX-License-Identifier: Apache-2.0
"""Judge what was recorded from the topics; no ROS in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tracker_ros.following.target_state import TargetState
from tracker_ros.geometry import Box, iou

MIN_MEAN_IOU = 0.4
MIN_TRACKED_SHARE = 0.9
FOUND_WITHIN_S = 2.0
OLDEST = 5
"""Maximum age, in frames, of an answer that counts for a frame that was left out."""


@dataclass(frozen=True)
class Counters:
    """The frame counters of one status message."""

    received: int = 0
    tracked: int = 0
    dropped: int = 0
    rejected: int = 0


@dataclass
class FrameRecord:
    """What the topics said about one image."""

    index: int  # number of the frame in the stretch shown, counted from 0
    stamp_ns: int  # the image's stamp
    # from `target_status`; None if no status described this image
    state: TargetState | None = None
    score: float = 0.0  # from `target_status`
    latency_s: float = 0.0  # from `target_status`: image stamp to publication
    target_id: str = ""  # from `target_status`
    box: Box | None = None  # from `target`: x, y, w, h in pixels; None where it was silent
    # from `debug/score`: (h, w, 3) uint8 RGB, None where there was none
    score_image: np.ndarray | None = None
    heard_s: float = 0.0  # when the status arrived here, seconds on a steady clock


@dataclass
class Recording:
    """Everything received from the selection to the end of the stretch."""

    # images in the order of their stamps; the first frame, which the camera stand-in holds until a
    # target is selected, occurs several times
    frames: list[FrameRecord] = field(default_factory=list)
    # state changes as (stamp in ns, state)
    changes: list[tuple[int, TargetState]] = field(default_factory=list)
    at_start: Counters = Counters()  # counters of the last status before the target was selected
    at_end: Counters = Counters()  # counters of the last status

    def answered(self) -> list[FrameRecord]:
        """Return the frames that were tracked, from the selection on."""
        return [
            frame
            for frame in self.frames
            if frame.state not in (None, TargetState.IDLE, TargetState.LOADING)
        ]


def judge(recording: Recording, check_boxes: Mapping[int, Box], title: str) -> dict[str, Any]:
    """Return the contents of `out/demo.json`.

    Args:
        recording: Messages of the topics.
        check_boxes: True boxes by frame number.
        title: Description of the footage.

    Returns:
        Plain data for JSON. `passed` is the verdict, `reason` says why it is False.
    """
    answered = recording.answered()
    tracked = sum(frame.state is TargetState.TRACKING for frame in answered)
    checks = []
    for index, box in sorted(check_boxes.items()):
        newest = newest_answer(answered, index)
        found = None if newest is None else newest.box
        checks.append(
            {
                "frame": index,
                "box": [float(value) for value in box],
                "tracked": None if found is None else [round(value, 1) for value in found],
                "iou": 0.0 if found is None else round(iou(found, box), 3),
            }
        )
    mean_iou = float(np.mean([check["iou"] for check in checks])) if checks else 0.0
    share = tracked / len(answered) if answered else 0.0
    start, end = recording.at_start, recording.at_end
    reason = _reason(len(answered), share, mean_iou)
    first_ns = recording.frames[0].stamp_ns if recording.frames else 0
    return {
        "footage": title,
        "passed": not reason,
        "reason": reason,
        "frames": {
            "in": end.received - start.received,
            "given_to_tracker": len(answered),
            "tracked": tracked,
            "dropped": end.dropped - start.dropped,
            "rejected": end.rejected - start.rejected,
        },
        "tracked_share": round(share, 4),
        "latency": latency_milliseconds([frame.latency_s for frame in answered]),
        "rate_hz": _rate(answered),
        "state_changes": [
            {"time_s": round((stamp - first_ns) / 1e9, 2), "state": state.name}
            for stamp, state in recording.changes
        ],
        "mean_iou": round(mean_iou, 3),
        "check_boxes": checks,
    }


def judge_return(
    recording: Recording,
    check_boxes: Mapping[int, Box],
    title: str,
    away: tuple[int, int],
    rate_hz: float,
) -> dict[str, Any]:
    """Return the contents of `out/demo.json` for a target that leaves and comes back elsewhere.

    Args:
        recording: As for `judge`.
        check_boxes: As for `judge`.
        title: As for `judge`.
        away: The first frame without the target, and the first in which it is back.
        rate_hz: Frames per second of the footage.

    Returns:
        As for `judge`, and `found_after_s`, the seconds from its return until it was found.
    """
    verdict = judge(recording, check_boxes, title)
    gone, back = away
    answered = recording.answered()
    lost = any(f.state is TargetState.LOST for f in answered if gone <= f.index < back)
    again = [f for f in answered if f.index >= back and f.state is TargetState.TRACKING]
    ids = {frame.target_id for frame in answered}
    after = None if not again else (again[0].index - back) / rate_hz
    boxes = [check["iou"] for check in verdict["check_boxes"] if check["frame"] >= back]
    reason = ""
    if not lost:
        reason = "the target left the image and was never reported as lost"
    elif after is None or after > FOUND_WITHIN_S:
        reason = f"it was not found again within {FOUND_WITHIN_S:g} s"
    elif boxes and float(np.mean(boxes)) < MIN_MEAN_IOU:
        reason = f"what was found is not the target: overlap {float(np.mean(boxes)):.2f}"
    elif len(ids) != 1:
        reason = f"its id has changed: {sorted(ids)}"
    return verdict | {"passed": not reason, "reason": reason, "found_after_s": after}


def newest_answer(answered: Sequence[FrameRecord], index: int) -> FrameRecord | None:
    """Return the newest answer at a frame: to this frame, or to one at most `OLDEST` before it.

    A frame that the tracker left out because it was busy has no answer of its own.
    """
    known = [frame for frame in answered if index - OLDEST <= frame.index <= index]
    return max(known, key=lambda frame: (frame.index, frame.stamp_ns), default=None)


def latency_milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Return the percentiles p50, p95 and p99 in milliseconds; empty without values."""
    if len(seconds) == 0:
        return {}
    values = np.percentile(np.asarray(seconds) * 1e3, [50, 95, 99])
    return {
        name: round(float(v), 1) for name, v in zip(("p50", "p95", "p99"), values, strict=True)
    }


def _rate(answered: Sequence[FrameRecord]) -> float | None:
    """Return the answers per second over the whole recording."""
    if len(answered) < 2 or answered[-1].heard_s <= answered[0].heard_s:
        return None
    return round((len(answered) - 1) / (answered[-1].heard_s - answered[0].heard_s), 2)


def _reason(answered: int, share: float, mean_iou: float) -> str:
    """Return why the target was not followed; empty if it was."""
    if answered == 0:
        return "the tracker answered no frame"
    if share < MIN_TRACKED_SHARE:
        return (
            f"only {share:.0%} of the frames given to the tracker were tracked, expected at "
            f"least {MIN_TRACKED_SHARE:.0%}"
        )
    if mean_iou < MIN_MEAN_IOU:
        return (
            f"mean overlap with the check boxes is {mean_iou:.2f}, expected at least "
            f"{MIN_MEAN_IOU}: the target was not followed"
        )
    return ""
