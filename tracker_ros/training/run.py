# SPDX-License-Identifier: Apache-2.0
"""What ``tracker-ros train`` does: read the recipe, train or resume, write weights and card."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from tracker_ros.training.card import write_card
from tracker_ros.training.recipe import load_recipe
from tracker_ros.training.trainer import Trainer


def pick_device(name: str) -> torch.device:
    """The named device; for "auto" this process's GPU where there is one, else the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


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
            f"{weights}: trained on {trainer.pairs_seen} pairs in {trainer.seconds / 3600:.2f} h"
        )
    return 0
