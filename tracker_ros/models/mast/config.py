# SPDX-License-Identifier: Apache-2.0
"""Parameters of MAST, without torch, so that listing models stays cheap.

Paper: Lai, Lu, Xie, "MAST: A Memory-Augmented Self-Supervised Tracker", CVPR 2020
(https://arxiv.org/abs/2002.07793). The values of `mast_resnet18` are those that the official code
(https://github.com/zlai0/MAST, no licence stated) computes with; `mast_tiny` is this package's.

The memory (section 3.3) keeps a few first frames for good, and every other one of the latest.
Frames count from 0, the one whose mask is given.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracker_ros.model_options import Settings

STRIDE = 4
REFERENCE_MODES = ("all", "first_and_recent", "last")
BEHAVIOURS = ("fixed", "official_torch11", "official_modern")
START_SHAPES = ("ellipse", "rectangle", "grabcut")


@dataclass(frozen=True)
class MASTConfig:
    """Shape of the network; the defaults are the official ResNet-18.

    Attributes:
        widths: Channels of the stem and of the four stages; the stem and the second stage halve
            the resolution.
        blocks: Residual blocks per stage.
        feature_dim: Channels of the features that are matched.
        radius: Cells around a pixel that tracking looks at in every reference frame.
        radius_training: The same for training.
    """

    widths: tuple[int, int, int, int, int] = (64, 64, 128, 256, 256)
    blocks: int = 2
    feature_dim: int = 64
    radius: int = 12
    radius_training: int = 6


_RANGES = {
    "radius": (1, 64),
    "long_term_gap": (1, 10**6),
    "longest_dilation": (1, 64),
    "recent_frames": (1, 100),
    "recent_step": (1, 1000),
}


@dataclass(frozen=True)
class PropagationParameters:
    """How masks are carried from frame to frame.

    Attributes:
        radius: Cells around a pixel that are looked at in every reference frame.
        long_term_gap: A reference more frames back than this is long-term: its window is moved to
            where a wide search places the pixel.
        longest_dilation: Bound of that search's dilation, which grows by one per `long_term_gap`.
        long_term_frames: Frames that stay in memory for good.
        recent_frames: How many of the latest masks are read.
        recent_step: Frames between two of those.
        reference_mode: "all", "first_and_recent" (of the long-term frames only the first) or
            "last" (the last frame alone); officially modes 0, 1 and 2.
        behaviour: "fixed"; "official_torch11" gathers the labels of every long-term reference
            where the last one's were found, as the official code does under the authors' torch
            1.1; "official_modern" is the same code under later versions of torch, which sample up
            to half a cell away.
        aligned: Write a cell back to the pixel that it was read from. False centres it on its
            four pixels, as officially, so that masks drift right and down.
    """

    radius: int = 12
    long_term_gap: int = 15
    longest_dilation: int = 4
    long_term_frames: tuple[int, ...] = (0, 5)
    recent_frames: int = 3
    recent_step: int = 2
    reference_mode: str = "all"
    behaviour: str = "fixed"
    aligned: bool = True

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            if not low <= (value := getattr(self, name)) <= high:
                raise ValueError(f"{name} is {value}; expected an integer from {low} to {high}")
        if any(frame < 0 for frame in self.long_term_frames):
            raise ValueError(f"long_term_frames are {self.long_term_frames}; expected 0 or more")
        check_choice("reference_mode", self.reference_mode, REFERENCE_MODES)
        check_choice("behaviour", self.behaviour, BEHAVIOURS)


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise a ValueError that lists the `known` values unless `value` is one of them."""
    if value not in known:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(known)}")


MAST_RESNET18 = MASTConfig()
MAST_TINY = MASTConfig(widths=(32, 32, 64, 96, 96), feature_dim=48, radius=7)

# Name -> network and shorter side, in pixels, that images are reduced to by default.
MAST_MODELS: dict[str, tuple[MASTConfig, int]] = {
    "mast_resnet18": (MAST_RESNET18, 480),
    "mast_tiny": (MAST_TINY, 240),
}


def _long_term(last: int, parameters: PropagationParameters) -> set[int]:
    if parameters.reference_mode == "last":
        return set()
    frames = {frame for frame in parameters.long_term_frames if frame <= last}
    return {0} if parameters.reference_mode == "first_and_recent" else frames


def _reach(parameters: PropagationParameters) -> int:
    """Return how many frames before the last one the recent frames begin."""
    if parameters.reference_mode == "last":
        return 0
    return (parameters.recent_frames - 1) * parameters.recent_step


def reference_frames(frame: int, parameters: PropagationParameters) -> list[int]:
    """Return the frames that `frame` (1 or later) is predicted from, ascending."""
    last = frame - 1
    recent = range(last, last - _reach(parameters) - 1, -parameters.recent_step)
    return sorted(_long_term(last, parameters) | {f for f in recent if f > 0 or f == last})


def frames_to_keep(frame: int, parameters: PropagationParameters) -> set[int]:
    """Return the frames up to `frame` that a later one may be predicted from: a bounded number."""
    recent = range(max(0, frame - _reach(parameters)), frame + 1)
    return _long_term(frame, parameters) | set(recent)


_OFFICIAL_NAMES = {"memory_patch_r": "radius"}
_ELSEWHERE = {
    "ref": "give reference_mode=all (0), first_and_recent (1) or last (2)",
    "resume": "give weights=FILE",
    "datapath": "give the sequences to `tracker-ros evaluate`",
    "savepath": "give --results or --out",
}


def propagation(name: str) -> PropagationParameters:
    """Return how a model carries masks unless options change it."""
    return PropagationParameters(radius=MAST_MODELS[name][0].radius)


def settings(name: str) -> Settings:
    """Return what options may change of a model."""
    return Settings(propagation(name), None, _OFFICIAL_NAMES, _ELSEWHERE)
