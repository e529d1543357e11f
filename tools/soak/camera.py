# SPDX-License-Identifier: Apache-2.0
"""A synthetic camera that stalls, changes clock, size and encoding, and sends broken images."""

from __future__ import annotations

import array
import copy
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from tools.soak.space import Space
from tracker_ros.geometry import Box
from tracker_ros.nodes.messages import compressed_from_array, image_from_array
from tracker_ros.synthetic.scene_video import synthetic_video

FRAME_ID = "camera"
SIZE = (640, 480)
SIZES = (SIZE, (320, 240), (801, 601), (1280, 720))
ENCODINGS = ("rgb8", "rgb8", "bgr8", "mono8", "rgba8")
JPEG = "jpeg"
"""An encoding, too: images are then sent compressed."""
JUMPS_S = (-3600.0, -30.0, -0.5, 0.5, 30.0, 3600.0)
# What may be wrong with an image: each returns the fields to change.
SYMPTOMS_OF_COMPRESSED: dict[str, Callable[[CompressedImage], dict[str, Any]]] = {
    "cut": lambda image: {"data": image.data[: len(image.data) // 2]},
    "noise": lambda image: {"data": array.array("B", bytes(range(256)) * 9)},
    "no data": lambda image: {"data": array.array("B")},
    "no stamp": lambda image: {"header": _header(0, 2**32 - 1)},
    "format": lambda image: {"format": "secret9; compressed"},
}
SYMPTOMS: dict[str, Callable[[Image], dict[str, Any]]] = {
    "step": lambda image: {"step": image.step // 3},
    "no step": lambda image: {"step": 0},
    "cut": lambda image: {"data": image.data[: len(image.data) // 2]},
    "longer": lambda image: {"data": image.data + array.array("B", bytes(1000))},
    "no data": lambda image: {"data": array.array("B")},
    "no width": lambda image: {"width": 0},
    "no height": lambda image: {"height": 0},
    "huge": lambda image: {"width": 2**32 - 1, "height": 2**32 - 1},
    "encoding": lambda image: {"encoding": "secret9"},
    "no encoding": lambda image: {"encoding": ""},
    "depth": lambda image: {"encoding": "16UC1"},
    "stamp": lambda image: {"header": _header(0, 2**32 - 1)},
    "negative stamp": lambda image: {"header": _header(-5, 0)},
    "zero stamp": lambda image: {"header": _header(0, 0)},
    "frame id": lambda image: {"header": Header(stamp=image.header.stamp, frame_id="another")},
}
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
    """Makes one image message after the other.

    Args:
        seed: Of the scene.
        frames: Length of the scene, which is shown back and forth.
        chance: Chooses how an image is broken.

    Attributes:
        shown: The newest good images that were published.
        published: How many images were published.
        broken: How many of them were broken.
        stalled: True while no image is to be published.
        faulty: How many of the next images are to be broken.
        space: Makes the calibration, the depth and the transform of each image.
    """

    def __init__(self, seed: int, frames: int, chance: random.Random) -> None:
        scenes = list(synthetic_video(seed, frames, SIZE))
        self._scenes = [(scene.image, scene.box) for scene in scenes + scenes[-2:0:-1]]
        self._chance = chance
        self._place = 0
        self._scaled: dict[int, Image | CompressedImage] = {}
        self.space = Space(FRAME_ID, SIZE)
        self.shown: deque[Shown] = deque(maxlen=_REMEMBERED)
        self.published = 0
        self.broken = 0
        self.offset_s = 0.0
        self.stalled = False
        self.faulty = 0
        self.show_as(SIZE, "rgb8")

    def show_as(self, size: tuple[int, int], encoding: str) -> None:
        """Change resolution and encoding."""
        self.size, self.encoding = size, encoding
        self._scaled.clear()
        self.shown.clear()

    def jump(self, seconds: float) -> None:
        """Set the camera's clock forward, or back if negative."""
        self.offset_s += seconds
        self.shown.clear()

    def heal(self) -> None:
        """Return to the right time, the first size and whole images."""
        self.offset_s, self.stalled, self.faulty = 0.0, False, 0
        self.space.heal()
        self.show_as(SIZE, "rgb8")

    def next(self, now_ns: int) -> Image | CompressedImage | None:
        """Return the image to publish now, or None while the camera is stalled.

        It is compressed if the encoding is `JPEG`.
        """
        if self.stalled:
            return None
        self._place = (self._place + 1) % len(self._scenes)
        stamp_ns = now_ns + round(self.offset_s * 1e9)
        header = _header(*divmod(stamp_ns, 1_000_000_000))
        self.published += 1
        good = self._message(self._place)
        if self.faulty > 0:
            self.faulty -= 1
            self.broken += 1
            return self._break(good, header)
        good.header = header
        self.shown.append(Shown(header, self._box(self._place)))
        return good

    def _box(self, place: int) -> Box:
        x, y, w, h = self._scenes[place][1]
        across, down = self.size[0] / SIZE[0], self.size[1] / SIZE[1]
        return (x * across, y * down, w * across, h * down)

    def _message(self, place: int) -> Image | CompressedImage:
        """Return the scene at one place in the present size and encoding; made once, then kept."""
        if place not in self._scaled:
            pixels = cv2.resize(self._scenes[place][0], self.size)
            if self.encoding in _CONVERSIONS:
                pixels = cv2.cvtColor(pixels, _CONVERSIONS[self.encoding])
            self._scaled[place] = _message(pixels, self.encoding)
        return self._scaled[place]

    def _break(self, good: Image | CompressedImage, header: Header) -> Image | CompressedImage:
        """Return a copy of an image with one thing wrong."""
        compressed = isinstance(good, CompressedImage)
        broken = copy.copy(good)
        broken.header = header
        symptoms: Any = SYMPTOMS_OF_COMPRESSED if compressed else SYMPTOMS
        for name, value in self._chance.choice(list(symptoms.values()))(broken).items():
            setattr(broken, name, value)
        return broken


def _header(seconds: int, nanoseconds: int) -> Header:
    return Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=FRAME_ID)


def _message(pixels: np.ndarray, encoding: str) -> Image | CompressedImage:
    """Return a message without a header."""
    if encoding == JPEG:
        return compressed_from_array(pixels, Header())
    height, width = pixels.shape[:2]
    message = image_from_array(pixels.reshape(height, -1), Header())
    message.width, message.encoding = width, encoding
    return message
