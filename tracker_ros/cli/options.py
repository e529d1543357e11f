# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share, and how they report."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options that say how a model runs."""
    add_device_option(parser)
    for name, known in (
        ("backend", "auto, torch, onnxruntime or tensorrt"),
        ("precision", "auto, fp32, fp16, bf16 or int8, as far as back end and device have it"),
    ):
        parser.add_argument(f"--{name}", default="auto", help=f"{known} (default: %(default)s)")
    parser.add_argument(
        "--engine-cache",
        type=Path,
        default=None,
        metavar="DIR",
        help="what export --out wrote (default: the user's cache of engines)",
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the model's family, as threshold=0.4 for GRM; may be given more than once",
    )


def model_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """What `create_tracker` is to be given of them, beside name and weights."""
    from tracker_ros.model_options import parse_options

    return {
        "device": args.device,
        "backend": args.backend,
        "precision": args.precision,
        "engine_cache_dir": args.engine_cache,
        # Too short a run for an export to pay, unless one was asked for.
        "build_engine": args.backend != "auto",
        **parse_options(args.option),
    }


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """`--device`: where a model runs or is trained."""
    parser.add_argument(
        "--device", default="auto", help="auto, cpu or cuda:N (default: %(default)s)"
    )


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """`--json`: results on standard output as JSON, everything else on standard error."""
    parser.add_argument(
        "--json", action="store_true", help="print the results as JSON on standard output"
    )


def progress_bar(items: Iterable[Any] | None = None, **options: Any) -> Any:
    """A tqdm bar on standard error, redrawn a few times a second; silent in a pipe's log."""
    from tqdm import tqdm

    return tqdm(
        items,
        file=sys.stderr,
        mininterval=0.2 if sys.stderr.isatty() else 5.0,
        dynamic_ncols=True,
        **options,
    )


def print_json(data: Any) -> None:
    """Print data as JSON on standard output."""
    json.dump(data, sys.stdout, indent=2)
    sys.stdout.write("\n")


def write_json(path: Path, data: Any) -> None:
    """Write data as JSON, making the folder when missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2) + "\n")
