# SPDX-License-Identifier: Apache-2.0
"""CPU seconds of TrDiMP and TrSiam by kind of frame, beside the machine's matrix rate.

    python -m benchmarks.trdimp_cpu [--models …] [--threads 2 1] [--backends torch onnxruntime]
                                    [--json out.json]

A frame costs what it brings with it: initialising, a plain frame, one that extends the
transformer's memory, one that also updates the filter. All four are timed as CPU seconds of the
process, updates included, and set beside what the official code took on two threads of a similar
machine, whose `torch.mm` rate is given so that machines compare. Weights are random and every
frame is taken for a good one, since updates happen only then: no time depends on either. Engines
are exported at the first run and kept for the next.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rows import measure_apart, publish, timed
from tracker_ros.engines.backend import Backend
from tracker_ros.models.trdimp.config import TRDIMP_MODELS, TrackingParameters
from tracker_ros.models.trdimp.engines import TrDiMPOnEngines
from tracker_ros.models.trdimp.graphs import graphs
from tracker_ros.models.trdimp.inference import TrDiMPInference
from tracker_ros.models.trdimp.network import TrDiMPNetwork
from tracker_ros.models.trdimp.tracker import TrDiMPTracker

MODULE = "benchmarks.trdimp_cpu"
CPU = torch.device("cpu")
IMAGE_HEIGHT, IMAGE_WIDTH = 480, 640
BOX = (290.0, 200.0, 60.0, 80.0)
MODELS = ("trdimp_resnet50", "trsiam_resnet50", "trdimp_resnet50_vot", "trdimp_tiny")
FRAMES = 41
MM_SIDE = 1024
# CPU seconds of the official code (base parameters), two threads, 640 x 480.
OFFICIAL = {"initialise": 10.5, "plain": 0.65, "memory": 2.4, "memory and filter": 2.9}
BACKENDS = ("torch", "onnxruntime")
ENGINES = Path("out/engines")
COLUMNS = ("model", "backend", "threads", "work", "cpu_s", "wall_s", "official_cpu_s",
           "times_faster", "mm_rate", "peak_rss_mib")  # fmt: skip


def matrix_rate(repetitions: int = 20) -> float:
    """GFLOP/s of `torch.mm` on square float32 matrices, its fastest repetition."""
    left, right = torch.randn(MM_SIDE, MM_SIDE), torch.randn(MM_SIDE, MM_SIDE)
    best = min(timed(lambda: torch.mm(left, right))[1] for _ in range(repetitions))
    return 2e-9 * MM_SIDE**3 / best


def accept_every_frame(parameters: TrackingParameters) -> TrackingParameters:
    """The same parameters with thresholds that find the target, and no look-alike, always."""
    return replace(
        parameters,
        target_not_found_threshold=-float("inf"),
        distractor_threshold=float("inf"),
        hard_negative_threshold=float("inf"),
    )


def kind_of(frame: int, parameters: TrackingParameters) -> str:
    """What a frame brings with it; frames count from 1, the first image."""
    memory = (frame - 1) % parameters.transformer_skipping == 0
    updates = parameters.net_opt_update_iter > 0
    learned = updates and (frame - 1) % parameters.train_skipping == 0
    if memory and learned:
        return "memory and filter"
    return "memory" if memory else "filter" if learned else "plain"


def open_model(
    name: str, backend: str, parameters: TrackingParameters
) -> TrDiMPInference | TrDiMPOnEngines:
    """A model with random weights, always the same."""
    torch.manual_seed(0)
    network = TrDiMPNetwork(TRDIMP_MODELS[name][0]).eval()
    if backend == "torch":
        return TrDiMPInference(network, CPU)
    chosen = Backend(backend, CPU, "fp32", name, ENGINES, build=True)
    return TrDiMPOnEngines(network.config, graphs(network, parameters), chosen.open, CPU)


def measure(name: str, threads: int, backend: str) -> list[dict[str, Any]]:
    """Rows of one model, in this process."""
    torch.set_num_threads(threads)
    parameters = accept_every_frame(TRDIMP_MODELS[name][1])
    image = np.random.default_rng(0).integers(
        0, 255, (IMAGE_HEIGHT, IMAGE_WIDTH, 3), dtype=np.uint8
    )
    tracker = TrDiMPTracker(open_model(name, backend, parameters), parameters)
    tracker.warm_up()
    times: dict[str, list[tuple[float, float]]] = {}
    for _ in range(2):
        times.setdefault("initialise", []).append(timed(lambda: tracker.initialize(image, BOX)))

    def follow() -> None:
        tracker.track(image)
        tracker.learn()

    for frame in range(2, FRAMES + 2):
        times.setdefault(kind_of(frame, parameters), []).append(timed(follow))
    peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rate = matrix_rate()
    rows = []
    for work, taken in times.items():
        cpu, wall = (statistics.median(values) for values in zip(*taken, strict=True))
        row: dict[str, Any] = {
            "model": name,
            "backend": backend,
            "threads": threads,
            "work": work,
            "cpu_s": cpu,
            "wall_s": wall,
            "mm_rate": rate,
            "peak_rss_mib": peak_rss,
        }
        if name in ("trdimp_resnet50", "trsiam_resnet50") and work in OFFICIAL:
            row["official_cpu_s"] = OFFICIAL[work]
            row["times_faster"] = OFFICIAL[work] / cpu
        rows.append(row)
    return rows


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(TRDIMP_MODELS), default=MODELS)
    parser.add_argument("--threads", nargs="+", type=int, default=[2, 1])
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS[:1])
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        name, threads, backend = arguments.row
        print(json.dumps(measure(name, int(threads), backend)))
        return
    from tqdm import tqdm

    wanted = itertools.product(arguments.models, arguments.threads, arguments.backends)
    taken = (measure_apart(MODULE, ["--row", *one]) for one in tqdm(list(wanted), unit="run"))
    rows = [row for some in taken for row in some]
    publish(rows, COLUMNS, 3, arguments.json)


if __name__ == "__main__":
    main()
