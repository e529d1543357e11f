# SPDX-License-Identifier: Apache-2.0
"""Shapes of the GRM family, without torch, so that listing models stays cheap.

Paper: Gao et al., CVPR 2023 (https://arxiv.org/abs/2303.16580). The values of the ViT members are
those of `experiments/grm/*.yaml` in the official code (https://github.com/Little-Podi/GRM, MIT);
`grm_tiny` is this package's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tracker_ros.models.one_stream_config import COMPACT, OneStreamConfig

TARGET_TYPES = ("allmax", "allavg", "roimax", "roiavg")
DEFAULT_THRESHOLD = "default"


@dataclass(frozen=True)
class GRMConfig(OneStreamConfig):
    """One member of the family; the defaults are GRM ViT-B/16 at 256 px.

    Attributes:
        target_type: What the division is told of the template: the channels' maximum ("max") or
            mean ("avg") over all its tokens ("all"), or over all of them with those outside the
            target's box set to zero ("roi").
        division_widths: Hidden channels of the division's two layers.
        thresholds: Division thresholds by the name of what they were chosen for, lower case; see
            `threshold_of`.
    """

    target_type: str = "allmax"
    division_widths: tuple[int, int] = (384, 192)
    thresholds: Mapping[str, float] = field(default_factory=lambda: {DEFAULT_THRESHOLD: 0.0})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_type not in TARGET_TYPES:
            raise ValueError(
                f"target_type {self.target_type!r} is unknown; "
                f"expected one of {', '.join(TARGET_TYPES)}"
            )

    def threshold_of(self, choice: str | float) -> float:
        """The division threshold that a choice stands for.

        Args:
            choice: A name in `thresholds`, in any case, or the threshold itself.

        Returns:
            0: a search token joins the category that is likelier; above 0: it meets the template
            wherever the probability that it does not is below the threshold.

        Raises:
            ValueError: The name is unknown, or the number outside [0, 1].
        """
        try:
            value = float(choice)
        except ValueError:
            name = str(choice).lower()
            if name not in self.thresholds:
                raise ValueError(
                    f"threshold {choice!r} is unknown; expected a number from 0 to 1 or one of "
                    f"{', '.join(self.thresholds)}"
                ) from None
            return self.thresholds[name]
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"threshold {value} is outside [0, 1]")
        return value


def _thresholds(lasot: float, nfs: float, uav: float, avist: float) -> dict[str, float]:
    """The authors' thresholds by data set; 0 for those not given."""
    chosen = {"lasot": lasot, "trackingnet": 0.0, "got10k_test": 0.0}
    return {DEFAULT_THRESHOLD: 0.0, **chosen, "nfs": nfs, "uav": uav, "avist": avist}


GRM_VITB_256 = GRMConfig(thresholds=_thresholds(lasot=0.4, nfs=0.6, uav=0.55, avist=0.4))
GRM_VITL_320 = GRMConfig(
    search_size=320,
    search_factor=5.0,
    embed_dim=1024,
    depth=24,
    num_heads=16,
    thresholds=_thresholds(lasot=0.0, nfs=0.0, uav=0.0, avist=0.0),
)
GRM_TINY = GRMConfig(division_widths=(96, 48), **COMPACT)

GRM_CONFIGS: dict[str, GRMConfig] = {
    "grm_tiny": GRM_TINY,
    "grm_vitb_256": GRM_VITB_256,
    "grm_vitl_320": GRM_VITL_320,
}
