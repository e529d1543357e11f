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

With `--outputs` the tracker runs in turn with images alone; with calibration, depth and transforms
too; and with a subscriber to everything that `docs/robot.md` lists, which is a process of its own
that costs hardly anything. Each row states how much later boxes arrive than in the row above. What
is compared is the whole time from stamp to arrival, since what happens beside the network may slow
it down, and the node's own processor time per image.

With `--overload` the camera is faster than the tracker. Then the whole age of each box is
measured, which should be at most two frames of work (mean time between two boxes) and one period
of the camera; and the node's memory, which must stay flat. `--compressed` measures the same with
JPEG images of 1920x1080 at 30 Hz, of which none should be dropped.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rclpy
from vision_msgs.msg import Detection2D

from tools.benchmarks.latency_nodes import scenes
from tools.benchmarks.rows import Row, publish
from tools.harness.domain import private_domain
from tools.harness.operator import Operator
from tools.harness.program import Program, node_command, python_command
from tracker_interfaces.msg import TargetStatus
from tracker_ros.geometry import Box
from tracker_ros.nodes.messages import keep_last, stamp_nanoseconds

SIZES = ("640x480", "1920x1080")
ECHO, FLOOR = "echo", "echo, memory kept"
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "134217728"}
FILL_S = 6.0
"""The frame buffer keeps five seconds; until it is full, each image takes memory never used."""
EMPTY: Mapping[str, str] = {}
OUTPUTS = (
    "target_bearing", "target_direction", "target_directions", "target_point", "target_pose",
    "target_pose_stamped", "target_poses", "target_velocity", "target_velocities",
    "target_markers", "target_predicted", "targets", "targets_predicted", "target_annotations",
)  # fmt: skip
ALONE = ("-r", "depth:=no_depth", "-r", "camera_info:=no_camera_info")
ALL_OUTPUTS = ("-p", "predict:=true", "-p", "fixed_frame:=odom", "-p", "annotations:=true",
               "-p", "target_frame_prefix:=target_")  # fmt: skip
SUBSCRIBE_S = 2.0
LATENCY_NODES = "tools.benchmarks.latency_nodes"
COLUMNS = ("size", "rate_hz", "path", "boxes", "p50_ms", "p95_ms", "p99_ms", "own_p50_ms",
           "goal_p50_ms")  # fmt: skip
OUTPUT_COLUMNS = ("size", "rate_hz", "path", "boxes", "age_p50_ms", "age_p95_ms", "age_p99_ms",
                  "own_p50_ms", "added_p50_ms", "cpu_ms", "topics")  # fmt: skip
OVERLOAD_COLUMNS = (
    "size", "rate_hz", "model", "boxes", "work_ms", "age_p50_ms", "age_p95_ms", "age_p99_ms",
    "goal_p99_ms", "received", "dropped", "rss_first_mib", "rss_mib", "growth_percent",
)  # fmt: skip


class Listener(Operator):
    """Notes when each box arrives and how long the tracker took for it."""

    def __init__(self, alive: Callable[[], bool]) -> None:
        super().__init__("listener", alive=alive)
        self.arrivals: dict[int, int] = {}
        self.own_s: dict[int, float] = {}
        self.status = TargetStatus()
        self.hear(Detection2D, "target", self._on_target, keep_last(10))
        self.hear(TargetStatus, "target_status", self._on_status, keep_last(10))

    def _on_target(self, message: Detection2D) -> None:
        self.arrivals[stamp_nanoseconds(message.header)] = time.time_ns()

    def _on_status(self, message: TargetStatus) -> None:
        self.status = message
        if message.processing_time > 0:
            self.own_s[stamp_nanoseconds(message.header)] = message.processing_time

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


@dataclass(frozen=True)
class Heard:
    """One measurement of the tracker while some of its topics are subscribed to.

    Attributes:
        ages_ms: From stamp to arrival of every box.
        own_s: The tracker's own time for each.
        processor_s: What the node used for an image.
        topics: How many of the topics were heard.
    """

    ages_ms: np.ndarray
    own_s: list[float]
    processor_s: float
    topics: int


def measure_heard(
    size: str, run: argparse.Namespace, options: Sequence[str], topics: Sequence[str]
) -> Heard:
    """Measure the tracker with some options while some topics are subscribed to."""
    with (
        tempfile.TemporaryDirectory() as folder,
        listening(size, run, run.model, options=options) as (listener, node),
    ):
        listener.spin(run.fill)
        log = Path(folder) / "heard"
        ears = Program(python_command(LATENCY_NODES, "ears", *topics), log) if topics else None
        with ears or nullcontext():
            listener.spin(SUBSCRIBE_S)
            listener.forget()
            images, used = listener.status.frames_received, node.processor_s
            listener.spin(run.seconds)
            images, used = listener.status.frames_received - images, node.processor_s - used
            heard = set(ears.output.split()) if ears else set()
        ages, own = listener.delays_ms(with_own=True), list(listener.own_s.values())
    return Heard(ages, own, used / max(images, 1), len(heard.intersection(topics)))


def compare_outputs(size: str, run: argparse.Namespace) -> list[Row]:
    """Return the rows of the tracker with more and more to do beside tracking, taken in turn."""
    arms: dict[str, tuple[Sequence[str], Sequence[str]]] = {
        run.model: (ALONE, ()),
        "with calibration and depth": ((), ()),
        "and all outputs": (ALL_OUTPUTS, OUTPUTS),
    }
    measured: dict[str, list[Heard]] = {path: [] for path in arms}
    for _ in range(run.rounds):
        for path in arms:
            measured[path].append(measure_heard(size, run, *arms[path]))
    rows: list[Row] = []
    for path, rounds in measured.items():
        ages = np.concatenate([heard.ages_ms for heard in rounds])
        p50, p95, p99 = np.percentile(ages, (50, 95, 99)).tolist()
        rows.append({
            "size": size, "rate_hz": run.rate, "path": path, "boxes": len(ages),
            "age_p50_ms": p50, "age_p95_ms": p95, "age_p99_ms": p99,
            "own_p50_ms": float(np.median([own for heard in rounds for own in heard.own_s]) * 1e3),
            "added_p50_ms": float(p50 - rows[-1]["age_p50_ms"]) if rows else 0.0,
            "cpu_ms": float(np.median([heard.processor_s for heard in rounds]) * 1e3),
            "topics": min(heard.topics for heard in rounds),
        })  # fmt: skip
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
        "rss_first_mib": float(first),
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
    parser.add_argument("--outputs", action="store_true", help="what all outputs add")
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
