# SPDX-License-Identifier: Apache-2.0
"""Selecting and following, with the real node, real images and the real service."""

from __future__ import annotations

import threading
import time

import pytest
from builtin_interfaces.msg import Time
from delegating_tracker import DelegatingTracker
from graph_probe import PATIENCE_S
from rclpy.duration import Duration
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, ObjectHypothesisWithPose

from tracker_interfaces.msg import TargetStatus
from tracker_ros.nodes.messages import bounding_box_of


def test_idle_is_silent_and_gives_a_status_for_every_frame(probe):
    for _ in range(3):
        status = probe.show()
        assert status.state == TargetStatus.IDLE
        assert status.target_id == ""
        assert status.frames_received > status.frames_tracked
    assert probe.targets == []


def test_boxes_carry_the_images_own_headers(probe):
    header = probe.show().header
    response = probe.select(probe.scene.box(probe.place), header, "cup")
    assert (response.code, response.success) == (response.OK, True)
    assert response.stamp == header.stamp
    for _ in range(5):
        status = probe.show()
        target = probe.until(lambda s=status: probe.target_of(s.header), "a box for this frame")
        assert target.header == status.header
        assert target.header.frame_id == "camera"
        assert target.id == response.target_id == status.target_id
        assert target.results[0].hypothesis.class_id == "cup"
        assert target.results[0].hypothesis.score == pytest.approx(status.score)
        assert 0.0 < status.score <= 1.0
        assert target.bbox.center.theta == 0.0
        assert status.state == TargetStatus.TRACKING
        assert 0.0 < status.processing_time < status.latency < 2.0
        assert probe.follows(target)
    stamps = [(t.header.stamp.sec, t.header.stamp.nanosec) for t in probe.targets]
    assert stamps == sorted(set(stamps))


def test_without_a_label_the_class_is_the_model(probe):
    probe.start_following()
    assert probe.follow(1).results[0].hypothesis.class_id == "ostrack_tiny"


def test_a_zero_stamp_means_the_newest_frame(probe):
    header = probe.show().header
    response = probe.select(probe.scene.box(probe.place), Header())
    assert response.success
    assert response.stamp == header.stamp


class Seen(DelegatingTracker):
    """The real model, which notes the frames that it is given (their first pixel's number)."""

    def __init__(self, tracker):
        super().__init__(tracker)
        self.pause_s = 0.0
        self.frames = []

    def initialize(self, image, box):
        super().initialize(image, box)
        self.frames = [("start", int(image[0, 0, 0]))]

    def track(self, image):
        time.sleep(self.pause_s)
        self.frames.append(int(image[0, 0, 0]))
        return super().track(image)


def numbered(probe, make_message, **given):
    """Show the scene's next frame with its number in the first pixel; its header."""

    def make(header):
        picture = probe.scene.image(probe.place)
        picture[0, 0, 0] = probe.place
        return make_message(picture, header)

    return probe.show(make=make, **given).header


def test_a_box_on_an_old_frame_starts_there_and_catches_up(local, make_message):
    stage, probe = local
    stage.inner = seen = Seen(stage.inner)
    headers = [numbered(probe, make_message) for _ in range(12)]
    assert seen.frames == [], "nothing is tracked while idle"
    before = probe.statuses[-1]
    response = probe.select(probe.scene.box(5), headers[3])
    assert response.success
    assert response.stamp == headers[3].stamp
    last = numbered(probe, make_message)
    target = probe.until(lambda: probe.target_of(last), "a box for the newest frame")
    assert probe.follows(target)
    start, *frames = seen.frames
    assert start == ("start", 5)
    assert frames == sorted(set(frames))
    assert frames[-1] == probe.place
    published = [t.header.stamp for t in probe.targets]
    assert set(map(str, published)) <= {str(headers[-1].stamp), str(last.stamp)}, (
        "what is replayed is not published"
    )
    status = probe.status_of(last)
    arrived = status.frames_received - before.frames_received
    assert status.frames_tracked - before.frames_tracked == arrived, "others were counted as idle"
    assert status.frames_dropped == before.frames_dropped


def test_a_slow_model_skips_frames_to_catch_up(local, make_message):
    stage, probe = local
    stage.inner = seen = Seen(stage.inner)
    begin = probe.node.get_clock().now()
    stamps = [(begin + Duration(nanoseconds=i * 10_000_000)).to_msg() for i in range(30)]
    headers = [numbered(probe, make_message, stamp=stamp) for stamp in stamps]
    seen.pause_s = 0.1
    first = probe.place - len(headers) + 1
    assert probe.select(probe.scene.box(first), headers[0]).success
    probe.until(lambda: seen.frames[-1] == probe.place, "the newest frame")
    assert seen.frames[1:] == sorted(seen.frames[1:])
    assert len(seen.frames) <= 5, "one by one, then twenty at once: twice the recording's pace"


