# SPDX-License-Identifier: Apache-2.0
"""Train one-stream trackers, OSTrack and GRM, on pairs of crops.

The terms of the loss are OSTrack's (`losses.py`). What differs on purpose: boxes are read at the
target's own cell and at one random neighbour instead of the predicted peak, so that size and
offset learn from the first step and stay right if the peak is off by one cell; samples without a
target train the score map alone, which is what makes a low score mean "lost".

The schedule of candidate elimination: Ye et al., ECCV 2022, section 3.4
(https://arxiv.org/abs/2203.11991). Official code: https://github.com/botaoye/OSTrack (MIT),
`lib/utils/ce_utils.py`; written anew.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tracker_ros.crops import normalize_tensor
from tracker_ros.geometry import cxcywh_to_xyxy, xywh_to_cxcywh, xywh_to_xyxy
from tracker_ros.models.layers.center_head import boxes_at_cells
from tracker_ros.models.one_stream.grm import GRMNetwork
from tracker_ros.models.one_stream.network import OneStreamNetwork
from tracker_ros.models.one_stream.ostrack import OSTrackNetwork
from tracker_ros.synthetic.samples import PairBatch, PairGenerator
from tracker_ros.training.datasets import SequencePairs, open_dataset
from tracker_ros.training.initialisation import (
    begin_from_scratch,
    begin_from_weights,
    begin_undivided,
    starting_weights,
)
from tracker_ros.training.losses import (
    FOCAL_WEIGHT,
    GIOU_WEIGHT,
    L1_WEIGHT,
    center_heatmap,
    focal_loss,
    generalized_iou,
    giou_loss,
)
from tracker_ros.training.recipe import Recipe, Source
from tracker_ros.training.sources import SampleSource, open_bank
from tracker_ros.training.tasks import TrainingTask, figures

FUSED_FIRST = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
NEIGHBOUR_WEIGHT = 0.5


class PairTask(TrainingTask):
    """A one-stream tracker on pairs of crops; sets the starting values of a new network."""

    unit = "pairs"
    validation_batch = 64
    backbone = "backbone."
    network: OneStreamNetwork

    def __init__(self, recipe: Recipe, network: OneStreamNetwork) -> None:
        super().__init__(recipe, network)
        if network.config.stem == "conv":
            begin_from_scratch(network, recipe.similar_query_key)
            begin_undivided(network)
        if recipe.start_from:
            begin_from_weights(network, starting_weights(recipe.start_from))

    @classmethod
    def open_source(
        cls, source: Source, recipe: Recipe, device: torch.device, validation: bool = False
    ) -> SampleSource:
        """See `TrainingTask`."""
        config = cls.configuration(recipe)
        sizes = (config.template_size, config.search_size)
        factors = (config.template_factor, config.search_factor)
        if source.kind == "synthetic":
            bank = open_bank(source, recipe, validation)
            return PairGenerator(bank, *sizes, *factors, device=device, config=recipe.pairs)
        sequences = open_dataset(source.kind, source.path, "val" if validation else source.split)
        return SequencePairs(sequences, *sizes, *factors, recipe.pairs)

    @abstractmethod
    def training_arguments(self, template_boxes: Tensor, step: int) -> dict[str, Any]:
        """Return what the network takes in training beside crops and boxes in the template.

        The template boxes are (B, 4) xywh as fractions of the template crop.
        """

    def is_decayed(self, name: str, parameter: nn.Parameter) -> bool:
        """See `TrainingTask`; all parameters are decayed, as officially."""
        return True

    def forward(self, batch: PairBatch, step: int) -> dict[str, Tensor]:
        """See `TrainingTask`."""
        device = next(self.network.parameters()).device
        # On a CPU the fused kernel's backward pass is slower than plain products at these sizes.
        attention = [SDPBackend.MATH] if device.type == "cpu" else list(FUSED_FIRST)
        template_boxes = batch.template_boxes.to(device)
        with self.autocast(device), sdpa_kernel(attention):
            prediction = self.network(
                normalize_tensor(batch.template.to(device)),
                normalize_tensor(batch.search.to(device)),
                template_boxes=template_boxes,
                **self.training_arguments(template_boxes, step),
            )
        losses = pair_losses(prediction, batch.boxes.to(device), batch.present.to(device))
        further = self.further_losses(prediction)
        losses["total"] = losses["total"] + sum(further.values())
        return {**losses, **further}

    def further_losses(self, prediction: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute a family's own terms of the loss, by name."""
        return {}

    @torch.inference_mode()
    def validate(self, network: nn.Module, batches: Sequence[PairBatch]) -> dict[str, float]:
        """See `TrainingTask`."""
        network.eval()
        device = next(network.parameters()).device
        overlaps, scores = [], []
        for batch in batches:
            out = network(
                normalize_tensor(batch.template.to(device)),
                normalize_tensor(batch.search.to(device)),
                template_boxes=batch.template_boxes.to(device),
            )
            scores.append(out["score_map"].flatten(1).amax(1).cpu())
            predicted = cxcywh_to_xyxy(out["pred_boxes"][:, 0].float().cpu())
            overlaps.append(generalized_iou(predicted, xywh_to_xyxy(batch.boxes.cpu()))[1])
        present = torch.cat([batch.present.cpu() for batch in batches])
        return figures(torch.cat(overlaps), present, torch.cat(scores))


