# SPDX-License-Identifier: Apache-2.0
"""Compressed images and packets of video streams, from the topic to the target."""

from __future__ import annotations

import array
import itertools
import time
from fractions import Fraction

import av
import cv2
import pytest
import rclpy
from graph_probe import Scene
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage

from tracker_interfaces.msg import TargetStatus
from tracker_ros.nodes.image_input import describe_other_transports, message_class
from tracker_ros.nodes.node_main import NodeStartError
from tracker_ros.nodes.select_target import SelectTargetNode
from tracker_ros.nodes.track import TrackNode

PACKET = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
FOXGLOVE = "foxglove_msgs/msg/CompressedVideo"


def jpeg(probe, header, pixels, index):
    """Return an image as the usual JPEG message."""
    data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
    return CompressedImage(
        header=header, format="rgb8; jpeg compressed bgr8", data=array.array("B", data)
    )


class Encoder:
    """Encodes images to H.264 without delay, a key frame every ten; `sent` counts packets."""

    def __init__(self, kind: type) -> None:
        self._kind = kind
        self._context = None
        self.sent = 0

    def __call__(self, probe, header, pixels, index):
        if self._context is None:
            context = av.CodecContext.create("libx264", "w")
            context.width, context.height = probe.scene.width, probe.scene.height
            context.pix_fmt, context.time_base = "yuv420p", Fraction(1, 30)
            context.framerate, context.gop_size = Fraction(30), 10
            context.options = {"tune": "zerolatency", "preset": "ultrafast"}
            self._context = context
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
        frame.pts = index
        (packet,) = self._context.encode(frame)
        self.sent += 1
        data = array.array("B", bytes(packet))
        if self._kind.__name__ == "CompressedVideo":
            return self._kind(
                timestamp=header.stamp, frame_id=header.frame_id, data=data, format="h264"
            )
        return self._kind(
            header=header,
            width=probe.scene.width,
            height=probe.scene.height,
            encoding="h264;yuv420p;bgr8;rgb8",
            pts=index,
            flags=int(packet.is_keyframe),
            data=data,
        )


@pytest.fixture
def start(spin, make_probe, tiny_tracker):
    """Starts a node for a transport; returns a probe whose camera sends what an encoder makes."""

    def start(namespace, transport, kind, topic, encode, image=""):
        probe = make_probe(namespace)
        probe.camera = probe.node.create_publisher(kind, topic, 64)
        probe.make = lambda header: encode(
            probe, header, probe.scene.image(probe.place), next(count)
        )
        count = itertools.count()
        spin(
            lambda: TrackNode(
                lambda _: tiny_tracker,
                namespace=namespace,
                parameter_overrides=[Parameter("image_transport", value=transport)],
                cli_args=["--ros-args", "-r", f"image:={image}"] if image else [],
            )
        )
        probe.connect()
        return probe

    return start


def check_following(probe):
    """Select on an earlier image, follow, and find each box under its own image's header."""
    header = probe.show(make=probe.make).header
    box = probe.scene.box(probe.place)
    for _ in range(4):
        probe.show(make=probe.make)
    response = probe.select(box, header)
    assert response.code == response.OK, response.message
    assert response.stamp == header.stamp
    for _ in range(3):
        status = probe.show(make=probe.make)
        assert status.state == TargetStatus.TRACKING
    target = probe.until(lambda: probe.target_of(status.header), "a box")
    assert probe.follows(target)


@pytest.mark.parametrize(("topic", "image"), [("image/compressed", ""), ("photos", "photos")])
def test_compressed_images_are_followed(start, topic, image):
    name = f"/jpeg_{image or 'image'}"
    probe = start(name, "compressed", CompressedImage, topic, jpeg, image)
    check_following(probe)
    broken = CompressedImage(header=probe.header(), format="jpeg", data=array.array("B", b"1234"))
    status = probe.show(make=lambda header: CompressedImage(header=header, format="jpeg"))
    assert status.frames_rejected == 1
    probe.camera.publish(broken)
    assert probe.show(make=probe.make).state == TargetStatus.TRACKING


@pytest.mark.parametrize("kind", [PACKET, FOXGLOVE])
def test_packets_of_a_video_stream_are_followed(start, kind):
    message = message_class(kind)
    topic = "image/ffmpeg" if kind == PACKET else "video"
    name = f"/{message.__name__.lower()}"
    encode = Encoder(message)
    probe = start(name, "ffmpeg", message, topic, encode, "" if kind == PACKET else "video")
    check_following(probe)
    probe.make(probe.header())  # one packet is lost
    id_before = probe.targets[-1].id
    for damage in (lambda data: data[: len(data) // 2], lambda data: bytes(40), lambda data: b""):
        packet = probe.make(probe.header())
        packet.data = array.array("B", damage(bytes(packet.data)))
        probe.camera.publish(packet)
    key = next(i for i in itertools.count(encode.sent) if i % 10 == 0)
    while encode.sent < key:
        probe.camera.publish(probe.make(probe.header()))
    assert probe.show(make=probe.make).state == TargetStatus.TRACKING
    assert probe.until(lambda: probe.targets, "a box")[-1].id == id_before
    skipped = [log.msg for log in probe.logs if "skipped: video stream" in log.msg]
    assert len(skipped) == len(set(skipped)) > 0, "each fault is told once"


@pytest.mark.parametrize("transport", ["compressed", "ffmpeg"])
def test_the_programs_speak_each_transport(
    transport, spin, make_probe, run_program, tiny_tracker, tmp_path
):
    namespace, scene = f"/programs_{transport}", Scene()
    for index in range(30):
        cv2.imwrite(str(tmp_path / f"{index:02d}.png"), scene.image(0)[..., ::-1])
    place = ["--ros-args", "-r", f"__ns:={namespace}"]
    run_program("video", *place, "-p", f"source:={tmp_path}", "-p", "loop:=true", "-p",
                f"transport:={transport}")  # fmt: skip
    spin(
        lambda: TrackNode(
            lambda _: tiny_tracker,
            namespace=namespace,
            parameter_overrides=[Parameter("image_transport", value=transport)],
        )
    )
    box = [str(number) for number in scene.box(0)]
    selecting = run_program("select_target", "--box", *box, "--transport", transport, *place)
    probe = make_probe(namespace)
    assert selecting.wait() == 0, selecting.output
    target = probe.until(lambda: probe.targets and probe.targets[-1], "a box")
    assert probe.follows(target)


def test_a_silent_topic_names_the_transport_that_there_is():
    node = rclpy.create_node("track", namespace="/hint")
    node.create_publisher(CompressedImage, "image", 1)
    deadline = time.monotonic() + 20.0
    while not (hint := describe_other_transports(node, "raw", "/hint/image")):
        assert time.monotonic() < deadline
    assert "image_transport:=compressed" in hint
    assert describe_other_transports(node, "compressed", "/hint/image") == ""
    node.destroy_node()


def test_selecting_names_the_transport_that_there_is():
    camera = rclpy.create_node("camera")
    camera.create_publisher(CompressedImage, "image/compressed", 1)
    node = SelectTargetNode(1.0)
    with pytest.raises(NodeStartError, match="--transport compressed"):
        node.wait_for_image()
    node.close()
    node.destroy_node()
    camera.destroy_node()


def test_missing_messages_name_their_package():
    with pytest.raises(ImportError, match="apt install ros-.*-no-such-msgs"):
        message_class("no_such_msgs/msg/Packet")
