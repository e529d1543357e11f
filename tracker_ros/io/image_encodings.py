# SPDX-License-Identifier: Apache-2.0
"""Raw image bytes to RGB: one table of encodings for node, bag and video.

The names are those of ``sensor_msgs/image_encodings.hpp``, old and new. Where the bytes already
are RGB the result is a view of them; for the rest OpenCV converts once. The table takes the place
of cv_bridge, which is bound to one NumPy ABI and makes more copies.

OpenCV's own types (8UC1, 8UC3, 8UC4, 16UC3, 16UC4) do not name their colours. Publishers leave
them where OpenCV's order was kept, so they are read as mono8, bgr8, bgra8, bgr16 and bgra16. 16UC1
is depth as a rule and is refused; `ImageDecoder` reads it as a picture when it is told to.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tracker_ros.quoting import quote

_DEPTH = ("16uc1", "32fc1", "64fc1")


class UnsupportedEncodingError(ValueError):
    """The encoding is not in the table."""


class MalformedImageError(ValueError):
    """Width, height, step and data of an image do not fit together."""


def _keep(pixels: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) RGB as it lies in memory."""
    return pixels


def _drop_alpha(pixels: np.ndarray) -> np.ndarray:
    """Return the RGB part of (H, W, 4) RGBA, a view."""
    return pixels[:, :, :3]


