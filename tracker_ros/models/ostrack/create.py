# SPDX-License-Identifier: Apache-2.0
"""Builds OSTrack trackers from weights files; for paper and official code see `network.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from tracker_ros.devices import resolve_device
from tracker_ros.models.one_stream_tracker import OneStreamTracker
from tracker_ros.models.ostrack.config import OSTRACK_CONFIGS, OSTrackConfig
from tracker_ros.models.ostrack.inference import OSTrackInference
from tracker_ros.models.ostrack.network import OSTrackNetwork
from tracker_ros.weight_files import load_strictly, read_weights


def empty_network(name: str) -> OSTrackNetwork:
    """A model's network on the meta device."""
    with torch.device("meta"):
        return OSTrackNetwork(OSTRACK_CONFIGS[name])


def build_network(
    config: OSTrackConfig, state: Mapping[str, torch.Tensor], name: str = "given"
) -> OSTrackNetwork:
    """A network that holds the tensors of `state`, in eval mode.

    Raises:
        ValueError: Keys or shapes do not fit `config`.
    """
    with torch.device("meta"):
        network = OSTrackNetwork(config)
    load_strictly(network, state, name)
    return network.eval()


def create(name: str, *, device: str, weights: Path, sha256: str | None) -> OneStreamTracker:
    """The factory of the family `ostrack`; see `tracker_ros.create_tracker`."""
    target = resolve_device(device)
    network = build_network(OSTRACK_CONFIGS[name], read_weights(weights, sha256), weights.name)
    return OneStreamTracker(OSTrackInference(network, target))
