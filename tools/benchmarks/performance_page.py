# SPDX-License-Identifier: Apache-2.0
"""Make `docs/performance.md` and its figure from the rows that `performance` measured."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tools.benchmarks.rows import Row, as_table

Run = dict[str, Any]
FIRST_WORK = ("1 target", "plain", "one reference")
"""The work of an ordinary frame."""
FOUR = "4 targets"
COLUMNS = ("model", "back end", "precision", "image", "4 targets, ms", "MiB", "start, s",
           "box IoU", "GFLOP")  # fmt: skip
"""Of the tables; those by the number of threads come before the fifth."""
INTRODUCTION = """# Performance

Which model, back end and precision to take, and what it costs. Leave `backend` and `precision` at
`auto` unless a row here tells you otherwise: it takes ONNX Runtime for embedded models on a CPU,
and torch for the others. Which model is the better tracker is told in [accuracy.md](accuracy.md);
`csrt` is OpenCV's, for comparison.

This page is made by `python -m tools.benchmarks.performance`; do not edit it by hand. Rows are
measured one after the other, each in a process of its own, and kept in
{sources}. Models without embedded weights got random ones, which change no
times. Images are 640 × 480, for MAST 854 × 480. `ostrack_tiny` and `grm_tiny` search the whole
region here; a narrow search costs about half. `trdimp_resnet50` was measured part by part:
[engines.md](engines.md).
"""
LEGEND = """
- **ms**: median time of an ordinary image, from crop to box; the fastest of a model is bold. On
  one thread of a CPU it is CPU time, which other programs disturb less; otherwise wall time.
  Waiting threads spin for some microseconds, as those of `tracker-ros` do. In the node they sleep
  at once ([node.md](node.md)).
- **4 targets**: ms of one image with four targets, with the fewest threads of the row.
- **MiB**: the most memory that the process held, Python and the benchmark's own copy of torch
  included (without torch a node needs less: [engines.md](engines.md)); on a GPU, what torch held
  there. **start**: seconds to create the tracker and warm it up, with engines already exported
  and built.
- **box IoU**: median overlap with the boxes of torch in fp32 on a synthetic video, where each
  frame is searched from the same box; embedded models only.
- **GFLOP**: arithmetic of an ordinary image as this package computes it in torch. A multiply-add
  counts as two.
