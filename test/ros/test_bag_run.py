# SPDX-License-Identifier: Apache-2.0
"""A run over a bag gives what the live node gives on the same images, in ROS's own messages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rclpy.serialization
from ament_index_python import get_package_share_directory
from geometry_msgs.msg import PoseWithCovarianceStamped
from graph_probe import image_message, latched
from rosidl_runtime_py.utilities import get_message
from sensor_msgs.msg import CameraInfo, Image
from vision_msgs.msg import Detection2D

from tracker_interfaces.msg import TargetDirection, TargetStatus
from tracker_interfaces.srv import SelectTarget
from tracker_ros.bags.follow import BagTopics, follow_bag
from tracker_ros.bags.outputs import TOPICS, BagOutputs
from tracker_ros.bags.requests import find_selections
from tracker_ros.io.bag_reader import open_bag
from tracker_ros.io.bag_writer import BagWriter
from tracker_ros.io.message_types import common_types
from tracker_ros.nodes.messages import stamp_nanoseconds

FRAMES = 12
EVENTS = "/_service_event"
KINDS = {"/image": Image, "/camera_info": CameraInfo, "/depth": Image}


def name_of(kind: type) -> str:
    package, _, name = kind.__module__.partition(".")
    return f"{package}/msg/{kind.__name__}"


@pytest.fixture
def live(local, tmp_path):
    """What the node published, and a bag of what it was given."""
    _, probe = local
    writer = BagWriter(tmp_path / "run.mcap")
    for topic, kind in KINDS.items():
        writer.add_topic(topic, name_of(kind))
    heard = {"target": probe.targets, "target_status": probe.statuses}
    spatial = {"target_direction": TargetDirection, "target_pose": PoseWithCovarianceStamped}
    listeners = []
    for topic, kind in spatial.items():
        heard[topic] = []
        listeners.append(probe.listen(kind, topic, heard[topic], 100))
    info_out = probe.node.create_publisher(CameraInfo, "camera_info", latched(1))
    depth_out = probe.node.create_publisher(Image, "depth", 5)
    given: list[tuple[str, int, bytes]] = []

    def keep(topic, message):
        data = rclpy.serialization.serialize_message(message)
        given.append((topic, stamp_nanoseconds(message.header), data))

    width, height = probe.scene.width, probe.scene.height
    k = [300.0, 0.0, width / 2, 0.0, 300.0, height / 2, 0.0, 0.0, 1.0]
    info = CameraInfo(
        header=probe.header(), width=width, height=height, k=k, distortion_model="plumb_bob",
        d=[0.0] * 5,
    )  # fmt: skip
    metres = np.full((height, width), 2.5, np.float32)

    def make(header):
        info.header = header
        depth = image_message(metres, header, "32FC1")
        picture = image_message(probe.scene.image(probe.place), header)
        for topic, message in (("/camera_info", info), ("/depth", depth), ("/image", picture)):
            keep(topic, message)
        info_out.publish(info)
        depth_out.publish(depth)
        probe.settle(0.05)  # they take other ways than the image
        return picture

    probe.until(lambda: info_out.get_subscription_count() > 0, "the node listens to camera_info")
    probe.until(lambda: depth_out.get_subscription_count() > 0, "the node listens to depth")
    probe.settle(0.3)
    first = probe.show(make=make).header
    calls = []
    listeners.append(probe.listen(SelectTarget.Event, f"select_target{EVENTS}", calls, 10))
    probe.until(lambda: probe.node.count_publishers(f"/local/select_target{EVENTS}"), "events")
    probe.settle(0.3)
    assert probe.select(probe.scene.box(probe.place), first, "cup").success
    probe.until(lambda: len(calls) >= 2, "the call and its answer among the events")
    headers = [probe.show(make=make).header for _ in range(FRAMES)]
    probe.until(lambda: len(heard["target_pose"]) >= FRAMES, "a pose for each image")
    probe.clear()
    for listener in listeners:
        probe.node.destroy_subscription(listener)
    probe.node.destroy_publisher(info_out)
    probe.node.destroy_publisher(depth_out)
    topic = f"/local/select_target{EVENTS}"
    writer.add_topic(topic, "tracker_interfaces/srv/SelectTarget_Event")
    for call in calls:
        time_ns = call.info.stamp.sec * 10**9 + call.info.stamp.nanosec
        given.append((topic, time_ns, rclpy.serialization.serialize_message(call)))
    for topic, time_ns, data in given:
        writer.copy(topic, time_ns, data)
    writer.finish()
    return tmp_path / "run.mcap", headers, heard


def by_stamp(messages, headers):
    wanted = [(h.stamp.sec, h.stamp.nanosec) for h in headers]
    found = {(m.header.stamp.sec, m.header.stamp.nanosec): m for m in messages}
    return [found[stamp] for stamp in wanted]


def test_a_bag_gives_the_messages_of_the_live_node(live, tiny_tracker, local_stage, tmp_path):
    path, headers, heard = live
    reader = open_bag(path)
    topics = BagTopics("/image", "/camera_info", "/depth", find_selections(reader))
    outputs, writer = BagOutputs("ostrack_tiny"), BagWriter(tmp_path / "out")
    for topic, kind in TOPICS.items():
        writer.add_topic(f"/{topic}", kind)
    tracker = type(local_stage)(tiny_tracker.fork())  # as the node has it
    for given in follow_bag(reader, topics, tracker):
        for topic, content in outputs.contents(given):
            writer.write(f"/{topic}", given.time_ns, content)
    writer.finish()

    made = open_bag(tmp_path / "out")
    messages = {topic: [] for topic in made.topics}
    kinds = {
        "/target": Detection2D,
        "/target_status": TargetStatus,
        "/target_direction": TargetDirection,
        "/target_pose": PoseWithCovarianceStamped,
    }
    for topic, _, data in made.messages(list(kinds)):
        messages[topic].append(rclpy.serialization.deserialize_message(data, kinds[topic]))
    for ours, theirs in zip(
        by_stamp(messages["/target"], headers), by_stamp(heard["target"], headers), strict=True
    ):
        assert ours.header == theirs.header
        assert ours.bbox == theirs.bbox
        assert ours.results[0].hypothesis == theirs.results[0].hypothesis
        assert ours.results[0].pose.pose == theirs.results[0].pose.pose
    for ours, theirs in zip(
        by_stamp(messages["/target_status"], headers),
        by_stamp(heard["target_status"], headers),
        strict=True,
    ):
        same = ("header", "state", "label", "score", "seconds_since_seen", "frames_dropped")
        assert [getattr(ours, name) for name in same] == [getattr(theirs, name) for name in same]
    for topic, fields in (
        ("target_direction", ("azimuth", "elevation_rate", "angular_width", "distance_variance")),
        ("target_pose", ()),
    ):
        for ours, theirs in zip(
            by_stamp(messages[f"/{topic}"], headers), by_stamp(heard[topic], headers), strict=True
        ):
            assert ours.header == theirs.header
            for name in fields:
                assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-9)
            if not fields:
                assert ours.pose.pose == theirs.pose.pose
                assert ours.pose.covariance == pytest.approx(theirs.pose.covariance)


@pytest.mark.parametrize("name", ["TargetStatus", "TargetStatusArray", "TargetDirection"])
def test_the_types_in_bags_are_those_of_the_installed_package(name, tmp_path):
    kind = f"tracker_interfaces/msg/{name}"
    with_hash = Path(get_package_share_directory("tracker_interfaces")) / f"msg/{name}.json"
    hashes = {
        entry["type_name"]: entry["hash_string"]
        for entry in json.loads(with_hash.read_text())["type_hashes"]
    }
    writer = BagWriter(tmp_path / "bag.mcap")
    writer.add_topic("/t", kind)
    writer.write("/t", 1, {})
    writer.finish()
    reader = open_bag(tmp_path / "bag.mcap")
    assert get_message(kind) is not None
    (topic,) = reader.topics.values()
    assert common_types().hash_rihs01(kind) == hashes[kind]
    assert "TRACKING" in topic.definition or name != "TargetStatus"
