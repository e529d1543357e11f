# SPDX-License-Identifier: Apache-2.0
"""Compressed images as image_transport sends them, and grey of 16 bits."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from tracker_ros.io.grey_range import GreyRange, parse_grey_range
from tracker_ros.io.image_decoder import ImageDecoder
from tracker_ros.io.image_encodings import MalformedImageError, UnsupportedEncodingError

HEIGHT, WIDTH = 24, 32
COLOUR = (200, 60, 20)


def flat(colour=COLOUR) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), colour, np.uint8)


def encoded(pixels: np.ndarray, suffix: str) -> bytes:
    """Return pixels as OpenCV writes them: colours with blue first."""
    return cv2.imencode(suffix, pixels)[1].tobytes()


def decode(format_text: str, data: bytes, **options: str) -> np.ndarray:
    return ImageDecoder(**options).decode_compressed(format_text, data)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".webp"])
@pytest.mark.parametrize(
    "format_text", ["", "jpeg", "PNG", "rgb8; jpeg compressed bgr8", "bgr8; png compressed bgr8"]
)
def test_colours(format_text, suffix):
    rgb = decode(format_text, encoded(flat()[..., ::-1], suffix))
    assert rgb.dtype == np.uint8
    np.testing.assert_allclose(rgb, flat(), atol=3)


@pytest.mark.parametrize("format_text", ["rgb8; jpeg compressed", "bgr8; png compressed rgb8"])
def test_colours_compressed_as_if_red_were_blue(format_text):
    np.testing.assert_allclose(decode(format_text, encoded(flat(), ".png")), flat(), atol=3)


def test_alpha_is_dropped():
    pixels = np.dstack([flat()[..., ::-1], np.full((HEIGHT, WIDTH), 7, np.uint8)])
    np.testing.assert_array_equal(decode("png", encoded(pixels, ".png")), flat())


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("format_text", ["", "mono8; png compressed", "mono8; jpeg compressed "])
def test_grey(format_text, suffix):
    rgb = decode(format_text, encoded(np.full((HEIGHT, WIDTH), 90, np.uint8), suffix))
    np.testing.assert_allclose(rgb, flat((90, 90, 90)), atol=2)


@pytest.mark.parametrize("format_text", ["", "mono16; png compressed ", "16UC1; png compressed "])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_grey_of_sixteen_bits_is_rounded_as_raw_messages_are(format_text, suffix):
    words = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    rgb = decode(format_text, encoded(words, suffix), mono16_range="full")
    np.testing.assert_array_equal(rgb[..., 0], np.round(words / 257.0))
    raw = ImageDecoder("full").decode("mono16", HEIGHT, WIDTH, 2 * WIDTH, words)
    np.testing.assert_array_equal(rgb, raw)


def test_colours_of_sixteen_bits():
    words = flat()[..., ::-1].astype(np.uint16) * 257
    np.testing.assert_array_equal(
        decode("rgb16; png compressed bgr16", encoded(words, ".png")), flat()
    )


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("pattern", "letters"), [("rggb", "RGGB"), ("gbrg", "GBRG")])
def test_a_compressed_bayer_pattern_has_colours(pattern, letters, bits):
    value = dict(zip("RGB", COLOUR, strict=True))
    mosaic = np.empty((HEIGHT, WIDTH), np.uint8)
    for place, letter in enumerate(letters):
        mosaic[place // 2 :: 2, place % 2 :: 2] = value[letter]
    data = encoded(mosaic if bits == 8 else mosaic.astype(np.uint16) * 257, ".png")
    rgb = decode(f"bayer_{pattern}{bits}; png compressed ", data, mono16_range="full")
    np.testing.assert_array_equal(rgb, flat())


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """Return a JPEG with an EXIF orientation."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    exif = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_exif_orientation_is_ignored(orientation):
    picture = flat()
    picture[:, : WIDTH // 2] = 0
    data = with_orientation(encoded(picture[..., ::-1], ".jpg"), orientation)
    np.testing.assert_allclose(decode("jpeg", data), picture, atol=40)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff"])
@pytest.mark.parametrize("keep", [0, 1, 20, 0.5, -30, -2])
def test_cut_images_are_refused(suffix, keep):
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    data = encoded(noise, suffix)
    cut = data[: int(keep * len(data)) if isinstance(keep, float) else keep]
    with pytest.raises(MalformedImageError):
        decode("jpeg", cut)


def test_a_jpeg_padded_with_zeros_is_whole():
    data = encoded(flat()[..., ::-1], ".jpg") + bytes(500)
    np.testing.assert_allclose(decode("jpeg", data), flat(), atol=3)


@pytest.mark.parametrize("format_text", ["16UC1; compressedDepth png", "32FC1; compressedDepth"])
def test_compressed_depth_is_no_picture(format_text):
    with pytest.raises(UnsupportedEncodingError):
        decode(format_text, bytes(100))


def test_floats_are_no_picture():
    with pytest.raises(UnsupportedEncodingError):
        decode("tiff", encoded(np.zeros((8, 8), np.float32), ".tiff"))


def test_an_encoding_can_be_overridden():
    words = np.full((HEIGHT, WIDTH), 257 * 90, "<u2")
    decoder = ImageDecoder("full", "mono16")
    rgb = decoder.decode("16UC1", HEIGHT, WIDTH, 2 * WIDTH, words)
    np.testing.assert_array_equal(rgb, flat((90, 90, 90)))
    rgb = ImageDecoder(encoding_override="rgb8").decode("8UC3", HEIGHT, WIDTH, 3 * WIDTH, flat())
    np.testing.assert_array_equal(rgb, flat())
    with pytest.raises(UnsupportedEncodingError):
        ImageDecoder(encoding_override="rgb9")


def thermal(low: int, high: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high + 1, (120, 160)).astype(np.uint16)


@pytest.mark.parametrize(("low", "high"), [(7600, 8110), (0, 300), (65000, 65535), (0, 65535)])
def test_the_range_of_an_image_is_used(low, high):
    eight = GreyRange("auto").to_eight_bits(thermal(low, high))
    assert eight.dtype == np.uint8
    assert eight.min() <= 2 and eight.max() >= 253
    assert 60 < eight.std() < 90


def test_a_single_hot_pixel_does_not_darken_the_rest():
    counts = thermal(7600, 8110)
    counts[3, 4] = 65535
    assert GreyRange().to_eight_bits(counts).std() > 60


def test_noise_of_a_uniform_image_stays_small():
    assert GreyRange().to_eight_bits(thermal(8000, 8003)).std() < 20


def test_brightness_does_not_flicker_but_follows():
    grey = GreyRange()
    first = grey.to_eight_bits(thermal(7600, 8110))
    warmer = grey.to_eight_bits(np.maximum(thermal(7600, 8110), thermal(7600, 8400, 1)))
    assert abs(float(warmer.mean()) - float(first.mean())) < 70
    jumped = grey.to_eight_bits(thermal(20000, 20500))
    assert 100 < jumped.mean() < 155, "a switch of gain is followed at once"
    steady = [int(grey.to_eight_bits(thermal(20000, 20500))[0, 0]) for _ in range(5)]
    assert max(steady) - min(steady) <= 1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("auto", None),
        (" FULL ", (0.0, 65535.0)),
        ("[7600, 8110]", (7600.0, 8110.0)),
        ("7600,8110", (7600.0, 8110.0)),
        ("7600 8110.5", (7600.0, 8110.5)),
    ],
)
def test_settings_of_the_range(text, wanted):
    assert parse_grey_range(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "bright", "[8110, 7600]", "[1, 2, 3]", "[0, 70000]", "-5 10"]
)
def test_settings_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match="range of grey"):
        parse_grey_range(text)


def test_a_fixed_range():
    counts = np.array([[0, 7600, 7855, 8110, 65535]], np.uint16)
    assert GreyRange("[7600, 8110]").to_eight_bits(counts).tolist() == [[0, 0, 128, 255, 255]]
