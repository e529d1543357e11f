# SPDX-License-Identifier: Apache-2.0
"""CPU seconds of MAST per frame, with one reference and with the full memory.

    python -m benchmarks.mast_cpu [--models …] [--threads 2 1] [--sizes 480 240] [--json out.json]

One `track()` call on 854 x 480 images, after the first frame (one reference) and far into a video
(five references, two of them long-term), reduced to several working sizes. Weights and images are
random: no time depends on either. Beside it what the official code took on two threads of a
similar machine, which recomputes the features of every reference and stores all scores.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rows import measure_apart, publish, timed
from tracker_ros.models.mast.config import MAST_MODELS, PropagationParameters
from tracker_ros.models.mast.inference import MASTInference
from tracker_ros.models.mast.memory_schedule import frames_to_keep
from tracker_ros.models.mast.network import MASTNetwork
from tracker_ros.models.mast.tracker import MASTTracker

MODULE = "benchmarks.mast_cpu"
CPU = torch.device("cpu")
IMAGE_HEIGHT, IMAGE_WIDTH = 480, 854
BOX = (300.0, 200.0, 150.0, 120.0)
LATE_FRAME = 60
REPETITIONS = 3
# CPU seconds of the official code at 480 px.
OFFICIAL = {"one reference": 12.0, "full memory": 72.0}
COLUMNS = ("model", "threads", "working_size", "memory", "cpu_s", "wall_s", "features_cpu_s",
           "official_cpu_s", "times_faster", "peak_rss_mib")  # fmt: skip


def advance(tracker: MASTTracker, frame: int) -> None:
    """Act as if `frame` were the last one, and all frames had been the first."""
    memory = tracker._memory
    assert memory is not None
    known = next(iter(memory.kept.values()))
    memory.frame = frame
    memory.kept = dict.fromkeys(frames_to_keep(frame, tracker.parameters), known)


def measure(name: str, threads: int, working_size: int) -> list[dict[str, Any]]:
    """Rows of one model, in this process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = MASTInference(MASTNetwork(MAST_MODELS[name][0]).eval(), CPU)
    tracker = MASTTracker(model, PropagationParameters(), working_size=working_size)
    size = (IMAGE_HEIGHT, IMAGE_WIDTH, 3)
    image = np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)
    tracker.initialize(image, BOX)
    tracker.track(image)
    shrink = working_size / IMAGE_HEIGHT
    reduced = np.ascontiguousarray(image[:working_size, : round(IMAGE_WIDTH * shrink)])
    features = min(timed(lambda: model.features(reduced))[0] for _ in range(REPETITIONS))
    rows = []
    for memory, frame in (("one reference", 0), ("full memory", LATE_FRAME)):
        taken = []
        for _ in range(REPETITIONS):
            advance(tracker, frame)
            taken.append(timed(lambda: tracker.track(image)))
        cpu, wall = (statistics.median(values) for values in zip(*taken, strict=True))
        row: dict[str, Any] = {
            "model": name,
            "threads": threads,
            "working_size": working_size,
            "memory": memory,
            "cpu_s": cpu,
            "wall_s": wall,
            "features_cpu_s": features,
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        if name == "mast_resnet18" and working_size == IMAGE_HEIGHT:
            row["official_cpu_s"] = OFFICIAL[memory]
            row["times_faster"] = OFFICIAL[memory] / cpu
        rows.append(row)
    return rows


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(MAST_MODELS), default=MAST_MODELS)
    parser.add_argument("--threads", nargs="+", type=int, default=[2, 1])
    parser.add_argument("--sizes", nargs="+", type=int, default=[480, 240], help="working sizes")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--row", nargs=3, metavar=("MODEL", "THREADS", "SIZE"),
                        help=argparse.SUPPRESS)  # fmt: skip
    arguments = parser.parse_args()
    if arguments.row:
        name, threads, size = arguments.row
        print(json.dumps(measure(name, int(threads), int(size))))
        return
    from tqdm import tqdm

    wanted = [
        (name, threads, size)
        for name in arguments.models
        for size in arguments.sizes
        for threads in arguments.threads
    ]
    taken = (measure_apart(MODULE, ["--row", *one]) for one in tqdm(wanted, unit="run"))
    rows = [row for some in taken for row in some]
    publish(rows, COLUMNS, 3, arguments.json)


if __name__ == "__main__":
    main()
