# SPDX-License-Identifier: Apache-2.0
"""Encoding of the console's pictures: JPEG for the web socket, H.264 for WebRTC."""

from __future__ import annotations

import fractions
import logging
import time
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from tracker_ros.console.hub import Hub, Picture, VideoPacket

CLOCK_HZ = 90_000
"""Ticks per second of the time stamps of video in RTP."""
_KEY_INTERVAL = 60
_LOG = logging.getLogger(__name__)


def shrink(pixels: np.ndarray, max_width: int) -> np.ndarray:
    """Return (H, W, 3) uint8 pixels, made smaller if they are wider than ``max_width``."""
    height, width = pixels.shape[:2]
    if width <= max_width:
        return pixels
    size = max_width, max(2, round(height * max_width / width))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """Encode (H, W, 3) uint8 RGB as JPEG."""
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    good, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not good:
        raise ValueError(f"an image of shape {pixels.shape} cannot be encoded as JPEG")
    return data.tobytes()


class VideoEncoder:
    """Encodes pictures as H.264 that every browser decodes, without delaying any.

    The bitrate is the most bits per second, over one second.
    """

    def __init__(self, bitrate: int) -> None:
        self._bitrate = bitrate
        self._codec: Any = None

    def encode(self, pixels: np.ndarray, ticks: int, *, key: bool) -> VideoPacket:
        """Encode (H, W, 3) uint8 RGB; the last row and column are cut if H or W is odd.

        The time, in ticks of `CLOCK_HZ`, is later than that of the picture before. Decoding can
        begin with a `key` picture. Raises av.FFmpegError if PyAV has no H.264 encoder or it fails,
        cv2.error if the picture is narrower or lower than two pixels.
        """
        import av
        from av.video.frame import PictureType

        height, width = (side & ~1 for side in pixels.shape[:2])
        if self._codec is None or (self._codec.width, self._codec.height) != (width, height):
            self._codec = self._open(width, height)
        planes: Any = cv2.cvtColor(pixels[:height, :width], cv2.COLOR_RGB2YUV_I420)
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts, frame.time_base = ticks, self._codec.time_base
        if key:
            frame.pict_type = PictureType.I
        packets = self._codec.encode(frame)
        data = b"".join(bytes(packet) for packet in packets)
        return VideoPacket(data, ticks, any(packet.is_keyframe for packet in packets))

    def _open(self, width: int, height: int) -> Any:
        import av

        codec = av.CodecContext.create("libx264", "w")
        codec.width, codec.height = width, height
        codec.pix_fmt = "yuv420p"
        codec.time_base = fractions.Fraction(1, CLOCK_HZ)
        codec.framerate = fractions.Fraction(30, 1)
        codec.gop_size = _KEY_INTERVAL  # after a loss that nothing mends, a fresh start
        codec.profile = "Baseline"
        codec.thread_count = 1
        limits = {"maxrate": str(self._bitrate), "bufsize": str(self._bitrate // 2)}
        codec.options = {
            "preset": "ultrafast", "tune": "zerolatency", "crf": "23", "forced-idr": "1", **limits
        }  # fmt: skip
        return codec


@dataclass
class PictureEncoder:
    """Encodes the pictures of one camera once, in the kinds that its viewers take."""

    hub: Hub  # where viewers are, and where pictures go
    name: str  # of the pictures, as in `Picture`
    max_width: int  # width at most, pixels
    quality: int  # of JPEG, 1 to 100
    bitrate: int  # of video, bits per second at most

    def __post_init__(self) -> None:
        self._video: VideoEncoder | None = None
        self._failed = False
        self._ticks = 0

    def show(self, pixels: np.ndarray, facts: dict[str, Any]) -> None:
        """Offer (H, W, 3) uint8 RGB to the viewers, with what is known of it, as JSON values."""
        wanted = self.hub.wanted(self.name)
        if not wanted.video:
            self._video = None
        if not wanted.jpeg and not wanted.video:
            return
        pixels = shrink(pixels, self.max_width)
        packet = self._packet(pixels, wanted.key) if wanted.video else None
        takes_jpeg = wanted.jpeg or packet is None
        jpeg = encode_jpeg(pixels, self.quality) if takes_jpeg else None
        self.hub.offer_picture(Picture(self.name, jpeg, facts, packet))

    def _packet(self, pixels: np.ndarray, key: bool) -> VideoPacket | None:
        """Return a picture as video; None if it cannot be encoded, which is logged once."""
        import av

        if self._video is None:
            self._video = VideoEncoder(self.bitrate)
        self._ticks = max(self._ticks + 1, int(time.monotonic() * CLOCK_HZ))
        try:
            return self._video.encode(pixels, self._ticks, key=key)
        except (av.FFmpegError, cv2.error) as error:
            self._video = None
            if not self._failed:
                self._failed = True
                shape = pixels.shape
                _LOG.warning("JPEG instead of video for %s, %s: %s", self.name, shape, error)
            return None
