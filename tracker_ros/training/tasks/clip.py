# SPDX-License-Identifier: Apache-2.0
"""Train trackers that learn online, TrDiMP and TrSiam, on clips.

As at tracking time, features of the training crops are encoded together, every crop is decoded
with that memory and its labels, the filter is pooled from the training crops and improved by the
unrolled optimiser, and scores the test crops. The IoU branch describes the target by the first
crop and judges proposals in all others.

Papers: Wang et al., "Transformer Meets Tracker", CVPR 2021 (https://arxiv.org/abs/2103.11681),
section 3; Bhat et al., "DiMP", ICCV 2019 (https://arxiv.org/abs/1904.07220). Official code:
https://github.com/594422814/TransformerTrack (MIT, built on pytracking); written anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from tracker_ros.crops import normalize_tensor
from tracker_ros.geometry import cxcywh_to_xywh, xywh_to_cxcywh
from tracker_ros.models.layers.resnet import Features
from tracker_ros.models.trdimp.features import Modulation
from tracker_ros.models.trdimp.labels import gaussian_label
from tracker_ros.models.trdimp.network import IoUFeatures, IoUNet, TrDiMPNetwork
from tracker_ros.models.trdimp.target_filter import apply_filter
from tracker_ros.synthetic.samples import ClipBatch, ClipGenerator
from tracker_ros.training.datasets import open_dataset
from tracker_ros.training.initialisation import (
    begin_as_matcher,
    begin_on_backbone,
    starting_weights,
)
from tracker_ros.training.losses import (
    DENSITY_WEIGHT,
    IOU_WEIGHT,
    density_loss,
    draw_density_proposals,
    draw_proposals,
    filter_loss,
    hinge_loss,
    overlap_loss,
    overlaps,
    score_labels,
)
from tracker_ros.training.recipe import Recipe, Source
from tracker_ros.training.sequence_clips import SequenceClips
from tracker_ros.training.sources import SampleSource, open_bank
from tracker_ros.training.tasks import TrainingTask, figures

CENTRE_CELLS = 1.0
"""A peak within this distance of the target's centre counts as on it, cells."""
STEPS, STEP_LENGTH = 10, 0.02
"""Steps by which validation refines a box."""


class ClipFeatures(NamedTuple):
    """Features of T crops of B clips, float32: of the layers, and with memory of training crops.

    The layers' are (B * T, C, h, w) each; those for classification (B, T, C, h, w).
    """

    layers: Features
    decoded: Tensor


