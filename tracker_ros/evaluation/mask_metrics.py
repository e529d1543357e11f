# SPDX-License-Identifier: Apache-2.0
"""How well predicted masks fit annotated ones: region similarity J and contour accuracy F.

Definitions of Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object
Segmentation", CVPR 2016, section 4.1, written anew:

* **J** of a frame is intersection over union of the two masks.
* **F** of a frame compares outlines. A pixel of one outline counts as matched if the other comes
  within 0.8 % of the image's diagonal; F is the harmonic mean of the matched shares of both.

As with boxes, neither the first frame, whose box or mask the tracker is given, nor frames without
a visible target count, and the mean gives each sequence the same weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tracker_ros.boxes import tight_box
from tracker_ros.evaluation.sequences import AnnotatedSequence

CONTOUR_TOLERANCE = 0.008
"""Distance up to which outlines match, as a fraction of the image's diagonal."""


@dataclass(frozen=True)
class MaskScore:
    """What masks reached on one sequence.

    Attributes:
        sequence: Name of the sequence.
        frames: Number of frames that count.
        region: Mean J in [0, 1].
        contour: Mean F in [0, 1].
    """

    sequence: str
    frames: int
    region: float
    contour: float


@dataclass(frozen=True)
class MaskRow:
    """Masks of one origin over several sequences.

    Attributes:
        masks: Whose they are.
        scores: One entry per sequence that has true masks.
    """

    masks: str
    scores: tuple[MaskScore, ...]

    @property
    def region(self) -> float:
        """Mean J over the sequences."""
        return float(np.mean([score.region for score in self.scores]))

    @property
    def contour(self) -> float:
        """Mean F over the sequences."""
        return float(np.mean([score.contour for score in self.scores]))


def region_similarity(found: np.ndarray, truth: np.ndarray) -> float:
    """J of two masks (H, W) bool; 1 where both are empty."""
    either = np.count_nonzero(found | truth)
    return np.count_nonzero(found & truth) / either if either else 1.0


def contour_accuracy(found: np.ndarray, truth: np.ndarray) -> float:
    """F of two masks (H, W) bool; 1 where neither has an outline, 0 where one has none."""
    reach = math.ceil(CONTOUR_TOLERANCE * math.hypot(*truth.shape))
    ours, theirs = outline(found), outline(truth)
    if not ours.any() or not theirs.any():
        return float(ours.any() == theirs.any())
    precision = (distance_to(theirs)[ours] <= reach).mean()
    recall = (distance_to(ours)[theirs] <= reach).mean()
    both = precision + recall
    return float(2 * precision * recall / both) if both else 0.0


def outline(mask: np.ndarray) -> np.ndarray:
    """Pixels (H, W) bool whose right, lower or lower right neighbour is on the other side."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, across = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (mask != right) | (mask != below) | (mask != across)


def distance_to(pixels: np.ndarray) -> np.ndarray:
    """(H, W) float32 distance of every pixel from the nearest of those set, at least one."""
    import cv2

    return cv2.distanceTransform((~pixels).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def filled_box(box: Sequence[float], height: int, width: int) -> np.ndarray:
    """The pixels (height, width) bool whose middles lie in x, y, w, h; none if not finite."""
    x, y, w, h = box
    across, down = np.arange(width) + 0.5, np.arange(height) + 0.5
    return ((down >= y) & (down < y + h))[:, None] & ((across >= x) & (across < x + w))


def filled_boxes(boxes: np.ndarray, sequence: AnnotatedSequence) -> Iterable[np.ndarray]:
    """The boxes (N, 4) of a sequence's frames as masks."""
    return (filled_box(box, *sequence.mask(index).shape) for index, box in enumerate(boxes))


def filled_true_boxes(sequence: AnnotatedSequence) -> Iterable[np.ndarray]:
    """The tight boxes of the true masks as masks: about the best that boxes can reach."""
    for index in range(len(sequence)):
        truth = sequence.mask(index)
        yield filled_box(tight_box(truth), *truth.shape) if truth.any() else truth


def score_masks(sequence: AnnotatedSequence, masks: Iterable[np.ndarray]) -> MaskScore:
    """Score masks (H, W) bool, one per frame; the first, which was given, does not count.

    Raises:
        ValueError: No frame after the first has a target.
    """
    regions, contours = [], []
    for index, found in enumerate(masks):
        truth = sequence.mask(index)
        if index and truth.any():
            regions.append(region_similarity(found, truth))
            contours.append(contour_accuracy(found, truth))
    if not regions:
        raise ValueError(f"no mask of {sequence.name!r} after the first shows the target")
    mean_region, mean_contour = float(np.mean(regions)), float(np.mean(contours))
    return MaskScore(sequence.name, len(regions), mean_region, mean_contour)


def mask_table(rows: Sequence[MaskRow]) -> str:
    """J and F as a Markdown table, means first; the best means are set in bold."""
    names = [score.sequence for score in rows[0].scores]
    lines = [
        "| Masks | J | F | " + " | ".join(f"{name} J / F" for name in names) + " |",
        "| --- | ---: | ---: |" + " ---: |" * len(names),
    ]
    best_region, best_contour = (
        max(getattr(row, k) for row in rows) for k in ("region", "contour")
    )
    for row in rows:
        cells = [_bold(row.region, best_region), _bold(row.contour, best_contour)]
        cells += [f"{score.region:.3f} / {score.contour:.3f}" for score in row.scores]
        lines.append(f"| {row.masks} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _bold(value: float, best: float) -> str:
    return f"**{value:.3f}**" if value == best else f"{value:.3f}"
