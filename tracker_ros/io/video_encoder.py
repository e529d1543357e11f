# SPDX-License-Identifier: Apache-2.0
"""Images to packets of a live video stream (PyAV), for what stands in for a camera."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from tracker_ros.io.video_source import import_av

# The first encoder that there is, with the options by which each image gives one packet at once.
_ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "libx264": (
        "h264",
        {"tune": "zerolatency", "preset": "veryfast", "x264-params": "scenecut=0"},
    ),
    "libopenh264": ("h264", {}),
    "mpeg4": ("mpeg4", {}),
}


class EncodedImage(bytes):
    """The packet of one image."""

    is_key: bool = False  # whether decoding can begin with it


class VideoEncoder:
    """Encodes images as H.264, or as MPEG-4 where PyAV has no encoder for that; see `codec`.

    A key frame comes each second: a subscriber that comes later, or loses a packet, waits for the
    next one. Raises ImportError if PyAV is not installed, or has none of these encoders.
    """

    def __init__(self, rate_hz: float) -> None:
        self._av = av = import_av("encoding video")
        name = next((name for name in _ENCODERS if _has_encoder(av, name)), None)
        if name is None:
            raise ImportError(
                f"this PyAV {av.__version__} has none of the encoders {', '.join(_ENCODERS)}: "
                "pip install av"
            )
        self._name = name
        self.codec = _ENCODERS[name][0]
        self._rate_hz = rate_hz
        self._group = max(1, round(rate_hz))  # images from one key frame to the next
        self._context: Any = None
        self.count = 0

    def encode(self, pixels: np.ndarray) -> EncodedImage:
        """Return the packet of an image, (H, W, 3) uint8 RGB.

        Images of another size than before begin a new stream, with a key frame. Raises
        RuntimeError if the encoder keeps the image back.
        """
        height, width = pixels.shape[:2]
        if self._context is None or (self._context.width, self._context.height) != (width, height):
            self._context = self._open(width, height)
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = frame.reformat(format=self._context.pix_fmt)
        frame.pts, frame.time_base = self.count, self._context.time_base
        self.count += 1
        packets = self._context.encode(frame)
        if len(packets) != 1:
            raise RuntimeError(
                f"the encoder {self._name} returned {len(packets)} packets for an image, "
                "expected one: use another transport"
            )
        image = EncodedImage(bytes(packets[0]))
        image.is_key = bool(packets[0].is_keyframe)
        return image

    def _open(self, width: int, height: int) -> Any:
        context: Any = self._av.CodecContext.create(self._name, "w")
        context.width, context.height = width, height
        # Half the colours need even sides; H.264 has a profile for the others.
        even = width % 2 == 0 and height % 2 == 0
        context.pix_fmt = "yuv420p" if even or self._name != "libx264" else "yuv444p"
        rate = Fraction(self._rate_hz).limit_denominator(1000)
        context.time_base, context.framerate = 1 / rate, rate
        context.gop_size, context.max_b_frames = self._group, 0
        context.options = dict(_ENCODERS[self._name][1])
        return context


def _has_encoder(av: Any, name: str) -> bool:
    try:
        av.Codec(name, "w")
    except Exception:  # PyAV's error for an unknown codec has changed its place
        return False
    return True
