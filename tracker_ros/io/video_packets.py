# SPDX-License-Identifier: Apache-2.0
"""Packets of a live video stream to images: H.264, H.265, AV1 and what else FFmpeg decodes (PyAV).

A packet is useless without those before it, back to a key frame. So packets are decoded in the
order in which they come, all of them, and a loss costs the images up to the next key frame: the
decoder would fill the gap with smeared ones, which a tracker takes for the scene.

No image is held back longer than the stream asks for: one without B-frames comes out with its own
packet. FFmpeg's threads by frame would delay each image by their number, so they are not used.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracker_ros.io.image_encodings import MalformedImageError, UnsupportedEncodingError

__all__ = ["PacketDecoder", "PacketThread", "StreamImage", "VideoPacket"]

# The first decoder that there is: FFmpeg's own one for AV1 needs a GPU.
_DECODERS = {
    "h264": ("h264",),
    "hevc": ("hevc",),
    "av1": ("libdav1d", "libaom-av1", "av1"),
    "vp9": ("vp9",),
    "vp8": ("vp8",),
    "mjpeg": ("mjpeg",),
    "mpeg4": ("mpeg4",),
}
_NAMES = {"264": "h264", "avc": "h264", "265": "hevc", "hevc": "hevc", "av1": "av1"}
_HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
_MAX_WAITING = 256


@dataclass(frozen=True)
class VideoPacket:
    """One packet of a stream.

    Attributes:
        codec: Name of codec or encoder, such as ``h264``, ``hevc_nvenc`` or ``libsvtav1``; what
            follows a semicolon is left out.
        data: The bytes; for H.264 and H.265 with start codes (Annex B).
        stamp_ns: Stamp of its image, nanoseconds.
        frame_id: The camera's coordinate frame.
        is_key: Whether it is known to begin with a key frame.
        number: The encoder's count of images, where it tells.
    """

    codec: str
    data: bytes
    stamp_ns: int
    frame_id: str = ""
    is_key: bool = False
    number: int | None = None


@dataclass(frozen=True)
class StreamImage:
    """A decoded image, kept as the decoder made it, which takes half the memory of RGB."""

    stamp_ns: int
    frame_id: str
    frame: Any

    @property
    def byte_count(self) -> int:
        """Bytes that it keeps in memory."""
        return sum(plane.buffer_size for plane in self.frame.planes)

    def to_rgb(self) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB."""
        return np.asarray(self.frame.to_ndarray(format="rgb24"))


class PacketDecoder:
    """Decodes the packets of one stream.

    Attributes:
        waiting: Whether packets are left out until the next key frame.
        losses: Number of times that packets were missing or damaged.
    """

    def __init__(self) -> None:
        self.waiting = True
        self.losses = 0
        self._codec = ""
        self._context: Any = None
        self._stamps: dict[int, tuple[int, str]] = {}
        self._count = 0
        self._number: int | None = None
        self._h264 = _H264Counter()

    def decode(self, packet: VideoPacket) -> list[StreamImage]:
        """Return the images that are complete with this packet, in the order of their display.

        Raises:
            UnsupportedEncodingError: The codec is unknown or has no decoder here.
            MalformedImageError: Packets before it are missing, or it does not decode. Images come
                again from the next key frame on.
            ImportError: PyAV is missing.
        """
        name = _codec_name(packet.codec)
        if name != self._codec:
            self._codec = name
            self._restart()
        is_key = packet.is_key or _has_key_frame(name, packet.data)
        missing = self._is_missing_some(name, packet, is_key)
        if is_key and self.waiting:
            self._context = _open_decoder(name)
            self.waiting = False
        elif missing and not self.waiting:
            self._lose("packets are missing")
        if self.waiting:
            return []
        return self._decode(packet)

    def _decode(self, packet: VideoPacket) -> list[StreamImage]:
        import av

        self._count += 1
        self._stamps[self._count] = (packet.stamp_ns, packet.frame_id)
        self._stamps.pop(self._count - _MAX_WAITING, None)
        raw = av.Packet(packet.data)
        raw.pts = self._count
        try:
            frames = self._context.decode(raw)
        except av.error.FFmpegError as error:
            self._lose(f"a packet of {len(packet.data)} bytes does not decode ({error})")
        images = []
        for frame in frames:
            stamp_ns, frame_id = self._stamps.pop(frame.pts, (packet.stamp_ns, packet.frame_id))
            images.append(StreamImage(stamp_ns, frame_id, frame))
        return images

    def _is_missing_some(self, name: str, packet: VideoPacket, is_key: bool) -> bool:
        """Whether images that this packet builds on have not come."""
        before, self._number = self._number, packet.number
        if name == "h264":
            return self._h264.is_gap(packet.data) and not is_key
        if name == "hevc" or is_key or before is None or packet.number is None:
            return False  # the decoder of H.265 misses them itself
        return packet.number != before + 1

    def _lose(self, reason: str) -> None:
        self.losses += 1
        self._restart()
        raise MalformedImageError(
            f"video stream: {reason}; images come again with the next key frame. If this is "
            "frequent, use a reliable connection or let the camera send key frames more often"
        )

    def _restart(self) -> None:
        self.waiting = True
        self._context = None
        self._stamps.clear()


