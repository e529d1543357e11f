# SPDX-License-Identifier: Apache-2.0
"""What a run over a bag has found, as data for JSON."""

from __future__ import annotations

from typing import Any

from tracker_ros.bags.follow import BagReport
from tracker_ros.following.frames import TargetReport
from tracker_ros.following.target_state import VISIBLE


class BagResults:
    """Collects the reports of a run; `frames` has an entry for each image that was handled."""

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []
        self._changes: list[dict[str, Any]] = []
        self._states: dict[str, str] = {}
        self._first_s: float | None = None
        self._seconds = 0.0
        self._number = 0
        self._counts: dict[str, int] = {}

    def add(self, given: BagReport) -> None:
        """Add a report."""
        report, frame = given.report, given.report.frame
        for name in report.gone:
            self._states.pop(name, None)
        self._counts = {name: int(count) for name, count in vars(report.counts).items()}
        if frame is None:
            return
        if self._first_s is None:
            self._first_s = frame.time_s
        time_s = round(frame.time_s - self._first_s, 6)
        self._seconds += report.processing_time
        if frame.number == self._number:  # a target that has caught up with the newest image
            self.frames.pop()
        self._number = frame.number
        targets = [target for target in report.targets if target.target_id]
        for target in targets:
            state = target.state.name
            if self._states.get(target.target_id) != state:
                self._states[target.target_id] = state
                change = {"time_s": time_s, "target_id": target.target_id, "state": state}
                self._changes.append({"frame": len(self.frames), **change})
        self.frames.append(
            {
                "frame": len(self.frames),
                "image": frame.number - 1,
                "stamp_ns": frame.stamp_ns,
                "time_s": time_s,
                "seconds": round(report.processing_time, 6),
                "targets": [_entry(target) for target in targets],
            }
        )

    def summary(self, ended_by: str = "") -> dict[str, Any]:
        """Return all as data; `ended_by` says what broke the run off, if anything did."""
        tracked = [frame for frame in self.frames if _tracked(frame)]
        busy = [frame for frame in self.frames if frame["seconds"]]
        return {
            "complete": not ended_by,
            **({"ended_by": ended_by} if ended_by else {}),
            "frames": len(self.frames),
            "frames_tracked": len(tracked),
            "frames_per_second": round(len(busy) / self._seconds, 2) if self._seconds else None,
            "counts": self._counts,
            "state_changes": self._changes,
            "results": self.frames,
        }


def _tracked(frame: dict[str, Any]) -> bool:
    targets = frame["targets"]
    return bool(targets) and all(target["state"] == "TRACKING" for target in targets)


def _entry(target: TargetReport) -> dict[str, Any]:
    """Return a target in a frame; a box only while it can be seen, as the node publishes it."""
    entry: dict[str, Any] = {"target_id": target.target_id, "state": target.state.name}
    if target.result is not None:
        if target.state in VISIBLE:
            entry["box"] = [round(float(value), 2) for value in target.result.box]
        entry["score"] = round(float(target.score), 4)
        if target.doubt:
            entry["doubt"] = target.doubt.name
    return entry
