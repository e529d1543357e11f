# SPDX-License-Identifier: Apache-2.0
"""Images of one camera to RGB: raw or compressed, the same in node, bag, video and folder."""

from __future__ import annotations

import numpy as np

from tracker_ros.io.grey_range import GreyRange
from tracker_ros.io.image_encodings import (
    MalformedImageError,
    UnsupportedEncodingError,
    decode_image,
    find_encoding,
)
from tracker_ros.quoting import quote

__all__ = ["ImageDecoder", "is_cut_jpeg"]

Bytes = bytes | bytearray | memoryview | np.ndarray

_JPEG, _SCAN, _END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
_COLOURS = ("rgb8", "bgr8", "rgba8", "bgra8", "rgb16", "bgr16", "rgba16", "bgra16")


class ImageDecoder:
    """Decodes the images of one camera.

    Args:
        mono16_range: How 16 bits of grey become 8: ``auto``, ``full`` or ``[low, high]``; see
            `GreyRange`. For mono16 and for Bayer patterns of 16 bits.
        encoding_override: Encoding that takes the place of the messages' own; empty keeps theirs.
        reversed_views: See `decode_image`.

    Raises:
        ValueError: A setting cannot be used.
    """

    def __init__(
        self,
        mono16_range: str = "auto",
        encoding_override: str = "",
        *,
        reversed_views: bool = False,
    ) -> None:
        self._range = GreyRange(mono16_range)
        self._reversed_views = reversed_views
        self._encoding = encoding_override.strip()
        if self._encoding:
            find_encoding(self._encoding)

    def decode(
        self,
        encoding: str,
        height: int,
        width: int,
        step: int,
        data: Bytes,
        is_bigendian: bool = False,
    ) -> np.ndarray:
        """Turn the fields of a ``sensor_msgs/Image`` into RGB; see `decode_image`."""
        return decode_image(
            self._encoding or encoding,
            height,
            width,
            step,
            data,
            is_bigendian,
            self._range.to_eight_bits,
            self._reversed_views,
        )

    def decode_compressed(self, format_text: str, data: Bytes) -> np.ndarray:
        """Turn the fields of a ``sensor_msgs/CompressedImage``, or a picture's file, into RGB.

        The picture is what OpenCV reads: JPEG, PNG, TIFF, WebP. It is not turned by its EXIF
        orientation, which the camera's calibration knows nothing of. The format is read as
        image_transport does: ``bayer_rggb8; png compressed`` is a Bayer pattern, and
        ``rgb8; jpeg compressed`` without ``bgr8`` behind it was compressed as if red were blue.

        Args:
            format_text: For example ``jpeg`` or ``rgb8; jpeg compressed bgr8``; may be empty.
            data: The bytes.

        Returns:
            (H, W, 3) uint8 RGB.

        Raises:
            UnsupportedEncodingError: The picture has no encoding of the table.
            MalformedImageError: The data does not decode.
        """
        encoding, _, kind = (part.strip().lower() for part in format_text.partition(";"))
        if "compresseddepth" in kind:
            raise UnsupportedEncodingError(
                f"format {quote(format_text)} is depth, not a picture: give a colour or grey topic"
            )
        pixels = _read_picture(format_text, data)
        bits = 8 * pixels.itemsize
        if pixels.ndim == 2:
            grey = f"{(self._encoding or encoding).lower().rstrip('0123456789')}{bits}"
            encoding = grey if grey.startswith("bayer_") else f"mono{bits}"
        else:
            swapped = encoding in _COLOURS and "compressed bgr" not in kind and bool(kind)
            order = "rgb" if swapped else "bgr"
            encoding = f"{order}{'a' if pixels.shape[2] == 4 else ''}{bits}"
        height, width = pixels.shape[:2]
        data = pixels.view(np.uint8).reshape(-1)
        step = pixels.strides[0]
        return decode_image(
            encoding,
            height,
            width,
            step,
            data,
            to_eight_bits=self._range.to_eight_bits,
            reversed_views=self._reversed_views,
        )


def _read_picture(format_text: str, data: Bytes) -> np.ndarray:
    """Return the pixels as they are in a file: (H, W), (H, W, 3) or (H, W, 4), 8 or 16 bits."""
    import cv2

    values = np.frombuffer(data, dtype=np.uint8)
    picture = None
    # Of a JPEG that was cut, some versions of OpenCV return the upper part, and grey below it.
    if values.size and not is_cut_jpeg(values):
        try:
            picture = cv2.imdecode(values, cv2.IMREAD_UNCHANGED)
        except cv2.error:
            picture = None
    if picture is None:
        raise MalformedImageError(
            f"compressed image of {values.size} bytes and format {quote(format_text)} does not "
            "decode: it was cut or is no picture that OpenCV reads (JPEG, PNG, TIFF)"
        )
    if picture.dtype not in (np.uint8, np.uint16) or picture.ndim == 3 and picture.shape[2] < 3:
        raise UnsupportedEncodingError(
            f"compressed image of format {quote(format_text)} holds {picture.dtype} of shape "
            f"{picture.shape}, expected grey or colours of 8 or 16 bits"
        )
    return np.ascontiguousarray(picture)


def is_cut_jpeg(values: np.ndarray) -> bool:
    """Whether a file's bytes (N,) uint8 are a JPEG without an end behind its last scan.

    Some cameras pad a JPEG with zeros.
    """
    if values[:3].tobytes() != _JPEG:
        return False
    data = values.tobytes()
    return data.rfind(_END) < data.rfind(_SCAN)
