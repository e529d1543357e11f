# SPDX-License-Identifier: Apache-2.0
"""What a family of trackers brings to the one training loop: samples, losses, validation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tracker_ros.training.recipe import Recipe
from tracker_ros.training.sources import SampleSource

ALARM_SCORE = 0.5
FOUND_IOU = 0.5


class TrainingTask(nn.Module, ABC):
    """A network that is being trained, and how.

    Calling it computes the losses of a batch, so that a wrapper which averages gradients over
    processes can stand around all of it.

    Args:
        recipe: What to train and how.
        network: Without its training: what is averaged and saved.
    """

    unit: ClassVar[str]
    """What a sample is called in logs and cards, in the plural."""
    validation_batch: ClassVar[int]
    """Samples per batch when validating."""
    figure_names: ClassVar[dict[str, str]] = {
        "mean_iou": "mean IoU",
        "found": "found (IoU > 0.5)",
        "false_alarms": "false alarms",
        "score_present": "mean score where present",
    }
    """Figures of `validate` that progress, curve and card show, and what they are called there."""

    def __init__(self, recipe: Recipe, network: nn.Module) -> None:
        super().__init__()
        self.recipe = recipe
        self.network = network

    @staticmethod
    @abstractmethod
    def open_source(*arguments: Any) -> SampleSource:
        """See `sources.SourceOpener`."""

    @abstractmethod
    def groups(self) -> list[dict]:
        """Parameter groups for the optimiser; ``scale`` multiplies the learning rate."""

    @abstractmethod
    def forward(self, batch: Any, step: int) -> dict[str, Tensor]:
        """Losses of a batch: scalars by name, ``total`` the one to differentiate."""

    @abstractmethod
    def validate(self, network: nn.Module, batches: Sequence[Any]) -> dict[str, float]:
        """Figures by name of a network like this one's, among them those of `figure_names`."""

    def autocast(self, device: torch.device) -> torch.autocast:
        """Half precision, where the recipe wants it."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")


def figures(iou: Tensor, present: Tensor, score: Tensor) -> dict[str, float]:
    """Figures that trackers of one target in crops are validated by.

    Args:
        iou: (B,) overlap of the box found with the truth.
        present: (B,) bool, whether the target is there.
        score: (B,) peak of the score map.

    Returns:
        ``mean_iou``; ``found``, the share with an IoU over 0.5; ``false_alarms``, the share of
        absent targets with a score over 0.5; ``score_present``, the mean score of present ones.
    """
    absent = score[~present]
    return {
        "mean_iou": float(iou[present].mean()),
        "found": float((iou[present] > FOUND_IOU).float().mean()),
        "false_alarms": float((absent > ALARM_SCORE).float().mean()) if len(absent) else 0.0,
        "score_present": float(score[present].mean()),
    }
