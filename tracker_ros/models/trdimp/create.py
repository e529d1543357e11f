# SPDX-License-Identifier: Apache-2.0
"""Builds TrDiMP and TrSiam trackers from weights files; for paper and code see `network.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from tracker_ros.devices import resolve_device
from tracker_ros.models.trdimp.config import TRDIMP_MODELS, TrDiMPConfig
from tracker_ros.models.trdimp.inference import TrDiMPInference
from tracker_ros.models.trdimp.network import TrDiMPNetwork
from tracker_ros.models.trdimp.tracker import TrDiMPTracker
from tracker_ros.weight_files import load_strictly, read_weights


def empty_network(name: str) -> TrDiMPNetwork:
    """A model's network on the meta device."""
    with torch.device("meta"):
        return TrDiMPNetwork(TRDIMP_MODELS[name][0])


def build_network(
    config: TrDiMPConfig, state: Mapping[str, torch.Tensor], name: str = "given"
) -> TrDiMPNetwork:
    """A network that holds the tensors of `state`, in eval mode.

    Raises:
        ValueError: Keys or shapes do not fit `config`.
    """
    with torch.device("meta"):
        network = TrDiMPNetwork(config)
    load_strictly(network, state, name)
    return network.eval()


def create(
    name: str, *, device: str, weights: Path, sha256: str | None, seed: int = 0
) -> TrDiMPTracker:
    """Make a tracker; see `tracker_ros.create_tracker`.

    Args:
        name: One of `TRDIMP_MODELS`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        weights: A safetensors file.
        sha256: What it must hash to, or None.
        seed: Of the random draws (augmentation of the first image, starts of the refinement);
            every `initialize` begins anew from it, so that a run repeats exactly.
    """
    config, parameters = TRDIMP_MODELS[name]
    target = resolve_device(device)
    network = build_network(config, read_weights(weights, sha256), weights.name)
    return TrDiMPTracker(TrDiMPInference(network, target), parameters, seed=seed)
