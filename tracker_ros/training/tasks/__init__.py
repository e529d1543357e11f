# SPDX-License-Identifier: Apache-2.0
"""What each family of trackers brings to the one training loop: samples, losses, validation."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tracker_ros.model_cards import family_of
from tracker_ros.training.recipe import Recipe, Source
from tracker_ros.training.sources import SampleSource

ALARM_SCORE = 0.5
FOUND_IOU = 0.5


class TrainingTask(nn.Module, ABC):
    """A network that is being trained by a recipe, and how; the network is averaged and saved.

    Calling it computes the losses of a batch, so that a wrapper which averages gradients over
    processes can be put around all of it.
    """

    unit: ClassVar[str]
    """What a sample is called in logs and cards, in the plural."""
    validation_batch: ClassVar[int]
    """Samples per batch in validation."""
    figure_names: ClassVar[dict[str, str]] = {
        "mean_iou": "mean IoU",
        "found": "found (IoU > 0.5)",
        "false_alarms": "false alarms",
        "score_present": "mean score where present",
    }
    """Figures of `validate` that progress, curve and card show, and what they are called there."""
    backbone: ClassVar[str | None] = None
    """Prefix of the parameters whose learning rate the recipe's `backbone_multiplier` scales."""

    def __init__(self, recipe: Recipe, network: nn.Module) -> None:
        super().__init__()
        self.recipe = recipe
        self.network = network

    @staticmethod
    def configuration(recipe: Recipe) -> Any:
        """Return the configuration of a recipe's model."""
        return family_of(recipe.model).models[recipe.model]

    @classmethod
    @abstractmethod
    def open_source(
        cls, source: Source, recipe: Recipe, device: torch.device, validation: bool = False
    ) -> SampleSource:
        """Open a source of samples for training or for validation.

        Raises ValueError if the model cannot be trained on sources of this kind, FileNotFoundError
        if its path holds no sequences.
        """

    @abstractmethod
    def forward(self, batch: Any, step: int) -> dict[str, Tensor]:
        """Compute the losses of a batch: scalars by name, ``total`` the one to differentiate."""

    @abstractmethod
    def validate(self, network: nn.Module, batches: Sequence[Any]) -> dict[str, float]:
        """Compute figures by name of a network like this one's; see `figure_names`."""

    def is_decayed(self, name: str, parameter: nn.Parameter) -> bool:
        """Tell whether a parameter is decayed by the recipe's `weight_decay`."""
        return parameter.ndim > 1

    def groups(self) -> list[dict]:
        """Group parameters for the optimiser; ``scale`` multiplies the learning rate."""
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                in_backbone = self.backbone is not None and name.startswith(self.backbone)
                decayed = self.is_decayed(name, parameter)
                groups.setdefault((in_backbone, decayed), []).append(parameter)
        return [
            {
                "params": parameters,
                "scale": self.recipe.backbone_multiplier if in_backbone else 1.0,
                "weight_decay": self.recipe.weight_decay if decayed else 0.0,
            }
            for (in_backbone, decayed), parameters in groups.items()
        ]

    def autocast(self, device: torch.device) -> torch.autocast:
        """Make the context of half precision, which does nothing if the recipe wants fp32."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")


def open_task(recipe: Recipe) -> TrainingTask:
    """Make the task that trains a recipe's model, as its family names it."""
    module, _, name = family_of(recipe.model).training.partition(":")
    return getattr(importlib.import_module(module), name)(recipe)


def figures(iou: Tensor, present: Tensor, score: Tensor) -> dict[str, float]:
    """Compute the figures that validate trackers of one target in crops.

    Given overlap, presence and peak of the score map, (B,) each, returns ``mean_iou``; ``found``,
    the share with an IoU over 0.5; ``false_alarms``, the share of absent targets with a score over
    0.5; ``score_present``, the mean score of present ones.
    """
    absent = score[~present]
    return {
        "mean_iou": float(iou[present].mean()),
        "found": float((iou[present] > FOUND_IOU).float().mean()),
        "false_alarms": float((absent > ALARM_SCORE).float().mean()) if len(absent) else 0.0,
        "score_present": float(score[present].mean()),
    }
