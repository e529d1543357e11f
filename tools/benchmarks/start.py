# SPDX-License-Identifier: Apache-2.0
"""Measure how long a tracker takes from nothing to its first frame, and the memory it then holds.

    python -m tools.benchmarks.start [--models ostrack_tiny …] [--against DIR] [--node]

Seconds are wall time, "cpu" the processor's, which other programs disturb less. Each measurement
is a process of its own, which imports the package, makes the tracker, starts it
on a box and tracks one 640 x 480 image. "first" starts with an empty cache folder, as after
installation, "later" with what the process before has left there. With --against, another
checkout is measured in turn with this one, and the quotients are printed. --node measures the ROS
node as well, from the start of its process to IDLE, before any image.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("ostrack_tiny", "trdimp_tiny")
_MIB = 1024**2
_TIMEOUT_S = 180
_FIRST_FRAME = """
import json, sys, time
began = time.perf_counter()
import numpy as np
from tracker_ros import create_tracker
options = {} if sys.argv[2] == "auto" else {"backend": sys.argv[2]}
image = np.random.default_rng(0).integers(0, 256, (480, 640, 3)).astype(np.uint8)
tracker = create_tracker(sys.argv[1], device="cpu", **options)
tracker.initialize(image, (200.0, 150.0, 80.0, 120.0))
tracker.track(image)
seconds, cpu = time.perf_counter() - began, time.process_time()
lines = open("/proc/self/status").read().splitlines()
(resident,) = (int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
print(json.dumps([seconds, cpu, resident / 1024]))
"""

Figures = dict[str, float]


def main() -> None:
    """Measure, and print a line for each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--later", type=int, default=3, help="starts after the first one")
    parser.add_argument("--node", action="store_true")
    args = parser.parse_args()
    trees = [ROOT, *([args.against.resolve()] if args.against else [])]
    for model in args.models:
        kinds = ["tracker", *(["node"] if args.node else [])]
        for kind in kinds:
            found = [_measured(kind, tree, model, args.backend, args.later) for tree in trees]
            for tree, figures in zip(trees, found, strict=True):
                print(_line(f"{model} {kind} {tree.name}", figures), flush=True)
            if len(found) == 2:
                quotients = {name: found[0][name] / found[1][name] for name in found[0]}
                print(_line(f"{model} {kind} quotient", quotients), flush=True)


def _line(name: str, figures: Figures) -> str:
    return f"{name:40}" + "  ".join(f"{key} {value:.3g}" for key, value in figures.items())


def _measured(kind: str, tree: Path, model: str, backend: str, later: int) -> Figures:
    """Return the figures of the first start and of later ones by name."""
    measure = _first_frame if kind == "tracker" else _node
    with tempfile.TemporaryDirectory() as cache:
        settings = {**os.environ, "XDG_CACHE_HOME": cache, "PYTHONPATH": _path(tree)}
        first = measure(model, backend, settings, tree)
        others = [measure(model, backend, settings, tree) for _ in range(later)]
    names = ("s", "cpu", "mib")
    figures = {f"first_{name}": value for name, value in zip(names, first, strict=True)}
    for name, *values in zip(names, *others, strict=True):
        figures[f"later_{name}"] = statistics.median(values)
    return figures


def _path(tree: Path) -> str:
    """Return PYTHONPATH with a checkout before everything else."""
    return os.pathsep.join(filter(None, [str(tree), os.environ.get("PYTHONPATH", "")]))


def _first_frame(
    model: str, backend: str, settings: dict[str, str], tree: Path
) -> tuple[float, float, float]:
    """Make a tracker in a process; return seconds to its first frame, CPU seconds, and MiB."""
    done = subprocess.run(
        [sys.executable, "-c", _FIRST_FRAME, model, backend],
        cwd=tree,  # Python looks there first
        env=settings,
        capture_output=True,
        text=True,
        check=True,
        timeout=_TIMEOUT_S,
    )
    seconds, cpu, mib = json.loads(done.stdout.splitlines()[-1])
    return seconds, cpu, mib


def _node(
    model: str, backend: str, settings: dict[str, str], tree: Path
) -> tuple[float, float, float]:
    """Start the node; return seconds until its model is ready, CPU seconds, and MiB."""
    parameters = _parameters(model=model, backend=backend)
    command = [sys.executable, "-m", "tracker_ros.nodes.start", "track", "--ros-args", *parameters]
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = psutil.Popen(
            command, cwd=tree, env=settings, stdout=output, stderr=subprocess.STDOUT, text=True
        )
        try:
            while time.perf_counter() - began < _TIMEOUT_S and process.poll() is None:
                output.seek(0)
                if f"model {model} ready" in output.read():
                    seconds, times = time.perf_counter() - began, process.cpu_times()
                    return seconds, times.user + times.system, process.memory_info().rss / _MIB
                time.sleep(0.02)
        finally:
            process.terminate()
            process.wait(20)
        output.seek(0)
        raise RuntimeError(f"the node was not ready: {output.read()[-500:]}")


def _parameters(**values: str) -> Sequence[str]:
    return [word for name, value in values.items() for word in ("-p", f"{name}:={value}")]


if __name__ == "__main__":
    main()
