# SPDX-License-Identifier: Apache-2.0
"""What the tracker reports about itself: diagnostics, and warnings about the camera."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from diagnostic_updater import (
    DiagnosticStatusWrapper,
    FrequencyStatus,
    FrequencyStatusParam,
    Updater,
)
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile

from tracker_ros.following.frame_clock import FrameClock
from tracker_ros.following.frames import FrameReport
from tracker_ros.following.target_state import TargetState
from tracker_ros.nodes.image_input import describe_other_transports

__all__ = [
    "CameraDiagnostics",
    "CameraMonitor",
    "Diagnostics",
    "LogLimiter",
    "ModelMonitor",
    "ModelStatus",
    "Window",
]

_CLOCKS_APART_S = 10.0
_CLOCK_FRAMES = 5
_THROTTLE_S = 60.0
_FAULT_LOG_S = 60.0
_MAX_FAILED_FRAMES = 3


@dataclass
class ModelStatus:
    """The state of the model.

    Attributes:
        name: Its name.
        loading: Whether it is being loaded.
        ready: Whether it can track.
        error: Why loading failed; empty if it did not.
        facts: Returns back end, device, precision and the like as they are now: an engine may
            fail and be replaced by another.
    """

    name: str = ""
    loading: bool = False
    ready: bool = False
    error: str = ""
    facts: Callable[[], dict[str, str]] = dict


class Window:
    """The last values of a quantity; may be used from several threads."""

    def __init__(self, size: int = 120) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._lock = threading.Lock()

    def add(self, value: float) -> None:
        """Add a value; the oldest one is dropped."""
        with self._lock:
            self._values.append(value)

    def quantile(self, share: float) -> float:
        """Return the value below which ``share`` of the values lie; 0 without values."""
        with self._lock:
            ordered = sorted(self._values)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0

    def clear(self) -> None:
        """Forget all values."""
        with self._lock:
            self._values.clear()


class LogLimiter:
    """Decides which messages are logged, so that no fault fills the log; thread-safe.

    Args:
        period_s: Seconds after which an equal message is logged again.
        most: Most messages in that time, whatever they say.
        clock: Returns seconds that only grow.
    """

    def __init__(
        self, period_s: float, most: int = 20, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._period_s = period_s
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._logged: dict[str, float] = {}

    def allows(self, text: str) -> bool:
        """Return whether a message may be logged now, and if so note that it is."""
        with self._lock:
            now = self._clock()
            self._logged = {t: at for t, at in self._logged.items() if now - at < self._period_s}
            if text in self._logged or len(self._logged) >= self._most:
                return False
            self._logged[text] = now
            return True

    def clear(self) -> None:
        """Forget what was logged."""
        with self._lock:
            self._logged = {}


class ModelMonitor:
    """Watches whether the model works on the images, and logs why not.

    Attributes:
        fault: Why the latest image gave no result; empty if it did.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._failed_frames = 0
        self._logged = LogLimiter(_FAULT_LOG_S)
        self.fault = ""

    @property
    def failing(self) -> bool:
        """Whether the model has failed on several images in a row."""
        return self._failed_frames >= _MAX_FAILED_FRAMES

    def start(self) -> None:
        """Watch a new model, or the same one from the beginning."""
        self.report_fault("")
        self._logged.clear()

    def report_fault(self, text: str) -> None:
        """Note and log that an image gave no result; an empty text says that it did."""
        self.fault = text
        self._failed_frames = self._failed_frames + 1 if text else 0
        if text and self._logged.allows(text):
            self._node.get_logger().error(text)


