# SPDX-License-Identifier: Apache-2.0
"""Selections: from a request to a box or mask on one frame, or to a reason why not.

Every refusal names the value, what was wanted, and what to do.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import BoundingBox2D

from tracker_ros.following.frames import FrameBuffer, StampedFrame
from tracker_ros.geometry import Box, tight_box, visible_extent, xywh_to_cxcywh
from tracker_ros.io.image_encodings import decode_image
from tracker_ros.nodes.messages import box_of, stamp_nanoseconds

__all__ = [
    "INACTIVE",
    "LOADING",
    "NO_IMAGE",
    "SMALLEST_SIDE",
    "Selection",
    "SelectionOutcome",
    "SelectionRefused",
    "box_on_image",
    "check_bounding_box",
    "find_frame",
    "mask_on_image",
    "passes_by_itself",
    "selection_from",
    "selection_from_mask",
]

SMALLEST_SIDE = 4.0
"""Least width and height of a box and of its part inside the image, pixels."""

INACTIVE = "the tracker is inactive"
LOADING = "is still loading"
NO_IMAGE = "no image has arrived"

_TOLERANCE_NS = 100_000_000
_MAX_AHEAD_NS = 1_000_000_000
_PATIENCE_S = 0.5


class SelectionRefused(ValueError):
    """The selection is refused; the message says why and what to do."""


@dataclass(frozen=True)
class Selection:
    """One request.

    Attributes:
        stamp_ns: Stamp of the frame on which the box was drawn; 0 means the newest.
        frame_id: Its ``frame_id``; empty accepts any.
        box: ``(x, y, w, h)``, pixels, top-left corner.
        label: What the target is; may be empty.
        mask: (H, W) bool, the target's pixels where they were given; `box` is then around them.
        append: Follow the present targets on.
    """

    stamp_ns: int
    frame_id: str
    box: Box
    label: str
    mask: np.ndarray | None = None
    append: bool = False


@dataclass(frozen=True)
class SelectionOutcome:
    """What became of it: the fields of the service's response."""

    success: bool
    message: str
    target_id: str = ""
    stamp_ns: int = 0


def passes_by_itself(message: str) -> bool:
    """Whether a refusal with this message is only a matter of waiting while a node starts."""
    return any(words in message for words in (INACTIVE, LOADING, NO_IMAGE))


def check_bounding_box(bbox: BoundingBox2D) -> Box:
    """Check what can be checked without an image.

    Args:
        bbox: Centre and size in pixels, not rotated.

    Returns:
        The box as ``(x, y, w, h)`` with its top-left corner.

    Raises:
        SelectionRefused: It is not finite, empty, too small or rotated.
    """
    cx, cy = bbox.center.position.x, bbox.center.position.y
    width, height, theta = bbox.size_x, bbox.size_y, bbox.center.theta
    text = f"box with centre ({cx:g}, {cy:g}) and size {width:g} x {height:g}"
    if not all(math.isfinite(v) for v in (cx, cy, width, height, theta)):
        raise SelectionRefused(
            f"{text}, theta {theta:g}, is not finite: give five finite numbers, in pixels"
        )
    if theta != 0.0:
        raise SelectionRefused(
            f"{text} is rotated (theta {theta:g} rad, wanted 0): give the upright box around it"
        )
    if width <= 0 or height <= 0:
        raise SelectionRefused(
            f"{text} is empty: size_x and size_y must be above 0; they are width and height, "
            "not a second corner"
        )
    if width < SMALLEST_SIDE or height < SMALLEST_SIDE:
        raise SelectionRefused(
            f"{text} is too small: give at least {SMALLEST_SIDE:g} x {SMALLEST_SIDE:g} pixels"
        )
    return box_of(bbox)


def box_on_image(box: Box, width: int, height: int) -> Box:
    """Check a box against the image on which it was drawn.

    Args:
        box: ``(x, y, w, h)`` of ``check_bounding_box``.
        width: Width of the image, pixels.
        height: Height of the image, pixels.

    Returns:
        The box itself.

    Raises:
        SelectionRefused: It is larger than the image, or too little of it is inside.
    """
    cx, cy, w, h = xywh_to_cxcywh(np.array(box))
    text = f"box with centre ({cx:g}, {cy:g}) and size {w:g} x {h:g}"
    if w > width + 1 or h > height + 1:
        raise SelectionRefused(
            f"{text} is larger than the image ({width} x {height}): give the box around the "
            "target, in pixels of the image as published"
        )
    inside_w, inside_h = visible_extent(box, height, width)
    if inside_w <= 0 or inside_h <= 0:
        raise SelectionRefused(
            f"{text} does not overlap the image ({width} x {height}): bbox.center is the box's "
            "centre in pixels of the image as published"
        )
    if inside_w < SMALLEST_SIDE or inside_h < SMALLEST_SIDE:
        raise SelectionRefused(
            f"{text} has only {inside_w:g} x {inside_h:g} pixels inside the image "
            f"({width} x {height}), wanted at least {SMALLEST_SIDE:g} x {SMALLEST_SIDE:g}"
        )
    return box


