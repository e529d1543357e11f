# SPDX-License-Identifier: Apache-2.0
"""How much later than its tracker the node is: image stamp to box heard in another process.

    dev/run python -m tools.benchmarks.node_latency                # 640x480 and 1920x1080, 30 Hz
    dev/run python -m tools.benchmarks.node_latency --overload --minutes 10

A camera, the node and this listener are three processes. From the time between an image's stamp
and the arrival of its box the tracker's own time (`processing_time` of `target_status`) is taken
away. Beside it the same path with a node that only answers: the floor that rclpy and the
middleware set. That node is measured twice. As it is, glibc hands the memory of every image back
to the kernel and fetches it anew for the next one, which costs more than all else; a larger
process is spared that, so the stricter floor is the node with that memory kept.

With `--overload` the camera is faster than the tracker. Then the whole age of each box counts, at
most two frames of work (mean time between two boxes) and one period of the camera, as does the
node's memory, which must stay flat.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rclpy
from rclpy.node import Node
from vision_msgs.msg import Detection2D

from tools.benchmarks.latency_nodes import scenes
from tools.benchmarks.rows import Row, publish
from tools.demo.domain import private_domain
from tracker_interfaces.msg import TargetStatus
from tracker_interfaces.srv import SelectTarget
from tracker_ros.geometry import Box
from tracker_ros.nodes.messages import bounding_box_of, keep_last, stamp_nanoseconds

SIZES = ("640x480", "1920x1080")
ECHO, FLOOR = "echo", "echo, memory kept"
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "134217728"}
FILL_S = 6.0
"""The frame buffer keeps five seconds; until it is full, each image takes memory never used."""
START_S = 60.0
COLUMNS = ("size", "rate_hz", "path", "boxes", "p50_ms", "p95_ms", "p99_ms", "own_p50_ms",
           "goal_p50_ms")  # fmt: skip
OVERLOAD_COLUMNS = (
    "size", "rate_hz", "model", "boxes", "work_ms", "age_p50_ms", "age_p95_ms", "age_p99_ms",
    "goal_p99_ms", "received", "dropped", "rss_mib", "growth_percent",
)  # fmt: skip


class Listener(Node):
    """Notes when each box arrives and what the tracker took for it."""

    def __init__(self) -> None:
        super().__init__("listener")
        self.arrivals: dict[int, int] = {}
        self.own_s: dict[int, float] = {}
        self.status = TargetStatus()
        self.create_subscription(Detection2D, "target", self._on_target, keep_last(10))
        self.create_subscription(TargetStatus, "target_status", self._on_status, keep_last(10))
        self._selector = self.create_client(SelectTarget, "select_target")

    def _on_target(self, message: Detection2D) -> None:
        self.arrivals[stamp_nanoseconds(message.header)] = time.time_ns()

    def _on_status(self, message: TargetStatus) -> None:
        self.status = message
        if message.processing_time > 0:
            self.own_s[stamp_nanoseconds(message.header)] = message.processing_time

    def listen(self, seconds: float) -> None:
        """Take in what comes for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            rclpy.spin_once(self, timeout_sec=left)

    def forget(self) -> None:
        """Begin anew."""
        self.arrivals.clear()
        self.own_s.clear()

    def select(self, box: Box, node: subprocess.Popen) -> None:
        """Select the target on the newest image, as soon as the node can.

        Raises:
            RuntimeError: It did not within a minute, or has ended.
        """
        deadline = time.monotonic() + START_S
        said = "no answer"
        while time.monotonic() < deadline and node.poll() is None:
            if self._selector.wait_for_service(timeout_sec=0.5):
                asked = self._selector.call_async(SelectTarget.Request(bbox=bounding_box_of(box)))
                rclpy.spin_until_future_complete(self, asked, timeout_sec=5.0)
                answer = asked.result()
                if answer is not None and answer.success:
                    return
                said = answer.message if answer is not None else said
            time.sleep(0.2)
        raise RuntimeError(f"no target selected ({said}), exit status of the node {node.poll()}")

    def hear(self) -> None:
        """Wait for the first box.

        Raises:
            RuntimeError: None came within a minute.
        """
        deadline = time.monotonic() + START_S
        while not self.arrivals:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no box heard within {START_S:g} s")
            rclpy.spin_once(self, timeout_sec=0.1)

    def delays_ms(self, with_own: bool) -> np.ndarray:
        """Stamp to arrival of every box, milliseconds, with or without the tracker's own time."""
        return np.array(
            [
                (arrival - stamp) / 1e6 - (0.0 if with_own else self.own_s.get(stamp, 0.0) * 1e3)
                for stamp, arrival in sorted(self.arrivals.items())
                if with_own or not self.own_s or stamp in self.own_s
            ]
        )


