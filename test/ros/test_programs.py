# SPDX-License-Identifier: Apache-2.0
"""The ``select_target`` and ``video`` programs."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import rclpy
from graph_probe import image_message
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from tracker_interfaces.msg import TargetStatus
from tracker_interfaces.srv import SelectTarget
from tracker_ros.following.selection import SelectionCode
from tracker_ros.nodes.node_main import NodeStartError
from tracker_ros.nodes.parameters import (
    TRACK_PARAMETERS,
    VIDEO_PARAMETERS,
    ParameterError,
    check_command_line,
)
from tracker_ros.nodes.select_target import BoxDrag, SelectTargetNode, exit_status, run_window


@pytest.fixture
def folder(tmp_path):
    """Ten pictures of 64x48, each of one colour: its number times twenty."""
    path = tmp_path / "pictures"
    path.mkdir()
    for i in range(10):
        cv2.imwrite(str(path / f"{i:03d}.png"), np.full((48, 64, 3), 20 * i, np.uint8))
    return path


def select(run_program, probe, *arguments):
    """Run the program against the shared tracker while its camera goes on."""
    process = run_program("select_target", *arguments, "--ros-args", "-r", "__ns:=/shared")
    place = probe.place

    def ended():
        probe.place = place
        probe.show()
        return process.ended

    probe.until(ended, "the end of select_target", timeout_s=40.0)
    return process


def test_a_corner_box_becomes_a_target(probe, run_program):
    x, y, w, h = probe.scene.box(probe.place + 1)
    process = select(
        run_program, probe, "--box", str(x), str(y), str(w), str(h), "--label", "disc"
    )
    assert process.wait() == 0
    assert "following target" in process.output
    target = probe.follow(2)
    assert target.results[0].hypothesis.class_id == "disc"
    assert probe.follows(target)


def test_a_box_can_be_added(probe, run_program):
    first = probe.start_following()
    box = [str(value) for value in probe.scene.box(probe.place)]
    assert select(run_program, probe, "--box", *box, "--append").wait() == 0
    status = probe.show()
    array = probe.until(lambda: probe.array_of(status.header), "the status of each")
    assert [s.target_id for s in array.statuses] == [first, str(int(first) + 1)]


def test_a_refusal_is_its_exit_status(probe, run_program):
    process = select(run_program, probe, "--box", "900", "900", "20", "20")
    assert process.wait() == exit_status(SelectTarget.Response.OUTSIDE_IMAGE) == 20
    assert "Traceback" not in process.output


def test_every_code_has_an_exit_status_of_its_own():
    statuses = [exit_status(code) for code in SelectionCode]
    assert statuses[SelectionCode.OK] == 0
    assert len(set(statuses)) == len(statuses)
    assert not {1, 2, 130} & set(statuses), "of other failures"
    assert max(statuses) < 126


def test_without_tracker_and_camera_it_says_what_is_missing(run_program):
    process = run_program("select_target", "--box", "1", "1", "9", "9", "--timeout", "0.5")
    assert process.wait() == 1
    assert "no image came on /image within 0.5 s (0 publishers)" in process.output


def test_without_display_it_names_the_command_line(run_program, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(NodeStartError, match="select_target --box"):
        run_window(None, "")


def test_a_drag_becomes_a_box_in_any_direction():
    drag = BoxDrag()
    drag.on_mouse(cv2.EVENT_MOUSEMOVE, 5, 5)
    assert not drag.dragging
    drag.on_mouse(cv2.EVENT_LBUTTONDOWN, 60, 50)
    drag.on_mouse(cv2.EVENT_MOUSEMOVE, 30, 40)
    assert drag.dragging
    assert drag.box == (30.0, 40.0, 30.0, 10.0)
    drag.on_mouse(cv2.EVENT_LBUTTONUP, 20, 10)
    assert not drag.dragging
    assert drag.take() == (20.0, 10.0, 40.0, 40.0)
    assert drag.take() is None
    drag.on_mouse(cv2.EVENT_LBUTTONDOWN, 60, 50)
    drag.on_mouse(cv2.EVENT_LBUTTONUP, 62, 50)
    assert drag.take() is None, "a click is no box"


def level(image):
    """The number of a one-coloured picture."""
    return round(np.frombuffer(image.data, np.uint8).mean() / 20)


def test_a_folder_is_played_once_in_order(make_probe, run_program, folder):
    probe = make_probe("/player")
    images: list[Image] = []
    probe.listen(Image, "image", images, 50)
    arguments = {
        "source": folder,
        "rate": 50,
        "wait_for_subscribers": 1,
        "start_frame": 2,
        "frames": 6,
        "stamp": "source",
        "frame_id": "lens",
    }
    process = run_program(
        "video",
        "--ros-args",
        "-r",
        "__ns:=/player",
        *(word for name, value in arguments.items() for word in ("-p", f"{name}:={value}")),
    )
    probe.until(lambda: process.ended, "the end of the video")
    assert process.wait() == 0
    assert "6 images were published" in process.output
    assert [level(image) for image in images] == [2, 3, 4, 5, 6, 7]
    stamps = [image.header.stamp.sec * 10**9 + image.header.stamp.nanosec for image in images]
    assert np.diff(stamps).tolist() == [20_000_000] * 5
    assert {image.header.frame_id for image in images} == {"lens"}
    assert {(i.width, i.height, i.step, i.encoding) for i in images} == {(64, 48, 192, "rgb8")}


def test_the_first_image_is_held_until_a_target_is_tracked(make_probe, run_program, folder):
    probe = make_probe("/held")
    images: list[Image] = []
    probe.listen(Image, "image", images, 50)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    status = probe.node.create_publisher(TargetStatus, "target_status", latched)
    run_program(
        "video",
        "--ros-args",
        "-r",
        "__ns:=/held",
        "-p",
        f"source:={folder}",
        "-p",
        "rate:=50",
        "-p",
        "wait_for_target:=true",
        "-p",
        "loop:=true",
    )
    probe.until(lambda: len(images) >= 5, "the first image")
    assert {level(image) for image in images} == {0}
    stamps = [(image.header.stamp.sec, image.header.stamp.nanosec) for image in images]
    assert stamps == sorted(set(stamps))
    probe.until(lambda: status.get_subscription_count() > 0, "its ear for the status")
    status.publish(TargetStatus(state=TargetStatus.LOST))
    status.publish(TargetStatus(state=TargetStatus.TRACKING))
    probe.until(
        lambda: [level(i) for i in images][-12:] == [*range(8, 10), *range(10)],
        "the rest, and the beginning again",
    )


@pytest.mark.parametrize(
    ("program", "specs"), [("track", TRACK_PARAMETERS), ("video", VIDEO_PARAMETERS)]
)
def test_help_lists_the_parameters(capsys, program, specs):
    with pytest.raises(SystemExit) as ended:
        check_command_line(program, "About it.", specs, ["--help", "--ros-args", "-r", "__ns:=/a"])
    assert ended.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    assert words.startswith(f"usage: ros2 run tracker_ros {program} [-h] [--ros-args -p NAME:=")
    assert all(f" {spec.name} ({spec.default!r}) {spec.description}" in words for spec in specs)


@pytest.mark.parametrize("program", ["track", "video"])
def test_an_argument_that_would_be_ignored_is_refused(capsys, program):
    with pytest.raises(SystemExit) as ended:
        check_command_line(program, "About it.", TRACK_PARAMETERS, ["--device", "cpu"])
    assert ended.value.code == 2
    assert "--device cpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "arguments", "status"),
    [
        ("track", ["--help"], 0),
        ("video", ["--device", "cpu"], 2),
        ("track", ["--ros-args", "-p", "model:=nonsense"], 1),
        ("video", ["--ros-args", "-p", "source:=missing.mp4"], 1),
    ],
)
def test_programs_end_with_a_status(run_program, program, arguments, status):
    process = run_program(program, *arguments)
    assert process.wait() == status
    assert arguments[-1].removeprefix("source:=").removeprefix("model:=").strip("-") in (
        process.output
    )
    assert "Traceback" not in process.output
    assert "[INFO]" not in process.output


@pytest.mark.parametrize(("name", "value"), [("stamp", "yesterday"), ("rate", -5.0)])
def test_wrong_parameters_of_video_are_refused(name, value):
    (spec,) = (spec for spec in VIDEO_PARAMETERS if spec.name == name)
    with pytest.raises(ParameterError, match=str(value)):
        spec.checked(value)


def test_the_window_shows_what_can_be_decoded(monkeypatch):
    camera = rclpy.create_node("camera")
    publisher = camera.create_publisher(Image, "image", 1)
    counts = np.linspace(7600, 8110, 48 * 64).astype(np.uint16).reshape(48, 64)
    good = image_message(counts.view(np.uint8).reshape(48, 128), Header(), "16UC1")
    good.width, good.step = 64, 128
    broken = Image(header=Header(frame_id="broken"), encoding="16UC1", height=48, width=64)
    shown, keys = [], iter([-1] * 40 + [27])

    def wait(milliseconds):
        publisher.publish(broken if len(shown) % 2 else good)
        return next(keys)

    for name in ("namedWindow", "setMouseCallback", "destroyAllWindows"):
        monkeypatch.setattr(cv2, name, lambda *arguments: None)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *arguments: 1.0)
    monkeypatch.setattr(cv2, "imshow", lambda title, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", wait)
    monkeypatch.setenv("DISPLAY", ":0")
    node = SelectTargetNode(20.0)
    while not publisher.get_subscription_count():
        rclpy.spin_once(camera, timeout_sec=0.05)
    publisher.publish(good)
    with pytest.raises(NodeStartError, match="mono16"):
        run_window(node, "")
    assert run_window(node, "", "mono16") == 0
    assert len(shown) == 41
    assert {(picture.shape, picture.max() - picture.min()) for picture in shown} == {
        ((48, 64, 3), 255)
    }
    node.close()
    node.destroy_node()
    camera.destroy_node()
