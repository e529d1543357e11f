# SPDX-License-Identifier: Apache-2.0
"""Frames from rosbag2 folders, without ROS."""

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from tracker_ros.io.sources import open_video

STORE = get_typestore(Stores.ROS2_JAZZY)
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"


def _header(stamp_ns):
    time = STORE.types["builtin_interfaces/msg/Time"](
        sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9
    )
    return STORE.types["std_msgs/msg/Header"](stamp=time, frame_id="camera")


def _picture(index):
    picture = np.full((24, 32, 3), 100, np.uint8)
    picture[..., 0] = 20 * index
    return picture


def _raw(index):
    bgr = np.ascontiguousarray(_picture(index)[..., ::-1])
    return STORE.types[IMAGE](
        header=_header(index),
        height=24,
        width=32,
        encoding="bgr8",
        is_bigendian=0,
        step=96,
        data=bgr.reshape(-1),
    )


def _compressed(index):
    _, data = cv2.imencode(".png", cv2.cvtColor(_picture(index), cv2.COLOR_RGB2BGR))
    return STORE.types[COMPRESSED](header=_header(index), format="png", data=data.reshape(-1))


@pytest.fixture(params=[StoragePlugin.SQLITE3, StoragePlugin.MCAP], ids=["sqlite3", "mcap"])
def bag(request, tmp_path):
    """Five raw images at 5 Hz on /image, the same compressed, and something else."""
    path = tmp_path / "drive"
    with Writer(path, version=9, storage_plugin=request.param) as writer:
        raw = writer.add_connection("/image", IMAGE, typestore=STORE)
        small = writer.add_connection("/image/compressed", COMPRESSED, typestore=STORE)
        other = writer.add_connection("/chatter", "std_msgs/msg/String", typestore=STORE)
        for index in range(5):
            stamp = 10**18 + index * 200_000_000
            writer.write(raw, stamp, STORE.serialize_cdr(_raw(index), IMAGE))
            writer.write(small, stamp, STORE.serialize_cdr(_compressed(index), COMPRESSED))
            text = STORE.types["std_msgs/msg/String"](data="x")
            writer.write(other, stamp, STORE.serialize_cdr(text, "std_msgs/msg/String"))
    return path


@pytest.mark.parametrize("topic", ["/image", "/image/compressed"])
def test_frames_come_in_order_as_rgb_at_the_recorded_rate(bag, topic):
    with open_video(f"bag:{bag}:{topic}") as video:
        assert len(video) == 5
        assert video.size == (32, 24)
        assert video.fps == pytest.approx(5.0)
        for index, frame in enumerate(video):
            assert np.array_equal(frame, _picture(index))
    with open_video(f"bag:{bag}:{topic}#frames=3:") as video:
        assert [int(frame[0, 0, 0]) for frame in video] == [60, 80]


def test_errors_name_the_topics_there_are(bag, tmp_path):
    with pytest.raises(ValueError, match=r"'/chatter' is no image topic.*/image, /image/compr"):
        open_video(f"bag:{bag}:/chatter")
    with pytest.raises(ValueError, match="2 image topics"):
        open_video(f"bag:{bag}")
    with pytest.raises(FileNotFoundError, match="no bag at"):
        open_video(f"bag:{tmp_path / 'none'}:/image")


def test_frames_have_the_times_of_their_recording(bag):
    with open_video(f"bag:{bag}:/image", start=1) as video:
        assert [time for time, _ in video.timed_frames()] == pytest.approx([0, 0.2, 0.4, 0.6])
    with open_video(f"bag:{bag}:/image", fps=50) as video:
        assert [time for time, _ in video.timed_frames(3)] == pytest.approx([0.06, 0.08])