class OSTrackTask(PairTask):
    """OSTrack, whose candidate elimination begins after some epochs."""

    network: OSTrackNetwork

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe, OSTrackNetwork(self.configuration(recipe), recipe.drop_path))

    def training_arguments(self, template_boxes: Tensor, step: int) -> dict[str, Any]:
        """See `PairTask`."""
        recipe = self.recipe
        final = recipe.ce_keep_ratio or self.network.config.ce_keep_ratio
        epoch = 1 + step // recipe.steps_per_epoch
        rate = keep_rate_at(epoch, final, recipe.ce_start_epoch, recipe.ce_warm_epochs)
        return {"template_mask": self.network.template_mask(template_boxes), "keep_rate": rate}


class GRMTask(PairTask):
    """GRM, whose token division draws noise of its own in training."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe, GRMNetwork(self.configuration(recipe), recipe.drop_path))

    def training_arguments(self, template_boxes: Tensor, step: int) -> dict[str, Any]:
        """See `PairTask`."""
        return {}

    def further_losses(self, prediction: dict[str, Tensor]) -> dict[str, Tensor]:
        """Hold the share of search tokens compared with the template, if the recipe wants it.

        Starting from weights that compare all tokens, the network would learn to keep it so: that
        is the easiest way to get rid of the division's noise.
        """
        if not self.recipe.meeting_share:
            return {}
        shares = prediction["log_prob"][..., 1].exp().mean(dim=(0, 2))
        return {"share": (shares - self.recipe.meeting_share).square().sum()}


def boxes_at(prediction: dict[str, Tensor], cell: Tensor) -> Tensor:
    """Read boxes (B, 4) cxcywh, fractions of the search crop, at cells (B, 2), column and row.

    The prediction has `size_map` and `offset_map`, both (B, 2, n, n).
    """
    size, offset = (prediction[name].float() for name in ("size_map", "offset_map"))
    return boxes_at_cells(size, offset, cell[:, 1] * size.shape[-1] + cell[:, 0])


def pair_losses(
    prediction: dict[str, Tensor], boxes: Tensor, present: Tensor
) -> dict[str, Tensor]:
    """Compute the loss terms of a batch from `score_map`, `size_map` and `offset_map`.

    Boxes are (B, 4) xywh as fractions of the search crop, presence is (B,) bool. Returns scalars
    `total`, `giou`, `l1`, `focal` and, without gradient, `iou`.
    """
    score = prediction["score_map"].float()
    n = score.shape[-1]
    heatmap = center_heatmap(boxes, n) * present[:, None, None]
    focal = focal_loss(score, heatmap[:, None])
    rows = torch.where(present)[0]
    maps = {name: prediction[name][rows] for name in ("size_map", "offset_map")}
    target = xywh_to_xyxy(boxes[rows]).clamp(0, 1)
    centre = xywh_to_cxcywh(boxes[rows])[:, :2] * n
    cell = centre.round().long().clamp(0, n - 1)
    step = torch.randint(-1, 2, cell.shape, device=cell.device)
    near = (cell + step).clamp(0, n - 1)
    giou = l1 = score.new_zeros(())
    iou = score.new_zeros(len(rows))
    for place, weight in ((cell, 1.0), (near, NEIGHBOUR_WEIGHT)):
        if not len(rows):
            break
        predicted = cxcywh_to_xyxy(boxes_at(maps, place))
        term, overlap = giou_loss(predicted, target)
        giou = giou + weight * term
        l1 = l1 + weight * F.l1_loss(predicted, target)
        iou = torch.maximum(iou, overlap.detach())
    total = GIOU_WEIGHT * giou + L1_WEIGHT * l1 + FOCAL_WEIGHT * focal
    mean_iou = iou.mean() if len(rows) else iou.sum()
    return {"total": total, "giou": giou, "l1": l1, "focal": focal, "iou": mean_iou}


def keep_rate_at(
    epoch: int, final_rate: float = 0.7, start_epoch: int = 20, warm_epochs: int = 80
) -> float:
    """Return the keep rate of every elimination layer in an epoch, which falls by half a cosine.

    Epochs count from 1, as the official trainer counts. Before `start_epoch` all is kept;
    `warm_epochs` later the rate is `final_rate`.
    """
    if epoch < start_epoch:
        return 1.0
    progress = min((epoch - start_epoch) / max(warm_epochs, 1), 1.0)
    return final_rate + (1.0 - final_rate) * 0.5 * (1.0 + math.cos(math.pi * progress))
