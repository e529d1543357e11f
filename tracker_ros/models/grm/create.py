# SPDX-License-Identifier: Apache-2.0
"""Builds GRM trackers from weights files; for paper and official code see `network.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from tracker_ros.devices import resolve_device
from tracker_ros.models.grm.config import DEFAULT_THRESHOLD, GRM_CONFIGS, GRMConfig
from tracker_ros.models.grm.inference import GRMInference
from tracker_ros.models.grm.network import GRMNetwork
from tracker_ros.models.one_stream_tracker import OneStreamTracker
from tracker_ros.weight_files import load_strictly, read_weights


def empty_network(name: str) -> GRMNetwork:
    """A model's network on the meta device."""
    with torch.device("meta"):
        return GRMNetwork(GRM_CONFIGS[name])


def build_network(
    config: GRMConfig, state: Mapping[str, torch.Tensor], name: str = "given"
) -> GRMNetwork:
    """A network that holds the tensors of `state`, in eval mode.

    Raises:
        ValueError: Keys or shapes do not fit `config`.
    """
    with torch.device("meta"):
        network = GRMNetwork(config)
    load_strictly(network, state, name)
    return network.eval()


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
    network = build_network(config, read_weights(weights, sha256), weights.name)
    return OneStreamTracker(GRMInference(network, target, threshold=chosen))
