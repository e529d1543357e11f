# SPDX-License-Identifier: Apache-2.0
"""Shape of a one-stream tracker, without torch, so that listing models stays cheap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class OneStreamConfig:
    """What OSTrack and GRM have in common; the defaults are ViT-B/16 at 256 px.

    Attributes:
        template_size: Side of the square template crop, pixels.
        search_size: Side of the square search crop, pixels.
        template_factor: Side of the template crop over the square root of the box area.
        search_factor: The same for the search crop.
        stride: Pixels per token.
        embed_dim: Channels of a token.
        depth: Number of transformer blocks.
        num_heads: Attention heads per block.
        mlp_ratio: Hidden channels of the MLP over `embed_dim`.
        layer_norm_eps: Epsilon of every layer norm.
        head_channels: Channels of the head's first convolution.
        stem: "patch" (one linear projection per patch, official) or "conv" (convolutions).
        stem_channels: Channels of the convolutional stem's stages before `embed_dim`.
        mark_target: Tell the network which part of the template is the target (not official).
        clip_margin: Pixels of the box that are kept inside the image.
        hold_below: Score under which the target counts as not found and the search stays where it
            is; 0 follows the best cell whatever its score, as officially.
    """

    template_size: int = 128
    search_size: int = 256
    template_factor: float = 2.0
    search_factor: float = 4.0
    stride: int = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    layer_norm_eps: float = 1e-6
    head_channels: int = 256
    stem: str = "patch"
    stem_channels: tuple[int, ...] = ()
    mark_target: bool = False
    clip_margin: float = 10.0
    hold_below: float = 0.0

    def __post_init__(self) -> None:
        for name in ("template_size", "search_size"):
            if getattr(self, name) % self.stride:
                raise ValueError(
                    f"{name} {getattr(self, name)} is not a multiple of stride {self.stride}"
                )
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}"
            )
        if self.stem not in ("patch", "conv"):
            raise ValueError(f"stem {self.stem!r} is unknown; expected 'patch' or 'conv'")

    @property
    def template_grid(self) -> int:
        """Template tokens along one side."""
        return self.template_size // self.stride

    @property
    def search_grid(self) -> int:
        """Search tokens along one side; also the side of the score map."""
        return self.search_size // self.stride


COMPACT: dict[str, Any] = {
    "template_size": 96,
    "search_size": 192,
    "embed_dim": 192,
    "depth": 4,
    "num_heads": 3,
    "head_channels": 96,
    "stem": "conv",
    "stem_channels": (24, 48, 96),
    "mark_target": True,
    "hold_below": 0.3,
}
"""What the members that are trained here have in common."""
