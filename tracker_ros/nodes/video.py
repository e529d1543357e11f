# SPDX-License-Identifier: Apache-2.0
"""The ``video`` node: plays a source in place of a camera, as ``image`` and ``camera_info``."""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.time import Time
from rclpy.timer import Timer
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from tracker_interfaces.msg import TargetStatus
from tracker_ros.io.sources import open_video
from tracker_ros.io.video_encoder import VideoEncoder
from tracker_ros.io.video_source import BadFrame, VideoSource
from tracker_ros.nodes.image_input import installed_kind, message_class
from tracker_ros.nodes.messages import (
    compressed_from_array,
    image_from_array,
    keep_last,
    packet_from_array,
)
from tracker_ros.nodes.node_main import NodeStartError, exit_program, run_node
from tracker_ros.nodes.parameters import VIDEO_PARAMETERS, ParameterTable, check_command_line

__all__ = ["VideoNode", "main"]


class VideoNode(Node):
    """Publishes the images of a source at its rate, then ends.

    Raises:
        NodeStartError: A parameter is refused or the source cannot be opened.
    """

    def __init__(self) -> None:
        super().__init__("video")
        self._table = ParameterTable(self, VIDEO_PARAMETERS, configured=lambda: True)
        self._source = self._open()
        self._rate = self._table.number("rate") or self._source.fps
        self._images = self._source.timed_frames()
        self._next: tuple[float, np.ndarray] | None = None
        self._holding = self._table.flag("wait_for_target")
        self._published = 0
        self._start: Time | None = None
        self._last_s = 0.0
        self._bad_frames = 0
        self._passed_s = 0.0  # in earlier rounds of a loop
        self._due_s = 0.0
        self._pack: Callable[[np.ndarray, Header], Any]
        kind, suffix, self._pack = self._choose_transport()
        images = kind, self.resolve_topic_name("image") + suffix
        self._image, self._info = (
            self.create_publisher(kind, topic, keep_last(5), qos_overriding_options=overriding)
            for kind, topic in (images, (CameraInfo, "camera_info"))
            for overriding in [QoSOverridingOptions.with_default_policies()]
        )
        if self._holding:
            qos = keep_last(1, latched=True)
            self.create_subscription(TargetStatus, "target_status", self._on_status, qos)
        self._timer = self._every(1.0 / self._rate, self._tick)
        known = f"{self._source.frame_count} images" if self._source.frame_count else "images"
        self.get_logger().info(
            f"{known} from {self._source.name} at {self._rate:g} Hz on "
            f"{self._image.topic_name}"
            + (", the first one until a target is tracked" if self._holding else "")
        )

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def _every(self, period_s: float, callback: Callable[[], None]) -> Timer:
        """Create a timer that does not depend on simulated time."""
        return self.create_timer(period_s, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _open(self) -> VideoSource:
        text = self._table.text("source")
        try:
            return open_video(
                text,
                fps=self._table.number("rate") or None,
                start=self._table.integer("start_frame"),
                count=self._table.integer("frames") or None,
                mono16_range=self._table.text("mono16_range"),
            )
        except (OSError, ValueError, ImportError) as error:
            raise NodeStartError(f"cannot play {text!r}: {error}") from error

    def _choose_transport(self) -> tuple[type, str, Callable[[np.ndarray, Header], Any]]:
        """Return type, suffix of the topic and packer of the images."""
        transport = self._table.text("transport")
        if transport == "raw":
            return Image, "", image_from_array
        if transport == "compressed":
            return CompressedImage, "/compressed", compressed_from_array
        try:
            encoder = VideoEncoder(self._rate)
            kind = message_class(installed_kind(transport))
        except ImportError as error:
            raise NodeStartError(f"transport {transport} cannot be used: {error}") from error
        return kind, f"/{transport}", functools.partial(packet_from_array, kind, encoder)

    def _on_status(self, message: TargetStatus) -> None:
        if self._holding and message.state == TargetStatus.TRACKING:
            self._holding = False
            self.get_logger().info(f"target {message.target_id} is tracked: playing")

    def _tick(self) -> None:
        """Publish the next image, and read the one after it to know when it is due."""
        waiting_for = self._table.integer("wait_for_subscribers")
        if self._published == 0 and self._image.get_subscription_count() < waiting_for:
            return
        if self._next is None and not self._read():
            self._end()
            return
        assert self._next is not None
        time_s, image = self._next
        header = Header(frame_id=self._table.text("frame_id"), stamp=self._stamp(time_s).to_msg())
        self._image.publish(self._pack(image, header))
        self._info.publish(self._camera_info(header, image.shape[1], image.shape[0]))
        self._published += 1
        if self._holding:
            return
        self._next = None
        if not self._source.live and self._read():
            self._wait(self._last_s - time_s)

    def _read(self) -> bool:
        """Read the next image, from the start again in a loop. Returns False at the end."""
        try:
            self._next = self._take()
            if self._next is None and self._table.flag("loop") and self._published:
                self._images = self._source.timed_frames()
                self._next = self._take()
                self._passed_s = self._last_s + 1.0 / self._rate
        except (OSError, ValueError, RuntimeError) as error:
            raise NodeStartError(
                f"cannot continue to play {self._source.name} after {self._published} images: "
                f"{error}"
            ) from error
        if self._next is None:
            return False
        time_s, image = self._next
        self._last_s = self._passed_s + time_s
        self._next = self._last_s, image
        return True

    def _take(self) -> tuple[float, np.ndarray] | None:
        """Return time and image of the next frame that can be read; None at the end."""
        for time_s, image in self._images:
            if not isinstance(image, BadFrame):
                return time_s, image
            self._bad_frames += 1
            self.get_logger().warning(f"frame left out: {image}")
        return None

    def _wait(self, seconds: float) -> None:
        """Let the next tick come some time after this one was due, or at once if that is past."""
        now = time.monotonic()
        self._due_s = max(now, self._due_s + seconds) if self._due_s else now + seconds
        self._timer.timer_period_ns = max(1, round((self._due_s - now) * 1e9))
        self._timer.reset()

    def _stamp(self, time_s: float) -> Time:
        """Return the stamp of an image; a recording's time begins when holding ends."""
        now = self.get_clock().now()
        if self._table.text("stamp") == "now" or self._holding:
            return now
        if self._start is None:
            self._start = now - Duration(nanoseconds=round(time_s * 1e9))
        return self._start + Duration(nanoseconds=round(time_s * 1e9))

    def _camera_info(self, header: Header, width: int, height: int) -> CameraInfo:
        """Return a pinhole camera without distortion, its centre in the middle of the image."""
        focal = width / 2 / math.tan(math.radians(self._table.number("field_of_view")) / 2)
        cx, cy = (width - 1) / 2, (height - 1) / 2
        return CameraInfo(
            header=header,
            width=width,
            height=height,
            distortion_model="plumb_bob",
            d=[0.0] * 5,
            k=[focal, 0.0, cx, 0.0, focal, cy, 0.0, 0.0, 1.0],
            r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
            p=[focal, 0.0, cx, 0.0, 0.0, focal, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
        )

    def _end(self) -> None:
        """Stop, after a second in which the last image can arrive."""
        self._timer.cancel()
        self.get_logger().info(
            f"the video has ended, {self._published} images were published"
            + (f", {self._bad_frames} could not be read" if self._bad_frames else "")
        )
        self._timer = self._every(1.0, lambda: rclpy.shutdown(context=self.context))


def main(args: list[str] | None = None) -> None:
    """Run the node."""
    about = "Plays a source in place of a camera: publishes the topics image and camera_info."
    check_command_line("video", about, VIDEO_PARAMETERS, args)
    # Drawing the synthetic scene is faster on one core, which leaves the others to the tracker.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    exit_program(run_node(VideoNode, args))


if __name__ == "__main__":
    main()
