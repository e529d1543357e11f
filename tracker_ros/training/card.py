# SPDX-License-Identifier: Apache-2.0
"""Weights file and weight card of a finished run.

Plot of a training log.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from tracker_ros.checkpoints import write_weights
from tracker_ros.training.recipe import Recipe

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


LOG = "log.jsonl"
"""Name of the log in a run's folder: one JSON object per validation."""
SHOWN_TERMS = ("focal", "classifier", "iou_branch")


def read_log(path: Path) -> list[dict]:
    """Lines of a ``log.jsonl``; where a resumed run repeated steps, the newest stand."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    by_step = {line["step"]: line for line in lines}
    return [by_step[step] for step in sorted(by_step)]


def plot_curve(log: Path, out: Path, unit: str, figure_names: Mapping[str, str]) -> None:
    """Draw figures of validation and the training loss over the samples.

    Args:
        log: The run's ``log.jsonl``.
        out: Picture to write.
        unit: What samples are called, in the plural.
        figure_names: Figures to draw, and what they are called.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = read_log(log)
    samples = [line[unit] / 1000 for line in lines]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    for name, label in figure_names.items():
        left.plot(samples, [line[name] for line in lines], label=label)
    left.set(xlabel=f"thousand {unit}", ylim=(0, 1), title=f"held-out {unit}")
    left.grid(alpha=0.3)
    left.legend()
    for name in ("total", *(term for term in SHOWN_TERMS if term in lines[0])):
        right.plot(samples, [line[name] for line in lines], label=name)
    right.set(xlabel=f"thousand {unit}", yscale="log", title="training loss")
    right.grid(alpha=0.3)
    right.legend()
    figure.savefig(out, dpi=110)
    pyplot.close(figure)
