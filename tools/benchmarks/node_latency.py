# SPDX-License-Identifier: Apache-2.0
"""Measure what the node adds to its tracker: from image stamp to box in another process.

    dev/run python -m tools.benchmarks.node_latency                # 640x480 and 1920x1080, 30 Hz
    dev/run python -m tools.benchmarks.node_latency --outputs      # what outputs for robots add
    dev/run python -m tools.benchmarks.node_latency --overload --minutes 10
    dev/run python -m tools.benchmarks.node_latency --compressed --minutes 10

A camera, the node and this listener are three processes. From the time between an image's stamp
and the arrival of its box the tracker's own time (`processing_time` of `target_status`) is
subtracted. Beside it stands the same path with a node that only answers: the floor that rclpy and
the middleware set. That node is measured twice. By default glibc returns the memory of every image
to the kernel and fetches it again for the next one, which costs more than everything else; it does
not do so in a larger process, so the stricter floor is the node with that memory kept.

With `--outputs` the tracker runs in turn alone and with depth, calibration, transforms and a
subscriber to everything that `docs/robot.md` lists.

With `--overload` the camera is faster than the tracker. Then the whole age of each box is
measured, which should be at most two frames of work (mean time between two boxes) and one period
of the camera; and the node's memory, which must stay flat. `--compressed` measures the same with
JPEG images of 1920x1080 at 30 Hz, of which none should be dropped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rclpy
from geometry_msgs.msg import (
    PointStamped,
    PoseStamped,
    PoseWithCovarianceStamped,
    TwistWithCovarianceStamped,
    Vector3Stamped,
)
from vision_msgs.msg import Detection2D, Detection2DArray, Detection3DArray

from tools.benchmarks.latency_nodes import scenes
from tools.benchmarks.rows import Row, publish
from tools.harness.domain import private_domain
from tools.harness.operator import Operator
from tools.harness.program import Program, node_command, python_command
from tracker_interfaces.msg import TargetDirection, TargetDirectionArray, TargetStatus
from tracker_ros.geometry import Box
from tracker_ros.nodes.messages import keep_last, stamp_nanoseconds

SIZES = ("640x480", "1920x1080")
ECHO, FLOOR = "echo", "echo, memory kept"
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "134217728"}
FILL_S = 6.0
"""The frame buffer keeps five seconds; until it is full, each image takes memory never used."""
EMPTY: Mapping[str, str] = {}
OUTPUTS = {
    "target_bearing": Vector3Stamped, "target_direction": TargetDirection,
    "target_directions": TargetDirectionArray, "target_point": PointStamped,
    "target_pose": PoseWithCovarianceStamped, "target_pose_stamped": PoseStamped,
    "target_poses": Detection3DArray, "target_velocity": TwistWithCovarianceStamped,
    "target_predicted": Detection2D, "targets": Detection2DArray,
    "targets_predicted": Detection2DArray,
}  # fmt: skip
ALL_OUTPUTS = ("predict:=true", "fixed_frame:=odom", "target_frame_prefix:=target_")
ALONE = ("depth:=no_depth", "camera_info:=no_camera_info")
LATENCY_NODES = "tools.benchmarks.latency_nodes"
COLUMNS = ("size", "rate_hz", "path", "boxes", "p50_ms", "p95_ms", "p99_ms", "own_p50_ms",
           "goal_p50_ms")  # fmt: skip
OUTPUT_COLUMNS = ("size", "rate_hz", "path", "boxes", "p50_ms", "p95_ms", "p99_ms", "own_p50_ms",
                  "added_p50_ms", "outputs")  # fmt: skip
OVERLOAD_COLUMNS = (
    "size", "rate_hz", "model", "boxes", "work_ms", "age_p50_ms", "age_p95_ms", "age_p99_ms",
    "goal_p99_ms", "received", "dropped", "rss_mib", "growth_percent",
)  # fmt: skip


class Listener(Operator):
    """Notes when each box arrives and how long the tracker took for it."""

    def __init__(self, alive: Callable[[], bool]) -> None:
        super().__init__("listener", alive=alive)
        self.arrivals: dict[int, int] = {}
        self.own_s: dict[int, float] = {}
        self.outputs = 0
        self.status = TargetStatus()
        self.hear(Detection2D, "target", self._on_target, keep_last(10))
        self.hear(TargetStatus, "target_status", self._on_status, keep_last(10))

    def _on_target(self, message: Detection2D) -> None:
        self.arrivals[stamp_nanoseconds(message.header)] = time.time_ns()

    def _on_status(self, message: TargetStatus) -> None:
        self.status = message
        if message.processing_time > 0:
            self.own_s[stamp_nanoseconds(message.header)] = message.processing_time

    def hear_outputs(self) -> None:
        """Subscribe to everything about where targets are."""

        def count(message: object) -> None:
            self.outputs += 1

        for topic, kind in OUTPUTS.items():
            self.hear(kind, topic, count, keep_last(1))

    def forget(self) -> None:
        """Forget what was noted."""
        self.arrivals.clear()
        self.own_s.clear()

    def follow(self, box: Box) -> None:
        """Select the target on the newest image as soon as the node accepts it.

        Loading takes as long as it takes: with `backend:=auto` a first start exports the model.

        Raises:
            HarnessError: The node has ended.
        """
        while not self.select(box).success:
            self.spin(0.2)

    def delays_ms(self, with_own: bool) -> np.ndarray:
        """Return the milliseconds from stamp to arrival of every box.

        Args:
            with_own: Include the tracker's own time.
        """
        return np.array(
            [
                (arrival - stamp) / 1e6 - (0.0 if with_own else self.own_s.get(stamp, 0.0) * 1e3)
                for stamp, arrival in sorted(self.arrivals.items())
                if with_own or not self.own_s or stamp in self.own_s
            ]
        )


@contextmanager
def listening(
    size: str,
    run: argparse.Namespace,
    model: str | None,
    settings: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
) -> Iterator[tuple[Listener, Program]]:
    """Run a node beside the camera until the block ends; wait for the node's first box.

    Args:
        size: Of the images, as "640x480".
        run: The command line.
        model: Of the tracker; None for the node that only answers.
        settings: Environment variables to add for the node.
        options: Of the tracker, as ROS's arguments.

    Yields:
        The listener and the node's process.
    """
    if model is None:
        command = python_command(LATENCY_NODES, "echo")
    else:
        transport = "compressed" if run.compressed else "raw"
        command = node_command("track", "--ros-args", "--log-level", "warn")
        command += ["-p", f"model:={model}", "-p", f"backend:={run.backend}"]
        command += ["-p", f"image_transport:={transport}", *options]
    with (
        Program(command, settings=settings) as node,
        Listener(lambda: node.alive) as listener,
    ):
        if model is not None:
            listener.follow(scenes(*map(int, size.split("x")), 1)[0][1])
        listener.until(lambda: listener.arrivals, "the first box")
        yield listener, node


def measure(size: str, run: argparse.Namespace, path: str) -> Row:
    """Return one row: of an echo node, or of the tracker with the model named `path`."""
    echo = path in (ECHO, FLOOR)
    settings = KEEP_MEMORY if path == FLOOR else EMPTY
    with listening(size, run, None if echo else path, settings) as (listener, _):
        listener.spin(min(1.0, run.fill) if echo else run.fill)
        listener.forget()
        listener.spin(run.seconds)
        delays = listener.delays_ms(with_own=False)
        own = np.median(list(listener.own_s.values())) * 1e3 if listener.own_s else 0.0
    p50, p95, p99 = np.percentile(delays, (50, 95, 99)).tolist()
    return {
        "size": size, "rate_hz": run.rate, "path": path, "boxes": len(delays),
        "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "own_p50_ms": float(own),
    }  # fmt: skip


def compare(size: str, run: argparse.Namespace) -> list[Row]:
    """Return the rows of both echo nodes and of the tracker, with the goal of the latter."""
    rows = [measure(size, run, path) for path in (ECHO, FLOOR, run.model)]
    rows[-1]["goal_p50_ms"] = 1.3 * rows[1]["p50_ms"] + 2.0
    return rows


def compare_outputs(size: str, run: argparse.Namespace) -> list[Row]:
    """Return the rows of the tracker alone and with all outputs for robots, measured in turn."""
    paths = {
        run.model: [word for rule in ALONE for word in ("-r", rule)],
        f"{run.model}, all outputs": [word for value in ALL_OUTPUTS for word in ("-p", value)],
    }
    delays: dict[str, list[np.ndarray]] = {path: [] for path in paths}
    own: dict[str, list[float]] = {path: [] for path in paths}
    outputs = dict.fromkeys(paths, 0)
    for _ in range(run.rounds):
        for path, options in paths.items():
            with listening(size, run, run.model, options=options) as (listener, _):
                if path != run.model:
                    listener.hear_outputs()
                listener.spin(run.fill)
                listener.forget()
                listener.spin(run.seconds)
                delays[path].append(listener.delays_ms(with_own=False))
                own[path] += listener.own_s.values()
                outputs[path] += listener.outputs
    rows: list[Row] = []
    for path in paths:
        together = np.concatenate(delays[path])
        p50, p95, p99 = np.percentile(together, (50, 95, 99)).tolist()
        rows.append({
            "size": size, "rate_hz": run.rate, "path": path, "boxes": len(together),
            "p50_ms": p50, "p95_ms": p95, "p99_ms": p99,
            "own_p50_ms": float(np.median(own[path]) * 1e3), "outputs": outputs[path],
        })  # fmt: skip
    alone, added = (np.percentile(np.concatenate(delays[path]), 50) for path in paths)
    rows[1]["added_p50_ms"] = float(added - alone)
    return rows


def overload(size: str, run: argparse.Namespace) -> list[Row]:
    """Return one row with a camera faster than the tracker: age of boxes, memory of the node."""
    resident = []
    with listening(size, run, run.model) as (listener, node):
        listener.spin(run.fill)
        listener.forget()
        before = listener.status
        end = time.monotonic() + run.seconds
        while time.monotonic() < end:
            listener.spin(min(1.0, run.seconds / 4))
            resident.append(node.resident_mib)
        after = listener.status
        ages = listener.delays_ms(with_own=True)
    quarter = max(1, len(resident) // 4)
    first, last = np.median(resident[:quarter]), np.median(resident[-quarter:])
    work = float(np.diff(sorted(listener.arrivals)).mean()) / 1e6
    p50, p95, p99 = np.percentile(ages, (50, 95, 99)).tolist()
    row = {
        "size": size, "rate_hz": run.rate, "model": run.model, "boxes": len(ages),
        "work_ms": work, "age_p50_ms": p50, "age_p95_ms": p95, "age_p99_ms": p99,
        "goal_p99_ms": 2 * work + 1e3 / run.rate,
        "received": after.frames_received - before.frames_received,
        "dropped": after.frames_dropped - before.frames_dropped,
        "rss_mib": float(last),
        "growth_percent": float(100 * (last / first - 1)),
    }  # fmt: skip
    return [row]


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", metavar="WxH", help="640x480 and 1920x1080")
    parser.add_argument("--rate", type=float, help="images per second (30; overload 120)")
    parser.add_argument("--model", help="ostrack_tiny; overload trdimp_tiny")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--backend", default="auto", help="of the tracker (%(default)s)")
    parser.add_argument("--minutes", type=float, help="the same in minutes")
    parser.add_argument("--fill", type=float, default=FILL_S, help="seconds until measuring")
    parser.add_argument("--overload", action="store_true", help="camera faster than tracker")
    parser.add_argument("--outputs", action="store_true", help="with and without all outputs")
    parser.add_argument("--rounds", type=int, default=3, help="of --outputs (%(default)s)")
    parser.add_argument("--compressed", action="store_true", help="JPEG, 1920x1080, memory")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    run = parser.parse_args()
    run.seconds = run.minutes * 60 if run.minutes else run.seconds
    run.rate = run.rate or (120.0 if run.overload else 30.0)
    run.model = run.model or ("trdimp_tiny" if run.overload else "ostrack_tiny")
    usual = SIZES[1:] if run.compressed else SIZES[:1] if run.overload or run.outputs else SIZES
    sizes = run.sizes or usual
    measure_size, columns = compare, COLUMNS
    if run.outputs:
        measure_size, columns = compare_outputs, OUTPUT_COLUMNS
    elif run.overload or run.compressed:
        measure_size, columns = overload, OVERLOAD_COLUMNS
    with private_domain():
        rclpy.init()
        rows: list[Row] = []
        for size in sizes:
            flags = ["--compressed"] * run.compressed
            camera = python_command(LATENCY_NODES, "camera", *size.split("x"), run.rate, *flags)
            with Program(camera):
                rows += measure_size(size, run)
        rclpy.shutdown()
    publish(rows, columns, 2, run.json)


if __name__ == "__main__":
    main()
