# SPDX-License-Identifier: Apache-2.0
"""Builds TrDiMP and TrSiam trackers from weights files; `model_cards.FAMILIES` names them.

Torch is imported only for trackers that need it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_ros.engines.embedded import EmbeddedModel
from tracker_ros.engines.select_backend import Backend
from tracker_ros.model_options import with_settings
from tracker_ros.models.trdimp.config import TRDIMP_MODELS, TrackingParameters
from tracker_ros.models.trdimp.on_engines import TrDiMPOnEngines, check_sizes, graph_names
from tracker_ros.models.trdimp.tracker import TrDiMPTracker

if TYPE_CHECKING:
    from tracker_ros.models.trdimp.inference import TrDiMPInference
    from tracker_ros.models.trdimp.network import TrDiMPNetwork


def empty_network(name: str) -> TrDiMPNetwork:
    """Return the network of a model, on the meta device."""
    import torch

    from tracker_ros.models.trdimp.network import TrDiMPNetwork

    with torch.device("meta"):
        return TrDiMPNetwork(TRDIMP_MODELS[name][0])


def create_trdimp(
    name: str,
    *,
    backend: Backend | EmbeddedModel,
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
    config, usual = TRDIMP_MODELS[name]
    parameters = with_settings(usual, settings)
    model: TrDiMPInference | TrDiMPOnEngines
    if isinstance(backend, EmbeddedModel):
        check_sizes(parameters, usual)
        parts = backend.graphs(*graph_names(parameters), settings=str(config))
        model = TrDiMPOnEngines(config, parts, backend.open, None)
    else:
        model = _torch_model(name, parameters, backend, weights, sha256)
    return TrDiMPTracker(model, parameters, seed=seed)


def _torch_model(
    name: str,
    parameters: TrackingParameters,
    backend: Backend,
    weights: Path,
    sha256: str | None,
) -> TrDiMPInference | TrDiMPOnEngines:
    from tracker_ros.checkpoints import read_network
    from tracker_ros.cuda.prroi_pool import fastest_prroi_pool
    from tracker_ros.models.trdimp.boxes import pooled_maps
    from tracker_ros.models.trdimp.export import graphs
    from tracker_ros.models.trdimp.inference import TrDiMPInference

    backend.check_precision(("fp32",))
    network = read_network(empty_network(name), weights, sha256)
    if backend.name == "torch":
        maps, boxes = pooled_maps(network.config, parameters), 1 + parameters.num_init_random_boxes
        pool = fastest_prroi_pool(backend.device, maps, boxes)
        return TrDiMPInference(network, backend.device, pool=pool)
    device = None if backend.name == "onnxruntime" else backend.device
    return TrDiMPOnEngines(network.config, graphs(network, parameters), backend.open, device)
