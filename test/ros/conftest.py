# SPDX-License-Identifier: Apache-2.0
"""What the ROS tests share: nodes, as processes and in this process, and probes beside them.

Starting a node costs seconds, so tests share them. Each test begins with no target and default
parameters:

* `probe`: a tracker process with the default model. Most tests use it.
* `local`: a tracker in this process whose model a test can replace.
* `waiting`: a tracker process that waits for transitions.
"""

from __future__ import annotations

import os

# Messages then check the types of what is assigned to them, here and in the programs under test.
os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"

import gc
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from delegating_tracker import DelegatingTracker
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from graph_probe import PATIENCE_S, Probe, image_message  # noqa: E402

ON_TORCH = ["-p", "backend:=torch"]
WITHOUT_TORCH = {
    "PYTHONPATH": os.pathsep.join(
        [str(HERE.parent / "without_torch"), os.environ.get("PYTHONPATH", "")]
    ),
    "REFUSED_PACKAGES": "torch",
}
"""Environment of a program that cannot import torch, as on most robots."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder needs ROS."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("ros")


class NodeProcess:
    """A program of the package as a process of its own.

    Args:
        program: Module in ``tracker_ros.nodes``.
        arguments: Its command line.
        log: Where its output goes.
        settings: Environment variables to add.
    """

    def __init__(
        self,
        program: str,
        arguments: list[str],
        log: Path,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tracker_ros.nodes.start", program, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(settings or {})},
            )

    @property
    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text()

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for its end; its exit status."""
        return self._process.wait(timeout_s)

    def stop(self, how: signal.Signals = signal.SIGINT) -> int:
        """End it; its exit status."""
        if not self.ended:
            self._process.send_signal(how)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise


class SpunNode:
    """A real node of the package in this process, spun by a thread of its own."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.node = make()
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _spin(self) -> None:
        while not self._stop.is_set():
            self.executor.spin_once(timeout_sec=0.1)

    def close(self) -> None:
        """End the node."""
        self._stop.set()
        self._thread.join()
        self.executor.remove_node(self.node)
        self.node.close()
        self.node.destroy_node()
        self.executor.shutdown()
        # A lifecycle node's state machine holds on to the node, and with it to its log's
        # publisher, until Python collects it; the next node of this name needs its own.
        del self.node
        gc.collect()


class Stage(DelegatingTracker):
    """The model of the shared node in this process: does what the `inner` one does."""

    def initialize_mask(self, image: np.ndarray, mask: np.ndarray) -> None:
        self.inner.initialize_mask(image, mask)

    def track(self, image: np.ndarray) -> Any:
        self.inner.explain = self.explain
        return self.inner.track(image)


@pytest.fixture(scope="session", autouse=True)
def ros_context() -> Iterator[None]:
    """ROS in this process."""
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture(scope="session")
def make_message() -> Callable[..., Image]:
    """Makes image messages; see ``image_message``."""
    return image_message


@pytest.fixture
def run_program(tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Starts programs of the package; ends those that still run."""
    started: list[NodeProcess] = []

    def run(program: str, *arguments: str) -> NodeProcess:
        started.append(
            NodeProcess(program, list(arguments), tmp_path / f"{program}{len(started)}.log")
        )
        return started[-1]

    yield run
    for process in started:
        process.stop()


@pytest.fixture
def spin() -> Iterator[Callable[[Callable[[], Any]], SpunNode]]:
    """Spins nodes in this process; ends them afterwards."""
    spun: list[SpunNode] = []

    def start(make: Callable[[], Any]) -> SpunNode:
        spun.append(SpunNode(make))
        return spun[-1]

    yield start
    for node in spun:
        node.close()


@pytest.fixture
def make_probe() -> Iterator[Callable[..., Probe]]:
    """Makes probes; they leave afterwards."""
    probes: list[Probe] = []

    def make(namespace: str = "", tracker: str = "") -> Probe:
        probes.append(Probe(namespace, tracker))
        return probes[-1]

    yield make
    for probe in probes:
        probe.close()


@pytest.fixture(scope="session")
def tracker_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """One tracker in namespace /shared; most tests use it. It ends cleanly with SIGINT."""
    process = NodeProcess(
        "track",
        ["--ros-args", "-r", "__ns:=/shared", *ON_TORCH],
        tmp_path_factory.mktemp("track") / "track.log",
    )
    yield process
    assert process.stop(signal.SIGINT) == 0
    assert "Traceback" not in process.output


@pytest.fixture(scope="session")
def shared_probe(tracker_process: NodeProcess) -> Iterator[Probe]:
    """The probe beside the shared tracker."""
    probe = Probe("/shared")
    probe.connect()
    yield probe
    probe.close()


@pytest.fixture
def probe(shared_probe: Probe) -> Probe:
    """The shared tracker's probe."""
    shared_probe.begin()
    return shared_probe


@pytest.fixture(scope="session")
def waiting_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A tracker in namespace /waiting that waits for transitions."""
    options = [*ON_TORCH, "-p", "autostart:=false", "-p", "lost_after:=3600.0"]
    process = NodeProcess(
        "track",
        ["--ros-args", "-r", "__ns:=/waiting", *options],
        tmp_path_factory.mktemp("waiting") / "track.log",
    )
    yield process
    assert process.stop() == 0
    assert "Traceback" not in process.output


@pytest.fixture(scope="session")
def waiting_probe(waiting_process: NodeProcess) -> Iterator[Probe]:
    """The probe beside the waiting tracker."""
    probe = Probe("/waiting")
    yield probe
    probe.close()


@pytest.fixture(scope="session")
def tiny_tracker() -> Any:
    """The embedded model, in this process."""
    from tracker_ros import create_tracker

    return create_tracker("ostrack_tiny", backend="torch")


@pytest.fixture(scope="session")
def local_stage(tiny_tracker: Any) -> Stage:
    """The model of the tracker in this process."""
    return Stage(tiny_tracker)


@pytest.fixture(scope="session")
def local_tracker(local_stage: Stage) -> Iterator[SpunNode]:
    """A tracker in this process, in namespace /local."""
    from tracker_ros.nodes.track import TrackNode

    spun = SpunNode(lambda: TrackNode(lambda parameters: local_stage, namespace="local"))
    yield spun
    spun.close()


@pytest.fixture(scope="session")
def local_node(local_stage: Stage, local_tracker: SpunNode) -> Iterator[tuple[Stage, Probe]]:
    """The model of the tracker in this process, and the probe beside the tracker."""
    probe = Probe("/local")
    probe.connect()
    yield local_stage, probe
    probe.close()


@pytest.fixture
def local(local_node: tuple[Stage, Probe], tiny_tracker: Any) -> tuple[Stage, Probe]:
    """The shared node in this process, with the embedded model."""
    stage, probe = local_node
    stage.inner = tiny_tracker
    probe.begin()
    return stage, probe
