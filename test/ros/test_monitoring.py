# SPDX-License-Identifier: Apache-2.0
"""Diagnostics, and warnings about the camera."""

from __future__ import annotations

import rclpy
from delegating_tracker import DelegatingTracker
from diagnostic_msgs.msg import DiagnosticStatus

from tracker_ros.nodes.messages import keep_last
from tracker_ros.nodes.monitoring import CameraMonitor, Window


def test_quantiles_of_a_window():
    window = Window(size=4)
    assert window.quantile(0.5) == 0.0
    for value in (9.0, 4.0, 1.0, 3.0, 2.0):
        window.add(value)
    assert [window.quantile(q) for q in (0.0, 0.5, 1.0)] == [1.0, 3.0, 4.0]
    window.clear()
    assert window.quantile(0.5) == 0.0


def test_silence_is_logged_with_the_publishers(make_probe):
    probe = make_probe("/silent")
    node = rclpy.create_node("track", namespace="/silent")
    probe.executor.add_node(node)
    monitor = CameraMonitor(node, silent_s=0.1)
    probe.until(lambda: node.get_publishers_info_by_topic("/silent/image"), "the camera")
    monitor.start("/silent/image", keep_last(1, reliable=False))
    (warning,) = probe.until(
        lambda: [log.msg for log in probe.logs if "no image on /silent/image" in log.msg],
        "a warning",
    )
    assert monitor.silent
    assert "/silent/probe (sensor_msgs/msg/Image, reliable, volatile)" in warning
    assert "subscribed best_effort" in warning
    monitor.image_arrived(node.get_clock().now().nanoseconds)
    assert not monitor.silent
    probe.until(lambda: any("again" in log.msg for log in probe.logs), "the all-clear")
    monitor.stop()
    probe.executor.remove_node(node)
    node.destroy_node()


def test_clocks_that_disagree_are_logged_once(local, make_message):
    _, probe = local

    def old(header):
        header.stamp.sec -= 3600
        return make_message(probe.scene.image(probe.place), header)

    for _ in range(12):
        probe.show(make=old)
    probe.until(lambda: any("3600." in log.msg for log in probe.logs), "a warning")
    probe.show(make=old)
    told = [log.msg for log in probe.logs if "3600." in log.msg]
    assert len(told) == 1
    assert "use_sim_time" in told[0]


def test_a_back_end_that_fails_is_reported(local):
    class Breaking(DelegatingTracker):
        """The real model; its back end can be made to fail."""

        info = {"backend": "tensorrt", "device": "cuda:0", "precision": "fp16"}  # noqa: RUF012

        @property
        def runtime_info(self):
            return self.info

    stage, probe = local
    stage.inner = tracker = Breaking(stage.inner)

    def facts(level):
        status = probe.diagnosis("model")
        found = {pair.key: pair.value for pair in status.values} if status else {}
        return status is not None and status.level == level and found

    probe.until(lambda: (facts(DiagnosticStatus.OK) or {}).get("precision") == "fp16", "OK")
    told = facts(DiagnosticStatus.OK)
    assert told["backend"] == "tensorrt"
    assert told["model"] == "ostrack_tiny"
    tracker.info = {**tracker.info, "backend": "torch", "fallback": "tensorrt fp16 failed"}
    told = probe.until(lambda: facts(DiagnosticStatus.WARN), "a warning")
    assert (told["backend"], told["fallback"]) == ("torch", "tensorrt fp16 failed")


def test_diagnostics_carry_rates_counts_and_latency(local):
    _, probe = local
    target_id = probe.start_following()
    probe.follow(3)
    probe.diagnostics.clear()

    def values(task):
        status = probe.diagnosis(task)
        return {pair.key: pair.value for pair in status.values} if status else {}

    def followed():
        probe.show()
        return values("target").get("target id") == target_id and values("images")

    images = probe.until(followed, "diagnostics of a followed target")
    target = values("target")
    assert target["state"] == "TRACKING"
    assert target["targets"] == "1"
    for name in ("latency p50 (ms)", "latency p95 (ms)", "score", "processing time (ms)"):
        assert float(target[name]) > 0.0
    for name in ("received", "tracked", "dropped", "rejected", "idle", "faults"):
        assert int(images[f"frames {name}"]) >= 0
    assert float(target["Actual frequency (Hz)"]) > 0.0
    assert float(images["Actual frequency (Hz)"]) > 0.0
    assert probe.level_of("images") == (DiagnosticStatus.OK, "images arrive")
