# SPDX-License-Identifier: Apache-2.0
"""MAST's features as a tracker computes them: norms folded, weights laid out for oneDNN.

Paper and official code: see `network.py`; the numbers are the same up to rounding.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from tracker_ros.models.inference_layers import can_pack, for_inference, in_float32
from tracker_ros.models.mast.lab import network_input
from tracker_ros.models.mast.network import MASTNetwork


class MASTInference:
    """Features of one image at a time.

    Args:
        network: Loaded, in eval mode; it is copied.
        device: Where to compute.
    """

    def __init__(self, network: MASTNetwork, device: torch.device) -> None:
        self.device = device
        self._packed = can_pack(device)
        self._network = for_inference(copy.deepcopy(network).to(device), packed=self._packed)

    @torch.inference_mode()
    @in_float32
    def features(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 RGB -> (1, C, ceil(H / 4), ceil(W / 4)) float32."""
        return self._network(torch.from_numpy(network_input(image)).to(self.device))

    @property
    def runs_on(self) -> dict[str, str]:
        """Back end, device and precision in use."""
        return {"backend": "torch", "device": str(self.device), "precision": "fp32"}
