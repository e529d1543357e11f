# SPDX-License-Identifier: Apache-2.0
"""Diagnostics of the model tell what computes it now."""

from __future__ import annotations

from delegating_tracker import DelegatingTracker
from diagnostic_msgs.msg import DiagnosticStatus

from tracker_ros.nodes.track import TrackNode


class Breaking(DelegatingTracker):
    """The real model; its back end can be made to fail."""

    facts = {"backend": "tensorrt", "device": "cuda:0", "precision": "fp16"}

    @property
    def runtime_info(self):
        return self.facts


def test_a_breakdown_of_the_back_end_is_told(make_probe, spin, tiny_tracker):
    tracker = Breaking(tiny_tracker)
    probe = make_probe()
    spin(lambda: TrackNode(lambda parameters: tracker))
    probe.connect()

    def status_says(message):
        status = probe.diagnosis("model")
        return status is not None and status.message == message and status

    status = probe.until(lambda: status_says("ostrack_tiny is ready"), "a status that it is ready")
    assert status.level == DiagnosticStatus.OK
    told = {pair.key: pair.value for pair in status.values}
    assert told["backend"] == "tensorrt"
    tracker.facts = {**Breaking.facts, "backend": "torch", "fallback": "tensorrt fp16 failed"}
    words = "ostrack_tiny is ready, on a second choice"
    status = probe.until(lambda: status_says(words), "a status that it broke down")
    assert status.level == DiagnosticStatus.WARN
    told = {pair.key: pair.value for pair in status.values}
    assert told["backend"] == "torch"
    assert told["fallback"] == "tensorrt fp16 failed"
