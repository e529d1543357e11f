# SPDX-License-Identifier: Apache-2.0
"""Measure time and memory of every model, back end and precision that this machine can run.

    python -m tools.benchmarks.performance --json tools/benchmarks/performance_cpu.json \
        [--models …] [--threads 2 1]
    python -m tools.benchmarks.performance --device cuda --json out/gpu.json
    python -m tools.benchmarks.performance --show tools/benchmarks/performance_cpu.json \
        --markdown docs/performance.md --plot docs/media/performance.png

Every row is measured in a process of its own. To show how busy the machine was, the rate at
which `torch.mm` multiplies 32-bit matrices (16-bit ones for fp16 on a GPU) is measured in turn
with the frames. Models without embedded weights get random ones: they change no times, and
the parity check of their engines ignores boxes. A row is left out if something else would compute
than it says. Rows in an existing JSON file are kept unless they are measured again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import torch

from tools.benchmarks.flops import counted_gflop
from tools.benchmarks.performance_page import plot, tables, write_page
from tools.benchmarks.rows import Row, measure_apart
from tools.benchmarks.workloads import BOXES, random_weights, round_of_work
from tracker_ros import create_tracker, list_models, model_card
from tracker_ros.checkpoints import write_weights
from tracker_ros.engines import parity_check
from tracker_ros.engines.select_backend import Backend
from tracker_ros.evaluation.baselines import BASELINES, OpenCvTracker
from tracker_ros.evaluation.machine import describe_machine
from tracker_ros.geometry import iou
from tracker_ros.models.one_stream.tracker import OneStreamTracker
from tracker_ros.registry import model_graphs, resolve_device
from tracker_ros.synthetic.scene_video import synthetic_video
from tracker_ros.tracker import Tracker

MODULE = "tools.benchmarks.performance"
SAME_SHAPES = ("_got10k", "_lasot", "_vot")
"""Endings of names of models that differ from others only in weights or thresholds."""
CHOICES = {
    "cpu": [
        ("torch", "fp32"),
        ("torch", "bf16"),
        ("onnxruntime", "fp32"),
        ("onnxruntime", "int8"),
    ],
    "cuda": [("torch", "fp32"), ("torch", "fp16"), ("tensorrt", "fp16")],
    "csrt": [("opencv", "fp32")],
}
FRAMES_COMPARED = 30


class MatrixRate:
    """Measures how fast this machine multiplies square matrices, by the fastest repetition."""

    def __init__(self, device: torch.device, precision: str) -> None:
        self.device, self.best = device, float("inf")
        half = device.type == "cuda" and precision != "fp32"
        side = 8192 if device.type == "cuda" else 1024
        self.left, self.right = torch.randn(
            2, side, side, device=device, dtype=torch.float16 if half else torch.float32
        )

    def sample(self) -> None:
        """Time two multiplications."""
        for _ in range(2):
            settle(self.device)
            start = time.perf_counter()
            torch.mm(self.left, self.right)
            settle(self.device)
            self.best = min(self.best, time.perf_counter() - start)

    @property
    def gflop_per_second(self) -> float:
        """The rate of the fastest multiplication."""
        return 2e-9 * len(self.left) ** 3 / self.best


def settle(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_mib(device: torch.device) -> float:
    """Return the most memory held by this process, or by torch on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(options: dict[str, Any]) -> list[Row]:
    """Return the rows of one model on one back end in one precision, measured in this process.

    Raises:
        ValueError: The back end is not available, or something else computes in its place.
    """
    torch.set_num_threads(options["threads"])
    torch.backends.cuda.matmul.allow_tf32 = False
    if options["weights"]:
        # With random weights many places are as good as the best, and rounding decides.
        parity_check.MEDIAN_IOU = parity_check.MIN_IOU = 0.0
    cv2.setNumThreads(options["threads"])
    arguments = {key: options[key] for key in ("device", "weights", "backend", "precision")}
    arguments["engine_cache_dir"] = options["cache"]
    start = time.perf_counter()
    if options["model"] in BASELINES:
        tracker: Tracker = OpenCvTracker(options["model"])
    else:
        tracker = create_tracker(options["model"], **arguments)
    tracker.warm_up()
    start_s = time.perf_counter() - start
    check_that_it_runs(tracker, options)
    if options["prepare"]:
        prepare_for_several(options)
        return []
    device = torch.device(options["device"])
    for work in round_of_work(tracker):
        work.prepare()
        work.run()
    peak, rate = peak_mib(device), MatrixRate(device, options["precision"])
    taken = _times(tracker, rate, options["seconds"])
    check_that_it_runs(tracker, options)  # still
    plain = (options["backend"], options["precision"]) == ("torch", "fp32")
    gflop = _gflop(tracker) if plain else {}
    overlap = _box_overlap(tracker, arguments, options["model"])
    common: Row = {key: options[key] for key in ("model", "backend", "precision", "threads")}
    common |= {"rate": rate.gflop_per_second, "peak_mib": peak, "start_s": start_s}
    common |= {"device": tracker.runtime_info["device"], "runtime_info": tracker.runtime_info}
    common |= {} if overlap is None else {"box_iou": overlap}
    rows = []
    for name, times in taken.items():
        wall, cpu = zip(*times, strict=True)
        row = {"work": name, "cpu_s": statistics.median(cpu), "wall_s": statistics.median(wall)}
        # Other programs disturb CPU time less, but several threads share it.
        alone = options["threads"] == 1 and device.type == "cpu"
        row["ms"] = 1e3 * (row["cpu_s"] if alone else row["wall_s"])
        row |= {"gflop": gflop[name]} if name in gflop else {}
        rows.append({**common, **row})
    return rows


