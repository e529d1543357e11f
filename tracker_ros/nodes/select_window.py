# SPDX-License-Identifier: Apache-2.0
"""The window of ``select_target``: live images; pressing the mouse freezes one to draw on."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import cv2
import numpy as np
import rclpy
from sensor_msgs.msg import Image

from tracker_ros.boxes import Box
from tracker_ros.nodes.images import rgb_from_image
from tracker_ros.nodes.run import NodeStartError

if TYPE_CHECKING:
    from tracker_ros.nodes.select_target import SelectTargetNode

__all__ = ["BoxDrag", "run_window"]

_TITLE = "select_target: drag a box, Esc ends"
_ESCAPE = 27
_LEAST = 4


class BoxDrag:
    """From mouse events to a box; knows nothing of windows."""

    def __init__(self) -> None:
        self._corner: tuple[int, int] | None = None
        self._end = (0, 0)
        self._done: Box | None = None

    @property
    def dragging(self) -> bool:
        """Whether the button is held down."""
        return self._corner is not None

    @property
    def box(self) -> Box:
        """The box between the corner and the pointer, ``(x, y, w, h)`` in pixels."""
        x0, y0 = self._corner or self._end
        x1, y1 = self._end
        return float(min(x0, x1)), float(min(y0, y1)), float(abs(x1 - x0)), float(abs(y1 - y0))

    def on_mouse(self, event: int, x: int, y: int, flags: int = 0, extra: object = None) -> None:
        """Take in an OpenCV mouse event at a pixel of the image."""
        if event == cv2.EVENT_LBUTTONDOWN:
            self._corner = self._end = (x, y)
        elif event == cv2.EVENT_MOUSEMOVE and self.dragging:
            self._end = (x, y)
        elif event == cv2.EVENT_LBUTTONUP and self.dragging:
            self._end = (x, y)
            box = self.box
            self._corner = None
            self._done = box if box[2] >= _LEAST and box[3] >= _LEAST else None

    def take(self) -> Box | None:
        """The box that has just been finished, once; None without one."""
        done, self._done = self._done, None
        return done


def run_window(node: SelectTargetNode, label: str) -> int:
    """Show images and send boxes until the window is closed; the exit status.

    Raises:
        NodeStartError: There is no display, or OpenCV was built without windows.
    """
    _open_window()
    drag = BoxDrag()
    cv2.setMouseCallback(_TITLE, drag.on_mouse)
    frozen: Image = node.wait_for_image()
    while cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) >= 1:
        rclpy.spin_once(node, timeout_sec=0.01)
        box = None if drag.dragging else drag.take()
        if box is not None:
            node.extend_patience()
            response = node.select(frozen, box, label)
            print(response.message, file=sys.stdout if response.success else sys.stderr)
        elif not drag.dragging and node.newest is not None:
            frozen = node.newest
        cv2.imshow(_TITLE, _drawn(frozen, drag))
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


def _drawn(message: Image, drag: BoxDrag) -> np.ndarray:
    """(H, W, 3) BGR for the window, with the box in the making."""
    picture = cv2.cvtColor(np.ascontiguousarray(rgb_from_image(message)), cv2.COLOR_RGB2BGR)
    if drag.dragging:
        x, y, w, h = (int(v) for v in drag.box)
        cv2.rectangle(picture, (x, y), (x + w, y + h), (64, 222, 128), 2)
    return picture