class PacketThread:
    """Decodes packets in a thread of its own, so that none waits for the tracker.

    Args:
        receive: Called with each image.
        complain: Called with the reason when packets are lost or cannot be decoded.
    """

    def __init__(
        self, receive: Callable[[StreamImage], None], complain: Callable[[str], None]
    ) -> None:
        self._receive = receive
        self._complain = complain
        self._packets: queue.Queue[VideoPacket | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="video packets", daemon=True)
        self._thread.start()

    def put(self, packet: VideoPacket) -> None:
        """Leave a packet to the thread; it is lost if too many wait already."""
        try:
            self._packets.put_nowait(packet)
        except queue.Full:
            self._complain(
                f"{_MAX_WAITING} video packets wait to be decoded: this computer is too slow for "
                "the stream, give it a lower rate or resolution"
            )

    def close(self) -> None:
        """End the thread."""
        while self._thread.is_alive():
            try:
                self._packets.put_nowait(None)
                break
            except queue.Full:
                self._packets.get_nowait()
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        decoder = PacketDecoder()
        while (packet := self._packets.get()) is not None:
            try:
                images = decoder.decode(packet)
            except (ValueError, ImportError) as error:
                self._complain(str(error))
                continue
            for image in images:
                self._receive(image)


def _codec_name(text: str) -> str:
    """Return the codec that an encoding, a format or the name of an encoder stands for."""
    word = text.partition(";")[0].strip().lower()
    name = next((codec for part, codec in _NAMES.items() if part in word), word)
    if name not in _DECODERS:
        raise UnsupportedEncodingError(
            f"video stream has encoding '{text}', expected one of {', '.join(_DECODERS)}"
        )
    return name


def _open_decoder(name: str) -> Any:
    """Open a decoder that holds no image back and conceals no error."""
    try:
        import av
    except ImportError as error:
        raise ImportError(f"video streams need PyAV ({error}): pip install av") from error
    for decoder in _DECODERS[name]:
        if decoder not in av.codecs_available:
            continue
        context = av.CodecContext.create(decoder, "r")
        context.thread_type = "SLICE"
        context.flags |= av.codec.context.Flags.low_delay
        context.options = {"err_detect": "explode"}
        return context
    raise UnsupportedEncodingError(f"this PyAV has no decoder for {name}: pip install av")


def _nal_units(data: bytes) -> Iterator[bytes]:
    """Yield the units between the start codes of H.264 or H.265."""
    begin = data.find(b"\x00\x00\x01")
    while begin >= 0:
        end = data.find(b"\x00\x00\x01", begin + 3)
        yield data[begin + 3 : end if end >= 0 else len(data)]
        begin = end


def _has_key_frame(name: str, data: bytes) -> bool:
    """Whether a decoder can begin with this packet."""
    if name == "h264":
        return any(unit and unit[0] & 31 in (5, 7) for unit in _nal_units(data))
    if name == "hevc":
        return any(unit and 16 <= unit[0] >> 1 & 63 <= 23 for unit in _nal_units(data))
    if name == "av1":
        return any(kind == 1 for kind in _obu_types(data))
    if name in ("vp8", "vp9"):
        return bool(data) and not data[0] & (1 if name == "vp8" else 4)
    return True


def _obu_types(data: bytes) -> Iterator[int]:
    """Yield the types of the open bitstream units of an AV1 packet; 1 is a sequence header."""
    place = 0
    while place < len(data):
        header = data[place]
        yield header >> 3 & 15
        place += 2 if header & 4 else 1
        if not header & 2:
            return
        size = shift = 0
        while place < len(data):
            size |= (data[place] & 127) << shift
            shift, place = shift + 7, place + 1
            if data[place - 1] < 128:
                break
        place += size


class _H264Counter:
    """Finds gaps in H.264's count of reference images, `frame_num` (ITU-T H.264, 7.4.3)."""

    def __init__(self) -> None:
        self._bits = 0  # of frame_num; 0 while it is not known
        self._last = 0

    def is_gap(self, data: bytes) -> bool:
        """Take a packet; whether images that it refers to have not come."""
        for unit in _nal_units(data):
            kind = unit[0] & 31 if unit else 0
            if kind == 7:
                self._bits = _frame_num_bits(unit)
            elif kind == 5:
                self._last = 0
                return False
            elif kind == 1 and self._bits:
                return self._is_gap(unit)
        return False

    def _is_gap(self, unit: bytes) -> bool:
        bits = _Bits(unit[1:32])
        for _ in range(3):  # first_mb_in_slice, slice_type, pic_parameter_set_id
            bits.golomb()
        number, last = bits.take(self._bits), self._last
        if unit[0] & 0x60:  # others may refer to it
            self._last = number
        return number not in (last, (last + 1) % (1 << self._bits))


def _frame_num_bits(unit: bytes) -> int:
    """Return the bits of frame_num from a sequence parameter set; 0 where gaps are allowed."""
    bits = _Bits(unit[1:])
    profile = bits.take(8)
    bits.take(16)
    bits.golomb()
    if profile in _HIGH_PROFILES:
        chroma = bits.golomb()
        separate = chroma == 3 and bits.take(1)
        bits.golomb()
        bits.golomb()
        bits.take(1)
        if separate or bits.take(1):  # scaling lists
            return 0
    length = bits.golomb() + 4
    order = bits.golomb()
    if order == 1:
        return 0
    if order == 0:
        bits.golomb()
    bits.golomb()  # max_num_ref_frames
    return 0 if bits.take(1) else length


class _Bits:
    """Reads bits and Exp-Golomb numbers; zeros follow the end."""

    def __init__(self, data: bytes) -> None:
        plain = data.replace(b"\x00\x00\x03", b"\x00\x00")
        self._value = int.from_bytes(plain, "big")
        self._left = 8 * len(plain)

    def take(self, count: int) -> int:
        """Return the next bits as a number."""
        self._left -= count
        shifted = self._value >> self._left if self._left >= 0 else 0
        return shifted & ((1 << count) - 1)

    def golomb(self) -> int:
        """Return the next unsigned Exp-Golomb number."""
        zeros = 0
        while self._left > 0 and not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)
