# SPDX-License-Identifier: Apache-2.0
"""Builds TrDiMP and TrSiam trackers from weights files; `model_cards.FAMILIES` names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tracker_ros.checkpoints import read_network
from tracker_ros.cuda.prroi_pool import fastest_prroi_pool
from tracker_ros.engines.select_backend import Backend
from tracker_ros.model_options import with_settings
from tracker_ros.models.trdimp.boxes import pooled_maps
from tracker_ros.models.trdimp.config import TRDIMP_MODELS
from tracker_ros.models.trdimp.export import graphs
from tracker_ros.models.trdimp.inference import TrDiMPInference, TrDiMPOnEngines
from tracker_ros.models.trdimp.network import TrDiMPNetwork
from tracker_ros.models.trdimp.tracker import TrDiMPTracker


def empty_network(name: str) -> TrDiMPNetwork:
    """Return the network of a model, on the meta device."""
    with torch.device("meta"):
        return TrDiMPNetwork(TRDIMP_MODELS[name][0])


def create_trdimp(
    name: str,
    *,
    backend: Backend,
    weights: Path,
    sha256: str | None,
    seed: int = 0,
    **settings: Any,
) -> TrDiMPTracker:
    """Make a tracker; see `tracker_ros.create_tracker`.

    Args:
        name: One of `TRDIMP_MODELS`.
        backend: Computes the network.
        weights: A safetensors file.
        sha256: The expected digest of the file, or None.
        seed: Seed of the random numbers (augmentation of the first image, starts of the
            refinement). Every `initialize` starts from it again, so a run repeats exactly.
        **settings: Changes of `TrackingParameters`.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}; expected an integer of at least 0")
    parameters = with_settings(TRDIMP_MODELS[name][1], settings)
    network = read_network(empty_network(name), weights, sha256)
    model: TrDiMPInference | TrDiMPOnEngines
    if backend.name == "torch":
        backend.check_precision("fp32")
        maps, boxes = pooled_maps(network.config, parameters), 1 + parameters.num_init_random_boxes
        pool = fastest_prroi_pool(backend.device, maps, boxes)
        model = TrDiMPInference(network, backend.device, pool=pool)
    else:
        parts = graphs(network, parameters)
        model = TrDiMPOnEngines(network.config, parts, backend.open, backend.device)
    return TrDiMPTracker(model, parameters, seed=seed)
