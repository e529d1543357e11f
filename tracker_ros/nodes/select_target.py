# SPDX-License-Identifier: Apache-2.0
"""The ``select_target`` program: a box on the newest image, from the command line or a mouse.

The image on which the box is drawn is frozen and its header goes with the request, so that the
tracker starts on that very image, however long the drawing takes.
"""

from __future__ import annotations

import argparse
import sys
import time

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import Image

from tracker_interfaces.srv import SelectTarget
from tracker_ros.boxes import Box
from tracker_ros.nodes.bounding_box import bounding_box_of
from tracker_ros.nodes.qos import keep_last
from tracker_ros.nodes.run import NodeStartError, end_quietly_on_interrupt
from tracker_ros.nodes.selection import passes_by_itself

__all__ = ["SelectTargetNode", "main"]

_RETRY_S = 0.3


class SelectTargetNode(Node):
    """Holds the newest image and calls the service.

    Args:
        patience_s: How long to wait for the service, the first image and the answer.
        append: Whether targets that are followed already stay.
    """

    def __init__(self, patience_s: float, append: bool = False) -> None:
        super().__init__("select_target")
        self._append = append
        self._deadline = time.monotonic() + patience_s
        self._patience_s = patience_s
        self.newest: Image | None = None
        self._service = self.create_client(SelectTarget, "select_target")
        self._subscription = self.create_subscription(
            Image, "image", self._on_image, keep_last(1, reliable=False)
        )

    def wait_for_image(self) -> Image:
        """Wait for the first image.

        Raises:
            NodeStartError: None came in time.
        """
        while self.newest is None:
            topic = self.resolve_topic_name("image")
            publishers = len(self.get_publishers_info_by_topic(topic))
            self._spin(
                f"no image came on {topic} within {self._patience_s:g} s "
                f"({publishers} publishers): start the camera or remap 'image'"
            )
        return self.newest

    def select(self, image: Image, box: Box, label: str) -> SelectTarget.Response:
        """Call the service for a box drawn on ``image``.

        While the tracker is still starting, the request is repeated.

        Args:
            image: The image; its header goes with the request.
            box: ``(x, y, w, h)``, pixels, top-left corner.
            label: What the target is.

        Raises:
            NodeStartError: No answer came in time.
        """
        name = self._service.srv_name
        while not self._service.service_is_ready():
            self._spin(f"service {name} is not there: start the tracker, or give its namespace")
        request = SelectTarget.Request(
            header=image.header, bbox=bounding_box_of(box), label=label, append=self._append
        )
        future = self._service.call_async(request)
        while not future.done():
            self._spin(f"service {name} did not answer within {self._patience_s:g} s")
        response = future.result()
        if response is None:
            raise NodeStartError(f"service {name} failed: {future.exception()}")
        return response

    def select_when_ready(self, box: Box, label: str) -> SelectTarget.Response:
        """Call the service for a box on the newest image, again while the tracker starts."""
        while True:
            response = self.select(self.wait_for_image(), box, label)
            if response.success or not passes_by_itself(response.message):
                return response
            if time.monotonic() + _RETRY_S > self._deadline:
                return response
            retry = time.monotonic() + _RETRY_S
            while time.monotonic() < retry:
                self._spin(f"the tracker was not ready: {response.message}")

    def extend_patience(self) -> None:
        """Start to count the time anew."""
        self._deadline = time.monotonic() + self._patience_s

    def _on_image(self, message: Image) -> None:
        self.newest = message

    def _spin(self, complaint: str) -> None:
        """Handle what has come; raise ``complaint`` when the time is up."""
        if not rclpy.ok():
            raise ExternalShutdownException
        rclpy.spin_once(self, timeout_sec=0.1)
        if time.monotonic() > self._deadline:
            raise NodeStartError(complaint)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="select_target",
        description="Tell the tracker what to follow. Without --box, opens a window in which the "
        "box is drawn with the mouse. ROS arguments (--ros-args -r image:=... -r __ns:=...) "
        "choose camera and tracker.",
    )
    parser.add_argument(
        "--box",
        nargs=4,
        type=float,
        metavar=("X", "Y", "W", "H"),
        help="top-left corner and size of the box, pixels of the image as published",
    )
    parser.add_argument("--label", default="", help="what the target is")
    parser.add_argument(
        "--append", action="store_true", help="go on following the present targets too"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds to wait for tracker and images (default: %(default)g)",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    """Select once by ``--box``, or as often as wanted in the window; the exit status."""
    node = SelectTargetNode(options.timeout, options.append)
    try:
        if options.box is None:
            from tracker_ros.nodes.select_window import run_window

            return run_window(node, options.label)
        response = node.select_when_ready(tuple(options.box), options.label)
        stamp = f"{response.stamp.sec}.{response.stamp.nanosec:09d}"
        if response.success:
            print(f"{response.message}, since the image of {stamp}")
            return 0
        print(f"select_target: refused: {response.message}", file=sys.stderr)
        return 1
    except NodeStartError as error:
        print(f"select_target: {error}", file=sys.stderr)
        return 1
    finally:
        node.destroy_node()


def main(args: list[str] | None = None) -> None:
    """Run the program."""
    argv = list(sys.argv if args is None else ["select_target", *args])
    options = _parser().parse_args(remove_ros_args(argv)[1:])
    end_quietly_on_interrupt()
    rclpy.init(args=argv)
    status = 130
    try:
        status = _run(options)
    except Exception:  # what was going on when Ctrl-C came fails; that is no fault
        if rclpy.ok():
            raise
    finally:
        if rclpy.ok():
            rclpy.shutdown()
    sys.exit(status)


if __name__ == "__main__":
    main()
