# SPDX-License-Identifier: Apache-2.0
"""Selections: a box or a mask on one frame, and the reasons to refuse one.

Every refusal has a code, and a message that names the value, what was expected and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import numpy as np

from tracker_ros.following.frames import Frame
from tracker_ros.geometry import (
    Box,
    BoxOutsideImageError,
    check_box,
    check_box_size,
    tight_box,
)
from tracker_ros.quoting import quote

T = TypeVar("T")

MIN_SIDE = 4.0
"""Minimum width and height of a selection and of its part inside the image, pixels."""

MAX_LABEL = 128
"""Maximum length of a label, characters: it is drawn, and part of every status."""

_TOLERANCE_NS = 100_000_000
_MAX_AHEAD_NS = 1_000_000_000


class SelectionCode(IntEnum):
    """What became of a request, with the numbers of ``SelectTarget`` and ``RemoveTarget``."""

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
    INVALID_LABEL = 18
    NO_DETECTION = 19

    @property
    def passes_by_itself(self) -> bool:
        """Whether a request with this answer can succeed a moment later, unchanged."""
        kind = SelectionCode
        return self in (kind.NOT_ACTIVE, kind.LOADING, kind.NO_IMAGE, kind.BUSY)


class SelectionRefused(ValueError):
    """A request is refused for a reason that ``code`` and ``message`` give."""

    def __init__(self, code: SelectionCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True)
class Selection:
    """A request to follow a target: its box or its mask on one frame."""

    # ``(x, y, w, h)``, pixels, top-left corner; not used if there is a mask
    box: Box | None = None
    mask: np.ndarray | None = None  # (H, W) bool, True on the target
    stamp_ns: int = 0  # stamp of the frame; 0 means the newest one
    frame_id: str = ""  # the frame's ``frame_id``; empty accepts any
    label: str = ""  # what the target is; may be empty. At most `MAX_LABEL` printable characters.
    append: bool = False  # true follows this target beside the present ones, False instead of them

    @property
    def bounds(self) -> Box:
        """The box, or the box around the mask; ValueError if there is neither."""
        if self.mask is not None:
            return tight_box(self.mask)
        if self.box is None:
            raise ValueError("selection has neither box nor mask; give one of them")
        return self.box


@dataclass(frozen=True)
class Outcome:
    """The answer to a request; the fields are those of ``SelectTarget``'s response."""

    code: SelectionCode
    message: str
    target_id: str = ""
    stamp_ns: int = 0

    @property
    def success(self) -> bool:
        """Whether the request succeeded."""
        return self.code is SelectionCode.OK


def check_selection(selection: Selection, image: np.ndarray | None = None) -> None:
    """Raise SelectionRefused if box, mask or label are unusable, as far as the image is known."""
    label = selection.label
    if len(label) > MAX_LABEL or not label.isprintable():
        raise SelectionRefused(
            SelectionCode.INVALID_LABEL,
            f"label is {quote(label)}: give at most {MAX_LABEL} characters, all printable",
        )
    if selection.mask is not None:
        fault = _mask_fault(selection.mask, image)
        if fault:
            raise SelectionRefused(SelectionCode.INVALID_MASK, fault)
        return
    try:
        box, side = selection.bounds, MIN_SIDE
        if image is None:
            check_box_size(box, side)
        else:
            size = image.shape[:2]
            check_box(box, *size, min_side=side, min_visible=side, max_ratio=1.0, slack=1.0)
    except BoxOutsideImageError as error:
        raise SelectionRefused(SelectionCode.OUTSIDE_IMAGE, str(error)) from error
    except ValueError as error:
        raise SelectionRefused(SelectionCode.INVALID_BOX, str(error)) from error


def _mask_fault(mask: np.ndarray, image: np.ndarray | None) -> str:
    """Return why a mask cannot be used; empty if it can."""
    if not mask.any():
        return "mask is empty: set the target's pixels to 255"
    width, height = tight_box(mask)[2:]
    if min(width, height) < MIN_SIDE:
        return (
            f"mask is too small, {width:g} x {height:g} pixels: give a target of at least "
            f"{MIN_SIDE:g} x {MIN_SIDE:g}"
        )
    if image is not None and mask.shape != image.shape[:2]:
        return (
            f"mask of {mask.shape[1]} x {mask.shape[0]} pixels does not fit the image of that "
            f"stamp ({image.shape[1]} x {image.shape[0]}): publish it in the size of the image"
        )
    return ""


def arrives_soon(frames: Sequence[Frame[T]], selection: Selection) -> bool:
    """Whether the selection's frame is likely to be on its way: its stamp is slightly ahead.

    The request and the image take different ways, so the request may be faster.
    """
    newest = max((frame.stamp_ns for frame in frames), default=selection.stamp_ns)
    return 0 < selection.stamp_ns - newest < _MAX_AHEAD_NS


def find_frame(frames: Sequence[Frame[T]], selection: Selection, topic: str) -> Frame[T]:
    """Return the frame on which a selection was made; without a stamp, the newest one.

    Args:
        frames: The frames kept, the oldest first.
        selection: The request.
        topic: Name of the image topic, for messages.

    Raises:
        SelectionRefused: No frame is near enough, or it has another ``frame_id``.
    """
    wanted = selection.stamp_ns
    if not frames:
        raise SelectionRefused(
            SelectionCode.NO_IMAGE,
            f"no image has arrived on {topic} yet: start the camera, or remap the topic",
        )
    found = frames[-1]
    if wanted != 0:
        # Of frames with the same stamp, the newest.
        found = min(
            reversed(frames), key=lambda frame: (abs(frame.stamp_ns - wanted), frame.stamp_ns)
        )
        if abs(found.stamp_ns - wanted) > _TOLERANCE_NS:
            stamps = [frame.stamp_ns for frame in frames]
            raise _no_frame(wanted, min(stamps), max(stamps))
    if selection.frame_id and selection.frame_id != found.frame_id:
        raise SelectionRefused(
            SelectionCode.WRONG_FRAME_ID,
            f"frame_id is {quote(selection.frame_id)}, but the images on {topic} have "
            f"{quote(found.frame_id)}: select on an image of this camera, or leave frame_id empty",
        )
    return found


def _no_frame(wanted: int, oldest: int, newest: int) -> SelectionRefused:
    """Explain why no frame has the stamp ``wanted``; all in nanoseconds."""
    copy = "copy the header of one of this camera's images"
    if wanted < oldest:
        code = SelectionCode.STALE_STAMP
        text = (
            f"older than every frame kept, the oldest is {_seconds(oldest)} "
            f"({_seconds(oldest - wanted)} s later): select on a newer frame, or raise "
            "buffer_seconds and buffer_megabytes"
        )
    elif wanted > newest:
        code = SelectionCode.FUTURE_STAMP
        text = (
            f"{_seconds(wanted - newest)} s ahead of the newest frame, {_seconds(newest)}: "
            f"{copy}, or leave the stamp zero for the newest"
        )
    else:
        code = SelectionCode.UNKNOWN_STAMP
        text = (
            f"not within {_seconds(_TOLERANCE_NS)} s of any frame; kept are {_seconds(oldest)} "
            f"to {_seconds(newest)}: {copy}"
        )
    return SelectionRefused(code, f"stamp {_seconds(wanted)} is {text}")


def _seconds(nanoseconds: int) -> str:
    sign = "-" if nanoseconds < 0 else ""
    whole, rest = divmod(abs(nanoseconds), 1_000_000_000)
    return f"{sign}{whole}.{rest // 1_000_000:03d}"
