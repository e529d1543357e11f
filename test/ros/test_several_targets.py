# SPDX-License-Identifier: Apache-2.0
"""Several targets in the graph: `append`, `targets`, `target_statuses`, `remove_target`."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from graph_probe import Scene
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from tracker_interfaces.msg import TargetStatus, TargetStatusArray
from tracker_ros.drawing.overlay import TARGET_COLOURS
from tracker_ros.geometry import iou
from tracker_ros.nodes.messages import box_of


class TwoThings(Scene):
    """The disc, and a striped square that stays in a corner unless it is hidden."""

    shown = True
    square = (250.0, 20.0, 44.0, 44.0)

    def image(self, place, visible=True):
        picture = super().image(place, visible)
        if self.shown:
            face = np.full((44, 44, 3), (30, 60, 200), np.uint8)
            for x in range(4, 44, 12):
                cv2.rectangle(face, (x, 0), (x + 5, 43), (240, 230, 60), -1)
            cv2.circle(face, (22, 22), 9, (250, 250, 250), -1)
            picture[20:64, 250:294] = face
        return picture


@pytest.fixture
def two(probe):
    """The shared tracker's probe, before two things, listening to all targets."""
    probe.scene = TwoThings()
    probe.several = []
    listener = probe.listen(Detection2DArray, "targets", probe.several)
    probe.until(
        lambda: probe.node.count_publishers("/shared/targets") > 0, "a publisher of targets"
    )
    yield probe
    probe.node.destroy_subscription(listener)


def start_both(probe):
    """Select the disc and add the square; their ids."""
    header = probe.show().header
    disc = probe.select(probe.scene.box(probe.place), header, "disc")
    square = probe.select(probe.scene.square, header, "square", append=True)
    assert disc.success, disc.message
    assert square.success, square.message
    assert square.stamp == header.stamp
    return disc.target_id, square.target_id


def shown(probe):
    """What is published for the scene's next frame: boxes, statuses by id, the first status."""

    def boxes_of(header):
        return next((array for array in probe.several if array.header == header), None)

    def found():
        status = probe.show()
        header = status.header
        boxes = probe.until(lambda: boxes_of(header), "", timeout_s=5.0, fail=False)
        array = probe.until(lambda: probe.array_of(header), "", timeout_s=5.0, fail=False)
        return boxes and array and (boxes, {s.target_id: s for s in array.statuses}, status)

    return probe.until(found, "boxes and statuses of one frame")


def test_both_are_followed_and_the_first_one_is_the_target(two):
    disc, square = start_both(two)
    for _ in range(4):
        array, statuses, first = shown(two)
    assert [d.id for d in array.detections] == [disc, square]
    assert [d.results[0].hypothesis.class_id for d in array.detections] == ["disc", "square"]
    assert all(d.header == array.header for d in array.detections)
    assert iou(box_of(array.detections[0].bbox), two.scene.box(two.place)) > 0.5
    assert iou(box_of(array.detections[1].bbox), two.scene.square) > 0.5
    assert list(statuses) == [disc, square]
    for target_id, label in ((disc, "disc"), (square, "square")):
        status = statuses[target_id]
        assert (status.state, status.label) == (TargetStatus.TRACKING, label)
        assert 0.0 < status.processing_time < status.latency
        assert status.header == array.header
    assert first == statuses[disc]
    counters = [name for name in first.get_fields_and_field_types() if name.startswith("frames_")]
    whole = two.array_of(array.header)
    assert [getattr(whole, n) for n in counters] == [getattr(first, n) for n in counters]
    assert sum(s.header == array.header for s in two.statuses) == 1, "once for each image"
    assert {s.target_id for s in two.statuses} <= {"", disc}
    assert two.target_of(array.header).id == disc
    assert {t.id for t in two.targets} == {disc}


