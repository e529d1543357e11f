# SPDX-License-Identifier: Apache-2.0
"""Shapes of the OSTrack family, without torch, so that listing models stays cheap.

Paper: Ye et al., ECCV 2022 (https://arxiv.org/abs/2203.11991). The values of the ViT-B members are
those of `experiments/ostrack/*.yaml` in the official code (https://github.com/botaoye/OSTrack,
MIT); `ostrack_tiny` is this package's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

TEMPLATE_RANGES = ("ALL", "CTR_POINT", "CTR_REC", "GT_BOX")


@dataclass(frozen=True)
class OSTrackConfig:
    """One member of the family; the defaults are OSTrack ViT-B/16 at 256 px without elimination.

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
        ce_layers: Blocks (0-based) in which search tokens are eliminated.
        ce_keep_ratio: Fraction of the search tokens that each of those keeps.
        ce_template_range: Which template tokens rank the search tokens; one of TEMPLATE_RANGES.
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
    ce_layers: tuple[int, ...] = ()
    ce_keep_ratio: float = 0.7
    ce_template_range: str = "ALL"
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
        if self.ce_template_range not in TEMPLATE_RANGES:
            raise ValueError(
                f"ce_template_range {self.ce_template_range!r} is unknown; "
                f"expected one of {', '.join(TEMPLATE_RANGES)}"
            )
        if not 0.0 < self.ce_keep_ratio <= 1.0:
            raise ValueError(f"ce_keep_ratio {self.ce_keep_ratio} is outside (0, 1]")
        if any(layer >= self.depth for layer in self.ce_layers):
            raise ValueError(f"ce_layers {self.ce_layers} reach beyond depth {self.depth}")

    @property
    def template_grid(self) -> int:
        """Template tokens along one side."""
        return self.template_size // self.stride

    @property
    def search_grid(self) -> int:
        """Search tokens along one side; also the side of the score map."""
        return self.search_size // self.stride

    def kept_tokens(self, keep_rate: float | None = None) -> list[int]:
        """Search tokens that enter block 0, and those left after each elimination."""
        counts = [self.search_grid**2]
        for _ in self.ce_layers:
            rate = self.ce_keep_ratio if keep_rate is None else keep_rate
            counts.append(math.ceil(rate * counts[-1]))
        return counts


_CE = {"ce_layers": (3, 6, 9), "ce_keep_ratio": 0.7, "ce_template_range": "CTR_POINT"}

OSTRACK_VITB_256 = OSTrackConfig()
OSTRACK_VITB_256_CE = OSTrackConfig(**_CE)  # type: ignore[arg-type]
OSTRACK_VITB_384_CE = OSTrackConfig(
    template_size=192,
    search_size=384,
    search_factor=5.0,
    **_CE,  # type: ignore[arg-type]
)
OSTRACK_TINY = OSTrackConfig(
    template_size=96,
    search_size=192,
    template_factor=2.0,
    search_factor=4.0,
    stride=16,
    embed_dim=192,
    depth=4,
    num_heads=3,
    head_channels=96,
    stem="conv",
    stem_channels=(24, 48, 96),
    mark_target=True,
    hold_below=0.3,
)

OSTRACK_CONFIGS: dict[str, OSTrackConfig] = {
    "ostrack_tiny": OSTRACK_TINY,
    "ostrack_vitb_256": OSTRACK_VITB_256,
    "ostrack_vitb_256_ce": OSTRACK_VITB_256_CE,
    "ostrack_vitb_256_ce_got10k": OSTRACK_VITB_256_CE,
    "ostrack_vitb_256_got10k": OSTRACK_VITB_256,
    "ostrack_vitb_384_ce": OSTRACK_VITB_384_CE,
    "ostrack_vitb_384_ce_got10k": OSTRACK_VITB_384_CE,
}