def test_the_model_is_updated_after_the_box_is_published(local):
    class Learner(DelegatingTracker):
        """Learns until the test has seen the box, or fails when asked to."""

        box_seen = threading.Event()
        waited: list[bool] = []  # noqa: RUF012
        fails = False

        def update_model(self):
            if self.fails:
                raise RuntimeError("nothing to learn")
            self.waited.append(self.box_seen.wait(PATIENCE_S))

    stage, probe = local
    stage.inner = learner = Learner(stage.inner)
    learner.box_seen.set()
    target_id = probe.start_following()
    learner.box_seen.clear()
    learner.waited.clear()
    assert probe.follow(1).id == target_id
    learner.box_seen.set()
    probe.until(lambda: learner.waited == [True], "an update of the model")
    learner.fails = True
    probe.follow(1)
    probe.until(lambda: any("nothing to learn" in log.msg for log in probe.logs), "a log")
    assert probe.follow(2).id == target_id


def test_images_stamped_before_1970_are_tracked_too(probe):
    probe.start_following()
    for nanosec in (0, 50_000_000, 100_000_000):
        stamp = Time(sec=-5, nanosec=nanosec)
        assert probe.show(stamp=stamp).header.stamp == stamp
    probe.begin()


def test_a_stamp_between_frames_takes_the_nearest(probe):
    header = probe.show().header
    near = Header(stamp=header.stamp, frame_id="")
    near.stamp.nanosec = (near.stamp.nanosec + 2_000_000) % 1_000_000_000
    if near.stamp.nanosec < 2_000_000:
        near.stamp.sec += 1
    response = probe.select(probe.scene.box(probe.place), near)
    assert response.success
    assert abs(response.stamp.nanosec - near.stamp.nanosec) == 2_000_000


def test_a_new_selection_gets_a_new_id(probe):
    first = probe.start_following("one")
    second = probe.start_following("two")
    assert first != second
    assert probe.follow(1).id == second


def test_clear_target(probe):
    target_id = probe.start_following()
    probe.follow(1)
    response = probe.clear()
    assert response.success
    assert target_id in response.message
    probe.targets.clear()
    for _ in range(2):
        assert probe.show().state == TargetStatus.IDLE
    assert probe.targets == []
    assert probe.clear().success


def test_enable_pauses_and_keeps_the_target(probe):
    target_id = probe.start_following()
    probe.follow(2)
    assert probe.enable(False).success
    probe.targets.clear()
    status = probe.show()
    assert (status.state, status.target_id) == (TargetStatus.IDLE, target_id)
    assert probe.targets == []
    refused = probe.select(probe.scene.box(probe.place))
    assert (refused.code, refused.success) == (refused.PAUSED, False)
    assert probe.enable(True).success
    assert probe.follow(2).id == target_id


def detection(probe, header, label=""):
    """The disc's box as a detector publishes it."""
    message = Detection2D(header=header, bbox=bounding_box_of(probe.scene.box(probe.place)))
    if label:
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id = label
        message.results.append(hypothesis)
    return message


def test_targets_are_selected_and_added_by_topic(probe):
    header = probe.show().header
    for topic, label in ((probe.boxes, "ball"), (probe.added_boxes, "again")):
        probe.until(lambda t=topic: t.get_subscription_count() > 0, "a subscription")
        topic.publish(detection(probe, header, label))
        probe.until(
            lambda n=label: any(n == s.label for a in probe.arrays for s in a.statuses), label
        )
    header = probe.show().header
    array = probe.until(lambda: probe.array_of(header), "the statuses of both")
    assert [status.label for status in array.statuses] == ["ball", "again"]
    probe.boxes.publish(detection(probe, header))
    probe.until(lambda: [s.label for s in probe.arrays[-1].statuses[:1]] == [""], "a replacement")


def test_a_bad_box_on_the_selection_topic_is_logged_and_changes_nothing(probe):
    target_id = probe.start_following()
    message = Detection2D(header=probe.show().header)
    message.bbox.size_x = -3.0
    probe.boxes.publish(message)
    probe.until(lambda: any("-3" in log.msg for log in probe.logs), "a log of the refusal")
    assert probe.follow(1).id == target_id
