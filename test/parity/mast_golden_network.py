# SPDX-License-Identifier: Apache-2.0
"""MAST's network with the weights of the golden data."""

from __future__ import annotations

import numpy as np
import torch
from golden_files import mast_weights

from tracker_ros.checkpoints import load_strictly
from tracker_ros.models.mast.config import MAST_RESNET18
from tracker_ros.models.mast.network import MASTNetwork


def golden_network() -> MASTNetwork:
    """A network of its own for each caller, in eval mode."""
    with torch.device("meta"):
        network = MASTNetwork(MAST_RESNET18)
    state = {key: torch.from_numpy(np.array(array)) for key, array in mast_weights().items()}
    load_strictly(network, state, "golden")
    return network.eval()
