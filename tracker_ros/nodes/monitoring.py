# SPDX-License-Identifier: Apache-2.0
"""Diagnostics of the tracker: its model, its images, its target.

Watches the camera's side: silence, wrong clocks, unreadable images; says each once.

Rates and delays over the last few seconds.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from diagnostic_updater import DiagnosticStatusWrapper, Updater
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile

from tracker_ros.following.frames import FrameReport
from tracker_ros.following.target_state import TargetState

__all__ = ["Diagnostics", "InputWatch", "ModelStatus", "RateMeter", "Window"]


@dataclass
class ModelStatus:
    """What is known about the model.

    Attributes:
        name: Its name.
        loading: Whether it is being loaded.
        ready: Whether it can track.
        error: Why loading failed; empty if it did not.
        facts: Tells back end, device, precision and what else is worth reporting, as of now: an
            engine may fail and leave its work to another.
    """

    name: str = ""
    loading: bool = False
    ready: bool = False
    error: str = ""
    facts: Callable[[], dict[str, str]] = dict


class Diagnostics:
    """Publishes on ``/diagnostics`` at a fixed rate.

    Args:
        node: The node.
        rate: Reports per second.
        watch: The camera's side.
        active: Whether the node is active.
    """

    def __init__(
        self, node: Node, rate: float, watch: InputWatch, active: Callable[[], bool]
    ) -> None:
        self._watch = watch
        self._active = active
        self.model = ModelStatus()
        self.latency = Window()
        self.report: FrameReport[Any] | None = None
        self.output_rate = RateMeter()
        self._updater = Updater(node, period=1.0 / rate)
        self._updater.setHardwareID(node.get_fully_qualified_name())
        self._updater.add("model", self._model)
        self._updater.add("images", self._images)
        self._updater.add("target", self._target)

    def update(self) -> None:
        """Report now; for changes that should not wait for the next period."""
        self._updater.force_update()

    def _model(self, status: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        model, facts = self.model, self.model.facts()
        if model.error:
            status.summary(DiagnosticStatus.ERROR, f"{model.name} failed: {model.error}")
        elif model.loading:
            status.summary(DiagnosticStatus.WARN, f"{model.name} is being loaded")
        elif model.ready and any(name.startswith("fallback") for name in facts):
            status.summary(DiagnosticStatus.WARN, f"{model.name} is ready, on a second choice")
        elif model.ready:
            status.summary(DiagnosticStatus.OK, f"{model.name} is ready")
        else:
            status.summary(DiagnosticStatus.WARN, "no model is loaded: configure the node")
        for name, value in {"model": model.name, **facts}.items():
            status.add(name, value)
        return status

    def _images(self, status: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        watch, report = self._watch, self.report
        if not self._active():
            status.summary(DiagnosticStatus.OK, "inactive, no images are taken")
        elif watch.complaint:
            status.summary(DiagnosticStatus.ERROR, watch.complaint)
        elif watch.silent:
            status.summary(
                DiagnosticStatus.WARN,
                f"no image for {watch.silent_seconds:.0f} s: {watch.publishers()}",
            )
        else:
            status.summary(DiagnosticStatus.OK, "images come")
        status.add("input rate (Hz)", f"{watch.rate.hertz:.2f}")
        if report is not None:
            for name in ("received", "tracked", "dropped", "rejected", "idle", "faults"):
                status.add(f"frames {name}", str(getattr(report.counts, name)))
        return status

    def _target(self, status: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        report = self.report
        states = [target.state for target in report.targets] if report else [TargetState.IDLE]
        level = DiagnosticStatus.WARN if TargetState.LOST in states else DiagnosticStatus.OK
        status.summary(level, ", ".join(state.name.lower() for state in states))
        status.add("state", states[0].name)
        status.add("output rate (Hz)", f"{self.output_rate.hertz:.2f}")
        status.add("latency p50 (ms)", f"{self.latency.quantile(0.5) * 1e3:.1f}")
        status.add("latency p95 (ms)", f"{self.latency.quantile(0.95) * 1e3:.1f}")
        if report is not None:
            followed = [target for target in report.targets if target.target_id]
            status.add("targets", str(len(followed)))
            status.add("target id", report.first.target_id)
            status.add("score", f"{report.first.score:.3f}")
            status.add("processing time (ms)", f"{report.processing_time * 1e3:.1f}")
        return status


_SILENT_S = 5.0
_CLOCKS_APART_S = 10.0
_CLOCK_FRAMES = 5


class InputWatch:
    """What is known about the image topic while the node is active.

    Args:
        node: The node.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._topic = ""
        self._qos: QoSProfile | None = None
        self._last = time.monotonic()
        self._warned_silent = False
        self._clock_faults = 0
        self._warned_clock = False
        self._complaint = ""
        self._complaints_logged: set[str] = set()
        self.rate = RateMeter()
        # Steady time: a simulation that stands still must not silence this warning.
        self._timer = node.create_timer(
            1.0, self._check, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._timer.cancel()

    @property
    def complaint(self) -> str:
        """Why the newest image could not be used; empty when it could."""
        return self._complaint

    @property
    def silent_seconds(self) -> float:
        """Seconds since the last image, or since the watch began."""
        return time.monotonic() - self._last

    @property
    def silent(self) -> bool:
        """Whether images have been missing for so long that it was worth a warning."""
        return self._warned_silent

    def start(self, topic: str, qos: QoSProfile) -> None:
        """Begin to watch: images are expected from now on."""
        self._topic = topic
        self._qos = qos
        self._last = time.monotonic()
        self._warned_silent = self._warned_clock = False
        self._clock_faults = 0
        self._complaint = ""
        self._complaints_logged.clear()
        self._timer.reset()

    def stop(self) -> None:
        """No images are expected any more."""
        self._timer.cancel()
        self._warned_silent = False

    def image_came(self, stamp_ns: int) -> None:
        """Take note of an image."""
        self._last = time.monotonic()
        self.rate.tick()
        if self._warned_silent:
            self._warned_silent = False
            self._node.get_logger().info(f"images come on {self._topic} again")
        self._check_clock(stamp_ns)

    def complain(self, text: str) -> None:
        """Log a fault of an image, each text once; an empty text says that all is well again."""
        self._complaint = text
        if text and text not in self._complaints_logged:
            if len(self._complaints_logged) > 100:
                self._complaints_logged.clear()
            self._complaints_logged.add(text)
            self._node.get_logger().error(f"image on {self._topic} left out: {text}")

    def publishers(self) -> str:
        """Who publishes the image topic, with the qualities of service that decide a match."""
        found = self._node.get_publishers_info_by_topic(self._topic)
        if not found:
            return "nobody publishes it"
        return "published by " + ", ".join(
            f"{(p.node_namespace.rstrip('/') + '/' + p.node_name)} "
            f"({p.topic_type}, {p.qos_profile.reliability.name.lower()}, "
            f"{p.qos_profile.durability.name.lower()})"
            for p in found
        )

    def _check(self) -> None:
        if self._warned_silent or self.silent_seconds < _SILENT_S:
            return
        self._warned_silent = True
        mine = ""
        if self._qos is not None:
            mine = f"; subscribed {self._qos.reliability.name.lower()}"
        self._node.get_logger().warning(
            f"no image on {self._topic} for {self.silent_seconds:.0f} s: {self.publishers()}"
            f"{mine}. Start the camera, or remap 'image' to its topic"
        )

    def _check_clock(self, stamp_ns: int) -> None:
        """Warn once if stamps and the node's clock have nothing to do with each other."""
        if self._warned_clock:
            return
        clock = self._node.get_clock()
        apart = (clock.now().nanoseconds - stamp_ns) / 1e9
        self._clock_faults = self._clock_faults + 1 if abs(apart) > _CLOCKS_APART_S else 0
        if self._clock_faults < _CLOCK_FRAMES:
            return
        self._warned_clock = True
        use_sim_time = self._node.get_parameter("use_sim_time").value
        cure = (
            "use_sim_time is true: is /clock published (ros2 bag play --clock)?"
            if use_sim_time
            else "for a recording or a simulation set use_sim_time to true and publish /clock "
            "(ros2 bag play --clock); else synchronise the computers' clocks"
        )
        self._node.get_logger().warning(
            f"stamps on {self._topic} are {abs(apart):.1f} s "
            f"{'behind' if apart > 0 else 'ahead of'} this node's clock, so the latency that is "
            f"reported means nothing: {cure}"
        )


class RateMeter:
    """Events per second over the last ``window_s`` seconds; safe between threads."""

    def __init__(self, window_s: float = 2.0) -> None:
        self._window = window_s
        self._times: deque[float] = deque()
        self._lock = threading.Lock()

    def tick(self) -> None:
        """Count one event, now."""
        with self._lock:
            self._times.append(time.monotonic())
            self._trim()

    @property
    def hertz(self) -> float:
        """The rate; 0 with fewer than two events in the window."""
        with self._lock:
            self._trim()
            if len(self._times) < 2:
                return 0.0
            return (len(self._times) - 1) / max(self._times[-1] - self._times[0], 1e-9)

    def _trim(self) -> None:
        oldest = time.monotonic() - self._window
        while self._times and self._times[0] < oldest:
            self._times.popleft()


class Window:
    """The last values of a quantity; safe between threads."""

    def __init__(self, size: int = 120) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._lock = threading.Lock()

    def add(self, value: float) -> None:
        """Take in one value."""
        with self._lock:
            self._values.append(value)

    def quantile(self, share: float) -> float:
        """The value below which ``share`` of the kept ones lie; 0 while there is none."""
        with self._lock:
            ordered = sorted(self._values)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0

    def clear(self) -> None:
        """Forget all values."""
        with self._lock:
            self._values.clear()
