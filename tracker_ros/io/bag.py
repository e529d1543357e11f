# SPDX-License-Identifier: Apache-2.0
"""Read the images of a topic in a rosbag2 folder, without ROS (package ``rosbags``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tracker_ros.io.image_encodings import decode_image
from tracker_ros.io.sources import DEFAULT_FPS, VideoSource

_IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


class BagImages(VideoSource):
    """Images of one topic, raw or compressed, in the order in which they were recorded.

    The source is ``bag:PATH:TOPIC``; the topic may be left out where the bag has one image topic.
    The rate is the mean over the recording unless it is given, which replaces the images' times
    too; images keep their size, and the bag says how many there are. Raises FileNotFoundError if
    the bag does not exist, ValueError if the topic is missing, is not an image topic or has no
    messages, and ImportError without the package ``rosbags``.
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
        self._path = Path(path)
        if not self._path.exists():
            raise FileNotFoundError(f"no bag at {path!r}; write bag:PATH:TOPIC")
        try:
            from rosbags.highlevel import AnyReader
            from rosbags.typesys import Stores, get_typestore
        except ImportError as error:
            raise ImportError(
                f"reading bags needs the package rosbags ({error}): pip install rosbags"
            ) from error
        self._reader_class: Any = AnyReader
        self._typestore = get_typestore(Stores.ROS2_JAZZY)
        with self._open() as reader:
            topics = sorted(
                {link.topic for link in reader.connections if link.msgtype in _IMAGE_TYPES}
            )
            if not topic and len(topics) == 1:
                topic = topics[0]
            if topic not in topics:
                raise ValueError(
                    f"topic {topic!r} is no image topic of {path}; it has: "
                    f"{', '.join(topics) or 'none'}; write bag:PATH:TOPIC"
                )
            self._topic = topic
            links = [link for link in reader.connections if link.topic == topic]
            self.frame_count = sum(link.msgcount for link in links)
            stamps = [stamp for _, stamp, _ in reader.messages(links)]
        if not stamps:
            raise ValueError(f"topic {topic!r} of {path} has no messages")
        self._keep_times = fps is None
        seconds = (stamps[-1] - stamps[0]) / 1e9
        self.fps = fps or ((len(stamps) - 1) / seconds if seconds > 0 else DEFAULT_FPS)
        height, width = next(iter(self)).shape[:2]
        self.size = (width, height)

    def _open(self) -> Any:
        return self._reader_class([self._path], default_typestore=self._typestore)

    def timed_frames(self, start: int = 0) -> Iterator[tuple[float, np.ndarray]]:
        """Yield time and image of each frame; see `VideoSource`."""
        with self._open() as reader:
            links = [link for link in reader.connections if link.topic == self._topic]
            begin = 0
            for number, (link, stamp, data) in enumerate(reader.messages(links)):
                begin = stamp if number == 0 else begin
                if number >= start:
                    message = reader.deserialize(data, link.msgtype)
                    time_s = (stamp - begin) / 1e9 if self._keep_times else number / self.fps
                    yield time_s, _decode(message, link.msgtype)


def _decode(message: Any, kind: str) -> np.ndarray:
    """Return an image message as (H, W, 3) uint8 RGB."""
    if kind == "sensor_msgs/msg/CompressedImage":
        picture = None
        with suppress(cv2.error):  # no data, or a size that OpenCV refuses
            picture = cv2.imdecode(np.asarray(message.data, dtype=np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            raise ValueError(f"a compressed image of format {message.format!r} does not decode")
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    return decode_image(
        message.encoding,
        message.height,
        message.width,
        message.step,
        np.asarray(message.data, dtype=np.uint8),
        bool(message.is_bigendian),
    )
