# SPDX-License-Identifier: Apache-2.0
"""Selecting and following, with the real node, real images and the real service."""

from __future__ import annotations

import pytest
from delegating_tracker import DelegatingTracker
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, ObjectHypothesisWithPose

from tracker_interfaces.msg import TargetStatus
from tracker_ros.nodes.track import TrackNode


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
    assert response.success
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
    """The real model, which notes the number of each frame (its first pixel) that it is given."""

    def __init__(self, tracker):
        super().__init__(tracker)
        self.frames = []

    def initialize(self, image, box):
        super().initialize(image, box)
        self.frames = [int(image[0, 0, 0])]

    def track(self, image):
        self.frames.append(int(image[0, 0, 0]))
        return super().track(image)


def numbered(probe, make_message):
    """Show the scene's next frame with its number in the first pixel; return its header."""

    def make(header):
        picture = probe.scene.image(probe.place)
        picture[0, 0, 0] = probe.place
        return make_message(picture, header)

    return probe.show(make=make).header


def test_a_box_on_an_old_frame_starts_there_and_catches_up(
    make_probe, spin, tiny_tracker, make_message
):
    seen = Seen(tiny_tracker)
    probe = make_probe()
    spin(lambda: TrackNode(lambda parameters: seen))
    probe.connect()
    headers = [numbered(probe, make_message) for _ in range(12)]
    assert seen.frames == [], "nothing is tracked while idle"
    response = probe.select(probe.scene.box(4), headers[3])
    assert response.success
    assert response.stamp == headers[3].stamp
    last = numbered(probe, make_message)
    target = probe.until(lambda: probe.target_of(last), "a box for the newest frame")
    assert probe.follows(target)
    assert seen.frames[0] == 4
    assert seen.frames[-1] == 13
    assert seen.frames == sorted(set(seen.frames))
    published = [t.header.stamp for t in probe.targets]
    assert set(map(str, published)) <= {str(headers[-1].stamp), str(last.stamp)}, (
        "replayed frames are not published"
    )
    status = probe.status_of(last)
    assert (status.frames_tracked, status.frames_dropped) == (len(published), 0)


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
    assert not refused.success
    assert "enable" in refused.message
    assert probe.enable(True).success
    assert probe.follow(2).id == target_id


def test_the_selection_topic_is_a_second_door(probe):
    header = probe.show().header
    x, y, w, h = probe.scene.box(probe.place)
    message = Detection2D(header=header)
    message.bbox.center.position.x = x + w / 2
    message.bbox.center.position.y = y + h / 2
    message.bbox.size_x, message.bbox.size_y = w, h
    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id = "ball"
    message.results.append(hypothesis)
    probe.until(lambda: probe.boxes.get_subscription_count() > 0, "a listener on selection")
    probe.boxes.publish(message)
    probe.until(lambda: any(s.state == TargetStatus.TRACKING for s in probe.statuses), "tracking")
    assert probe.follow(1).results[0].hypothesis.class_id == "ball"


def test_a_bad_box_on_the_selection_topic_is_logged_and_changes_nothing(probe):
    target_id = probe.start_following()
    message = Detection2D(header=probe.show().header)
    message.bbox.size_x = -3.0
    probe.boxes.publish(message)
    probe.until(
        lambda: any("-3" in log.msg and "refused" in log.msg for log in probe.logs),
        "a log of the refusal",
    )
    assert probe.follow(1).id == target_id
