# SPDX-License-Identifier: Apache-2.0
"""The images of a topic in a bag."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tracker_ros.io.bag_reader import find_topic, open_bag
from tracker_ros.io.image_decoder import ImageDecoder
from tracker_ros.io.image_messages import IMAGE_TYPES, PACKET_TYPES, packet_from, rgb_from_image
from tracker_ros.io.video_packets import PacketDecoder
from tracker_ros.io.video_source import DEFAULT_FPS, BadFrame, VideoSource


class BagImages(VideoSource):
    """Images of one topic, raw, compressed or as a video stream, in the order of the recording.

    The source is ``bag:PATH:TOPIC``; the topic may be left out where the bag has one image topic.
    The rate is the mean over the recording unless it is given, which replaces the images' times
    too; images keep their size, and the bag says how many there are. Raises FileNotFoundError if
    the bag does not exist, ValueError if it cannot be read, or the topic is missing, is not an
    image topic or has no images, and ImportError without the package ``rosbags``.
    """

    def __init__(
        self,
        source: str,
        fps: float | None,
        size: tuple[int, int] | None = None,
        count: int | None = None,
    ) -> None:
        path, _, topic = source.removeprefix("bag:").partition(":")
        self.name = source
        self._reader = open_bag(path)
        try:
            self._topic = topic = find_topic(self._reader, topic, IMAGE_TYPES, "image")
        except ValueError as error:
            raise ValueError(f"{error}; write bag:PATH:TOPIC") from error
        stamps = [time_ns for _, time_ns, _ in self._reader.messages([topic])]
        if not stamps:
            raise ValueError(f"topic {topic!r} of {path} has no messages")
        self.frame_count = len(stamps)
        self._keep_times = fps is None
        seconds = (stamps[-1] - stamps[0]) / 1e9
        self.fps = fps or ((len(stamps) - 1) / seconds if seconds > 0 else DEFAULT_FPS)
        first = next((image for image in self), None)
        if first is None:
            raise ValueError(f"no image of topic {topic!r} of {path} can be decoded")
        height, width = first.shape[:2]
        self.size = (width, height)

    def timed_frames(self, start: int = 0) -> Iterator[tuple[float, np.ndarray | BadFrame]]:
        """Yield time and image of each frame; see `VideoSource`."""
        decoder, packets = ImageDecoder(self.mono16_range), PacketDecoder()
        kind = self._reader.topics[self._topic].kind
        begin: int | None = None
        number = 0
        for place, (_, stamp, data) in enumerate(self._reader.messages([self._topic])):
            images: list[tuple[int, np.ndarray | BadFrame]] = []
            if kind not in PACKET_TYPES and place < start:
                images = [(stamp, BadFrame("skipped"))]
            else:
                try:
                    message = self._reader.deserialize(self._topic, data)
                    images = [*_decode(message, kind, stamp, decoder, packets)]
                except ValueError as error:
                    images = [(stamp, BadFrame(f"{self.name}: frame {number}: {error}"))]
            for own_stamp, image in images:
                begin = own_stamp if begin is None else begin
                time_s = (own_stamp - begin) / 1e9 if self._keep_times else number / self.fps
                if number >= start:
                    yield time_s, image
                number += 1


def _decode(
    message: Any, kind: str, time_ns: int, decoder: ImageDecoder, packets: PacketDecoder
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the time in the bag and the image of what a message completes."""
    if kind not in PACKET_TYPES:
        yield time_ns, rgb_from_image(message, decoder)
        return
    # An image may come out later than its packet; the packet's stamp then carries its time along.
    for image in packets.decode(replace(packet_from(message), stamp_ns=time_ns)):
        yield image.stamp_ns, image.to_rgb()
