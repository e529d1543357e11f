# SPDX-License-Identifier: Apache-2.0
"""The image messages of ROS: what their fields mean, whoever made the message.

The functions take the message classes of ROS and those that rosbags makes for bags.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tracker_ros.io.image_decoder import ImageDecoder
from tracker_ros.io.video_packets import StreamImage, VideoPacket

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
PACKET_TYPES = (
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket",
    "foxglove_msgs/msg/CompressedVideo",
)
IMAGE_TYPES = (IMAGE, COMPRESSED_IMAGE, *PACKET_TYPES)
"""Types of messages that hold images, or packets of a video stream."""

_KEY_PACKET = 1  # AV_PKT_FLAG_KEY


def nanoseconds(stamp: Any) -> int:
    """Return a time message in nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def rgb_from_image(message: Any, decoder: ImageDecoder | None = None) -> np.ndarray:
    """Decode an image message.

    Args:
        message: An Image or a CompressedImage, or an image out of a stream (`StreamImage`).
        decoder: The camera's decoder, which remembers its range of grey; a new one if left out.

    Returns:
        (H, W, 3) uint8 RGB. For rgb8 and rgba8, and for bgr8 if the decoder gives reversed views,
        a view of the message, which must not be changed.

    Raises:
        UnsupportedEncodingError: The encoding cannot be decoded; names those that can.
        MalformedImageError: Size, step and data of the message do not match, or do not decode.
    """
    if isinstance(message, StreamImage):
        return message.to_rgb()
    decoder = decoder or ImageDecoder()
    if not hasattr(message, "encoding"):
        return decoder.decode_compressed(message.format, message.data)
    return decoder.decode(
        message.encoding,
        message.height,
        message.width,
        message.step,
        message.data,
        bool(message.is_bigendian),
    )


def packet_from(message: Any) -> VideoPacket:
    """Unpack an FFMPEGPacket (ffmpeg_image_transport_msgs) or CompressedVideo (foxglove_msgs)."""
    data = bytes(message.data)
    if hasattr(message, "timestamp"):
        return VideoPacket(message.format, data, nanoseconds(message.timestamp), message.frame_id)
    header = message.header
    return VideoPacket(
        message.encoding,
        data,
        nanoseconds(header.stamp),
        header.frame_id,
        bool(message.flags & _KEY_PACKET),
        int(message.pts),
    )
