# SPDX-License-Identifier: Apache-2.0
"""What the tracker publishes: targets, status, and debug images for those who listen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from rclpy.lifecycle import Node as LifecycleNode
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from tracker_interfaces.msg import TargetStatus
from tracker_ros.drawing.overlay import (
    DrawnTarget,
    colour_map_score,
    draw_targets,
    draw_token_mask,
)
from tracker_ros.following.frames import FrameReport, TargetReport
from tracker_ros.following.target_state import TargetState
from tracker_ros.nodes.messages import (
    bounding_box_of,
    image_from_array,
    keep_last,
    stamp_nanoseconds,
)
from tracker_ros.nodes.monitoring import RateMeter
from tracker_ros.nodes.parameters import Value
from tracker_ros.tracker import TrackResult

__all__ = ["DebugSettings", "Outputs", "detection_of"]

_SHOWN = (TargetState.TRACKING, TargetState.UNCERTAIN)
_SCORE_SIDE = 256


@dataclass(frozen=True)
class DebugSettings:
    """How debug images are made.

    Attributes:
        rate: Most images per second, 0 for no limit.
        scale: Size of ``debug/image`` relative to the camera's.
        score_encoding: ``rgb8`` or ``32FC1``.
        token_mask: Whether ``debug/score`` as rgb8 shows the token mask of the result.
    """

    rate: float
    scale: float
    score_encoding: str
    token_mask: bool

    @staticmethod
    def of(values: Mapping[str, Value]) -> DebugSettings:
        """The settings among the node's parameters."""
        return DebugSettings(
            float(values["debug_rate"]),
            float(values["debug_scale"]),
            str(values["debug_score_encoding"]),
            values["debug_score_overlay"] == "token_mask",
        )


def detection_of(
    header: Header, result: TrackResult, target_id: str, class_id: str, score: float
) -> Detection2D:
    """Pack a tracked box with its one hypothesis."""
    message = Detection2D(header=header, id=target_id, bbox=bounding_box_of(result.box))
    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id = class_id
    hypothesis.hypothesis.score = float(score)
    message.results.append(hypothesis)
    return message


def _header_of(report: FrameReport[Image]) -> Header | None:
    """Return the header of a report's image; None for a change without one."""
    return None if report.frame is None else report.frame.payload.header


