# SPDX-License-Identifier: Apache-2.0
"""Inputs that TrDiMP's graphs could meet while tracking, to compare engines on.

Written for this package. A picture of soft blobs goes through the network; all images of the
memories are its features, moved and blurred. Half of each memory is filled.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker_ros.models.trdimp.config import TrackingParameters
from tracker_ros.models.trdimp.gaussian_label import gaussian_label
from tracker_ros.models.trdimp.graph_features import tokens_of, with_norm

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
    """Inputs of all graphs by name.

    Args:
        seed: The same gives the same.
        modules: Parts of the network by the name of their graph.
        sizes: From `graphs.shapes`.
        parameters: What the tracker is steered by.
    """
    draws = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draws)

    side = sizes["patch"][-1]
    blobs = F.interpolate(normal(1, 3, side // _BLOB_PX, side // _BLOB_PX), size=(side, side))
    patch = F.avg_pool2d(blobs, 7, stride=1, padding=3) + 0.1 * normal(*sizes["patch"])
    layer2, layer3, classification = modules["features"](patch)

    def images(count: int) -> Tensor:
        """(count, n, C): the features, moved, with noise, of the same norm."""
        tokens, scale = tokens_of(classification), float(classification.square().mean().sqrt())
        moved = torch.stack([tokens.roll(index, 0) for index in range(count)])
        return with_norm(moved + scale * normal(*moved.shape), scale)

    def as_features(tokens: Tensor) -> Tensor:
        cells = classification.shape[-2:]
        return tokens.transpose(1, 2).unflatten(2, (cells[0], cells[1])).contiguous()

    def boxes(count: int, jitter: float) -> Tensor:
        """(count, 4) xywh, the first one on the target."""
        size = side / _TARGET_SHARE
        box = torch.tensor([(side - size) / 2, (side - size) / 2, size, size])
        spread = jitter * size * normal(count, 4)
        spread[0] = 0
        return box + spread

    places = sizes["tokens"][0]
    present = (torch.arange(places) < (places + 1) // 2).float()[:, None]
    tokens = images(places)
    label = gaussian_label(
        boxes(places, 0.1),
        classification.shape[-1],
        filter_size=sizes["target_filter"][-1],
        stride=side // classification.shape[-1],
    )
    labels = label.flatten(1)[..., None] * present[..., None]
    weights = 1 + 20 * torch.rand((*tokens.shape[:2], 1), generator=draws)
    sums = torch.cat([weights * tokens.roll(1, 0), weights], dim=-1)
    cross_keys, values = modules["encode"](tokens, sums, labels)
    self_keys = torch.stack(
        [modules["meet"](image[None], tokens, cross_keys)[0] for image in as_features(tokens)]
    )

    count = sizes["samples"][0]
    filled = (count + 1) // 2
    sample_weight = torch.zeros(count)
    sample_weight[:filled] = torch.softmax(0.3 * normal(filled), 0)
    first = sizes["first_decoded"][0]
    first_decoded, first_boxes = as_features(images(first)), boxes(first, 0.1)
    target_filter = modules["first_filter"](first_decoded, first_boxes)[0]
    modulation = modules["modulation"](layer2, layer3, boxes(1, 0.0))
    cells = modules["iou_features"](layer2, layer3, *modulation)
    length = parameters.box_refinement_step_length
    position, size = length if isinstance(length, tuple) else (length, length)
    return {
        "patch": patch,
        "layer2": layer2,
        "layer3": layer3,
        "classification": classification,
        "tokens": tokens,
        "self_keys": self_keys,
        "sums": sums,
        "labels": labels,
        "cross_keys": cross_keys,
        "values": values,
        "present": present,
        "first_decoded": first_decoded,
        "first_boxes": first_boxes,
        "target_filter": target_filter,
        "decoded": as_features(images(1)),
        "samples": images(count) * (sample_weight > 0)[:, None, None],
        "sample_boxes": boxes(count, 0.1),
        "sample_weight": sample_weight,
        "box": boxes(1, 0.0),
        "modulation2": modulation[0],
        "modulation3": modulation[1],
        "cells2": cells[0],
        "cells3": cells[1],
        "boxes": boxes(sizes["boxes"][0], 0.1),
        "unit": boxes(1, 0.0)[0, 2:],
        "step": torch.tensor([position, position, size, size]),
    }
