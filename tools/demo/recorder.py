# SPDX-License-Identifier: Apache-2.0
"""Record the tracker's topics, as any other program on the robot could."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable

import numpy as np
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2D

from tools.demo.recording import Counters, FrameRecord, Recording
from tools.harness.operator import Operator
from tracker_interfaces.msg import TargetStatus
from tracker_ros.following.target_state import TargetState
from tracker_ros.nodes.messages import box_of, keep_last, rgb_from_image, stamp_nanoseconds


class Recorder(Operator):
    """Collects what belongs to each image, by the image's stamp.

    The pixels of an image tell which frame of the footage it is, so it does not matter which
    images were lost on the way.

    Attributes:
        newest_index: Frame number of the newest image; -1 before the first.
        tracker_state: State in the newest status.

    Args:
        frames: The footage as it should arrive, (H, W, 3) uint8 RGB.
        alive: Tells whether the tracker's program still runs.
    """

    def __init__(self, frames: Iterable[np.ndarray], alive: Callable[[], bool]) -> None:
        super().__init__("demo_recorder", alive=alive)
        self._index_of = {_fingerprint(frame): index for index, frame in enumerate(frames)}
        self._records: dict[int, FrameRecord] = {}
        self._statuses: list[tuple[TargetStatus, float]] = []
        self._boxes: dict[int, Detection2D] = {}
        self._scores: dict[int, np.ndarray] = {}
        self.newest_index = -1
        self.tracker_state = TargetState.LOADING
        self.hear(Image, "image", self._on_image, keep_last(10))
        latched = keep_last(100, latched=True)
        self.hear(TargetStatus, "target_status", self._on_status, latched)
        self.hear(Detection2D, "target", self._on_target, keep_last(100))
        self.hear(Image, "debug/score", self._on_score, keep_last(20))

    @property
    def last_answered(self) -> int:
        """Number of the newest frame for which the tracker published a status; -1 before."""
        indices = (
            self._records[stamp].index
            for status, _ in reversed(self._statuses)
            if (stamp := stamp_nanoseconds(status.header)) in self._records
        )
        return next(indices, -1)

    def recording(self) -> Recording:
        """Return what was recorded, by frame."""
        result = Recording()
        selected = False
        before = TargetState.IDLE
        for status, heard_s in self._statuses:
            state = TargetState(status.state)
            if state is not before:
                result.changes.append((stamp_nanoseconds(status.header), state))
                before = state
            counters = Counters(
                status.frames_received,
                status.frames_tracked,
                status.frames_dropped,
                status.frames_rejected,
            )
            selected = selected or bool(status.target_id)
            if not selected:
                result.at_start = counters
            result.at_end = counters
            self._fill(status, state, heard_s)
        result.frames = sorted(self._records.values(), key=lambda record: record.stamp_ns)
        return result

    def _fill(self, status: TargetStatus, state: TargetState, heard_s: float) -> None:
        """Add a status, and the messages with its stamp, to the record of their image."""
        stamp = stamp_nanoseconds(status.header)
        record = self._records.get(stamp)
        if record is None:
            return
        record.state = state
        record.score = status.score
        record.target_id = status.target_id
        record.latency_s = status.latency
        record.heard_s = heard_s
        record.score_image = self._scores.get(stamp)
        found = self._boxes.get(stamp)
        if found is not None:
            record.box = box_of(found.bbox)

    def _on_image(self, message: Image) -> None:
        index = self._index_of.get(_fingerprint(rgb_from_image(message)))
        if index is None:
            self.node.get_logger().warning("an image is not part of the footage", once=True)
            return
        stamp = stamp_nanoseconds(message.header)
        self._records[stamp] = FrameRecord(index, stamp)
        self.newest_index = index

    def _on_status(self, message: TargetStatus) -> None:
        self._statuses.append((message, time.monotonic()))
        self.tracker_state = TargetState(message.state)

    def _on_target(self, message: Detection2D) -> None:
        self._boxes[stamp_nanoseconds(message.header)] = message

    def _on_score(self, message: Image) -> None:
        self._scores[stamp_nanoseconds(message.header)] = np.array(rgb_from_image(message))


def _fingerprint(image: np.ndarray) -> tuple[int, ...]:
    """Return a checksum of the pixels, with the shape."""
    return (*image.shape, zlib.crc32(np.ascontiguousarray(image)))
