# SPDX-License-Identifier: Apache-2.0
"""One tracker for several cameras: names, one model for all, and failures that stay apart."""

from __future__ import annotations

import asyncio

import pytest
from graph_probe import Probe, image_message
from rclpy.node import Node
from rclpy.parameter import Parameter

from tracker_interfaces.msg import TargetStatus
from tracker_ros.models.one_stream.tracker import OneStreamTracker
from tracker_ros.nodes.console_commands import TrackerCommands
from tracker_ros.nodes.track import TrackNode

NAMES = ("front", "left")


class Viewer(Node):
    """The node of a console, without its page."""

    def close(self):
        """Has nothing to stop."""


class Seen(OneStreamTracker):
    """The embedded tracker; its forks share the list of what was tracked."""

    made = 0

    def __init__(self, model):
        super().__init__(model)
        Seen.made += 1
        self.passes = []
        self.models = {id(model)}

    def track_images(self, others, images):
        self.passes.append(len({id(image) for image in images}))
        self.models.update(id(tracker.model) for tracker in (self, *others))
        return super().track_images(others, images)


@pytest.fixture(scope="module")
def tracker(tiny_tracker):
    Seen.made = 0
    return Seen(tiny_tracker.model)


@pytest.fixture(scope="module")
def pair(tracker):
    """The probes of both cameras of one node."""
    from conftest import SpunNode

    names = Parameter("cameras", value=list(NAMES))
    spun = SpunNode(
        lambda: TrackNode(lambda p: tracker, namespace="pair", parameter_overrides=[names])
    )
    probes = [Probe(f"/pair/{name}", tracker="/pair/track") for name in NAMES]
    for probe in probes:
        probe.connect()
    yield probes
    for probe in probes:
        probe.close()
    spun.close()


@pytest.fixture
def cameras(pair):
    """Both probes, with no target, at different places of the scene."""
    for place, probe in zip((0, 60), pair, strict=True):
        probe.begin()
        probe.place = place
    return pair


def test_each_camera_has_its_topics_and_its_target(cameras, tracker):
    front, left = cameras
    ids = [front.start_following("one"), left.start_following("two")]
    assert ids[0] != ids[1], "ids are those of the node"
    for _ in range(3):
        for probe, target_id, label in zip(cameras, ids, ("one", "two"), strict=True):
            target = probe.follow(1)
            assert (target.id, target.results[0].hypothesis.class_id) == (target_id, label)
            assert probe.follows(target)
    assert front.clear().success
    assert front.show().state == TargetStatus.IDLE
    assert left.follow(1).id == ids[1]
    assert {s.target_id for s in left.statuses} <= {"", ids[1]}
    assert Seen.made == 1
    assert front.node.count_publishers("/pair/target_status") == 0


def test_frames_that_wait_together_share_a_pass(cameras, tracker):
    for probe in cameras:
        probe.start_following()
    tracker.passes.clear()

    def shared():
        for probe in cameras:
            probe.publish_scene()
            probe.executor.spin_once(timeout_sec=0.001)
        return 2 in tracker.passes

    cameras[0].until(shared, "a pass for two images")
    assert len(tracker.models) == 1, "one copy of the network"
    for probe in cameras:
        assert probe.follows(probe.follow(2))


def test_a_camera_that_ends_does_not_disturb_the_other(cameras):
    front, left = cameras
    for probe in cameras:
        assert probe.set(lost_after=0.3)[0][0]
        probe.start_following()
        probe.follow(2)

    def lost():
        assert front.show().state == TargetStatus.TRACKING
        left.executor.spin_once(timeout_sec=0.01)
        return left.statuses[-1].state == TargetStatus.LOST

    front.until(lost, "the loss of the target whose camera is silent")
    assert front.follows(front.follow(1))
    assert left.follows(left.follow(2)), "and found again"


def test_bad_images_of_one_camera_are_rejected_alone(cameras):
    front, left = cameras
    for probe in cameras:
        probe.start_following()
    bad = front.show(make=lambda h: image_message(front.scene.image(0), h, encoding="rgb12"))
    good = left.show()
    assert (bad.frames_rejected, good.frames_rejected) == (1, 0)
    assert good.state == TargetStatus.TRACKING
    front.until(
        lambda: (
            (front.level_of("front images")[0], front.level_of("left images")[0])
            == (b"\x02", b"\x00")
        ),
        "diagnostics that name the camera",
    )
    assert any(log.name.endswith("track.front") for log in front.logs)
    assert front.follows(front.follow(2))


def test_the_console_finds_the_tracker_of_its_camera(cameras, spin):
    spun = spin(lambda: Viewer("viewer", namespace="pair"))
    front, left = (
        TrackerCommands(spun.node, lambda service, name=name: f"{name}/{service}", lambda on: None)
        for name in NAMES
    )

    def refused():
        answer = asyncio.run(front.carry_out({"do": "model", "model": "no_such_model"}))
        assert not answer["success"]
        return "no_such_model" in answer["message"]

    cameras[0].until(refused, "a refusal by the tracker itself")
    answer = asyncio.run(left.carry_out({"do": "model", "model": "ostrack_tiny"}))
    assert answer["success"], answer["message"]
    for probe in cameras:
        probe.connect()
        probe.start_following()
        assert probe.follows(probe.follow(1))


@pytest.mark.parametrize("names", [["front", "front"], ["a/b"], ["1st"], [1, 2]])
def test_names_that_cannot_be_are_refused(names, ros_context):
    from tracker_ros.nodes.node_main import NodeStartError

    given = Parameter("cameras", value=names)
    with pytest.raises(NodeStartError, match="cameras"):
        TrackNode(lambda p: None, namespace="refused", parameter_overrides=[given])
