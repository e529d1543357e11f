# SPDX-License-Identifier: Apache-2.0
"""Bags of other profiles, with broken images, with video streams."""

from __future__ import annotations

import struct
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from tracker_ros.io.sources import open_video
from tracker_ros.io.video_source import BadFrame

STORE = get_typestore(Stores.ROS2_JAZZY)
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
VIDEO = "foxglove_msgs/msg/CompressedVideo"
STORE.register(
    get_types_from_msg(
        "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n", VIDEO
    )
)
START = 10**18


def grey(index: int) -> np.ndarray:
    return np.full((24, 32, 3), 30 * (index + 1), np.uint8)


def time_of(stamp_ns: int):
    return STORE.types["builtin_interfaces/msg/Time"](stamp_ns // 10**9, stamp_ns % 10**9)


def header():
    return STORE.types["std_msgs/msg/Header"](stamp=time_of(0), frame_id="camera")


def compressed(index: int, data: bytes | None = None) -> bytes:
    """Return a serialised message with a PNG."""
    if data is None:
        data = cv2.imencode(".png", grey(index))[1].tobytes()
    message = STORE.types[COMPRESSED](
        header=header(), format="bgr8; png compressed bgr8", data=np.frombuffer(data, np.uint8)
    )
    return bytes(STORE.serialize_cdr(message, COMPRESSED))


def raw(pixels: np.ndarray, encoding: str, step: int) -> bytes:
    message = STORE.types[IMAGE](
        header=header(),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=step,
        data=np.ascontiguousarray(pixels).view(np.uint8).reshape(-1),
    )
    return bytes(STORE.serialize_cdr(message, IMAGE))


def write_bag(path, kind: str, messages: list[tuple[float, bytes]]):
    with Writer(path, version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        link = writer.add_connection("/image", kind, typestore=STORE)
        for seconds, data in messages:
            writer.write(link, START + round(seconds * 1e9), data)
    return path


def text(value: str) -> bytes:
    return struct.pack("<I", len(value)) + value.encode()


def record(kind: int, content: bytes) -> bytes:
    return struct.pack("<BQ", kind, len(content)) + content


def write_mcap(path, profile: str, pack=None, name: str = COMPRESSED):
    """Write ten images of /image and as many messages of another encoding, in two chunks."""
    definition, _ = STORE.generate_msgdef(COMPRESSED, ros_version=2)
    schemas = record(3, struct.pack("<H", 1) + text(name) + text("ros2msg") + text(definition))
    schemas += record(3, struct.pack("<H", 2) + text("my.Pose") + text("protobuf") + text("xyz"))
    channels = b"".join(
        record(4, struct.pack("<HH", i, i) + text(topic) + text(encoding) + struct.pack("<I", 0))
        for i, topic, encoding in ((1, "/image", "cdr"), (2, "/pose", "protobuf"))
    )
    parts = [record(1, text(profile) + text("recorder 1.0"))]
    for first in (0, 5):
        body = schemas + channels
        for index in range(first, first + 5):
            stamp = START + index * 100_000_000
            for channel, data in ((1, compressed(index % 8)), (2, b"\x08\x01")):
                body += record(5, struct.pack("<HIQQ", channel, index, stamp, stamp) + data)
        packed = body if pack is None else pack[1](body)
        parts.append(
            record(
                6,
                struct.pack("<QQQI", START, stamp, len(body), 0)
                + text("" if pack is None else pack[0])
                + struct.pack("<Q", len(packed))
                + packed,
            )
        )
    parts.append(record(15, struct.pack("<I", 0)))
    parts.append(record(2, struct.pack("<QQI", 0, 0, 0)))
    path.write_bytes(b"\x89MCAP0\r\n" + b"".join(parts) + b"\x89MCAP0\r\n")
    return path


def lz4_of(data: bytes) -> bytes:
    import lz4.frame

    return lz4.frame.compress(data)


@pytest.mark.parametrize("profile", ["", "foxglove", "ros2"])
@pytest.mark.parametrize("pack", [None, ("lz4", lz4_of)], ids=["plain", "lz4"])
def test_mcap_of_any_profile_gives_what_is_ros(tmp_path, profile, pack):
    path = write_mcap(tmp_path / "drive.mcap", profile, pack)
    with open_video(f"bag:{path}") as video:
        assert len(video) == 10
        assert video.fps == pytest.approx(10.0)
        assert [int(image[0, 0, 0]) for image in video][:3] == [30, 60, 90]
    with pytest.raises(ValueError, match="/pose holds protobuf messages"):
        open_video(f"bag:{path}:/pose")


def test_a_type_may_be_named_without_its_middle_part(tmp_path):
    path = write_mcap(tmp_path / "drive.mcap", "", name="sensor_msgs/CompressedImage")
    with open_video(f"bag:{path}") as video:
        assert len(list(video)) == 10


def test_messages_without_a_type_are_named(tmp_path):
    path = write_mcap(tmp_path / "drive.mcap", "", name="")
    with pytest.raises(ValueError, match="/image holds cdr messages without a type"):
        open_video(f"bag:{path}")


def test_a_damaged_chunk_ends_the_recording(tmp_path):
    path = write_mcap(tmp_path / "drive.mcap", "", ("lz4", lz4_of))
    content = bytearray(path.read_bytes())
    content[-120:-60] = bytes(60)  # in the second chunk
    path.write_bytes(content)
    with open_video(f"bag:{path}") as video:
        assert len(list(video)) == 5


def test_mcap_that_was_cut_gives_what_it_holds(tmp_path):
    path = write_mcap(tmp_path / "drive.mcap", "")
    path.write_bytes(path.read_bytes()[:-300])
    with open_video(f"bag:{path}:/image") as video:
        assert len(video) == 5
    path.write_bytes(b"\x89MCAP0\r\n" + bytes(5))
    with pytest.raises(ValueError):
        open_video(f"bag:{path}:/image")
    path.write_bytes(b"no bag at all")
    with pytest.raises(ValueError):
        open_video(f"bag:{path}:/image")


@pytest.mark.parametrize("broken", [b"", b"\x89PNG\r\n", None])
def test_a_broken_image_is_one_bad_frame(tmp_path, broken):
    messages = [(0.1 * i, compressed(i)) for i in range(5)]
    data = compressed(2)[:60] if broken is None else compressed(2, broken)
    messages[2] = (0.2, data)
    write_bag(tmp_path / "bag", COMPRESSED, messages)
    with open_video(f"bag:{tmp_path / 'bag'}") as video:
        times, images = zip(*video.timed_frames(), strict=True)
        assert [isinstance(image, BadFrame) for image in images] == [i == 2 for i in range(5)]
        assert times == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
        assert "frame 2" in str(images[2])
        assert len(list(video)) == 4
    with open_video(f"bag:{tmp_path / 'bag'}", start=3) as video:
        assert [int(image[0, 0, 0]) for image in video] == [120, 150]


def test_a_pause_in_a_recording_is_kept(tmp_path):
    seconds = [0, 0.1, 0.2, 5.0, 5.1, 5.2]
    write_bag(tmp_path / "bag", COMPRESSED, [(s, compressed(i)) for i, s in enumerate(seconds)])
    with open_video(f"bag:{tmp_path / 'bag'}") as video:
        assert [time for time, _ in video.timed_frames()] == pytest.approx(seconds, abs=1e-3)


@pytest.mark.parametrize(
    ("encoding", "kind", "step"), [("8UC3", np.uint8, 96 + 4), ("rgb16", "<u2", 192 + 8)]
)
def test_raw_images_are_read_by_the_table_of_the_node(tmp_path, encoding, kind, step):
    factor = 1 if kind is np.uint8 else 257
    pixels = np.zeros((24, 32, 3), kind)
    pixels[:] = np.array((200, 100, 50)) * factor
    rows = np.zeros((24, step), np.uint8)
    rows[:, : step // 4 * 4 - step % 4 - (4 if encoding == "8UC3" else 8)] = pixels.reshape(
        24, -1
    ).view(np.uint8)
    message = STORE.types[IMAGE](
        header=header(), height=24, width=32, encoding=encoding, is_bigendian=0, step=step,
        data=rows.reshape(-1),
    )  # fmt: skip
    write_bag(tmp_path / "bag", IMAGE, [(0.0, bytes(STORE.serialize_cdr(message, IMAGE)))])
    (image,) = open_video(f"bag:{tmp_path / 'bag'}")
    wanted = (50, 100, 200) if encoding == "8UC3" else (200, 100, 50)
    assert tuple(image[5, 31]) == wanted


def test_a_thermal_bag_uses_its_own_range(tmp_path):
    counts = np.random.default_rng(0).integers(7600, 8111, (24, 32)).astype("<u2")
    write_bag(tmp_path / "bag", IMAGE, [(0.0, raw(counts, "mono16", 64))])
    (image,) = open_video(f"bag:{tmp_path / 'bag'}")
    assert image.std() > 60
    (image,) = open_video(f"bag:{tmp_path / 'bag'}", mono16_range="full")
    assert image.std() < 2


def test_a_video_stream_in_a_bag(tmp_path):
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = 64, 48, "yuv420p"
    context.time_base, context.gop_size = Fraction(1, 30), 5
    context.options = {"tune": "zerolatency", "preset": "ultrafast"}
    messages = []
    for index in range(12):
        pixels = np.full((48, 64, 3), 20 * index, np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
        frame.pts = index
        (packet,) = context.encode(frame)
        if index == 6:
            continue
        message = STORE.types[VIDEO](
            timestamp=time_of(0), frame_id="", format="h264",
            data=np.frombuffer(bytes(packet), np.uint8),
        )  # fmt: skip
        messages.append((0.1 * index, bytes(STORE.serialize_cdr(message, VIDEO))))
    write_bag(tmp_path / "bag", VIDEO, messages)
    with open_video(f"bag:{tmp_path / 'bag'}") as video:
        assert video.size == (64, 48)
        found = [(t, i) for t, i in video.timed_frames() if not isinstance(i, BadFrame)]
    assert [time for time, _ in found] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0, 1.1])
    levels = [float(image.mean()) for _, image in found]
    assert levels == pytest.approx([0, 20, 40, 60, 80, 100, 200, 220], abs=4)
