# SPDX-License-Identifier: Apache-2.0
"""Sizes of the TrDiMP networks, and the parameters that tell TrDiMP, TrSiam and variants apart.

Paper: Wang et al., "Transformer Meets Tracker", CVPR 2021 (https://arxiv.org/abs/2103.11681).
Official code: https://github.com/594422814/TransformerTrack (MIT, built on pytracking);
`ltr/models/tracking/dimpnet.py` and `pytracking/parameter/` for the values; written anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from tracker_ros.model_options import Settings


@dataclass(frozen=True)
class TrDiMPConfig:
    """Sizes of a network.

    Attributes:
        block: Residual block: "bottleneck" (ResNet-50) or "basic" (ResNet-18).
        layers: Blocks per stage; the network reads the second and third stage.
        width: Channels inside the first stage; each later stage doubles them.
        whole_classifier: Whether the weights file holds the fourth stage and the classifier of the
            ImageNet network too, which tracking never runs.
        feature_dim: Channels of the classification features.
        key_dim: Channels of the transformer's keys.
        filter_size: Side of the target filter, cells.
        label_bins: Bins of the learned label, mask and weight maps.
        bin_displacement: Distance between two bins, cells.
        iou_reference_dim: Channels of the IoU branch's first layer on the reference's stride 8.
        iou_dim: Channels of the other layers of the IoU branch.
    """

    block: str = "bottleneck"
    layers: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    whole_classifier: bool = True
    feature_dim: int = 512
    key_dim: int = 128
    filter_size: int = 4
    label_bins: int = 100
    bin_displacement: float = 0.1
    iou_reference_dim: int = 128
    iou_dim: int = 256

    stride = 16
    """Pixels of the crop per cell of the classification features."""

    @property
    def expansion(self) -> int:
        """Channels that leave a residual block over channels inside it."""
        return 4 if self.block == "bottleneck" else 1

    @property
    def layer2_dim(self) -> int:
        """Channels of the second stage's output (stride 8)."""
        return 2 * self.width * self.expansion

    @property
    def layer3_dim(self) -> int:
        """Channels of the third stage's output (stride 16)."""
        return 4 * self.width * self.expansion

    @property
    def norm_scale(self) -> float:
        """Root mean square of normalised features: the filter's scores are then of order 1."""
        return math.sqrt(1.0 / (self.feature_dim * self.filter_size**2))


_MAX_BLUR = 50


@dataclass(frozen=True)
class Augmentation:
    """Patches made of the first image, after the plain one.

    Attributes:
        relative_shift: Shifts `(y, x)` as fractions of half the crop.
        flip: Whether to add a mirrored patch.
        blur: Standard deviations `(y, x)` of Gaussian blurs, pixels.
        rotate: Angles, degrees.
        dropout_copies: Copies of the plain patch's features with channels left out.
        dropout: Probability of a channel to be left out.
    """

    relative_shift: tuple[tuple[float, float], ...] = (
        (0.6, 0.6),
        (-0.6, 0.6),
        (0.6, -0.6),
        (-0.6, -0.6),
    )
    flip: bool = True
    blur: tuple[tuple[float, float], ...] = ((3, 1), (1, 3), (2, 2))
    rotate: tuple[float, ...] = (10, -10, 45, -45)
    dropout_copies: int = 2
    dropout: float = 0.2

    def __post_init__(self) -> None:
        if not (0 <= self.dropout < 1 and self.dropout_copies >= 0):
            raise ValueError(
                f"augmentation_dropout is {self.dropout} in {self.dropout_copies} copies; "
                "expected a probability below 1, and 0 copies or more"
            )
        if any(not 0 < deviation <= _MAX_BLUR for pair in self.blur for deviation in pair):
            raise ValueError(
                f"augmentation_blur is {self.blur}; expected deviations above 0, at most "
                f"{_MAX_BLUR} pixels"
            )

    @property
    def views(self) -> int:
        """Samples that the filter learns from at first: patches, the plain one too, and copies."""
        made = len(self.relative_shift) + self.flip + len(self.blur) + len(self.rotate)
        return 1 + made + self.dropout_copies


_PLAIN = Augmentation(relative_shift=(), flip=False, blur=(), rotate=(), dropout_copies=0)
BORDER_MODES = ("replicate", "inside", "inside_major")
REFINEMENT_SPACES = ("relative", "default")
_LARGEST = 10**6
_RANGES: dict[str, tuple[float, float]] = {
    "image_sample_size": (32, 1024),
    **dict.fromkeys(("patch_max_scale_change", "maximal_aspect_ratio"), (1, _LARGEST)),
    **dict.fromkeys(("search_area_scale", "augmentation_expansion_factor"), (1, 100)),
    **dict.fromkeys(("sample_memory_size",), (2, _LARGEST)),
    **dict.fromkeys(("train_skipping", "iounet_k", "box_refinement_iter"), (1, _LARGEST)),
    **dict.fromkeys(("learning_rate", "hard_negative_learning_rate"), (1e-9, 0.999)),
    **dict.fromkeys(("init_samples_minimum_weight",), (0, 0.999)),
    **dict.fromkeys(("random_shift_factor", "shape_memory", "target_inside_ratio"), (0, 1)),
    **dict.fromkeys(("net_opt_iter", "net_opt_update_iter", "net_opt_hn_iter"), (0, 1000)),
    **dict.fromkeys(("num_init_random_boxes",), (0, 1000)),
    **dict.fromkeys(("box_jitter_pos", "box_jitter_sz"), (0, 10)),
    **dict.fromkeys(("target_neighborhood_scale", "box_refinement_step_decay"), (0, _LARGEST)),
    **dict.fromkeys(("transformer_skipping",), (1e-3, _LARGEST)),
    **dict.fromkeys(("transformer_memory_size",), (-1, _LARGEST)),
}


