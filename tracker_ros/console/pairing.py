# SPDX-License-Identifier: Apache-2.0
"""Bringing images, statuses and boxes of the same stamp together; topics come in any order."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

_Image = TypeVar("_Image")
_Boxes = TypeVar("_Boxes")
_KEPT = 8


class FramePairing(Generic[_Image, _Boxes]):
    """Holds what belongs to the latest frames until each is complete. Stamps are nanoseconds.

    A frame is complete when its image and its status have come, and its boxes if the status says
    that there are some.
    """

    def __init__(self) -> None:
        self._images: OrderedDict[int, _Image] = OrderedDict()
        self._boxes: OrderedDict[int, _Boxes] = OrderedDict()
        self._statuses: OrderedDict[int, bool] = OrderedDict()

    def clear(self) -> None:
        """Forget all frames."""
        for held in (self._images, self._boxes, self._statuses):
            held.clear()

    def add_image(self, stamp: int, image: _Image) -> None:
        """Take an image."""
        _keep(self._images, stamp, image)

    def add_boxes(self, stamp: int, boxes: _Boxes) -> None:
        """Take the boxes of a frame."""
        _keep(self._boxes, stamp, boxes)

    def add_status(self, stamp: int, *, has_boxes: bool) -> None:
        """Take what the tracker says of a frame: whether there are boxes too."""
        _keep(self._statuses, stamp, has_boxes)

    def pop_complete(self) -> tuple[int, _Image, _Boxes | None] | None:
        """Return the newest complete frame and forget it and the images before it."""
        for stamp in reversed(self._images):
            has_boxes = self._statuses.get(stamp)
            if has_boxes is None or (has_boxes and stamp not in self._boxes):
                continue
            boxes = self._boxes.get(stamp) if has_boxes else None
            return stamp, self._pop(stamp), boxes
        return None

    def pop_newest(self) -> tuple[int, _Image] | None:
        """Return the newest image, complete or not, and forget it and those before it."""
        for stamp in reversed(self._images):
            return stamp, self._pop(stamp)
        return None

    def _pop(self, stamp: int) -> _Image:
        while True:
            other, image = self._images.popitem(last=False)
            if other == stamp:
                return image


_Value = TypeVar("_Value")


def _keep(held: OrderedDict[int, _Value], stamp: int, value: _Value) -> None:
    held[stamp] = value
    held.move_to_end(stamp)
    while len(held) > _KEPT:
        held.popitem(last=False)
