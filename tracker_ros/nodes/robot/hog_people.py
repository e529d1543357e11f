# SPDX-License-Identifier: Apache-2.0
"""The ``hog_people`` node: finds people, as an example of a detector beside the tracker.

OpenCV's people detector (Dalal and Triggs, Histograms of Oriented Gradients for Human Detection,
2005) needs no weights and runs on any CPU. It is slow and misses much. That does not matter here:
one good detection is enough to begin with, and the tracker starts on the image that it belongs to.
"""

from __future__ import annotations

import time

import cv2
import numpy as np
from rclpy.node import Node
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from tracker_ros.geometry import Box
from tracker_ros.nodes.image_input import whole_images
from tracker_ros.nodes.messages import bounding_box_of, keep_last, rgb_from_image
from tracker_ros.nodes.node_main import exit_program, run_node
from tracker_ros.nodes.parameters import ParameterTable, check_command_line
from tracker_ros.nodes.robot.parameters import HOG_PEOPLE_PARAMETERS

__all__ = ["HogPeopleNode", "find_people", "main"]

_CLASS = "person"
_STRIDE = (8, 8)
_STEP = 1.08
_MIN_OVERLAP = 0.45
# The detector's window leaves a margin around the person.
_MARGIN_X, _MARGIN_Y = 0.2, 0.1


def find_people(
    image: np.ndarray, threshold: float = 0.3, magnification: float = 1.0
) -> list[tuple[Box, float]]:
    """Find people in an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        threshold: Least weight of a detection.
        magnification: Size at which the image is searched.

    Returns:
        Boxes ``(x, y, w, h)``, pixels, and scores in [0, 1], the best first.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, None, fx=magnification, fy=magnification)
    height, width = grey.shape
    detector = cv2.HOGDescriptor()
    weights_of_people: np.ndarray = np.asarray(cv2.HOGDescriptor.getDefaultPeopleDetector())
    detector.setSVMDetector(weights_of_people)
    if width < detector.winSize[0] or height < detector.winSize[1]:
        return []
    found, weights = detector.detectMultiScale(
        grey, hitThreshold=threshold, winStride=_STRIDE, scale=_STEP, groupThreshold=0
    )
    if len(found) == 0:
        return []
    windows = np.asarray(found)
    scores = 1.0 - np.exp(-np.ravel(weights).astype(float))
    kept = cv2.dnn.NMSBoxes(windows.tolist(), scores.tolist(), 0, _MIN_OVERLAP)
    return [(_person(windows[i], magnification), float(scores[i])) for i in np.ravel(kept)]


def _person(window: np.ndarray, magnification: float) -> Box:
    """Return the box of the person in one of the detector's windows."""
    x, y, w, h = (float(value) / magnification for value in window)
    return (
        x + _MARGIN_X * w,
        y + _MARGIN_Y * h,
        w * (1 - 2 * _MARGIN_X),
        h * (1 - 2 * _MARGIN_Y),
    )


class HogPeopleNode(Node):
    """Publishes the people in images on ``detections``, a few times per second."""

    def __init__(self) -> None:
        super().__init__("hog_people")
        self._table = ParameterTable(self, HOG_PEOPLE_PARAMETERS, configured=lambda: True)
        options = QoSOverridingOptions.with_default_policies()
        self._detections = self.create_publisher(
            Detection2DArray, "detections", keep_last(1), qos_overriding_options=options
        )
        self.create_subscription(
            *whole_images(self, self._table.text("image_transport")),
            self._on_image,
            keep_last(1, reliable=False),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self._next = 0.0

    def _on_image(self, message: Image | CompressedImage) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + 1.0 / self._table.number("rate")
        try:
            image = rgb_from_image(message)
        except ValueError as error:
            self.get_logger().error(f"image skipped: {error}", throttle_duration_sec=10.0)
            return
        found = find_people(
            image, self._table.number("threshold"), self._table.number("magnification")
        )
        array = Detection2DArray(header=message.header)
        for box, score in found:
            hypothesis = ObjectHypothesisWithPose()
            hypothesis.hypothesis.class_id = _CLASS
            hypothesis.hypothesis.score = score
            array.detections.append(
                Detection2D(header=message.header, bbox=bounding_box_of(box), results=[hypothesis])
            )
        self._detections.publish(array)


def main(args: list[str] | None = None) -> None:
    """Run the node."""
    about = "Finds people in images (OpenCV's HOG detector) and publishes them on detections."
    check_command_line("hog_people", about, HOG_PEOPLE_PARAMETERS, args)
    exit_program(run_node(HogPeopleNode, args))


if __name__ == "__main__":
    main()
