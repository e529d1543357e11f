# SPDX-License-Identifier: Apache-2.0
"""Watches the camera's side: silence, wrong clocks, unreadable images; says each once."""

from __future__ import annotations

import time

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile

from tracker_ros.nodes.rates import RateMeter

__all__ = ["InputWatch"]

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
