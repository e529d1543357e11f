# SPDX-License-Identifier: Apache-2.0
"""The node's own loop over a bag: `follow_bag` hands its messages to a `LiveFollower`.

What a node keeps by its clock goes by the time in the bag, so a run does not depend on how fast
the machine is: every image is tracked, and a selection on an earlier image skips none on its way
to the newest one. Played at a rate, images are left out as a node leaves them out.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tracker_ros.bags.playback import BagClock, BagMessage, bag_messages
from tracker_ros.bags.requests import SelectionReader
from tracker_ros.following.frames import FaultSource, Frame, FrameBuffer, FrameReport
from tracker_ros.following.live_follower import LiveFollower
from tracker_ros.following.redetection import RedetectionSettings
from tracker_ros.following.selection import Outcome, Selection, SelectionCode, SelectionRefused
from tracker_ros.following.target_set import TargetSet
from tracker_ros.following.target_state import StateLimits
from tracker_ros.io.bag_reader import BagReader
from tracker_ros.io.depth_images import DepthImage
from tracker_ros.io.image_decoder import ImageDecoder
from tracker_ros.io.image_messages import (
    PACKET_TYPES,
    nanoseconds,
    packet_from,
    rgb_from_image,
)
from tracker_ros.io.video_packets import PacketDecoder
from tracker_ros.spatial.camera import CalibrationError, CameraModel
from tracker_ros.tracker import Tracker

_LOG = logging.getLogger(__name__)
_KEPT_DEPTH_IMAGES = 8
_SILENCE_STEP_NS = 250_000_000
_MAX_SILENCE_STEPS = 400


@dataclass(frozen=True)
class BagTopics:
    """The topics of a bag that are followed; empty ones are not there."""

    image: str  # the images, raw, compressed or packets of a video stream
    camera_info: str = ""
    depth: str = ""  # depth images registered to them, raw or compressedDepth
    # requests to follow a target, and whether they add one
    selections: tuple[tuple[str, bool], ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """The names of all that are there."""
        names = (self.image, self.camera_info, self.depth, *(name for name, _ in self.selections))
        return tuple(name for name in names if name)


@dataclass(frozen=True)
class BagSettings:
    """How a bag is followed; the defaults are those of the node."""

    # how many times faster than recorded; 0 as fast as possible, without leaving out any image
    rate: float = 0.0
    limits: StateLimits = StateLimits()  # thresholds of the targets' states
    # how lost targets are looked for; None looks where they were lost alone
    redetection: RedetectionSettings | None = None
    buffer_seconds: float = 5.0  # seconds of images that are kept for selections on earlier ones
    buffer_bytes: int = 256_000_000  # bytes that these may take
    mono16_range: str = "auto"  # counts of 16-bit grey that become black and white
    rectified: bool = False
    depth_tolerance_s: float = 0.05  # by how much the stamps of an image and its depth may differ
    # seconds from the first image to the one on which the given selections start
    start_s: float = 0.0
    start_image: int = 0  # number of that image, counted from 0, if it is later
    start_stamp_ns: int = 0  # stamp of that image, nanoseconds, if it is later


@dataclass(frozen=True)
class BagReport:
    """A report of the follower, and what was known beside the image."""

    time_ns: int  # when the image was recorded, or the time of a change without one, nanoseconds
    report: FrameReport[Any]  # its processing time is in seconds of this machine
    latency_s: float  # seconds from the image's recording to its result, of those in the bag
    camera: CameraModel | None = None  # the calibration; None without one
    depth: DepthImage | None = None  # the depth image that belongs to the frame; None without one


def follow_bag(
    reader: BagReader,
    topics: BagTopics,
    tracker: Tracker,
    first: Sequence[Selection] = (),
    settings: BagSettings | None = None,
    tell: Callable[[str], object] = _LOG.warning,
) -> Iterator[BagReport]:
    """Follow targets through the images of a bag. Yields a report of each image and change.

    The first selections are those on the first image that can be read, from ``start_s`` on. `tell`
    is called with a line about what cannot be used, once for each kind of fault. Raises ValueError
    if one of these selections is refused, or no image can be read.
    """
    settings = settings or BagSettings()
    run = _BagRun(reader, topics, tracker, first, settings, tell)
    early_ns = round(settings.depth_tolerance_s * 1e9)
    beside = [name for name in (topics.camera_info, topics.depth) if name]
    messages = bag_messages(reader, topics.all, beside, early_ns if beside else 0)
    messages, later = itertools.tee(messages)
    next(later, None)
    for message, following in itertools.zip_longest(messages, later):
        run.take(message, following)
        yield from run.reports()
    run.finish()
    yield from run.reports()


@dataclass(frozen=True)
class _Recorded:
    message: Any
    time_ns: int


class _BagRun:
    """Hands the messages of a bag to the follower, as a node's callbacks and its worker do."""

    def __init__(
        self,
        reader: BagReader,
        topics: BagTopics,
        tracker: Tracker,
        first: Sequence[Selection],
        settings: BagSettings,
        tell: Callable[[str], object],
    ) -> None:
        self._reader = reader
        self._topics = topics
        self._first = list(first)
        self._settings = settings
        self._tell_user = tell
        self._requests = SelectionReader(dict(topics.selections))
        self._clock = BagClock(settings.rate)
        self._decoder = ImageDecoder(settings.mono16_range)
        self._packets = PacketDecoder()
        self._in_packets = reader.topics[topics.image].kind in PACKET_TYPES
        self._times: dict[int, int] = {}
        self._depths: deque[Any] = deque(maxlen=_KEPT_DEPTH_IMAGES)
        self._info: Any = None
        self._told: set[str] = set()
        self._ready: list[BagReport] = []
        self._pending: Frame[_Recorded] | None = None
        self._first_s: float | None = None
        self._began = 0.0
        self._buffer: FrameBuffer[_Recorded] = FrameBuffer(
            settings.buffer_seconds, settings.buffer_bytes, self._clock.now_s
        )
        self._follower: LiveFollower[_Recorded] = LiveFollower(
            self._decode,
            TargetSet(settings.limits, tracker=tracker, redetection=settings.redetection),
            self._buffer,
            topics.image,
            report=self._report,
            complain=self._complain,
            inform=self._tell,
            clock=self._clock.now_s,
        )

    def reports(self) -> list[BagReport]:
        """Return the reports since the last call."""
        ready, self._ready = self._ready, []
        return ready

    def take(self, message: BagMessage, following: BagMessage | None) -> None:
        """Take a message, and let the follower work until the next one comes."""
        self._note_silence(message.time_ns)
        self._clock.advance(message.time_ns)
        self._began = time.perf_counter()
        topic = message.topic
        try:
            content = self._reader.deserialize(topic, message.data)
        except ValueError as error:
            self._tell(f"topic {topic}: {error}", topic)
            return
        if topic == self._topics.image:
            self._take_image(content, message.time_ns)
        elif topic == self._topics.camera_info:
            self._info = content
        elif topic == self._topics.depth:
            self._depths.append(content)
        else:
            self._take_selection(topic, content)
        while not (following is not None and self._clock.is_due(following.time_ns)):
            if self._pending is not None:
                self._handle_pending()
            elif not self._follower.catch_up():
                break

    def finish(self) -> None:
        """End the run; raises ValueError if a selection that was given never began."""
        if self._pending is not None:
            self._handle_pending()
        if self._first:
            what = "no image can be read" if self._first_s is None else "it ends before --at"
            raise ValueError(
                f"topic {self._topics.image} of {str(self._reader.path)!r}: {what}, so nothing "
                "was followed"
            )

    def _take_image(self, content: Any, time_ns: int) -> None:
        if not self._in_packets:
            header = content.header
            stamp_ns = nanoseconds(header.stamp)
            self._add(content, stamp_ns, time_ns, header.frame_id, len(content.data))
            return
        packet = packet_from(content)
        self._times[packet.stamp_ns] = time_ns
        try:
            images = self._packets.decode(packet)
        except ValueError as error:
            self._complain(FaultSource.IMAGE, str(error), error)
            return
        for image in images:
            at_ns = self._times.pop(image.stamp_ns, time_ns)
            self._add(image, image.stamp_ns, at_ns, image.frame_id, image.byte_count)

    def _add(
        self, payload: Any, stamp_ns: int, time_ns: int, frame_id: str, byte_count: int
    ) -> None:
        """Keep an image; if it is the newest one, it is the next to be handled."""
        frame = self._buffer.add(stamp_ns, _Recorded(payload, time_ns), byte_count, frame_id)
        if self._buffer.is_newest(frame):
            self._pending = frame

    def _decode(self, recorded: _Recorded) -> np.ndarray:
        return rgb_from_image(recorded.message, self._decoder)

    def _handle_pending(self) -> None:
        frame, self._pending = self._pending, None
        assert frame is not None
        self._began = time.perf_counter()
        self._follower.handle(frame)
        if self._first_s is None:
            self._first_s = frame.time_s
        if self._first and self._is_begun(frame):
            self._start()

    def _is_begun(self, frame: Frame[_Recorded]) -> bool:
        """Whether the given selections are on this image, or one before it that was missed."""
        assert self._first_s is not None
        wanted = self._settings
        return (
            frame.time_s - self._first_s >= wanted.start_s - 1e-9
            and frame.number - 1 >= wanted.start_image
            and frame.stamp_ns >= wanted.start_stamp_ns
        )

    def _start(self) -> None:
        """Follow the given selections on the newest image."""
        for place, selection in enumerate(self._first):
            outcomes: list[Outcome] = []
            self._follower.select(replace(selection, append=place > 0), outcomes.append)
            outcome = outcomes[0]
            if outcome.code is SelectionCode.UNREADABLE_IMAGE and not place:
                return  # the next image may do
            if not outcome.success:
                raise ValueError(f"box {selection.box} is refused: {outcome.message}")
        self._first = []

    def _take_selection(self, topic: str, content: Any) -> None:
        def answer(outcome: Outcome) -> None:
            if not outcome.success:
                self._tell(f"a selection on {topic} is refused: {outcome.message}")

        try:
            selection = self._requests.read(topic, content)
        except SelectionRefused as refusal:
            answer(Outcome(refusal.code, refusal.message))
            return
        if selection is not None:
            self._follower.select(selection, answer)

    def _note_silence(self, until_ns: int) -> None:
        """Let time pass while nothing was recorded; targets become lost as they do live."""
        for _ in range(_MAX_SILENCE_STEPS):
            now_ns = self._clock.now_ns()
            if not now_ns or until_ns - now_ns <= 2 * _SILENCE_STEP_NS:
                return
            self._clock.advance(now_ns + _SILENCE_STEP_NS)
            self._follower.note_silence()

    def _report(self, report: FrameReport[_Recorded]) -> None:
        frame = report.frame
        if frame is None:
            self._ready.append(BagReport(self._clock.now_ns(), report, 0.0))
            return
        seconds = time.perf_counter() - self._began
        time_ns = frame.payload.time_ns
        tracked = any(target.result is not None for target in report.targets)
        latency = seconds
        if self._settings.rate:
            latency = (self._clock.now_ns() - time_ns) / 1e9
        camera, depth = self._camera(report), None
        if camera is not None and self._depths:
            depth = self._depth_of(frame.stamp_ns, camera)
        self._ready.append(
            BagReport(
                time_ns,
                replace(report, processing_time=seconds if tracked else 0.0),
                latency if tracked else 0.0,
                camera,
                depth,
            )
        )

    def _camera(self, report: FrameReport[_Recorded]) -> CameraModel | None:
        """Return the calibration that fits the image; None, told once, if there is none."""
        if self._info is None or report.image is None:
            return None
        try:
            camera = CameraModel.from_info(self._info, self._settings.rectified)
            camera.check_image_size(report.image.shape[1], report.image.shape[0])
        except CalibrationError as error:
            self._tell(f"no direction or pose: {error}", self._topics.camera_info)
            return None
        return camera

    def _depth_of(self, stamp_ns: int, camera: CameraModel) -> DepthImage | None:
        """Return the depth image of a stamp; None, told once, if none is usable."""
        nearest = min(self._depths, key=lambda m: abs(nanoseconds(m.header.stamp) - stamp_ns))
        apart_s = abs(nanoseconds(nearest.header.stamp) - stamp_ns) / 1e9
        topic = self._topics.depth
        if apart_s > self._settings.depth_tolerance_s:
            self._tell(f"depth on {topic} is {apart_s:.3f} s from its image and left out", topic)
            return None
        try:
            image = DepthImage(nearest)
        except ValueError as error:
            self._tell(f"depth on {topic} is not used: {error}", topic)
            return None
        if (image.width, image.height) != (camera.width, camera.height):
            self._tell(
                f"depth on {topic} is not used: it is {image.width}x{image.height} pixels, the "
                f"image {camera.width}x{camera.height}: give the depth that is registered to it",
                topic,
            )
            return None
        return image

    def _complain(self, source: FaultSource, text: str, error: Exception | None) -> None:
        if text:
            self._tell(f"topic {self._topics.image}: {text}", source.value)

    def _tell(self, text: str, kind: str = "") -> None:
        """Tell of a problem, each kind once."""
        if (kind or text) not in self._told:
            self._told.add(kind or text)
            self._tell_user(text)
