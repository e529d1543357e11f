# SPDX-License-Identifier: Apache-2.0
"""Measure how the time of a frame grows with targets, with the image's size, and with cameras.

    python -m tools.benchmarks.growth [--models ostrack_tiny …] [--backends onnxruntime torch]
        [--markdown docs/growth.md --plot docs/media/growth.png]

Times are CPU time on one thread, which other programs disturb less than wall time: the median of
rounds in which all cases of a model take turns. Images are mosaics, and each frame is searched
from the same box, so that all frames take the same work. Targets grow with the image. Several
cameras have one target each.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from tools.benchmarks.rows import Row, as_table
from tracker_ros import create_tracker
from tracker_ros.evaluation.machine import describe_machine
from tracker_ros.tracker import Tracker, example_image

MODELS = ("ostrack_tiny", "grm_tiny", "trdimp_tiny", "trsiam_tiny", "mast_tiny")
BACKENDS = ("onnxruntime", "torch")
TARGETS = (1, 4, 16)
SIZES = {"640x480": (480, 640), "1920x1080": (1080, 1920), "3840x2160": (2160, 3840)}
CAMERAS = (1, 2, 4)
KINDS = {"targets": TARGETS, "size": tuple(SIZES), "cameras": CAMERAS}
COLUMNS = ("model", "backend", "grows", "to", "ms", "times")
PAGE = """# Growth

How the time of a frame grows with the number of targets, the size of the image and the number of
cameras; made by `python -m tools.benchmarks.growth`. Times are CPU milliseconds on one thread, the
median of rounds in which all cases of a model take turns; "times" is the quotient to the first
line of its kind. Targets grow with the image; several cameras have one target each. OSTrack and
GRM search the whole region.

![Growth]({figure})

Measured: {machine}.

{table}
"""


def cases(tracker: Tracker) -> dict[tuple[str, object], Callable[[], object]]:
    """Return what is to be timed, by what grows and its value; each starts the same every time."""
    found: dict[tuple[str, object], Callable[[], object]] = {}
    image, box = example_image(*SIZES["640x480"])
    for count in TARGETS:
        found["targets", count] = _following(tracker, [image] * count, [box] * count)
    for name, size in SIZES.items():
        larger, place = example_image(*size)
        found["size", name] = _following(tracker, [larger], [place])
    for count in CAMERAS:
        seen = [example_image(*SIZES["640x480"], seed) for seed in range(count)]
        found["cameras", count] = _following(tracker, *map(list, zip(*seen, strict=True)))
    return found


def _following(
    tracker: Tracker, images: list[np.ndarray], boxes: list[tuple[float, float, float, float]]
) -> Callable[[], object]:
    """Return a function that tracks one target in each image; equal images are one camera's."""
    trackers = [tracker.fork() for _ in images]
    for each, image, box in zip(trackers, images, boxes, strict=True):
        each.initialize(image, box)
    one_camera = all(image is images[0] for image in images)

    def follow() -> None:
        first, *others = (copy.copy(each) for each in trackers)
        if one_camera:
            outcomes = first.track_batch(others, images[0])
        else:
            outcomes = first.track_images(others, images)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    return follow


def measure(model: str, backend: str, seconds: float) -> list[Row]:
    """Return a row for each case of a model on a back end."""
    tracker = create_tracker(model, device="cpu", backend=backend)
    tracker.warm_up()
    works = cases(tracker)
    taken: dict[tuple[str, object], list[float]] = {key: [] for key in works}
    end = time.process_time() + seconds
    while time.process_time() < end or len(next(iter(taken.values()))) < 4:
        for key, work in works.items():
            begun = time.process_time()
            work()
            taken[key].append(time.process_time() - begun)
    rows: list[Row] = []
    for (kind, value), times in taken.items():
        # The first round pays for graphs that are opened late.
        ms = 1e3 * statistics.median(times[1:])
        row: Row = {"model": model, "backend": backend, "grows": kind, "to": str(value), "ms": ms}
        first = next(other for other in [*rows, row] if other["grows"] == kind)
        rows.append({**row, "times": ms / first["ms"]})
    return rows


def plot(rows: list[Row], path: Path) -> None:
    """Draw quotients: a panel for what grows, a line for each model and back end."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(KINDS))
    names = sorted({(row["model"], row["backend"]) for row in rows})
    models = sorted({model for model, _ in names})
    for axes, (kind, values) in zip(panels, KINDS.items(), strict=True):
        for model, backend in names:
            line = [
                row["times"]
                for row in rows
                if (row["model"], row["backend"], row["grows"]) == (model, backend, kind)
            ]
            style = "-" if backend == BACKENDS[0] else "--"
            label = f"{model}, {backend}"
            color = f"C{models.index(model)}"
            axes.plot(range(len(line)), line, style, marker="o", ms=3, color=color, label=label)
        axes.set_xticks(range(len(values)), [str(value) for value in values])
        axes.set_xlabel(kind)
        axes.set_yscale("log", base=2)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("time of a frame, beside the first")
    panels[1].legend(fontsize=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure and print a table; or write page and plot as well."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS), choices=BACKENDS)
    parser.add_argument("--seconds", type=float, default=6.0, help="of a model (%(default)s)")
    parser.add_argument("--markdown", type=Path, help="write the page here; needs --plot")
    parser.add_argument("--plot", type=Path, help="draw the figure here")
    arguments = parser.parse_args()
    if arguments.markdown and not arguments.plot:
        parser.error("--markdown shows the figure of --plot")
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    rows = [
        row
        for model in arguments.models
        for backend in arguments.backends
        for row in measure(model, backend, arguments.seconds)
    ]
    table, machine = as_table(rows, COLUMNS, 2), describe_machine("cpu").sentence()
    print(machine, table, sep="\n")
    if arguments.plot:
        plot(rows, arguments.plot)
    if arguments.markdown:
        figure = os.path.relpath(arguments.plot, arguments.markdown.parent)
        page = PAGE.format(figure=figure, machine=machine, table=table)
        arguments.markdown.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