def prepare_for_several(options: dict[str, Any]) -> None:
    """Build the graphs for several targets, which a tracker never does itself, for a GPU.

    A CPU gains little by them.
    """
    if options["backend"] not in ("onnxruntime", "tensorrt") or options["device"] == "cpu":
        return
    device, cache = resolve_device(options["device"]), Path(options["cache"])
    named = options["backend"], device, options["precision"], options["model"], cache
    backend = Backend(*named, build=True)
    for graph in model_graphs(options["model"], options["weights"]):
        if graph.batched is not None:
            backend.open(graph.batched(len(BOXES)))


def check_that_it_runs(tracker: Tracker, options: dict[str, Any]) -> None:
    """Check that a tracker runs on the back end and in the precision that its rows name.

    Raises:
        ValueError: It does not, or its CUDA graph could not be recorded.
    """
    facts = tracker.runtime_info
    same = all(facts[name] == options[name] for name in ("backend", "precision"))
    if not same or facts.get("cuda_graph") == "no":
        raise ValueError(
            f"{options['model']} on {options['backend']} in {options['precision']} runs on "
            f"{', '.join(f'{name} {value}' for name, value in facts.items())}"
        )


def _gflop(tracker: Tracker) -> dict[str, float]:
    """Return the GFLOP of every kind of work."""
    counted: dict[str, float] = {}
    for work in round_of_work(tracker):
        work.prepare()
        if work.name not in counted:
            counted[work.name] = counted_gflop(work.run)
        else:
            work.run()
    return counted


def _times(
    tracker: Tracker, rate: MatrixRate, seconds: float
) -> dict[str, list[tuple[float, float]]]:
    """Return wall and CPU seconds of every kind of work, for at least one round."""
    taken: dict[str, list[tuple[float, float]]] = {}
    end = time.perf_counter() + seconds
    while not taken or time.perf_counter() < end:
        rate.sample()
        for work in round_of_work(tracker):
            work.prepare()
            settle(rate.device)
            cpu, wall = time.process_time(), time.perf_counter()
            work.run()
            settle(rate.device)
            took = time.perf_counter() - wall, time.process_time() - cpu
            taken.setdefault(work.name, []).append(took)
    return taken


def _box_overlap(tracker: Tracker, arguments: dict[str, Any], name: str) -> float | None:
    """Return the median IoU with torch in float32, where each frame is searched from the same box.

    Returns None without embedded weights and for trackers with a memory.
    """
    plain = (arguments["backend"], arguments["precision"]) == ("torch", "fp32")
    if plain or not isinstance(tracker, OneStreamTracker) or model_card(name).weights is None:
        return None
    exact = create_tracker(name, **{**arguments, "backend": "torch", "precision": "fp32"})
    first, *frames = synthetic_video(0, frames=FRAMES_COMPARED)
    overlaps = []
    for each in (exact, tracker):
        each.initialize(first.image, first.box)
    for frame in frames:
        wanted = exact.track(frame.image).box
        overlaps.append(iou(tracker.track(frame.image).box, wanted))
        assert tracker.target is not None
        tracker.target = replace(tracker.target, box=wanted)
    return statistics.median(overlaps)


