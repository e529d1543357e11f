# SPDX-License-Identifier: Apache-2.0
"""What exists while the node is configured: model, worker, buffered images, publishers."""

from __future__ import annotations

import functools
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from rclpy.lifecycle import Node as LifecycleNode
from sensor_msgs.msg import CompressedImage, Image

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
from tracker_ros.following.watchdog import Watchdog
from tracker_ros.following.worker import Worker
from tracker_ros.io.image_decoder import ImageDecoder
from tracker_ros.io.video_packets import PacketThread
from tracker_ros.nodes.messages import packet_from, rgb_from_image, stamp_nanoseconds
from tracker_ros.nodes.monitoring import Diagnostics, ModelStatus
from tracker_ros.nodes.parameters import Value
from tracker_ros.nodes.publishers import DebugSettings, Publishers
from tracker_ros.nodes.spatial.outputs import SpatialSettings
from tracker_ros.process import give_back_free_memory
from tracker_ros.quoting import describe_error, printable
from tracker_ros.tracker import Tracker

__all__ = ["Session"]

_STOP_S = 0.2
_JOB_S = 2.0
_POLL_S = 0.1


class Session:
    """The time from configure to cleanup.

    The worker's thread owns the follower and the publishers: everything that changes them is
    posted to it as a job. The image callback only adds to the buffer and the mailbox.

    Args:
        node: The node.
        make_tracker: Makes the model; called in the worker's thread.
        loaded: Called in the worker's thread when loading has finished or failed.
        ids: Numbers for targets; shared between sessions, so that none is used twice.
        values: The node's parameters.
        diagnostics: Where to report.
        former: The session before this one. Its model is waited for, in the worker's thread, if it
            is still being loaded or used: two models would need twice the memory.

    Attributes:
        model: The state of the model.
    """

    def __init__(
        self,
        node: LifecycleNode,
        make_tracker: Callable[[], Tracker],
        loaded: Callable[[], None],
        ids: Iterator[int],
        values: Mapping[str, Value],
        diagnostics: Diagnostics,
        former: Session | None = None,
    ) -> None:
        self._node = node
        self._make_tracker = make_tracker
        self._loaded = loaded
        self._diagnostics = diagnostics
        self._former = former
        self._closed = self._given_up = False
        self._active = False
        self._packets: PacketThread | None = None
        self._load_began = time.monotonic()
        self._load_ended = threading.Event()
        self.model = ModelStatus(name=str(values["model"]), loading=True)
        diagnostics.begin(self.model)
        self._buffer: FrameBuffer[Any] = FrameBuffer(*_buffer_limits(values))
        self._publishers = Publishers(node, self.model.name, diagnostics, values)
        self._follower = LiveFollower(
            functools.partial(rgb_from_image, decoder=_decoder(values)),
            TargetSet(_state_limits(values), ids, redetection=_redetection(values)),
            self._buffer,
            report=self._report,
            complain=self._complain,
            wants_image=self._publishers.wants_image,
            inform=lambda text: node.get_logger().warning(text, throttle_duration_sec=5.0),
            topic=node.resolve_topic_name("image"),
        )
        self._follower.explain = self._publishers.debug.token_mask
        self._worker: Worker[Frame[Any]] = Worker(
            handle=self._handle,
            idle=self._idle,
            busy=lambda: self._active and self._follower.catch_up(),
            failed=self._report_exception,
        )
        self._requests = Requests()
        self._watchdog = Watchdog(self._worker)
        self._worker.post(self._load)
        self._worker.start()

    @property
    def load_seconds(self) -> float:
        """Seconds since loading began."""
        return time.monotonic() - self._load_began

    def wait_until_loaded(self, timeout_s: float) -> bool:
        """Wait until loading has finished or failed. Returns False on timeout or at shutdown."""
        deadline = time.monotonic() + timeout_s
        while self._node.context.ok() and (left := deadline - time.monotonic()) > 0:
            if self._load_ended.wait(min(left, _POLL_S)):
                return True
        return self._load_ended.is_set()

    def wait_until_ended(self) -> None:
        """Wait until the worker has ended after `close`, unless it has been given up."""
        if not self._given_up:
            self._worker.join()

    def activate(self) -> None:
        """Expect images and requests from now on."""

        def begin() -> None:
            self._follower.reset()
            self._active = True

        self._worker.run_and_wait(begin, _JOB_S)
        self._publishers.spatial.inputs.subscribe()

    def deactivate(self) -> None:
        """Expect no more images: forget the targets, keep the model."""

        def rest() -> None:
            self._active = False
            self._follower.reset()
            give_back_free_memory()

        self._end_stream()
        self._worker.empty_mailbox()
        self._buffer.clear()
        self._publishers.spatial.inputs.unsubscribe()
        # When the program ends, nobody waits for targets to be forgotten.
        self._worker.run_and_wait(rest, _JOB_S if self._node.context.ok() else 0.0)

    def check_worker(self, hang_timeout_s: float) -> str:
        """Return why the worker is given up, if it has died or hangs; then `fail` is due."""
        if self._closed:
            return ""
        return self._watchdog.check(hang_timeout_s, patient=self.model.loading)

    def fail(self, reason: str) -> None:
        """Give the worker up: refuse all requests, and tell that nothing is followed."""
        self._closed = self._given_up = True
        self.model.error, self.model.ready, self.model.loading = reason, False, False
        self._requests.end(Outcome(SelectionCode.MODEL_FAILED, reason))
        if (last := self._diagnostics.report) is not None:
            gone = tuple(target.target_id for target in last.targets if target.target_id)
            idle = (TargetReport(TargetState.IDLE),)
            ended = replace(last, frame=None, image=None, targets=idle, gone=gone)
            self._diagnostics.report = ended
            self._publishers.publish(ended)

    def close(self) -> None:
        """Stop the worker, release the model, destroy the publishers.

        Does not wait for a model that is being loaded or computes: it is released afterwards.
        """
        self._end_stream()
        self._requests.end(Outcome(SelectionCode.INTERRUPTED, "the model is being unloaded"))
        ended = self._worker.stop(self._unload, 0.0 if self._given_up else _STOP_S)
        self._closed = True
        if not ended and self._node.context.ok():
            self._node.get_logger().warning(
                f"model {self.model.name} is still busy; it is released when it has finished"
            )
        self._publishers.close()
        self._diagnostics.begin(ModelStatus())

    def add_image(self, message: Any) -> None:
        """Keep an image as it came and leave it to the worker; decode the packets of a stream."""
        if isinstance(message, (Image, CompressedImage)):
            header = message.header
            stamp_ns = stamp_nanoseconds(header)
            self._diagnostics.camera.image_arrived(stamp_ns)
            self._add(stamp_ns, message, len(message.data), header.frame_id)
            return
        packet = packet_from(message)
        self._diagnostics.camera.image_arrived(packet.stamp_ns)
        if self._packets is None:
            self._packets = PacketThread(
                lambda image: self._add(image.stamp_ns, image, image.byte_count, image.frame_id),
                self._diagnostics.camera.report_fault,
            )
        self._packets.put(packet)

    def _add(self, stamp_ns: int, payload: Any, byte_count: int, frame_id: str) -> None:
        frame = self._buffer.add(stamp_ns, payload, byte_count, frame_id)
        # An image that comes after a later one is kept for replays, but no longer news.
        if self._buffer.is_newest(frame):
            self._worker.put(frame)
        self._diagnostics.camera.check_stamps(self._buffer.clock)

    def _end_stream(self) -> None:
        """End the decoding of packets; a new stream begins with its key frame."""
        if self._packets is not None:
            self._packets.close()
            self._packets = None

    def apply(self, values: Mapping[str, Value]) -> None:
        """Use changed parameters from the next frame on."""

        def change() -> None:
            self._follower.set_limits(_state_limits(values), _redetection(values))
            self._buffer.set_limits(*_buffer_limits(values))
            self._publishers.debug = DebugSettings.of(values)
            self._publishers.spatial.settings = SpatialSettings.of(values)
            self._follower.explain = self._publishers.debug.token_mask

        self._worker.post(change, name="settings")

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
                job(self._follower, answer_once)
            except BaseException:
                answer_once(interrupted)
                raise

        if not self._worker.post(run):
            answer_once(interrupted)

    def _load(self) -> None:
        """Make the model. Its state is complete before the log tells of it."""
        model, logger = self.model, self._node.get_logger()
        if self._former is not None:
            self._former.wait_until_ended()
            self._former = None
            if self._closed:
                return
        try:
            self._follower.load(self._make_tracker)
        except Exception as error:  # shown by diagnostics, and by the refusal to activate
            model.error = printable(str(error) or repr(error), 1000)
        else:
            model.ready = True
            versions = _versions()
            model.facts = lambda: {**self._follower.runtime_info(), **versions}
        finally:
            give_back_free_memory()
            model.loading = False
            self._follower.loaded()
            self._load_ended.set()
        if self._closed:
            return
        if model.ready:
            facts = ", ".join(f"{name} {value}" for name, value in model.facts().items())
            logger.info(f"model {model.name} ready after {self.load_seconds:.1f} s ({facts})")
        else:
            logger.error(f"model {model.name} cannot be loaded: {model.error}")
        self._loaded()

    def _unload(self) -> None:
        self._active = False
        self._follower.unload()
        if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        give_back_free_memory()

    def _handle(self, frame: Frame[Any]) -> None:
        if self._active:
            self._follower.handle(frame)

    def _idle(self) -> None:
        if self._active:
            self._follower.note_silence()

    def _report(self, report: FrameReport[Any]) -> None:
        if not self._closed:
            self._diagnostics.report = report
            self._publishers.publish(report)

    def _complain(self, source: FaultSource, text: str, error: Exception | None) -> None:
        """Report a fault of the images or of the model, or its end."""
        camera, tracking = self._diagnostics.camera, self._diagnostics.tracking
        (camera if source is FaultSource.IMAGE else tracking).report_fault(text)

    def _report_exception(self, error: BaseException) -> None:
        """Count and log an exception that a job or a frame did not catch."""
        if self._closed or not self._node.context.ok():
            return
        self._follower.counts.faults += 1
        text = f"fault in the worker, which continues: {describe_error(error)}"
        self._diagnostics.tracking.report_fault(text)


def _state_limits(values: Mapping[str, Value]) -> StateLimits:
    found, lost, after = (values[name] for name in ("score_found", "score_lost", "lost_after"))
    return StateLimits(float(found), float(lost), float(after))


def _redetection(values: Mapping[str, Value]) -> RedetectionSettings | None:
    if not values["redetect"]:
        return None
    return RedetectionSettings(interval_s=float(values["redetect_interval"]))


def _decoder(values: Mapping[str, Value]) -> ImageDecoder:
    return ImageDecoder(str(values["mono16_range"]), str(values["encoding_override"]))


def _buffer_limits(values: Mapping[str, Value]) -> tuple[float, int]:
    """Return the bounds of the buffer: seconds and bytes."""
    return float(values["buffer_seconds"]), round(float(values["buffer_megabytes"]) * 1e6)


def _versions() -> dict[str, str]:
    """Return the versions of interpreter and libraries in use."""
    found = {"python": platform.python_version()}
    for name in ("torch", "onnxruntime", "tensorrt"):
        if name in sys.modules:
            found[name] = str(getattr(sys.modules[name], "__version__", "unknown"))
    return found
