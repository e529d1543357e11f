# SPDX-License-Identifier: Apache-2.0
"""Tests of encoding images to packets: one packet an image, key frames, changes of size."""

from __future__ import annotations

import numpy as np
import pytest

from tracker_ros.io.video_encoder import VideoEncoder
from tracker_ros.io.video_packets import PacketDecoder, VideoPacket


def picture(value, height=96, width=128):
    """(H, W, 3) uint8 RGB: bright on the left, dark on the right."""
    image = np.full((height, width, 3), value, np.uint8)
    image[:, width // 2 :] = value // 2
    return image


def decoded(encoder, images):
    """The images as a subscriber sees them, and where the key frames are."""
    decoder, found, keys = PacketDecoder(), [], []
    for number, image in enumerate(images):
        packet = encoder.encode(image)
        keys.append(packet.is_key)
        (seen,) = decoder.decode(
            VideoPacket(encoder.codec, bytes(packet), number, is_key=packet.is_key, number=number)
        )
        found.append(seen.to_rgb())
    return found, keys


def test_each_image_comes_back_at_once_with_regular_key_frames():
    images = [picture(40 + 10 * index) for index in range(12)]
    found, keys = decoded(VideoEncoder(5.0), images)
    for image, seen in zip(images, found, strict=True):
        np.testing.assert_allclose(seen[:, :56], image[:, :56], atol=6)
        np.testing.assert_allclose(seen[:, 72:], image[:, 72:], atol=6)
    assert keys == [index % 5 == 0 for index in range(12)]


@pytest.mark.parametrize("size", [(97, 128), (96, 127)])
def test_odd_sides_are_kept(size):
    (found,), (key,) = decoded(VideoEncoder(30.0), [picture(200, *size)])
    assert found.shape == (*size, 3)
    assert key


def test_another_size_begins_a_new_stream():
    found, keys = decoded(VideoEncoder(30.0), [picture(90), picture(91), picture(90, 64, 80)])
    assert [image.shape for image in found] == [(96, 128, 3), (96, 128, 3), (64, 80, 3)]
    assert keys == [True, False, True]
