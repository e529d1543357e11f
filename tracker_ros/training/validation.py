# SPDX-License-Identifier: Apache-2.0
"""How well a network does on held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tracker_ros.boxes import cxcywh_to_xyxy, xywh_to_xyxy
from tracker_ros.synthetic.pairs import PairBatch
from tracker_ros.training.losses import generalized_iou
from tracker_ros.training.pair_stream import normalise

FOUND_IOU = 0.5
ALARM_SCORE = 0.5


@dataclass(frozen=True)
class Validation:
    """Figures over the validation pairs.

    Attributes:
        mean_iou: Of the box at the score's peak with the truth, where the target is present.
        found: Fraction of present targets with an IoU over 0.5.
        false_alarms: Fraction of absent targets with a score over 0.5.
        score_present: Mean peak score where the target is present.
    """

    mean_iou: float
    found: float
    false_alarms: float
    score_present: float


@torch.inference_mode()
def validate(network: nn.Module, batches: Sequence[PairBatch]) -> Validation:
    """Run a network in eval mode over batches of pairs."""
    network.eval()
    device = next(network.parameters()).device
    overlaps, alarms, scores = [], [], []
    for batch in batches:
        out = network(
            normalise(batch.template.to(device)),
            normalise(batch.search.to(device)),
            template_boxes=batch.template_boxes.to(device),
        )
        peak = out["score_map"].flatten(1).amax(1).cpu()
        predicted = cxcywh_to_xyxy(out["pred_boxes"][:, 0].float().cpu())
        _, iou = generalized_iou(predicted, xywh_to_xyxy(batch.boxes.cpu()))
        present = batch.present.cpu()
        overlaps.append(iou[present])
        alarms.append((peak[~present] > ALARM_SCORE).float())
        scores.append(peak[present])
    iou = torch.cat(overlaps)
    absent = torch.cat(alarms)
    return Validation(
        mean_iou=float(iou.mean()),
        found=float((iou > FOUND_IOU).float().mean()),
        false_alarms=float(absent.mean()) if len(absent) else 0.0,
        score_present=float(torch.cat(scores).mean()),
    )
