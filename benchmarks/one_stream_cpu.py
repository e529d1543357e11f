# SPDX-License-Identifier: Apache-2.0
"""Time of a one-stream tracker's `track()` on a CPU, beside the matrix rate reached meanwhile.

    python -m benchmarks.one_stream_cpu [--models …] [--threads 2 1] [--json out.json]

Milliseconds say little across machines, so a frame is also given as a multiple of "operations of
the official network / matrix rate", the rate measured in the same run, in turn with the frames,
on the products of the official network's linear layers. Two rates are measured: that of `torch.mm`
(the BLAS, which the official code runs on) and that of oneDNN's prepacked layers (which this
package runs on), where the build has them. Weights are random: no number depends on them.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.one_stream_flops import (
    Config,
    Product,
    counted_gflop,
    official_gflop,
    official_products,
)
from benchmarks.rows import measure_apart, publish
from tracker_ros.models.grm.config import GRM_CONFIGS, GRMConfig
from tracker_ros.models.grm.inference import GRMInference
from tracker_ros.models.grm.network import GRMNetwork
from tracker_ros.models.inference_layers import InferenceLinear, can_pack
from tracker_ros.models.one_stream_tracker import OneStreamTracker
from tracker_ros.models.ostrack.config import OSTRACK_CONFIGS
from tracker_ros.models.ostrack.inference import OSTrackInference
from tracker_ros.models.ostrack.network import OSTrackNetwork

MODULE = "benchmarks.one_stream_cpu"
CPU = torch.device("cpu")
IMAGE_HEIGHT, IMAGE_WIDTH = 480, 640
BOX = (290.0, 200.0, 60.0, 80.0)
CONFIGS: dict[str, Config] = {**OSTRACK_CONFIGS, **GRM_CONFIGS}
MODELS = (
    "ostrack_vitb_256_ce", "ostrack_vitb_384_ce", "ostrack_vitb_256", "ostrack_tiny",
    "grm_vitb_256",
)  # fmt: skip
COLUMNS = ("model", "threads", "ms", "ms_best", "fps", "gflop", "official_gflop", "mm_rate",
           "packed_rate", "multiple", "multiple_of_packed", "peak_rss_mib")  # fmt: skip


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


class MatrixRate:
    """Times the distinct products of a network, each by its fastest repetition.

    Args:
        config: Whose linear layers.
        packed: By oneDNN's prepacked layers rather than `torch.mm`.
    """

    def __init__(self, config: Config, packed: bool) -> None:
        self.times: dict[Product, int] = {}
        for product in official_products(config):
            self.times[product] = self.times.get(product, 0) + 1
        self.runs = {product: self._runner(product, packed) for product in self.times}
        self.best = dict.fromkeys(self.times, float("inf"))

    @staticmethod
    def _runner(product: Product, packed: bool) -> Callable[[], torch.Tensor]:
        left = torch.randn(product.rows, product.inner)
        right = torch.randn(product.columns, product.inner)
        if packed:
            layer = InferenceLinear(right, torch.zeros(product.columns), packed=True)
            return lambda: layer(left)
        transposed = right.T.contiguous()
        return lambda: torch.mm(left, transposed)

    @torch.inference_mode()
    def sample(self) -> None:
        """Time every product twice."""
        for product, run in self.runs.items():
            self.best[product] = min(self.best[product], seconds(run), seconds(run))

    @property
    def gflop_per_second(self) -> float:
        """Operations of all products over the time of all products."""
        work = sum(count * product.gflop for product, count in self.times.items())
        return work / sum(count * self.best[product] for product, count in self.times.items())


def make_model(config: Config, packed: bool | None = None) -> OSTrackInference | GRMInference:
    """A model with random weights; of a GRM's search tokens about half meet the template."""
    torch.manual_seed(0)
    if isinstance(config, GRMConfig):
        return GRMInference(GRMNetwork(config), CPU, packed)
    return OSTrackInference(OSTrackNetwork(config), CPU, packed)


def count_operations(config: Config) -> float:
    """GFLOP of one frame as this package computes it."""
    model = make_model(config, packed=False)
    template = torch.randn(1, 3, config.template_size, config.template_size)
    encoded = model.encode_template(template, torch.tensor([[0.25, 0.25, 0.5, 0.5]]))
    search = torch.randn(1, 3, config.search_size, config.search_size)
    return counted_gflop(model, encoded, search)


def measure(name: str, threads: int, rounds: int) -> dict[str, Any]:
    """One row of the table, in this process."""
    torch.set_num_threads(threads)
    config = CONFIGS[name]
    image = np.random.default_rng(0).integers(
        0, 255, (IMAGE_HEIGHT, IMAGE_WIDTH, 3), dtype=np.uint8
    )
    tracker = OneStreamTracker(make_model(config))
    tracker.warm_up()
    tracker.initialize(image, BOX)
    tracker.track(image)
    peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rates = {"mm_rate": MatrixRate(config, packed=False)}
    if can_pack(CPU):
        rates["packed_rate"] = MatrixRate(config, packed=True)
    frames = []
    for _ in range(rounds):
        for rate in rates.values():
            rate.sample()
        for _ in range(3):
            tracker.move_to(BOX)
            frames.append(seconds(lambda: tracker.track(image)))
    best, median = min(frames), statistics.median(frames)
    row: dict[str, Any] = {
        "model": name,
        "threads": threads,
        "ms": 1e3 * median,
        "ms_best": 1e3 * best,
        "fps": 1.0 / median,
        "gflop": count_operations(config),
        "peak_rss_mib": peak_rss,
        **{key: rate.gflop_per_second for key, rate in rates.items()},
    }
    if config.stem == "patch":
        work = official_gflop(config)
        row["official_gflop"] = work
        row["multiple"] = best * row["mm_rate"] / work
        if "packed_rate" in row:
            row["multiple_of_packed"] = best * row["packed_rate"] / work
    return row


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(CONFIGS), default=MODELS)
    parser.add_argument("--threads", nargs="+", type=int, default=[2, 1])
    parser.add_argument("--rounds", type=int, default=8, help="of three frames each")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--row", nargs=2, metavar=("MODEL", "THREADS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        name, threads = arguments.row
        print(json.dumps(measure(name, int(threads), arguments.rounds)))
        return
    from tqdm import tqdm

    wanted = [(name, threads) for name in arguments.models for threads in arguments.threads]
    rounds = ["--rounds", arguments.rounds]
    rows = [measure_apart(MODULE, ["--row", *one, *rounds]) for one in tqdm(wanted, unit="row")]
    publish(rows, COLUMNS, 2, arguments.json)


if __name__ == "__main__":
    main()
