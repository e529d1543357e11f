# SPDX-License-Identifier: Apache-2.0
"""Read the images of a topic in a rosbag2 folder or an MCAP file, without ROS (`rosbags`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tracker_ros.io.image_decoder import ImageDecoder
from tracker_ros.io.mcap_file import McapChannel, McapError, read_mcap
from tracker_ros.io.sources import DEFAULT_FPS, BadFrame, VideoSource
from tracker_ros.io.video_packets import PacketDecoder, VideoPacket

_IMAGE = "sensor_msgs/msg/Image"
_COMPRESSED = "sensor_msgs/msg/CompressedImage"
_PACKET = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
_FOXGLOVE = "foxglove_msgs/msg/CompressedVideo"
_IMAGE_TYPES = (_IMAGE, _COMPRESSED, _PACKET, _FOXGLOVE)
_DEFINITIONS = {  # for bags that hold none
    _PACKET: "std_msgs/Header header\nint32 width\nint32 height\nstring encoding\nuint64 pts\n"
    "uint8 flags\nbool is_bigendian\nuint8[] data\n",
    _FOXGLOVE: "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n",
}
_KEY_PACKET = 1


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
        self._path = Path(path)
        if not self._path.exists():
            raise FileNotFoundError(f"no bag at {path!r}; write bag:PATH:TOPIC")
        self._reader = _open_reader(self._path)
        topics = sorted(name for name, kind in self._reader.topics.items() if kind in _IMAGE_TYPES)
        if not topic and len(topics) == 1:
            topic = topics[0]
        if topic not in topics:
            other = "".join(f"; {line}" for line in self._reader.refused)
            raise ValueError(
                f"topic {topic!r} is no image topic of {path}; it has: "
                f"{', '.join(topics) or 'none'}; write bag:PATH:TOPIC{other}"
            )
        self._topic = topic
        stamps = [stamp for stamp, _ in self._reader.messages(topic)]
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
        kind = self._reader.topics[self._topic]
        begin: int | None = None
        number = 0
        for place, (stamp, data) in enumerate(self._reader.messages(self._topic)):
            images: list[tuple[int, np.ndarray | BadFrame]] = []
            if kind in (_IMAGE, _COMPRESSED) and place < start:
                images = [(stamp, BadFrame("skipped"))]
            else:
                try:
                    message = self._reader.deserialize(data, self._topic)
                    images = list(_decode(message, kind, stamp, decoder, packets))
                except ValueError as error:
                    images = [(stamp, BadFrame(f"{self.name}: frame {number}: {error}"))]
            for own_stamp, image in images:
                begin = own_stamp if begin is None else begin
                time_s = (own_stamp - begin) / 1e9 if self._keep_times else number / self.fps
                if number >= start:
                    yield time_s, image
                number += 1


def _decode(
    message: Any, kind: str, stamp: int, decoder: ImageDecoder, packets: PacketDecoder
) -> Iterator[tuple[int, np.ndarray | BadFrame]]:
    """Yield the time in the bag and the image of what a message completes."""
    data = np.asarray(message.data, dtype=np.uint8)
    if kind == _COMPRESSED:
        yield stamp, decoder.decode_compressed(message.format, data)
    elif kind == _IMAGE:
        yield (
            stamp,
            decoder.decode(
                message.encoding,
                message.height,
                message.width,
                message.step,
                data,
                bool(message.is_bigendian),
            ),
        )
    else:
        packet = VideoPacket(message.format, data.tobytes(), stamp)
        if kind == _PACKET:
            is_key = bool(message.flags & _KEY_PACKET)
            packet = VideoPacket(
                message.encoding, data.tobytes(), stamp, "", is_key, int(message.pts)
            )
        for image in packets.decode(packet):
            yield image.stamp_ns, image.to_rgb()


def _open_reader(path: Path) -> _RosbagsReader | _McapReader:
    """Open a bag with rosbags, or as MCAP of another profile.

    Raises:
        ImportError: rosbags is missing.
        ValueError: Neither can read it.
    """
    try:
        from rosbags.highlevel import AnyReaderError
    except ImportError as error:
        raise ImportError(
            f"reading bags needs the package rosbags ({error}): pip install rosbags"
        ) from error
    try:
        return _RosbagsReader(path)
    # rosbags lets a KeyError out for a schema of another kind.
    except (AnyReaderError, FileNotFoundError, KeyError, ValueError) as error:
        files = [path] if path.is_file() else sorted(path.glob("*.mcap"))
        if not files:
            raise ValueError(f"{str(path)!r} is no bag that can be read: {error}") from error
        return _McapReader(files)


def _typestore() -> Any:
    """Return the types of ROS 2, and those of video streams."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    for name, text in _DEFINITIONS.items():
        store.register(get_types_from_msg(text, name))
    return store


