# SPDX-License-Identifier: Apache-2.0
"""TrDiMP and TrSiam as a tracker runs them in torch.

Paper and official code: see `network.py`. Written for this package. The numbers are those of
`network.py`. Features come from the module that is exported; the rest of the work is done in
another order, as `memory.py`, `filter_fitting.py` and `boxes.py` describe, which static graphs
cannot follow. Boxes are xywh in crop pixels.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from tracker_ros.cuda.prroi_pool import MapPool, pool_by_matrix
from tracker_ros.models.layers.packed import can_pack, for_inference, in_float32
from tracker_ros.models.trdimp.boxes import BoxRefinement
from tracker_ros.models.trdimp.config import TrackingParameters
from tracker_ros.models.trdimp.export_modules import PatchPart
from tracker_ros.models.trdimp.features import Modulation, PatchFeatures
from tracker_ros.models.trdimp.filter_fitting import FilterFitting, FirstFilter
from tracker_ros.models.trdimp.memory import FixedTransformer, TransformerMemory
from tracker_ros.models.trdimp.network import TrDiMPNetwork
from tracker_ros.models.trdimp.target_filter import LearnedMaps


class TrDiMPInference:
    """A trained network, prepared for tracking.

    Args:
        network: Loaded, in eval mode; its modules are taken over and changed.
        device: Device to run on.
        packed: Use oneDNN's prepacked layers; None uses them where this build of torch has them.
        pool: Pools the boxes that are refined.

    Attributes:
        initial_filter: Turns (N, C, h, w) features and the (N, 4) boxes in them into a filter,
            (C, k, k), that finds what the boxes show.
        fit: Improves a filter; see `FilterFitting.fit`.
    """

    def __init__(
        self,
        network: TrDiMPNetwork,
        device: torch.device,
        packed: bool | None = None,
        pool: MapPool = pool_by_matrix,
    ) -> None:
        self.config = network.config
        self.device = device
        self.packed = can_pack(device) if packed is None else packed
        # Each part copies its weights, so that nothing keeps a memory-mapped weights file open.
        self._patch = for_inference(PatchPart(network.eval()).to(device), packed=self.packed)
        del network.feature_extractor
        network = copy.deepcopy(network).to(device)
        classifier = network.classifier
        self._transformer = FixedTransformer(classifier.transformer, packed=self.packed)
        self.initial_filter = FirstFilter(classifier.filter_initializer)
        self._fitting = FilterFitting(classifier.filter_optimizer, packed=self.packed)
        self.fit = self._fitting.fit
        self._refinement = BoxRefinement(network.bb_regressor, packed=self.packed, pool=pool)

    @property
    def runtime_info(self) -> dict[str, str]:
        """Back end, device and precision in use."""
        return {"backend": "torch", "device": str(self.device), "precision": "fp32"}

    @torch.inference_mode()
    @in_float32
    def features(self, patches: Tensor) -> PatchFeatures:
        """(N, 3, S, S) normalised RGB -> features."""
        return PatchFeatures(*self._patch(patches.to(self.device)))

    @torch.inference_mode()
    def start_memory(
        self, classification: Tensor, labels: Tensor, limit: int
    ) -> TransformerMemory:
        """Return the transformer's memory of the first images; see `TransformerMemory`."""
        return TransformerMemory(self._transformer, classification, labels, limit)

    @torch.inference_mode()
    def score(self, target_filter: Tensor, decoded: Tensor) -> Tensor:
        """(C, k, k) filter and (1, C, h, w) features -> (h', w') scores."""
        return self._fitting.score(target_filter, decoded)[0]

    @torch.inference_mode()
    def learned_maps(self, boxes: Tensor, size: int) -> LearnedMaps:
        """Return label, mask and weight (N, size, size) around (N, 4) boxes in a patch."""
        return self._fitting.learned_maps(boxes, (size, size), self.config.filter_size)

    @torch.inference_mode()
    @in_float32
    def modulation(self, features: PatchFeatures, box: Tensor) -> Modulation:
        """Describe the target in the (4,) box of one patch to the IoU branch."""
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
