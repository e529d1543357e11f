# SPDX-License-Identifier: Apache-2.0
"""The synthetic camera and its ailments: stalls, clock jumps, new resolutions, broken images."""

from __future__ import annotations

import array
import random
import sys
from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from tracker_ros.geometry import Box
from tracker_ros.synthetic.scene_video import synthetic_video

FRAME_ID = "camera"
SIZE = (640, 480)
SIZES = (SIZE, (320, 240), (801, 601), (1280, 720))
ENCODINGS = ("rgb8", "rgb8", "bgr8", "mono8", "rgba8")
JUMPS_S = (-3600.0, -30.0, -0.5, 0.5, 30.0, 3600.0)
AILMENTS = ("step", "no step", "cut", "longer", "no data", "no width", "no height", "huge",
            "encoding", "no encoding", "depth", "stamp", "negative stamp", "zero stamp",
            "frame id")  # fmt: skip
_CONVERSIONS = {
    "bgr8": cv2.COLOR_RGB2BGR,
    "mono8": cv2.COLOR_RGB2GRAY,
    "rgba8": cv2.COLOR_RGB2RGBA,
}
_REMEMBERED = 30


@dataclass(frozen=True)
class Shown:
    """A good image that was published, and where the target was on it."""

    header: Header
    box: Box


class Camera:
    """Makes one image message after the other; the seed decides the scene.

    Args:
        seed: Of the scene.
        frames: Length of the scene, which is shown back and forth.
        chance: What decides in which way an image is broken.
    """

    def __init__(self, seed: int, frames: int, chance: random.Random) -> None:
        scenes = list(synthetic_video(seed, frames, SIZE))
        self._scenes = [(scene.image, scene.box) for scene in scenes + scenes[-2:0:-1]]
        self._chance = chance
        self._place = 0
        self._scaled: dict[int, Image] = {}
        self.shown: deque[Shown] = deque(maxlen=_REMEMBERED)
        self.published = 0
        self.broken = 0
        self.offset_s = 0.0
        self.stalled = False
        self.ailing = 0
        self.show_as(SIZE, "rgb8")

    def show_as(self, size: tuple[int, int], encoding: str) -> None:
        """Go on with another resolution and encoding."""
        self.size, self.encoding = size, encoding
        self._scaled.clear()
        self.shown.clear()

    def jump(self, seconds: float) -> None:
        """Set the camera's clock; stamps leap by so much."""
        self.offset_s += seconds
        self.shown.clear()

    def heal(self) -> None:
        """Be a good camera again: the right time, the first size, no faults."""
        self.offset_s, self.stalled, self.ailing = 0.0, False, 0
        self.show_as(SIZE, "rgb8")

    def next(self, now_ns: int) -> Image | None:
        """The image to publish now, stamped; None while the camera is stalled."""
        if self.stalled:
            return None
        self._place = (self._place + 1) % len(self._scenes)
        stamp_ns = now_ns + round(self.offset_s * 1e9)
        header = Header(stamp=_time(stamp_ns), frame_id=FRAME_ID)
        self.published += 1
        good = self._message(self._place)
        if self.ailing > 0:
            self.ailing -= 1
            self.broken += 1
            return self._break(good, header)
        good.header = header
        self.shown.append(Shown(header, self._box(self._place)))
        return good

    def _box(self, place: int) -> Box:
        x, y, w, h = self._scenes[place][1]
        across, down = self.size[0] / SIZE[0], self.size[1] / SIZE[1]
        return (x * across, y * down, w * across, h * down)

    def _message(self, place: int) -> Image:
        """The scene at one place, at the present size and encoding; made once, then kept."""
        if place not in self._scaled:
            pixels = cv2.resize(self._scenes[place][0], self.size)
            if self.encoding in _CONVERSIONS:
                pixels = cv2.cvtColor(pixels, _CONVERSIONS[self.encoding])
            self._scaled[place] = _message(pixels, self.encoding)
        return self._scaled[place]

    def _break(self, good: Image, header: Header) -> Image:
        """A copy of an image with one thing wrong."""
        ailment = self._chance.choice(AILMENTS)
        image = Image(
            header=header,
            height=good.height,
            width=good.width,
            encoding=good.encoding,
            step=good.step,
            data=good.data,
        )
        if ailment == "step":
            image.step = good.step // 3
        elif ailment == "no step":
            image.step = 0
        elif ailment == "cut":
            image.data = good.data[: len(good.data) // 2]
        elif ailment == "longer":
            image.data = good.data + array.array("B", bytes(1000))
        elif ailment == "no data":
            image.data = array.array("B")
        elif ailment == "no width":
            image.width = 0
        elif ailment == "no height":
            image.height = 0
        elif ailment == "huge":
            image.width = image.height = 2**32 - 1
        elif ailment == "encoding":
            image.encoding = "secret9"
        elif ailment == "no encoding":
            image.encoding = ""
        elif ailment == "depth":
            image.encoding = "16UC1"
        elif ailment == "stamp":
            image.header.stamp.nanosec = 2**32 - 1  # as near to "not a number" as a stamp can be
        elif ailment == "negative stamp":
            image.header.stamp.sec = -5
        elif ailment == "zero stamp":
            image.header.stamp = Time()
        elif ailment == "frame id":
            image.header.frame_id = "another"
        return image


def _time(nanoseconds: int) -> Time:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return Time(sec=seconds, nanosec=rest)


def _message(pixels: np.ndarray, encoding: str) -> Image:
    """A message without a header."""
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(pixels).data.cast("B"))
    height, width = pixels.shape[:2]
    return Image(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(sys.byteorder == "big"),
        step=len(data) // height,
        data=data,
    )
