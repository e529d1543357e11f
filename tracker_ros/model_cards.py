# SPDX-License-Identifier: Apache-2.0
"""What is known of a model before it is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from tracker_ros.crops import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class ModelCard:
    """What is known of a model before it is loaded.

    Attributes:
        name: What `create_tracker` takes.
        family: Which code runs it.
        summary: One line.
        template_size: Side of the crop of the first image, pixels.
        search_size: Side of the crops of later images, pixels.
        mean: Subtracted from RGB in [0, 1].
        std: Divided by.
        paper: Where the method is published.
        code: The authors' code.
        licence: Of the weights.
        parameters: Number of weights that are trained; None while there is no card of the file.
        weights: File name inside the package, or None if `weights=` must be given.
        sha256: Of that file.
        checkpoint: The authors' file to convert, for models without weights inside the package.
        accuracy: Measured figures by name, for the embedded weights.
    """

    name: str
    family: str
    summary: str
    template_size: int
    search_size: int
    paper: str
    code: str
    licence: str
    parameters: int | None
    weights: str | None = None
    sha256: str | None = None
    checkpoint: str | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    accuracy: dict[str, float] = field(default_factory=dict)


def embedded_file(name: str) -> Path:
    """A file of the package's `weights` folder, which may not exist."""
    return Path(str(resources.files("tracker_ros"))) / "weights" / name


def embedded_facts(name: str) -> dict[str, Any]:
    """What stands beside an embedded weights file: sha256, parameters, accuracy by model.

    Args:
        name: Of the weights file, without ending.
    """
    card = embedded_file(f"{name}.json")
    return json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {}