def _opencv(code: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return a conversion by ``cv2.cvtColor``; OpenCV is imported at the first image."""

    def convert(pixels: np.ndarray) -> np.ndarray:
        import cv2

        return np.asarray(cv2.cvtColor(pixels, getattr(cv2, code)))

    return convert


_bgr_to_rgb = _opencv("COLOR_BGR2RGB")


@dataclass(frozen=True)
class ImageEncoding:
    """How one encoding lies in memory and becomes RGB.

    Attributes:
        channels: Values per pixel of the array handed to ``to_rgb``.
        to_rgb: (rows, W, channels) uint8, or (rows, W) for one channel, to (H, W, 3) RGB uint8.
        bits: Bits per value, 8 or 16.
        columns_multiple: The width must be a multiple of this (chroma shared by columns).
        rows_multiple: The height must be a multiple of this (chroma shared by rows).
        half_height_planes: Extra planes of half the height below the image (NV12: 1).
        sensor: Whether values of 16 bits are counts of a sensor, which may fill a narrow range.
    """

    channels: int
    to_rgb: Callable[[np.ndarray], np.ndarray]
    bits: int = 8
    columns_multiple: int = 1
    rows_multiple: int = 1
    half_height_planes: int = 0
    sensor: bool = False

    @property
    def bytes_per_pixel(self) -> int:
        """Bytes of one pixel in a row."""
        return self.channels * self.bits // 8


_UYVY = ImageEncoding(2, _opencv("COLOR_YUV2RGB_UYVY"), columns_multiple=2)
_YUYV = ImageEncoding(2, _opencv("COLOR_YUV2RGB_YUYV"), columns_multiple=2)
# OpenCV names a Bayer pattern by the second row's second and third pixel, ROS by the first row's
# first two: rggb of ROS is "BG" of OpenCV.
_BAYER = {"rggb": "BG", "bggr": "RG", "gbrg": "GR", "grbg": "GB"}


def _nv(code: str) -> ImageEncoding:
    """Return a layout with a plane of luma and one of chroma, a pair for each 2 x 2 pixels."""
    return ImageEncoding(
        1, _opencv(code), columns_multiple=2, rows_multiple=2, half_height_planes=1
    )


ENCODINGS: dict[str, ImageEncoding] = {
    "rgb8": ImageEncoding(3, _keep),
    "bgr8": ImageEncoding(3, _bgr_to_rgb),
    "rgba8": ImageEncoding(4, _drop_alpha),
    "bgra8": ImageEncoding(4, _opencv("COLOR_BGRA2RGB")),
    "mono8": ImageEncoding(1, _opencv("COLOR_GRAY2RGB")),
    "mono16": ImageEncoding(1, _opencv("COLOR_GRAY2RGB"), bits=16, sensor=True),
    "rgb16": ImageEncoding(3, _keep, bits=16),
    "bgr16": ImageEncoding(3, _bgr_to_rgb, bits=16),
    "rgba16": ImageEncoding(4, _drop_alpha, bits=16),
    "bgra16": ImageEncoding(4, _opencv("COLOR_BGRA2RGB"), bits=16),
    **{
        f"bayer_{ros}{bits}": ImageEncoding(
            1, _opencv(f"COLOR_Bayer{opencv}2RGB"), bits=bits, sensor=bits == 16
        )
        for bits in (8, 16)
        for ros, opencv in _BAYER.items()
    },
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "nv12": _nv("COLOR_YUV2RGB_NV12"),
    "nv21": _nv("COLOR_YUV2RGB_NV21"),
    "8uc1": ImageEncoding(1, _opencv("COLOR_GRAY2RGB")),
    "8uc3": ImageEncoding(3, _bgr_to_rgb),
    "8uc4": ImageEncoding(4, _opencv("COLOR_BGRA2RGB")),
    "16uc3": ImageEncoding(3, _bgr_to_rgb, bits=16),
    "16uc4": ImageEncoding(4, _opencv("COLOR_BGRA2RGB"), bits=16),
}
"""Every encoding by its ROS name in lower case."""


def supported_encodings() -> list[str]:
    """Return the names in the table as ROS writes them, in the table's order."""
    return [name.upper() if name[0].isdigit() else name for name in ENCODINGS]


def _check_layout(
    layout: ImageEncoding, encoding: str, height: int, width: int, step: int, size: int
) -> None:
    """Raise MalformedImageError, which names the field that does not fit."""
    if height <= 0 or width <= 0:
        raise MalformedImageError(
            f"image is {width}x{height} pixels, wanted at least 1x1: the camera's driver must "
            "fill width and height"
        )
    if width % layout.columns_multiple or height % layout.rows_multiple:
        raise MalformedImageError(
            f"a {encoding} image of {width}x{height} pixels cannot be: width must be a multiple "
            f"of {layout.columns_multiple} and height of {layout.rows_multiple}"
        )
    row = width * layout.bytes_per_pixel
    if step < row:
        raise MalformedImageError(
            f"step is {step} bytes, wanted at least {row} ({width} pixels of {encoding}, "
            f"{layout.bytes_per_pixel} bytes each): the camera's driver must fill step"
        )
    rows = height + layout.half_height_planes * height // 2
    if size < step * rows:
        raise MalformedImageError(
            f"data holds {size} bytes, wanted at least {step * rows} ({rows} rows of {step} "
            f"bytes for a {width}x{height} {encoding} image): the image was cut short"
        )


def decode_image(
    encoding: str,
    height: int,
    width: int,
    step: int,
    data: bytes | bytearray | memoryview | np.ndarray,
    is_bigendian: bool = False,
    to_eight_bits: Callable[[np.ndarray], np.ndarray] | None = None,
    reversed_views: bool = False,
) -> np.ndarray:
    """Turn the fields of a ``sensor_msgs/Image`` into RGB.

    Args:
        encoding: Name in ``ENCODINGS``; case and surrounding blanks do not matter.
        height: Rows of the image.
        width: Columns of the image.
        step: Bytes from one row to the next, with padding.
        data: The bytes, any object with the buffer protocol (``array.array`` included).
        is_bigendian: Whether values of 16 bits have their high byte first.
        to_eight_bits: Turns a sensor's counts (mono16, Bayer of 16 bits), (H, W) uint16, into
            uint8. By default they are scaled as colours of 16 bits are.
        reversed_views: Return a view of bgr8 too, with its channels backwards in memory. Whoever
            reads a part of it puts that into order: see `crops.in_order`.

    Returns:
        (H, W, 3) uint8 RGB. For rgb8 and rgba8 a view of ``data`` (do not write to it), else a
        new array. Values of 16 bits are scaled by 255 / 65535 and rounded, as cv_bridge does.

    Raises:
        UnsupportedEncodingError: The encoding is not in the table; names those that are.
        MalformedImageError: Sizes, step and data do not fit together; names the one at fault.
    """
    layout = find_encoding(encoding)
    values = np.frombuffer(data, dtype=np.uint8)
    _check_layout(layout, encoding.strip().lower(), height, width, step, values.size)
    rows = height + layout.half_height_planes * height // 2
    dtype = np.dtype(np.uint8 if layout.bits == 8 else (">u2" if is_bigendian else "<u2"))
    shape: tuple[int, ...] = (rows, width, layout.channels)
    strides: tuple[int, ...] = (step, layout.bytes_per_pixel, dtype.itemsize)
    if layout.channels == 1:
        shape, strides = shape[:2], strides[:2]
    pixels: np.ndarray = np.ndarray(shape, dtype=dtype, buffer=values, strides=strides)
    if layout.bits == 16:
        native = "<" if sys.byteorder == "little" else ">"
        # astype swaps bytes where it must and repairs odd strides that OpenCV refuses.
        counts = np.ascontiguousarray(pixels.astype(native + "u2", copy=False))
        scale = to_eight_bits if layout.sensor and to_eight_bits else scale_full_range
        pixels = scale(counts)
    if reversed_views and layout.to_rgb is _bgr_to_rgb:
        return pixels[:, :, ::-1]
    return layout.to_rgb(pixels)


def find_encoding(encoding: str) -> ImageEncoding:
    """Return the layout of an encoding; UnsupportedEncodingError names those that there are."""
    name = encoding.strip().lower()
    layout = ENCODINGS.get(name)
    if layout is not None:
        return layout
    known = ", ".join(supported_encodings())
    if name in _DEPTH:
        override = (
            "; if it is a picture, set encoding_override to mono16" if name == "16uc1" else ""
        )
        raise UnsupportedEncodingError(
            f"image encoding {quote(encoding)} is depth, not a picture: give a colour or grey "
            f"image topic, one of {known}{override}"
        )
    raise UnsupportedEncodingError(
        f"image encoding {quote(encoding)} is not supported, expected one of {known}: set the "
        "camera's driver or a converter to one of these"
    )


def scale_full_range(counts: np.ndarray) -> np.ndarray:
    """Convert uint16 of any shape to uint8 by 255 / 65535, rounded."""
    import cv2

    scaled: np.ndarray = np.asarray(cv2.convertScaleAbs(counts, alpha=255.0 / 65535.0))
    return scaled.reshape(counts.shape)
