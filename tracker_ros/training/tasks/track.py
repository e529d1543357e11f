# SPDX-License-Identifier: Apache-2.0
"""Train the two-stream tracker on clips: a first crop, and a few later ones to find its target in.

The body sees every crop once. Each later crop is searched with two templates: that of the first
crop and, in half of the samples, that of another later crop at a box as inexact as a tracker's; a
few of those boxes miss the target, so that the network learns whom to believe. The body may be
frozen at first; it is then run without gradients, and its features may be used more than once.

Boxes and scores have the losses of the one-stream trackers (`tasks/pair.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tracker_ros.crops import normalize_tensor
from tracker_ros.geometry import cxcywh_to_xyxy, xywh_to_xyxy
from tracker_ros.models.layers.center_head import HeadMaps
from tracker_ros.models.one_stream.network import as_prediction
from tracker_ros.models.two_stream.network import TwoStreamNetwork
from tracker_ros.synthetic.samples import ClipBatch, ClipConfig, TrackGenerator
from tracker_ros.training.frozen_body import frozen
from tracker_ros.training.initialisation import (
    begin_as_comparison,
    begin_on_body,
    starting_weights,
)
from tracker_ros.training.losses import generalized_iou
from tracker_ros.training.recipe import Recipe, Source
from tracker_ros.training.sources import SampleSource, open_bank
from tracker_ros.training.tasks import TrainingTask, figures
from tracker_ros.training.tasks.pair import pair_losses

REFRESHED = 0.5
"""Share of the samples whose second template is of another crop than the first."""
CENTRE_ERROR, SIZE_ERROR = 0.04, 0.08
"""Deviation of the second template's box: of its centre in sides, of the logarithm of its size."""
MISSED, MISS_DISTANCE = 0.06, 0.8
"""Share of second templates that miss the target, and the deviation of how far, in sides."""


KEPT_BATCHES = 300
"""How many batches of features are kept for replays."""


