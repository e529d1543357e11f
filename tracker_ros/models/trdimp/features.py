# SPDX-License-Identifier: Apache-2.0
"""What TrDiMP's network makes of patches, as torch tensors or as NumPy arrays of ONNX Runtime."""

from __future__ import annotations

from typing import NamedTuple

from tracker_ros.arrays import Array


class PatchFeatures(NamedTuple):
    """Features of N patches.

    Attributes:
        layer2: (N, layer2_dim, S / 8, S / 8).
        layer3: (N, layer3_dim, S / 16, S / 16).
        classification: (N, feature_dim, S / 16, S / 16), every image normalised.
    """

    layer2: Array
    layer3: Array
    classification: Array


class Modulation(NamedTuple):
    """Describes a target by factors on the channels of `IoUFeatures`: (N, iou_dim, 1, 1) each."""

    layer2: Array
    layer3: Array
