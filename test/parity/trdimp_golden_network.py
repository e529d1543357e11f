# SPDX-License-Identifier: Apache-2.0
"""TrDiMP's modules with the weights of the golden data, built once per process."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from golden_files import trdimp_weights
from torch import Tensor, nn

from tracker_ros.checkpoints import load_strictly
from tracker_ros.models.trdimp.config import RESNET50
from tracker_ros.models.trdimp.network import TrDiMPNetwork


def part_weights(prefix: str) -> dict[str, Tensor]:
    """The golden weights of one module, by its own keys."""
    return {
        key.removeprefix(prefix): torch.from_numpy(np.array(array))
        for key, array in trdimp_weights().items()
        if key.startswith(prefix)
    }


def new_golden_network() -> TrDiMPNetwork:
    """The whole network in eval mode, for whoever takes it over."""
    with torch.device("meta"):
        network = TrDiMPNetwork(RESNET50)
    load_strictly(network, part_weights(""), "golden")
    return network.eval()


@cache
def golden_network() -> TrDiMPNetwork:
    """The same, shared; not to be changed."""
    return new_golden_network()


def with_golden_weights(module: nn.Module, prefix: str) -> nn.Module:
    """`module` in eval mode, loaded from the keys that start with `prefix`."""
    load_strictly(module, part_weights(prefix), prefix)
    return module.eval()


def relative_difference(found: Tensor, wanted: np.ndarray) -> float:
    """Largest absolute difference over the wanted array's largest magnitude."""
    assert tuple(found.shape) == wanted.shape, (tuple(found.shape), wanted.shape)
    return float(np.abs(found.detach().cpu().numpy() - wanted).max() / np.abs(wanted).max())
