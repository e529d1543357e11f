# SPDX-License-Identifier: Apache-2.0
"""Read and write pictures of masks; `tracker_ros.masks` says how their values are understood.

Files are read unchanged: OpenCV's colour reading would cut 16-bit values to their high byte, and
turn the indices of a palette into colours. For an indexed PNG, the header is rewritten to that of
a grey picture, whose pixels are stored in the same way, and the other way round for writing.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from tracker_ros.masks import davis_palette, label_map
from tracker_ros.output_files import write_whole

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _INDEXED = 0, 3
_JPEG_SUFFIXES = (".jpg", ".jpeg")


def read_label_map(path: str | Path, *, alpha: bool = False) -> np.ndarray:
    """Return the labels in a picture of masks: (H, W) int32, 0 beside all objects.

    An alpha channel is not looked at unless it is asked for as the mask. Raises FileNotFoundError
    if there is no such file, ValueError if OpenCV cannot read it, or it has no alpha channel.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no mask at {str(path)!r}; give a picture, e.g. a PNG")
    content = path.read_bytes()
    if alpha:
        picture = _decode(content, path)
        if picture.ndim != 3 or picture.shape[2] != 4:
            raise ValueError(f"mask {str(path)!r} has no alpha channel; leave that option out")
        return label_map(picture[..., 3])
    indices = _png_indices(content, path)
    if indices is not None:
        return label_map(indices)
    picture = _decode(content, path)
    if picture.ndim == 3:
        picture = picture[..., 2::-1]  # RGB
    return label_map(picture, lossy=path.suffix.lower() in _JPEG_SUFFIXES)


def write_label_map(path: str | Path, labels: np.ndarray) -> None:
    """Write labels (H, W), 0 to 255, as an indexed PNG with the palette of DAVIS.

    Folders are made as needed. Raises ValueError for labels out of range.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.min(initial=0) < 0 or labels.max(initial=0) > 255:
        raise ValueError(
            f"labels have shape {labels.shape} and values up to {labels.max(initial=0)}; "
            "expected (H, W) from 0 to 255"
        )
    encoded = cv2.imencode(".png", labels.astype(np.uint8))[1].tobytes()
    parts = [_PNG_SIGNATURE]
    for kind, data in _chunks(encoded):
        if kind == b"IHDR":
            data = data[:9] + bytes([_INDEXED]) + data[10:]
        parts.append(_chunk(kind, data))
        if kind == b"IHDR":
            parts.append(_chunk(b"PLTE", davis_palette().tobytes()))
    write_whole(Path(path), b"".join(parts))


def _decode(content: bytes, path: Path) -> np.ndarray:
    """Decode a picture as it is: depth, channels (BGR, BGRA) and orientation unchanged."""
    data = np.frombuffer(content, np.uint8)
    reason = ""
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    except (cv2.error, MemoryError) as error:  # more pixels than OpenCV or the memory takes
        picture = None
        reason = f" ({getattr(error, 'err', '') or 'it needs more memory than there is'})"
    if picture is None:
        raise ValueError(f"mask {str(path)!r} is not a picture that OpenCV can read{reason}")
    return picture


def _png_indices(content: bytes, path: Path) -> np.ndarray | None:
    """Return the indices (H, W) of an indexed PNG, or None if the content is something else."""
    if not content.startswith(_PNG_SIGNATURE) or content[25:26] != bytes([_INDEXED]):
        return None
    parts, bits = [_PNG_SIGNATURE], content[24]
    for kind, data in _chunks(content):
        if kind == b"IHDR":
            parts.append(_chunk(kind, data[:9] + bytes([_GREY]) + data[10:]))
        elif kind in (b"IDAT", b"IEND"):
            parts.append(_chunk(kind, data))
    grey = _decode(b"".join(parts), path)
    # OpenCV spreads the values of fewer bits over 0 to 255.
    return grey // (255 // (2**bits - 1)) if bits < 8 else grey


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and data of each chunk of a PNG."""
    place = len(_PNG_SIGNATURE)
    while place + 8 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        yield content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        place += length + 12


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
