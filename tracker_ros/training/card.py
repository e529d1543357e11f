# SPDX-License-Identifier: Apache-2.0
"""Weights file and weight card of a finished run."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from tracker_ros.training.curve import read_log
from tracker_ros.training.recipe import Recipe

if TYPE_CHECKING:
    from tracker_ros.training.trainer import Trainer


def half_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """State dict with float tensors in fp16, contiguous, on the CPU."""
    return {
        name: (value.half() if value.is_floating_point() else value).cpu().contiguous()
        for name, value in network.state_dict().items()
    }


def write_card(
    network: nn.Module, recipe: Recipe, recipe_path: Path, folder: Path, trainer: Trainer
) -> Path:
    """Write ``<model>.safetensors`` (fp16) and its card ``<model>.json``; returns the former."""
    from safetensors.torch import save_file

    weights = folder / f"{recipe.model}.safetensors"
    save_file(half_state(network), weights)
    last = read_log(folder / "log.jsonl")[-1]
    card = {
        "model": recipe.model,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "parameters": sum(p.numel() for p in network.parameters()),
        "recipe": recipe_path.name,
        "data": [
            f"{source.kind}: {Path(source.path).name or 'procedural textures'}"
            for source in recipe.sources
        ],
        "seed": recipe.seed,
        "pairs": trainer.pairs_seen,
        "hours": round(trainer.seconds / 3600, 2),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "validation": {
            name: last[name] for name in ("mean_iou", "found", "false_alarms", "score_present")
        },
    }
    weights.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return weights
