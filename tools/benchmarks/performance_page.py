# SPDX-License-Identifier: Apache-2.0
"""Make `docs/performance.md` and its figure from the rows that `performance` measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tools.benchmarks.rows import Row, as_table

Run = dict[str, Any]
FIRST_WORK = ("1 target", "plain", "one reference")
"""The work of an ordinary frame, shown in the figure; other work is in the tables only."""
HEADS = {
    "model": "model", "work": "work", "backend": "back end", "precision": "precision",
    "threads": "threads", "ms": "ms", "p95_ms": "p95", "gflop": "GFLOP", "rate": "rate",
    "fraction": "fraction",
    "multiple": "multiple", "times_official": "× official", "box_iou": "box IoU",
    "peak_mib": "MiB", "start_s": "start, s",
}  # fmt: skip
INTRODUCTION = """# Performance

This page is made by `python -m tools.benchmarks.performance`; do not edit it by hand. Rows are
measured one after the other, each in a process of its own. Models without embedded weights got
random ones, which change no times. (Their parity check then compares scores but not boxes.)
Images are 640 × 480, for MAST 854 × 480.
"""
LEGEND = """
- **ms**: median wall time of one image, from crop to box, with all updates that the image
  causes. **p95**: 95 % of the images took at most this time. Waiting threads spin for some
  microseconds, as those of `tracker-ros` do. In the node they sleep at once
  ([node.md](node.md)).
- **GFLOP**: arithmetic of the image as this package computes it in torch. A multiply-add counts
  as two.
- **rate**: GFLOP/s of `torch.mm` in the same run (float32; float16 for fp16 on a GPU). If the
  rate differs between rows of one machine, something else ran beside. **fraction**: arithmetic
  of the image per second, divided by this rate. Values above 1 mean that the layers are faster
  than torch's matrix product: on a CPU they use oneDNN's kernels and fewer bits.
- **multiple**: the time divided by "arithmetic of the official network / rate of `torch.mm`".
  **× official**: how many times faster than the official code. The official code was measured at
  a multiple of 1.30 (`ostrack_vitb_256_ce`), 1.27 (`_384_ce`), 1.23 (without elimination) and
  1.32 (`grm_vitb_256`); TrDiMP and MAST were measured in CPU seconds on two threads of a similar
  machine.
- **box IoU**: median overlap with the boxes of torch in fp32 on a synthetic video, where each
  frame is searched from the same box; embedded models only.
- **MiB**: the most memory that the process held (on a GPU: that torch held on the GPU).
  **start**: seconds to create the tracker and warm it up, with engines already exported and
  built.
"""


def _several_targets(rows: list[Row]) -> list[str]:
    """Return lines that compare four targets with one."""
    one = {_key(row): row for row in rows if row["work"] == "1 target"}
    lines = []
    for row in rows:
        single = one.get(_key(row))
        if row["work"] == "4 targets" and single and row["backend"] == "torch":
            lines.append(
                f"- `{row['model']}`, {row['precision']}, {_threads(row)}: "
                f"{row['ms'] / single['ms']:.2f} × ({single['ms']:.1f} → {row['ms']:.1f} ms)"
            )
    return lines


def _threads(row: Row) -> str:
    return f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("model", "backend", "precision", "threads"))


def _digits(row: Row) -> str:
    """Return the overlap with three digits."""
    return f"{row['box_iou']:.3f}" if "box_iou" in row else ""


def _columns(rows: list[Row]) -> list[str]:
    """Return the columns that have a value in some row."""
    return [column for column in HEADS if any(column in row for row in rows)]


def write_page(runs: list[Run], path: Path, figure: Path | None) -> None:
    """Write the page.

    Args:
        runs: Contents of the benchmark's JSON files.
        path: Of the page.
        figure: Of the plot, or None.
    """
    parts = [INTRODUCTION]
    if figure:
        parts.append(f"![Time per image]({os.path.relpath(figure, path.parent)})\n")
    for run in runs:
        parts.append(f"## On a {'GPU' if run['device'].startswith('cuda') else 'CPU'}\n")
        parts.append(f"Measured: {run['machine']}.\n")
        rows = sorted(run["rows"], key=lambda row: (row["model"], row["threads"]))
        columns = _columns(rows)
        shown = [{**row, "box_iou": _digits(row)} for row in rows]
        table = as_table(shown, columns, 2).splitlines()
        table[0] = f"| {' | '.join(HEADS[column] for column in columns)} |"
        parts.append("\n".join(table) + "\n")
        several = _several_targets(rows)
        if several:
            parts.append("Four targets on one image, beside one:\n")
            parts.append("\n".join(several) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "## How to read it", LEGEND]), encoding="utf-8")


def plot(runs: list[Run], path: Path) -> None:
    """Draw milliseconds per image: a panel per machine, a bar per row.

    Raises:
        ImportError: If matplotlib is missing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [
        sorted(
            (row for row in run["rows"] if row["work"] in FIRST_WORK),
            key=lambda row: (row["model"], row["threads"]),
        )
        for run in runs
    ]
    kinds = sorted({(row["backend"], row["precision"]) for rows in shown for row in rows})
    figure = Figure(figsize=(7.2, 1.2 + 0.2 * sum(map(len, shown))), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(
        len(runs), 1, squeeze=False, height_ratios=[max(len(rows), 1) for rows in shown]
    )
    for run, rows, axes in zip(runs, shown, panels[:, 0], strict=True):
        names = [f"{row['model']}, {_threads(row)}" for row in rows]
        for i, row in enumerate(rows):
            kind = (row["backend"], row["precision"])
            axes.barh(i, row["ms"], color=f"C{kinds.index(kind)}")
            axes.text(row["ms"], i, f" {row['ms']:.3g}", va="center", fontsize=7)
        ticks = [i for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
        axes.set_yticks(ticks, [names[i] for i in ticks], fontsize=8)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.margins(x=0.1)
        axes.set_title(run["machine"], fontsize=7)
        axes.set_xlabel("ms per image")
    for i, (backend, precision) in enumerate(kinds):
        panels[0, 0].barh([0], [0], color=f"C{i}", label=f"{backend} {precision}")
    panels[0, 0].legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