class CameraMonitor:
    """Watches the image topic while the node is active, and logs each problem now and then.

    Args:
        node: The node.
        silent_s: Seconds without an image after which a warning is logged.

    Attributes:
        fault: Why the latest image could not be used; empty if it could.
        silent: Whether images have been missing for so long that a warning was logged.
        frequency: The rate of images.
    """

    def __init__(self, node: Node, silent_s: float = 5.0) -> None:
        self._node = node
        self._silent_s = silent_s
        self._topic = ""
        self._qos: QoSProfile | None = None
        self._transport = "raw"
        self._last = time.monotonic()
        self._wrong_stamps = self._sequence = self._late = 0
        self._warned_clock = False
        self._logged = LogLimiter(_FAULT_LOG_S)
        self.fault = ""
        self.silent = False
        self.frequency = frequency_status()
        # Steady time: a simulation that stands still must not delay this warning.
        self._timer = node.create_timer(
            1.0, self._check_silence, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._timer.cancel()

    @property
    def silent_seconds(self) -> float:
        """Seconds since the latest image, or since `start`."""
        return time.monotonic() - self._last

    def start(self, topic: str, qos: QoSProfile, transport: str = "raw") -> None:
        """Expect images on ``topic`` from now on."""
        self._topic, self._qos, self._transport = topic, qos, transport
        self._last = time.monotonic()
        self._wrong_stamps = 0
        self._warned_clock = self.silent = False
        self.fault = ""
        self._logged.clear()
        self.frequency.clear()
        self._timer.reset()

    def stop(self) -> None:
        """Expect no more images."""
        self._timer.cancel()
        self.silent = False

    def image_arrived(self, stamp_ns: int) -> None:
        """Note the arrival of an image."""
        self._last = time.monotonic()
        self.frequency.tick()
        if self.silent:
            self.silent = False
            self._node.get_logger().info(f"images arrive on {self._topic} again")
        self._check_clock(stamp_ns)

    def report_fault(self, text: str) -> None:
        """Log why an image could not be used; an empty text ends the fault."""
        self.fault = text
        if text and self._logged.allows(text):
            self._node.get_logger().error(f"image on {self._topic} skipped: {text}")

    def publishers(self) -> str:
        """Describe who publishes the image topic, with the QoS that decides about a match."""
        found = self._node.get_publishers_info_by_topic(self._topic)
        if not found:
            return "nobody publishes it"
        return "published by " + ", ".join(
            f"{(p.node_namespace.rstrip('/') + '/' + p.node_name)} "
            f"({p.topic_type}, {p.qos_profile.reliability.name.lower()}, "
            f"{p.qos_profile.durability.name.lower()})"
            for p in found
        )

    def _check_silence(self) -> None:
        if self.silent or self.silent_seconds < self._silent_s:
            return
        self.silent = True
        own = f"; subscribed {self._qos.reliability.name.lower()}" if self._qos else ""
        base = self._node.resolve_topic_name("image")
        other = describe_other_transports(self._node, self._transport, base)
        remedy = other or "Start the camera, or remap 'image' to its topic"
        self._node.get_logger().warning(
            f"no image on {self._topic} for {self.silent_seconds:.0f} s: {self.publishers()}"
            f"{own}. {remedy}"
        )

    def check_stamps(self, clock: FrameClock) -> None:
        """Log jumps, disorder and stamps that tell no time."""
        logger = self._node.get_logger()
        if clock.sequence != self._sequence:
            self._sequence = clock.sequence
            logger.info(
                f"stamps on {self._topic} jumped: a new sequence begins",
                throttle_duration_sec=_THROTTLE_S,
            )
        before, self._late = self._late, clock.late
        if clock.late > before:  # it is counted anew after a reset
            logger.warning(
                f"images on {self._topic} come out of order, {clock.late} so far: each is kept "
                "for selections, and those that come after a later one are not tracked",
                throttle_duration_sec=_THROTTLE_S,
            )
        if clock.fault and self._logged.allows(clock.fault):
            logger.warning(
                f"stamps on {self._topic} {clock.fault}: the time of arrival is used instead. "
                "Let the camera's driver stamp each image with the time at which it was taken"
            )

    def _check_clock(self, stamp_ns: int) -> None:
        """Warn once if stamps and the node's clock are far apart."""
        if self._warned_clock:
            return
        apart = (self._node.get_clock().now().nanoseconds - stamp_ns) / 1e9
        self._wrong_stamps = self._wrong_stamps + 1 if abs(apart) > _CLOCKS_APART_S else 0
        if self._wrong_stamps < _CLOCK_FRAMES:
            return
        self._warned_clock = True
        remedy = (
            "use_sim_time is true: is /clock published (ros2 bag play --clock)?"
            if self._node.get_parameter("use_sim_time").value
            else "for a recording or a simulation set use_sim_time to true and publish /clock "
            "(ros2 bag play --clock); otherwise synchronise the computers' clocks"
        )
        self._node.get_logger().warning(
            f"stamps on {self._topic} are {abs(apart):.1f} s "
            f"{'behind' if apart > 0 else 'ahead of'} this node's clock, so the reported latency "
            f"is meaningless: {remedy}"
        )


class CameraDiagnostics:
    """What is reported about one camera and its targets.

    Args:
        node: The node, or its part for this camera.
        active: Returns whether the node is active.

    Attributes:
        images: The monitor of the camera's images.
        tracking: The monitor of the model's work on them.
        report: The latest report of a frame.
        latency: The last latencies, seconds.
        output: The rate of results.
    """

    def __init__(self, node: Node, active: Callable[[], bool]) -> None:
        self._active = active
        self.images = CameraMonitor(node)
        self.tracking = ModelMonitor(node)
        self.report: FrameReport[Any] | None = None
        self.latency = Window()
        self.output = frequency_status()

    def begin(self) -> None:
        """Forget what was reported with an earlier model."""
        self.report = None
        self.tracking.start()
        self.latency.clear()
        self.output.clear()

    def add_images(self, status: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        """Add the state of the images."""
        camera, report = self.images, self.report
        camera.frequency.run(status)  # its numbers; the summary below replaces its own
        level, text = DiagnosticStatus.OK, "images arrive"
        if not self._active():
            text = "inactive, no images are taken"
        elif camera.fault:
            level, text = DiagnosticStatus.ERROR, camera.fault
        elif camera.silent:
            level = DiagnosticStatus.WARN
            text = f"no image for {camera.silent_seconds:.0f} s: {camera.publishers()}"
        status.summary(level, text)
        if report is not None:
            for name in ("received", "tracked", "dropped", "rejected", "idle", "faults"):
                status.add(f"frames {name}", str(getattr(report.counts, name)))
        return status

    def add_target(self, status: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        """Add the state of the targets."""
        report = self.report
        self.output.run(status)
        states = [target.state for target in report.targets] if report else [TargetState.IDLE]
        level = DiagnosticStatus.WARN if TargetState.LOST in states else DiagnosticStatus.OK
        status.summary(level, ", ".join(state.name.lower() for state in states))
        status.add("state", states[0].name)
        status.add("latency p50 (ms)", f"{self.latency.quantile(0.5) * 1e3:.1f}")
        status.add("latency p95 (ms)", f"{self.latency.quantile(0.95) * 1e3:.1f}")
        if report is not None:
            followed = [target for target in report.targets if target.target_id]
            status.add("targets", str(len(followed)))
            status.add("target id", report.first.target_id)
            status.add("score", f"{report.first.score:.3f}")
            status.add("processing time (ms)", f"{report.processing_time * 1e3:.1f}")
        return status


class Diagnostics:
    """Publishes the state of the model, and of images and targets of each camera.

    Args:
        node: The node.
        rate: Reports per second.
        active: Returns whether the node is active.
        cameras: By the names of the cameras, the node or its part for the camera. A name that is
            not empty is put before ``images`` and ``target``.

    Attributes:
        cameras: What is reported about each camera, by its name.
        model: The state of the model.
        update: Publishes now instead of with the next period.
    """

    def __init__(
        self, node: Node, rate: float, active: Callable[[], bool], cameras: Mapping[str, Node]
    ) -> None:
        self.cameras = {name: CameraDiagnostics(part, active) for name, part in cameras.items()}
        self.model = ModelStatus()
        updater = Updater(node, period=1.0 / rate)
        updater.setHardwareID(node.get_fully_qualified_name())
        updater.add("model", self._add_model)
        for name, camera in self.cameras.items():
            updater.add(f"{name} images".lstrip(), camera.add_images)
            updater.add(f"{name} target".lstrip(), camera.add_target)
        self.update = updater.force_update

    def begin(self, model: ModelStatus) -> None:
        """Report about a new model, and forget what was measured with an earlier one."""
        self.model = model
        for camera in self.cameras.values():
            camera.begin()

    def _add_model(self, status: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        model, facts = self.model, self.model.facts()
        level, text = DiagnosticStatus.WARN, "no model is loaded: configure the node"
        if model.error:
            level, text = DiagnosticStatus.ERROR, f"{model.name} failed: {model.error}"
        elif model.loading:
            text = f"{model.name} is being loaded"
        elif faults := [c.tracking.fault for c in self.cameras.values() if c.tracking.failing]:
            level, text = DiagnosticStatus.ERROR, f"{model.name} fails: {faults[0]}"
        elif model.ready and any(name.startswith("fallback") for name in facts):
            text = f"{model.name} is ready, but not with its first choice of back end"
        elif model.ready:
            level, text = DiagnosticStatus.OK, f"{model.name} is ready"
        status.summary(level, text)
        for name, value in {"model": model.name, **facts}.items():
            status.add(name, value)
        return status


def frequency_status() -> FrequencyStatus:
    """Return a meter of events per second over the last three reports; any rate is accepted."""
    return FrequencyStatus(FrequencyStatusParam({"min": 0.0}, window_size=3))