def _measure_all(arguments: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the rows of one run after the other; print a line for each run left out."""
    from tqdm import tqdm

    bar = tqdm(arguments.models, unit="model")
    for model in bar:
        kinds = [
            (backend, precision)
            for backend, precision in CHOICES.get(model, CHOICES[arguments.device.split(":")[0]])
            if backend in (arguments.backends or [backend])
            and precision in (arguments.precisions or [precision])
        ]
        with tempfile.TemporaryDirectory() as folder:
            weights = None
            if model not in BASELINES and model_card(model).weights is None:
                weights = Path(folder) / "weights.safetensors"
                write_weights(random_weights(model), weights)
            for (backend, precision), threads in itertools.product(kinds, arguments.threads):
                options = {
                    "model": model, "device": arguments.device, "backend": backend,
                    "precision": precision, "threads": threads, "seconds": arguments.seconds,
                    "weights": None if weights is None else str(weights),
                    "cache": str(arguments.engines or f"{folder}/engines"),
                }  # fmt: skip
                # Exporting and building are done once and do not count as start.
                given = weights is None and arguments.device == "cpu"
                for prepare in (False,) if backend == "torch" or given else (True, False):
                    row = {**options, "prepare": prepare}
                    try:
                        found = measure_apart(MODULE, ["--row", json.dumps(row)])
                    except RuntimeError as error:  # only this row is lost
                        found = str(error)
                    if isinstance(found, str):
                        tqdm.write(f"left out: {found}", file=sys.stderr)
                        break
                    yield found


def _keep(path: Path, device: str, rows: list[Row]) -> None:
    """Add rows to a file; they replace earlier ones of the same kind."""
    keys = ("model", "backend", "precision", "threads", "work")
    kept: dict[tuple[Any, ...], Row] = {}
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    for row in [*before, *rows]:
        kept[tuple(row[key] for key in keys)] = row
    together = list(kept.values())
    machine = describe_machine(device).sentence()
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"machine": machine, "device": device, "rows": together}
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, print the table and write JSON; or make page and figure from JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    distinct = [name for name in list_models() if not name.endswith(SAME_SHAPES)]
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (%(default)s)")
    parser.add_argument(
        "--models", nargs="+", default=[*distinct, "csrt"], choices=[*list_models(), "csrt"]
    )
    parser.add_argument("--backends", nargs="+", help="default: all")
    parser.add_argument("--precisions", nargs="+", help="default: all")
    parser.add_argument("--threads", nargs="+", type=int, default=[torch.get_num_threads()])
    parser.add_argument("--seconds", type=float, default=3.0, help="of a row (%(default)s)")
    parser.add_argument("--json", type=Path, help="keep the rows here")
    parser.add_argument("--engines", type=Path, help="keep exported and built engines here")
    parser.add_argument("--show", nargs="+", type=Path, help="measure nothing; read these files")
    parser.add_argument("--markdown", type=Path, help="with --show: write the page here")
    parser.add_argument("--plot", type=Path, help="with --show: draw the figure here")
    parser.add_argument("--row", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        try:
            print(json.dumps(measure(arguments.row)))
        except ValueError as error:
            print(json.dumps(str(error)))
        return
    if arguments.show:
        runs = {path: json.loads(path.read_text(encoding="utf-8")) for path in arguments.show}
        for run in runs.values():
            print(run["machine"], *tables(run), sep="\n\n")
        if arguments.plot:
            plot(runs.values(), arguments.plot)
        if arguments.markdown:
            write_page(runs, arguments.markdown, arguments.plot)
        return
    rows: list[Row] = []
    for found in _measure_all(arguments):
        rows += found
        if arguments.json:
            _keep(arguments.json, arguments.device, rows)
    print(describe_machine(arguments.device).sentence(), *tables({"rows": rows}), sep="\n\n")


if __name__ == "__main__":
    main()