"""


def _grouped(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Return rows by the values of some columns, in the order of these values."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: tuple(row[key] for key in keys)):
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def _by_threads(rows: Iterable[Row]) -> dict[str, float]:
    """Return the milliseconds of rows of one kind by a heading that names the threads."""
    ordered = sorted(rows, key=lambda row: row["threads"])
    return {
        f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}, ms": row["ms"]
        for row in ordered
    }


def summary(rows: list[Row]) -> list[Row]:
    """Return a row for each model, back end and precision: what an ordinary image costs."""
    lines: list[Row] = []
    for kind, group in _grouped(rows, "model", "backend", "precision").items():
        first = [row for row in group if row["work"] in FIRST_WORK]
        least = min(first, key=lambda row: row["threads"])
        line: Row = {**dict(zip(COLUMNS, kind, strict=False)), **_by_threads(first)}
        for row in group:
            if row["work"] == FOUR and row["threads"] == least["threads"]:
                line["4 targets, ms"] = row["ms"]
        line |= {"MiB": least["peak_mib"], "start, s": least["start_s"]}
        if "box_iou" in least:
            line["box IoU"] = f"{least['box_iou']:.3f}"
        if "gflop" in least:
            line["GFLOP"] = least["gflop"]
        lines.append(line)
    return lines


def _with_fastest_bold(lines: list[Row]) -> list[Row]:
    """Return the lines with milliseconds as text, those of the fastest of each model bold."""
    written = [dict(line) for line in lines]
    for group in _grouped(written, "model").values():
        for column in {column for line in group for column in line if column.endswith(", ms")}:
            timed = [line for line in group if column in line]
            least = min(line[column] for line in timed)
            for line in timed:
                number = f"{line[column]:.{2 if line[column] < 10 else 1}f}"
                bold = len(group) > 1 and line[column] == least
                line[column] = f"**{number}**" if bold else number
    return written


def other_work(rows: list[Row]) -> list[Row]:
    """Return a row for each kind of work that only some images take."""
    others = [row for row in rows if row["work"] not in (*FIRST_WORK, FOUR)]
    return [
        {"model": model, "back end": backend, "image": work, **_by_threads(group)}
        for (model, backend, work), group in _grouped(others, "model", "backend", "work").items()
    ]


def tables(run: Run) -> list[str]:
    """Return the tables of a run, each as Markdown."""
    found = []
    for lines in (_with_fastest_bold(summary(run["rows"])), other_work(run["rows"])):
        present = sorted({column for line in lines for column in line})
        threads = [column for column in present if column not in COLUMNS]
        columns = [column for column in COLUMNS[:4] if column in present] + threads
        columns += [column for column in COLUMNS[4:] if column in present]
        if lines:
            found.append(as_table(lines, columns, 2))
    return found


def write_page(runs: dict[Path, Run], path: Path, figure: Path | None) -> None:
    """Write the page.

    Args:
        runs: Contents of the benchmark's JSON files.
        path: Of the page.
        figure: Of the plot, or None.
    """
    sources = ", ".join(f"`{source}`" for source in runs)
    parts = [INTRODUCTION.format(sources=sources)]
    if figure:
        parts.append(f"![Time per image]({os.path.relpath(figure, path.parent)})\n")
    for run in runs.values():
        parts.append(f"## On a {'GPU' if run['device'].startswith('cuda') else 'CPU'}\n")
        parts.append(f"Measured: {run['machine']}.\n")
        ordinary, *others = tables(run)
        parts.append(f"{ordinary}\n")
        for table in others:
            parts.append("Images that take more work:\n")
            parts.append(f"{table}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "## How to read it", LEGEND]), encoding="utf-8")


def plot(runs: Iterable[Run], path: Path) -> None:
    """Draw milliseconds of an ordinary image: a panel per machine, a bar per row.

    Raises:
        ImportError: If matplotlib is missing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [
        (run["machine"], [row for row in run["rows"] if row["work"] in FIRST_WORK]) for run in runs
    ]
    kinds = sorted({(row["backend"], row["precision"]) for _, rows in shown for row in rows})
    heights = [len(rows) + len({row["model"] for row in rows}) for _, rows in shown]
    figure = Figure(figsize=(7.2, 1.2 + 0.2 * sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(shown), 1, squeeze=False, height_ratios=heights)
    for (machine, rows), axes in zip(shown, panels[:, 0], strict=True):
        place, ticks = 0, {}
        for (model, threads), group in _grouped(rows, "model", "threads").items():
            ticks[place] = f"{model}, {threads} thread{'s' if threads > 1 else ''}"
            for row in group:
                kind = kinds.index((row["backend"], row["precision"]))
                axes.barh(place, row["ms"], color=f"C{kind}")
                axes.text(
                    row["ms"],
                    place,
                    f" {row['ms']:.{0 if row['ms'] > 100 else 1}f}",
                    va="center",
                    fontsize=7,
                )
                place += 1
        axes.set_yticks(list(ticks), list(ticks.values()), fontsize=8)
        axes.invert_yaxis()
        axes.set_xscale("log")
        times = [row["ms"] for row in rows]
        axes.set_xlim(min(times) / 2, max(times) * 2)
        axes.set_title(machine.replace("; ", "\n"), fontsize=7)
        axes.set_xlabel("ms per image")
    for i, (backend, precision) in enumerate(kinds):
        panels[0, 0].barh([0], [0], color=f"C{i}", label=f"{backend} {precision}")
    panels[0, 0].legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
