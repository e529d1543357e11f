# SPDX-License-Identifier: Apache-2.0
"""Builds OSTrack and GRM trackers from weights files; `model_cards.FAMILIES` names them.

Torch is imported only for trackers that need it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tracker_ros.engines.embedded import EmbeddedModel
from tracker_ros.engines.graph import PRECISIONS
from tracker_ros.engines.select_backend import GPU_PRECISIONS, Backend
from tracker_ros.model_options import with_settings
from tracker_ros.models.one_stream.config import (
    DEFAULT_THRESHOLD,
    GRM_CONFIGS,
    OSTRACK_CONFIGS,
    CropConfig,
    OneStreamConfig,
    with_crops_of,
)
from tracker_ros.models.one_stream.on_engines import OneStreamOnEngines
from tracker_ros.models.one_stream.tracker import OneStreamTracker

if TYPE_CHECKING:
    from torch import nn

    from tracker_ros.models.one_stream.grm import GRMNetwork
    from tracker_ros.models.one_stream.ostrack import OSTrackNetwork

Network = TypeVar("Network", bound="nn.Module")
TrackerKind = TypeVar("TrackerKind", bound=OneStreamTracker)


def empty_network(name: str) -> OSTrackNetwork | GRMNetwork:
    """Return the network of a model, on the meta device."""
    import torch

    from tracker_ros.models.one_stream.grm import GRMNetwork
    from tracker_ros.models.one_stream.ostrack import OSTrackNetwork

    with torch.device("meta"):
        if name in GRM_CONFIGS:
            return GRMNetwork(GRM_CONFIGS[name])
        return OSTrackNetwork(OSTRACK_CONFIGS[name])


def load_network(
    kind: Callable[[Any], Network],
    config: CropConfig,
    settings: Mapping[str, Any],
    weights: Path,
    sha256: str | None,
) -> Network:
    """Load a network in eval mode; for other sizes of crops its positions are interpolated.

    Args:
        kind: Makes the network from a configuration.
        config: What the weights were trained with.
        settings: Changes of it.
        weights: A safetensors file.
        sha256: The expected digest of the file, or None.
    """
    import torch

    from tracker_ros.checkpoints import load_strictly, read_weights
    from tracker_ros.models.one_stream.network import resample_positions

    changed = with_settings(config, settings)
    with torch.device("meta"):
        network = kind(changed)
    state = read_weights(weights, sha256)
    if isinstance(config, OneStreamConfig) and isinstance(changed, OneStreamConfig):
        state = resample_positions(state, config, changed)
    load_strictly(network, state, weights.name)
    return network.eval()


def tracker_on(
    backend: Backend,
    tracker: Callable[[Any], TrackerKind],
    on_engines: Callable[[], Any],
    in_torch: Callable[[], Any],
    *known: str,
    int8: bool = False,
) -> TrackerKind:
    """Make a tracker whose network a back end computes.

    Args:
        backend: Computes the network.
        tracker: Makes the tracker from what computes it.
        on_engines: Opens the network's engines on it.
        in_torch: Prepares the network for torch.
        known: Precisions of torch.
        int8: Whether engines may compute it in int8.
    """
    backend.check_precision(known, PRECISIONS if int8 else GPU_PRECISIONS)
    return tracker(in_torch() if backend.name == "torch" else on_engines())


def create_ostrack(
    name: str,
    *,
    backend: Backend | EmbeddedModel,
    weights: Path,
    sha256: str | None,
    **settings: Any,
) -> OneStreamTracker:
    """Make an OSTrack tracker; see `tracker_ros.create_tracker`.

    Args:
        name: One of `OSTRACK_CONFIGS`.
        backend: Computes the network.
        weights: A safetensors file.
        sha256: The expected digest of the file, or None.
        **settings: Changes of the configuration; see `config.ostrack_settings`.
    """
    usual = OSTRACK_CONFIGS[name]
    if isinstance(backend, EmbeddedModel):
        config = with_settings(usual, settings)
        graphs = backend.graphs(*config.graphs, settings=repr(with_crops_of(config, usual)))
        return OneStreamTracker(OneStreamOnEngines.on_backend(config, graphs, backend))
    from tracker_ros.models.layers.packed import precisions
    from tracker_ros.models.one_stream.export import ostrack_graphs
    from tracker_ros.models.one_stream.inference import OSTrackInference
    from tracker_ros.models.one_stream.ostrack import OSTrackNetwork

    network = load_network(OSTrackNetwork, usual, settings, weights, sha256)
    return tracker_on(
        backend,
        OneStreamTracker,
        lambda: OneStreamOnEngines.on_backend(network.config, ostrack_graphs(network), backend),
        lambda: OSTrackInference(network, backend.device, precision=backend.precision),
        *precisions(backend.device),
        int8=True,
    )


def create_grm(
    name: str,
    *,
    backend: Backend | EmbeddedModel,
    weights: Path,
    sha256: str | None,
    threshold: str | float = DEFAULT_THRESHOLD,
    **settings: Any,
) -> OneStreamTracker:
    """Make a GRM tracker; see `create_ostrack`.

    The threshold of the token division is a number from 0 to 1, or the name of a data set for
    which the authors chose one; see `GRMConfig.threshold_of`.
    """
    usual = GRM_CONFIGS[name]
    chosen = usual.threshold_of(threshold)
    if isinstance(backend, EmbeddedModel):
        config = with_settings(usual, settings)
        wanted = with_crops_of(config, usual).settings(chosen)
        graphs = backend.graphs(*config.graphs, settings=wanted)
        return OneStreamTracker(OneStreamOnEngines.on_backend(config, graphs, backend))
    from tracker_ros.models.layers.packed import precisions
    from tracker_ros.models.one_stream.export import grm_graphs
    from tracker_ros.models.one_stream.grm import GRMNetwork
    from tracker_ros.models.one_stream.inference import GRMInference

    network = load_network(GRMNetwork, usual, settings, weights, sha256)
    return tracker_on(
        backend,
        OneStreamTracker,
        lambda: OneStreamOnEngines.on_backend(
            network.config, grm_graphs(network, chosen), backend
        ),
        lambda: GRMInference(
            network, backend.device, threshold=chosen, precision=backend.precision
        ),
        *precisions(backend.device),
        int8=True,
    )
