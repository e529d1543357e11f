# SPDX-License-Identifier: Apache-2.0
"""What the tracker publishes: targets, statuses, and debug images while somebody subscribes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseWithCovariance
from rclpy.lifecycle import Node as LifecycleNode
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray

from tracker_interfaces.msg import TargetStatus, TargetStatusArray
from tracker_ros.drawing.overlay import (
    DrawnTarget,
    colour_map_score,
    draw_targets,
    draw_token_mask,
)
from tracker_ros.following.frames import FrameReport, TargetReport
from tracker_ros.following.target_state import VISIBLE, TargetState
from tracker_ros.nodes.annotations import annotations_message, annotations_type
from tracker_ros.nodes.messages import (
    detection_of,
    image_from_array,
    keep_last,
    stamp_message,
    stamp_nanoseconds,
)
from tracker_ros.nodes.monitoring import CameraDiagnostics, Window
from tracker_ros.nodes.parameters import Value
from tracker_ros.nodes.spatial.messages import pose_with_covariance
from tracker_ros.nodes.spatial.outputs import SpatialOutputs
from tracker_ros.spatial.target_locator import Measurement
from tracker_ros.tracker import TrackResult

try:
    from rclpy.event_handler import PublisherEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks

__all__ = ["DebugSettings", "Publishers"]

_SCORE_SIDE = 256


@dataclass(frozen=True)
class DebugSettings:
    """How debug images are made.

    Attributes:
        rate: Most images per second, 0 for no limit.
        scale: Size of ``debug/image`` relative to the camera's image.
        score_encoding: ``rgb8`` or ``32FC1``.
        token_mask: Whether ``debug/score`` as rgb8 shows the token mask of the result.
    """

    rate: float
    scale: float
    score_encoding: str
    token_mask: bool

    @staticmethod
    def of(values: Mapping[str, Value]) -> DebugSettings:
        """Return the settings among the node's parameters."""
        return DebugSettings(
            float(values["debug_rate"]),
            float(values["debug_scale"]),
            str(values["debug_score_encoding"]),
            values["debug_score_overlay"] == "token_mask",
        )


