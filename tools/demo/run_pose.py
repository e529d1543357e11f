# SPDX-License-Identifier: Apache-2.0
"""Show distance and bearing of a target in a drawn RGB-D scene, through the ROS graph.

    make demo ARGS="--pose"

Publishes images, depth and calibration, selects the figure, and writes what the topics say into
`out/pose.mp4`, `out/pose.png` and `out/pose.json`. Ends with 1 if the median distance is wrong by
more than 2 %, or the target was located in fewer than 80 % of the frames.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import rclpy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D

from tools.demo.rgbd_scene import RgbdFrame, RgbdScene
from tools.harness import HarnessError
from tools.harness.domain import private_domain
from tools.harness.operator import Operator
from tools.harness.program import Program, node_command
from tracker_interfaces.msg import TargetDirection, TargetStatus
from tracker_ros.cli.options import progress_bar
from tracker_ros.evaluation.machine import describe_machine
from tracker_ros.io.writer import VideoWriter
from tracker_ros.nodes.messages import box_of, image_from_array, keep_last, stamp_nanoseconds

FRAMES, RATE_HZ = 150, 15.0
LOADING_S = 180.0
MAX_ERROR_PERCENT, MIN_LOCATED = 2.0, 0.8
_PICTURES = 6


@dataclass
class Answer:
    """What the topics said about one frame."""

    detection: Detection2D | None = None
    direction: TargetDirection | None = None


class PoseOperator(Operator):
    """An RGB-D camera, and ears for what the tracker says of its frames."""

    def __init__(self, scene: RgbdScene, program: Program) -> None:
        super().__init__("rgbd_camera", alive=lambda: program.alive)
        self._info = self.node.create_publisher(CameraInfo, "camera_info", keep_last(1))
        self._depth = self.node.create_publisher(Image, "depth", keep_last(1))
        self._scene = scene
        self.answered: set[int] = set()
        self.answers: dict[int, Answer] = {}
        self.hear(Detection2D, "target", self._on_target, keep_last(10))
        self.hear(TargetDirection, "target_direction", self._on_direction, keep_last(10))
        self.hear(TargetStatus, "target_status", self._on_status, keep_last(10))

    def publish(self, frame: RgbdFrame) -> Header:
        """Publish a frame: calibration and depth first. Returns its header."""
        header = Header(frame_id="camera", stamp=self.node.get_clock().now().to_msg())
        height, width = frame.depth_mm.shape
        self._info.publish(
            CameraInfo(
                header=header,
                width=width,
                height=height,
                distortion_model="plumb_bob",
                d=[0.0] * 5,
                k=list(self._scene.k),
            )
        )
        self._depth.publish(_depth_message(frame.depth_mm, header))
        self.images.publish(image_from_array(frame.image, header))
        return header

    def answer_of(self, header: Header) -> Answer:
        """Return what has been said about a frame so far."""
        return self.answers.setdefault(stamp_nanoseconds(header), Answer())

    def _on_target(self, message: Detection2D) -> None:
        self.answer_of(message.header).detection = message

    def _on_direction(self, message: TargetDirection) -> None:
        self.answer_of(message.header).direction = message

    def _on_status(self, message: TargetStatus) -> None:
        self.answered.add(stamp_nanoseconds(message.header))


def _depth_message(depth_mm: np.ndarray, header: Header) -> Image:
    """Pack (H, W) uint16 millimetres as 16UC1."""
    message = image_from_array(np.ascontiguousarray(depth_mm).view(np.uint8), header)
    message.width, message.encoding = depth_mm.shape[1], "16UC1"
    return message


def run_pose(out: Path, model: list[str]) -> int:
    """Run the demo of poses. Returns 0 if distances are right, else 1 after printing the reason.

    Args:
        out: Folder for the results.
        model: ``NAME:=VALUE`` of parameters that choose the model.

    Raises:
        HarnessError: The tracker did not start, or does not answer.
    """
    out.mkdir(parents=True, exist_ok=True)
    scene = RgbdScene()
    frames = [scene.frame(index / RATE_HZ) for index in range(FRAMES)]
    parameters = [word for value in model for word in ("-p", value)]
    command = node_command("track", "--ros-args", *parameters)
    with private_domain():
        rclpy.init()
        try:
            with (
                Program(command, out / "pose.log") as program,
                PoseOperator(scene, program) as operator,
            ):
                answers = _follow(operator, frames)
        finally:
            rclpy.shutdown()
    errors = [_error_percent(frame, answer) for frame, answer in zip(frames, answers, strict=True)]
    known = [error for error in errors if error is not None]
    median = float(np.median(known)) if known else math.inf
    share = len(known) / FRAMES
    passed = share >= MIN_LOCATED and median <= MAX_ERROR_PERCENT
    result = {
        "passed": passed,
        "frames": FRAMES,
        "located_percent": 100 * share,
        "distance_error_p50_percent": median,
        "machine": asdict(describe_machine()),
    }
    (out / "pose.json").write_text(json.dumps(result, indent=2) + "\n")
    _write_pictures(out, frames, answers)
    print(
        f"demo: {'located' if passed else 'NOT located'} in {100 * share:.0f} % of {FRAMES} "
        f"frames, distance wrong by {median:.2f} % (median); see {out / 'pose.mp4'}"
    )
    return 0 if passed else 1


def _follow(operator: PoseOperator, frames: list[RgbdFrame]) -> list[Answer]:
    """Select the target on the first frame and play the others. Returns the answers."""
    operator.until(operator.watched, "the tracker", LOADING_S)
    header = operator.publish(frames[0])
    operator.until(lambda: stamp_nanoseconds(header) in operator.answered, "the first image")
    answer = operator.select(frames[0].box, header, "figure")
    if not answer.success:
        raise HarnessError(f"select_target refused: {answer.message}")
    found = []
    for frame in progress_bar(frames, desc="following", unit="frame"):
        header = operator.publish(frame)
        operator.wait(lambda h=header: stamp_nanoseconds(h) in operator.answered, 5.0)
        operator.wait(lambda h=header: operator.answer_of(h).direction, 0.1)
        found.append(operator.answer_of(header))
    return found


def _error_percent(frame: RgbdFrame, answer: Answer) -> float | None:
    """Return by how much a distance is wrong; None without one."""
    if answer.direction is None or math.isnan(answer.direction.distance):
        return None
    truth = float(np.linalg.norm(frame.point))
    return 100 * abs(answer.direction.distance / truth - 1)


def _draw(frame: RgbdFrame, answer: Answer) -> np.ndarray:
    """Return the image with box, distance and angles, and the depth image beside it."""
    picture = frame.image.copy()
    if answer.detection is not None:
        x, y, w, h = (round(value) for value in box_of(answer.detection.bbox))
        cv2.rectangle(picture, (x, y), (x + w, y + h), (60, 220, 90), 2)
    text = "no target"
    if answer.direction is not None:
        d = answer.direction
        text = (
            f"{d.distance:.2f} m {d.distance_rate:+.2f} m/s  "
            f"azimuth {math.degrees(d.azimuth):+.1f} deg {math.degrees(d.azimuth_rate):+.1f}/s"
        )
    truth = f"truth {np.linalg.norm(frame.point):.2f} m"
    for line, words in enumerate((text, truth)):
        where = (10, 26 + 26 * line)
        for colour, width in (((0, 0, 0), 4), ((255, 255, 255), 1)):
            font = cv2.FONT_HERSHEY_SIMPLEX
            cv2.putText(picture, words, where, font, 0.62, colour, width, cv2.LINE_AA)
    near = np.clip(255 - frame.depth_mm / 9000 * 255, 0, 255).astype(np.uint8)
    near[frame.depth_mm == 0] = 0
    coloured = cv2.applyColorMap(near, cv2.COLORMAP_TURBO)[..., ::-1]
    return np.concatenate([picture, coloured], axis=1)


def _write_pictures(out: Path, frames: list[RgbdFrame], answers: list[Answer]) -> None:
    """Write the video and a sheet of some frames."""
    drawn = [_draw(frame, answer) for frame, answer in zip(frames, answers, strict=True)]
    with VideoWriter(out / "pose.mp4", RATE_HZ, (drawn[0].shape[1], drawn[0].shape[0])) as video:
        for picture in drawn:
            video.write(picture)
    chosen = drawn[:: max(1, len(drawn) // _PICTURES)][:_PICTURES]
    small = [cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for p in chosen]
    rows = [np.concatenate(small[i : i + 2], axis=1) for i in range(0, len(small), 2)]
    sheet = np.concatenate(rows, axis=0)
    cv2.imwrite(str(out / "pose.png"), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
