# SPDX-License-Identifier: Apache-2.0
"""Selections: a box or a mask on one frame, and the reasons to refuse one.

Every refusal has a code, and a message that names the value, what was expected and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import numpy as np

from tracker_ros.following.frames import Frame, FrameBuffer
from tracker_ros.geometry import (
    Box,
    BoxOutsideImageError,
    check_box,
    check_box_size,
    tight_box,
)

__all__ = [
    "MIN_SIDE",
    "Outcome",
    "Selection",
    "SelectionCode",
    "SelectionRefused",
    "arrives_soon",
    "check_selection",
    "check_selection_on_image",
    "find_frame",
]

T = TypeVar("T")

MIN_SIDE = 4.0
"""Minimum width and height of a selection and of its part inside the image, pixels."""

_TOLERANCE_NS = 100_000_000
_MAX_AHEAD_NS = 1_000_000_000


class SelectionCode(IntEnum):
    """What became of a request; the numbers are those of ``SelectTarget`` and ``RemoveTarget``."""

    OK = 0
    NOT_ACTIVE = 1
    LOADING = 2
    NO_IMAGE = 3
    STALE_STAMP = 4
    FUTURE_STAMP = 5
    UNKNOWN_STAMP = 6
    WRONG_FRAME_ID = 7
    INVALID_BOX = 8
    INVALID_MASK = 9
    OUTSIDE_IMAGE = 10
    TOO_MANY_TARGETS = 11
    UNKNOWN_TARGET = 12
    MODEL_FAILED = 13
    BUSY = 14
    INTERRUPTED = 15
    PAUSED = 16
    UNREADABLE_IMAGE = 17

    @property
    def passes_by_itself(self) -> bool:
        """Whether a request with this answer can succeed a moment later, unchanged."""
        return self in (SelectionCode.NOT_ACTIVE, SelectionCode.LOADING, SelectionCode.NO_IMAGE)


class SelectionRefused(ValueError):
    """A request is refused.

    Attributes:
        code: Why.
        message: Why, and what to do.
    """

    def __init__(self, code: SelectionCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True)
class Selection:
    """A request to follow a target: its box or its mask on one frame.

    Attributes:
        box: ``(x, y, w, h)``, pixels, top-left corner; not used where there is a mask.
        mask: (H, W) bool, True on the target.
        stamp_ns: Stamp of the frame; 0 means the newest one.
        frame_id: The frame's ``frame_id``; empty accepts any.
        label: What the target is; may be empty.
        append: True follows this target beside the present ones, False instead of them.
    """

    box: Box | None = None
    mask: np.ndarray | None = None
    stamp_ns: int = 0
    frame_id: str = ""
    label: str = ""
    append: bool = False

    @property
    def bounds(self) -> Box:
        """The box, or the box around the mask.

        Raises:
            ValueError: There is neither.
        """
        if self.mask is not None:
            return tight_box(self.mask)
        if self.box is None:
            raise ValueError("selection has neither box nor mask; give one of them")
        return self.box


@dataclass(frozen=True)
class Outcome:
    """The answer to a request.

    Attributes:
        code: Whether it succeeded, or why it was refused.
        message: A short confirmation, or the reason and what to do.
        target_id: Id of the selected target; empty if there is none.
        stamp_ns: Stamp of the frame on which tracking has started, nanoseconds.
    """

    code: SelectionCode
    message: str
    target_id: str = ""
    stamp_ns: int = 0

    @property
    def success(self) -> bool:
        """Whether the request succeeded."""
        return self.code is SelectionCode.OK


def check_selection(selection: Selection) -> None:
    """Check everything that can be checked without the image.

    Raises:
        SelectionRefused: The box or the mask cannot be used on any image.
    """
    if selection.mask is None:
        try:
            check_box_size(selection.bounds, MIN_SIDE)
        except ValueError as error:
            raise SelectionRefused(SelectionCode.INVALID_BOX, str(error)) from error
        return
    if not selection.mask.any():
        raise SelectionRefused(
            SelectionCode.INVALID_MASK, "mask is empty: set the target's pixels to 255"
        )
    width, height = selection.bounds[2:]
    if min(width, height) < MIN_SIDE:
        raise SelectionRefused(
            SelectionCode.INVALID_MASK,
            f"mask is too small, {width:g} x {height:g} pixels: give a target of at least "
            f"{MIN_SIDE:g} x {MIN_SIDE:g}",
        )


def check_selection_on_image(selection: Selection, height: int, width: int) -> None:
    """Check a selection against the size of its image, pixels.

    Raises:
        SelectionRefused: The box is larger than the image or too little of it is inside, or the
            mask has another size.
    """
    if selection.mask is None:
        try:
            box, side = selection.bounds, MIN_SIDE
            check_box(
                box, height, width, min_side=side, min_visible=side, max_ratio=1.0, slack=1.0
            )
        except BoxOutsideImageError as error:
            raise SelectionRefused(SelectionCode.OUTSIDE_IMAGE, str(error)) from error
        except ValueError as error:
            raise SelectionRefused(SelectionCode.INVALID_BOX, str(error)) from error
    elif selection.mask.shape != (height, width):
        rows, columns = selection.mask.shape
        raise SelectionRefused(
            SelectionCode.INVALID_MASK,
            f"mask of {columns} x {rows} pixels does not fit the image of that stamp "
            f"({width} x {height}): publish it in the size of the image",
        )


def arrives_soon(buffer: FrameBuffer[T], selection: Selection) -> bool:
    """Whether the selection's frame is likely to be on its way: its stamp is slightly ahead.

    The request and the image take different ways, so the request may be faster.
    """
    newest = buffer.newest
    return newest is not None and 0 < selection.stamp_ns - newest.stamp_ns < _MAX_AHEAD_NS


def find_frame(buffer: FrameBuffer[T], selection: Selection, topic: str) -> Frame[T]:
    """Find the frame on which a selection was made.

    Args:
        buffer: The frames kept.
        selection: The request.
        topic: Name of the image topic, for messages.

    Raises:
        SelectionRefused: There is no such frame, or it has another ``frame_id``.
    """
    wanted, oldest, newest = selection.stamp_ns, buffer.oldest, buffer.newest
    if newest is None or oldest is None:
        raise SelectionRefused(
            SelectionCode.NO_IMAGE,
            f"no image has arrived on {topic} yet: start the camera, or remap the topic",
        )
    found = newest if wanted == 0 else buffer.nearest(wanted, _TOLERANCE_NS)
    if found is None:
        raise _no_frame(wanted, oldest.stamp_ns, newest.stamp_ns)
    if selection.frame_id and selection.frame_id != found.frame_id:
        raise SelectionRefused(
            SelectionCode.WRONG_FRAME_ID,
            f"frame_id is '{selection.frame_id}', but the images on {topic} have "
            f"'{found.frame_id}': select on an image of this camera, or leave frame_id empty",
        )
    return found


def _no_frame(wanted: int, oldest: int, newest: int) -> SelectionRefused:
    """Explain why there is no frame with the stamp ``wanted``; all in nanoseconds."""
    if wanted < oldest:
        return SelectionRefused(
            SelectionCode.STALE_STAMP,
            f"stamp {_seconds(wanted)} is older than every frame kept, the oldest is "
            f"{_seconds(oldest)} ({_seconds(oldest - wanted)} s later): select on a newer frame, "
            "or raise buffer_seconds and buffer_megabytes",
        )
    if wanted > newest:
        return SelectionRefused(
            SelectionCode.FUTURE_STAMP,
            f"stamp {_seconds(wanted)} is {_seconds(wanted - newest)} s ahead of the newest "
            f"frame, {_seconds(newest)}: copy the header of one of this camera's images, or "
            "leave the stamp zero for the newest",
        )
    return SelectionRefused(
        SelectionCode.UNKNOWN_STAMP,
        f"no frame within {_seconds(_TOLERANCE_NS)} s of stamp {_seconds(wanted)} has arrived "
        f"(kept are {_seconds(oldest)} to {_seconds(newest)}): copy the header of one of this "
        "camera's images",
    )


def _seconds(nanoseconds: int) -> str:
    sign = "-" if nanoseconds < 0 else ""
    whole, rest = divmod(abs(nanoseconds), 1_000_000_000)
    return f"{sign}{whole}.{rest // 1_000_000:03d}"