class Publishers:
    """The publishers, from configure to cleanup; used in the worker's thread.

    All but the statuses are lifecycle publishers, which publish only while the node is active.
    The statuses also tell of loading.

    Args:
        node: The node, or its part for one camera.
        model: Name of the model, the class of a target without a label.
        diagnostics: Is given the rate and the latency of the results.
        values: The node's parameters.

    Attributes:
        debug: How debug images are made; may be replaced.
        spatial: What is published about where targets are.

    Raises:
        ImportError: A parameter needs a package that is not installed.
    """

    def __init__(
        self,
        node: LifecycleNode,
        model: str,
        diagnostics: CameraDiagnostics,
        values: Mapping[str, Value],
    ) -> None:
        self._node = node
        self._model = model
        self._diagnostics = diagnostics
        self.debug = DebugSettings.of(values)
        self._intervals = Window(30)
        self._last_result = self._last_debug = float("-inf")
        self._warned_of_no_mask = False

        def publisher(kind: type, topic: str, latched: bool = False) -> Any:
            create = node.create_publisher if latched else node.create_lifecycle_publisher
            options = QoSOverridingOptions.with_default_policies()
            qos = keep_last(1, latched=latched)
            # The executor would check two events of each publisher whenever an image comes. They
            # only log a QoS that does not fit, and the subscriber logs that, too.
            events = PublisherEventCallbacks(use_default_callbacks=False)
            return create(kind, topic, qos, event_callbacks=events, qos_overriding_options=options)

        destroy = node.destroy_lifecycle_publisher
        self.spatial = SpatialOutputs(node, publisher, destroy, model, values)
        self._target = publisher(Detection2D, "target")
        self._targets = publisher(Detection2DArray, "targets")
        self._annotations = (
            publisher(annotations_type(), "target_annotations") if values["annotations"] else None
        )
        self._mask = publisher(Image, "target_mask")
        self._score = publisher(Image, "debug/score")
        self._image = publisher(Image, "debug/image")
        self._status = publisher(TargetStatus, "target_status", latched=True)
        self._statuses = publisher(TargetStatusArray, "target_statuses", latched=True)

    def close(self) -> None:
        """Destroy the publishers."""
        managed = (self._target, self._targets, self._mask, self._score, self._image)
        for publisher in (*managed, *filter(None, [self._annotations])):
            self._node.destroy_lifecycle_publisher(publisher)
        for latched in (self._status, self._statuses):
            self._node.destroy_publisher(latched)
        self.spatial.close()

    def wants_image(self) -> bool:
        """Whether somebody subscribes to ``debug/image`` and the next one is due."""
        return self._image.get_subscription_count() > 0 and self._debug_is_due()

    def publish(self, report: FrameReport[Any]) -> None:
        """Publish a report: boxes first, then where targets are, statuses, at last pictures."""
        if not self._node.context.ok():
            return
        self.spatial.forget(report.gone)
        clock, latency = self._node.get_clock(), 0.0
        if report.frame is None:
            self._publish_statuses(Header(stamp=clock.now().to_msg()), report, latency)
            return
        stamp = stamp_message(report.frame.stamp_ns)
        header = Header(stamp=stamp, frame_id=report.frame.frame_id)
        if any(target.result for target in report.targets):
            # Boxes wait for what depth says of their targets, and for nothing else.
            self.spatial.inputs.update()
            by_depth = self.spatial.inputs.has_depth
            measured = self.spatial.measure(report) if by_depth else None
            self._publish_targets(header, report, measured or {})
            latency = (clock.now().nanoseconds - stamp_nanoseconds(header)) / 1e9
            now = time.monotonic()
            self._intervals.add(now - self._last_result)
            self._last_result = now
            self._diagnostics.output.tick()
            self._diagnostics.latency.add(latency)
            self.spatial.publish(header, report, measured)
        self._publish_statuses(header, report, latency)
        self.spatial.keep_up(report.frame.stamp_ns)
        if self._annotations is not None and self._annotations.get_subscription_count() > 0:
            self._annotations.publish(annotations_message(header, report.targets))
        self._publish_mask(header, report.first)
        if report.image is not None:
            self._publish_debug(header, report.image, report)

    def _publish_targets(
        self, header: Header, report: FrameReport[Any], measured: Mapping[str, Measurement]
    ) -> None:
        """Publish the boxes of the visible targets."""
        boxes = {
            target.target_id: detection_of(
                header,
                target.result.box,
                target.target_id,
                target.label or self._model,
                target.score,
                _pose_by_depth(measured.get(target.target_id)),
            )
            for target in report.targets
            if target.result is not None and target.state in VISIBLE
        }
        first = report.first
        if first.target_id in boxes:
            self._target.publish(boxes[first.target_id])
        if self._targets.get_subscription_count() > 0:
            self._targets.publish(Detection2DArray(header=header, detections=list(boxes.values())))

    def _publish_mask(self, header: Header, first: TargetReport) -> None:
        """Publish the mask of the first target if it is visible and somebody subscribes."""
        mask = first.result.mask if first.result is not None and first.state in VISIBLE else None
        if mask is not None and self._mask.get_subscription_count() > 0:
            self._mask.publish(image_from_array(mask.astype(np.uint8) * 255, header))

    def _publish_statuses(self, header: Header, report: FrameReport[Any], latency: float) -> None:
        """Publish the status of the first target, and those of all with those that ended."""
        counts = {
            f"frames_{fate}": int(getattr(report.counts, fate))
            for fate in ("received", "tracked", "dropped", "rejected", "idle")
        }

        def status_of(target: TargetReport) -> TargetStatus:
            tracked = target.result is not None
            return TargetStatus(
                header=header,
                state=int(target.state),
                target_id=target.target_id,
                label=target.label,
                score=float(target.score),
                doubt=int(target.doubt),
                seconds_since_seen=float(target.seconds_since_seen),
                latency=float(latency) if tracked else 0.0,
                processing_time=float(report.processing_time) if tracked else 0.0,
                **counts,
            )

        # Without a target there is one report, which says so.
        statuses = [status_of(target) for target in report.targets]
        self._status.publish(statuses[0])
        followed = [status for status in statuses if status.target_id]
        ended = [status_of(TargetReport(TargetState.IDLE, gone)) for gone in report.gone]
        self._statuses.publish(
            TargetStatusArray(header=header, **counts, statuses=followed + ended)
        )

    def _debug_is_due(self) -> bool:
        rate = self.debug.rate
        return rate <= 0 or time.monotonic() - self._last_debug >= 0.95 / rate

    def _publish_debug(self, header: Header, image: np.ndarray, report: FrameReport[Any]) -> None:
        """Publish the debug images that somebody subscribes to, if they are due."""
        wants_image = self._image.get_subscription_count() > 0
        wants_score = self._score.get_subscription_count() > 0
        if not (wants_image or wants_score) or not self._debug_is_due():
            return
        self._last_debug = time.monotonic()
        result = report.first.result
        if wants_score and result is not None and result.score_map is not None:
            self._score.publish(image_from_array(self._score_picture(result), header))
        if wants_image:
            interval = self._intervals.quantile(0.5)
            drawn = draw_targets(
                image,
                [DrawnTarget(t.result, t.target_id, t.label, t.state) for t in report.targets],
                rate_hz=1.0 / interval if interval > 0 else 0.0,
                scale=self.debug.scale,
            )
            self._image.publish(image_from_array(drawn, header))

    def _score_picture(self, result: TrackResult) -> np.ndarray:
        """Return the score map itself, or in colours with the token mask if that is wanted."""
        assert result.score_map is not None
        if self.debug.score_encoding == "32FC1":
            return result.score_map.astype(np.float32, copy=False)
        side = _SCORE_SIDE
        picture = colour_map_score(result.score_map, (side, side))
        if self.debug.token_mask and result.token_mask is not None:
            return draw_token_mask(picture, result.token_mask, (0.0, 0.0, side, side))
        if self.debug.token_mask and not self._warned_of_no_mask:
            self._warned_of_no_mask = True
            self._node.get_logger().warning(
                f"debug_score_overlay is 'token_mask', but {self._model} has none with this back "
                "end: nothing is drawn; use a GRM model or an OSTrack model with candidate "
                "elimination (*_ce), with backend torch"
            )
        return picture


def _pose_by_depth(measured: Measurement | None) -> PoseWithCovariance | None:
    """Return the pose of a target in the camera's frame if its depth was measured."""
    if measured is None or measured.distance is None or not measured.distance.by_depth:
        return None
    assert measured.position is not None and measured.covariance is not None
    return pose_with_covariance(measured.position, measured.covariance)
