# SPDX-License-Identifier: Apache-2.0
"""Shapes of OSTrack and GRM, without torch, so that listing models stays cheap.

Papers: Ye et al., ECCV 2022 (https://arxiv.org/abs/2203.11991); Gao et al., CVPR 2023
(https://arxiv.org/abs/2303.16580). The values of the ViT members are those of
`experiments/ostrack/*.yaml` and `experiments/grm/*.yaml` in the official codes
(https://github.com/botaoye/OSTrack, https://github.com/Little-Podi/GRM; both MIT); `ostrack_tiny`
and `grm_tiny` are this package's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from tracker_ros.model_options import Settings

_LARGEST_CROP = 1024
_NARROWEST = 0.4
_LEAST_SHOWN = 4 / 3  # sides of a square target
Config = TypeVar("Config", bound="CropConfig")


@dataclass(frozen=True)
class CropConfig:
    """What trackers need to know that find a target in a square crop."""

    template_size: int = 128  # side of the square template crop, pixels
    search_size: int = 256  # side of the square search crop, pixels
    template_factor: float = 2.0  # side of the template crop over the square root of the box area
    search_factor: float = 4.0  # the same for the search crop
    stride: int = 16  # pixels per token
    clip_margin: float = 10.0  # pixels of the box that are kept inside the image
    # score under which the target counts as not found and the search stays where it is; 0 follows
    # the best cell whatever its score, as officially
    hold_below: float = 0.0
    # The fields below are no part of what names a graph: most graphs depend on none of them.

    # by how much of itself the search region grows with each frame in a row in which the target
    # was not found; 0 keeps its size, as officially
    widening: float = field(default=0.0, repr=False)
    widest: float = field(default=2.5, repr=False)  # largest growth
    # about which part of the search crop's side is searched while the target is found surely and
    # moves little. 0 always searches all of it, as officially; so does a part that would hardly
    # show more than the target.
    narrow: float = field(default=0.0, repr=False)

    def __post_init__(self) -> None:
        for name in ("template_size", "search_size"):
            if getattr(self, name) % self.stride:
                raise ValueError(
                    f"{name} {getattr(self, name)} is not a multiple of stride {self.stride}"
                )
        for name, (low, high) in {
            "template_size": (self.stride, _LARGEST_CROP),
            "search_size": (2 * self.stride, _LARGEST_CROP),
            "template_factor": (1, 20),
            "search_factor": (1, 20),
            "clip_margin": (0, _LARGEST_CROP),
            "hold_below": (0, 1),
            "widening": (0, 1),
            "widest": (1, 10),
            "narrow": (0, 1),
        }.items():
            if not low <= (value := getattr(self, name)) <= high:
                raise ValueError(f"{name} is {value}; expected a number from {low} to {high}")
        if 0 < self.narrow < _NARROWEST:
            raise ValueError(f"narrow is {self.narrow}; expected 0 or from {_NARROWEST} to 1")

    @property
    def search_grid(self) -> int:
        """Search tokens along one side; also the side of the score map."""
        return self.search_size // self.stride

    @property
    def narrow_grid(self) -> int:
        """Tokens along one side of the narrow search crop; 0 if there is none.

        It is the middle of the search crop: as many tokens less on each side.
        """
        less = round(self.search_grid * (1.0 - self.narrow) / 2.0)
        grid = self.search_grid - 2 * less
        enough = grid > 1 and self.search_factor * grid / self.search_grid >= _LEAST_SHOWN
        return grid if less and enough else 0

    def narrowed(self: Config) -> Config:
        """Return a configuration whose search crop is the narrow one, at the same scale."""
        side = self.narrow_grid * self.stride
        factor = self.search_factor * side / self.search_size
        return replace(self, search_size=side, search_factor=factor, narrow=0.0)

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of the graphs: of templates, of search crops, and of narrow ones if there are."""
        narrow = (f"track_{self.narrow_grid * self.stride}px",) if self.narrow_grid else ()
        return ("template", "track", *narrow)


@dataclass(frozen=True)
class OneStreamConfig(CropConfig):
    """What OSTrack and GRM have in common; the defaults are ViT-B/16 at 256 px."""

    embed_dim: int = 768  # channels of a token
    depth: int = 12  # number of transformer blocks
    num_heads: int = 12  # attention heads per block
    mlp_ratio: float = 4.0  # hidden channels of the MLP over `embed_dim`
    layer_norm_eps: float = 1e-6  # epsilon of every layer norm
    head_channels: int = 256  # channels of the head's first convolution
    # "patch" (one linear projection per patch, official) or "conv" (convolutions)
    stem: str = "patch"
    # channels of the convolutional stem's stages before `embed_dim`
    stem_channels: tuple[int, ...] = ()
    # tell the network which part of the template is the target (not official)
    mark_target: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
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
    "widening": 0.3,
    "narrow": 0.667,
}
"""What the members that are trained here have in common."""