class FeatureBody(nn.Module):
    """The part of the network that is frozen."""

    def __init__(self, network: TwoStreamNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """See `TwoStreamNetwork.body_features`."""
        return self.network.body_features(image)


class TrackTask(TrainingTask):
    """The two-stream tracker on clips."""

    unit = "tracks"
    validation_batch = 16
    backbone = "body."
    network: TwoStreamNetwork

    def __init__(self, recipe: Recipe) -> None:
        network = TwoStreamNetwork(self.configuration(recipe))
        begin_as_comparison(network)
        if recipe.start_from:
            begin_on_body(network, starting_weights(recipe.start_from))
        super().__init__(recipe, network)
        self._frozen: Callable[[Tensor], Tensor] | None = None
        self._kept: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=KEPT_BATCHES)

    @classmethod
    def open_source(
        cls, source: Source, recipe: Recipe, device: torch.device, validation: bool = False
    ) -> SampleSource:
        """See `TrainingTask`."""
        config = cls.configuration(recipe)
        if source.kind != "synthetic":
            raise ValueError(f"{recipe.model} is trained on synthetic clips, not {source.kind}")
        bank = open_bank(source, recipe, validation)
        return TrackGenerator(
            bank, config.search_size, config.search_factor, device, recipe.pairs,
            ClipConfig(test_crops=recipe.later_crops),
        )  # fmt: skip

    def forward(self, batch: ClipBatch | None, step: int) -> dict[str, Tensor]:
        """See `TrainingTask`; without a batch, earlier features are used again."""
        if batch is None:
            kept, boxes, present = self._kept[int(torch.randint(len(self._kept), ()))]
            raw = kept.float()
        else:
            images, boxes, present = self._on_device(batch)
            raw = self.raw_features(self.network, images, step)
            self._keep(raw, boxes, present, step)
        maps, truth, shown = self.locate(self.network, raw, boxes, present)
        return pair_losses(as_prediction(maps), truth, shown)

    def _keep(self, raw: Tensor, boxes: Tensor, present: Tensor, step: int) -> None:
        """Keep the latest features in half precision, to be used again while they are valid."""
        if step >= self.recipe.frozen_steps or not self.recipe.replays:
            self._kept.clear()
        elif torch.is_grad_enabled():
            self._kept.append((raw.half(), boxes, present))

    def _on_device(self, batch: ClipBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return images, boxes as fractions of the crops, and presence."""
        device = next(self.network.parameters()).device
        boxes = batch.boxes.to(device) / batch.images.shape[-1]
        return normalize_tensor(batch.images.to(device)), boxes, batch.present.to(device)

    def raw_features(self, network: TwoStreamNetwork, images: Tensor, step: int) -> Tensor:
        """(B, T, 3, S, S) -> (B, T, ., n, n) of the body, without gradients while it is frozen."""
        flat = images.flatten(0, 1)
        if step >= self.recipe.frozen_steps:
            self._frozen = None
            raw = network.body_features(flat)
        elif flat.device.type == "cpu":
            if self._frozen is None:
                threads = self.recipe.threads
                self._frozen = frozen(FeatureBody(network), images.shape[-1], threads)
            raw = self._frozen(flat)
        else:
            with torch.no_grad():
                raw = network.body_features(flat)
        return raw.unflatten(0, images.shape[:2])

    @staticmethod
    def locate(
        network: TwoStreamNetwork, raw: Tensor, boxes: Tensor, present: Tensor
    ) -> tuple[HeadMaps, Tensor, Tensor]:
        """Search every crop but the first.

        Given (B, T, ., n, n) of the body, boxes (B, T, 4) xywh as fractions of the crops, and
        presence (B, T) bool, returns maps, boxes (B * (T - 1), 4) and presence (B * (T - 1),) of
        the later crops.
        """
        batch, count = present.shape
        later = count - 1
        features = network.features(raw.flatten(0, 1))
        read = torch.cat([boxes[:, :1], inexact(boxes[:, 1:])], 1)
        cells = network.read_template(features, read.flatten(0, 1)).unflatten(0, (batch, count))
        # For each later crop another of them, at random; the first one where it has no target.
        own = torch.arange(later, device=raw.device)
        other = torch.randint(max(1, later - 1), (batch, later), device=raw.device)
        other = (other + (other >= own)).clamp(max=later - 1) + 1
        usable = present.gather(1, other) & (other != own + 1)
        other = other * (usable & (torch.rand(batch, later, device=raw.device) < REFRESHED))
        rows = torch.arange(batch, device=raw.device)[:, None]
        templates = torch.stack([cells[:, :1].expand(-1, later, -1, -1), cells[rows, other]], 2)
        searched = features.unflatten(0, (batch, count))[:, 1:]
        maps = network.locate(templates.flatten(0, 1), searched.flatten(0, 1))
        return maps, boxes[:, 1:].flatten(0, 1), present[:, 1:].flatten()

    @torch.inference_mode()
    def validate(self, network: nn.Module, batches: Sequence[ClipBatch]) -> dict[str, float]:
        """See `TrainingTask`."""
        assert isinstance(network, TwoStreamNetwork)
        network.eval()
        overlaps, scores, shown = [], [], []
        torch.manual_seed(self.recipe.seed)
        # While it is frozen, the averaged network's body is the trained one's.
        step = 0 if self._frozen is not None else self.recipe.frozen_steps
        for batch in batches:
            images, boxes, present = self._on_device(batch)
            raw = self.raw_features(network, images, step)
            maps, truth, there = self.locate(network, raw, boxes, present)
            predicted = as_prediction(maps)["pred_boxes"][:, 0].float()
            overlaps.append(generalized_iou(cxcywh_to_xyxy(predicted), xywh_to_xyxy(truth))[1])
            scores.append(maps.score.flatten(1).amax(1))
            shown.append(there)
        return figures(*(torch.cat(part).cpu() for part in (overlaps, shown, scores)))


def inexact(boxes: Tensor) -> Tensor:
    """Return boxes (B, T, 4) xywh as a tracker might have them; a few miss the target."""
    size = boxes[..., 2:] * torch.exp(SIZE_ERROR * torch.randn_like(boxes[..., 2:]))
    missed = torch.rand_like(boxes[..., :1]) < MISSED
    error = torch.where(missed, MISS_DISTANCE, CENTRE_ERROR) * torch.randn_like(size)
    side = boxes[..., 2:].prod(-1, keepdim=True).sqrt()
    centre = boxes[..., :2] + boxes[..., 2:] / 2 + error * side
    return torch.cat([centre - size / 2, size], -1)
