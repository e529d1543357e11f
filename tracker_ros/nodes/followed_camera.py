# SPDX-License-Identifier: Apache-2.0
"""One camera, from configure to cleanup: its buffered images, its targets, its publishers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rclpy.lifecycle import Node as LifecycleNode
from sensor_msgs.msg import CompressedImage, Image

from tracker_ros.following.decode_ahead import DecodeAhead
from tracker_ros.following.detections import Detection
from tracker_ros.following.frames import (
    FaultSource,
    Frame,
    FrameBuffer,
    FrameReport,
    TargetReport,
)
from tracker_ros.following.live_follower import LiveFollower
from tracker_ros.following.redetection import RedetectionSettings
from tracker_ros.following.requests import Answer, Requests
from tracker_ros.following.selection import Outcome, SelectionCode
from tracker_ros.following.target_set import TargetSet
from tracker_ros.following.target_state import StateLimits, TargetState
from tracker_ros.following.worker import Worker
from tracker_ros.io.image_decoder import ImageDecoder
from tracker_ros.io.video_packets import PacketThread
from tracker_ros.nodes.messages import packet_from, rgb_from_image, stamp_nanoseconds
from tracker_ros.nodes.monitoring import CameraDiagnostics
from tracker_ros.nodes.parameters import Value
from tracker_ros.nodes.publishers import DebugSettings, Publishers
from tracker_ros.nodes.spatial.outputs import SpatialSettings
from tracker_ros.quoting import describe_error

__all__ = ["FollowedCamera", "WaitingFrame"]

WaitingFrame = tuple["FollowedCamera", Frame[Any]]


class FollowedCamera:
    """Takes the images of one camera, and lets the worker follow targets in them.

    The worker's thread owns the follower and the publishers: everything that changes them is
    posted to it as a job. The image callback only adds to the buffer and the mailbox.

    Args:
        node: The node, or its part for this camera.
        worker: Owns the model.
        model: Name of the model.
        ids: Numbers for targets.
        values: The node's parameters.
        diagnostics: Where to report.

    Attributes:
        follower: Follows the targets; used in the worker's thread only.
    """

    def __init__(
        self,
        node: LifecycleNode,
        worker: Worker[WaitingFrame],
        model: str,
        ids: Iterator[int],
        values: Mapping[str, Value],
        diagnostics: CameraDiagnostics,
    ) -> None:
        self._node = node
        self._worker = worker
        self._diagnostics = diagnostics
        self._closed = False
        self._packets: PacketThread | None = None
        self._buffer: FrameBuffer[Any] = FrameBuffer(*_buffer_limits(values))
        self._ahead: DecodeAhead[Any] = DecodeAhead(
            functools.partial(rgb_from_image, decoder=_decoder(values)),
            is_wanted=lambda: self.follower.is_following,
            pass_on=self._put,
        )
        self._publishers = Publishers(node, model, diagnostics, values)
        self.follower: LiveFollower[Any] = LiveFollower(
            self._ahead.decode,
            TargetSet(_state_limits(values), ids, redetection=_redetection(values)),
            self._buffer,
            report=self._report,
            complain=self._complain,
            wants_image=self._publishers.wants_image,
            inform=lambda text: node.get_logger().warning(text),
            topic=node.resolve_topic_name("image"),
        )
        self.follower.explain = self._publishers.debug.token_mask
        self._requests = Requests()

    def subscribe(self) -> None:
        """Expect calibrations and depth from now on."""
        self._publishers.spatial.inputs.subscribe()

    def unsubscribe(self) -> None:
        """Expect nothing more, and forget what has arrived."""
        self._end_stream()
        self._ahead.clear()
        self._buffer.clear()
        self._publishers.spatial.inputs.unsubscribe()

    def add_image(self, message: Any) -> None:
        """Keep an image as it came and leave it to the worker; decode the packets of a stream."""
        if isinstance(message, (Image, CompressedImage)):
            header = message.header
            stamp_ns = stamp_nanoseconds(header)
            self._diagnostics.images.image_arrived(stamp_ns)
            self._add(stamp_ns, message, len(message.data), header.frame_id)
            return
        packet = packet_from(message)
        self._diagnostics.images.image_arrived(packet.stamp_ns)
        if self._packets is None:
            self._packets = PacketThread(
                lambda image: self._add(image.stamp_ns, image, image.byte_count, image.frame_id),
                self._diagnostics.images.report_fault,
            )
        self._packets.put(packet)

    def begin_next(self) -> None:
        """Decode the next image: the worker has taken the one before."""
        self._ahead.taken()

    def apply(self, values: Mapping[str, Value]) -> None:
        """Use changed parameters from the next frame on."""

        def change() -> None:
            self.follower.set_limits(_state_limits(values), _redetection(values))
            self._buffer.set_limits(*_buffer_limits(values))
            self._publishers.debug = DebugSettings.of(values)
            self._publishers.spatial.settings = SpatialSettings.of(values)
            self.follower.explain = self._publishers.debug.token_mask

        self._worker.post(change, name=f"settings {id(self)}")

    def note_detections(self, detections: Sequence[Detection]) -> None:
        """Look for lost targets among these from the next frame on."""
        self._worker.post(
            lambda: self.follower.note_detections(detections), name=f"detections {id(self)}"
        )

    def ask(self, job: Callable[[LiveFollower[Any], Answer], None], answer: Answer) -> None:
        """Run a job in the worker's thread that calls ``answer`` with an outcome, now or later.

        The outcome is BUSY if too many requests wait. It is INTERRUPTED if the job fails or, since
        the worker is stopping, cannot run.
        """
        answer_once = self._requests.accept(answer)
        if answer_once is None:
            return
        text = "the request was interrupted: see the node's log, ask again"
        interrupted = Outcome(SelectionCode.INTERRUPTED, text)

        def run() -> None:
            try:
                job(self.follower, answer_once)
            except BaseException as error:
                answer_once(interrupted)
                if not isinstance(error, Exception):
                    raise
                self.report_exception(error)

        if not self._worker.post(run):
            answer_once(interrupted)

    def report_exception(self, error: BaseException) -> None:
        """Count and log an exception that a job or a frame did not catch."""
        if self._closed or not self._node.context.ok():
            return
        self.follower.counts.faults += 1
        text = f"fault in the worker, which continues: {describe_error(error)}"
        self._diagnostics.tracking.report_fault(text)

    def fail(self, reason: str) -> None:
        """Refuse all requests, and tell that nothing is followed: the worker is given up."""
        self._closed = True
        self._requests.end(Outcome(SelectionCode.MODEL_FAILED, reason))
        if (last := self._diagnostics.report) is not None:
            gone = tuple(target.target_id for target in last.targets if target.target_id)
            idle = (TargetReport(TargetState.IDLE),)
            ended = replace(last, frame=None, image=None, targets=idle, gone=gone)
            self._diagnostics.report = ended
            self._publishers.publish(ended)

    def end_requests(self) -> None:
        """Answer all requests, since the model is about to be unloaded."""
        self._end_stream()
        self._ahead.close()
        self._requests.end(Outcome(SelectionCode.INTERRUPTED, "the model is being unloaded"))

    def close(self) -> None:
        """Destroy the publishers."""
        self._closed = True
        self._publishers.close()

    def _add(self, stamp_ns: int, payload: Any, byte_count: int, frame_id: str) -> None:
        frame = self._buffer.add(stamp_ns, payload, byte_count, frame_id)
        # An image that comes after a later one is kept for replays, but no longer news.
        if self._buffer.is_newest(frame):
            (self._put if isinstance(payload, Image) else self._ahead.put)(frame)
        self._diagnostics.images.check_stamps(self._buffer.clock)

    def _put(self, frame: Frame[Any]) -> None:
        self._worker.put((self, frame), slot=self)

    def _end_stream(self) -> None:
        """End the decoding of packets; a new stream begins with its key frame."""
        if self._packets is not None:
            self._packets.close()
            self._packets = None

    def _report(self, report: FrameReport[Any]) -> None:
        if not self._closed:
            self._diagnostics.report = report
            self._publishers.publish(report)

    def _complain(self, source: FaultSource, text: str, error: Exception | None) -> None:
        """Report a fault of the images or of the model, or its end."""
        images, tracking = self._diagnostics.images, self._diagnostics.tracking
        (images if source is FaultSource.IMAGE else tracking).report_fault(text)


def _state_limits(values: Mapping[str, Value]) -> StateLimits:
    found, lost, after = (values[name] for name in ("score_found", "score_lost", "lost_after"))
    return StateLimits(float(found), float(lost), float(after))


def _redetection(values: Mapping[str, Value]) -> RedetectionSettings | None:
    if not values["redetect"]:
        return None
    return RedetectionSettings(interval_s=float(values["redetect_interval"]))


def _decoder(values: Mapping[str, Value]) -> ImageDecoder:
    # A tracker reads a small part of an image; putting all of it into order would cost more.
    return ImageDecoder(
        str(values["mono16_range"]), str(values["encoding_override"]), reversed_views=True
    )


def _buffer_limits(values: Mapping[str, Value]) -> tuple[float, int]:
    """Return the bounds of the buffer: seconds and bytes."""
    return float(values["buffer_seconds"]), round(float(values["buffer_megabytes"]) * 1e6)
