# SPDX-License-Identifier: Apache-2.0
"""The ``select_target`` program: select a target on the latest image, by numbers or by mouse.

The image on which a box is drawn is frozen and its header goes with the request. So the tracker
starts on that very image, however long the drawing takes.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import time
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.task import Future
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from tracker_interfaces.srv import RemoveTarget, SelectTarget
from tracker_ros.following.selection import SelectionCode
from tracker_ros.geometry import Box
from tracker_ros.io.image_decoder import ImageDecoder
from tracker_ros.io.video_packets import PacketThread, StreamImage
from tracker_ros.nodes.image_input import TRANSPORTS, ImageInput, describe_other_transports
from tracker_ros.nodes.messages import (
    bounding_box_of,
    packet_from,
    rgb_from_image,
    stamp_message,
)
from tracker_ros.nodes.node_main import NodeStartError, end_in_time, start_ros

__all__ = ["BoxDrag", "SelectTargetNode", "exit_status", "main", "run_window"]

_RETRY_S = 0.3
_GREETING_S = 1.0
_INTERRUPTED = 130
_TITLE = "select_target: drag a box, Esc ends"
_ESCAPE = 27
_MIN_SIDE = 4


def exit_status(code: int) -> int:
    """Return the program's exit status for a code of `SelectTarget`: 0, or 10 and the code."""
    return 10 + code if code else 0