def test_one_is_removed_and_the_other_goes_on(two):
    disc, square = start_both(two)
    shown(two)
    response = two.remove(disc)
    assert (response.code, response.success) == (response.OK, True)
    ended = two.until(
        lambda: next(
            (a for a in two.arrays if a.statuses[-1:] and a.statuses[-1].state == 0), None
        ),
        "an array that tells of the end",
    )
    assert [s.target_id for s in ended.statuses] == [square, disc]
    array, statuses, first = shown(two)
    assert [d.id for d in array.detections] == [square]
    assert list(statuses) == [square]
    assert two.target_of(array.header).id == first.target_id == square, "it is the first one now"
    response = two.remove(disc)
    assert (response.code, response.success) == (response.UNKNOWN_TARGET, False)
    assert square in response.message


def test_each_has_a_state_of_its_own(two):
    disc, square = start_both(two)
    assert two.set(lost_after=0.2) == [(True, "")]
    shown(two)
    two.scene.shown = False
    place = two.place

    def lost():
        two.place = place
        array, statuses, _ = shown(two)
        assert statuses[disc].state == TargetStatus.TRACKING
        return statuses[square].state == TargetStatus.LOST and array

    array = two.until(lost, "LOST without the square")
    assert [d.id for d in array.detections] == [disc]
    two.scene.shown = True

    def back():
        array, statuses, _ = shown(two)
        return statuses[square].state == TargetStatus.TRACKING and array

    array = two.until(back, "the square again")
    assert [d.id for d in array.detections] == [disc, square]


def test_a_plain_selection_and_clear_end_all(two):
    disc, square = start_both(two)
    header = two.show().header
    third = two.select(two.scene.square, header).target_id
    assert third not in (disc, square)
    array, statuses, _ = shown(two)
    assert [d.id for d in array.detections] == list(statuses) == [third]
    assert two.select(two.scene.box(two.place), append=True).success
    cleared = two.clear()
    assert cleared.success
    assert third in cleared.message
    ended = two.until(lambda: two.arrays[-1].header.frame_id == "" and two.arrays[-1], "the end")
    assert [s.state for s in ended.statuses] == [TargetStatus.IDLE] * 2
    assert two.show().target_id == ""
    assert two.latched_message(TargetStatusArray, "target_statuses").statuses == []


def test_a_late_subscriber_receives_the_latest_status_of_the_first_target(two):
    disc, square = start_both(two)
    assert two.set(lost_after=60.0) == [(True, "")]
    shown(two)
    assert two.latched_message(TargetStatus, "target_status").target_id == disc
    array = two.latched_message(TargetStatusArray, "target_statuses")
    assert [s.target_id for s in array.statuses] == [disc, square]
    assert two.clear().success
    status = two.latched_message(TargetStatus, "target_status")
    assert (status.target_id, status.state) == ("", TargetStatus.IDLE)


def test_a_refused_addition_leaves_both_alone(two):
    ids = start_both(two)
    refused = two.select((400.0, 50.0, 40.0, 40.0), two.show().header, append=True)
    assert refused.code == refused.OUTSIDE_IMAGE
    array, _, _ = shown(two)
    assert tuple(d.id for d in array.detections) == ids


def test_the_debug_image_shows_both_in_colours_of_their_own(two):
    pictures: list[Image] = []
    listener = two.listen(Image, "debug/image", pictures)
    ids = start_both(two)
    assert two.set(debug_rate=0) == [(True, "")]
    two.until(lambda: two.show() and pictures, "a picture")
    array, _, _ = shown(two)
    two.until(lambda: pictures[-1].header == array.header, "the picture of this frame")
    picture = np.frombuffer(pictures[-1].data, np.uint8).reshape(240, 320, 3).astype(int)
    for target_id, detection in zip(ids, array.detections, strict=True):
        x, y, w, h = (round(v) for v in box_of(detection.bbox))
        colour = TARGET_COLOURS[(int(target_id) - 1) % len(TARGET_COLOURS)]
        left_edge = picture[y + h // 2 - 3 : y + h // 2 + 3, max(x - 2, 0) : x + 3]
        assert np.abs(left_edge - colour).sum(axis=2).min() < 40, target_id
    two.node.destroy_subscription(listener)
