# SPDX-License-Identifier: Apache-2.0
"""Compare runs of trackers on one page."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from tracker_ros.cli.options import Command
from tracker_ros.output_files import check_outputs, check_writable, write_whole

if TYPE_CHECKING:
    from tracker_ros.evaluation.compare_page import ComparedRun

RECORDS = "records"
"""Folder of the records beside the results of an evaluation."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    files = (
        "results.json of tracker-ros evaluate --out (with the folder records beside it), or a "
        "record that tracker-ros bag --record wrote"
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="A.json", help=files)
    out = "page to write (default: %(default)s)"
    parser.add_argument("--out", type=Path, default=Path("compare.html"), metavar="PAGE", help=out)
    strips = "film strips at most (default: %(default)s)"
    parser.add_argument("--strips", type=int, default=8, metavar="N", help=strips)


def run(args: argparse.Namespace) -> int:
    """Read the runs and write the page."""
    if args.strips < 0:
        raise ValueError(f"--strips is {args.strips}; give 0 or more")
    inputs = {f"results {path}": path for path in args.results}
    check_outputs({"--out": args.out}, inputs)
    check_writable(args.out)
    runs = [found for path in args.results for found in read_runs(path)]
    write_page(args.out, _with_own_names(runs), args.strips, ", ".join(map(str, args.results)))
    print(f"wrote {args.out}")
    return 0


def write_page(path: Path, runs: list[ComparedRun], strips: int, origin: str) -> None:
    """Write the page of some runs."""
    from tracker_ros.evaluation.compare_page import compare_page
    from tracker_ros.evaluation.machine import describe_machine

    machine = describe_machine()
    about = f"Made from {origin} on {machine.date}."
    try:
        page = compare_page(runs, about, strips)
    except ImportError as error:
        raise ImportError(
            f"the page needs Matplotlib ({error}): pip install matplotlib"
        ) from error
    write_whole(path, page)


def read_runs(path: Path) -> list[ComparedRun]:
    """Return the runs in a file: those of an evaluation, or one record.

    Raises FileNotFoundError if it or its records do not exist, ValueError if it is something else.
    """
    from tracker_ros.evaluation.compare_page import ComparedRun
    from tracker_ros.evaluation.records import SequenceRecord, read_record

    if not path.is_file():
        raise FileNotFoundError(f"no results at {str(path)!r}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        trackers = data.get("trackers")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} holds no results: {error}") from error
    if trackers is None:
        record = read_record(path)
        return [ComparedRun(record.tracker, {record.sequence: record})]
    runs = []
    for tracker in trackers:
        name = str(tracker["tracker"])
        folder = path.parent / RECORDS / name
        files = sorted(folder.glob("*.json"))
        listed = {str(entry["sequence"]) for entry in tracker["sequences"]}
        records: dict[str, SequenceRecord] = {}
        for file in files:
            record = read_record(file)
            if record.sequence in listed:
                records[record.sequence] = record
        if missing := listed - set(records):
            raise FileNotFoundError(
                f"no records of {', '.join(sorted(missing)[:3])} in {folder}; evaluate again with "
                "--out"
            )
        runs.append(ComparedRun(name, records))
    return runs


def _with_own_names(runs: list[ComparedRun]) -> list[ComparedRun]:
    """Number the runs of one tracker, so that each has a name of its own."""
    from dataclasses import replace

    names = [run.name for run in runs]
    return [
        replace(run, name=f"{run.name} ({names[: i + 1].count(run.name)})")
        if names.count(run.name) > 1
        else run
        for i, run in enumerate(runs)
    ]


COMPARE = Command(
    "compare runs of trackers on one page",
    "Compare runs of trackers on one HTML page that needs nothing else.",
    add_arguments,
    run,
)
