# SPDX-License-Identifier: Apache-2.0
"""Diagnostics of the tracker: its model, its images, its target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticStatus
from diagnostic_updater import DiagnosticStatusWrapper, Updater
from rclpy.node import Node

from tracker_ros.nodes.input_watch import InputWatch
from tracker_ros.nodes.rates import RateMeter, Window
from tracker_ros.nodes.reports import FrameReport
from tracker_ros.target_state import TargetState

__all__ = ["Diagnostics", "ModelStatus"]


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
        self.report: FrameReport | None = None
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
