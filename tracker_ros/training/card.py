# SPDX-License-Identifier: Apache-2.0
"""Weights file and weight card of a finished run."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from tracker_ros.training.curve import LOG, read_log
from tracker_ros.training.recipe import Recipe
from tracker_ros.weight_files import write_weights

if TYPE_CHECKING:
    from tracker_ros.training.trainer import Trainer


def write_card(
    network: nn.Module, recipe: Recipe, recipe_path: Path, folder: Path, trainer: Trainer
) -> Path:
    """Write ``<model>.safetensors`` (fp16) and its card ``<model>.json``; returns the former."""
    weights = folder / f"{recipe.model}.safetensors"
    sha256 = write_weights(network.state_dict(), weights, half=True)
    last = read_log(folder / LOG)[-1]
    card = {
        "model": recipe.model,
        "sha256": sha256,
        "parameters": sum(p.numel() for p in network.parameters()),
        "recipe": recipe_path.name,
        "data": [
            f"{source.kind}: {Path(source.path).name or 'procedural textures'}"
            for source in recipe.sources
        ],
        "seed": recipe.seed,
        trainer.task.unit: trainer.samples_seen,
        "hours": round(trainer.seconds / 3600, 2),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "validation": {name: last[name] for name in trainer.task.figure_names},
    }
    weights.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return weights
