# SPDX-License-Identifier: Apache-2.0
"""Configurations of networks that are quick to make and to run, with all that a family has."""

from __future__ import annotations

from tracker_ros.models.one_stream.config import GRMConfig, OSTrackConfig

SMALL_OSTRACK = OSTrackConfig(
    template_size=32,
    search_size=64,
    stride=8,
    embed_dim=48,
    depth=4,
    num_heads=3,
    ce_layers=(1, 2),
    ce_template_range="CTR_POINT",
    head_channels=16,
)
SMALL_GRM = GRMConfig(
    template_size=32,
    search_size=64,
    stride=8,
    embed_dim=48,
    depth=4,
    num_heads=3,
    head_channels=16,
    division_widths=(24, 12),
)
