# SPDX-License-Identifier: Apache-2.0
"""Self-supervised training of MAST on runs of frames: reconstruct a hidden colour, no labels.

First from one neighbouring frame, later from all earlier frames of a run under one softmax, as
the tracker's memory does. Paper: Lai, Lu, Xie, CVPR 2020 (https://arxiv.org/abs/2002.07793),
sections 3 and 4.1; the loss is `models/mast/reconstruction.py`. What differs on purpose: cells are
compared with the pixels that they were read from, and scenes are drawn.

Validation does what tracking does: it carries the masks of drawn scenes through their frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from tracker_ros.models.mast.config import MAST_MODELS, PropagationParameters
from tracker_ros.models.mast.lab import normalised_lab
from tracker_ros.models.mast.labels import cell_labels, spread_cells
from tracker_ros.models.mast.memory_schedule import reference_frames
from tracker_ros.models.mast.network import MASTNetwork
from tracker_ros.models.mast.reconstruction import (
    COLOUR_CHANNELS,
    copy_colours,
    reconstruct,
    reconstruction_loss,
)
from tracker_ros.synthetic.moving_scenes import FrameBatch
from tracker_ros.training.initialisation import starting_weights
from tracker_ros.training.recipe import Recipe
from tracker_ros.training.sources import open_frames
from tracker_ros.training.task import TrainingTask
from tracker_ros.weight_files import read_weights

SMALLEST_OBJECT = 64
"""An object with fewer visible pixels in a frame is not judged there."""


class ReconstructionTask(TrainingTask):
    """MAST on runs of consecutive frames."""

    unit = "runs"
    validation_batch = 8
    figure_names = {"region": "mean J", "reconstruction": "loss of reconstruction"}
    open_source = staticmethod(open_frames)
    network: MASTNetwork

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe, MASTNetwork(MAST_MODELS[recipe.model][0]))
        if recipe.start_from:
            self.network.load_state_dict(read_weights(starting_weights(recipe.start_from)))
        # At bfloat16 a CPU convolves channels-last images twice as fast.
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def groups(self) -> list[dict]:
        """See `TrainingTask`; norms and biases are not decayed."""
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim == 1]
        decay = self.recipe.weight_decay
        return [
            {"params": decayed, "scale": 1.0, "weight_decay": decay},
            {"params": others, "scale": 1.0, "weight_decay": 0.0},
        ]

    def forward(self, batch: FrameBatch, step: int) -> dict[str, Tensor]:
        """See `TrainingTask`; hides one colour channel, drawn by the loop's seed."""
        frames = self._lab(batch)
        channel = COLOUR_CHANNELS[int(torch.randint(2, ()))]
        if step < self.recipe.one_reference_steps:
            even = 2 * (frames.shape[1] // 2)
            before, after = (frames[:, i:even:2].flatten(0, 1) for i in (0, 1))
            loss = self._loss(self.network, [before], after, channel)
        else:
            *references, target = frames.unbind(1)
            loss = self._loss(self.network, references, target, channel)
        return {"total": loss}

    def _lab(self, batch: FrameBatch) -> Tensor:
        device = next(self.network.parameters()).device
        return normalised_lab(batch.images.to(device))

    def _loss(
        self, network: MASTNetwork, references: Sequence[Tensor], target: Tensor, channel: int
    ) -> Tensor:
        half = self.autocast(target.device)
        references = [image.to(memory_format=torch.channels_last) for image in references]
        target = target.to(memory_format=torch.channels_last)
        colours = reconstruct(network, references, target, channel, half)
        return reconstruction_loss(colours, target[:, channel : channel + 1], aligned=True)

    @torch.no_grad()
    def validate(self, network: nn.Module, batches: Sequence[FrameBatch]) -> dict[str, float]:
        """See `TrainingTask`; ``region`` is the mean J of all objects in all but first frames."""
        network = cast(MASTNetwork, network).eval()
        losses, regions = [], []
        for batch in batches:
            frames = self._lab(batch)
            for channel in COLOUR_CHANNELS:
                losses.append(self._loss(network, [frames[:, 0]], frames[:, 1], channel))
            assert batch.labels is not None
            truth = batch.labels.to(frames.device).long()
            regions.append(region_similarities(propagate(network, frames, truth[:, 0]), truth))
        return {
            "region": float(torch.cat(regions).mean()),
            "reconstruction": float(torch.stack(losses).mean()),
        }


def propagate(network: MASTNetwork, frames: Tensor, labels: Tensor) -> Tensor:
    """Carry label maps through runs of frames, with the tracker's memory and radius.

    Args:
        network: In eval mode.
        frames: (B, T, 3, H, W) normalised Lab.
        labels: (B, H, W) int64 of the first frames.

    Returns:
        (B, T, H, W) int64.
    """
    parameters = PropagationParameters(radius=network.config.radius)
    features = network(frames.flatten(0, 1)).float().unflatten(0, frames.shape[:2])
    size, classes = (int(labels.shape[1]), int(labels.shape[2])), int(labels.max()) + 1
    found = [labels]
    for frame in range(1, frames.shape[1]):
        references = reference_frames(frame, parameters)
        soft = copy_colours(
            features[:, frame],
            [features[:, earlier] for earlier in references],
            [_one_hot(cell_labels(found[earlier]), classes) for earlier in references],
            parameters.radius,
        )
        found.append(spread_cells(soft, size, size, aligned=True).argmax(1))
    return torch.stack(found, 1)


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    """(B, h, w) -> (B, classes, h, w) float32."""
    return nn.functional.one_hot(labels, classes).movedim(-1, 1).float()


def region_similarities(found: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of every object in every frame but the first.

    Args:
        found: (B, T, H, W) labels.
        truth: Likewise.

    Returns:
        (N,) float32, without objects that can hardly be seen in the first frame or this one.
    """
    values = []
    for label in range(1, int(truth.max()) + 1):
        ours, theirs = found == label, truth == label
        seen = theirs.sum((2, 3)) >= SMALLEST_OBJECT
        both, either = (ours & theirs).sum((2, 3)), (ours | theirs).sum((2, 3))
        judged = seen & seen[:, :1]
        judged[:, 0] = False
        values.append((both / either.clamp(min=1))[judged])
    return torch.cat(values)
