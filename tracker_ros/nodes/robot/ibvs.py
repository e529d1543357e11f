# SPDX-License-Identifier: Apache-2.0
"""The ``ibvs`` node: turns a camera so that the target stays in the centre of its image."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from geometry_msgs.msg import Twist, Vector3Stamped
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos_overriding_options import QoSOverridingOptions

from tracker_interfaces.msg import TargetStatus
from tracker_ros.nodes.messages import keep_last
from tracker_ros.nodes.node_main import exit_program, run_node
from tracker_ros.nodes.parameters import ParameterTable, Value, check_command_line
from tracker_ros.nodes.robot.parameters import IBVS_PARAMETERS
from tracker_ros.visual_servoing import STILL, Rates, Servo, ServoLimits

__all__ = ["IbvsNode", "main"]

_STILL_S = 1.0
_FOLLOWED = (TargetStatus.TRACKING, TargetStatus.UNCERTAIN)


class IbvsNode(Node):
    """Publishes turning rates of the camera on ``camera_cmd_vel`` while there is a target.

    When the target is lost, it publishes zeros for a second and then nothing, so that others may
    turn the camera.
    """

    def __init__(self) -> None:
        super().__init__("ibvs")
        self._table = ParameterTable(
            self, IBVS_PARAMETERS, configured=lambda: True, changed=self._apply
        )
        self._servo = Servo()
        self._apply(self._table.values)
        self._seen = -_STILL_S
        options = QoSOverridingOptions.with_default_policies()
        self._commands = self.create_publisher(
            Twist, "camera_cmd_vel", keep_last(1), qos_overriding_options=options
        )
        self.create_subscription(Vector3Stamped, "target_bearing", self._on_bearing, keep_last(1))
        status_qos = keep_last(1, latched=True)
        self.create_subscription(TargetStatus, "target_status", self._on_status, status_qos)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / self._table.number("rate"), self._tick, clock=steady)
        self.get_logger().info(
            f"rates on {self.resolve_topic_name('camera_cmd_vel')} from "
            f"{self.resolve_topic_name('target_bearing')}"
        )

    def close(self) -> None:
        """Leave the camera standing still."""
        if self.context.ok():
            self._publish(STILL)

    def _apply(self, values: Mapping[str, Value]) -> None:
        names = ("gain", "max_rate", "max_acceleration", "dead_band", "timeout")
        self._servo.limits = ServoLimits(**{name: float(values[name]) for name in names})

    def _on_bearing(self, message: Vector3Stamped) -> None:
        bearing = (message.vector.x, message.vector.y, message.vector.z)
        if all(map(math.isfinite, bearing)):
            self._servo.observe(bearing, time.monotonic())
        else:
            self.get_logger().warning(
                f"target_bearing is {bearing}, expected finite numbers: left out",
                throttle_duration_sec=10.0,
            )

    def _on_status(self, message: TargetStatus) -> None:
        if message.state not in _FOLLOWED:
            self._servo.lose()

    def _tick(self) -> None:
        now = time.monotonic()
        if self._servo.sees(now):
            self._seen = now
        rates = self._servo.command(now)
        if now - self._seen < _STILL_S:
            self._publish(rates)

    def _publish(self, rates: Rates) -> None:
        message = Twist()
        message.angular.x, message.angular.y = map(float, rates)
        self._commands.publish(message)


def main(args: list[str] | None = None) -> None:
    """Run the node."""
    about = "Turns a camera so that the target stays in the centre of its image."
    check_command_line("ibvs", about, IBVS_PARAMETERS, args)
    exit_program(run_node(IbvsNode, args))


if __name__ == "__main__":
    main()
