# SPDX-License-Identifier: Apache-2.0
"""Several targets in the graph: `append`, `targets`, `remove_target`, a status for each."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from graph_probe import Scene
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from tracker_interfaces.msg import TargetStatus
from tracker_interfaces.srv import RemoveTarget
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
    probe.remover = probe.node.create_client(RemoveTarget, "remove_target")
    listener = probe.listen(Detection2DArray, "targets", probe.several)
    probe.until(
        lambda: probe.node.count_publishers("/shared/targets") > 0, "a publisher of targets"
    )
    yield probe
    probe.node.destroy_subscription(listener)
    probe.node.destroy_client(probe.remover)


def start_both(probe):
    """Select the disc and add the square; their ids."""
    header = probe.show().header
    disc = probe.select(probe.scene.box(probe.place), header, "disc")
    square = probe.select(probe.scene.square, header, "square", append=True)
    assert disc.success, disc.message
    assert square.success, square.message
    assert square.stamp == header.stamp
    return disc.target_id, square.target_id


def shown(probe, *ids):
    """All that is said of the scene's next frame: the array, and the status of each target."""

    def told(header):
        arrays = [array for array in probe.several if array.header == header]
        statuses = {s.target_id: s for s in probe.statuses if s.header == header}
        return arrays and set(statuses) >= set(ids) and (arrays[0], statuses)

    def found():
        header = probe.show().header
        return probe.until(lambda: told(header), "", timeout_s=2.0, fail=False)

    return probe.until(found, f"an array of targets and the status of {ids}")


def remove(probe, target_id):
    return probe.call(probe.remover, RemoveTarget.Request(target_id=target_id))


def test_both_are_followed_and_the_first_one_is_the_target(two):
    disc, square = start_both(two)
    for _ in range(4):
        array, statuses = shown(two, disc, square)
    assert [d.id for d in array.detections] == [disc, square]
    assert [d.results[0].hypothesis.class_id for d in array.detections] == ["disc", "square"]
    assert all(d.header == array.header for d in array.detections)
    assert iou(box_of(array.detections[0].bbox), two.scene.box(two.place)) > 0.5
    assert iou(box_of(array.detections[1].bbox), two.scene.square) > 0.5
    assert list(statuses) == [square, disc], "the first one comes last"
    for target_id, label in ((disc, "disc"), (square, "square")):
        status = statuses[target_id]
        assert (status.state, status.label) == (TargetStatus.TRACKING, label)
        assert 0.0 < status.processing_time < status.latency
    assert two.target_of(array.header).id == disc
    assert {t.id for t in two.targets} == {disc}


def test_one_is_removed_and_the_other_goes_on(two):
    disc, square = start_both(two)
    shown(two)
    response = remove(two, disc)
    assert response.success
    assert response.message == f"target {disc} removed"
    two.until(
        lambda: any(s.target_id == disc and s.state == TargetStatus.IDLE for s in two.statuses),
        "a status that tells of the end",
    )
    array, statuses = shown(two, square)
    assert [d.id for d in array.detections] == [square]
    assert list(statuses) == [square]
    assert two.target_of(array.header).id == square, "it is the first one now"
    response = remove(two, disc)
    assert not response.success
    assert response.message == f"there is no target '{disc}'; followed now: {square}"


def test_each_has_a_state_of_its_own(two):
    disc, square = start_both(two)
    assert two.set(lost_after=0.2) == [(True, "")]
    shown(two)
    two.scene.shown = False
    place = two.place

    def lost():
        two.place = place
        array, statuses = shown(two, disc, square)
        assert statuses[disc].state == TargetStatus.TRACKING
        return statuses[square].state == TargetStatus.LOST and array

    array = two.until(lost, "LOST without the square")
    assert [d.id for d in array.detections] == [disc]
    two.scene.shown = True

    def back():
        array, statuses = shown(two, square)
        return statuses[square].state == TargetStatus.TRACKING and array

    array = two.until(back, "the square again")
    assert [d.id for d in array.detections] == [disc, square]
    assert two.set(lost_after=1.0) == [(True, "")]


def test_a_plain_selection_and_clear_end_all(two):
    disc, square = start_both(two)
    header = two.show().header
    third = two.select(two.scene.square, header).target_id
    assert third not in (disc, square)
    array, statuses = shown(two, third)
    assert [d.id for d in array.detections] == list(statuses) == [third]
    assert two.select(two.scene.box(two.place), append=True).success
    cleared = two.clear()
    assert cleared.success
    assert f"targets {third}, " in cleared.message
    assert two.show().target_id == ""


def test_a_late_listener_is_told_of_the_first_target_now(two):
    disc, square = start_both(two)
    assert two.set(lost_after=60.0) == [(True, "")]
    shown(two, disc, square)
    assert two.told_late()[0].target_id == disc
    assert two.clear().success
    assert [(s.target_id, s.state) for s in two.told_late()] == [("", TargetStatus.IDLE)]
    assert two.set(lost_after=1.0) == [(True, "")]


def test_a_refused_addition_leaves_both_alone(two):
    ids = start_both(two)
    refused = two.select((400.0, 50.0, 40.0, 40.0), two.show().header, append=True)
    assert not refused.success
    assert "does not overlap" in refused.message
    array, _ = shown(two)
    assert tuple(d.id for d in array.detections) == ids


def test_the_debug_image_shows_both_in_colours_of_their_own(two):
    pictures: list[Image] = []
    listener = two.listen(Image, "debug/image", pictures)
    ids = start_both(two)
    assert two.set(debug_rate=0) == [(True, "")]
    two.until(lambda: two.show() and pictures, "a picture")
    array, _ = shown(two)
    two.until(lambda: pictures[-1].header == array.header, "the picture of this frame")
    picture = np.frombuffer(pictures[-1].data, np.uint8).reshape(240, 320, 3).astype(int)
    for target_id, detection in zip(ids, array.detections, strict=True):
        x, y, w, h = (round(v) for v in box_of(detection.bbox))
        colour = TARGET_COLOURS[(int(target_id) - 1) % len(TARGET_COLOURS)]
        left_edge = picture[y + h // 2 - 3 : y + h // 2 + 3, max(x - 2, 0) : x + 3]
        assert np.abs(left_edge - colour).sum(axis=2).min() < 40, target_id
    assert two.set(debug_rate=10.0) == [(True, "")]
    two.node.destroy_subscription(listener)
