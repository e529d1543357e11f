# SPDX-License-Identifier: Apache-2.0
"""Measure what the node's worker does for a frame besides computing the network.

    dev/run python -m tools.benchmarks.frame_cost [--models ostrack_tiny …] [--profile]

A camera of the node (`FollowedCamera`) gets raw images of a drawn scene as messages. Its worker
decodes, crops, tracks, weighs the evidence and publishes, all with the default parameters. Times
are CPU time of the worker's thread on one thread, which other programs disturb less than wall
time. "Network" is the time in ONNX Runtime and, for MAST, in the kernel that matches features;
"rest" is everything else. --profile prints the functions in which the rest is spent.
"""

from __future__ import annotations

import argparse
import cProfile
import functools
import itertools
import pstats
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import rclpy
import rclpy.lifecycle
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from tools.benchmarks.rows import Row, as_table
from tools.harness.domain import private_domain
from tracker_ros import create_tracker
from tracker_ros.cuda import local_attention_numpy
from tracker_ros.engines.onnx_session import OnnxRuntimeEngine
from tracker_ros.evaluation.machine import describe_machine
from tracker_ros.following.selection import Outcome, Selection
from tracker_ros.following.worker import Worker
from tracker_ros.geometry import Box
from tracker_ros.nodes.followed_camera import FollowedCamera, WaitingFrame
from tracker_ros.nodes.messages import image_from_array
from tracker_ros.nodes.monitoring import CameraDiagnostics
from tracker_ros.nodes.parameters import TRACK_PARAMETERS, ParameterTable
from tracker_ros.synthetic.scene_video import synthetic_video

MODELS = ("ostrack_tiny", "grm_tiny", "trdimp_tiny", "trsiam_tiny", "mast_tiny")
SIZES = ((640, 480), (1920, 1080))
COLUMNS = ("model", "size", "frame_ms", "network_ms", "rest_ms", "rest_percent")
_NETWORK = (
    (OnnxRuntimeEngine, "__call__"),
    (local_attention_numpy, "local_attention"),
    (local_attention_numpy, "expected_offset"),
)


class Stopwatch:
    """Adds up the CPU seconds of a thread in functions that are wrapped with `timed`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            begun = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.thread_time() - begun

        return run


@contextmanager
def timed_network() -> Iterator[Stopwatch]:
    """Time everything that counts as network while the block runs."""
    watch = Stopwatch()
    plain = [getattr(owner, name) for owner, name in _NETWORK]
    for (owner, name), function in zip(_NETWORK, plain, strict=True):
        setattr(owner, name, watch.timed(function))
    try:
        yield watch
    finally:
        for (owner, name), function in zip(_NETWORK, plain, strict=True):
            setattr(owner, name, function)


class Camera:
    """A camera of the node without a middleware before it; images are handed to it one by one.

    Args:
        node: Publishes.
        model: Name of the model.
        watch: Times the network.
        profile: Is switched on while a frame is handled; None for none.
    """

    def __init__(
        self,
        node: rclpy.lifecycle.Node,
        model: str,
        watch: Stopwatch,
        profile: cProfile.Profile | None,
    ) -> None:
        self._watch, self._profile, self._clock = watch, profile, node.get_clock()
        self._done = threading.Event()
        self.frames: list[tuple[float, float]] = []
        self._worker: Worker[WaitingFrame] = Worker(
            self._handle, lambda: None, self._catch_up, self._failed
        )
        values = ParameterTable(node, TRACK_PARAMETERS).values
        diagnostics = CameraDiagnostics(node, lambda: True)
        self._camera = FollowedCamera(
            node, self._worker, model, itertools.count(1), values, diagnostics
        )
        node.trigger_configure()
        node.trigger_activate()
        follower = self._camera.follower
        self._worker.start()
        self._run(lambda: follower.load(lambda: create_tracker(model, device="cpu")))
        self._run(follower.loaded)

    def start(self, message: Image, box: Box) -> None:
        """Select a target in an image."""
        self.show(message)
        outcomes: list[Outcome] = []
        follower = self._camera.follower
        self._run(lambda: follower.select(Selection(box), outcomes.append))
        if not outcomes or not outcomes[0].success:
            raise RuntimeError(f"the target was not selected: {outcomes}")
        self.frames.clear()

    def show(self, message: Image) -> None:
        """Hand over an image and wait until it has been handled."""
        message.header.stamp = self._clock.now().to_msg()
        self._done.clear()
        self._camera.add_image(message)
        if not self._done.wait(60):
            raise RuntimeError("a frame was not handled within 60 s")

    def close(self) -> None:
        """End the worker."""
        self._worker.stop(lambda: None, 10.0)

    def _run(self, job: Callable[[], object]) -> None:
        self._worker.run_and_wait(lambda: (job(), None)[1], 120)

    def _handle(self, waiting: list[WaitingFrame]) -> None:
        begun, network = time.thread_time(), self._watch.seconds
        if self._profile is not None:
            self._profile.enable()
        for camera, frame in waiting:
            camera.follower.handle(frame)
        if self._profile is not None:
            self._profile.disable()
        self.frames.append((time.thread_time() - begun, self._watch.seconds - network))
        self._done.set()

    def _catch_up(self) -> list[FollowedCamera]:
        return [self._camera] if self._camera.follower.catch_up() else []

    def _failed(self, error: BaseException) -> None:
        raise error


def images(size: tuple[int, int], frames: int) -> tuple[list[Image], Box]:
    """Return messages of a drawn scene, bgr8, and the target's first box."""
    messages: list[Image] = []
    first: Box | None = None
    for frame in synthetic_video(7, frames, size):
        first = frame.box if first is None else first
        bgr = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
        message = image_from_array(bgr, Header(frame_id="camera"))
        message.encoding = "bgr8"
        messages.append(message)
    assert first is not None
    return messages, first


def measure(model: str, messages: list[Image], box: Box, profiled: bool) -> Row:
    """Return the median CPU time of a frame, and of its network, in milliseconds."""
    profile = cProfile.Profile(time.thread_time) if profiled else None
    node = rclpy.lifecycle.Node("frame_cost")
    with timed_network() as watch:
        camera = Camera(node, model, watch, profile)
        try:
            camera.start(messages[0], box)
            for message in messages[1:]:
                camera.show(message)
        finally:
            camera.close()
            node.destroy_node()
    whole, network = (statistics.median(times) for times in zip(*camera.frames, strict=True))
    rest = statistics.median(one - other for one, other in camera.frames)
    if profile is not None:
        pstats.Stats(profile).sort_stats("tottime").print_stats(18)
    size = f"{messages[0].width}x{messages[0].height}"
    row: Row = {"model": model, "size": size, "frame_ms": 1e3 * whole}
    return row | {
        "network_ms": 1e3 * network,
        "rest_ms": 1e3 * rest,
        "rest_percent": 100 * rest / whole,
    }


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--frames", type=int, default=40, help="(%(default)s)")
    parser.add_argument("--profile", action="store_true", help="say where the rest is spent")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    rows = []
    with private_domain():
        rclpy.init()
        for size in SIZES:
            messages, box = images(size, arguments.frames)
            for model in arguments.models:
                rows.append(measure(model, messages, box, arguments.profile))
        rclpy.shutdown()
    print(describe_machine("cpu").sentence())
    print(as_table(rows, COLUMNS, 2))


if __name__ == "__main__":
    main()