class Outputs:
    """The publishers. Made on configure, closed on cleanup; called from the worker's thread.

    All but ``target_status`` are lifecycle publishers and speak only while the node is active.
    ``target_status`` also tells of loading, so it always speaks.

    Args:
        node: The node.
        model: Name of the model, the class of a target without a label.
        settings: How debug images are made; replaced in the worker's thread only.
        latency_seen: Called with each latency, seconds.
    """

    def __init__(
        self,
        node: LifecycleNode,
        model: str,
        settings: DebugSettings,
        latency_seen: Callable[[float], None],
    ) -> None:
        self._node = node
        self._model = model
        self._latency_seen = latency_seen
        self._latency = 0.0
        self._last_debug = 0.0
        self._warned_of_no_mask = False
        self.settings = settings
        self.rate = RateMeter()
        reliable = keep_last(1)
        managed = node.create_lifecycle_publisher
        options = QoSOverridingOptions.with_default_policies
        self._target = managed(Detection2D, "target", reliable, qos_overriding_options=options())
        self._targets = managed(
            Detection2DArray, "targets", reliable, qos_overriding_options=options()
        )
        self._mask = managed(Image, "target_mask", reliable, qos_overriding_options=options())
        self._score = managed(Image, "debug/score", reliable, qos_overriding_options=options())
        self._image = managed(Image, "debug/image", reliable, qos_overriding_options=options())
        # One is kept: a late subscriber is told how things are, not how they were.
        self._status = node.create_publisher(
            TargetStatus,
            "target_status",
            keep_last(1, latched=True),
            qos_overriding_options=options(),
        )

    def close(self) -> None:
        """Destroy the publishers."""
        for publisher in (
            self._target,
            self._targets,
            self._mask,
            self._score,
            self._image,
        ):
            self._node.destroy_lifecycle_publisher(publisher)
        self._node.destroy_publisher(self._status)

    def publish(self, report: FrameReport[Image]) -> None:
        """Publish one report: the targets first, then their status, then pictures."""
        if not self._node.context.ok():
            return
        header = _header_of(report)
        if header is not None and any(target.result for target in report.targets):
            self.rate.tick()
            self._publish_targets(header, report)
            self._latency = self._age_of(header)
            self._latency_seen(self._latency)
        gone = (TargetReport(TargetState.IDLE, target_id) for target_id in report.gone)
        # The first target comes last: its status is the one that stays for late subscribers.
        for target in (*gone, *reversed(report.targets)):
            self._status.publish(self._status_of(report, target))
        if header is not None and report.image is not None:
            self._publish_debug(header, report.image, report)

    def _publish_targets(self, header: Header, report: FrameReport[Image]) -> None:
        """Publish the boxes of the targets that can be seen, and the first one's mask."""
        seen = {
            target.target_id: detection_of(
                header, target.result, target.target_id, target.label or self._model, target.score
            )
            for target in report.targets
            if target.result is not None and target.state in _SHOWN
        }
        first = report.first
        if first.target_id in seen and first.result is not None:
            self._target.publish(seen[first.target_id])
            self._publish_mask(header, first.result)
        if self._targets.get_subscription_count() > 0:
            self._targets.publish(Detection2DArray(header=header, detections=list(seen.values())))

    def _publish_mask(self, header: Header, result: TrackResult) -> None:
        """Publish the target's pixels, 255 on it and 0 elsewhere, if somebody listens."""
        if result.mask is not None and self._mask.get_subscription_count() > 0:
            self._mask.publish(image_from_array(result.mask.astype(np.uint8) * 255, header))

    def wants_image(self) -> bool:
        """Whether somebody listens to ``debug/image`` and it is time for one."""
        return self._image.get_subscription_count() > 0 and self._is_time()

    def _age_of(self, header: Header) -> float:
        """Seconds from a header's stamp until now, on the node's clock."""
        return (self._node.get_clock().now().nanoseconds - stamp_nanoseconds(header)) / 1e9

    def _status_of(self, report: FrameReport[Image], target: TargetReport) -> TargetStatus:
        header = _header_of(report)
        if header is None:
            header = Header(stamp=self._node.get_clock().now().to_msg())
        tracked = target.result is not None
        return TargetStatus(
            header=header,
            state=int(target.state),
            target_id=target.target_id,
            label=target.label,
            score=float(target.score),
            seconds_since_seen=float(target.seconds_since_seen),
            latency=self._latency if tracked else 0.0,
            processing_time=float(report.processing_time) if tracked else 0.0,
            frames_received=report.counts.received,
            frames_tracked=report.counts.tracked,
            frames_dropped=report.counts.dropped,
            frames_rejected=report.counts.rejected,
            frames_idle=report.counts.idle,
        )

    def _is_time(self) -> bool:
        rate = self.settings.rate
        return rate <= 0 or time.monotonic() - self._last_debug >= 0.95 / rate

    def _score_picture(self, result: TrackResult) -> np.ndarray:
        """The response map as it is, or in colours and with what else is wanted on it."""
        assert result.score_map is not None
        if self.settings.score_encoding == "32FC1":
            return result.score_map.astype(np.float32, copy=False)
        side = _SCORE_SIDE
        picture = colour_map_score(result.score_map, (side, side))
        if self.settings.token_mask and result.token_mask is not None:
            return draw_token_mask(picture, result.token_mask, (0.0, 0.0, side, side))
        if self.settings.token_mask and not self._warned_of_no_mask:
            self._warned_of_no_mask = True
            self._node.get_logger().warning(
                f"debug_score_overlay is 'token_mask', but {self._model} has none with this back "
                "end: nothing is drawn; use a GRM model or an OSTrack model with candidate "
                "elimination (*_ce), with backend torch"
            )
        return picture

    def _publish_debug(
        self, header: Header, image: np.ndarray, report: FrameReport[Image]
    ) -> None:
        """Make the pictures that somebody listens to, if it is time for one."""
        wants_image = self._image.get_subscription_count() > 0
        wants_score = self._score.get_subscription_count() > 0
        if not (wants_image or wants_score) or not self._is_time():
            return
        self._last_debug = time.monotonic()
        result = report.first.result
        if wants_score and result is not None and result.score_map is not None:
            picture = self._score_picture(result)
            self._score.publish(image_from_array(picture, header))
        if wants_image:
            drawn = draw_targets(
                image,
                [DrawnTarget(t.result, t.target_id, t.label, t.state) for t in report.targets],
                rate_hz=self.rate.hertz,
                scale=self.settings.scale,
            )
            self._image.publish(image_from_array(drawn, header))
