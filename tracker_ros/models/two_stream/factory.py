# SPDX-License-Identifier: Apache-2.0
"""Builds two-stream trackers from weights files; `model_cards.FAMILIES` names them.

Torch is imported only for trackers that need it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_ros.engines.embedded import EmbeddedModel
from tracker_ros.engines.select_backend import Backend
from tracker_ros.model_options import with_settings
from tracker_ros.models.one_stream.config import with_crops_of
from tracker_ros.models.one_stream.factory import load_network, tracker_on
from tracker_ros.models.two_stream.config import TWO_STREAM_CONFIGS
from tracker_ros.models.two_stream.on_engines import TwoStreamOnEngines
from tracker_ros.models.two_stream.tracker import TwoStreamTracker

if TYPE_CHECKING:
    from tracker_ros.models.two_stream.network import TwoStreamNetwork

GRAPHS = ("template", "track", "later_template")


def empty_network(name: str) -> TwoStreamNetwork:
    """Return the network of a model, on the meta device."""
    import torch

    from tracker_ros.models.two_stream.network import TwoStreamNetwork

    with torch.device("meta"):
        return TwoStreamNetwork(TWO_STREAM_CONFIGS[name])


def create_two_stream(
    name: str,
    *,
    backend: Backend | EmbeddedModel,
    weights: Path,
    sha256: str | None,
    **settings: Any,
) -> TwoStreamTracker:
    """Make a two-stream tracker; see `one_stream.factory.create_ostrack`."""
    usual = TWO_STREAM_CONFIGS[name]
    if isinstance(backend, EmbeddedModel):
        config = with_settings(usual, settings)
        graphs = backend.graphs(*GRAPHS, settings=repr(with_crops_of(config, usual)))
        return TwoStreamTracker(TwoStreamOnEngines.on_backend(config, graphs, backend))
    from tracker_ros.models.two_stream.export import two_stream_graphs
    from tracker_ros.models.two_stream.inference import TwoStreamInference
    from tracker_ros.models.two_stream.network import TwoStreamNetwork

    network = load_network(TwoStreamNetwork, usual, settings, weights, sha256)
    network.fold_norm()
    return tracker_on(
        backend,
        TwoStreamTracker,
        lambda: TwoStreamOnEngines.on_backend(network.config, two_stream_graphs(network), backend),
        lambda: TwoStreamInference(network, backend.device),
        "fp32",
    )
