# SPDX-License-Identifier: Apache-2.0
"""Tests of the encodings' table against conversions written out by hand."""

from __future__ import annotations

import array
import subprocess
import sys

import numpy as np
import pytest

from tracker_ros.crops import in_order
from tracker_ros.io.image_encodings import (
    ENCODINGS,
    MalformedImageError,
    UnsupportedEncodingError,
    decode_image,
    find_encoding,
    supported_encodings,
)

HEIGHT, WIDTH = 6, 10
BAYER = {"rggb": "RGGB", "bggr": "BGGR", "gbrg": "GBRG", "grbg": "GRBG"}


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(H, W, 3) uint8 of noise, the same at every call."""
    rng = np.random.default_rng(7)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def padded(rows: np.ndarray, padding: int) -> tuple[int, bytes]:
    """Rows of bytes with ``padding`` bytes of rubbish after each: (step, data)."""
    flat = rows.reshape(rows.shape[0], -1).view(np.uint8)
    waste = np.full((flat.shape[0], padding), 0xA5, np.uint8)
    return flat.shape[1] + padding, np.hstack([flat, waste]).tobytes()


def yuv_to_rgb(y: float, u: float, v: float) -> np.ndarray:
    """One pixel, ITU-R BT.601 with limited range, as video cameras send it."""
    y, u, v = 1.164383 * (y - 16), u - 128.0, v - 128.0
    rgb = (y + 1.596027 * v, y - 0.391762 * u - 0.812968 * v, y + 2.017232 * u)
    return np.clip(np.round(rgb), 0, 255)


@pytest.mark.parametrize("padding", [0, 1, 14])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [
        ("rgb8", (0, 1, 2)),
        ("bgr8", (2, 1, 0)),
        ("rgba8", (0, 1, 2, 1)),
        ("bgra8", (2, 1, 0, 1)),
        ("8UC3", (2, 1, 0)),
        ("8UC4", (2, 1, 0, 1)),
    ],
)
def test_colour(encoding, order, padding):
    rgb = picture()
    step, data = padded(np.ascontiguousarray(rgb[:, :, order]), padding)
    result = decode_image(encoding, HEIGHT, WIDTH, step, data)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, rgb)


def test_a_reversed_view_is_put_into_order_part_by_part():
    rgb = picture()
    step, data = padded(np.ascontiguousarray(rgb[:, :, ::-1]), 5)
    whole = decode_image("bgr8", HEIGHT, WIDTH, step, data, reversed_views=True)
    np.testing.assert_array_equal(whole, rgb)
    assert np.shares_memory(whole, np.frombuffer(data, np.uint8))
    part = in_order(whole[1:3, 2:5])
    np.testing.assert_array_equal(part, rgb[1:3, 2:5])
    assert part.flags.c_contiguous
    assert in_order(rgb) is rgb
    assert in_order(whole[:0]).size == 0


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 8])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [
        ("rgb16", (0, 1, 2)),
        ("bgr16", (2, 1, 0)),
        ("rgba16", (0, 1, 2, 1)),
        ("bgra16", (2, 1, 0, 1)),
        ("16UC3", (2, 1, 0)),
        ("16UC4", (2, 1, 0, 1)),
    ],
)
def test_colour_of_sixteen_bits(encoding, order, padding, big):
    words = np.random.default_rng(2).integers(0, 65536, (HEIGHT, WIDTH, 3))
    ordered = np.ascontiguousarray(words[:, :, order].astype(">u2" if big else "<u2"))
    step, data = padded(ordered, padding)
    result = decode_image(encoding, HEIGHT, WIDTH, step, data, is_bigendian=big)
    np.testing.assert_array_equal(result, np.round(words / 257.0).astype(np.uint8))


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
@pytest.mark.parametrize("padding", [0, 3])
def test_mono8(padding, encoding):
    grey = picture()[:, :, 0]
    step, data = padded(np.ascontiguousarray(grey), padding)
    result = decode_image(encoding, HEIGHT, WIDTH, step, data)
    np.testing.assert_array_equal(result, np.stack([grey] * 3, axis=2))


@pytest.mark.parametrize("padding", [0, 2, 5])
@pytest.mark.parametrize("big", [False, True])
def test_mono16_of_both_byte_orders(big, padding):
    words = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH))
    words[0, :4] = (0, 128, 129, 65535)
    step, data = padded(words.astype(">u2" if big else "<u2"), padding)
    result = decode_image("mono16", HEIGHT, WIDTH, step, data, is_bigendian=big)
    wanted = np.round(words / 257.0).astype(np.uint8)
    np.testing.assert_array_equal(result, np.stack([wanted] * 3, axis=2))
    assert result[0, :4, 0].tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("pattern", BAYER)
def test_bayer_gives_the_colours_of_its_pattern(pattern, padding, bits):
    colours = {"R": 200, "G": 120, "B": 40}
    mosaic = np.empty((8, 12), np.uint8)
    for i, letter in enumerate(BAYER[pattern]):
        mosaic[i // 2 :: 2, i % 2 :: 2] = colours[letter]
    step, data = padded(mosaic if bits == 8 else mosaic.astype("<u2") * 257, padding)
    result = decode_image(f"bayer_{pattern}{bits}", 8, 12, step, data)
    wanted = np.broadcast_to(np.array([200, 120, 40], np.uint8), (8, 12, 3))
    np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [("yuv422", "UYVY"), ("uyvy", "UYVY"), ("yuv422_yuy2", "YUYV"), ("yuyv", "YUYV")],
)
def test_yuv422(encoding, order, padding):
    rng = np.random.default_rng(3)
    luma = rng.integers(60, 200, (HEIGHT, WIDTH))
    u, v = rng.integers(90, 170, (2, HEIGHT, WIDTH // 2))
    quads = np.empty((HEIGHT, WIDTH // 2, 4), np.uint8)
    chroma = iter((u, v))
    halves = iter((luma[:, 0::2], luma[:, 1::2]))
    for i, letter in enumerate(order):
        quads[:, :, i] = next(halves) if letter == "Y" else next(chroma)
    step, data = padded(quads, padding)
    result = decode_image(encoding, HEIGHT, WIDTH, step, data).astype(int)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            wanted = yuv_to_rgb(luma[y, x], u[y, x // 2], v[y, x // 2])
            assert np.abs(result[y, x] - wanted).max() <= 1, (x, y)


@pytest.mark.parametrize("encoding", ["nv12", "nv21"])
@pytest.mark.parametrize("padding", [0, 4])
def test_luma_and_chroma_in_planes(padding, encoding):
    rng = np.random.default_rng(4)
    luma = rng.integers(60, 200, (HEIGHT, WIDTH), dtype=np.uint8)
    chroma = rng.integers(90, 170, (HEIGHT // 2, WIDTH // 2, 2), dtype=np.uint8)
    rows = np.vstack([luma, chroma.reshape(HEIGHT // 2, WIDTH)])
    step, data = padded(rows, padding)
    result = decode_image(encoding, HEIGHT, WIDTH, step, data).astype(int)
    assert result.shape == (HEIGHT, WIDTH, 3)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            u, v = chroma[y // 2, x // 2][:: 1 if encoding == "nv12" else -1]
            wanted = yuv_to_rgb(float(luma[y, x]), float(u), float(v))
            assert np.abs(result[y, x] - wanted).max() <= 1, (x, y)


@pytest.mark.parametrize("encoding", ["rgb8", "rgba8"])
def test_views_where_the_layout_allows(encoding):
    channels = ENCODINGS[encoding].channels
    data = bytearray(HEIGHT * WIDTH * channels)
    result = decode_image(encoding, HEIGHT, WIDTH, WIDTH * channels, data)
    assert result[0, 0, 1] == 0
    data[1] = 77
    assert result[0, 0, 1] == 77


def test_array_array_as_ros_hands_it_over():
    rgb = picture()
    data = array.array("B", rgb.tobytes())
    np.testing.assert_array_equal(decode_image("rgb8", HEIGHT, WIDTH, WIDTH * 3, data), rgb)


def test_case_and_blanks_in_the_name_do_not_matter():
    rgb = picture()
    np.testing.assert_array_equal(
        decode_image(" RGB8 ", HEIGHT, WIDTH, WIDTH * 3, rgb.tobytes()), rgb
    )


def test_more_data_than_needed_is_no_error():
    rgb = picture()
    result = decode_image("rgb8", HEIGHT, WIDTH, WIDTH * 3, rgb.tobytes() + b"tail")
    np.testing.assert_array_equal(result, rgb)


@pytest.mark.parametrize(
    "encoding", ["32FC1", "16UC1", "64FC1", "yuv444", "nv24", "8UC2", "8SC3", "bgr", "", "jpeg"]
)
def test_unknown_encoding_names_those_supported(encoding):
    with pytest.raises(UnsupportedEncodingError) as caught:
        decode_image(encoding, 2, 2, 16, bytes(64))
    for name in (f"'{encoding}'", *supported_encodings()):
        assert name in str(caught.value)


def test_the_table_holds_what_the_interface_promises():
    promised = (
        "rgb8 bgr8 rgba8 bgra8 mono8 mono16 bayer_rggb8 bayer_bggr8 bayer_gbrg8 bayer_grbg8 "
        "yuv422 uyvy yuv422_yuy2 yuyv nv12 nv21 rgb16 bgr16 rgba16 bgra16 bayer_rggb16 "
        "bayer_bggr16 bayer_gbrg16 bayer_grbg16 8UC1 8UC3 8UC4 16UC3 16UC4"
    )
    assert sorted(supported_encodings()) == sorted(promised.split())


@pytest.mark.parametrize("encoding", supported_encodings())
def test_sizes_that_do_not_fit_are_named(encoding):
    layout = find_encoding(encoding)
    step = WIDTH * layout.bytes_per_pixel
    needed = step * (HEIGHT + layout.half_height_planes * HEIGHT // 2)
    assert decode_image(encoding, HEIGHT, WIDTH, step, bytes(needed)).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(MalformedImageError, match=f"{needed - 1} bytes.*{needed}"):
        decode_image(encoding, HEIGHT, WIDTH, step, bytes(needed - 1))
    with pytest.raises(MalformedImageError, match=f"step is {step - 1} .*{step}"):
        decode_image(encoding, HEIGHT, WIDTH, step - 1, bytes(needed))
    with pytest.raises(MalformedImageError, match=f"{WIDTH}x0"):
        decode_image(encoding, 0, WIDTH, step, bytes(needed))
    with pytest.raises(MalformedImageError, match=f"0x{HEIGHT}"):
        decode_image(encoding, HEIGHT, 0, step, bytes(needed))
    with pytest.raises(MalformedImageError):
        decode_image(encoding, HEIGHT, WIDTH, step, b"")
    with pytest.raises(MalformedImageError, match="4294967294"):
        decode_image(encoding, HEIGHT, 4294967294, 4294967295, bytes(needed))


@pytest.mark.parametrize(("encoding", "height", "width"), [("yuyv", 2, 3), ("nv12", 3, 4)])
def test_odd_sizes_of_shared_chroma_are_refused(encoding, height, width):
    with pytest.raises(MalformedImageError, match="multiple"):
        decode_image(encoding, height, width, 16, bytes(256))


def test_the_module_loads_no_opencv():
    code = "import sys, tracker_ros.io.image_encodings; sys.exit('cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
