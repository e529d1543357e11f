# SPDX-License-Identifier: Apache-2.0
"""The ``ibvs`` node turns a camera until its target is in the centre, and stops without one."""

from __future__ import annotations

import math
import signal

import pytest
from geometry_msgs.msg import Twist, Vector3Stamped
from graph_probe import latched

from tracker_interfaces.msg import TargetStatus

pytestmark = pytest.mark.ros
STEP_S = 0.02


class Gimbal:
    """A camera on two axes: it turns as the node says, and sees where the target is then."""

    def __init__(self, probe, azimuth, elevation):
        self.probe = probe
        self.azimuth, self.elevation = azimuth, elevation
        self.bearings = probe.node.create_publisher(Vector3Stamped, "target_bearing", 1)
        self.statuses = probe.node.create_publisher(TargetStatus, "target_status", latched(1))
        self.commands = []
        probe.listen(Twist, "camera_cmd_vel", self.commands)
        probe.until(lambda: self.bearings.get_subscription_count() > 0, "the node")

    def step(self, visible=True):
        """Let a moment pass."""
        if visible:
            message = Vector3Stamped(header=self.probe.header())
            message.vector.x = math.sin(self.azimuth) * math.cos(self.elevation)
            message.vector.y = -math.sin(self.elevation)
            message.vector.z = math.cos(self.azimuth) * math.cos(self.elevation)
            self.bearings.publish(message)
        before = len(self.commands)
        self.probe.until(lambda: len(self.commands) > before, "", STEP_S, fail=False)
        if self.commands:
            self.azimuth -= self.commands[-1].angular.y * STEP_S
            self.elevation -= self.commands[-1].angular.x * STEP_S


def test_a_camera_is_turned_and_stopped(make_probe, run_program):
    process = run_program(
        "ibvs", "--ros-args", "-r", "__ns:=/gimbal", "-p", "gain:=4.0", "-p", "timeout:=0.4"
    )
    gimbal = Gimbal(make_probe("/gimbal"), 0.5, -0.3)
    for _ in range(25):
        gimbal.step(visible=False)
    assert gimbal.commands == [], "without a target it is silent"
    for _ in range(1000):
        gimbal.step()
        if math.hypot(gimbal.azimuth, gimbal.elevation) < 0.02:
            break
    assert math.hypot(gimbal.azimuth, gimbal.elevation) < 0.02
    fastest = max(max(abs(c.angular.x), abs(c.angular.y)) for c in gimbal.commands)
    assert fastest <= 1.0 + 1e-9, "the limit, up to rounding"
    assert all(c.linear.x == c.linear.y == c.linear.z == c.angular.z == 0 for c in gimbal.commands)

    gimbal.azimuth = 1.2  # the target jumps away and is lost while the camera turns after it
    gimbal.probe.until(lambda: gimbal.step() or gimbal.commands[-1].angular.y > 0.3, "a turn")
    gimbal.probe.until(
        lambda: gimbal.step(visible=False) or gimbal.commands[-1] == Twist(), "standing still"
    )
    for _ in range(20):
        gimbal.step(visible=False)
    assert gimbal.commands[-1] == Twist()

    gimbal.probe.until(lambda: gimbal.step() or gimbal.commands[-1].angular.y > 0.3, "a turn")
    gimbal.statuses.publish(TargetStatus(state=TargetStatus.LOST))
    gimbal.probe.until(
        lambda: gimbal.step(visible=False) or gimbal.commands[-1] == Twist(), "standing still"
    )
    bad = Vector3Stamped()
    bad.vector.x = math.nan
    gimbal.bearings.publish(bad)
    gimbal.step(visible=False)
    assert gimbal.commands[-1] == Twist()
    assert process.stop(signal.SIGINT) == 0
    assert "Traceback" not in process.output