@dataclass(frozen=True)
class TrackingParameters:
    """Everything that steers the tracker. The defaults are the official `trdimp` file's.

    Sizes are pixels, rates and thresholds plain numbers, intervals frames.

    Attributes:
        image_sample_size: Side of the crops.
        search_area_scale: Side of the search area over the square root of the target's area.
        border_mode: What a search area does that reaches beyond the image; see `patches.Border`.
        patch_max_scale_change: How much a search area may shrink to fit into the image.
        use_augmentation: Whether the filter learns from augmented views of the first image too.
        augmentation: Of the first image.
        augmentation_expansion_factor: Side of the patch that is augmented over that of a crop.
        random_shift_factor: Range of the random shift of flips, blurs and rotations, crop sides.
        sample_memory_size: Samples that the filter learns from.
        learning_rate: Weight of a new sample.
        hard_negative_learning_rate: The same where a look-alike was near.
        init_samples_minimum_weight: Least weight of all first samples together.
        train_skipping: Frames between two updates of the filter.
        update_classifier: Whether filter and memory learn from later images.
        net_opt_iter: Optimiser iterations on the first image; 0 keeps the pooled filter (TrSiam).
        net_opt_update_iter: Iterations per regular update.
        net_opt_hn_iter: Iterations on a frame with a look-alike.
        transformer_skipping: Frames between two additions to the transformer's memory; a value
            under 1 adds none, as officially (nothing is a multiple of 0.1 in floating point).
        transformer_memory_size: Images in the transformer's memory; negative for no limit.
        window_output: Whether the first peak is sought under a Hann window (the second peak and
            the reported score use the plain map).
        advanced_localization: Whether a second peak is looked for and judged by the thresholds
            below; else the highest peak is taken, and the target always found.
        target_not_found_threshold: Score below which the target is not found.
        distractor_threshold: Second peak over first above which it is a distractor.
        hard_negative_threshold: The same for a hard negative.
        target_neighborhood_scale: Target sizes around the first peak that the second is not in.
        displacement_scale: Half widths of the map beyond which a peak counts as far away.
        update_scale_when_uncertain: Whether the search area follows the size of an uncertain box.
        iounet_augmentation: Whether the IoU branch learns the target's look from all views of the
            first image that are not rotated.
        num_init_random_boxes: Random boxes beside the current one that are refined.
        box_jitter_pos: Their jitter, square roots of the target's area.
        box_jitter_sz: The same for their size.
        iounet_k: Best boxes that are averaged.
        maximal_aspect_ratio: Boxes beyond it are dropped.
        shape_memory: How far the refined box's aspect ratio goes back to the first box's, from 0
            (not at all, as officially) to 1 (it never changes).
        box_refinement_space: "relative" or "default".
        box_refinement_iter: Gradient steps.
        box_refinement_step_length: Length of a step; two numbers tell position from size.
        box_refinement_step_decay: Factor on it after each step.
        target_inside_ratio: Target sizes from the border that the centre stays inside the image.
    """

    image_sample_size: int = 352
    search_area_scale: float = 6.0
    border_mode: str = "inside_major"
    patch_max_scale_change: float = 1.5
    use_augmentation: bool = True
    augmentation: Augmentation = field(default_factory=Augmentation)
    augmentation_expansion_factor: float = 2.0
    random_shift_factor: float = 1 / 3
    sample_memory_size: int = 50
    learning_rate: float = 0.01
    hard_negative_learning_rate: float = 0.02
    init_samples_minimum_weight: float = 0.25
    train_skipping: int = 20
    update_classifier: bool = True
    net_opt_iter: int = 10
    net_opt_update_iter: int = 2
    net_opt_hn_iter: int = 1
    transformer_skipping: float = 5
    transformer_memory_size: int = 20
    window_output: bool = False
    advanced_localization: bool = True
    target_not_found_threshold: float = 0.25
    distractor_threshold: float = 0.8
    hard_negative_threshold: float = 0.5
    target_neighborhood_scale: float = 2.2
    displacement_scale: float = 0.8
    update_scale_when_uncertain: bool = True
    iounet_augmentation: bool = False
    num_init_random_boxes: int = 9
    box_jitter_pos: float = 0.1
    box_jitter_sz: float = 0.5
    iounet_k: int = 3
    maximal_aspect_ratio: float = 6.0
    shape_memory: float = 0.0
    box_refinement_space: str = "relative"
    box_refinement_iter: int = 10
    box_refinement_step_length: float | tuple[float, float] = 2.5e-3
    box_refinement_step_decay: float = 1.0
    target_inside_ratio: float = 0.2

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            if not low <= (value := getattr(self, name)) <= high:
                raise ValueError(f"{name} is {value}; expected a number from {low} to {high}")
        for name, known in (
            ("border_mode", BORDER_MODES),
            ("box_refinement_space", REFINEMENT_SPACES),
        ):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(known)}")
        lengths = self.box_refinement_step_length
        if min(lengths if isinstance(lengths, tuple) else (lengths,)) <= 0:
            raise ValueError(f"box_refinement_step_length is {lengths}; expected more than 0")
        if self.image_sample_size % TrDiMPConfig.stride:
            raise ValueError(
                f"image_sample_size is {self.image_sample_size}; expected a multiple of "
                f"{TrDiMPConfig.stride}"
            )
        if self.transformer_memory_size == 0:
            raise ValueError(
                "transformer_memory_size is 0; expected at least 1, or -1 for no limit"
            )
        if self.sample_memory_size <= self.views.views:
            raise ValueError(
                f"sample_memory_size is {self.sample_memory_size}; expected more than "
                f"{self.views.views}, the samples of the first image (or augment less)"
            )

    @property
    def views(self) -> Augmentation:
        """The augmentation in use."""
        return self.augmentation if self.use_augmentation else _PLAIN


