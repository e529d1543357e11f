# SPDX-License-Identifier: Apache-2.0
"""Print what `tracker-ros evaluate` found, and write its files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tracker_ros.cli.options import print_json, write_json
from tracker_ros.evaluation.baselines import BASELINES
from tracker_ros.evaluation.benchmarks import score_benchmarks
from tracker_ros.evaluation.machine import describe_machine
from tracker_ros.evaluation.metrics import MaskRow, score_tracker
from tracker_ros.evaluation.page import markdown_page, save_success_plot
from tracker_ros.evaluation.report import (
    Report,
    SequenceNote,
    benchmark_table,
    davis_table,
    mask_table,
    summary_table,
)
from tracker_ros.evaluation.runner import TrackerRun
from tracker_ros.evaluation.sequences import AnnotatedSequence
from tracker_ros.output_files import write_whole
from tracker_ros.registry import resolve_device


def print_report(
    args: argparse.Namespace,
    sequences: list[AnnotatedSequence],
    runs: list[TrackerRun],
    best: list[MaskRow],
    left_out: list[str],
    bad_frames: dict[str, dict[str, tuple[str, ...]]],
    ended_by: str,
) -> None:
    """Write the results of runs into the files asked for, then print them.

    `best` is how well boxes could fit the true masks.
    """
    scores = [score_tracker(run.entry.name, run.scores) for run in runs]
    benchmarks = [score_benchmarks(run.entry.name, run.records) for run in runs]
    masks = [*best, *(row for run in runs for row in run.mask_rows())]
    device = _resolved(args)
    report = Report(
        scores=tuple(scores),
        sequences=tuple(SequenceNote.of(sequence) for sequence in sequences),
        machine=describe_machine(device),
        device=device,
        notes={run.entry.name: run.full_note for run in runs if run.full_note},
        benchmarks=tuple(benchmarks),
        masks=tuple(masks),
        left_out=tuple(left_out),
        bad_frames=bad_frames,
        ended_by=ended_by,
    )
    written = _write(report, args)
    if args.json:
        print_json(report.as_data())
        return
    print(summary_table(scores))
    print(f"\nAs the benchmarks count (docs/evaluation.md):\n\n{benchmark_table(benchmarks)}")
    if masks:
        print(f"\n{mask_table(masks)}")
        print(f"\n{davis_table(masks)}")
    for path in written:
        print(f"wrote {path}")


def _write(report: Report, args: argparse.Namespace) -> list[Path]:
    """Write what was asked for; a success plot goes beside each page.

    Pages are left as they were if the evaluation was broken off.
    """
    command = f"tracker-ros evaluate SEQUENCES --models {' '.join(args.models)}"
    pages = []
    written = []
    if args.out is not None:
        write_json(args.out / "results.json", report.as_data())
        written.append(args.out / "results.json")
    if report.ended_by:
        return written
    if args.out is not None:
        pages.append((args.out / "accuracy.md", Path("success.png")))
    if args.markdown is not None:
        page = args.markdown.name if args.markdown.is_absolute() else args.markdown
        command += f" --markdown {page}"
        pages.append((args.markdown, Path("media") / "success.png"))
    for page, plot in pages:
        picture = page.parent / plot
        try:
            save_success_plot(report.scores, picture)
        except ImportError as error:
            print(f"no success plot: {error}; pip install matplotlib", file=sys.stderr)
            plot_text = None
        else:
            plot_text = plot.as_posix()
            written.append(picture)
        write_whole(page, markdown_page(report, command, plot_text))
        written.append(page)
    return written


def _resolved(args: argparse.Namespace) -> str:
    """Return the device that the package's own models ran on."""
    if all(name in BASELINES for name in args.models):
        return "cpu"
    return str(resolve_device(args.device))
