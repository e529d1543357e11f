# SPDX-License-Identifier: Apache-2.0
"""Targets that a detector finds: the topic ``detections`` and ``select_from_detections``."""

from __future__ import annotations

import math

import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose, Point2D

from tracker_interfaces.msg import TargetStatus
from tracker_interfaces.srv import SelectFromDetections
from tracker_ros.following.detections import DetectionRule
from tracker_ros.nodes.messages import bounding_box_of

Request, Response = SelectFromDetections.Request, SelectFromDetections.Response


class Detector:
    """Publishes detections beside the shared tracker and asks for them."""

    def __init__(self, probe):
        self.probe = probe
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.topic = probe.node.create_publisher(Detection2DArray, "detections", qos)
        self.client = probe.node.create_client(SelectFromDetections, "select_from_detections")
        probe.until(lambda: self.topic.get_subscription_count() > 0, "the tracker's subscription")

    def find(self, header, *found):
        """Publish boxes ``(x, y, w, h)`` with class and score."""
        message = Detection2DArray(header=header)
        for box, class_id, score in found:
            hypothesis = ObjectHypothesisWithPose()
            hypothesis.hypothesis.class_id = class_id
            hypothesis.hypothesis.score = score
            message.detections.append(
                Detection2D(bbox=bounding_box_of(box), results=[hypothesis], id=class_id)
            )
        self.topic.publish(message)

    def ask(self, header, found, fits=lambda response: True, **request):
        """Publish detections and ask, again and again until the answer is about them."""
        for _ in range(50):
            self.find(header, *found)
            response = self.probe.call(self.client, Request(**request))
            if fits(response):
                return response
        raise AssertionError(f"the answer stays {response.message!r}")


@pytest.fixture
def detector(probe):
    made = Detector(probe)
    yield made
    probe.node.destroy_publisher(made.topic)
    probe.node.destroy_client(made.client)


def test_the_interface_has_the_packages_numbers():
    assert {rule.name: rule.value for rule in DetectionRule} == {
        "BEST": Request.BEST,
        "LARGEST": Request.LARGEST,
        "NEAREST": Request.NEAREST,
    }


def test_a_detection_becomes_the_target(probe, detector):
    header = probe.show().header
    disc = probe.scene.box(probe.place)
    for _ in range(5):
        probe.show()  # the detector is slow
    found = [((5.0, 5.0, 90.0, 90.0), "wall", 0.9), (disc, "disc", 0.5)]
    response = detector.ask(header, found, lambda r: r.success, class_id="disc")
    assert response.code == Response.OK
    assert (response.stamp, response.detection.id) == (header.stamp, "disc")
    target = probe.follow()
    assert target.id == response.target_id
    assert target.results[0].hypothesis.class_id == "disc"
    assert probe.follows(target)


def test_the_nearest_to_a_point_is_added(probe, detector):
    first = probe.start_following()
    header = probe.show().header
    disc = probe.scene.box(probe.place)
    found = [(disc, "", 0.0), ((200.0, 150.0, 60.0, 60.0), "", 0.9)]
    response = detector.ask(
        header,
        found,
        lambda r: r.success,
        rule=Request.NEAREST,
        point=Point2D(x=disc[0], y=disc[1]),
        label="again",
        append=True,
    )
    status = probe.show()
    array = probe.until(lambda: probe.array_of(status.header), "the status of each")
    assert [s.target_id for s in array.statuses] == [first, response.target_id]
    assert array.statuses[1].label == "again"


def test_what_does_not_fit_is_refused_and_the_target_kept(probe, detector):
    target_id = probe.start_following()
    header = probe.show().header
    good = (probe.scene.box(probe.place), "disc", 0.5)

    def refused(found, code, **request):
        response = detector.ask(header, found, lambda r: r.code == code, **request)
        assert not response.success and response.message
        assert probe.show().target_id == target_id

    refused([good], Response.NO_DETECTION, class_id="dog")
    refused([good], Response.NO_DETECTION, min_score=0.6)
    refused([good], Response.NO_DETECTION, rule=9)
    refused([], Response.NO_DETECTION)
    refused([((math.nan, 1.0, 9.0, 9.0), "disc", 0.5)], Response.NO_DETECTION)
    refused([((900.0, 900.0, 30.0, 30.0), "disc", 0.5)], 10)  # OUTSIDE_IMAGE of SelectTarget
    header.stamp.sec -= 1000
    refused([good], 4)  # STALE_STAMP


def test_a_lost_target_is_found_where_a_detector_sees_one_of_its_class(probe, detector):
    assert probe.set(lost_after=0.2, redetect_interval=3600.0) == [(True, "")] * 2
    probe.place = 62  # at the right
    target_id = probe.start_following(label="disc")
    probe.follow(3)
    probe.until(
        lambda: probe.show(visible=False).state == TargetStatus.LOST, "LOST without the disc"
    )
    for _ in range(4):
        probe.show(visible=False)

    def seen_as(class_id, images=16):
        """Return the states while the disc is at the left and detected as this."""
        probe.place, states = 188, []
        for _ in range(images):
            place = probe.scene.box(probe.place)
            detector.find(probe.header(), ((math.nan, 0.0, 9.0, 9.0), "disc", 0.9))
            detector.find(probe.header(), (place, class_id, 0.4))
            states.append(probe.show().state)
        return states

    assert set(seen_as("cup")) == {TargetStatus.LOST}
    assert seen_as("disc")[-1] == TargetStatus.TRACKING
    assert probe.show().target_id == target_id
    assert probe.follows(probe.follow())