BASE = TrackingParameters()
LASOT = replace(BASE, transformer_memory_size=-1, transformer_skipping=0.1)
VOT = replace(
    BASE,
    image_sample_size=224,
    search_area_scale=4.0,
    augmentation=Augmentation(
        relative_shift=((0.6, 0.6), (-0.6, -0.6)),
        blur=((2, 0.2), (1, 3)),
        rotate=(-5, 10, -30, 60),
        dropout_copies=3,
    ),
    sample_memory_size=250,
    learning_rate=0.0075,
    init_samples_minimum_weight=0.0,
    train_skipping=10,
    net_opt_iter=25,
    net_opt_update_iter=3,
    net_opt_hn_iter=3,
    window_output=True,
    target_not_found_threshold=0.0,
    distractor_threshold=100.0,
    hard_negative_threshold=0.45,
    displacement_scale=0.7,
)


def siamese(parameters: TrackingParameters) -> TrackingParameters:
    """Return the parameters of the same tracker with a filter that is never optimised: TrSiam."""
    return replace(parameters, net_opt_iter=0, net_opt_update_iter=0, net_opt_hn_iter=0)


RESNET50 = TrDiMPConfig()
TINY = TrDiMPConfig(
    block="basic",
    layers=(1, 1, 2),
    width=48,
    whole_classifier=False,
    feature_dim=128,
    key_dim=64,
    iou_reference_dim=64,
    iou_dim=96,
)
TINY_TRACKING = replace(
    BASE,
    image_sample_size=192,
    search_area_scale=4.0,
    box_jitter_sz=0.1,
    box_refinement_step_length=0.01,
    shape_memory=0.3,
)
"""Its overlaps tell little of a box's shape: starts are near, the first shape is remembered."""

TINY_WEIGHTS = "trdimp_tiny"
"""Name of the weights file that all compact models share, without ending."""

TRDIMP_MODELS: dict[str, tuple[TrDiMPConfig, TrackingParameters]] = {
    "trdimp_resnet50": (RESNET50, BASE),
    "trdimp_resnet50_lasot": (RESNET50, LASOT),
    "trdimp_resnet50_vot": (RESNET50, VOT),
    "trsiam_resnet50": (RESNET50, siamese(BASE)),
    "trsiam_resnet50_lasot": (RESNET50, siamese(LASOT)),
    "trdimp_tiny": (TINY, TINY_TRACKING),
    "trsiam_tiny": (TINY, siamese(TINY_TRACKING)),
}
"""Network and parameters by model name; all models of one network share its weights file."""

_OFFICIAL_NAMES = {
    "dispalcement_scale": "displacement_scale",
    "augmentation_fliplr": "augmentation_flip",
    "augmentation_relativeshift": "augmentation_relative_shift",
}
_DRAWN = "it opens windows in the authors' code; --explain draws what the tracker sees"
_ELSEWHERE = {
    "debug": _DRAWN,
    "visualization": _DRAWN,
    "use_gpu": "give device=cpu or device=cuda",
    "net": "give weights=FILE",
    "augmentation": "give its parts, augmentation_rotate=10,-10 and so on",
    "vot_anno_conversion_type": "`evaluate` turns polygons into boxes by itself",
    "perform_hn_without_windowing": "it is always so: the second peak is sought without a window",
    "scale_factors": "one scale is searched, as in all of the authors' files",
}
"""What the files `pytracking/parameter/{trdimp,trsiam}` set and no option does."""


def settings(name: str) -> Settings:
    """Return what options may change of a model."""
    return Settings(TRDIMP_MODELS[name][1], None, _OFFICIAL_NAMES, _ELSEWHERE)
