# SPDX-License-Identifier: Apache-2.0
"""The node's topics as the contents of messages, from the reports of a run over a bag.

The contents are nested dictionaries (`tracker_ros.io.message_types`).
test/ros/test_bag_run.py compares them with what the node publishes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tracker_ros.bags.follow import BagReport
from tracker_ros.drawing.annotations import image_annotations
from tracker_ros.following.frames import TargetReport
from tracker_ros.following.target_state import VISIBLE, TargetState
from tracker_ros.io.message_types import Content
from tracker_ros.spatial.target_locator import Measurement, TargetLocator

TOPICS: Mapping[str, str] = {
    "target": "vision_msgs/msg/Detection2D",
    "targets": "vision_msgs/msg/Detection2DArray",
    "target_status": "tracker_interfaces/msg/TargetStatus",
    "target_statuses": "tracker_interfaces/msg/TargetStatusArray",
    "target_annotations": "foxglove_msgs/msg/ImageAnnotations",
    "target_direction": "tracker_interfaces/msg/TargetDirection",
    "target_pose": "geometry_msgs/msg/PoseWithCovarianceStamped",
}
"""What is written, and its types."""

_UNKNOWN_ANGLE = math.pi**2 / 3
_FATES = ("received", "tracked", "dropped", "rejected", "idle")


class BagOutputs:
    """Makes the contents of messages.

    The model's name is the class of a target without a label. `target_size_m` is what the longer
    side of a target's box shows, metres; 0 if unknown.
    """

    def __init__(self, model: str, target_size_m: float = 0.0) -> None:
        self._model = model
        self._size_m = target_size_m
        self._locators: dict[str, TargetLocator] = {}

    def contents(self, given: BagReport) -> Iterator[tuple[str, Content]]:
        """Yield topic and content of each message that a node would publish for a report."""
        report, frame = given.report, given.report.frame
        for name in report.gone:
            self._locators.pop(name, None)
        if frame is None:
            yield from self._statuses(given, _header(given.time_ns, ""))
            return
        header = _header(frame.stamp_ns, frame.frame_id)
        if any(target.result is not None for target in report.targets):
            measured = self._measure(given)
            yield from self._boxes(given, header, measured)
            yield from self._places(given, header, measured)
        yield from self._statuses(given, header)

    def _measure(self, given: BagReport) -> dict[str, Measurement]:
        """Return where the visible targets are, by their ids."""
        frame = given.report.frame
        if frame is None or given.camera is None:
            return {}
        found = {}
        for target in given.report.targets:
            if target.result is not None and target.state in VISIBLE:
                locator = self._locators.setdefault(target.target_id, TargetLocator())
                found[target.target_id] = locator.measure(
                    frame.time_s, target.result, given.camera, given.depth, self._size_m
                )
        return found

    def _boxes(
        self, given: BagReport, header: Content, measured: Mapping[str, Measurement]
    ) -> Iterator[tuple[str, Content]]:
        report, frame = given.report, given.report.frame
        assert frame is not None
        boxes = {
            target.target_id: self._detection(header, target, measured.get(target.target_id))
            for target in report.targets
            if target.result is not None and target.state in VISIBLE
        }
        if report.first.target_id in boxes:
            yield "target", boxes[report.first.target_id]
        yield "targets", {"header": header, "detections": list(boxes.values())}
        yield "target_annotations", image_annotations(frame.stamp_ns, report.targets)

    def _detection(
        self, header: Content, target: TargetReport, measured: Measurement | None
    ) -> Content:
        assert target.result is not None
        x, y, w, h = (float(value) for value in target.result.box)
        hypothesis: dict[str, Any] = {
            "hypothesis": {
                "class_id": target.label or self._model,
                "score": float(target.score),
            }
        }
        distance = None if measured is None else measured.distance
        if measured is not None and distance is not None and distance.by_depth:
            hypothesis["pose"] = _pose(measured)
        return {
            "header": header,
            "id": target.target_id,
            "bbox": {
                "center": {"position": {"x": x + w / 2, "y": y + h / 2}},
                "size_x": w,
                "size_y": h,
            },
            "results": [hypothesis],
        }

    def _places(
        self, given: BagReport, header: Content, measured: Mapping[str, Measurement]
    ) -> Iterator[tuple[str, Content]]:
        """Yield direction and pose of the first target."""
        first, frame = given.report.first, given.report.frame
        seen = measured.get(first.target_id)
        if seen is None or seen.direction is None or frame is None:
            return
        direction = seen.direction
        x, y, z = direction.bearing.tolist()
        content = {
            "header": header,
            "target_id": first.target_id,
            "label": first.label,
            "bearing": {"x": x, "y": y, "z": z},
            "azimuth": direction.angles.azimuth,
            "elevation": direction.angles.elevation,
            "azimuth_rate": direction.rates.azimuth,
            "elevation_rate": direction.rates.elevation,
            "angle_variance": direction.variance,
            "angular_width": direction.width,
            "angular_height": direction.height,
            "distance": math.nan,
            "distance_rate": math.nan,
            "distance_variance": math.nan,
        }
        moving = self._locators[first.target_id].range_at(frame.time_s)
        if seen.distance is not None and moving is not None:
            content["distance"] = seen.distance.metres
            content["distance_variance"] = seen.distance.variance
            content["distance_rate"] = float(moving.velocity[0])
        yield "target_direction", content
        if seen.position is not None:
            yield "target_pose", {"header": header, "pose": _pose(seen)}

    def _statuses(self, given: BagReport, header: Content) -> Iterator[tuple[str, Content]]:
        report = given.report
        counts = {f"frames_{fate}": int(getattr(report.counts, fate)) for fate in _FATES}

        def status_of(target: TargetReport) -> Content:
            tracked = target.result is not None
            return {
                "header": header,
                "state": int(target.state),
                "target_id": target.target_id,
                "label": target.label,
                "score": float(target.score),
                "doubt": int(target.doubt),
                "seconds_since_seen": float(target.seconds_since_seen),
                "latency": float(given.latency_s) if tracked else 0.0,
                "processing_time": float(report.processing_time) if tracked else 0.0,
                **counts,
            }

        yield "target_status", status_of(report.first)
        ended = [TargetReport(TargetState.IDLE, target_id) for target_id in report.gone]
        followed = [target for target in report.targets if target.target_id]
        statuses = [status_of(target) for target in (*followed, *ended)]
        yield "target_statuses", {"header": header, **counts, "statuses": statuses}


def _header(stamp_ns: int, frame_id: str) -> Content:
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    return {"stamp": {"sec": sec, "nanosec": nanosec}, "frame_id": frame_id}


def _pose(seen: Measurement) -> Content:
    """Return a pose with a position alone: nothing is known of the orientation."""
    assert seen.position is not None and seen.covariance is not None
    x, y, z = seen.position.tolist()
    spread = np.zeros((6, 6))
    spread[:3, :3] = seen.covariance
    spread[3:, 3:] = _UNKNOWN_ANGLE * np.eye(3)
    pose = {"position": {"x": x, "y": y, "z": z}, "orientation": {"w": 1.0}}
    return {"pose": pose, "covariance": spread.ravel()}