TEMPLATE_RANGES = ("ALL", "CTR_POINT", "CTR_REC", "GT_BOX")


@dataclass(frozen=True)
class OSTrackConfig(OneStreamConfig):
    """One member of the family; the defaults are ViT-B/16 at 256 px without elimination."""

    ce_layers: tuple[int, ...] = ()  # blocks (0-based) in which search tokens are eliminated
    ce_keep_ratio: float = 0.7  # fraction of the search tokens that each of those keeps
    # which template tokens rank the search tokens; one of TEMPLATE_RANGES
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
        if any(not 0 <= layer < self.depth for layer in self.ce_layers):
            raise ValueError(
                f"ce_layers {self.ce_layers} are not all blocks; expected 0 to {self.depth - 1}"
            )

    def kept_tokens(self, keep_rate: float | None = None) -> list[int]:
        """Return the search tokens that enter block 0, and those left after each elimination."""
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


TARGET_TYPES = ("allmax", "allavg", "roimax", "roiavg")
DEFAULT_THRESHOLD = "default"


@dataclass(frozen=True)
class GRMConfig(OneStreamConfig):
    """One member of the family; the defaults are GRM ViT-B/16 at 256 px."""

    # what the division is told of the template: the channels' maximum ("max") or mean ("avg") over
    # all its tokens ("all"), or over all of them with those outside the target's box set to zero
    # ("roi")
    target_type: str = "allmax"
    division_widths: tuple[int, int] = (384, 192)  # hidden channels of the division's two layers
    # division thresholds by the name of what they were chosen for, lower case; see `threshold_of`
    thresholds: Mapping[str, float] = field(default_factory=lambda: {DEFAULT_THRESHOLD: 0.0})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_type not in TARGET_TYPES:
            raise ValueError(
                f"target_type {self.target_type!r} is unknown; "
                f"expected one of {', '.join(TARGET_TYPES)}"
            )

    def threshold_of(self, choice: str | float) -> float:
        """Return the division threshold for a name in `thresholds`, in any case, or for a number.

        At 0 a search token joins the category that is likelier; above 0 it meets the template
        wherever the probability that it does not is below the threshold. Raises ValueError if the
        name is unknown, or the number outside [0, 1].
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

    def settings(self, threshold: float) -> str:
        """Return what decides a graph's numbers besides its weights; see `GraphSpec`."""
        return f"{self!r}, threshold {threshold}"


def _thresholds(lasot: float, nfs: float, uav: float, avist: float) -> dict[str, float]:
    """Return the authors' thresholds by data set; 0 for those not given."""
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

CROP_OPTIONS = (
    "template_factor",
    "search_factor",
    "clip_margin",
    "hold_below",
    "widening",
    "widest",
)
_SIZE_OPTIONS = ("template_size", "search_size", *CROP_OPTIONS, "narrow")
_CE_OPTIONS = ("ce_layers", "ce_keep_ratio", "ce_template_range")
_WEIGHTS_DECIDE = "the weights decide it"
_ELSEWHERE = {
    "debug": "it opens windows in the authors' code; --explain draws what the tracker sees",
    "checkpoint": "give weights=FILE",
    "epoch": "give weights=FILE, the checkpoint of that epoch",
    "save_all_boxes": "all results are returned and written",
    **dict.fromkeys(("stride", "type", "num_channels", "extra_merger"), _WEIGHTS_DECIDE),
    "pretrain_file": "give start_from in a recipe of training",
    "hyper": "give threshold=lasot or the name of another data set",
}
"""What the files `experiments/*/*.yaml` and `lib/test/parameter/` set and no option does."""


def ostrack_settings(name: str) -> Settings:
    """Return what options may change of an OSTrack model."""
    names = (*_SIZE_OPTIONS, *_CE_OPTIONS)
    return Settings(OSTRACK_CONFIGS[name], names, {"ce_loc": "ce_layers"}, _ELSEWHERE)


def grm_settings(name: str) -> Settings:
    """Return what options may change of a GRM model, beside the threshold."""
    names = (*_SIZE_OPTIONS, "target_type")
    return Settings(GRM_CONFIGS[name], names, {"tgt_type": "target_type"}, _ELSEWHERE)


def with_crops_of(config: Config, other: Config) -> Config:
    """Return a configuration with another's crops, which graphs do not depend on."""
    return replace(config, **{name: getattr(other, name) for name in CROP_OPTIONS})
