# SPDX-License-Identifier: Apache-2.0
"""A target in a narrow band of 16 bits is followed as well as in the full range."""

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from tracker_ros import create_tracker, track_video
from tracker_ros.geometry import iou
from tracker_ros.synthetic.scene_video import synthetic_video

IMAGE = "sensor_msgs/msg/Image"
FRAMES, SIZE = 14, (320, 240)
BANDS = {"full": (0, 65535), "thermal": (7600, 8110), "dim": (120, 420)}


@pytest.fixture(scope="module")
def scenes():
    return list(synthetic_video(2, FRAMES, SIZE))


@pytest.fixture(scope="module")
def model():
    return create_tracker("ostrack_tiny", device="cpu", backend="torch")


def counts(scene, band):
    """Return what a camera of 16 bits sees, (H, W) uint16."""
    low, high = BANDS[band]
    grey = cv2.cvtColor(scene.image, cv2.COLOR_RGB2GRAY)
    return np.round(low + grey / 255 * (high - low)).astype("<u2")


def write_folder(path, pictures):
    path.mkdir()
    for index, picture in enumerate(pictures):
        cv2.imwrite(str(path / f"{index:04d}.png"), picture)
    return str(path)


def write_bag(path, pictures):
    store = get_typestore(Stores.ROS2_JAZZY)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topic = writer.add_connection("/image", IMAGE, typestore=store)
        for index, picture in enumerate(pictures):
            stamp = store.types["builtin_interfaces/msg/Time"](sec=index, nanosec=0)
            message = store.types[IMAGE](
                header=store.types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera"),
                height=SIZE[1],
                width=SIZE[0],
                encoding="mono16",
                is_bigendian=0,
                step=2 * SIZE[0],
                data=picture.view(np.uint8).reshape(-1),
            )
            writer.write(topic, index * 10**9, store.serialize_cdr(message, IMAGE))
    return f"bag:{path}"


@pytest.mark.parametrize("write", [write_folder, write_bag])
def test_a_narrow_band_is_followed_like_the_full_range(write, scenes, model, tmp_path):
    overlap = {}
    for band in BANDS:
        source = write(tmp_path / band, [counts(scene, band) for scene in scenes])
        results = list(track_video(source, scenes[0].box, model=model))
        assert len(results) == FRAMES
        overlap[band] = np.mean(
            [iou(result.box, scene.box) for result, scene in zip(results, scenes, strict=True)]
        )
    assert overlap["full"] > 0.7
    assert overlap["thermal"] > overlap["full"] - 0.05
    assert overlap["dim"] > overlap["full"] - 0.05
