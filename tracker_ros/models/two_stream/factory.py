# SPDX-License-Identifier: Apache-2.0
"""Builds two-stream trackers from weights files; `model_cards.FAMILIES` names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tracker_ros.engines.select_backend import Backend
from tracker_ros.models.one_stream.factory import load_network, tracker_on
from tracker_ros.models.two_stream.config import TWO_STREAM_CONFIGS
from tracker_ros.models.two_stream.export import TwoStreamOnEngines, two_stream_graphs
from tracker_ros.models.two_stream.inference import TwoStreamInference
from tracker_ros.models.two_stream.network import TwoStreamNetwork
from tracker_ros.models.two_stream.tracker import TwoStreamTracker


def empty_network(name: str) -> TwoStreamNetwork:
    """Return the network of a model, on the meta device."""
    with torch.device("meta"):
        return TwoStreamNetwork(TWO_STREAM_CONFIGS[name])


def create_two_stream(
    name: str, *, backend: Backend, weights: Path, sha256: str | None, **settings: Any
) -> TwoStreamTracker:
    """Make a two-stream tracker; see `one_stream.factory.create_ostrack`."""
    network = load_network(TwoStreamNetwork, TWO_STREAM_CONFIGS[name], settings, weights, sha256)
    network.fold_norm()
    return tracker_on(
        backend,
        TwoStreamTracker,
        lambda: TwoStreamOnEngines.on_backend(network.config, two_stream_graphs(network), backend),
        lambda: TwoStreamInference(network, backend.device),
        "fp32",
    )