@dataclass(frozen=True)
class Picture:
    """An image as it came, and its header."""

    header: Header
    payload: Image | CompressedImage | StreamImage

    def to_rgb(self, decoder: ImageDecoder) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB; raises ValueError if it cannot be decoded."""
        return rgb_from_image(self.payload, decoder)


class SelectTargetNode(Node):
    """Holds the latest image, `newest`, and calls the service.

    Args:
        patience_s: How long to wait for the service, the first image and the answer.
        append: Whether the targets that are followed already are kept.
        transport: How images are sent, as the tracker's ``image_transport``.

    Raises:
        NodeStartError: The messages of the transport are not installed.
    """

    def __init__(self, patience_s: float, append: bool = False, transport: str = "raw") -> None:
        super().__init__("select_target")
        self._append = append
        self._patience_s = patience_s
        self._transport = transport
        self.newest: Picture | None = None
        self._packets: PacketThread | None = None
        self.extend_patience()
        self._service = self.create_client(SelectTarget, "select_target")
        try:
            self._images = ImageInput(self, transport, self._on_image)
        except ImportError as error:
            raise NodeStartError(f"transport {transport} cannot be used: {error}") from error
        self._met = False
        self._greeter = self.create_client(RemoveTarget, "remove_target")

    def close(self) -> None:
        """Take no more images."""
        self._images.close()
        if self._packets is not None:
            self._packets.close()

    def wait_for_image(self) -> Picture:
        """Wait for the first image and return the latest one; NodeStartError if none comes."""
        while self.newest is None:
            topic = self._images.topic
            publishers = len(self.get_publishers_info_by_topic(topic))
            other = describe_other_transports(
                self, self._transport, self.resolve_topic_name("image"), "--transport "
            )
            self._spin(
                f"no image came on {topic} within {self._patience_s:g} s "
                f"({publishers} publishers): " + (other or "start the camera or remap 'image'")
            )
        return self.newest

    def select(self, image: Picture, box: Box, label: str) -> SelectTarget.Response:
        """Call the service for a box ``(x, y, w, h)`` on ``image``; NodeStartError on timeout."""
        self._meet()
        request = SelectTarget.Request(
            header=image.header, bbox=bounding_box_of(box), label=label, append=self._append
        )
        future = self._service.call_async(request)
        name = self._service.srv_name
        while not future.done():
            self._spin(f"service {name} did not answer within {self._patience_s:g} s")
        response = future.result()
        if response is None:
            raise NodeStartError(f"service {name} failed: {future.exception()}")
        return response

    def _meet(self) -> None:
        """Wait for the service, and until the tracker has discovered this node.

        The middleware loses earlier answers. The client of ``remove_target`` is the node's last
        endpoint. So when a request that removes nothing is answered, the tracker knows them all.
        """
        name = self._service.srv_name
        while not self._service.service_is_ready():
            self._spin(f"service {name} is not there: start the tracker, or give its namespace")
        greetings: list[Future] = []
        greeted = -math.inf
        while not self._met and self._greeter.service_is_ready():
            if time.monotonic() - greeted > _GREETING_S:
                greetings.append(self._greeter.call_async(RemoveTarget.Request()))
                greeted = time.monotonic()
            self._spin(f"service {self._greeter.srv_name} does not answer")
            self._met = any(greeting.done() for greeting in greetings)

    def select_when_ready(self, box: Box, label: str) -> SelectTarget.Response:
        """Call the service for a box on the latest image; repeat this while the tracker starts.

        A tracker that has just started may have missed the latest image; that is excused once.
        """
        self.wait_for_image()
        self._meet()
        excused = False
        while True:
            response = self.select(self.wait_for_image(), box, label)
            code, retry = SelectionCode(response.code), time.monotonic() + _RETRY_S
            missed = code is SelectionCode.STALE_STAMP and not excused
            excused = excused or missed
            if not (code.passes_by_itself or missed) or retry > self._deadline:
                return response
            while time.monotonic() < retry:
                self._spin(f"the tracker was not ready: {response.message}")

    def extend_patience(self) -> None:
        """Start to count the time anew."""
        self._deadline = time.monotonic() + self._patience_s

    def _on_image(self, message: Any) -> None:
        if isinstance(message, (Image, CompressedImage)):
            self.newest = Picture(message.header, message)
            return
        if self._packets is None:
            self._packets = PacketThread(self._on_decoded, self._on_fault)
        self._packets.put(packet_from(message))

    def _on_decoded(self, image: StreamImage) -> None:
        header = Header(stamp=stamp_message(image.stamp_ns), frame_id=image.frame_id)
        self.newest = Picture(header, image)

    def _on_fault(self, text: str) -> None:
        if text:
            self.get_logger().warning(text, throttle_duration_sec=10.0)

    def _spin(self, complaint: str) -> None:
        """Handle one event; raise NodeStartError with ``complaint`` if the time is up."""
        if not rclpy.ok():
            raise ExternalShutdownException
        rclpy.spin_once(self, timeout_sec=0.1)
        if time.monotonic() > self._deadline:
            raise NodeStartError(complaint)


class BoxDrag:
    """Turns mouse events into a box.

    Attributes:
        dragging: Whether the button is held down.
        box: The box between the corner and the pointer, ``(x, y, w, h)`` in pixels.
    """

    def __init__(self) -> None:
        self.dragging = False
        self.box: Box = (0.0, 0.0, 0.0, 0.0)
        self._corner = (0, 0)
        self._done: Box | None = None

    def on_mouse(self, event: int, x: int, y: int, flags: int = 0, extra: object = None) -> None:
        """Handle an OpenCV mouse event at a pixel of the image."""
        if event == cv2.EVENT_LBUTTONDOWN:
            self.dragging, self._corner = True, (x, y)
        if not self.dragging:
            return
        left, top = self._corner
        width, height = abs(x - left), abs(y - top)
        self.box = float(min(x, left)), float(min(y, top)), float(width), float(height)
        if event == cv2.EVENT_LBUTTONUP:
            self.dragging = False
            self._done = self.box if min(width, height) >= _MIN_SIDE else None

    def take(self) -> Box | None:
        """Return the box that has just been finished, once; None without one."""
        done, self._done = self._done, None
        return done


def run_window(node: SelectTargetNode, label: str, encoding: str = "") -> int:
    """Show images and send boxes until the window is closed. Returns the exit status.

    An image that cannot be decoded is left out.

    Args:
        node: The node.
        label: What the target is.
        encoding: Takes the place of the images' own encoding; empty keeps theirs.

    Raises:
        NodeStartError: There is no display, OpenCV was built without windows, or the first image
            cannot be decoded.
    """
    _open_window()
    drag = BoxDrag()
    cv2.setMouseCallback(_TITLE, drag.on_mouse)
    frozen = node.wait_for_image()
    try:
        decoder = ImageDecoder(encoding_override=encoding)
        pixels = frozen.to_rgb(decoder)
    except ValueError as error:
        raise NodeStartError(str(error)) from error
    while cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) >= 1:
        rclpy.spin_once(node, timeout_sec=0.01)
        box = None if drag.dragging else drag.take()
        if box is not None:
            node.extend_patience()
            response = node.select(frozen, box, label)
            print(response.message, file=sys.stdout if response.success else sys.stderr)
        elif not drag.dragging and node.newest is not None and node.newest is not frozen:
            with contextlib.suppress(ValueError):  # the tracker reports it
                pixels = node.newest.to_rgb(decoder)
                frozen = node.newest
        cv2.imshow(_TITLE, _drawn(pixels, drag))
        if cv2.waitKey(15) & 0xFF == _ESCAPE:
            break
    cv2.destroyAllWindows()
    return 0


def _open_window() -> None:
    remedy = "give the box on the command line: select_target --box X Y W H"
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        raise NodeStartError(f"there is no display for a window: {remedy}")
    try:
        cv2.namedWindow(_TITLE, cv2.WINDOW_AUTOSIZE)
    except cv2.error as error:
        raise NodeStartError(f"this OpenCV cannot open windows ({error.err}): {remedy}") from error


def _drawn(pixels: np.ndarray, drag: BoxDrag) -> np.ndarray:
    """Return RGB (H, W, 3) for the window, as BGR, with the box that is being drawn."""
    picture = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR)
    if drag.dragging:
        x, y, w, h = (int(v) for v in drag.box)
        cv2.rectangle(picture, (x, y), (x + w, y + h), (64, 222, 128), 2)
    return picture


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="select_target",
        description="Tell the tracker what to follow. Without --box, opens a window in which the "
        "box is drawn with the mouse. ROS arguments (--ros-args -r image:=... -r __ns:=...) "
        "choose camera and tracker.",
        epilog="Exit status: 0 if the target is followed; 10 and the code of SelectTarget if the "
        "request was refused (docs/node.md lists the codes); 1 if there is no tracker, image or "
        "display; 2 for a wrong command line; 130 after Ctrl-C.",
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
        "--append", action="store_true", help="keep following the present targets, too"
    )
    parser.add_argument(
        "--transport",
        choices=list(TRANSPORTS),
        default="raw",
        help="how images are sent, as the tracker's image_transport (default: %(default)s)",
    )
    parser.add_argument(
        "--encoding",
        default="",
        help="for the window: encoding that takes the place of the images' own, as the tracker's "
        "encoding_override",
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
    """Select once with ``--box``, or repeatedly in the window. Returns the exit status."""
    try:
        node = SelectTargetNode(options.timeout, options.append, options.transport)
    except NodeStartError as error:
        print(f"select_target: {error}", file=sys.stderr)
        return 1
    try:
        if options.box is None:
            return run_window(node, options.label, options.encoding)
        response = node.select_when_ready(tuple(options.box), options.label)
        if response.success:
            stamp = f"{response.stamp.sec}.{response.stamp.nanosec:09d}"
            print(f"{response.message}, since the image of {stamp}")
        else:
            print(f"select_target: refused: {response.message}", file=sys.stderr)
        return exit_status(response.code)
    except NodeStartError as error:
        print(f"select_target: {error}", file=sys.stderr)
        return 1
    finally:
        node.close()
        node.destroy_node()


def main(args: list[str] | None = None) -> None:
    """Run the program."""
    argv = list(sys.argv if args is None else ["select_target", *args])
    options = _parser().parse_args(remove_ros_args(argv)[1:])
    status = _INTERRUPTED
    end_in_time(status)
    if not start_ros(argv):
        sys.exit(1)
    try:
        status = _run(options)
    except Exception:  # an interrupt makes whatever is going on fail
        if rclpy.ok():
            raise
    finally:
        if rclpy.ok():
            rclpy.shutdown()
    sys.exit(status)


if __name__ == "__main__":
    main()
