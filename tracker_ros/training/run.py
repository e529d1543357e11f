# SPDX-License-Identifier: Apache-2.0
"""What ``tracker-ros train`` does: read the recipe, train or resume, write weights and card."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist

from tracker_ros.devices import resolve_device
from tracker_ros.training.card import write_card
from tracker_ros.training.recipe import load_recipe
from tracker_ros.training.trainer import Trainer


def pick_device(name: str) -> torch.device:
    """As `resolve_device`, but for "auto" each process of ``torchrun`` takes its own GPU."""
    if name == "auto" and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    return resolve_device(name)


def train_command(args: argparse.Namespace) -> int:
    """Run a recipe to its end.

    The folder (``--out``, default ``runs/<recipe's name>``) holds `checkpoint.pt`, `log.jsonl`,
    `curve.png` and, at the end, `<model>.safetensors` in fp16 with its card.
    """
    recipe_path = Path(args.recipe)
    recipe = load_recipe(recipe_path)
    folder = args.out or Path("runs") / recipe_path.stem
    trainer = Trainer(recipe, folder, pick_device(args.device))
    network = trainer.run()
    if trainer.rank == 0:
        weights = write_card(network, recipe, recipe_path, folder, trainer)
        print(
            f"{weights}: trained on {trainer.samples_seen} {trainer.task.unit} "
            f"in {trainer.seconds / 3600:.2f} h"
        )
    if trainer.world_size > 1:
        dist.destroy_process_group()
    return 0
