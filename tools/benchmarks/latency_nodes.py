# SPDX-License-Identifier: Apache-2.0
"""The other processes of `node_latency`: a camera, and a node that only answers.

    dev/run python -m tools.benchmarks.latency_nodes camera 640 480 30
    dev/run python -m tools.benchmarks.latency_nodes echo

Both run until they are interrupted.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, ObjectHypothesisWithPose

from tools.harness.browser import draw_number
from tracker_ros.geometry import Box
from tracker_ros.nodes.messages import image_from_array, keep_last, stamp_nanoseconds
from tracker_ros.nodes.node_main import end_in_time, run_node

SEED, SCENES = 3, 8


def scenes(width: int, height: int, count: int = SCENES) -> list[tuple[Image, Box]]:
    """Return the first images of the built-in scene, rgb8, each with the box of the target."""
    import torch

    from tracker_ros.synthetic.scene_video import synthetic_video

    torch.set_num_threads(1)
    drawn = synthetic_video(SEED, count, (width, height))
    return [
        (image_from_array(scene.image, Header(frame_id="camera")), scene.box) for scene in drawn
    ]


def camera(width: int, height: int, rate_hz: float, numbered: bool) -> None:
    """Publish the scene back and forth, stamped with the time just before publication.

    Numbered images have the milliseconds of their stamp drawn at the top left.
    """
    end_in_time()
    forth = [image for image, _ in scenes(width, height)]
    cycle = forth + forth[-2:0:-1]
    rclpy.init()
    node = rclpy.create_node("camera")
    publisher = node.create_publisher(Image, "image", keep_last(1))
    due, shown = time.monotonic(), 0
    while rclpy.ok():
        image = cycle[shown % len(cycle)]
        image.header.stamp = node.get_clock().now().to_msg()
        if numbered:
            pixels = np.frombuffer(image.data, np.uint8).reshape(height, width, 3)
            draw_number(pixels, stamp_nanoseconds(image.header) // 1_000_000)
        publisher.publish(image)
        shown += 1
        due = max(due + 1.0 / rate_hz, time.monotonic() - 1.0 / rate_hz)
        time.sleep(max(0.0, due - time.monotonic()))


class Echo(Node):
    """Answers each image with a detection at once: no rclpy node can be faster."""

    def __init__(self) -> None:
        super().__init__("echo")
        self._publisher = self.create_publisher(Detection2D, "target", keep_last(1))
        self.create_subscription(Image, "image", self._answer, keep_last(1, reliable=False))

    def _answer(self, image: Image) -> None:
        detection = Detection2D(header=image.header, id="1")
        detection.results.append(ObjectHypothesisWithPose())
        self._publisher.publish(detection)


def main() -> None:
    """Run one of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("echo")
    options = kinds.add_parser("camera")
    options.add_argument("width", type=int)
    options.add_argument("height", type=int)
    options.add_argument("rate", type=float)
    options.add_argument("--numbered", action="store_true")
    arguments = parser.parse_args()
    if arguments.kind == "echo":
        run_node(Echo)
    else:
        camera(arguments.width, arguments.height, arguments.rate, arguments.numbered)


if __name__ == "__main__":
    main()