@contextmanager
def running(
    module: str, *arguments: object, settings: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen]:
    """A module as a process of its own, with more environment, ended as by Ctrl-C."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**os.environ, **(settings or {})},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def listening() -> Iterator[Listener]:
    """A listener of its own for one measurement."""
    listener = Listener()
    try:
        yield listener
    finally:
        listener.destroy_node()


def tracker_arguments(model: str) -> list[str]:
    """Command line of the node."""
    return ["--ros-args", "--log-level", "warn", "-p", f"model:={model}"]


def resident_mib(pid: int) -> float:
    """Memory that a process holds now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(size: str, rate_hz: float, path: str, seconds: float, fill_s: float) -> Row:
    """One row: an echo node, or the tracker with the model named `path`."""
    width, height = map(int, size.split("x"))
    echo = path in (ECHO, FLOOR)
    module = "benchmarks.latency_nodes" if echo else "tracker_ros.nodes.track"
    arguments = ["echo"] if echo else tracker_arguments(path)
    with (
        listening() as listener,
        running(module, *arguments, settings=KEEP_MEMORY if path == FLOOR else None) as node,
        running("benchmarks.latency_nodes", "camera", width, height, rate_hz),
    ):
        if not echo:
            listener.select(scenes(width, height, 1)[0][1], node)
        listener.hear()
        listener.listen(min(1.0, fill_s) if echo else fill_s)
        listener.forget()
        listener.listen(seconds)
        delays = listener.delays_ms(with_own=False)
        own = np.median(list(listener.own_s.values())) * 1e3 if listener.own_s else 0.0
    p50, p95, p99 = np.percentile(delays, (50, 95, 99)).tolist()
    return {
        "size": size,
        "rate_hz": rate_hz,
        "path": path,
        "boxes": len(delays),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "own_p50_ms": float(own),
    }


def compare(size: str, rate_hz: float, model: str, seconds: float, fill_s: float) -> list[Row]:
    """The echo nodes and the tracker, and what the tracker may take at most beside the floor."""
    rows = [measure(size, rate_hz, path, seconds, fill_s) for path in (ECHO, FLOOR, model)]
    rows[-1]["goal_p50_ms"] = 1.3 * rows[1]["p50_ms"] + 2.0
    return rows


def overload(size: str, rate_hz: float, model: str, seconds: float, fill_s: float) -> Row:
    """One row with a camera faster than the tracker: age of boxes, the node's memory."""
    width, height = map(int, size.split("x"))
    resident = []
    with (
        listening() as listener,
        running("tracker_ros.nodes.track", *tracker_arguments(model)) as node,
        running("benchmarks.latency_nodes", "camera", width, height, rate_hz),
    ):
        listener.select(scenes(width, height, 1)[0][1], node)
        listener.hear()
        listener.listen(fill_s)
        listener.forget()
        before = listener.status
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            listener.listen(min(1.0, seconds / 4))
            resident.append(resident_mib(node.pid))
        after = listener.status
        ages = listener.delays_ms(with_own=True)
    quarter = max(1, len(resident) // 4)
    first, last = np.median(resident[:quarter]), np.median(resident[-quarter:])
    work = float(np.diff(sorted(listener.arrivals)).mean()) / 1e6
    p50, p95, p99 = np.percentile(ages, (50, 95, 99)).tolist()
    return {
        "size": size,
        "rate_hz": rate_hz,
        "model": model,
        "boxes": len(ages),
        "work_ms": work,
        "age_p50_ms": p50,
        "age_p95_ms": p95,
        "age_p99_ms": p99,
        "goal_p99_ms": 2 * work + 1e3 / rate_hz,
        "received": after.frames_received - before.frames_received,
        "dropped": after.frames_dropped - before.frames_dropped,
        "rss_mib": float(last),
        "growth_percent": float(100 * (last / first - 1)),
    }


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", metavar="WxH", help="640x480 and 1920x1080")
    parser.add_argument("--rate", type=float, help="images per second (30; overload 120)")
    parser.add_argument("--model", help="ostrack_tiny; overload trdimp_tiny")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--minutes", type=float, help="the same in minutes")
    parser.add_argument("--fill", type=float, default=FILL_S, help="seconds until measuring")
    parser.add_argument("--overload", action="store_true", help="camera faster than tracker")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    arguments = parser.parse_args()
    seconds = arguments.minutes * 60 if arguments.minutes else arguments.seconds
    with private_domain():
        rclpy.init()
        if arguments.overload:
            rate_hz, model = arguments.rate or 120.0, arguments.model or "trdimp_tiny"
            rows = [
                overload(size, rate_hz, model, seconds, arguments.fill)
                for size in arguments.sizes or SIZES[:1]
            ]
        else:
            rate_hz, model = arguments.rate or 30.0, arguments.model or "ostrack_tiny"
            rows = [
                row
                for size in arguments.sizes or SIZES
                for row in compare(size, rate_hz, model, seconds, arguments.fill)
            ]
        rclpy.shutdown()
    publish(rows, OVERLOAD_COLUMNS if arguments.overload else COLUMNS, 2, arguments.json)


if __name__ == "__main__":
    main()
