# SPDX-License-Identifier: Apache-2.0
"""TrDiMP and TrSiam as a tracker runs them: in torch, or computed by engines.

Paper and official code: see `network.py`. Written for this package. The numbers are those of
`network.py`; the work is done in another order, as `layers/resnet.py`, `memory.py`,
`filter_fitting.py` and `boxes.py` describe. `TrDiMPInference` and `TrDiMPOnEngines` answer the
same calls. Engines may overwrite what they returned at their next call, and several targets may
share them, so the latter returns copies. Boxes are xywh in crop pixels.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tracker_ros.cuda.prroi_pool import MapPool, pool_by_matrix
from tracker_ros.engines.graph import Engine, Graph, collect_runtime_info
from tracker_ros.models.layers.packed import can_pack, for_inference, in_float32
from tracker_ros.models.layers.resnet import FoldedResNet
from tracker_ros.models.trdimp.boxes import BoxRefinement, ascend
from tracker_ros.models.trdimp.config import TrackingParameters, TrDiMPConfig
from tracker_ros.models.trdimp.filter_fitting import FilterFitting, FirstFilter, as_cells
from tracker_ros.models.trdimp.memory import (
    FixedTransformer,
    TransformerMemory,
    check_limit,
)
from tracker_ros.models.trdimp.network import Modulation, TrDiMPNetwork
from tracker_ros.models.trdimp.target_filter import LearnedMaps


class PatchFeatures(NamedTuple):
    """Features of N patches; channels are innermost in memory.

    Attributes:
        layer2: (N, layer2_dim, S / 8, S / 8).
        layer3: (N, layer3_dim, S / 16, S / 16).
        classification: (N, feature_dim, S / 16, S / 16), every image normalised.
    """

    layer2: Tensor
    layer3: Tensor
    classification: Tensor


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
        # Each part releases the original weights, so that they are never in memory twice.
        backbone = network.feature_extractor.eval().to(device)
        del network.feature_extractor
        self._backbone = FoldedResNet(backbone, packed=self.packed)
        del backbone
        # Copied, so that nothing keeps a memory-mapped weights file open.
        network = copy.deepcopy(network.eval()).to(device)
        classifier = network.classifier
        self._classification = for_inference(classifier.feature_extractor, packed=self.packed)
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
        layer2, layer3 = self._backbone(patches.to(self.device))
        return PatchFeatures(layer2, layer3, self._classification(layer3))

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


class GraphMemory:
    """The images that the transformer remembers, like `TransformerMemory`, computed by engines.

    Engines are given by the name of their graph. An image keeps its place while it is there. As in
    `TransformerMemory`, each place has one sum over the newer images, and one for each number of
    older ones that may still be there. Places without an image hold sums over one token of zeros.
    """

    def __init__(
        self,
        engines: dict[str, Engine],
        classification: Tensor,
        labels: Tensor,
        limit: int,
    ) -> None:
        check_limit(limit)
        self._engines = engines
        self._limit = limit

        def zeros(name: str) -> Tensor:
            return classification.new_zeros(engines["meet"].spec.inputs[name].shape)

        self._tokens, self._keys = zeros("tokens"), zeros("self_keys")
        self._labels = self._tokens[..., :1].clone()
        self._present = self._labels[:, 0].clone()
        nothing = F.pad(self._tokens, (0, 1))
        nothing[..., -1] = 1
        self._newer = torch.zeros_like(nothing)
        self._older = [[sums] for sums in nothing]
        self._newest_first: deque[int] = deque()
        for image, label in zip(classification.flip(0), labels.flip(0), strict=True):
            self._enter(image[None], label)
        self._encode()

    def __len__(self) -> int:
        return len(self._newest_first)

    @torch.inference_mode()
    def prepend(self, classification: Tensor, label: Tensor) -> None:
        """See `TransformerMemory.prepend`."""
        while self._limit > 0 and len(self) >= self._limit:
            self._present[self._newest_first.pop()] = 0
            for place in self._newest_first:
                self._older[place].pop()
        self._enter(classification, label)
        self._encode()

    @torch.inference_mode()
    def decode(self, query: Tensor) -> Tensor:
        """See `TransformerMemory.decode`."""
        decode = self._engines["decode"]
        return torch.cat(
            [
                decode(
                    classification=image[None].contiguous(),
                    cross_keys=self._cross_keys,
                    values=self._values,
                    present=self._present,
                )["decoded"].clone()
                for image in query
            ]
        )

    def _enter(self, classification: Tensor, label: Tensor) -> None:
        place = next(i for i in range(len(self._tokens)) if i not in self._newest_first)
        met = self._engines["meet"](
            classification=classification.contiguous(),
            tokens=self._tokens,
            self_keys=self._keys,
        )
        older = [met["sums_over_memory"][i] for i in self._newest_first]
        sums = list(accumulate([met["sums_over_itself"].clone(), *older]))
        self._older[place] = sums if self._limit > 0 else sums[-1:]
        self._newer += met["sums_over_new"]
        self._newer[place] = 0
        self._tokens[place] = as_cells(classification)
        self._keys[place] = met["new_keys"]
        self._labels[place] = label.reshape(-1, 1)
        self._present[place] = 1
        self._newest_first.appendleft(place)

    def _encode(self) -> None:
        sums = torch.stack([older[-1] for older in self._older]) + self._newer
        found = self._engines["encode"](tokens=self._tokens, sums=sums, labels=self._labels)
        self._cross_keys, self._values = found["cross_keys"].clone(), found["values"].clone()


class TrDiMPOnEngines:
    """A trained network whose parts, the graphs of `export.py`, are computed by engines.

    Tensors are handed over on `device`.
    """

    def __init__(
        self,
        config: TrDiMPConfig,
        graphs: Sequence[Graph],
        open_engine: Callable[[Graph], Engine],
        device: torch.device,
    ) -> None:
        self.config = config
        self.device = device
        self._engines = {graph.spec.name: open_engine(graph) for graph in graphs}

    @property
    def runtime_info(self) -> dict[str, str]:
        """Back end, device and precision in use for most of the work."""
        return collect_runtime_info(self._engines["features"], self._engines.values())

    @torch.inference_mode()
    def features(self, patches: Tensor) -> PatchFeatures:
        """See `TrDiMPInference.features`."""
        found = [self._run("features", patch=patch[None].contiguous()) for patch in patches]
        return PatchFeatures(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    @torch.inference_mode()
    def start_memory(self, classification: Tensor, labels: Tensor, limit: int) -> GraphMemory:
        """See `TrDiMPInference.start_memory`."""
        return GraphMemory(self._engines, classification, labels, limit)

    @torch.inference_mode()
    def initial_filter(self, decoded: Tensor, boxes: Tensor) -> Tensor:
        """See `TrDiMPInference.initial_filter`."""
        given = {"first_decoded": decoded.contiguous(), "first_boxes": boxes}
        return self._run("first_filter", **given)[0]

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
        if iterations < 1:
            return target_filter
        count = len(decoded)
        missing = self._engines["fit"].spec.inputs["samples"].shape[0] - count
        if sample_weight is None:
            sample_weight = boxes.new_full((count,), 1 / count)
        cells = as_cells(decoded).unflatten(0, (count, -1))
        samples = F.pad(cells, (0, 0, 0, 0, 0, missing)) if missing else cells
        given = {
            "samples": samples.contiguous(),
            "sample_boxes": F.pad(boxes, (0, 0, 0, missing)),
            "sample_weight": F.pad(sample_weight, (0, missing)),
        }
        for _ in range(iterations):
            (target_filter,) = self._run("fit", target_filter=target_filter, **given)
        return target_filter

    @torch.inference_mode()
    def score(self, target_filter: Tensor, decoded: Tensor) -> Tensor:
        """See `TrDiMPInference.score`."""
        return self._run("score", target_filter=target_filter, decoded=decoded.contiguous())[0]

    @torch.inference_mode()
    def modulation(self, features: PatchFeatures, box: Tensor) -> Modulation:
        """See `TrDiMPInference.modulation`."""
        given = {"layer2": features.layer2, "layer3": features.layer3, "box": box[None]}
        return Modulation(*self._run("modulation", **given))

    @torch.inference_mode()
    def refine(
        self,
        modulation: Modulation,
        features: PatchFeatures,
        boxes: Tensor,
        settings: TrackingParameters,
    ) -> tuple[Tensor, Tensor]:
        """See `BoxRefinement.refine`."""
        cells2, cells3 = self._run(
            "iou_features",
            layer2=features.layer2,
            layer3=features.layer3,
            modulation2=modulation.layer2,
            modulation3=modulation.layer3,
        )
        fixed = {"cells2": cells2, "cells3": cells3, "unit": boxes[0, 2:].clone()}

        def climb_once(boxes: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
            better, overlaps = self._run("refine", boxes=boxes, step=step, **fixed)
            return better, overlaps

        return ascend(climb_once, boxes, settings)

    def _run(self, name: str, **tensors: Tensor) -> list[Tensor]:
        """Return copies of a graph's outputs, in their order."""
        engine = self._engines[name]
        found = engine(**tensors)
        return [found[output].clone() for output in engine.spec.outputs]
