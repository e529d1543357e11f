# SPDX-License-Identifier: Apache-2.0
"""Builds GRM trackers from weights files; for paper and official code see `network.py`."""

from __future__ import annotations

from pathlib import Path

import torch

from tracker_ros.devices import resolve_device
from tracker_ros.models.grm.config import DEFAULT_THRESHOLD, GRM_CONFIGS
from tracker_ros.models.grm.inference import GRMInference
from tracker_ros.models.grm.network import GRMNetwork
from tracker_ros.models.one_stream_tracker import OneStreamTracker
from tracker_ros.weight_files import read_network


def empty_network(name: str) -> GRMNetwork:
    """A model's network on the meta device."""
    with torch.device("meta"):
        return GRMNetwork(GRM_CONFIGS[name])


def create(
    name: str,
    *,
    device: str,
    weights: Path,
    sha256: str | None,
    threshold: str | float = DEFAULT_THRESHOLD,
) -> OneStreamTracker:
    """Make a tracker; see `tracker_ros.create_tracker`.

    Args:
        name: One of `GRM_CONFIGS`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        weights: A safetensors file.
        sha256: What it must hash to, or None.
        threshold: Of the division: a number from 0 to 1, or the name of the data set that the
            authors chose one for; see `GRMConfig.threshold_of`.
    """
    config, target = GRM_CONFIGS[name], resolve_device(device)
    chosen = config.threshold_of(threshold)
    network = read_network(empty_network(name), weights, sha256)
    return OneStreamTracker(GRMInference(network, target, threshold=chosen))
