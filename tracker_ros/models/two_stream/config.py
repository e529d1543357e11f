# SPDX-License-Identifier: Apache-2.0
"""Shapes of the two-stream tracker, without torch, so that listing models stays cheap."""

from __future__ import annotations

from dataclasses import dataclass, field

from tracker_ros.model_options import Settings
from tracker_ros.models.one_stream.config import CROP_OPTIONS, CropConfig


@dataclass(frozen=True)
class TwoStreamConfig(CropConfig):
    """One member of the family.

    The template's crop shows the target as large as the search crop does, so that a template can
    be read from either.
    """

    template_size: int = 192
    search_size: int = 192
    template_factor: float = 4.0
    hold_below: float = 0.3
    widening: float = field(default=0.1, repr=False)
    widest: float = field(default=1.5, repr=False)
    embed_dim: int = 128  # channels of a token
    key_dim: int = 96  # channels by which cells are compared
    depth: int = 2  # number of blocks
    num_heads: int = 4  # attention heads per block
    mlp_ratio: float = 2.0  # hidden channels of a block's MLP over `embed_dim`
    head_channels: int = 48  # channels of the head's first convolutions
    template_cells: int = 8  # cells along each side of a template
    # what a template shows around the box, over the square root of the box area; half of it on
    # either side
    context: float = 0.5
    # how many templates a search crop is compared with: the first and a later one
    templates: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}"
            )


TWO_STREAM_CONFIGS = {"two_stream_tiny": TwoStreamConfig()}


def settings(name: str) -> Settings:
    """Return what options may change of a model."""
    return Settings(TWO_STREAM_CONFIGS[name], CROP_OPTIONS)
