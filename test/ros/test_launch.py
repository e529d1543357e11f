# SPDX-License-Identifier: Apache-2.0
"""The launch file as a user calls it: a video, a box, and the target appears."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import unittest
from pathlib import Path

import cv2
import launch
import launch_testing
import launch_testing.actions
import launch_testing.asserts
import numpy as np
import pytest
import rclpy
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from vision_msgs.msg import Detection2D

from tracker_interfaces.msg import TargetStatus

FILE = Path(__file__).resolve().parents[2] / "launch" / "track.launch.py"
FOLDER = Path(tempfile.gettempdir()) / f"launched_video_{os.getpid()}"
SIDE = 48


def write_video(folder: Path) -> None:
    """Ten seconds of a chequered square that moves over a coarse ground; few are needed."""
    rng = np.random.default_rng(2)
    ground = rng.integers(60, 190, (6, 8, 3)).astype(np.uint8)
    ground = cv2.resize(ground, (320, 240), interpolation=cv2.INTER_CUBIC)
    square = np.full((SIDE, SIDE, 3), (40, 40, 230), np.uint8)
    square[: SIDE // 2, : SIDE // 2] = square[SIDE // 2 :, SIDE // 2 :] = (60, 240, 240)
    for i in range(300):
        picture = ground.copy()
        left = 60 + i // 2
        picture[90 : 90 + SIDE, left : left + SIDE] = square
        cv2.imwrite(str(folder / f"{i:03d}.png"), picture)


@pytest.mark.launch_test
@pytest.mark.ros
def generate_test_description():
    """The tracker, a folder of pictures as its camera, and the box of the first one."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_video(FOLDER)
    return launch.LaunchDescription(
        [
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(FILE)),
                launch_arguments={
                    "namespace": "launched",
                    "video": str(FOLDER),
                    "box": f"60 90 {SIDE} {SIDE}",
                    "backend": "torch",
                }.items(),
            ),
            launch_testing.actions.ReadyToTest(),
        ]
    )


class TestFollowing(unittest.TestCase):
    """While it runs."""

    def test_the_target_comes_with_the_stamps_of_the_video(self, proc_output):
        """Boxes carry stamps of images that were published; the program has said so."""
        context = rclpy.Context()
        rclpy.init(context=context)
        node = rclpy.create_node("listener", namespace="launched", context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        images, infos, targets, statuses = [], [], [], []
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        node.create_subscription(Image, "image", lambda m: images.append(m.header), 50)
        node.create_subscription(CameraInfo, "camera_info", infos.append, 50)
        node.create_subscription(Detection2D, "target", targets.append, 50)
        node.create_subscription(TargetStatus, "target_status", statuses.append, latched)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.1)
            if min(len(targets), len(images), len(infos)) >= 20:
                break
        node.destroy_node()
        rclpy.shutdown(context=context)
        self.assertGreaterEqual(len(targets), 20, "twenty boxes within a minute")
        # Images from before this listener was discovered are not among those that it heard.
        seen = [(h.stamp.sec, h.stamp.nanosec, h.frame_id) for h in images]
        named = [(t.header.stamp.sec, t.header.stamp.nanosec, t.header.frame_id) for t in targets]
        judged = [stamp for stamp in named if stamp >= seen[0]]
        self.assertGreaterEqual(len(judged), 10, "boxes of images that were heard")
        for stamp in judged:
            self.assertIn(stamp, seen)
        self.assertEqual({target.id for target in targets}, {"1"})
        centres = [target.bbox.center.position.x for target in targets]
        self.assertGreater(centres[-1], centres[0] + 5, "the box moves with the square")
        self.assertTrue(infos[-1].k[0] > 0)
        proc_output.assertWaitFor("following target 1", timeout=10)


@launch_testing.post_shutdown_test()
class TestEnd(unittest.TestCase):
    """After it has been told to stop."""

    def tearDown(self):
        """Remove the pictures."""
        shutil.rmtree(FOLDER, ignore_errors=True)

    def test_every_program_ended_well(self, proc_info, proc_output):
        """No tracebacks, exit status 0."""
        launch_testing.asserts.assertExitCodes(proc_info)
        for process in proc_info:
            text = "".join(line.text.decode() for line in proc_output[process.process_name])
            self.assertNotIn("Traceback", text)
