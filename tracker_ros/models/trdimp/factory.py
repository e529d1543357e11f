# SPDX-License-Identifier: Apache-2.0
"""Builds TrDiMP and TrSiam trackers from weights files; for paper and code see `network.py`."""

from __future__ import annotations

from pathlib import Path

import torch

from tracker_ros.checkpoints import read_network
from tracker_ros.engines.select_backend import Backend
from tracker_ros.models.trdimp.config import TRDIMP_MODELS
from tracker_ros.models.trdimp.export import graphs
from tracker_ros.models.trdimp.inference import TrDiMPInference, TrDiMPOnEngines
from tracker_ros.models.trdimp.network import TrDiMPNetwork
from tracker_ros.models.trdimp.tracker import TrDiMPTracker


def empty_network(name: str) -> TrDiMPNetwork:
    """A model's network on the meta device."""
    with torch.device("meta"):
        return TrDiMPNetwork(TRDIMP_MODELS[name][0])


def create_trdimp(
    name: str, *, backend: Backend, weights: Path, sha256: str | None, seed: int = 0
) -> TrDiMPTracker:
    """Make a tracker; see `tracker_ros.create_tracker`.

    Args:
        name: One of `TRDIMP_MODELS`.
        backend: What computes it.
        weights: A safetensors file.
        sha256: What it must hash to, or None.
        seed: Of the random draws (augmentation of the first image, starts of the refinement);
            every `initialize` begins anew from it, so that a run repeats exactly.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}; expected an integer of at least 0")
    _, parameters = TRDIMP_MODELS[name]
    network = read_network(empty_network(name), weights, sha256)
    model: TrDiMPInference | TrDiMPOnEngines
    if backend.name == "torch":
        backend.check_precision("fp32")
        model = TrDiMPInference(network, backend.device)
    else:
        parts = graphs(network, parameters)
        model = TrDiMPOnEngines(network.config, parts, backend.open, backend.device)
    return TrDiMPTracker(model, parameters, seed=seed)
