# SPDX-License-Identifier: Apache-2.0
"""Train a model by a recipe; a run that was stopped goes on where it stood."""

from __future__ import annotations

import argparse
from pathlib import Path

from tracker_ros.cli.options import add_device_option

SUMMARY = "train a model by a recipe (resumable)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("recipe", type=Path, metavar="RECIPE.yaml", help="what to train, and how")
    parser.add_argument("--out", type=Path, default=None, metavar="DIR", help="folder of the run")
    add_device_option(parser)


def run(args: argparse.Namespace) -> int:
    """Hand over to the trainer."""
    if not args.recipe.is_file():
        raise FileNotFoundError(f"no recipe at {str(args.recipe)!r}; see the folder recipes/")
    from tracker_ros.training.trainer import train_command

    return int(train_command(args) or 0)
