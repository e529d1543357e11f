# SPDX-License-Identifier: Apache-2.0
"""A real detector hands a target over: OpenCV's people detector beside the tracker."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from graph_probe import image_message
from sensor_msgs.msg import CompressedImage

from tools.demo.footage import BOXES_FILE, street_scene
from tracker_interfaces.srv import SelectFromDetections
from tracker_ros.cache import cache_folder
from tracker_ros.geometry import iou
from tracker_ros.nodes.messages import compressed_from_array, stamp_nanoseconds
from tracker_ros.nodes.robot.hog_people import find_people

pytestmark = pytest.mark.ros
WIDTH, HEIGHT = 320, 240


def figure(left, top=50, height=150):
    """(H, W, 3) uint8 RGB: a drawn person, and its box."""
    rng = np.random.default_rng(0)
    picture = np.full((HEIGHT, WIDTH, 3), 190, np.uint8)
    picture = cv2.add(picture, rng.integers(0, 14, picture.shape, dtype=np.uint8))
    cv2.rectangle(picture, (20, 60), (70, 200), (80, 120, 90), -1)  # no person
    unit, middle, dark = height / 8, left + 0.15 * height, (60, 60, 70)

    def part(*points):
        corners = [[round(middle + x * unit), round(top + y * unit)] for x, y in points]
        cv2.fillPoly(picture, [np.array(corners)], dark, cv2.LINE_AA)

    centre = (round(middle), round(top + 0.55 * unit))
    cv2.ellipse(picture, centre, (int(0.42 * unit), int(0.55 * unit)), 0, 0, 360, dark, -1)
    part((-1, 1.35), (1, 1.35), (0.75, 4.2), (-0.75, 4.2))
    for side in (-1, 1):
        part((side, 1.35), (0.7 * side, 1.4), (side, 4.1), (1.35 * side, 4.1))
        part((0.75 * side, 4.1), (0, 4.1), (0.25 * side, 7.9), (0.85 * side, 7.9))
    return picture, (float(left), float(top), 0.3 * height, float(height))


def test_a_person_is_found_and_a_box_is_not():
    picture, person = figure(198)
    ((box, score),) = find_people(picture)
    assert iou(box, person) > 0.5
    assert 0.0 < score < 1.0
    empty = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    assert find_people(empty) == []
    assert find_people(empty[:40, :30]) == [], "smaller than the detector's window"


def test_the_person_of_the_demo_is_found():
    clip = street_scene(cache_folder("demo")).source.partition("#")[0]  # fetched if need be
    film = cv2.VideoCapture(clip)
    checked = {c["frame"]: c["box"] for c in json.loads(BOXES_FILE.read_text())["check_boxes"]}
    overlaps = []
    for frame in sorted(checked)[::4]:
        film.set(cv2.CAP_PROP_POS_FRAMES, frame)
        picture = film.read()[1][..., ::-1].copy()
        overlaps.append(max(iou(box, checked[frame]) for box, _ in find_people(picture)))
    assert min(overlaps) > 0.45


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_the_detector_hands_a_person_to_the_tracker(transport, probe, run_program):
    settings = ["-p", "rate:=20.0", "-p", f"image_transport:={transport}"]
    process = run_program("hog_people", "--ros-args", "-r", "__ns:=/shared", *settings)
    begin = stamp_nanoseconds(probe.header())
    jpegs = probe.node.create_publisher(CompressedImage, "image/compressed", 1)
    client = probe.node.create_client(SelectFromDetections, "select_from_detections")
    request = SelectFromDetections.Request(class_id="person", min_score=0.4)

    def walk():
        probe.place += 1
        left = 150 + (probe.place % 60)
        picture, header = figure(left)[0], probe.header()
        probe.publish(image_message(picture, header))
        jpegs.publish(compressed_from_array(picture, header))
        return left

    def selected():
        walk()
        answer = probe.call(client, request)
        is_new = stamp_nanoseconds(answer.detection.header) > begin
        return answer if answer.success and is_new else None

    answer = probe.until(selected, "a person")
    assert answer.detection.results[0].hypothesis.class_id == "person"
    process.stop()
    probe.targets.clear()

    def followed():
        left = walk()
        probe.until(lambda: probe.targets, "", 0.5, fail=False)
        if not probe.targets:
            return False
        found = probe.targets[-1]
        centre = found.bbox.center.position
        return found.id == answer.target_id and abs(centre.x - left - 22) < 40

    probe.until(followed, "the person's box")
    probe.node.destroy_client(client)
    probe.node.destroy_publisher(jpegs)
    assert "Traceback" not in process.output