def mask_on_image(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """Check a mask against the image that it belongs to.

    Returns:
        The mask itself.

    Raises:
        SelectionRefused: It has another size.
    """
    if mask.shape != (height, width):
        raise SelectionRefused(
            f"mask of {mask.shape[1]} x {mask.shape[0]} pixels does not fit the image of that "
            f"stamp ({width} x {height}): publish it in the size of the image as published"
        )
    return mask


def find_frame(
    buffer: FrameBuffer[Image],
    selection: Selection,
    topic: str,
    sleep: Callable[[float], None] = time.sleep,
) -> StampedFrame[Image]:
    """The buffered frame on which the box was drawn.

    A stamp a little ahead of the newest frame is given half a second to arrive: the request and
    the image come by different ways.

    Args:
        buffer: The frames kept.
        selection: The request.
        topic: Name of the image topic, for the messages.
        sleep: Waits, in seconds.

    Raises:
        SelectionRefused: There is no such frame, or it has another ``frame_id``.
    """
    wanted = selection.stamp_ns
    deadline = time.monotonic() + _PATIENCE_S
    newest = buffer.newest
    while newest and 0 < wanted - newest.stamp_ns < _MAX_AHEAD_NS:
        if time.monotonic() > deadline:
            break
        sleep(0.005)
        newest = buffer.newest
    oldest = buffer.oldest
    if newest is None or oldest is None:
        raise SelectionRefused(f"{NO_IMAGE} on {topic} yet: start the camera, or remap the topic")
    found = newest if wanted == 0 else buffer.nearest(wanted, _TOLERANCE_NS)
    if found is None:
        raise SelectionRefused(_why_no_frame(wanted, oldest.stamp_ns, newest.stamp_ns))
    frame_id = found.frame.header.frame_id
    if selection.frame_id and selection.frame_id != frame_id:
        raise SelectionRefused(
            f"frame_id is '{selection.frame_id}', but the images on {topic} have '{frame_id}': "
            "draw the box on this camera's image, or leave frame_id empty"
        )
    return found


def _seconds(nanoseconds: int) -> str:
    sign = "-" if nanoseconds < 0 else ""
    whole, rest = divmod(abs(nanoseconds), 1_000_000_000)
    return f"{sign}{whole}.{rest // 1_000_000:03d}"


def _why_no_frame(wanted: int, oldest: int, newest: int) -> str:
    if wanted < oldest:
        return (
            f"stamp {_seconds(wanted)} is older than every frame kept, the oldest is "
            f"{_seconds(oldest)} ({_seconds(oldest - wanted)} s later): select on a newer frame, "
            "or raise buffer_seconds and buffer_megabytes"
        )
    if wanted > newest:
        return (
            f"stamp {_seconds(wanted)} is {_seconds(wanted - newest)} s ahead of the newest "
            f"frame, {_seconds(newest)}: copy the header of one of this camera's images, or "
            "leave the stamp zero for the newest"
        )
    return (
        f"no frame within {_seconds(_TOLERANCE_NS)} s of stamp {_seconds(wanted)} has arrived "
        f"(kept are {_seconds(oldest)} to {_seconds(newest)}): copy the header of one of this "
        "camera's images"
    )


def selection_from(
    header: Header, bbox: BoundingBox2D, label: str, append: bool = False
) -> Selection:
    """Read a request.

    Raises:
        SelectionRefused: The box is unusable on any image.
    """
    box = check_bounding_box(bbox)
    return Selection(stamp_nanoseconds(header), header.frame_id, box, label, append=append)


def selection_from_mask(message: Image) -> Selection:
    """Read a mask: mono8 or 8UC1, 0 beside the target and anything else on it.

    Raises:
        SelectionRefused: The mask is unusable on any image.
    """
    encoding = message.encoding.strip().lower()
    if encoding not in ("mono8", "8uc1"):
        raise SelectionRefused(
            f"mask has encoding '{message.encoding}': publish it as mono8 or 8UC1, 0 beside the "
            "target and 255 on it"
        )
    try:
        grey = decode_image("mono8", message.height, message.width, message.step, message.data)
    except ValueError as error:
        raise SelectionRefused(f"mask is malformed: {error}") from error
    mask = grey[..., 0] > 0
    if not mask.any():
        raise SelectionRefused("mask is 0 everywhere: set the target's pixels to 255")
    box = tight_box(mask)
    if min(box[2:]) < SMALLEST_SIDE:
        raise SelectionRefused(
            f"mask is too small, {box[2]:g} x {box[3]:g} pixels: give a target of at least "
            f"{SMALLEST_SIDE:g} x {SMALLEST_SIDE:g}"
        )
    return Selection(stamp_nanoseconds(message.header), message.header.frame_id, box, "", mask)
