# SPDX-License-Identifier: Apache-2.0
"""Draw clips from annotated sequences, for trackers that learn online.

Sampling, jitter and crops follow the training of TrDiMP and TrSiam. Papers: Bhat et al., DiMP,
ICCV 2019 (https://arxiv.org/abs/1904.07220), section 3.3; Wang et al., CVPR 2021
(https://arxiv.org/abs/2103.11681), section 4. Official code:
https://github.com/594422814/TransformerTrack (MIT), `ltr/train_settings/dimp/transformer_dimp.py`
for the values; written anew.

The crops to learn from are one frame and others before it, the crops to search come after it, all
within `MAX_GAP` frames of it; the gap grows where too few of them show the target. Of a picture
without neighbours all crops are made, as of COCO's. Each crop is cut around a jittered box as the
tracker cuts it, mirrored in half of the cases and made lighter or darker.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tracker_ros.evaluation.sequences import AnnotatedSequence
from tracker_ros.models.trdimp.config import TrackingParameters
from tracker_ros.models.trdimp.patches import Border, Placement, box_to_target, choose_window, cut
from tracker_ros.synthetic.photometric import GREY_WEIGHTS
from tracker_ros.synthetic.samples import ClipBatch, ClipConfig
from tracker_ros.training.datasets import BRIGHTNESS

MAX_GAP, GAP_GROWTH = 500, 5
"""Farthest frames from the first of a clip, and by how much more each try allows."""


class SequenceClips:
    """Draw clips from sequences that show their targets; the same seed gives the same clips.

    The crops have side, extent and borders as when tracking. Of the configuration of clips,
    centres lie anywhere within the largest distance; sizes are drawn as there. `grey_fraction` is
    the share of clips without colour.
    """

    def __init__(
        self,
        sequences: Sequence[AnnotatedSequence],
        tracking: TrackingParameters,
        clips: ClipConfig,
        grey_fraction: float,
    ) -> None:
        self.sequences, self.tracking = sequences, tracking
        self.clips, self.grey_fraction = clips, grey_fraction

    def batch(self, size: int, seed: int) -> ClipBatch:
        """Draw ``size`` clips."""
        rng = np.random.default_rng(seed)
        drawn = [self._clip(rng) for _ in range(size)]
        images, boxes, present = (torch.stack(part) for part in zip(*drawn, strict=True))
        return ClipBatch(images, boxes, present, self.clips.train_crops)

    def _clip(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw crops (T, 3, S, S) in [0, 1], boxes (T, 4) in their pixels, and presence (T,)."""
        c = self.clips
        sequence = self.sequences[int(rng.integers(len(self.sequences)))]
        shown = np.where(np.isfinite(sequence.boxes).all(1))[0]
        frames = draw_frames(shown, c.train_crops, c.test_crops, rng)
        grey = rng.random() < self.grey_fraction
        crops = []
        for number, frame in enumerate(frames):
            learned = number < c.train_crops
            reach, spread = (
                (c.train_centre, c.train_scale) if learned else (c.test_centre, c.test_scale)
            )
            crops.append(self._crop(sequence, frame, reach, spread, rng))
        images = torch.stack([image for image, _ in crops])
        if grey:
            weights = images.new_tensor(GREY_WEIGHTS)
            images = torch.einsum("tchw,c->thw", images, weights)[:, None].expand(-1, 3, -1, -1)
        boxes = torch.stack([box for _, box in crops])
        centres = (boxes[:, :2] + boxes[:, 2:] / 2) / self.tracking.image_sample_size
        return images, boxes, ((centres > 0) & (centres < 1)).all(1)

    def _crop(
        self,
        sequence: AnnotatedSequence,
        frame: int,
        reach: float,
        spread: float,
        rng: np.random.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Return a crop (3, S, S) around a jittered box, and the target's box in it (4,)."""
        options, image = self.tracking, sequence.image(frame)
        side = options.image_sample_size
        position, size = box_to_target(sequence.boxes[frame])
        jittered = size * np.exp(rng.normal(0, spread, 2)).astype(np.float32)
        mean_side = math.sqrt(float(jittered.prod()))
        shift = rng.uniform(-reach, reach, 2).astype(np.float32) * np.float32(mean_side)
        window = choose_window(
            position + shift,
            np.full(2, mean_side * options.search_area_scale, dtype=np.float32),
            side,
            image.shape,
            Border(options.border_mode),
            options.patch_max_scale_change,
        )
        crop = torch.from_numpy(cut(image, window, side)[0]) / 255
        box = torch.from_numpy(Placement.of(window, side).box_in_patch(position, size))
        if rng.random() < 0.5:
            crop = crop.flip(2)
            box[0] = side - box[0] - box[2]
        light = float(rng.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS))
        return (crop * light).clamp(0, 1), box


def draw_frames(
    shown: np.ndarray, learned: int, searched: int, rng: np.random.Generator
) -> list[int]:
    """Draw the frames of a clip: those to learn from, the first of them the latest, then others.

    Given the frames that show the target, ascending, at least one, and how many to draw of both
    kinds. Some come more than once where the target is shown too seldom.
    """
    inner = shown[min(learned - 1, len(shown) - 1) : max(len(shown) - searched, 1)]
    first = int(rng.choice(inner if len(inner) else shown))
    before, after = shown[shown < first], shown[shown > first]
    gap = MAX_GAP
    while True:
        earlier = before[before >= first - gap]
        later = after[after <= first + gap]
        wanted = (len(earlier) or not len(before)), (len(later) or not len(after))
        if all(wanted):
            break
        gap += GAP_GROWTH
    earlier = earlier if len(earlier) else np.array([first])
    later = later if len(later) else np.array([first])
    return [
        first,
        *(int(frame) for frame in rng.choice(earlier, learned - 1)),
        *(int(frame) for frame in rng.choice(later, searched)),
    ]
