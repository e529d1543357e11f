# SPDX-License-Identifier: Apache-2.0
"""OSTrack and GRM as a tracker runs them in torch: the networks of training, with fixed weights.

Papers and official codes: see `ostrack.py` and `grm.py`. Written for this package; the official
codes run their training modules. A template is embedded once, not per frame. Batch norms are
folded into the convolutions, and on a CPU weights are laid out for the matrix library
(`layers/packed.py`). Everything else that saves work is in the networks themselves, which are also
what is exported.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tracker_ros.models.layers.center_head import BRANCHES, HeadMaps
from tracker_ros.models.layers.packed import (
    can_pack,
    fix_linear_layers,
    for_inference,
    in_float32,
    precisions,
)
from tracker_ros.models.one_stream.candidate_elimination import (
    RankingRows,
    ranking_rows,
    stack_rows,
)
from tracker_ros.models.one_stream.config import OneStreamConfig, OSTrackConfig
from tracker_ros.models.one_stream.grm import GRMNetwork, template_tokens_in_box
from tracker_ros.models.one_stream.network import OneStreamNetwork
from tracker_ros.models.one_stream.ostrack import OSTrackNetwork

FLOAT32 = ("divide_predict", *(f"conv5_{branch}" for branch in BRANCHES))
"""Modules that stay float32 in bf16: what decides on tokens, and what boxes are read from."""


class EncodedTemplate(NamedTuple):
    """The template as the tracker keeps it."""

    tokens: Tensor  # (B, Nz, C) embedded, with positions
    # what else the network takes from the target's box: the `RankingRows` of OSTrack, None without
    # candidate elimination; for GRM the (B, Nz) mask of `template_tokens_in_box`
    of_box: Any


class OneStreamInference(ABC):
    """A trained network, prepared for tracking.

    Args:
        network: Loaded, in eval mode; its modules are taken over and changed.
        device: Device to run on.
        packed: Use oneDNN's prepacked layers; None uses them where this build of torch has them.
        precision: "fp32" or "bf16".

    Raises:
        ValueError: This device does not gain by the precision.
    """

    config: OneStreamConfig

    def __init__(
        self,
        network: OneStreamNetwork,
        device: torch.device,
        packed: bool | None = None,
        precision: str = "fp32",
    ) -> None:
        if precision not in precisions(device):
            raise ValueError(
                f"precision {precision!r} is not available on {device}; expected "
                f"{' or '.join(precisions(device))} (bf16 needs a CPU with AVX-512-BF16 or AMX, "
                "and a build of torch with oneDNN)"
            )
        self.config, self.device, self.precision = network.config, device, precision
        self.network = network.eval().to(device)
        packs = can_pack(device) if packed is None else packed
        prepare(self.network, packs, torch.bfloat16 if precision == "bf16" else None)
        self._masks: list[Tensor] | None = None
        """Of the last `locate`: (B, n * n) bool for every layer that decides on tokens."""

    @abstractmethod
    def _read_box(self, box_xywh: Tensor) -> Any:
        """Return `EncodedTemplate.of_box` for a (1, 4) box as fractions of the template."""

    @abstractmethod
    def _run(self, template: EncodedTemplate, search: Tensor) -> tuple[HeadMaps, list[Tensor]]:
        """Return the maps of (B, Nx, C) embedded search tokens, and the masks for `_masks`."""

    @abstractmethod
    def _stack(self, of_boxes: Sequence[Any]) -> Any:
        """Return `EncodedTemplate.of_box` of several targets together."""

    @torch.inference_mode()
    @in_float32
    def encode_template(self, template: Tensor, box_xywh: Tensor) -> EncodedTemplate:
        """Embed a (1, 3, T, T) normalised template with its (1, 4) box as fractions of it."""
        box = box_xywh.to(self.device)
        tokens = self.network.backbone.embed_template(template.to(self.device), box)
        return EncodedTemplate(tokens, self._read_box(box))

    @torch.inference_mode()
    @in_float32
    def locate(self, template: EncodedTemplate, search: Tensor) -> HeadMaps:
        """Return the maps of search regions (B, 3, S, S), normalised RGB, one per template."""
        embedded = self.network.backbone.embed_search(search.to(self.device))
        maps, self._masks = self._run(template, embedded)
        return maps

    @torch.inference_mode()
    def locate_batch(self, templates: Sequence[EncodedTemplate], searches: Tensor) -> HeadMaps:
        """Return the maps of one (3, S, S) search region per template, in one pass."""
        tokens = torch.cat([template.tokens for template in templates])
        of_boxes = self._stack([template.of_box for template in templates])
        return self.locate(EncodedTemplate(tokens, of_boxes), searches)

    def token_mask(self) -> np.ndarray | None:
        """Return (B, layers, n, n) bool of the last `locate`; see `TrackResult.token_mask`.

        None without candidate elimination. Raises RuntimeError if `locate` was not called yet.
        """
        if self._masks is None:
            raise RuntimeError("token_mask() was called before locate()")
        if not self._masks:
            return None
        masks = torch.stack(self._masks, dim=1)
        n = math.isqrt(masks.shape[2])
        return masks.unflatten(2, (n, n)).cpu().numpy()

    @property
    def runtime_info(self) -> dict[str, str]:
        """Back end, device and precision in use."""
        return {"backend": "torch", "device": str(self.device), "precision": self.precision}


def prepare(network: OneStreamNetwork, packed: bool, dtype: torch.dtype | None) -> None:
    """Fix the layers of a network in place; see `for_inference`."""
    for_inference(network, packed=packed, dtype=dtype, but=FLOAT32)
    if packed or dtype is not None:
        fix_linear_layers(network, packed=packed, dtype=dtype, but=FLOAT32)


class OSTrackInference(OneStreamInference):
    """OSTrack, prepared for tracking; see `OneStreamInference`."""

    network: OSTrackNetwork
    config: OSTrackConfig

    def _read_box(self, box_xywh: Tensor) -> RankingRows | None:
        if not self.config.ce_layers:
            return None
        mask = self.network.template_mask(box_xywh)
        return ranking_rows(mask, 1, self.config.template_grid**2, self.device)

    def _stack(self, of_boxes: Sequence[Any]) -> RankingRows | None:
        return stack_rows(of_boxes) if self.config.ce_layers else None

    def _run(self, template: EncodedTemplate, search: Tensor) -> tuple[HeadMaps, list[Tensor]]:
        output = self.network.backbone(template.tokens, search, template.of_box)
        nothing = search.new_zeros(search.shape[:2], dtype=torch.bool)
        masks = [nothing.scatter(1, step.kept, True) for step in output.eliminations.values()]
        return self.network.head(output), masks


class GRMInference(OneStreamInference):
    """GRM, prepared for tracking; see `OneStreamInference`.

    The threshold is that of the division, see `GRMConfig.threshold_of`.
    """

    network: GRMNetwork

    def __init__(
        self,
        network: GRMNetwork,
        device: torch.device,
        packed: bool | None = None,
        precision: str = "fp32",
        *,
        threshold: float = 0.0,
    ) -> None:
        super().__init__(network, device, packed, precision)
        self.threshold = threshold

    def _read_box(self, box_xywh: Tensor) -> Tensor:
        return template_tokens_in_box(box_xywh, self.config.template_grid)

    def _stack(self, of_boxes: Sequence[Any]) -> Tensor:
        return torch.cat(list(of_boxes))

    def _run(self, template: EncodedTemplate, search: Tensor) -> tuple[HeadMaps, list[Tensor]]:
        tokens, divisions = self.network.backbone(
            template.tokens, search, template.of_box, self.threshold
        )
        maps = self.network.maps(tokens[:, template.tokens.shape[1] :])
        return maps, [division.category[..., 1].bool() for division in divisions]
