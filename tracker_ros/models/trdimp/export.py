# SPDX-License-Identifier: Apache-2.0
"""TrDiMP's network as static graphs, for any engine; `inference.py` runs them.

Paper and official code: see `network.py`. Written for this package; the official code has no
counterpart. A frame runs "features", "decode", "score", "iou_features", and "refine" once per
step; an update "fit" once per step, "meet" and "encode"; a start also "modulation" and
"first_filter", and the others once per view of the first image.

Engines are compared on examples such as a tracker could meet: a picture of soft blobs goes through
the network, and all images of the memories are its features, moved and blurred. Half of each
memory is filled.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker_ros.engines.graph import EngineUnavailable, Graph, GraphSpec, TensorSpec
from tracker_ros.engines.half_precision import fold_norms
from tracker_ros.models.trdimp.config import TrackingParameters, TrDiMPConfig
from tracker_ros.models.trdimp.export_modules import (
    DecodePart,
    EncodePart,
    FirstFilterPart,
    FitPart,
    IoUFeaturesPart,
    MeetPart,
    ModulationPart,
    PatchPart,
    RefinePart,
    ScorePart,
    keys_of,
    tokens_of,
    with_norm,
)
from tracker_ros.models.trdimp.labels import gaussian_label
from tracker_ros.models.trdimp.network import LAYER2_STRIDE, TrDiMPNetwork
from tracker_ros.models.trdimp.on_engines import WIRES, graph_names
from tracker_ros.models.trdimp.target_filter import score_size

HALF = ("features", "decode")
"""What may be computed in half precision: neither solvers and pooling, nor what adds up, nor what
boxes climb on: features for that, rounded to half, lead them to other boxes (IoU 0.96 where the
others' rounding leaves 0.9999)."""


def first_samples(parameters: TrackingParameters) -> int:
    """Return the number of samples that are made of the first image."""
    return parameters.views.views


def memory_images(parameters: TrackingParameters) -> int:
    """Return the places of the transformer's memory; without a limit as many as first samples."""
    return max(first_samples(parameters), parameters.transformer_memory_size)


def shapes(config: TrDiMPConfig, parameters: TrackingParameters) -> dict[str, tuple[int, ...]]:
    """Return the shape of everything that `WIRES` names; all are float32."""
    side, k, channels = parameters.image_sample_size, config.filter_size, config.feature_dim
    cells, fine = side // config.stride, side // LAYER2_STRIDE
    scores = score_size(cells, k)
    n, images = cells**2, memory_images(parameters)
    first, samples = first_samples(parameters), parameters.sample_memory_size
    proposals = 1 + parameters.num_init_random_boxes
    memory_sums, features = (images, n, channels + 1), (1, channels, cells, cells)
    return {
        "patch": (1, 3, side, side),
        "layer2": (1, config.layer2_dim, fine, fine),
        "layer3": (1, config.layer3_dim, cells, cells),
        "classification": features,
        "tokens": (images, n, channels),
        "self_keys": (images, n, config.key_dim),
        "new_keys": (n, config.key_dim),
        "sums_over_itself": (n, channels + 1),
        "sums_over_new": memory_sums,
        "sums_over_memory": memory_sums,
        "sums": memory_sums,
        "labels": (images, n, 1),
        "cross_keys": (images, n, config.key_dim),
        "values": memory_sums,
        "present": (images, 1),
        "decoded": features,
        "first_decoded": (first, *features[1:]),
        "first_boxes": (first, 4),
        "target_filter": (channels, k, k),
        "score": (scores, scores),
        "samples": (samples, n, channels),
        "sample_boxes": (samples, 4),
        "sample_weight": (samples,),
        "better_filter": (channels, k, k),
        "box": (1, 4),
        "modulation2": (1, config.iou_dim, 1, 1),
        "modulation3": (1, config.iou_dim, 1, 1),
        "cells2": (fine, fine, config.iou_dim),
        "cells3": (cells, cells, config.iou_dim),
        "boxes": (proposals, 4),
        "unit": (2,),
        "step": (4,),
        "better_boxes": (proposals, 4),
        "overlaps": (proposals,),
    }


def _check(parameters: TrackingParameters) -> None:
    limit, every = parameters.transformer_memory_size, parameters.transformer_skipping
    if limit < 0 and every >= 1:
        raise EngineUnavailable(
            f"transformer_memory_size is {limit}, no limit, and an image is added every {every} "
            "frames; a static graph needs a limit (set one, or use backend 'torch')"
        )
    if parameters.box_refinement_space != "relative":
        raise EngineUnavailable(
            f"box_refinement_space is {parameters.box_refinement_space!r}; a static graph climbs "
            "in 'relative' only (set that, or use backend 'torch')"
        )


def graphs(network: TrDiMPNetwork, parameters: TrackingParameters) -> list[Graph]:
    """Return all parts of a loaded network that a tracker runs; TrSiam has no "fit".

    The weights are copied; the parameters decide the sizes of crops and memories. Raises
    EngineUnavailable if the transformer's memory has no limit, or boxes are not refined in the
    space "relative".
    """
    _check(parameters)
    config, classifier = network.config, network.classifier
    sizes = shapes(config, parameters)
    cells = sizes["classification"][2:]
    branch = copy.deepcopy(network.bb_regressor)
    fold_norms(branch)
    modules: dict[str, nn.Module] = {
        "features": PatchPart(network),
        "meet": MeetPart(classifier.transformer),
        "encode": EncodePart(classifier.transformer),
        "decode": DecodePart(classifier.transformer),
        "first_filter": FirstFilterPart(classifier.filter_initializer),
        "score": ScorePart((cells[0], cells[1]), config.filter_size),
        "fit": FitPart(classifier.filter_optimizer, (cells[0], cells[1]), config.filter_size),
        "modulation": ModulationPart(branch),
        "iou_features": IoUFeaturesPart(branch),
        "refine": RefinePart(branch),
    }
    modules = {name: modules[name] for name in graph_names(parameters)}

    @lru_cache(maxsize=1)
    def drawn(seed: int) -> dict[str, Tensor]:
        return draw_example(seed, modules, sizes, parameters)

    def example(inputs: str) -> Callable[[int], dict[str, Tensor]]:
        return lambda seed: {name: drawn(seed)[name].clone() for name in inputs.split()}

    def spec(names: str) -> dict[str, TensorSpec]:
        return {name: TensorSpec(sizes[name]) for name in names.split()}

    return [
        Graph(
            GraphSpec(
                name,
                spec(WIRES[name][0]),
                spec(WIRES[name][1]),
                half=name in HALF,
                settings=str(config),
            ),
            module.eval(),
            example(WIRES[name][0]),
        )
        for name, module in modules.items()
    ]


_BLOB_PX = 16
_TARGET_SHARE = 4
"""The target's sides are this part of the patch's."""


@torch.no_grad()
def draw_example(
    seed: int,
    modules: Mapping[str, nn.Module],
    sizes: Mapping[str, tuple[int, ...]],
    parameters: TrackingParameters,
) -> dict[str, Tensor]:
    """Draw the inputs of all graphs by name; the same seed gives the same.

    Modules are parts of the network by the name of their graph, sizes come from `shapes`.
    """
    draws = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draws)

    side = sizes["patch"][-1]
    blobs = F.interpolate(normal(1, 3, side // _BLOB_PX, side // _BLOB_PX), size=(side, side))
    patch = F.avg_pool2d(blobs, 7, stride=1, padding=3) + 0.1 * normal(*sizes["patch"])
    drawn = {"patch": patch}

    def compute(name: str) -> None:
        """Add what a graph computes from what was drawn."""
        inputs, outputs = (names.split() for names in WIRES[name])
        results = modules[name](*(drawn[name] for name in inputs))
        drawn.update(zip(outputs, results, strict=True))

    compute("features")
    classification = drawn["classification"]

    def images(count: int) -> Tensor:
        """Return (count, n, C): the features, moved, with noise, of the same norm."""
        tokens, scale = tokens_of(classification), float(classification.square().mean().sqrt())
        moved = torch.stack([tokens.roll(index, 0) for index in range(count)])
        return with_norm(moved + scale * normal(*moved.shape), scale)

    def as_features(tokens: Tensor) -> Tensor:
        cells = classification.shape[-2:]
        return tokens.transpose(1, 2).unflatten(2, (cells[0], cells[1])).contiguous()

    def boxes(count: int, jitter: float) -> Tensor:
        """Return (count, 4) xywh, the first one on the target."""
        size = side / _TARGET_SHARE
        box = torch.tensor([(side - size) / 2, (side - size) / 2, size, size])
        spread = jitter * size * normal(count, 4)
        spread[0] = 0
        return box + spread

    places = sizes["tokens"][0]
    drawn["present"] = (torch.arange(places) < (places + 1) // 2).float()[:, None]
    drawn["tokens"] = tokens = images(places)
    label = gaussian_label(
        boxes(places, 0.1),
        classification.shape[-1],
        filter_size=sizes["target_filter"][-1],
        stride=side // classification.shape[-1],
    )
    drawn["labels"] = label.flatten(1)[..., None] * drawn["present"][..., None]
    weights = 1 + 20 * torch.rand((*tokens.shape[:2], 1), generator=draws)
    drawn["sums"] = torch.cat([weights * tokens.roll(1, 0), weights], dim=-1)
    compute("encode")
    drawn["self_keys"] = keys_of(cast(MeetPart, modules["meet"]).projection, tokens)

    count = sizes["samples"][0]
    filled = (count + 1) // 2
    drawn["sample_weight"] = torch.zeros(count)
    drawn["sample_weight"][:filled] = torch.softmax(0.3 * normal(filled), 0)
    first = sizes["first_decoded"][0]
    drawn["first_decoded"], drawn["first_boxes"] = as_features(images(first)), boxes(first, 0.1)
    compute("first_filter")
    drawn["box"] = boxes(1, 0.0)
    compute("modulation")
    compute("iou_features")
    drawn["decoded"] = as_features(images(1))
    drawn["samples"] = images(count) * (drawn["sample_weight"] > 0)[:, None, None]
    drawn["sample_boxes"] = boxes(count, 0.1)
    drawn["boxes"] = boxes(sizes["boxes"][0], 0.1)
    drawn["unit"] = drawn["box"][0, 2:]
    length = parameters.box_refinement_step_length
    position, size = length if isinstance(length, tuple) else (length, length)
    drawn["step"] = torch.tensor([position, position, size, size])
    return drawn
