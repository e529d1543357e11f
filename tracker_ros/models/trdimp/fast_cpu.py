# SPDX-License-Identifier: Apache-2.0
"""TrDiMP as a tracker runs it: the numbers of `network.py`, nothing computed twice or unread.

Paper and official code: see `network.py`. Written for this package; what differs from the official
code is the order of the work, not its result. Each part says how: `fixed_resnet.py`,
`transformer_memory.py`, `filter_fitting.py`, `box_refinement.py`.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from tracker_ros.models.layers.packed import can_pack, for_inference, in_float32
from tracker_ros.models.layers.resnet import FoldedResNet
from tracker_ros.models.trdimp.boxes import BoxRefinement
from tracker_ros.models.trdimp.config import TrackingParameters
from tracker_ros.models.trdimp.network.filter_fitting import FilterFitting, FirstFilter
from tracker_ros.models.trdimp.network.iou_net import Modulation
from tracker_ros.models.trdimp.network.network import TrDiMPNetwork
from tracker_ros.models.trdimp.network.transformer_memory import (
    FixedTransformer,
    TransformerMemory,
)


class PatchFeatures(NamedTuple):
    """What the network sees in patches; channels are innermost in memory.

    Attributes:
        layer2: (N, layer2_dim, S / 8, S / 8).
        layer3: (N, layer3_dim, S / 16, S / 16).
        classification: (N, feature_dim, S / 16, S / 16), every image normalised.
    """

    layer2: Tensor
    layer3: Tensor
    classification: Tensor


class TrDiMPInference:
    """A trained network, prepared to follow one target.

    Boxes are xywh in crop pixels.

    Args:
        network: Loaded, in eval mode; its modules are taken over and changed.
        device: Where it runs.
        packed: Use oneDNN's prepacked layers; None decides by what this build of torch has.
    """

    def __init__(
        self, network: TrDiMPNetwork, device: torch.device, packed: bool | None = None
    ) -> None:
        self.config = network.config
        self.device = device
        self.packed = can_pack(device) if packed is None else packed
        # Each part lets go of the weights as they were, so that they are never all there twice.
        backbone = network.feature_extractor.eval().to(device)
        del network.feature_extractor
        self._backbone = FoldedResNet(backbone, packed=self.packed)
        del backbone
        # What is kept as it is must not hold on to a weights file that is mapped into memory.
        network = copy.deepcopy(network.eval()).to(device)
        classifier = network.classifier
        self._classification = for_inference(classifier.feature_extractor, packed=self.packed)
        self._transformer = FixedTransformer(classifier.transformer, packed=self.packed)
        self._first_filter = FirstFilter(classifier.filter_initializer)
        self._fitting = FilterFitting(classifier.filter_optimizer, packed=self.packed)
        self._refinement = BoxRefinement(network.bb_regressor, packed=self.packed)

    @property
    def runtime_info(self) -> dict[str, str]:
        """Back end, device and precision in use."""
        return {"backend": "torch", "device": str(self.device), "precision": "fp32"}

    @torch.inference_mode()
    @in_float32
    def features(self, patches: Tensor) -> PatchFeatures:
        """(N, 3, S, S) normalised RGB -> features."""
        layer2, layer3 = self._backbone(patches.to(self.device))
        return PatchFeatures(layer2, layer3, self._classification(layer3))

    @torch.inference_mode()
    def start_memory(
        self, classification: Tensor, labels: Tensor, limit: int
    ) -> TransformerMemory:
        """Let the transformer remember the first images.

        Args:
            classification: (N, C, h, w) features, the first image is the newest.
            labels: (N, 1, h, w), where the target is in them.
            limit: Images that may be there after one was added; negative for no limit.
        """
        return TransformerMemory(self._transformer, classification, labels, limit)

    @torch.inference_mode()
    def initial_filter(self, decoded: Tensor, boxes: Tensor) -> Tensor:
        """(N, C, h, w) and the (N, 4) boxes in them -> (C, k, k) that finds what they show."""
        return self._first_filter(decoded, boxes)

    @torch.inference_mode()
    def fit(
        self,
        target_filter: Tensor,
        decoded: Tensor,
        boxes: Tensor,
        iterations: int,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """Improve a filter; see `FilterFitting.fit`."""
        return self._fitting.fit(target_filter, decoded, boxes, iterations, sample_weight)

    @torch.inference_mode()
    def score(self, target_filter: Tensor, decoded: Tensor) -> Tensor:
        """(C, k, k) and (1, C, h, w) -> (h', w') where the target may be."""
        return self._fitting.score(target_filter, decoded)[0]

    @torch.inference_mode()
    @in_float32
    def modulation(self, features: PatchFeatures, box: Tensor) -> Modulation:
        """What the target in the (4,) box of one patch looks like to the IoU branch."""
        return self._refinement.modulation(features, box[None])

    @torch.inference_mode()
    @in_float32
    def refine(
        self,
        modulation: Modulation,
        features: PatchFeatures,
        boxes: Tensor,
        settings: TrackingParameters,
    ) -> tuple[Tensor, Tensor]:
        """Let (P, 4) boxes climb to where they fit best; see `BoxRefinement.refine`."""
        return self._refinement.refine(modulation, features, boxes, settings)