class ClipTask(TrainingTask):
    """TrDiMP on clips of crops to learn from and crops to search."""

    backbone = "feature_extractor."
    unit = "clips"
    validation_batch = 16
    network: TrDiMPNetwork

    def __init__(self, recipe: Recipe) -> None:
        config, self.tracking = self.configuration(recipe)
        super().__init__(recipe, TrDiMPNetwork(config))
        begin_as_matcher(self.network)
        if recipe.start_from:
            begin_on_backbone(self.network, starting_weights(recipe.start_from))
        frozen = self._frozen_layers()
        for name, parameter in self.network.named_parameters():
            # The value projections of the official file are never used.
            parameter.requires_grad_(".WV." not in name and not name.startswith(frozen))
        # At bfloat16 a CPU convolves channels-last images twice as fast.
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _frozen_layers(self) -> tuple[str, ...]:
        """Return the prefixes of the parameters that stay as they are."""
        layers = [name for name, _ in self.network.feature_extractor.named_children()]
        for name in self.recipe.frozen_layers:
            if name not in layers:
                raise ValueError(
                    f"frozen_layers has {name!r}; the backbone of {self.recipe.model} has "
                    f"{', '.join(layers)}"
                )
        return tuple(f"{self.backbone}{name}." for name in self.recipe.frozen_layers)

    def train(self, mode: bool = True) -> ClipTask:
        """Set the mode; frozen layers keep the statistics of their norms, too."""
        super().train(mode)
        for name in self.recipe.frozen_layers:
            self.network.feature_extractor.get_submodule(name).eval()
        return self

    @classmethod
    def open_source(
        cls, source: Source, recipe: Recipe, device: torch.device, validation: bool = False
    ) -> SampleSource:
        """See `TrainingTask`."""
        tracking = cls.configuration(recipe)[1]
        if source.kind != "synthetic":
            split = "val" if validation else source.split
            sequences = open_dataset(source.kind, source.path, split)
            grey = recipe.pairs.photometric.grey_fraction
            return SequenceClips(sequences, tracking, recipe.clips, grey)
        return ClipGenerator(
            open_bank(source, recipe, validation),
            tracking.image_sample_size,
            tracking.search_area_scale,
            device,
            recipe.pairs,
            recipe.clips,
        )

    def is_decayed(self, name: str, parameter: nn.Parameter) -> bool:
        """See `TrainingTask`; the maps of the filter's optimiser are not decayed either."""
        return parameter.ndim > 1 and not name.startswith("classifier.filter_optimizer.")

    def forward(self, batch: ClipBatch, step: int) -> dict[str, Tensor]:
        """See `TrainingTask`."""
        device = next(self.network.parameters()).device
        boxes, present = batch.boxes.to(device), batch.present.to(device)
        learn = batch.train_crops
        features = self._features(self.network, batch, boxes)
        filters = self._filters(self.network, features.decoded[:, :learn], boxes[:, :learn])
        searched = features.decoded[:, learn:]
        scores = [apply_filter(searched, each) for each in filters]
        labels = self._labels(boxes[:, learn:], present[:, learn:], scores[0].shape[-1])
        classifier = filter_loss(scores, labels)
        iou_branch = self._box_loss(features.layers, boxes, present)
        by_density = self.recipe.box_loss == "density"
        weight = DENSITY_WEIGHT if by_density else IOU_WEIGHT
        return {
            "total": classifier + weight * iou_branch,
            "classifier": classifier,
            "iou_branch": iou_branch,
            "first": hinge_loss(scores[0].detach(), labels),
            "last": hinge_loss(scores[-1].detach(), labels),
        }

    def _features(self, network: TrDiMPNetwork, batch: ClipBatch, boxes: Tensor) -> ClipFeatures:
        clips, crops = boxes.shape[:2]
        images = normalize_tensor(batch.images.to(boxes.device).flatten(0, 1))
        with self.autocast(boxes.device):
            layers = network.feature_extractor(images.to(memory_format=torch.channels_last))
            raw = network.classifier.feature_extractor[0](layers.layer3)
        layers = Features(*(layer.float() for layer in layers))
        # Norms, attention and everything after them stay in float32, as when tracking.
        classification = network.classifier.feature_extractor[1](raw.float().contiguous())
        classification = classification.unflatten(0, (clips, crops))
        learn, config = batch.train_crops, network.config
        transformer = network.classifier.transformer
        memory = transformer.encode(classification[:, :learn])
        label = gaussian_label(
            boxes[:, :learn],
            classification.shape[-1],
            filter_size=config.filter_size,
            stride=config.stride,
        )
        return ClipFeatures(layers, transformer.decode(classification, memory, label.unsqueeze(2)))

    def _filters(self, network: TrDiMPNetwork, decoded: Tensor, boxes: Tensor) -> list[Tensor]:
        """Compute the pooled filter and the filter after each step, (B, C, k, k) each."""
        classifier = network.classifier
        start = classifier.filter_initializer(decoded, boxes)
        return classifier.filter_optimizer(
            start, decoded, boxes, self.recipe.filter_iterations
        ).filters

    def _labels(self, boxes: Tensor, present: Tensor, size: int) -> Tensor:
        config = self.network.config
        side = self.tracking.image_sample_size / self.tracking.search_area_scale
        return score_labels(
            boxes, present, size, side / config.stride, config.stride, config.filter_size
        )

    def _box_loss(self, layers: Features, boxes: Tensor, present: Tensor) -> Tensor:
        """Judge proposals in every crop but the first, which shows the target."""
        branch, crops = self.network.bb_regressor, boxes.shape[1]
        clip, later = torch.where(present[:, 1:])
        if not len(clip):
            return boxes.new_zeros(())
        rows = clip * crops + 1 + later
        truth = boxes.flatten(0, 1)[rows]
        with self.autocast(boxes.device):
            modulation = branch.modulation(Features(*(x[::crops] for x in layers)), boxes[:, 0])
            searched = branch.test_features(Features(*(x[rows] for x in layers)))
        modulation = type(modulation)(*(x.float()[clip] for x in modulation))
        searched = type(searched)(*(x.float() for x in searched))
        if self.recipe.box_loss == "density":
            drawn = draw_density_proposals(truth, self.recipe.proposals)
            return density_loss(branch.predict(modulation, searched, drawn.boxes), drawn)
        proposals, iou = draw_proposals(truth, self.recipe.proposals)
        return overlap_loss(branch.predict(modulation, searched, proposals), iou)

    def validate(self, network: nn.Module, batches: Sequence[ClipBatch]) -> dict[str, float]:
        """See `TrainingTask`; also ``centred``, the share of peaks on the target."""
        network = cast(TrDiMPNetwork, network).eval()
        results = [self._search(network, batch) for batch in batches]
        iou, distance, score, present = (torch.cat(part) for part in zip(*results, strict=True))
        centred = (distance[present] < CENTRE_CELLS).float().mean()
        return {**figures(iou, present, score), "centred": float(centred)}

    @torch.no_grad()
    def _search(
        self, network: TrDiMPNetwork, batch: ClipBatch
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return IoU after refinement, distance of the peak, its score, presence per crop."""
        device = next(network.parameters()).device
        boxes, learn = batch.boxes.to(device), batch.train_crops
        features = self._features(network, batch, boxes)
        best = self._filters(network, features.decoded[:, :learn], boxes[:, :learn])[-1]
        scores = apply_filter(features.decoded[:, learn:], best).flatten(0, 1)
        score, place = scores.flatten(1).max(1)
        columns, stride = scores.shape[-1], network.config.stride
        peak = torch.stack([place % columns, place // columns], 1) * float(stride)
        truth = boxes[:, learn:].flatten(0, 1)
        distance = (truth[:, :2] + truth[:, 2:] / 2 - peak).norm(dim=1) / stride
        tested = boxes.shape[1] - learn
        first = boxes[:, 0].repeat_interleave(tested, 0)
        # As a tracker would start: at the peak, with the size that the crop was cut for.
        side = self.tracking.image_sample_size / self.tracking.search_area_scale
        size = first[:, 2:] * (side / first[:, 2:].prod(1, keepdim=True).sqrt())
        start = torch.cat([peak - size / 2, size], 1)
        layers = [x.unflatten(0, boxes.shape[:2]) for x in features.layers]
        branch = network.bb_regressor
        modulation = branch.modulation(Features(*(x[:, 0] for x in layers)), boxes[:, 0])
        modulation = type(modulation)(*(x.repeat_interleave(tested, 0) for x in modulation))
        searched = branch.test_features(Features(*(x[:, learn:].flatten(0, 1) for x in layers)))
        found = refine_boxes(branch, modulation, searched, start)
        iou = overlaps(found[:, None], truth)[:, 0]
        present = batch.present[:, learn:].flatten()
        return iou.cpu(), distance.cpu(), score.cpu(), present.cpu()


def refine_boxes(
    branch: IoUNet, modulation: Modulation, features: IoUFeatures, boxes: Tensor
) -> Tensor:
    """Move one box (N, 4) xywh per crop up the predicted overlap by autograd, all N at once.

    Steps are taken in centre over size and in the logarithm of the size; the branch is in eval
    mode. (The tracker's own refinement, in `models/trdimp/boxes.py`, has many starts in one crop.)
    """
    size = boxes[:, 2:]
    place = torch.cat([xywh_to_cxcywh(boxes)[:, :2] / size, size.log()], 1)
    for _ in range(STEPS):
        with torch.enable_grad():
            place = place.detach().requires_grad_(True)
            current = cxcywh_to_xywh(torch.cat([place[:, :2] * size, place[:, 2:].exp()], 1))
            predicted = branch.predict(modulation, features, current[:, None])
            (slope,) = torch.autograd.grad(predicted.sum(), place)
        place = place.detach() + STEP_LENGTH * slope
    return cxcywh_to_xywh(torch.cat([place[:, :2] * size, place[:, 2:].exp()], 1))
