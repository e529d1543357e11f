# SPDX-License-Identifier: Apache-2.0
"""The ``console`` node: serves a page in the browser that shows and steers the trackers."""

from __future__ import annotations

import time
from typing import Any

from rcl_interfaces.msg import Log
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from tracker_ros.console.hub import Hub
from tracker_ros.nodes.console_camera import ConsoleCamera
from tracker_ros.nodes.node_main import NodeStartError, exit_program, run_node
from tracker_ros.nodes.parameters import CONSOLE_PARAMETERS, ParameterTable, check_command_line
from tracker_ros.registry import list_models

__all__ = ["ConsoleNode", "main"]

_LEVELS = {20: "info", 30: "warning", 40: "error", 50: "fatal"}
_HEALTH_S = 0.5
_MAX_LINE = 500


class ConsoleNode(Node):
    """Serves the console.

    Raises:
        NodeStartError: A parameter is refused, the server's libraries are missing, or its address
            cannot be used.
    """

    def __init__(self) -> None:
        super().__init__("console")
        table = ParameterTable(self, CONSOLE_PARAMETERS, configured=lambda: True)
        self._models = list_models()
        self._viewers = 0
        self._watched = False
        self._change = self.create_guard_condition(self._on_viewers)
        self._hub = Hub(self._count_viewers)
        names = table.text("cameras").split() or [""]
        self._cameras = {name: ConsoleCamera(self, name, self._hub, table) for name in names}
        places = {name: f"{self.get_namespace()}/{name}" for name in names}
        places.update({name: name for name in names if name.startswith("/")})
        self._loggers: dict[str, list[str]] = {}
        for name, place in places.items():
            *above, last = ("", *filter(None, place.split("/")))
            # A tracker of this camera alone; one of several: its lines on all, and on this camera.
            for path in ((*above, last, "track"), (*above, "track"), (*above, "track", last)):
                logger = ".".join(filter(None, path))
                self._loggers.setdefault(logger, []).append(name)
        # As /rosout is published: old lines come too.
        lines = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(Log, "/rosout", self._on_log, lines)
        self._server = self._serve(table)
        self._server.start()
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_HEALTH_S, self._report_health, clock=clock)
        self.get_logger().info(f"open {self._server.address} in a browser")

    def close(self) -> None:
        """Stop the server."""
        self._server.stop()

    def _serve(self, table: ParameterTable) -> Any:
        try:
            from tracker_ros.console.server import ConsoleServer
        except ImportError as error:
            raise NodeStartError(
                f"the console needs {error.name}, which is not installed: "
                "pip install starlette uvicorn websockets"
            ) from error
        host, port = table.text("host"), table.integer("port")
        webrtc, token = self._takes_webrtc(table.text("transport"), host), table.text("token")
        try:
            return ConsoleServer(self._hub, self._carry_out, host, port, token, webrtc=webrtc)
        except OSError as error:
            raise NodeStartError(
                f"the console cannot listen on {host} port {port} ({error}): give another port, "
                "or 0 for a free one"
            ) from error

    def _takes_webrtc(self, transport: str, host: str) -> bool:
        """Return whether pictures may go as video over WebRTC; say what is missing for it."""
        from tracker_ros.console.server import is_loopback

        if transport == "jpeg" or (transport == "auto" and is_loopback(host)):
            return False
        try:
            from tracker_ros.console import webrtc
        except ImportError as error:
            self.get_logger().warning(
                f"pictures go as JPEG, not over WebRTC: {error.name} is not installed "
                "(pip install aiortc)"
            )
            return False
        missing = webrtc.missing_encoder()
        if missing:
            self.get_logger().warning(f"pictures go as JPEG, not over WebRTC: {missing}")
        return not missing

    async def _carry_out(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out a viewer's command; called in the server's event loop."""
        name = str(command.get("camera", ""))
        camera = self._cameras.get(name)
        if camera is None:
            raise ValueError(f"camera is {name!r}; expected one of {list(self._cameras)}")
        return await camera.carry_out(command)

    def _count_viewers(self, count: int) -> None:
        """Note the number of viewers that look; called in the server's event loop."""
        self._viewers = count
        self._change.trigger()

    def _on_viewers(self) -> None:
        """Subscribe to pictures when the first viewer comes, end that when the last one leaves."""
        if (self._viewers > 0) != self._watched:
            self._watched = not self._watched
            for camera in self._cameras.values():
                camera.watch(self._watched)

    def _on_log(self, message: Log) -> None:
        cameras = self._loggers.get(message.name)
        if cameras is None or message.level < 20:
            return
        level = _LEVELS.get(message.level, "info")
        stamp = message.stamp.sec + message.stamp.nanosec / 1e9
        text = message.msg[:_MAX_LINE]
        for camera in dict.fromkeys(cameras):
            line = {"camera": camera, "level": level, "time": stamp, "text": text}
            self._hub.offer_line(line)

    def _report_health(self) -> None:
        page = {"time": time.time(), "cameras": [*self._cameras], "models": self._models}
        self._hub.offer_state("console", "", page)
        for camera in self._cameras.values():
            camera.report_health()


def main(args: list[str] | None = None) -> None:
    """Run the node."""
    about = "Serves a page in the browser that shows cameras and targets and takes selections."
    check_command_line("console", about, CONSOLE_PARAMETERS, args)
    exit_program(run_node(ConsoleNode, args))


if __name__ == "__main__":
    main()
