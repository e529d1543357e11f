# SPDX-License-Identifier: Apache-2.0
"""Builds MAST trackers from weights files; for paper and official code see `network.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tracker_ros.checkpoints import read_network
from tracker_ros.engines.select_backend import Backend
from tracker_ros.model_options import with_settings
from tracker_ros.models.mast.config import MAST_MODELS, propagation
from tracker_ros.models.mast.export import MASTOnEngines
from tracker_ros.models.mast.network import MASTInference, MASTNetwork
from tracker_ros.models.mast.tracker import FeatureModel, MASTTracker, usual_size


def empty_network(name: str) -> MASTNetwork:
    """Return a model's network on the meta device."""
    with torch.device("meta"):
        return MASTNetwork(MAST_MODELS[name][0])


def create_mast(
    name: str,
    *,
    backend: Backend,
    weights: Path,
    sha256: str | None,
    working_size: int | None = None,
    start_shape: str = "grabcut",
    aspect: float = 4 / 3,
    **settings: Any,
) -> MASTTracker:
    """Make a tracker; see `tracker_ros.create_tracker`.

    Args:
        name: One of `MAST_MODELS`.
        backend: Computes the features; the rest runs in torch on the same device.
        weights: A safetensors file.
        sha256: The expected digest of the file, or None.
        working_size: Shorter side, in pixels, that images are reduced to; None for the model's.
        start_shape: What a box stands for: "ellipse", "rectangle" or "grabcut".
        aspect: Width over height of the images, for which a graph is exported and an engine built
            when the model is loaded.
        **settings: Changes of `PropagationParameters`.
    """
    usual = MAST_MODELS[name][1]
    size = usual if working_size is None else working_size
    parameters = with_settings(propagation(name), settings)
    network = read_network(empty_network(name), weights, sha256)
    model: FeatureModel
    if backend.name == "torch":
        backend.check_precision("fp32")
        model = MASTInference(network, backend.device)
    else:
        model = MASTOnEngines(network, usual_size(size, aspect), backend)
    return MASTTracker(
        model, parameters, working_size=size, start_shape=start_shape, aspect=aspect
    )
