# SPDX-License-Identifier: Apache-2.0
"""Builds MAST trackers from weights files; for paper and official code see `network.py`."""

from __future__ import annotations

from pathlib import Path

import torch

from tracker_ros.checkpoints import read_network
from tracker_ros.engines.select_backend import Backend
from tracker_ros.models.mast.config import MAST_MODELS, PropagationParameters
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
    reference_mode: str = "all",
    behaviour: str = "fixed",
    aligned: bool = True,
    aspect: float = 4 / 3,
) -> MASTTracker:
    """Make a tracker; see `tracker_ros.create_tracker`.

    Args:
        name: One of `MAST_MODELS`.
        backend: Computes the features; the rest runs in torch on the same device.
        weights: A safetensors file.
        sha256: The expected digest of the file, or None.
        working_size: Shorter side, in pixels, that images are reduced to; None for the model's.
        start_shape: What a box stands for: "ellipse", "rectangle" or "grabcut".
        reference_mode: See `PropagationParameters`, likewise `behaviour` and `aligned`.
        behaviour: "fixed", "official_torch11" or "official_modern".
        aligned: False writes labels back half a cell beside, as officially.
        aspect: Width over height of the images, for which a graph is exported and an engine built
            when the model is loaded.
    """
    config, usual = MAST_MODELS[name]
    size = usual if working_size is None else working_size
    parameters = PropagationParameters(
        radius=config.radius, reference_mode=reference_mode, behaviour=behaviour, aligned=aligned
    )
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
