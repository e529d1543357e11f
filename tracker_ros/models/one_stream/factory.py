# SPDX-License-Identifier: Apache-2.0
"""Builds OSTrack and GRM trackers from weights files; `model_cards.FAMILIES` names them."""

from __future__ import annotations

from pathlib import Path

import torch

from tracker_ros.checkpoints import read_network
from tracker_ros.engines.select_backend import Backend
from tracker_ros.models.layers.packed import precisions
from tracker_ros.models.one_stream.config import DEFAULT_THRESHOLD, GRM_CONFIGS, OSTRACK_CONFIGS
from tracker_ros.models.one_stream.export import grm_graphs, on_backend, ostrack_graphs
from tracker_ros.models.one_stream.fast_cpu import OSTrackInference
from tracker_ros.models.one_stream.grm import GRMNetwork
from tracker_ros.models.one_stream.grm_fast_cpu import GRMInference
from tracker_ros.models.one_stream.ostrack import OSTrackNetwork
from tracker_ros.models.one_stream.tracker import OneStreamTracker


def empty_network(name: str) -> OSTrackNetwork | GRMNetwork:
    """Return the network of a model, on the meta device."""
    with torch.device("meta"):
        if name in GRM_CONFIGS:
            return GRMNetwork(GRM_CONFIGS[name])
        return OSTrackNetwork(OSTRACK_CONFIGS[name])


def create_ostrack(
    name: str, *, backend: Backend, weights: Path, sha256: str | None
) -> OneStreamTracker:
    """Make an OSTrack tracker; see `tracker_ros.create_tracker`.

    Args:
        name: One of `OSTRACK_CONFIGS`.
        backend: Computes the network.
        weights: A safetensors file.
        sha256: The expected digest of the file, or None.
    """
    network = read_network(empty_network(name), weights, sha256)
    assert isinstance(network, OSTrackNetwork)
    if backend.name != "torch":
        return OneStreamTracker(on_backend(network.config, ostrack_graphs(network), backend))
    backend.check_precision(*precisions(backend.device))
    return OneStreamTracker(OSTrackInference(network, backend.device, precision=backend.precision))


def create_grm(
    name: str,
    *,
    backend: Backend,
    weights: Path,
    sha256: str | None,
    threshold: str | float = DEFAULT_THRESHOLD,
) -> OneStreamTracker:
    """Make a GRM tracker; see `create_ostrack`.

    The threshold of the token division is a number from 0 to 1, or the name of a data set for
    which the authors chose one; see `GRMConfig.threshold_of`.
    """
    chosen = GRM_CONFIGS[name].threshold_of(threshold)
    network = read_network(empty_network(name), weights, sha256)
    assert isinstance(network, GRMNetwork)
    if backend.name != "torch":
        return OneStreamTracker(on_backend(network.config, grm_graphs(network, chosen), backend))
    backend.check_precision(*precisions(backend.device))
    model = GRMInference(network, backend.device, threshold=chosen, precision=backend.precision)
    return OneStreamTracker(model)
