# SPDX-License-Identifier: Apache-2.0
"""Pack targets as Foxglove's annotations of images: boxes with id, label, score and state."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from std_msgs.msg import Header

from tracker_ros.following.frames import TargetReport
from tracker_ros.following.target_state import VISIBLE, TargetState
from tracker_ros.geometry import Box

__all__ = ["annotations_message", "annotations_type"]

_COLOURS = {
    TargetState.TRACKING: (0.24, 0.81, 0.56),
    TargetState.UNCERTAIN: (0.96, 0.72, 0.24),
}
_THICKNESS, _FONT = 3.0, 16.0


def _messages() -> ModuleType:
    try:
        return importlib.import_module("foxglove_msgs.msg")
    except ImportError as error:
        raise ImportError(
            f"annotations needs the package foxglove_msgs ({error}): apt install "
            "ros-$ROS_DISTRO-foxglove-msgs, or set annotations to false"
        ) from error


def annotations_type() -> type:
    """Return the type of messages on ``target_annotations``.

    Raises:
        ImportError: foxglove_msgs is not installed; names the package.
    """
    found: type = _messages().ImageAnnotations
    return found


def annotations_message(header: Header, targets: Iterable[TargetReport]) -> Any:
    """Pack the visible targets; without one the message is empty, which clears the picture.

    Args:
        header: The image's.
        targets: What is known of them.
    """
    kinds = _messages()
    message = kinds.ImageAnnotations()
    for target in targets:
        if target.result is None or target.state not in VISIBLE:
            continue
        red, green, blue = _COLOURS[target.state]
        colour = kinds.Color(r=red, g=green, b=blue, a=1.0)
        outline = kinds.PointsAnnotation(
            timestamp=header.stamp,
            type=kinds.PointsAnnotation.LINE_LOOP,
            points=[kinds.Point2(x=x, y=y) for x, y in _corners(target.result.box)],
            outline_color=colour,
            thickness=_THICKNESS,
        )
        x, y = _corners(target.result.box)[0]
        text = kinds.TextAnnotation(
            timestamp=header.stamp,
            position=kinds.Point2(x=x, y=y),
            text=_words(target),
            font_size=_FONT,
            text_color=colour,
            background_color=kinds.Color(a=0.7),
        )
        message.points.append(outline)
        message.texts.append(text)
    return message


def _corners(box: Box) -> list[tuple[float, float]]:
    """Return the corners of a box, clockwise from the top left."""
    x, y, w, h = map(float, box)
    return [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]


def _words(target: TargetReport) -> str:
    words = [f"#{target.target_id}", target.label, f"{target.score:.2f}"]
    if target.state is TargetState.UNCERTAIN:
        words.append("uncertain")
    return " ".join(word for word in words if word)