class _RosbagsReader:
    """Reads what the package rosbags reads.

    Attributes:
        topics: The type of each topic's messages.
        refused: Lines about topics that cannot be read.
    """

    def __init__(self, path: Path) -> None:
        from rosbags.highlevel import AnyReader

        self._path = path
        self._class: Any = AnyReader
        self._store = _typestore()
        self.refused: list[str] = []
        with self._open() as reader:
            self.topics = {link.topic: link.msgtype for link in reader.connections}
            self._bag_store = reader.typestore

    def _open(self) -> Any:
        return self._class([self._path], default_typestore=self._store)

    def messages(self, topic: str) -> Iterator[tuple[int, bytes]]:
        """Yield time and data of each message, by time."""
        with self._open() as reader:
            links = [link for link in reader.connections if link.topic == topic]
            for _, stamp, data in reader.messages(links):
                yield stamp, data

    def deserialize(self, data: bytes, topic: str) -> Any:
        """Return a message; ValueError if it does not fit its type."""
        return _deserialize(self._bag_store, data, self.topics[topic])


class _McapReader:
    """Reads the ROS 2 messages in MCAP files of any profile; attributes as `_RosbagsReader`."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self._channels: dict[str, McapChannel] = {}
        self._counts: dict[str, int] = {}
        for channel, _, _ in self._read():
            self._channels[channel.topic] = channel
        self.topics = {name: c.kind for name, c in self._channels.items() if c.is_ros2}
        self.refused = [
            f"topic {name} holds {channel.encoding or 'unknown'} messages, not those of ROS 2"
            for name, channel in sorted(self._channels.items())
            if not channel.is_ros2
        ]
        self._stores: dict[str, Any] = {}

    def _read(self) -> Iterator[tuple[McapChannel, int, bytes]]:
        """Yield all messages; a file that was cut ends where it was cut."""
        for place, file in enumerate(self._files):
            count = 0
            try:
                for message in read_mcap(file):
                    count += 1
                    yield message
            except McapError:
                if not count and place == len(self._files) - 1:
                    raise

    def messages(self, topic: str) -> Iterator[tuple[int, bytes]]:
        """Yield time and data of each message, by time."""
        found = [(time, data) for channel, time, data in self._read() if channel.topic == topic]
        yield from sorted(found, key=lambda message: message[0])

    def deserialize(self, data: bytes, topic: str) -> Any:
        """Return a message; ValueError if it does not fit its type."""
        if topic not in self._stores:
            self._stores[topic] = self._store_of(self._channels[topic])
        return _deserialize(self._stores[topic], data, self.topics[topic])

    def _store_of(self, channel: McapChannel) -> Any:
        """Return the types by the channel's own definition."""
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore

        if channel.schema_encoding != "ros2msg" or not channel.definition:
            return _typestore()
        store = get_typestore(Stores.EMPTY)
        store.register(get_types_from_msg(channel.definition, channel.kind))
        return store


def _deserialize(store: Any, data: bytes, kind: str) -> Any:
    """Return a message; ValueError if it does not fit its type."""
    try:
        return store.deserialize_cdr(data, kind)
    except Exception as error:  # rosbags raises errors of many kinds on cut messages
        raise ValueError(f"message of {len(data)} bytes is no {kind}: {error!r}") from error
