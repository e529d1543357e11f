# SPDX-License-Identifier: Apache-2.0
"""Depth images to metres: raw, and as `compressed_depth_image_transport` sends them.

| Encoding | Holds |
| --- | --- |
| 16UC1 (mono16) | millimetres; 0 where nothing was measured |
| 32FC1, 64FC1 | metres; 0, NaN or an infinity where nothing was measured (REP 118) |

Compressed depth begins with a header of 12 bytes: the kind of quantisation (int32) and its two
parameters (float32). A PNG of 16 bits follows, or the number of columns and rows (int32 each) and
an RVL stream. RVL: A. D. Wilson, "Fast Lossless Depth Image Compression", ISS 2017.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from tracker_ros.io.image_encodings import MalformedImageError, UnsupportedEncodingError
from tracker_ros.quoting import quote

_DEPTH_ENCODINGS = {"16uc1": "u2", "mono16": "u2", "32fc1": "f4", "64fc1": "f8"}
"""The raw encodings in lower case, with their NumPy types without a byte order."""

_HEADER = struct.Struct("<iff")
_SIZE = struct.Struct("<ii")
_MAX_SIDE = 1 << 14
_MAX_DIGITS = 11  # of 3 bits: enough for 32 bits


class DepthImage:
    """A depth image as it came, raw or compressedDepth; only what is asked for becomes metres.

    Raises UnsupportedEncodingError if the encoding is not one of depth; MalformedImageError, which
    names the one at fault, if sizes, step and data do not fit together, or do not decode.
    """

    def __init__(self, message: Any) -> None:
        is_raw = hasattr(message, "encoding")
        if is_raw:
            self._pixels = _raw_pixels(message)
        else:
            self._pixels = decode_compressed_depth(message.format, message.data)
        self.height, self.width = self._pixels.shape
        # It came as metres, so that a publisher may have mistaken the unit.
        self.is_float = is_raw and self._pixels.dtype.kind == "f"

    def region(self, region: tuple[int, int, int, int]) -> np.ndarray:
        """Return the depth of the pixels ``left, top, right, bottom``.

        It is (bottom - top, right - left) float32, metres along the optical axis, NaN where
        nothing was measured.
        """
        left, top, right, bottom = region
        return _metres(self._pixels[top:bottom, left:right])


def _raw_pixels(message: Any) -> np.ndarray:
    """Return the values of a raw depth image, (H, W) of its own type, as a view of its data."""
    encoding, step, width, height = message.encoding, message.step, message.width, message.height
    kind = _DEPTH_ENCODINGS.get(encoding.strip().lower())
    if kind is None:
        raise UnsupportedEncodingError(
            f"depth has encoding {quote(encoding)}, expected 16UC1 (millimetres) or 32FC1 "
            "(metres): give the topic of the depth image, registered to the colour image"
        )
    dtype = np.dtype((">" if message.is_bigendian else "<") + kind)
    if height <= 0 or width <= 0:
        raise MalformedImageError(f"depth is {width}x{height} pixels, expected at least 1x1")
    values = np.frombuffer(message.data, dtype=np.uint8)
    if step < width * dtype.itemsize:
        raise MalformedImageError(
            f"step is {step} bytes, expected at least {width * dtype.itemsize} for {width} "
            f"pixels of {encoding}: the camera's driver must fill step"
        )
    # The last row may end without its padding.
    if values.size < step * (height - 1) + width * dtype.itemsize:
        raise MalformedImageError(
            f"data holds {values.size} bytes, expected at least {step * height} for a "
            f"{width}x{height} {encoding} image: the image was cut short"
        )
    return np.ndarray((height, width), dtype, buffer=values, strides=(step, dtype.itemsize))


def decode_compressed_depth(format_text: str, data: bytes | memoryview | np.ndarray) -> np.ndarray:
    """Turn the fields of a ``sensor_msgs/CompressedImage`` of compressedDepth into metres.

    The format is ``16UC1; compressedDepth png`` or ``32FC1; compressedDepth rvl``, for example.
    Returns (H, W) float32, NaN where nothing was measured. Raises UnsupportedEncodingError if the
    format is not compressed depth, MalformedImageError if the data does not decode.
    """
    encoding, _, codec = (part.strip().lower() for part in format_text.partition(";"))
    if encoding not in ("16uc1", "32fc1", "mono16") or (codec and "compresseddepth" not in codec):
        raise UnsupportedEncodingError(
            f"depth has format {quote(format_text)}, expected '16UC1; compressedDepth png', "
            "'32FC1; compressedDepth png' or the same with rvl"
        )
    payload = memoryview(np.frombuffer(data, dtype=np.uint8).tobytes())
    if len(payload) <= _HEADER.size:
        raise MalformedImageError(
            f"compressed depth holds {len(payload)} bytes, expected a header of {_HEADER.size} "
            "bytes and an image"
        )
    _, scale, offset = _HEADER.unpack_from(payload)
    payload = payload[_HEADER.size :]
    levels = _decode_rvl(payload) if codec.endswith("rvl") else _decode_png(payload)
    if encoding != "32fc1":
        return _metres(levels)
    measured = levels > 0
    inverse = np.where(measured, levels, np.nan).astype(np.float32) - np.float32(offset)
    with np.errstate(divide="ignore"):
        return _metres(np.float32(scale) / inverse)


def _metres(pixels: np.ndarray) -> np.ndarray:
    """Convert (H, W) millimetres (integers) or metres (floats), NaN where nothing was measured."""
    if pixels.dtype.kind == "u":
        depth = pixels.astype(np.float32)
        depth *= np.float32(1e-3)
    else:
        depth = pixels.astype(np.float32)
    with np.errstate(invalid="ignore"):
        depth[~((depth > 0.0) & (depth < np.inf))] = np.nan
    return depth


def _decode_png(payload: memoryview) -> np.ndarray:
    """Return a PNG of one channel of 16 bits as (H, W) uint16."""
    import cv2

    try:
        picture = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        picture = None
    if picture is None or picture.dtype != np.uint16 or picture.ndim != 2:
        found = "nothing" if picture is None else f"{picture.dtype} of shape {picture.shape}"
        raise MalformedImageError(
            f"compressed depth does not hold a PNG of 16 bits ({found}): was the message cut?"
        )
    return np.asarray(picture)


def _decode_rvl(payload: memoryview) -> np.ndarray:
    """Return an RVL stream, preceded by columns and rows, as (H, W) uint16."""
    columns, rows = _SIZE.unpack_from(payload) if len(payload) >= _SIZE.size else (0, 0)
    if not (0 < columns <= _MAX_SIDE and 0 < rows <= _MAX_SIDE):
        raise MalformedImageError(
            f"compressed depth is {columns}x{rows} pixels, expected 1 to {_MAX_SIDE} each way: "
            "was the message cut?"
        )
    numbers = _rvl_numbers(payload[_SIZE.size :])
    listed = numbers.tolist()
    runs: list[int] = []  # pixels without and with a measurement, in turn
    begins: list[int] = []  # where the two lengths of these runs are among the numbers
    number, left = 0, rows * columns
    while left > 0 and number + 1 < len(listed):
        holes, count = listed[number], listed[number + 1]
        begins.append(number)
        runs += (holes, count)
        number += 2 + count
        left -= holes + count
    if left != 0 or number > len(listed):
        raise MalformedImageError(
            f"compressed depth does not hold {columns}x{rows} pixels: was the message cut?"
        )
    is_difference = np.ones(number, bool)
    is_difference[begins] = False
    is_difference[np.add(begins, 1)] = False
    zigzag = numbers[:number][is_difference]
    # Each value is the difference to the last pixel that was measured, modulo 2 ** 16.
    values = np.cumsum((zigzag >> 1) ^ -(zigzag & 1)).astype(np.uint16)
    pixels = np.zeros(rows * columns, np.uint16)
    pixels[np.repeat(np.arange(len(runs)) % 2 == 1, runs)] = values
    return pixels.reshape(rows, columns)


def _rvl_numbers(stream: memoryview) -> np.ndarray:
    """Return the numbers of an RVL stream, int64.

    A number is written in nibbles, the lowest three bits first; the fourth bit says that more
    follow. Eight nibbles make a 32-bit word, the first one at its top.
    """
    words = np.frombuffer(stream[: len(stream) // 4 * 4], "<u4").astype(">u4").view(np.uint8)
    nibbles: np.ndarray = np.empty(2 * words.size, np.int64)
    nibbles[0::2], nibbles[1::2] = words >> 4, words & 15
    ends = np.flatnonzero(nibbles < 8)
    if ends.size == 0:
        return ends
    nibbles = nibbles[: ends[-1] + 1]
    starts = np.concatenate([[0], ends[:-1] + 1])
    digits = ends - starts + 1
    if digits.max() > _MAX_DIGITS:
        raise MalformedImageError("compressed depth is no RVL stream: was the message cut?")
    place = np.arange(nibbles.size) - np.repeat(starts, digits)
    return np.asarray(np.add.reduceat((nibbles & 7) << (3 * place), starts))
