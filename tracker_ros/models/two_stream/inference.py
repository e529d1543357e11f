# SPDX-License-Identifier: Apache-2.0
"""The two-stream network as a tracker runs it in torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tracker_ros.models.layers.center_head import HeadMaps
from tracker_ros.models.layers.packed import in_float32
from tracker_ros.models.two_stream.network import TwoStreamNetwork
from tracker_ros.models.two_stream.tracker import Templates


class TwoStreamInference:
    """A trained network, prepared for tracking.

    Args:
        network: Loaded, in eval mode; it is taken over.
        device: Device to run on.
    """

    def __init__(self, network: TwoStreamNetwork, device: torch.device) -> None:
        self.config, self.device = network.config, device
        self.network = network.eval().to(device)
        self.network.body.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._features: Tensor | None = None

    @property
    def runtime_info(self) -> dict[str, str]:
        """Back end, device and precision in use."""
        return {"backend": "torch", "device": str(self.device), "precision": "fp32"}

    def _look(self, crops: Tensor) -> Tensor:
        crops = crops.to(self.device).contiguous(memory_format=torch.channels_last)
        return self.network.features(self.network.body_features(crops))

    @torch.inference_mode()
    @in_float32
    def encode_template(self, template: Tensor, box_xywh: Tensor) -> Tensor:
        """Read the first template from a crop (1, 3, T, T), at a box (1, 4) in fractions of it."""
        return self.network.read_template(self._look(template), box_xywh.to(self.device))

    @torch.inference_mode()
    @in_float32
    def read_template(self, sample: int, box_xywh: Tensor) -> Tensor:
        """Read a template from a sample of the last pass, at a box (1, 4) as fractions of it."""
        if self._features is None:
            raise RuntimeError("read_template() was called before locate()")
        features = self._features[sample : sample + 1]
        return self.network.read_template(features, box_xywh.to(self.device))

    @torch.inference_mode()
    def similarity(self, template: Templates, sample: int) -> Tensor:
        """Return how alike each cell of a sample of the last pass is to the likest of a template.

        (2, n, n) in [0, 1] on the CPU, for both templates.
        """
        if self._features is None:
            raise RuntimeError("similarity() was called before locate()")
        width, grid = self.config.embed_dim, self.config.search_grid
        cells = self._features[sample, width:].flatten(1)
        alike = torch.stack([(keys[0, :, width:] @ cells).amax(0) for keys in template])
        return alike.unflatten(1, (grid, grid)).clamp(0, 1).float().cpu()

    def locate(self, template: Templates, search: Tensor) -> HeadMaps:
        """Return the maps of one search region (1, 3, S, S), normalised RGB."""
        return self.locate_batch([template], search)

    @torch.inference_mode()
    @in_float32
    def locate_batch(self, templates: Sequence[Templates], searches: Tensor) -> HeadMaps:
        """Return the maps of one (3, S, S) search region per pair of templates, in one pass."""
        pairs = torch.cat([torch.stack(pair, 1) for pair in templates])
        self._features = self._look(searches)
        return self.network.locate(pairs, self._features)
