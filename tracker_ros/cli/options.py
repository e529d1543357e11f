# SPDX-License-Identifier: Apache-2.0
"""What the commands share: their description, common options, progress bars and JSON."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_ros.output_files import write_whole

if TYPE_CHECKING:
    from tracker_ros.following.redetection import RedetectionSettings


@dataclass(frozen=True)
class Command:
    """One command of `tracker-ros`."""

    summary: str  # its line in the list of commands
    description: str  # the sentence at the top of its help
    add_arguments: Callable[[argparse.ArgumentParser], None]  # adds its arguments to a parser
    # runs it and returns the exit code; heavy modules are imported here
    run: Callable[[argparse.Namespace], int]


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a model runs."""
    add_device_option(parser)
    for name, known in (
        ("backend", "auto, torch, onnxruntime or tensorrt"),
        ("precision", "auto, fp32, fp16, bf16 or int8, if back end and device have it"),
    ):
        parser.add_argument(f"--{name}", default="auto", help=f"{known} (default: %(default)s)")
    parser.add_argument(
        "--engine-cache",
        type=Path,
        metavar="DIR",
        help="folder that export --out wrote (default: the user's cache of engines)",
    )
    add_family_option(parser)


def add_family_option(parser: argparse.ArgumentParser) -> None:
    """Add `--option`: options of the model's family."""
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of the model, as threshold=0.4 for GRM; may be repeated; "
        "`tracker-ros models MODEL --options` lists them",
    )


def model_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `create_tracker` that these options stand for."""
    from tracker_ros.model_options import parse_options

    return {
        "device": args.device,
        "backend": args.backend,
        "precision": args.precision,
        "engine_cache_dir": args.engine_cache,
        # A run on the command line is too short for an export to pay, unless it was asked for.
        "build_engine": args.backend != "auto",
        **parse_options(args.option),
    }


def add_redetection_options(parser: argparse.ArgumentParser, default: bool) -> None:
    """Add `--redetect` and `--redetect-interval`: how lost targets are looked for."""
    parser.add_argument(
        "--redetect",
        action=argparse.BooleanOptionalAction,
        default=default,
        help="look for lost targets in the whole image, a window per frame; otherwise only where "
        f"they were lost (default: {'yes' if default else 'no'})",
    )
    parser.add_argument(
        "--redetect-interval",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds between two looks elsewhere; 0 looks in every frame (default: %(default)s)",
    )


def redetection_settings(args: argparse.Namespace) -> RedetectionSettings | None:
    """Return how lost targets are looked for; None if only where they were lost."""
    from tracker_ros.following.redetection import RedetectionSettings

    interval = args.redetect_interval
    if not 0.0 <= interval < math.inf:
        raise ValueError(f"--redetect-interval is {interval}; give seconds, 0 or more")
    return RedetectionSettings(interval_s=interval) if args.redetect else None


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add `--device`: where a model runs or is trained."""
    parser.add_argument(
        "--device", default="auto", help="auto, cpu or cuda:N (default: %(default)s)"
    )


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add `--json`: results on standard output as JSON, everything else on standard error."""
    parser.add_argument(
        "--json", action="store_true", help="print the results as JSON on standard output"
    )


def progress_bar(items: Iterable[Any] | None = None, **options: Any) -> Any:
    """Return a tqdm bar on standard error, redrawn less often where that is not a terminal."""
    from tqdm import tqdm

    interval = 0.2 if sys.stderr.isatty() else 5.0
    return tqdm(items, file=sys.stderr, mininterval=interval, dynamic_ncols=True, **options)


BAD_FRAMES = 3
"""Exit status of a run to the end in which some frames could not be read."""


def print_beside_bar(text: str) -> None:
    """Print a line on standard error without tearing a progress bar there."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


def print_json(data: Any) -> None:
    """Print data as JSON on standard output."""
    json.dump(data, sys.stdout, indent=2)
    sys.stdout.write("\n")


def write_json(path: Path, data: Any) -> None:
    """Write data as JSON; see `tracker_ros.output_files.write_whole`."""
    write_whole(path, json.dumps(data, indent=2) + "\n")
