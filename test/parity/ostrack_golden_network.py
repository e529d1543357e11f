# SPDX-License-Identifier: Apache-2.0
"""OSTrack networks with golden weights, made once per configuration."""

from __future__ import annotations

import copy
from functools import lru_cache

import numpy as np
import torch
from golden_files import OSTRACK_GOLDENS, document, golden, golden_weights, network_inputs
from torch import Tensor

from tracker_ros.models.ostrack.candidate_elimination import template_token_mask
from tracker_ros.models.ostrack.config import OSTRACK_CONFIGS
from tracker_ros.models.ostrack.create import build_network
from tracker_ros.models.ostrack.inference import OSTrackInference
from tracker_ros.models.ostrack.network import OSTrackNetwork

NETWORK_FILES = {name: f"{name}_net.npz" for name in OSTRACK_GOLDENS}


@lru_cache(maxsize=1)
def golden_network(name: str) -> OSTrackNetwork:
    """The network with golden weights, in eval mode; copy it before changing it."""
    seed = document(name)["seed"]
    state = {key: torch.from_numpy(v) for key, v in golden_weights(name, seed).items()}
    return build_network(OSTRACK_CONFIGS[OSTRACK_GOLDENS[name]], state, name)


@lru_cache(maxsize=1)
def golden_inference(name: str, packed: bool) -> OSTrackInference:
    """The same network as a tracker runs it."""
    network = copy.deepcopy(golden_network(name))
    return OSTrackInference(network, torch.device("cpu"), packed)


def inputs(name: str) -> tuple[Tensor, Tensor]:
    """Template and search region of a configuration's network golden."""
    meta = golden(NETWORK_FILES[name]).meta
    template, search = network_inputs(name, meta["seed"], meta["batch"])
    return torch.from_numpy(template), torch.from_numpy(search)


def golden_mask(name: str, template_range: str, batch: int) -> Tensor | None:
    """The template mask of a range, for the golden template boxes."""
    boxes = torch.tensor(golden(NETWORK_FILES[name]).meta["template_box_normalised"])[:batch]
    return template_token_mask(template_range, boxes, document(name)["inference"]["template_size"])


def difference(found: Tensor | np.ndarray, wanted: np.ndarray) -> float:
    """Largest absolute difference; shapes must agree and NaN must meet NaN."""
    found = found.detach().numpy() if isinstance(found, Tensor) else found
    assert found.shape == wanted.shape
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    return float(np.nanmax(np.abs(found - wanted)))
