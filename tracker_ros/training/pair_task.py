# SPDX-License-Identifier: Apache-2.0
"""Training of one-stream trackers on pairs: their start, step and validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tracker_ros.boxes import cxcywh_to_xyxy, xywh_to_xyxy
from tracker_ros.models.ostrack.config import OSTRACK_CONFIGS
from tracker_ros.models.ostrack.network import OSTrackNetwork
from tracker_ros.synthetic.pairs import PairBatch
from tracker_ros.training.initialisation import begin_from_scratch, begin_from_weights
from tracker_ros.training.keep_rate import keep_rate_at
from tracker_ros.training.losses import generalized_iou
from tracker_ros.training.objective import pair_losses
from tracker_ros.training.recipe import Recipe
from tracker_ros.training.sources import normalise, open_pairs
from tracker_ros.training.task import TrainingTask, figures

FUSED_FIRST = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)


class PairTask(TrainingTask):
    """OSTrack on pairs of a template crop and a search crop."""

    unit = "pairs"
    validation_batch = 64
    open_source = staticmethod(open_pairs)
    network: OSTrackNetwork

    def __init__(self, recipe: Recipe) -> None:
        self.config = OSTRACK_CONFIGS[recipe.model]
        super().__init__(recipe, OSTrackNetwork(self.config))
        if self.config.stem == "conv":
            begin_from_scratch(self.network, recipe.similar_query_key)
        if recipe.start_from:
            begin_from_weights(self.network, Path(recipe.start_from).expanduser())

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
        epoch = 1 + step // self.recipe.steps_per_epoch
        with self.autocast(device), sdpa_kernel(attention):
            prediction = self.network(
                normalise(batch.template.to(device)),
                normalise(batch.search.to(device)),
                self.network.template_mask(template_boxes),
                keep_rate_at(epoch, final_rate=self.config.ce_keep_ratio),
                template_boxes,
            )
        return pair_losses(prediction, batch.boxes.to(device), batch.present.to(device))

    def validate(self, network: nn.Module, batches: Sequence[PairBatch]) -> dict[str, float]:
        """See `TrainingTask`."""
        return validate_pairs(cast(OSTrackNetwork, network), batches)


@torch.inference_mode()
def validate_pairs(network: OSTrackNetwork, batches: Sequence[PairBatch]) -> dict[str, float]:
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
