# SPDX-License-Identifier: Apache-2.0
"""The charts of the page that compares runs, as SVG for HTML (Matplotlib).

An SVG of Matplotlib takes 20 to 60 kB and no script. The libraries that draw in the browser bring
3 to 5 MB of script into every page that works offline, and all that these charts would gain by it
is zooming.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracker_ros.evaluation.metrics import (
    PRECISION_RADIUS,
    SUCCESS_THRESHOLDS,
    center_distances,
    success_curve,
)
from tracker_ros.evaluation.records import SequenceRecord
from tracker_ros.geometry import visible

COLOURS = ("#2f6fde", "#d9482b", "#1f9d57", "#8a4fd3", "#c98a00", "#0e9aa7", "#b0367c", "#5b6472")
"""The colours of the runs, in their order."""

Runs = Sequence[tuple[str, Sequence[SequenceRecord]]]
"""The records of each run, by its name."""

_RADII = np.arange(51)
_BINS = np.linspace(0.0, 1.0, 11)


def success_chart(runs: Runs) -> str:
    """Return the success curves, each the mean over the sequences."""

    def curve(record: SequenceRecord) -> np.ndarray:
        return success_curve(_counted_overlaps(record))

    return _curves(runs, curve, SUCCESS_THRESHOLDS, "overlap threshold", "success")


def precision_chart(runs: Runs) -> str:
    """Return the share of frames by the distance of centres, each the mean over the sequences."""

    def curve(record: SequenceRecord) -> np.ndarray:
        counted = visible(record.truth)
        counted[:1] = False
        distance = center_distances(record.boxes[counted], record.truth[counted])
        return (distance[None] <= _RADII[:, None]).mean(1)

    return _curves(
        runs, curve, _RADII, "distance of centres, pixels", "precision", PRECISION_RADIUS
    )


def calibration_chart(runs: Runs) -> str:
    """Return the mean overlap of frames by their score, and how many frames have it."""

    def draw(axes: Any, number: int, records: Sequence[SequenceRecord], name: str) -> None:
        scores = np.concatenate([record.scores[1:] for record in records])
        overlaps = np.concatenate([record.overlaps[1:] for record in records])
        with_target = np.isfinite(overlaps)
        scores, overlaps = scores[with_target], overlaps[with_target]
        place = np.clip(np.digitize(scores, _BINS) - 1, 0, len(_BINS) - 2)
        counts = np.bincount(place, minlength=len(_BINS) - 1)
        sums = np.bincount(place, overlaps, minlength=len(_BINS) - 1)
        with np.errstate(invalid="ignore"):
            means = np.where(counts > 0, sums / counts, np.nan)
        middle = (_BINS[:-1] + _BINS[1:]) / 2
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(middle, means, "-", color=colour, label=name)
        axes.scatter(middle, means, s=6 + 90 * counts / max(counts.max(), 1), color=colour)

    return _chart(runs, draw, "score", "mean overlap of the frames with it", unit_square=True)


def cost_chart(runs: Runs) -> str:
    """Return the share of frames that took at most some milliseconds."""

    def draw(axes: Any, number: int, records: Sequence[SequenceRecord], name: str) -> None:
        spent = np.sort(np.concatenate([record.seconds[1:] for record in records])) * 1e3
        spent = spent[spent > 0]
        if len(spent):
            share = np.arange(1, len(spent) + 1) / len(spent)
            label = f"{name}  p50 {np.median(spent):.1f}, p99 {np.quantile(spent, 0.99):.1f} ms"
            axes.plot(spent, share, color=COLOURS[number % len(COLOURS)], label=label)
            axes.set_xscale("log")

    return _chart(runs, draw, "milliseconds per frame", "share of frames")


def _counted_overlaps(record: SequenceRecord) -> np.ndarray:
    overlaps = record.overlaps[1:]
    return overlaps[np.isfinite(overlaps)]


def _curves(
    runs: Runs,
    curve: Callable[[SequenceRecord], np.ndarray],
    at: np.ndarray,
    below: str,
    what: str,
    mark: float | None = None,
) -> str:
    def draw(axes: Any, number: int, records: Sequence[SequenceRecord], name: str) -> None:
        mean = np.mean([curve(record) for record in records], axis=0)
        value = mean.mean() if mark is None else mean[int(mark)]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(at, mean, color=colour, label=f"{name}  {value:.3f}")
        if mark is not None:
            axes.axvline(mark, color="#999", linewidth=0.6)

    return _chart(runs, draw, below, f"share of frames ({what})")


def _chart(
    runs: Runs,
    draw: Callable[[Any, int, Sequence[SequenceRecord], str], None],
    below: str,
    beside: str,
    unit_square: bool = False,
) -> str:
    """Draw something of each run into a chart; raises ImportError without Matplotlib."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tracker_ros"}):
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        if unit_square:
            axes.plot([0, 1], [0, 1], color="#bbb", linewidth=0.8, linestyle="--")
        for number, (name, records) in enumerate(runs):
            if records:
                draw(axes, number, records, name.replace("$", r"\$"))
        axes.set(xlabel=below, ylabel=beside, ylim=(0, 1.02))
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    # Within HTML the drawing alone counts, and its names must differ from those of the others.
    svg = re.sub(r"<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    prefix = re.sub(r"\W", "", below)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    return re.sub(r'(href="|url\()#', rf"\g<1>#{prefix}-", svg)
