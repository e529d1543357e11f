# SPDX-License-Identifier: Apache-2.0
"""Builds OSTrack trackers from weights files; for paper and official code see `network.py`."""

from __future__ import annotations

from pathlib import Path

import torch

from tracker_ros.checkpoints import read_network
from tracker_ros.engines.select_backend import Backend
from tracker_ros.models.layers.packed import precisions
from tracker_ros.models.one_stream.config import OSTRACK_CONFIGS
from tracker_ros.models.one_stream.export import ostrack_graphs
from tracker_ros.models.one_stream.on_engines import on_backend
from tracker_ros.models.one_stream.ostrack import OSTrackNetwork
from tracker_ros.models.one_stream.ostrack_fast_cpu import OSTrackInference
from tracker_ros.models.one_stream.tracker import OneStreamTracker


def empty_network(name: str) -> OSTrackNetwork:
    """A model's network on the meta device."""
    with torch.device("meta"):
        return OSTrackNetwork(OSTRACK_CONFIGS[name])


def create(name: str, *, backend: Backend, weights: Path, sha256: str | None) -> OneStreamTracker:
    """The factory of the family `ostrack`; see `tracker_ros.create_tracker`."""
    network = read_network(empty_network(name), weights, sha256)
    if backend.name == "torch":
        backend.check_precision(*precisions(backend.device))
        return OneStreamTracker(
            OSTrackInference(network, backend.device, precision=backend.precision)
        )
    return OneStreamTracker(on_backend(network.config, ostrack_graphs(network), backend))
