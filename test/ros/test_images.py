# SPDX-License-Identifier: Apache-2.0
"""Image messages to RGB and back."""

from __future__ import annotations

import array
import sys

import cv2
import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from tracker_ros.nodes.messages import image_from_array, rgb_from_image, stamp_nanoseconds


@pytest.fixture
def rgb():
    """(6, 8, 3) uint8 of noise."""
    return np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def test_there_and_back_through_the_wire(rgb):
    header = Header(frame_id="lens")
    header.stamp.sec, header.stamp.nanosec = 7, 8
    message = deserialize_message(serialize_message(image_from_array(rgb, header)), Image)
    assert message.header == header
    assert (message.height, message.width, message.step, message.encoding) == (6, 8, 24, "rgb8")
    np.testing.assert_array_equal(rgb_from_image(message), rgb)
    assert stamp_nanoseconds(message.header) == 7_000_000_008


def test_arrays_that_do_not_lie_in_a_row_are_packed(rgb):
    message = image_from_array(rgb[:, ::-1], Header())
    np.testing.assert_array_equal(rgb_from_image(message), rgb[:, ::-1])


def test_grey_and_raw_scores():
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    assert image_from_array(grey, Header()).encoding == "mono8"
    score = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    message = image_from_array(score, Header())
    assert (message.encoding, message.step) == ("32FC1", 16)
    assert message.is_bigendian == (sys.byteorder == "big")
    np.testing.assert_array_equal(np.frombuffer(message.data, np.float32).reshape(3, 4), score)


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4)), np.zeros((4, 4, 3), np.float32)]
)
def test_arrays_that_are_no_images_are_named(pixels):
    with pytest.raises(ValueError, match=str(pixels.dtype)):
        image_from_array(pixels, Header())


def test_the_data_is_handed_over_as_the_array_that_messages_take(rgb, monkeypatch):
    given = []
    monkeypatch.setattr(
        "tracker_ros.nodes.messages.Image", lambda **fields: given.append(fields["data"])
    )
    image_from_array(rgb, Header())
    assert isinstance(given[0], array.array)
    assert (given[0].typecode, given[0].tobytes()) == ("B", rgb.tobytes())


@pytest.mark.parametrize("format_text", ["png", "bgr8; png compressed bgr8", ""])
def test_compressed_messages_are_decoded_too(rgb, format_text):
    png = cv2.imencode(".png", rgb[..., ::-1])[1]
    message = CompressedImage(format=format_text, data=array.array("B", png.tobytes()))
    np.testing.assert_array_equal(rgb_from_image(message), rgb)
