# SPDX-License-Identifier: Apache-2.0
"""The other processes of `node_latency`: a camera, a node that only answers, one that only hears.

    dev/run python -m tools.benchmarks.latency_nodes camera 640 480 30 [--compressed]
    dev/run python -m tools.benchmarks.latency_nodes echo
    dev/run python -m tools.benchmarks.latency_nodes ears target_bearing target_pose

They run until they are interrupted. The camera also publishes its calibration, depth and place in
the frame `odom`, while somebody subscribes to depth.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import cv2
import numpy as np
import rclpy
from geometry_msgs.msg import TransformStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2D, ObjectHypothesisWithPose

from tools.harness.browser import draw_number
from tracker_ros.geometry import Box
from tracker_ros.nodes.image_input import message_class
from tracker_ros.nodes.messages import image_from_array, keep_last, stamp_nanoseconds
from tracker_ros.nodes.node_main import end_in_time, run_node

SEED, SCENES = 3, 8
TAKE_EVERY_S = 0.5


def scenes(width: int, height: int, count: int = SCENES) -> list[tuple[Image, Box]]:
    """Return the first images of the built-in scene, rgb8, each with the box of the target."""
    import torch

    from tracker_ros.synthetic.scene_video import synthetic_video

    torch.set_num_threads(1)
    drawn = synthetic_video(SEED, count, (width, height))
    return [
        (image_from_array(scene.image, Header(frame_id="camera")), scene.box) for scene in drawn
    ]


def compress(image: Image) -> CompressedImage:
    """Return an rgb8 image as JPEG of quality 95, as image_transport publishes it."""
    pixels = np.asarray(image.data, np.uint8).reshape(image.height, image.width, 3)
    _, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    kind = "rgb8; jpeg compressed bgr8"
    return CompressedImage(header=image.header, format=kind, data=data.tobytes())


class Surroundings:
    """Publishes what belongs to an image: calibration, depth, and once where the camera is."""

    def __init__(self, node: Node, width: int, height: int) -> None:
        focal = float(width)
        k = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
        self._info = CameraInfo(width=width, height=height, k=k, distortion_model="plumb_bob")
        self._info.d = [0.1, -0.05, 0.001, 0.001, 0.0]
        noise = np.random.default_rng(SEED).integers(0, 40, (height, width))
        header = Header(frame_id="camera")
        self._depth = image_from_array((2000 + noise).astype(np.uint16).view(np.uint8), header)
        self._depth.width, self._depth.encoding = width, "16UC1"
        self._infos = node.create_publisher(CameraInfo, "camera_info", keep_last(1))
        self._depths = node.create_publisher(Image, "depth", keep_last(1))
        self._places = node.create_publisher(TFMessage, "/tf_static", keep_last(1, latched=True))
        place = TransformStamped(header=Header(frame_id="odom"), child_frame_id="camera")
        self._places.publish(TFMessage(transforms=[place]))

    def publish(self, header: Header) -> None:
        """Publish all for the image of a header, while somebody subscribes to depth."""
        if self._depths.get_subscription_count() > 0:
            self._info.header = self._depth.header = header
            self._infos.publish(self._info)
            self._depths.publish(self._depth)


def camera(width: int, height: int, rate_hz: float, numbered: bool, compressed: bool) -> None:
    """Publish the scene back and forth, stamped with the time just before publication.

    Numbered images have the milliseconds of their stamp drawn at the top left.
    """
    end_in_time()
    forth: list[Any] = [image for image, _ in scenes(width, height)]
    if compressed:
        forth = [compress(image) for image in forth]
    cycle = forth + forth[-2:0:-1]
    rclpy.init()
    node = rclpy.create_node("camera")
    topic = "image/compressed" if compressed else "image"
    publisher = node.create_publisher(type(forth[0]), topic, keep_last(1))
    surroundings = Surroundings(node, width, height)
    due, shown = time.monotonic(), 0
    while rclpy.ok():
        image = cycle[shown % len(cycle)]
        image.header.stamp = node.get_clock().now().to_msg()
        if numbered:
            pixels = np.frombuffer(image.data, np.uint8).reshape(height, width, 3)
            draw_number(pixels, stamp_nanoseconds(image.header) // 1_000_000)
        publisher.publish(image)
        surroundings.publish(image.header)
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


def ears(topics: list[str]) -> None:
    """Receive topics at hardly any cost, and print the name of each when it is first heard.

    The middleware receives every message, as for any subscriber, and keeps the newest of each
    topic. Python takes these only now and then: rclpy would need more time for a message than the
    tracker for making it, on the cores that are measured.
    """
    end_in_time()
    rclpy.init()
    node = rclpy.create_node("ears")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    waiting, silent = set(topics), set(topics)

    def hear(topic: str, kind: type) -> None:
        def note(message: object) -> None:
            if topic in silent:
                silent.remove(topic)
                print(topic, flush=True)

        node.create_subscription(kind, topic, note, keep_last(1))

    while rclpy.ok():
        if waiting:
            kinds = {name: types[0] for name, types in node.get_topic_names_and_types()}
            for topic in sorted(waiting):
                if (name := node.resolve_topic_name(topic)) in kinds:
                    waiting.remove(topic)
                    hear(topic, message_class(kinds[name]))
        for _ in topics:
            executor.spin_once(timeout_sec=0)
        time.sleep(TAKE_EVERY_S)


def main() -> None:
    """Run one of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("echo")
    kinds.add_parser("ears").add_argument("topics", nargs="+")
    options = kinds.add_parser("camera")
    options.add_argument("width", type=int)
    options.add_argument("height", type=int)
    options.add_argument("rate", type=float)
    options.add_argument("--numbered", action="store_true")
    options.add_argument("--compressed", action="store_true")
    arguments = parser.parse_args()
    if arguments.kind == "echo":
        run_node(Echo)
    elif arguments.kind == "ears":
        ears(arguments.topics)
    else:
        camera(
            arguments.width,
            arguments.height,
            arguments.rate,
            arguments.numbered,
            arguments.compressed,
        )


if __name__ == "__main__":
    main()
