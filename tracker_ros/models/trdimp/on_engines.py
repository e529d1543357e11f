# SPDX-License-Identifier: Apache-2.0
"""TrDiMP and TrSiam computed by engines: the graphs of `export.py`, on NumPy arrays or tensors.

`TrDiMPOnEngines` answers the calls of `inference.TrDiMPInference`. Engines may overwrite what they
returned at their next call, and several targets may share them, so copies are returned. Boxes are
xywh in crop pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from tracker_ros.arrays import (
    Array,
    concatenate,
    contiguous,
    copied,
    inference,
    stack,
    with_rows,
    zeros,
)
from tracker_ros.engines.embedded import EmbeddedGraph
from tracker_ros.engines.graph import Engine, EngineUnavailable, Graph, collect_runtime_info
from tracker_ros.models.trdimp.config import TrackingParameters, TrDiMPConfig
from tracker_ros.models.trdimp.features import Modulation, PatchFeatures
from tracker_ros.models.trdimp.localisation import ascend
from tracker_ros.models.trdimp.samples import as_cells, check_limit

if TYPE_CHECKING:
    import torch


# Inputs and outputs by graph, in the order of the module's arguments and results.
WIRES = {
    "features": ("patch", "layer2 layer3 classification"),
    "meet": (
        "classification tokens self_keys",
        "new_keys sums_over_itself sums_over_new sums_over_memory",
    ),
    "encode": ("tokens sums labels", "cross_keys values"),
    "decode": ("classification cross_keys values present", "decoded"),
    "first_filter": ("first_decoded first_boxes", "target_filter"),
    "score": ("target_filter decoded", "score"),
    "fit": ("target_filter samples sample_boxes sample_weight", "better_filter"),
    "modulation": ("layer2 layer3 box", "modulation2 modulation3"),
    "iou_features": ("layer2 layer3 modulation2 modulation3", "cells2 cells3"),
    "refine": ("boxes cells2 cells3 unit step", "better_boxes overlaps"),
}


_SIZES = (
    "image_sample_size",
    "sample_memory_size",
    "transformer_memory_size",
    "num_init_random_boxes",
    "box_refinement_space",
)
"""Parameters that are fixed in graphs."""


def graph_names(parameters: TrackingParameters) -> list[str]:
    """Return the graphs that a tracker runs; without steps of its optimiser (TrSiam) no "fit"."""
    fitted = (
        parameters.net_opt_iter,
        parameters.net_opt_update_iter,
        parameters.net_opt_hn_iter,
    )
    return [name for name in WIRES if name != "fit" or any(fitted)]


def check_sizes(parameters: TrackingParameters, made_for: TrackingParameters) -> None:
    """Raise EngineUnavailable if graphs that were made for other parameters do not serve these."""
    for name in _SIZES:
        value, expected = getattr(parameters, name), getattr(made_for, name)
        if value != expected:
            raise EngineUnavailable(f"embedded graphs are for a {name} of {expected}, not {value}")
    if parameters.views.views != made_for.views.views:
        raise EngineUnavailable("embedded graphs are for another number of augmented views")


class GraphMemory:
    """The images that the transformer remembers, like `TransformerMemory`, computed by engines.

    Engines are given by the name of their graph. An image keeps its place while it is there. As in
    `TransformerMemory`, each place has one sum over the newer images, and one for each number of
    older ones that may still be there. Places without an image hold sums over one token of zeros.
    """

    def __init__(
        self,
        engines: dict[str, Engine],
        classification: Array,
        labels: Array,
        limit: int,
    ) -> None:
        check_limit(limit)
        self._engines = engines
        self._limit = limit

        def empty(name: str) -> Array:
            return zeros(engines["meet"].spec.inputs[name].shape, classification)

        self._tokens, self._keys = empty("tokens"), empty("self_keys")
        places, cells, channels = self._tokens.shape
        self._labels = zeros((places, cells, 1), classification)
        self._present = zeros((places, 1), classification)
        self._newer = zeros((places, cells, channels + 1), classification)
        nothing = copied(self._newer)
        nothing[..., -1] = 1
        self._older = [[sums] for sums in nothing]
        self._newest_first: deque[int] = deque()
        for index in reversed(range(len(classification))):
            self._enter(classification[index : index + 1], labels[index])
        self._encode()

    def __len__(self) -> int:
        return len(self._newest_first)

    @inference
    def prepend(self, classification: Array, label: Array) -> None:
        """See `TransformerMemory.prepend`."""
        while self._limit > 0 and len(self) >= self._limit:
            self._present[self._newest_first.pop()] = 0
            for place in self._newest_first:
                self._older[place].pop()
        self._enter(classification, label)
        self._encode()

    @inference
    def decode(self, query: Array) -> Array:
        """See `TransformerMemory.decode`."""
        decode = self._engines["decode"]
        known = {
            "cross_keys": self._cross_keys,
            "values": self._values,
            "present": self._present,
        }
        images = (contiguous(image[None]) for image in query)
        return concatenate(
            [copied(decode(classification=image, **known)["decoded"]) for image in images]
        )

    def _enter(self, classification: Array, label: Array) -> None:
        place = next(i for i in range(len(self._tokens)) if i not in self._newest_first)
        met = self._engines["meet"](
            classification=contiguous(classification),
            tokens=self._tokens,
            self_keys=self._keys,
        )
        older = [met["sums_over_memory"][i] for i in self._newest_first]
        sums = list(accumulate([copied(met["sums_over_itself"]), *older]))
        self._older[place] = sums if self._limit > 0 else sums[-1:]
        self._newer += met["sums_over_new"]
        self._newer[place] = 0
        self._tokens[place] = as_cells(classification)
        self._keys[place] = met["new_keys"]
        self._labels[place] = label.reshape(-1, 1)
        self._present[place] = 1
        self._newest_first.appendleft(place)

    def _encode(self) -> None:
        sums = stack([older[-1] for older in self._older]) + self._newer
        found = self._engines["encode"](tokens=self._tokens, sums=sums, labels=self._labels)
        self._cross_keys, self._values = copied(found["cross_keys"]), copied(found["values"])


class TrDiMPOnEngines:
    """A trained network whose parts, the graphs of `export.py`, are computed by engines.

    Arrays are handed over on `device`; None means NumPy's.
    """

    def __init__(
        self,
        config: TrDiMPConfig,
        graphs: Sequence[Graph] | Sequence[EmbeddedGraph],
        open_engine: Callable[[Any], Engine],
        device: torch.device | None,
    ) -> None:
        self.config = config
        self.device = device
        self._engines = {graph.spec.name: open_engine(graph) for graph in graphs}

    @property
    def runtime_info(self) -> dict[str, str]:
        """Back end, device and precision in use for most of the work."""
        return collect_runtime_info(self._engines["features"], self._engines.values())

    @inference
    def features(self, patches: Array) -> PatchFeatures:
        """See `TrDiMPInference.features`."""
        found = [self._run("features", patch=contiguous(patch[None])) for patch in patches]
        return PatchFeatures(*(concatenate(parts) for parts in zip(*found, strict=True)))

    @inference
    def start_memory(self, classification: Array, labels: Array, limit: int) -> GraphMemory:
        """See `TrDiMPInference.start_memory`."""
        return GraphMemory(self._engines, classification, labels, limit)

    @inference
    def initial_filter(self, decoded: Array, boxes: Array) -> Array:
        """See `TrDiMPInference.initial_filter`."""
        given = {"first_decoded": contiguous(decoded), "first_boxes": boxes}
        return self._run("first_filter", **given)[0]

    @inference
    def fit(
        self,
        target_filter: Array,
        decoded: Array,
        boxes: Array,
        iterations: int,
        sample_weight: Array | None = None,
    ) -> Array:
        """Improve a filter; see `FilterFitting.fit`."""
        if iterations < 1:
            return target_filter
        count = len(decoded)
        places = self._engines["fit"].spec.inputs["samples"].shape[0]
        if sample_weight is None:
            sample_weight = zeros((count,), boxes) + 1 / count
        samples = as_cells(decoded).reshape(count, -1, decoded.shape[1])
        given = {
            "samples": contiguous(with_rows(samples, places)),
            "sample_boxes": with_rows(boxes, places),
            "sample_weight": with_rows(sample_weight, places),
        }
        for _ in range(iterations):
            (target_filter,) = self._run("fit", target_filter=target_filter, **given)
        return target_filter

    @inference
    def score(self, target_filter: Array, decoded: Array) -> Array:
        """See `TrDiMPInference.score`."""
        return self._run("score", target_filter=target_filter, decoded=contiguous(decoded))[0]

    @inference
    def modulation(self, features: PatchFeatures, box: Array) -> Modulation:
        """See `TrDiMPInference.modulation`."""
        given = {"layer2": features.layer2, "layer3": features.layer3, "box": box[None]}
        return Modulation(*self._run("modulation", **given))

    @inference
    def refine(
        self,
        modulation: Modulation,
        features: PatchFeatures,
        boxes: Array,
        settings: TrackingParameters,
    ) -> tuple[Array, Array]:
        """See `BoxRefinement.refine`."""
        cells2, cells3 = self._run(
            "iou_features",
            layer2=features.layer2,
            layer3=features.layer3,
            modulation2=modulation.layer2,
            modulation3=modulation.layer3,
        )
        fixed = {"cells2": cells2, "cells3": cells3, "unit": copied(boxes[0, 2:])}

        def climb_once(boxes: Array, step: Array) -> tuple[Array, Array]:
            better, overlaps = self._run("refine", boxes=boxes, step=step, **fixed)
            return better, overlaps

        return ascend(climb_once, boxes, settings)

    def _run(self, name: str, **tensors: Array) -> list[Array]:
        """Return copies of a graph's outputs, in their order."""
        engine = self._engines[name]
        found = engine(**tensors)
        return [copied(found[output]) for output in engine.spec.outputs]
