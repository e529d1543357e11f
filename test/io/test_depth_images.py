# SPDX-License-Identifier: Apache-2.0
"""Depth images to metres, raw and compressed."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from tracker_ros.io.depth_images import DepthImage, decode_compressed_depth
from tracker_ros.io.image_encodings import MalformedImageError, UnsupportedEncodingError

NAN = float("nan")


def encode_rvl(pixels: np.ndarray) -> bytes:
    """Return (H, W) uint16 as columns, rows and an RVL stream, as the publishing plug-in does."""
    nibbles: list[int] = []

    def put(number: int) -> None:
        while number > 7:
            nibbles.append(number & 7 | 8)
            number >>= 3
        nibbles.append(number)

    values, place, previous = pixels.reshape(-1).tolist(), 0, 0
    while place < len(values):
        zeros = place
        while zeros < len(values) and values[zeros] == 0:
            zeros += 1
        stop = zeros
        while stop < len(values) and values[stop] != 0:
            stop += 1
        put(zeros - place)
        put(stop - zeros)
        for value in values[zeros:stop]:
            difference, previous = value - previous, value
            put(2 * difference if difference >= 0 else -2 * difference - 1)
        place = stop
    nibbles += [0] * (-len(nibbles) % 8)
    words = [
        int("".join(f"{n:x}" for n in nibbles[i : i + 8]), 16) for i in range(0, len(nibbles), 8)
    ]
    rows, columns = pixels.shape
    return struct.pack("<ii", columns, rows) + struct.pack(f"<{len(words)}I", *words)


def compressed(levels: np.ndarray, codec: str, scale: float = 0.0, offset: float = 0.0) -> bytes:
    """Return the data of a compressed depth message."""
    body = encode_rvl(levels) if codec == "rvl" else cv2.imencode(".png", levels)[1].tobytes()
    return struct.pack("<iff", 0, scale, offset) + body


def raw_depth(encoding, height, width, step, data, is_bigendian=False) -> np.ndarray:
    """Return all of a raw depth image in metres."""
    message = SimpleNamespace(
        encoding=encoding, height=height, width=width, step=step, data=data,
        is_bigendian=is_bigendian,
    )  # fmt: skip
    return DepthImage(message).region((0, 0, width, height))


def scene(height: int = 48, width: int = 64) -> np.ndarray:
    """Return (H, W) uint16 of slopes, steps and holes."""
    rng = np.random.default_rng(5)
    depth = np.add.outer(np.arange(height) * 40, np.arange(width) * 3) + 700
    depth[10:20, 15:40] = 60_000
    depth[rng.random(depth.shape) < 0.2] = 0
    return depth.astype(np.uint16)


@pytest.mark.parametrize("padding", [0, 2, 6])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", ["16UC1", "mono16", " 16uc1"])
def test_millimetres(encoding, big, padding):
    rows = np.array([[1000, 0, 65535], [1, 2500, 0]], ">u2" if big else "<u2").view(np.uint8)
    data = np.pad(rows, ((0, 0), (0, padding)), constant_values=7).tobytes()
    depth = raw_depth(encoding, 2, 3, 6 + padding, data[: len(data) - padding], big)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, [[1.0, NAN, 65.535], [0.001, 2.5, NAN]], rtol=1e-6)


@pytest.mark.parametrize(("encoding", "kind"), [("32FC1", "f4"), ("64FC1", "f8")])
@pytest.mark.parametrize("order", "<>")
def test_metres(encoding, kind, order):
    values = np.array([[0.5, NAN, np.inf], [-np.inf, 0.0, -1.0]], order + kind)
    depth = raw_depth(encoding, 2, 3, values.strides[0], values.tobytes(), order == ">")
    np.testing.assert_array_equal(depth, np.array([[0.5, NAN, NAN], [NAN] * 3], np.float32))


@pytest.mark.parametrize("codec", ["png", "rvl"])
@pytest.mark.parametrize("encoding", ["16UC1", "mono16"])
def test_compressed_millimetres(encoding, codec):
    levels = scene()
    depth = decode_compressed_depth(
        f"{encoding}; compressedDepth {codec}", compressed(levels, codec)
    )
    wanted = np.where(levels > 0, levels / 1000.0, np.nan)
    np.testing.assert_allclose(depth, wanted, rtol=1e-6)


@pytest.mark.parametrize("codec", ["png", "rvl"])
def test_compressed_metres_are_quantised_by_their_inverse(codec):
    metres = np.where(scene() > 0, 0.5 + scene() % 8000 / 1000.0, np.nan)
    scale, offset = 100.0 * 101.0, 1.0 - 100.0 * 101.0 / 10.0  # as for depth_max 10 m
    levels = np.where(metres > 0, scale / metres + offset, 0).round().astype(np.uint16)
    data = compressed(levels, codec, scale, offset)
    depth = decode_compressed_depth(f"32FC1; compressedDepth {codec}", data)
    assert np.array_equal(np.isnan(depth), np.isnan(metres))
    np.testing.assert_allclose(depth, metres, rtol=5e-3)


def test_the_earliest_format_names_no_codec():
    data = compressed(np.full((4, 6), 1500, np.uint16), "png")
    for text in ("16UC1", "16UC1; compressedDepth", "16UC1;compressedDepth png"):
        np.testing.assert_allclose(decode_compressed_depth(text, data), np.full((4, 6), 1.5))


@pytest.mark.parametrize(
    "text", ["jpeg", "rgb8; jpeg compressed bgr8", "8UC1; compressedDepth png"]
)
def test_what_is_no_depth_is_refused(text):
    with pytest.raises(UnsupportedEncodingError, match="expected"):
        decode_compressed_depth(text, bytes(100))
    with pytest.raises(UnsupportedEncodingError, match="expected"):
        raw_depth("rgb8", 2, 2, 6, bytes(12))


@pytest.mark.parametrize("codec", ["png", "rvl"])
@pytest.mark.parametrize("keep", [0, 5, 12, 15, 20, 200, -40])
def test_cut_data_is_refused(codec, keep):
    data = compressed(scene(), codec)
    with pytest.raises(MalformedImageError):
        decode_compressed_depth(f"16UC1; compressedDepth {codec}", data[:keep])


@pytest.mark.parametrize(
    ("height", "width", "step", "size"), [(0, 2, 4, 8), (2, 0, 4, 8), (2, 2, 3, 8), (2, 2, 4, 7)]
)
def test_sizes_that_do_not_fit_are_refused(height, width, step, size):
    with pytest.raises(MalformedImageError):
        raw_depth("16UC1", height, width, step, bytes(size))


def test_random_bytes_never_decode_by_chance():
    rng = np.random.default_rng(2)
    for _ in range(50):
        data = bytes(12) + struct.pack("<ii", 64, 48) + rng.bytes(400)
        with pytest.raises(MalformedImageError):
            decode_compressed_depth("16UC1; compressedDepth rvl", data)
