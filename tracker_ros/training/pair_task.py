# SPDX-License-Identifier: Apache-2.0
"""Training of one-stream trackers on pairs: their start, step and validation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tracker_ros.boxes import cxcywh_to_xyxy, xywh_to_xyxy
from tracker_ros.models.grm.config import GRM_CONFIGS
from tracker_ros.models.grm.network import GRMNetwork
from tracker_ros.models.one_stream_network import OneStreamNetwork
from tracker_ros.models.ostrack.config import OSTRACK_CONFIGS
from tracker_ros.models.ostrack.network import OSTrackNetwork
from tracker_ros.synthetic.pairs import PairBatch
from tracker_ros.training.initialisation import (
    begin_from_scratch,
    begin_from_weights,
    begin_undivided,
    starting_weights,
)
from tracker_ros.training.keep_rate import keep_rate_at
from tracker_ros.training.losses import generalized_iou
from tracker_ros.training.objective import pair_losses
from tracker_ros.training.recipe import Recipe
from tracker_ros.training.sources import normalise, open_pairs
from tracker_ros.training.task import TrainingTask, figures

FUSED_FIRST = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)


class PairTask(TrainingTask):
    """A one-stream tracker on pairs of a template crop and a search crop.

    Args:
        recipe: What to train and how.
        network: As it is made; it is given its start here.
    """

    unit = "pairs"
    validation_batch = 64
    open_source = staticmethod(open_pairs)
    network: OneStreamNetwork

    def __init__(self, recipe: Recipe, network: OneStreamNetwork) -> None:
        super().__init__(recipe, network)
        if network.config.stem == "conv":
            begin_from_scratch(network, recipe.similar_query_key)
            begin_undivided(network)
        if recipe.start_from:
            begin_from_weights(network, starting_weights(recipe.start_from))

    @abstractmethod
    def training_arguments(self, template_boxes: Tensor, step: int) -> dict[str, Any]:
        """What the network is told in training beyond the crops and the template's boxes.

        Args:
            template_boxes: (B, 4) xywh as fractions of the template crop.
            step: Of the schedule.
        """

    def groups(self) -> list[dict]:
        """See `TrainingTask`."""
        decay = self.recipe.weight_decay
        return [
            {
                "params": list(self.network.backbone.parameters()),
                "scale": self.recipe.backbone_multiplier,
                "weight_decay": decay,
            },
            {
                "params": list(self.network.box_head.parameters()),
                "scale": 1.0,
                "weight_decay": decay,
            },
        ]

    def forward(self, batch: PairBatch, step: int) -> dict[str, Tensor]:
        """See `TrainingTask`."""
        device = next(self.network.parameters()).device
        # On a CPU the fused kernel's backward pass is slower than plain products at these sizes.
        attention = [SDPBackend.MATH] if device.type == "cpu" else list(FUSED_FIRST)
        template_boxes = batch.template_boxes.to(device)
        with self.autocast(device), sdpa_kernel(attention):
            prediction = self.network(
                normalise(batch.template.to(device)),
                normalise(batch.search.to(device)),
                template_boxes=template_boxes,
                **self.training_arguments(template_boxes, step),
            )
        losses = pair_losses(prediction, batch.boxes.to(device), batch.present.to(device))
        further = self.further_losses(prediction)
        losses["total"] = losses["total"] + sum(further.values())
        return {**losses, **further}

    def further_losses(self, prediction: dict[str, Tensor]) -> dict[str, Tensor]:
        """A family's own terms of the loss by name, of what its network returned."""
        return {}

    def validate(self, network: nn.Module, batches: Sequence[PairBatch]) -> dict[str, float]:
        """See `TrainingTask`."""
        return validate_pairs(cast(OneStreamNetwork, network), batches)


class OSTrackTask(PairTask):
    """OSTrack, whose candidate elimination sets in with time."""

    network: OSTrackNetwork

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe, OSTrackNetwork(OSTRACK_CONFIGS[recipe.model]))

    def training_arguments(self, template_boxes: Tensor, step: int) -> dict[str, Any]:
        """See `PairTask`."""
        epoch = 1 + step // self.recipe.steps_per_epoch
        return {
            "template_mask": self.network.template_mask(template_boxes),
            "keep_rate": keep_rate_at(epoch, final_rate=self.network.config.ce_keep_ratio),
        }


class GRMTask(PairTask):
    """GRM, whose division draws noise of its own while it trains."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe, GRMNetwork(GRM_CONFIGS[recipe.model]))

    def training_arguments(self, template_boxes: Tensor, step: int) -> dict[str, Any]:
        """See `PairTask`."""
        return {}

    def further_losses(self, prediction: dict[str, Tensor]) -> dict[str, Tensor]:
        """Hold the share of search tokens that meet the template, where the recipe wants it.

        Begun from weights that let all tokens meet it, divisions would open for good: that is the
        nearest way to be rid of their noise.
        """
        if not self.recipe.meeting_share:
            return {}
        shares = prediction["log_prob"][..., 1].exp().mean(dim=(0, 2))
        return {"share": (shares - self.recipe.meeting_share).square().sum()}


@torch.inference_mode()
def validate_pairs(network: OneStreamNetwork, batches: Sequence[PairBatch]) -> dict[str, float]:
    """Run a network in eval mode over batches of pairs; see `figures`."""
    network.eval()
    device = next(network.parameters()).device
    overlaps, scores = [], []
    for batch in batches:
        out = network(
            normalise(batch.template.to(device)),
            normalise(batch.search.to(device)),
            template_boxes=batch.template_boxes.to(device),
        )
        scores.append(out["score_map"].flatten(1).amax(1).cpu())
        predicted = cxcywh_to_xyxy(out["pred_boxes"][:, 0].float().cpu())
        overlaps.append(generalized_iou(predicted, xywh_to_xyxy(batch.boxes.cpu()))[1])
    present = torch.cat([batch.present.cpu() for batch in batches])
    return figures(torch.cat(overlaps), present, torch.cat(scores))
