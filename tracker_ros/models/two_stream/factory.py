# SPDX-License-Identifier: Apache-2.0
"""Builds two-stream trackers from weights files; `model_cards.FAMILIES` names them."""

from __future__ import annotations

from pathlib import Path

import torch

from tracker_ros.checkpoints import read_network
from tracker_ros.engines.select_backend import Backend
from tracker_ros.models.two_stream.config import TWO_STREAM_CONFIGS
from tracker_ros.models.two_stream.export import on_backend, two_stream_graphs
from tracker_ros.models.two_stream.inference import TwoStreamInference
from tracker_ros.models.two_stream.network import TwoStreamNetwork
from tracker_ros.models.two_stream.tracker import TwoStreamTracker


def empty_network(name: str) -> TwoStreamNetwork:
    """Return the network of a model, on the meta device."""
    with torch.device("meta"):
        return TwoStreamNetwork(TWO_STREAM_CONFIGS[name])


def create_two_stream(
    name: str, *, backend: Backend, weights: Path, sha256: str | None
) -> TwoStreamTracker:
    """Make a two-stream tracker; see `tracker_ros.create_tracker`.

    Args:
        name: One of `TWO_STREAM_CONFIGS`.
        backend: Computes the network.
        weights: A safetensors file.
        sha256: The expected digest of the file, or None.
    """
    network = read_network(empty_network(name), weights, sha256)
    network.fold_norm()
    if backend.name != "torch":
        return TwoStreamTracker(on_backend(network.config, two_stream_graphs(network), backend))
    backend.check_precision("fp32")
    return TwoStreamTracker(TwoStreamInference(network, backend.device))
