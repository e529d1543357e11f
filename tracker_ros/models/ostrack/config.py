# SPDX-License-Identifier: Apache-2.0
"""Shapes of the OSTrack family, without torch, so that listing models stays cheap.

Paper: Ye et al., ECCV 2022 (https://arxiv.org/abs/2203.11991). The values of the ViT-B members are
those of `experiments/ostrack/*.yaml` in the official code (https://github.com/botaoye/OSTrack,
MIT); `ostrack_tiny` is this package's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tracker_ros.models.one_stream_config import COMPACT, OneStreamConfig

TEMPLATE_RANGES = ("ALL", "CTR_POINT", "CTR_REC", "GT_BOX")


@dataclass(frozen=True)
class OSTrackConfig(OneStreamConfig):
    """One member of the family; the defaults are OSTrack ViT-B/16 at 256 px without elimination.

    Attributes:
        ce_layers: Blocks (0-based) in which search tokens are eliminated.
        ce_keep_ratio: Fraction of the search tokens that each of those keeps.
        ce_template_range: Which template tokens rank the search tokens; one of TEMPLATE_RANGES.
    """

    ce_layers: tuple[int, ...] = ()
    ce_keep_ratio: float = 0.7
    ce_template_range: str = "ALL"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ce_template_range not in TEMPLATE_RANGES:
            raise ValueError(
                f"ce_template_range {self.ce_template_range!r} is unknown; "
                f"expected one of {', '.join(TEMPLATE_RANGES)}"
            )
        if not 0.0 < self.ce_keep_ratio <= 1.0:
            raise ValueError(f"ce_keep_ratio {self.ce_keep_ratio} is outside (0, 1]")
        if any(layer >= self.depth for layer in self.ce_layers):
            raise ValueError(f"ce_layers {self.ce_layers} reach beyond depth {self.depth}")

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
OSTRACK_TINY = OSTrackConfig(**COMPACT)

OSTRACK_CONFIGS: dict[str, OSTrackConfig] = {
    "ostrack_tiny": OSTRACK_TINY,
    "ostrack_vitb_256": OSTRACK_VITB_256,
    "ostrack_vitb_256_ce": OSTRACK_VITB_256_CE,
    "ostrack_vitb_256_ce_got10k": OSTRACK_VITB_256_CE,
    "ostrack_vitb_256_got10k": OSTRACK_VITB_256,
    "ostrack_vitb_384_ce": OSTRACK_VITB_384_CE,
    "ostrack_vitb_384_ce_got10k": OSTRACK_VITB_384_CE,
}
