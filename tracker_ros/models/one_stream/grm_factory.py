# SPDX-License-Identifier: Apache-2.0
"""Builds GRM trackers from weights files; for paper and official code see `network.py`."""

from __future__ import annotations

from pathlib import Path

import torch

from tracker_ros.checkpoints import read_network
from tracker_ros.engines.select_backend import Backend
from tracker_ros.models.layers.packed import precisions
from tracker_ros.models.one_stream.config import DEFAULT_THRESHOLD, GRM_CONFIGS
from tracker_ros.models.one_stream.export import grm_graphs
from tracker_ros.models.one_stream.grm import GRMNetwork
from tracker_ros.models.one_stream.grm_fast_cpu import GRMInference
from tracker_ros.models.one_stream.on_engines import on_backend
from tracker_ros.models.one_stream.tracker import OneStreamTracker


def empty_network(name: str) -> GRMNetwork:
    """A model's network on the meta device."""
    with torch.device("meta"):
        return GRMNetwork(GRM_CONFIGS[name])


def create(
    name: str,
    *,
    backend: Backend,
    weights: Path,
    sha256: str | None,
    threshold: str | float = DEFAULT_THRESHOLD,
) -> OneStreamTracker:
    """Make a tracker; see `tracker_ros.create_tracker`.

    Args:
        name: One of `GRM_CONFIGS`.
        backend: What computes it.
        weights: A safetensors file.
        sha256: What it must hash to, or None.
        threshold: Of the division: a number from 0 to 1, or the name of the data set that the
            authors chose one for; see `GRMConfig.threshold_of`.
    """
    chosen = GRM_CONFIGS[name].threshold_of(threshold)
    network = read_network(empty_network(name), weights, sha256)
    if backend.name == "torch":
        backend.check_precision(*precisions(backend.device))
        return OneStreamTracker(
            GRMInference(network, backend.device, threshold=chosen, precision=backend.precision)
        )
    return OneStreamTracker(on_backend(network.config, grm_graphs(network, chosen), backend))
