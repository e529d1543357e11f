# SPDX-License-Identifier: Apache-2.0
"""Builds MAST trackers from weights files; for paper and official code see `network.py`.

Torch is imported only for trackers that need it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_ros.engines.embedded import EmbeddedModel
from tracker_ros.engines.graph import EngineUnavailable
from tracker_ros.engines.select_backend import Backend
from tracker_ros.model_options import with_settings
from tracker_ros.models.mast.config import MAST_MODELS, propagation
from tracker_ros.models.mast.on_engines import ANY_SIZE, EmbeddedFeatures
from tracker_ros.models.mast.tracker import FeatureModel, MASTTracker, usual_size

if TYPE_CHECKING:
    from tracker_ros.models.mast.network import MASTNetwork


def empty_network(name: str) -> MASTNetwork:
    """Return a model's network on the meta device."""
    import torch

    from tracker_ros.models.mast.network import MASTNetwork

    with torch.device("meta"):
        return MASTNetwork(MAST_MODELS[name][0])


def create_mast(
    name: str,
    *,
    backend: Backend | EmbeddedModel,
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
        backend: Computes the features; the rest runs in torch on the same device, or in NumPy
            where the graph is embedded.
        weights: A safetensors file.
        sha256: The expected digest of the file, or None.
        working_size: Shorter side, in pixels, that images are reduced to; None for the model's.
        start_shape: What a box stands for: "ellipse", "rectangle" or "grabcut".
        aspect: Width over height of the images, for which a graph is exported and an engine built
            when the model is loaded.
        **settings: Changes of `PropagationParameters`.
    """
    config, usual = MAST_MODELS[name]
    size = usual if working_size is None else working_size
    parameters = with_settings(propagation(name), settings)
    model: FeatureModel
    if isinstance(backend, EmbeddedModel):
        if parameters.behaviour != "fixed":
            raise EngineUnavailable(f"behaviour {parameters.behaviour!r} needs PyTorch")
        graph = backend.graph(ANY_SIZE, repr(config))
        model = EmbeddedFeatures(backend.open(graph))
    else:
        model = _torch_model(name, backend, weights, sha256, usual_size(size, aspect))
    return MASTTracker(
        model, parameters, working_size=size, start_shape=start_shape, aspect=aspect
    )


def _torch_model(
    name: str, backend: Backend, weights: Path, sha256: str | None, size: tuple[int, int]
) -> FeatureModel:
    from tracker_ros.checkpoints import read_network
    from tracker_ros.models.mast.export import MASTOnEngines
    from tracker_ros.models.mast.network import MASTInference

    backend.check_precision(("fp32",))
    network = read_network(empty_network(name), weights, sha256)
    if backend.name == "torch":
        return MASTInference(network, backend.device)
    return MASTOnEngines(network, size, backend)
